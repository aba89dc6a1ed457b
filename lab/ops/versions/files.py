"""The files of a release: registered by hash without being copied, found again, and proven to be what they were."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lab import gguf_header, models
from lab.engines import is_url
from lab.errors import LabError
from lab.metrics import similarity
from lab.ops import store, tracking
from lab.ops.versions import registry
from lab.ops.versions.release import Model, Retrieval, sha256_of
from lab.retrieval import index as indexes

Hash = Callable[[Path], str]
"""How a file is hashed: `models.sha256` remembers what it hashed, `hashed` reads every byte."""
EXPERIMENT = "releases"
_MANIFEST = "manifest.json"


@dataclasses.dataclass(kw_only=True)
class Weights:
    """An embedding model by its weights, not opened: enough to say whether an index belongs to it."""

    name: str
    sha256: str
    folder: Path

    def embed(self, texts: Any) -> Any:
        raise LabError(f"The embedding model {self.name} is not open.")


def hashed(path: Path) -> str:
    """SHA-256 of every byte, read now."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Registering


def register_model(model: str, *, engine: str, copy: bool) -> Model:
    """The registered version of a model: a catalogue name, a path, a URL, or any name with the scripted engine.

    The same bytes are the same version wherever they lie; where they were seen last is noted. With `copy` they are kept
    in the artifact store as well. Raises `LabError` for a file that is no model.
    """
    if engine == "scripted" or is_url(model):
        kind = "scripted" if engine == "scripted" else "served"
        return Model(name=model, version=0, kind=kind, location=model)  # type: ignore[arg-type]
    file = models.find(model)
    path = file.path.resolve()
    header = gguf_header.read(path)
    facts = {**facts_of(header), "licence": file.licence}
    called = _called(file, str(facts["title"]))
    name = f"model.{safe_name(called)}"
    tags = {"lab.sha256": file.sha256, "lab.bytes": str(file.bytes), "lab.facts": json.dumps(facts)}
    version = _registered(name, tags, path, copy, f"GGUF files known as {called}.")
    return Model(name=called, version=version, sha256=file.sha256, bytes=file.bytes, location=str(path), facts=facts)


def _called(file: models.ModelFile, title: str) -> str:
    """A model's name; a rung of the ladder, whose file only says how it was made, gets the title of its model before that."""
    rung = (models.cache_dir() / "ladder").resolve() in file.path.resolve().parents
    return safe_name(f"{title} {file.name}") if rung and title else file.name


def register_index(embedding: str, folder: str, *, passages: int, copy: bool) -> Retrieval:
    """The registered version of an index with its embedding model. Raises `LabError` when the two do not belong together."""
    if passages < 1:
        raise LabError(f"Retrieval puts at least 1 passage before a question, not {passages}.")
    weights = embedding_weights(embedding)
    place = Path(folder).expanduser().resolve()
    opened = indexes.load(place, weights)
    manifest = opened.manifest
    facts = {name: manifest[name] for name in ("documents", "passages", "dimensions", "library", "documents_sha256")}
    digest = _tree_sha256(place, models.sha256)
    name = f"index.{safe_name(place.name)}"
    tags = {"lab.sha256": digest, "lab.index_version": opened.version, "lab.embedding": weights.name,
            "lab.embedding_sha256": weights.sha256, "lab.facts": json.dumps(facts)}
    version = _registered(name, tags, place, copy, f"Retrieval indexes known as {place.name}.")
    return Retrieval(name=place.name, version=version, index_version=opened.version, index_sha256=digest,
                     index_location=str(place), embedding_model=embedding, embedding_sha256=weights.sha256,
                     embedding_files_sha256=_tree_sha256(weights.folder, models.sha256), passages=passages, facts=facts)


def facts_of(header: gguf_header.Header) -> dict[str, Any]:
    """What people compare two model files by, from the header."""
    said = header.metadata.get
    template = str(said("tokenizer.chat_template", ""))
    return {
        "title": str(said("general.name", "")), "architecture": header.architecture, "size": str(said("general.size_label", "")),
        "finetune": str(said("general.finetune", "")), "base_model": str(said("general.base_model.0.name", "")),
        "weights": header.weights, "bits_per_weight": round(header.bits_per_weight, 3),
        "tensor_mix": ", ".join(f"{kind} {share:.0%}" for kind, share in header.mix().items()),
        "context_tokens": header.context_tokens, "vocabulary": _count(said("tokenizer.ggml.tokens")),
        "chat_template": sha256_of(template)[:12] if template else "none"}


# Finding again


def model_path(model: Model, hash_: Hash = models.sha256) -> Path:
    """Where the bytes of a registered model lie today. Raises `LabError` saying what changed or vanished."""
    def places() -> Iterator[Path | None]:
        yield Path(model.location)
        yield _last_seen(f"model.{safe_name(model.name)}", model.version)
        with contextlib.suppress(LabError):
            yield models.find(model.name).path
        yield models.models_dir() / Path(model.location).name

    return _same(f"The model {model.name} ({model.bytes / 1e6:,.1f} MB)", places(), model.sha256,
                 lambda path: hash_(path) if path.is_file() and path.stat().st_size == model.bytes else "",
                 lambda: _copy(f"model.{safe_name(model.name)}", model.version))


def index_folder(found: Retrieval, hash_: Hash = models.sha256) -> Path:
    """Where the files of a registered index lie today. Raises `LabError` saying what changed or vanished."""
    name = f"index.{safe_name(found.name)}"

    def places() -> Iterator[Path | None]:
        yield Path(found.index_location)
        yield _last_seen(name, found.version)

    return _same(f"The index {found.name} (version {found.index_version})", places(), found.index_sha256,
                 lambda path: _tree_sha256(path, hash_) if (path / _MANIFEST).is_file() else "",
                 lambda: _copy(name, found.version))


def embedding_weights(model: str) -> Weights:
    """An embedding model by its files, found without opening it. Raises `LabError` when it is not here."""
    name, _version, folder = similarity.located(model)
    return Weights(name=name, sha256=similarity._weights_sha256(folder), folder=folder)


def embedding_of(found: Retrieval, hash_: Hash = models.sha256) -> Weights:
    """The embedding model of a release. Raises `LabError` when any of its files was changed."""
    weights = embedding_weights(found.embedding_model)
    if _tree_sha256(weights.folder, hash_) != found.embedding_files_sha256:
        raise LabError(f"The embedding model {found.embedding_model} was changed since the release was made; put the files back "
                       f"that hash to {found.embedding_files_sha256[:12]}.")
    return weights


def safe_name(name: str) -> str:
    """`name` as MLflow takes it for a registered model or a prompt."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip(".-")[:200] or "unnamed"


def _same(what: str, places: Iterable[Path | None], sha256: str, digest: Callable[[Path], str],
          fetch: Callable[[], Path | None]) -> Path:
    """The first place whose content hashes to `sha256`, else the copy in the artifact store."""
    tried: list[Path] = []
    for path in places:
        if path is not None and path not in tried:
            tried.append(path)
            if path.exists() and digest(path) == sha256:
                return path
    copy = fetch()
    if copy is not None and digest(copy) == sha256:
        return copy
    if changed := [path for path in tried if path.exists()]:
        raise LabError(f"{what} was changed: {changed[0]} is not what was released (sha256 {sha256[:12]}); put the original "
                       "back, or make a new release of the changed one.")
    raise LabError(f"{what} has vanished from {tried[0]}; put it back there or into {models.models_dir()}, and verify again.")


def _registered(name: str, tags: Mapping[str, str], path: Path, copy: bool, about: str) -> int:
    known = next((e for e in registry.entries(name) if not e.deleted and e.tags.get("lab.sha256") == tags["lab.sha256"]), None)
    more = {"lab.copy": _kept(path)} if copy and not (known and known.tags.get("lab.copy")) else {}
    if known is None:
        return registry.append(name, {**tags, "lab.location": str(path), **more}, about=about,
                               source=f"lab-file:/{tags['lab.sha256']}", says=f"sha256 {tags['lab.sha256']}, seen at {path}")
    for key, value in {"lab.location": str(path), **more}.items():
        if known.tags.get(key) != value:
            registry.tag(name, known.number, key, value)
    return known.number


def _kept(path: Path) -> str:
    """Copy a file or folder into the artifact store; says where: run id and name."""
    with tracking.sentences():
        client = tracking.writer()
        run = tracking.start_parent(client, EXPERIMENT, path.name, **{"lab.kind": "release files"})
        if path.is_dir():
            client.log_artifacts(run, str(path), path.name)
        else:
            client.log_artifact(run, str(path))
        tracking.finish(client, run)
    return f"{run}/{path.name}"


def _copy(name: str, version: int) -> Path | None:
    """The copy of a registered version, fetched into the cache when the store is a server."""
    kept = _tags(name, version).get("lab.copy", "")
    if not kept:
        return None
    run, _, file = kept.partition("/")
    target = models.cache_dir() / "releases" / run
    if (target / file).exists():
        return target / file
    with tracking.sentences():
        client = store.client()
        if store.database() is not None:
            return Path(client.download_artifacts(run, file))
        target.mkdir(parents=True, exist_ok=True)
        return Path(client.download_artifacts(run, file, str(target)))


def _last_seen(name: str, version: int) -> Path | None:
    place = _tags(name, version).get("lab.location")
    return Path(place) if place else None


def _tags(name: str, version: int) -> Mapping[str, str]:
    """Tags of a registered version; none when the store does not answer, for the file may be where it was."""
    try:
        return next((e.tags for e in registry.entries(name) if e.number == version and not e.deleted), {})
    except LabError:
        return {}


def _tree_sha256(folder: Path, hash_: Hash) -> str:
    """The hash of every file of a folder: names and contents."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return sha256_of(json.dumps([[p.relative_to(folder).as_posix(), hash_(p)] for p in files]))


def _count(tokens: Any) -> int:
    return len(tokens) if isinstance(tokens, list) else int(tokens or 0)

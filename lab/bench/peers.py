"""The C tools of llama.cpp, built from the source that the installed llama-cpp-python vendors: our peers in one run.

`lab bench peers` fetches that source distribution by name and builds it with CMake; the benches find the tools in the
cache folder afterwards. Nothing else uses them: the workbench runs without.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from lab.errors import LabError
from lab.models import cache_dir

TOOLS = ("llama-bench", "llama-batched-bench", "llama-perplexity", "llama-speculative", "llama-imatrix")
# The same switches as llama-cpp-python's own build (native instructions, OpenMP), without what these tools do not need.
_CMAKE = ("-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_UI=OFF",
          "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_APP=OFF")


def folder() -> Path:
    """Where the tools of the installed llama-cpp-python version lie, built or not."""
    return cache_dir() / "peers" / importlib.metadata.version("llama-cpp-python")


def find(tool: str) -> Path | None:
    """The built tool, from `LAB_PEERS_DIR` or the cache folder, or None."""
    for place in (os.environ.get("LAB_PEERS_DIR"), folder() / "bin"):
        if place and (Path(place) / tool).is_file():
            return Path(place) / tool
    return None


def build(jobs: int = os.cpu_count() or 1) -> Path:
    """Fetch the vendored source and build the tools (some minutes); returns the folder that holds them."""
    for needed in ("cmake", "c++"):
        if not shutil.which(needed):
            raise LabError(f"Building the C tools needs {needed}, which is not on the PATH; install it and run again.")
    version, target = importlib.metadata.version("llama-cpp-python"), folder()
    target.mkdir(parents=True, exist_ok=True)
    run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python",
         "-d", str(target), f"llama-cpp-python=={version}"])
    archive, = target.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    source = target / f"llama_cpp_python-{version}" / "vendor" / "llama.cpp"
    run(["cmake", "-S", str(source), "-B", str(target / "build"), *_CMAKE])
    run(["cmake", "--build", str(target / "build"), "-j", str(jobs), "--target", *TOOLS])
    if not (target / "bin").exists():
        (target / "bin").symlink_to(target / "build" / "bin")
    archive.unlink()
    return target / "bin"


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. Raises `LabError` with the last line it printed when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        name = " ".join([Path(command[0]).name, *command[1:3]])
        raise LabError(f"'{name} ...' failed ({last[0]}); run it by hand to see the whole output.")
    return done


def printed(command: Sequence[str]) -> str:
    """All that a program prints, on both streams: where a tool writes its figures depends on its version."""
    done = run(command)
    return done.stdout + done.stderr


def main() -> dict[str, str]:
    """Build what is not there yet and say where the tools are."""
    if any(find(tool) is None for tool in TOOLS):
        build()
    found = {tool: str(find(tool)) for tool in TOOLS}
    for tool, path in found.items():
        print(f"{tool:22} {path}")
    return found

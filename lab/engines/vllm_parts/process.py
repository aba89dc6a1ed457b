"""A server as a child process: started under the guard, waited for until it answers, ended with all it started."""

from __future__ import annotations

import collections
import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lab.errors import LabError
from lab.models import cache_dir

GUARD = Path(__file__).with_name("guard.py")
KEPT_LOGS = 20
GRACE_S = 6.0
"""A served vLLM needs one to three seconds to shut down in order, which also removes its shared memory."""
_NOISE = re.compile(r"^\s*$|^\s*(at |File \"|\^|~|\|)|^Traceback|During handling|direct cause|resource_tracker|leaked ")
_SERIOUS = re.compile(r"\b\w*(Error|Exception|Interrupt)\b:|\bERROR\b|error:|not supported|Killed|out of memory", re.I)
_STAMP = re.compile(r"^(\(\w+[^)]*\)\s*)?((ERROR|INFO|WARNING|CRITICAL|DEBUG)\s+)?([\d:\- ]+\s*)?(\[[\w/.]+:\d+\]\s*)?")


class ServerProcess:
    """A running child that serves HTTP on 127.0.0.1. `log` is where it writes; `close` ends it and all it started."""

    def __init__(self, command: Sequence[str], *, port: int, env: Mapping[str, str], name: str,
                 grace_s: float = GRACE_S) -> None:
        self.port, self.name, self.log = port, name, _new_log(name)
        with open(self.log, "wb") as log:
            # A session of its own: Ctrl-C at the terminal must reach the measurement, which then ends the server.
            self._guard = subprocess.Popen([sys.executable, "-IS", str(GUARD), str(grace_s), *command],
                                           stdin=subprocess.PIPE, stdout=log, stderr=log, env=dict(env),
                                           start_new_session=True)
        self.pid = self._guard.pid
        self._end = weakref.finalize(self, _end, self._guard, os.getpid(), grace_s)

    def wait(self, path: str = "/health", *, limit_s: float, say: Callable[[str], None] = lambda line: None) -> None:
        """Return when `path` answers 200. Raises `LabError` in one sentence when the server ends or takes too long."""
        started, told = time.monotonic(), time.monotonic()
        while True:
            code = self._guard.poll()
            if code is not None:
                raise LabError(f"{self.name} ended while it started (code {code}): {last_words(self.log)} "
                               f"(its log: {self.log}).")
            if page(self.port, path) is not None:
                return
            waited = time.monotonic() - started
            if waited > limit_s:
                self.close()
                raise LabError(f"{self.name} did not answer within {limit_s:.0f} s; its last words: "
                               f"{last_words(self.log)} (its log: {self.log}).")
            if time.monotonic() - told > 5:
                told = time.monotonic()
                say(f"{self.name} is starting ({waited:.0f} s): {last_line(self.log)}")
            time.sleep(0.1)

    @property
    def running(self) -> bool:
        return self._guard.poll() is None

    def last_words(self) -> str:
        return last_words(self.log)

    def close(self) -> None:
        """End the server and every process it started; closing twice is harmless."""
        self._end()


def _end(guard: subprocess.Popen[bytes], owner: int, grace_s: float) -> None:
    if os.getpid() != owner or not guard.stdin:  # a forked copy of the owner must not end the owner's server
        return
    with contextlib.suppress(OSError):
        guard.stdin.close()
    try:
        guard.wait(grace_s + 10)
    except subprocess.TimeoutExpired:
        pass
    finally:  # also when interrupted while waiting, or when somebody killed the guard: nobody else may be left
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(guard.pid, signal.SIGKILL)
        guard.wait(5)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def page(port: int, path: str) -> str | None:
    """What a GET of `path` is answered with now; None unless it is with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.read().decode("utf-8", "replace") if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def last_line(log: Path) -> str:
    """The last line of a log that says something, without stamps."""
    lines = [line for line in _tail(log) if not _NOISE.search(line)]
    return _plain(lines[-1]) if lines else "nothing yet"


def last_words(log: Path) -> str:
    """Why a server died, as far as its log says: the first error of the deepest traceback, else its last line."""
    serious = [_plain(line) for line in _tail(log) if _SERIOUS.search(line)]
    telling = [line for line in serious if line and not line.startswith(("RuntimeError: Engine core init", "See root cause"))]
    causes = [line for line in telling if re.match(r"[\w.]*(Error|Exception)\b:", line)]
    checked = [line for line in map(_plain, _tail(log)) if line.startswith("Value error, ")]
    if checked:  # pydantic's refusal of an argument
        return checked[0].removeprefix("Value error, ").partition(" [type=")[0][:400].rstrip(". ")
    return (causes or telling or [last_line(log)])[0][:400].rstrip(". ")


def _plain(line: str) -> str:
    return _STAMP.sub("", re.sub(r"\x1b\[[0-9;]*m", "", line), count=1).strip()


def _tail(log: Path, lines: int = 400) -> list[str]:
    try:
        with open(log, errors="replace") as file:
            return list(collections.deque(file, maxlen=lines))
    except OSError:
        return []


def _new_log(name: str) -> Path:
    folder = cache_dir() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    word = re.sub(r"\W+", "-", name.lower())
    for old in sorted(folder.glob(f"{word}-*.log"), key=lambda file: file.stat().st_mtime)[:-KEPT_LOGS]:
        old.unlink(missing_ok=True)
    return folder / f"{word}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{time.monotonic_ns() % 10**6}.log"

"""One attempt at a point, in a process of its own: what kills it does not kill the sweep, and memory is as after a start."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import lab

REFUSED, FAILED, INTERRUPTED, OTHER_CODE = 3, 2, 130, 4
"""How the process ends: it refused the point before it measured a trial, it failed with a sentence, it was interrupted, or its
code is not that of the sweep."""
_PATIENCE_S = 30.0
_SLICE_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attempt: the fields of the experiment as texts, and what its run is to carry."""

    experiment: str
    values: Mapping[str, str]
    number: int
    attempt: int
    about: str
    tags: Mapping[str, str]
    code: str
    limit_s: float = 0.0
    environment: Mapping[str, str] | None = None
    """Variables that say where the store is, for a machine that has none of its own."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How an attempt ended: `why` is empty where it finished; `final` says that it would come to the same again."""

    number: int
    attempt: int
    why: str = ""
    final: bool = False


class Attempt:
    """A started attempt. `wait` gives how it ended; `interrupt` stops it as Ctrl-C does, so that its run is marked."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ours, theirs = socket.socketpair()
        self._said = tempfile.TemporaryFile()
        environment = {**os.environ, **(job.environment or {})}
        root = str(Path(lab.__file__).parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [environment.get("PYTHONPATH")])])
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lab.sweep.child", str(theirs.fileno())], stdin=subprocess.PIPE, stdout=self._said,
                stderr=self._said, pass_fds=(theirs.fileno(),), start_new_session=True, env=environment)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(json.dumps(asdict(job)).encode())

    def wait(self) -> Ended:
        """Blocks until it has ended; one that takes longer than its limit is killed."""
        limit, begun = self._job.limit_s, time.monotonic()
        # Its end of the socket closes with it. In slices: a wait without an end would hold back a cancellation by Ray.
        while not select.select([self._ours], [], [], _SLICE_S)[0] and self._process.poll() is None:
            if limit and time.monotonic() - begun > limit:
                self.kill()
                return self._ended(f"It took longer than {limit:g} s (limit_s) and was stopped.")
        code = self._process.wait()
        self._ours.close()
        if code == 0:
            return self._ended("")
        if code == INTERRUPTED:
            return self._ended("It was interrupted from outside the sweep.")
        return self._ended(self._sentence(code), final=code in (REFUSED, OTHER_CODE))

    def interrupt(self) -> None:
        """Have it write what it measured and mark its run; killed if it does not within half a minute."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it and what it started in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._ours.close()

    def _ended(self, why: str, *, final: bool = False) -> Ended:
        return Ended(number=self._job.number, attempt=self._job.attempt, why=why, final=final)

    def _sentence(self, code: int) -> str:
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read()[-8000:].decode(errors="replace").splitlines() if line.strip()]
        if code == -signal.SIGKILL:
            return "Its process was killed (signal 9), as the system does when memory runs out."
        if code < 0:
            return f"Its process died of {signal.Signals(-code).name} (signal {-code})."
        last = lines[-1].removeprefix("lab: ") if lines else ""
        return last[:1000] or f"Its process ended with code {code} and no word."



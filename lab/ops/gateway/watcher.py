"""Keeps a process running that watches the rollout, for as long as one is on and nobody else watches it.

It is a process of its own, because reading the log and reckoning on it must not make any answer wait.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from lab.ops import store
from lab.ops.rollouts import Live, journal, watched_already

LOOK_S = 0.5
AFTER_S = 5.0
"""A watcher that ended is started again no sooner."""
FOLLOW_S = 2.0
"""How often a shared server is asked whether a rollout was begun or ended from another machine."""


class Watcher:
    """A thread beside the gateway's processes; `say` hears what the watching process says."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._live, self._stop = say, Live(), threading.Event()
        self._child: tuple[subprocess.Popen[str], socket.socket] | None = None
        self._next = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True, name="rollout watcher")

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        if self._child is not None:
            process, tied = self._child
            tied.close()  # it ends by that
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            if process.poll() is None:
                process.kill()
                process.wait(5)

    def _run(self) -> None:
        followed = time.monotonic()
        while not self._stop.wait(LOOK_S):
            if store.database() is None and time.monotonic() - followed > FOLLOW_S:
                with contextlib.suppress(Exception):  # a server that is down is told by /health
                    journal.follow()
                followed = time.monotonic()
            self._look()

    def _look(self) -> None:
        if self._child is not None:
            process, tied = self._child
            if process.poll() is None:
                return
            tied.close()
            self._child, self._next = None, time.monotonic() + AFTER_S
        found = self._live.get()
        if found is not None and not found.decision and time.monotonic() >= self._next and not watched_already():
            self._child = self._started()

    def _started(self) -> tuple[subprocess.Popen[str], socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "lab.ops.gateway.watching", json.dumps({"tie": theirs.fileno()})], text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True, pass_fds=[theirs.fileno()])
        threading.Thread(target=self._hear, args=(process,), daemon=True).start()
        return process, ours

    def _hear(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._say(line.rstrip())

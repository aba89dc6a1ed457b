"""`lab serve` as a child of this process, for as long as this process lives and wants it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from typing import IO

from lab.engines.http.served import ServeSettings
from lab.errors import LabError

START_S = 300.0
"""Loading a large model from a slow disk takes minutes; a child that fails says so at once."""


class Child:
    """A running `lab serve`; `port` on 127.0.0.1 is ready when it is made. Raises `LabError` with the child's reason.

    Parent and child hold the two ends of a socket. However this process ends, its end closes, and the child with it.
    """

    def __init__(self, model: str, settings: ServeSettings, *, key_env: str = "", start_s: float = START_S) -> None:
        ours, theirs = socket.socketpair()
        errors: IO[bytes] = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "lab", "serve", model, *settings.arguments(), "--port", "0",
                   "--tie", str(theirs.fileno()), *(["--key-env", key_env] if key_env else [])]
        try:
            with theirs:
                # A session of its own: Ctrl-C at the terminal belongs to the measurement, which then ends the server.
                process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                                           stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True)
            self._end = weakref.finalize(self, _end, process, ours, os.getpid())
            self.pid, self._errors = process.pid, errors
            self.port = self._wait(process, ours, start_s)
        except BaseException:
            ours.close()
            if hasattr(self, "_end"):
                self._end()
            raise

    def _wait(self, process: subprocess.Popen[bytes], ours: socket.socket, start_s: float) -> int:
        ours.settimeout(start_s)
        try:
            said = ours.recv(4096)
        except TimeoutError:
            raise LabError(f"lab serve did not start within {start_s:g} s; try a smaller model.") from None
        if not said:
            process.wait(10)
            raise LabError(self.last_words() or f"lab serve ended while it started (code {process.returncode}).")
        return int(json.loads(said)["port"])

    def last_words(self) -> str:
        """The last line the child wrote to its standard error."""
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1].removeprefix("lab: ") if lines else ""

    def close(self) -> None:
        """End the child; closing twice is harmless."""
        self._end()


def _end(process: subprocess.Popen[bytes], ours: socket.socket, owner: int) -> None:
    if os.getpid() != owner:  # a forked copy of the owner must not end the owner's server
        return
    ours.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        pass
    finally:  # also when interrupted while waiting
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)

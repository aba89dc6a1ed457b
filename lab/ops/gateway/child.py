"""`lab gateway` as a child process on a free port, ended with whoever began it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from types import TracebackType

from lab.errors import LabError


class Child:
    """A gateway started as at a prompt, on the store in force; `port` and `pid` are those of its supervisor.

    Raises `LabError` when it does not start; its reason stands on standard error.
    """

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, "-m", "lab", "gateway", "--port", "0", "--traces-per-s", "0", *flags]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self._process.stdout is not None
        said = re.search(r":(\d+)/v1", self._process.stdout.readline())
        if said is None:
            self._process.wait(10)
            raise LabError("The gateway did not start; its reason stands above.")
        self.port, self.pid = int(said[1]), self._process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

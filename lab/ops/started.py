"""Runs that were started from the dashboard: each a `lab run` in a process of its own, which a page can follow and stop.

The page may be closed, and the dashboard too: the process goes on, and the record lies beside the store. One runs at a time,
because two timed runs side by side falsify both.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from lab import experiments
from lab.errors import LabError
from lab.ops import history, store

KEPT = 20
"""So many records are kept, the newest."""
_TAIL_BYTES = 8_000


@dataclass(frozen=True, kw_only=True)
class Started:
    """One run that was started; `at_s` and `born_s` (when the system says the process began) are seconds since 1970."""

    id: str
    experiment: str
    command: tuple[str, ...]
    """What to type in a terminal for the same."""
    trials: int
    pid: int
    born_s: float
    at_s: float

    @property
    def alive(self) -> bool:
        """Whether its process still works. A number that the system gave to another process since is not taken for it."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(self.pid, os.WNOHANG)
                return False
            return abs(process.create_time() - self.born_s) < 1
        except (psutil.Error, ChildProcessError):
            return False

    def output(self) -> str:
        """The end of what it printed."""
        try:
            with open(folder() / f"{self.id}.log", "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def run(self) -> pd.Series[Any] | None:
        """Its row in the store, once it has begun to measure."""
        runs = history.frame("experiment", experiment=self.experiment, limit=50)
        if runs.empty or "tags.lab.pid" not in runs:
            return None
        mine = runs[(runs["tags.lab.pid"] == str(self.pid))
                    & (runs["started_at"] >= pd.Timestamp(self.at_s - 5, unit="s", tz="UTC"))]
        return None if mine.empty else mine.iloc[0]


def folder() -> Path:
    """Where the records are: `mlruns/started`."""
    return store.home() / "mlruns" / "started"


def command(experiment: str, values: Mapping[str, str]) -> tuple[str, ...]:
    """The words of `lab run` for an experiment and the texts of its fields."""
    return ("run", experiment, *(part for name, text in values.items() for part in (f"--{name.replace('_', '-')}", text)))


def start(experiment: str, values: Mapping[str, str]) -> Started:
    """Start `experiment` with these fields (texts, as a command line gives them); the others keep their defaults.

    Raises `LabError` before anything is started: for a wrong value, a missing model, or while another such run is working.
    """
    config = experiments.make(experiments.find(experiment), values)
    config.check()
    place = folder()
    place.mkdir(parents=True, exist_ok=True)
    with store.locked(place / "lock"):
        if busy := next((one for one in recent() if one.alive), None):
            raise LabError(f"A run of {busy.experiment} is still working; two timed runs side by side falsify both. Wait for it, "
                           "or stop it first.")
        words, now = command(experiment, values), time.time()
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{experiment}"
        with open(place / f"{name}.log", "ab") as log:
            child = subprocess.Popen([sys.executable, "-m", "lab", *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                     start_new_session=True, env={**os.environ, "LAB_HOME": str(store.home())})
        made = Started(id=name, experiment=experiment, command=("lab", *words), trials=config.size(), pid=child.pid,
                       born_s=psutil.Process(child.pid).create_time(), at_s=now)
        partial = place / f"{name}.partial"
        partial.write_text(json.dumps(asdict(made)))
        partial.replace(place / f"{name}.json")
        for old in sorted(place.glob("*.json"))[:-KEPT]:
            old.with_suffix(".log").unlink(missing_ok=True)
            old.unlink(missing_ok=True)
    return made


def stop(one: Started) -> None:
    """Interrupt it as Ctrl-C does: what was measured so far is kept, and the run is marked."""
    if one.alive:
        os.kill(one.pid, signal.SIGINT)


def recent() -> list[Started]:
    """Those that were started, newest first; a record that cannot be read is passed over."""
    found = []
    for file in sorted(folder().glob("*.json"), reverse=True):
        try:
            given = json.loads(file.read_text())
            found.append(Started(**{**given, "command": tuple(given["command"])}))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return found

"""Where the MLflow store is: SQLite and artifacts inside `mlruns/`, or wherever `MLFLOW_TRACKING_URI` points."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from lab.errors import LabError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow would try an unreachable server for several minutes before it says so.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def home() -> Path:
    """The folder that holds `mlruns/`: `LAB_HOME`, else the nearest folder upwards that has one, else this one."""
    if own := os.environ.get("LAB_HOME"):
        return Path(own).expanduser().resolve()
    here = Path.cwd().resolve()
    return next((p for p in (here, *here.parents) if (p / "mlruns").is_dir()), here)


def uri() -> str:
    """The tracking URI in force."""
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        return given
    path = str(home() / "mlruns" / "mlflow.db")
    # SQLAlchemy decodes %20 and the like, and takes what follows a `?` for settings.
    return "sqlite:///" + re.sub("%(?=[0-9A-Fa-f]{2})", "%25", path).replace("?", "%3F")


def shown() -> str:
    """The tracking URI as it may stand on a screen, in a file or in an error: without user and password."""
    return without_secrets(uri())


def without_secrets(text: str) -> str:
    """`text` without the user and password of the addresses in it."""
    return re.sub(r"(?<=://)[^/\s@]+@", "", text)


def database() -> Path | None:
    """The SQLite file behind `uri()`, or None when the store is a server."""
    address = uri()
    prefix = "sqlite:///"
    return Path(unquote(address.removeprefix(prefix).split("?")[0])) if address.startswith(prefix) else None


def artifacts_uri() -> str | None:
    """Where artifacts of a local store go; a server decides for itself (None)."""
    file = database()
    return None if file is None else (file.parent / "artifacts").resolve().as_uri()


def connect() -> sqlite3.Connection | None:
    """A read-only connection to a local store that exists, else None. Raises `LabError` if the file is no database."""
    file = database()
    if file is None or not file.is_file():
        return None
    connection = None
    try:
        connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
        if not connection.execute("select 1 from sqlite_master where name = 'runs'").fetchone():
            connection.close()
            return None
    except sqlite3.DatabaseError as error:
        if connection is not None:
            connection.close()
        raise LabError(f"{file} cannot be read as an MLflow store ({error}); move it away or restore it.") from error
    return connection


def client() -> MlflowClient:
    """An MLflow client on the store in force; what the user set in the environment stays as it is."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    import mlflow

    found = mlflow.MlflowClient(uri())
    if (file := database()) is not None and file not in _MADE:
        _make(found, file)
    return found


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """One process of this machine at a time; elsewhere than on Unix they are not kept apart. Raises `OSError` if unwritable."""
    with open(file, "a") as lock:
        with contextlib.suppress(ImportError):
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def alone(file: Path) -> Iterator[bool]:
    """Whether no other process of this machine holds the lock `file`; if so it is held until the end. Raises `OSError`."""
    import fcntl

    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


@contextlib.contextmanager
def elsewhere(folder: str | Path) -> Iterator[None]:
    """A store in `folder` is the one in force, so that no run, release or request made meanwhile is among the user's."""
    names = ("LAB_HOME", "MLFLOW_TRACKING_URI")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ["LAB_HOME"] = str(folder)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


_MADE: set[Path] = set()
"""The local stores that this process knows to be whole."""


def _make(found: MlflowClient, file: Path) -> None:
    """Let MLflow make or migrate the tables of a local store, one process at a time: two at once leave it unusable."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file.with_name(f"{file.name}.lock")), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the migration, about tables that hold nothing yet
        found.search_experiments(max_results=1)
    _MADE.add(file)


def fingerprint() -> str:
    """A cheap token that changes when a local store changes (database and its write-ahead log); for caches."""
    file = database()
    if file is None:
        return uri()
    parts = []
    for path in (file, file.with_name(file.name + "-wal")):
        if path.is_file():
            stat = path.stat()
            parts.append(f"{stat.st_mtime_ns}-{stat.st_size}")
    return "|".join([str(file), *parts])

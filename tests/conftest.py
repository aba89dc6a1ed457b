"""Shared by all tests: a store and a cache of their own, so that no test touches the user's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _quiet_environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    # A shell starts background jobs with SIGINT ignored, and the tests of Ctrl-C would then wait for nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ["LAB_HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty, migrated store. A new database costs seconds of migrations: make one, copy it."""
    from lab.ops import tracking

    home, before = tmp_path_factory.mktemp("migrated"), os.environ["LAB_HOME"]
    os.environ["LAB_HOME"] = str(home)
    try:
        tracking.writer().search_experiments()
    finally:
        os.environ["LAB_HOME"] = before
    return home


def kept_in(folder: Path) -> bytes:
    """All bytes in the files of a folder, read by another process: to open and close a database's file in one that has it open
    drops SQLite's locks on it, and two connections then destroy it (sqlite.org/howtocorrupt.html, 2.2)."""
    files = [str(path) for path in folder.rglob("*") if path.is_file()]
    return subprocess.run(["cat", *files], capture_output=True, check=True).stdout if files else b""


def copied(migrated: Path, home: Path) -> Path:
    """A store of its own at `home`: the database with its write-ahead log, if it has one."""
    (home / "mlruns").mkdir(parents=True)
    for file in (migrated / "mlruns").glob("mlflow.db*"):
        shutil.copy(file, home / "mlruns")
    return home


@pytest.fixture
def fresh_store(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store in force for one test; the folder that `LAB_HOME` names."""
    home = copied(migrated, tmp_path / "a home")
    monkeypatch.setenv("LAB_HOME", str(home))
    return home


@pytest.fixture(scope="module")
def module_store(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store for the tests of one module to share; not in force by itself."""
    return copied(migrated, tmp_path_factory.mktemp("module") / "home")

"""The hot part of the log: a SQLite file in WAL mode, written by every gateway process under one lock.

SQLite's own wait for a lock sleeps in steps of many milliseconds; a kernel lock around each transaction wakes the next writer
at once. A commit is safe from `kill -9` when it returns, and with `sync` from a power failure too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.errors import LabError
from lab.ops.requests.record import COLUMNS, SQL

FILE = "requests.db"
_PLACES = ", ".join("?" * len(COLUMNS))
_INSERT = f"INSERT INTO requests ({', '.join(COLUMNS)}) VALUES ({_PLACES})"


class Hot:
    """One connection of one thread. Raises `LabError` where the file cannot be opened as a request log."""

    def __init__(self, folder: Path, *, sync: bool = False) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "requests.lock", os.O_RDWR | os.O_CREAT, 0o600)
            self.file = folder / FILE
            self.connection = sqlite3.connect(self.file, isolation_level=None, timeout=30, check_same_thread=False)
            with self._locked():
                self._prepare(sync)
        except (OSError, sqlite3.Error) as error:
            raise LabError(f"The request log {folder / FILE} cannot be opened ({error}); mend the folder or move the file "
                           "away.") from error

    def _prepare(self, sync: bool) -> None:
        run = self.connection.execute
        run("PRAGMA journal_mode=WAL")
        run(f"PRAGMA synchronous={'FULL' if sync else 'NORMAL'}")
        # A checkpoint waits for the disk, so it is made beside the requests and not by the commit that happens to be due.
        run("PRAGMA wal_autocheckpoint=0")
        run(f"CREATE TABLE IF NOT EXISTS requests (id INTEGER PRIMARY KEY AUTOINCREMENT, {SQL})")
        run("CREATE TABLE IF NOT EXISTS texts (id INTEGER PRIMARY KEY AUTOINCREMENT, time_s REAL, request_id TEXT, prompt TEXT, "
            "answer TEXT)")
        run("CREATE TABLE IF NOT EXISTS alive (at_s REAL)")
        self.file.chmod(0o600)

    def append(self, rows: Sequence[tuple[object, ...]], texts: Sequence[tuple[object, ...]] = ()) -> None:
        """Write `rows` (and texts) as one transaction."""
        with self.transaction() as connection:
            connection.executemany(_INSERT, rows)
            if texts:
                connection.executemany("INSERT INTO texts (time_s, request_id, prompt, answer) VALUES (?, ?, ?, ?)", texts)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with self._locked():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        self.connection.close()
        os.close(self._lock)

"""Keeps the log small: old rows become Parquet segments, and what retention has outlived is deleted.

A segment is named after the ids of its rows and appears whole (a rename) before they leave SQLite. A reader takes SQLite first
and the segments then, and of a row that is in both the segment's; so no row is missed or seen twice, whenever a process dies.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import LabError
from lab.ops import store
from lab.ops.requests import scores
from lab.ops.requests.hot import Hot
from lab.ops.requests.record import COLUMNS, KINDS

if TYPE_CHECKING:
    import pandas as pd

SEGMENTS = "segments"
PERIOD_S = 1.0
_SLICE = 2000
"""Rows deleted in one transaction: requests that wait for their commit meanwhile wait for few milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Keep:
    """How much of the log is kept, and how long."""

    days: float = 30.0
    most_bytes: int = 2_000_000_000
    """Of all segments; the oldest go first."""
    hot_rows: int = 20_000
    """Rows in SQLite from which on they are made a segment."""
    texts_days: float = 7.0
    most_texts: int = 50_000

    def __post_init__(self) -> None:
        if not (self.days > 0 and self.texts_days > 0 and self.most_bytes > 0 and self.hot_rows >= 1 and self.most_texts >= 0):
            raise LabError("The request log is kept for more than 0 days, bytes and rows; give larger numbers.")


class Keeper:
    """A thread that seals and deletes; of several processes one works at a time."""

    def __init__(self, place: Path, keep: Keep, *, clock: Callable[[], float], period_s: float = PERIOD_S) -> None:
        self._place, self._keep, self._clock = place, keep, clock
        self._stop = threading.Event()
        self.trouble = ""
        self._thread = threading.Thread(target=self._run, args=(period_s,), name="request log keeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self, period_s: float) -> None:
        hot: Hot | None = None
        while not self._stop.wait(period_s):
            try:
                hot = hot or Hot(self._place)
                kept_up(hot, self._place, self._keep, self._clock())
                self.trouble = ""
            except (LabError, OSError, sqlite3.Error) as error:  # a full disk may have room again later
                self.trouble = str(error)
        if hot is not None:
            hot.close()


def kept_up(hot: Hot, place: Path, keep: Keep, now_s: float) -> None:
    """One round: checkpoint, seal what is much, delete what is old. Raises `OSError`, `sqlite3.Error`."""
    with store.alone(place / "keeper.lock") as mine:
        if not mine:
            return
        hot.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        count, most = hot.connection.execute("SELECT count(*), max(id) FROM requests").fetchone()
        if count >= keep.hot_rows:
            _sealed(hot, place, most)
        _deleted(hot, place, most)
        _outlived(hot, place, keep, now_s)


def segments(place: Path) -> list[tuple[int, int, Path]]:
    """First id, last id and file of every segment, in order."""
    found = []
    for file in (place / SEGMENTS).glob("*.parquet"):
        with contextlib.suppress(ValueError):
            first, last = file.stem.split("-")
            found.append((int(first), int(last), file))
    return sorted(found)


def _sealed(hot: Hot, place: Path, last: int) -> None:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    after = max((end for _, end, _ in segments(place)), default=0)
    cursor = hot.connection.execute(
        f"SELECT id, {', '.join(COLUMNS)} FROM requests WHERE id > ? AND id <= ? ORDER BY id", (after, last))
    rows = []
    while part := cursor.fetchmany(500):  # other threads get the interpreter between two parts
        rows += part
    if not rows:
        return
    frame = typed(pd.DataFrame(rows, columns=["id", *COLUMNS]))
    (place / SEGMENTS).mkdir(exist_ok=True)
    file = place / SEGMENTS / f"{rows[0][0]:012d}-{rows[-1][0]:012d}.parquet"
    partial = file.with_suffix(".partial")
    try:
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), partial, compression="zstd")
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns in the types they have in every segment, whatever values happen to be in this one."""
    return frame.astype({name: KINDS[name] for name in frame if name in KINDS})


def _deleted(hot: Hot, place: Path, most: int | None) -> None:
    """Take the rows that are in a segment out of SQLite."""
    last = max((end for _, end, _ in segments(place)), default=0)
    while most and hot.connection.execute("SELECT 1 FROM requests WHERE id <= ? LIMIT 1", (last,)).fetchone():
        with hot.transaction() as connection:
            connection.execute("DELETE FROM requests WHERE id IN (SELECT id FROM requests WHERE id <= ? ORDER BY id LIMIT ?)",
                               (last, _SLICE))
        time.sleep(0.002)


def _outlived(hot: Hot, place: Path, keep: Keep, now_s: float) -> None:
    import pyarrow.parquet as pq

    found = segments(place)
    sizes = [file.stat().st_size for _, _, file in found]
    for i, (_, _, file) in enumerate(found):
        if sum(sizes[i:]) <= keep.most_bytes:
            column = pq.ParquetFile(file).schema_arrow.get_field_index("time_s")
            groups = pq.ParquetFile(file).metadata
            newest = max(groups.row_group(g).column(column).statistics.max for g in range(groups.num_row_groups))
            if newest >= now_s - keep.days * 86_400:
                break
        file.unlink()
    old, old_text = now_s - keep.days * 86_400, now_s - keep.texts_days * 86_400
    if hot.connection.execute("SELECT 1 FROM requests WHERE time_s < ? LIMIT 1", (old,)).fetchone():
        with hot.transaction() as connection:
            connection.execute("DELETE FROM requests WHERE time_s < ?", (old,))
    scores.forget(place, old)
    texts = hot.connection.execute("SELECT count(*), min(time_s), max(id) FROM texts").fetchone()
    if texts[0] and (texts[0] > keep.most_texts or texts[1] < old_text):
        with hot.transaction() as connection:
            connection.execute("DELETE FROM texts WHERE time_s < ? OR id <= ?", (old_text, texts[2] - keep.most_texts))

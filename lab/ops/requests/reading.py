"""Reads the log as a frame: the segments by columns, what is still in SQLite behind them."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import LabError
from lab.ops.requests import sealing
from lab.ops.requests.hot import FILE
from lab.ops.requests.record import COLUMNS
from lab.ops.requests.writer import folder
from lab.ops.requests_schema import COLUMNS as SCHEMA

if TYPE_CHECKING:
    import pandas as pd


def frame(
    since_s: float = -math.inf, *, until_s: float = math.inf, columns: Sequence[str] = tuple(SCHEMA), place: Path | None = None,
    after: int = 0,
) -> pd.DataFrame:
    """Rows with since_s <= time_s < until_s, in the order in which they ended. A million rows take a second or less.

    Ask for the `columns` you need: each is read by itself. With `after` only rows with a larger id (column `id`), which no
    clock can set back. Raises `LabError` for a column there is none of, or a broken log.
    """
    if unknown := [name for name in columns if name not in (*COLUMNS, "id")]:
        raise LabError(f"The request log has no column '{unknown[0]}'; it has {', '.join(COLUMNS)}.")
    place = folder() if place is None else place
    wanted = list(dict.fromkeys(["id", "time_s", *columns]))
    try:
        # SQLite first: a row that is sealed meanwhile is then found twice, which can be told, and never not at all.
        hot = hot_rows(place, wanted, since_s, after)
        cold, last = _cold(place, wanted, since_s, until_s, after)
    except (sqlite3.Error, OSError, ValueError) as error:
        raise LabError(f"The request log in {place} cannot be read ({error}); move the broken file away.") from error
    import pandas as pd

    rest = sealing.typed(pd.DataFrame([r for r in hot if r[0] > last], columns=wanted))
    whole = rest if cold is None else cold if rest.empty else pd.concat([cold, rest], ignore_index=True)
    inside = (whole["time_s"] >= since_s) & (whole["time_s"] < until_s)
    return (whole if inside.all() else whole[inside])[list(columns)].reset_index(drop=True)


def texts(place: Path | None = None) -> pd.DataFrame:
    """The texts that were kept: request_id, prompt and answer as the guards left them. None unless a gateway keeps texts."""
    import pandas as pd

    place = folder() if place is None else place
    rows = _rows(place, "SELECT time_s, request_id, prompt, answer FROM texts ORDER BY id", ())
    return pd.DataFrame(rows, columns=["time_s", "request_id", "prompt", "answer"])


def position(place: Path | None = None) -> int:
    """The id of the last row that was written: what comes later has a larger one, whatever any clock says."""
    place = folder() if place is None else place
    found = _rows(place, "SELECT seq FROM sqlite_sequence WHERE name = 'requests'", ())
    return int(found[0][0]) if found else 0


def hot_rows(place: Path, wanted: Sequence[str], since_s: float, after: int = 0) -> list[tuple[Any, ...]]:
    """These columns of the rows from `since_s` on that are still in SQLite, in the order in which they ended."""
    return _rows(place, f"SELECT {', '.join(wanted)} FROM requests WHERE time_s >= ? AND id > ? ORDER BY id",
                 (max(since_s, -1e300), after))


def _rows(place: Path, query: str, given: tuple[object, ...]) -> list[tuple[Any, ...]]:
    if not (place / FILE).is_file():
        return []
    connection = sqlite3.connect(f"{(place / FILE).resolve().as_uri()}?mode=ro", uri=True, timeout=30)
    try:
        return connection.execute(query, given).fetchall()
    finally:
        connection.close()


def _cold(
    place: Path, wanted: Sequence[str], since_s: float, until_s: float, after: int
) -> tuple[pd.DataFrame | None, int]:
    """The rows of the segments, and the last id that any of them has."""
    found = sealing.segments(place)
    if not found:
        return None, 0
    if found[-1][1] <= after:
        return None, found[-1][1]
    import pyarrow.dataset as ds

    inside = (ds.field("time_s") >= max(since_s, -1e300)) & (ds.field("time_s") < min(until_s, 1e300))
    if after:
        inside &= ds.field("id") > after
    files = [str(file) for _, last, file in found if last > after and file.is_file()]
    table = ds.dataset(files, format="parquet").to_table(columns=list(wanted), filter=inside)
    return sealing.typed(table.to_pandas()), found[-1][1]

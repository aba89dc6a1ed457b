"""Reads the log again and again for a live view: segments never change, so each is decoded once and kept in memory.

Words are categories here and not texts, and the rows are in the order of their times, so that a window is a slice.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lab.errors import LabError
from lab.ops.requests import scores, sealing
from lab.ops.requests.reading import hot_rows
from lab.ops.requests.record import GUARD
from lab.ops.requests.writer import folder
from lab.ops.requests_schema import COLUMNS as SCHEMA
from lab.ops.requests_schema import NUMBERS

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

COLUMNS = (*SCHEMA, GUARD)
WORDS = tuple(name for name in COLUMNS if name not in NUMBERS and name != "request_id")
MOST_ROWS = 3_000_000
"""Rows that are read at most, the latest (some 150 bytes each in memory); `CUT` in the frame's attributes says so."""
CUT = "cut"


class Columns:
    """The log in `place`, the one of the store in force unless a folder is given. Threads may share it."""

    def __init__(self, place: Path | None = None) -> None:
        self._place, self._lock = place, threading.Lock()
        self._parts: dict[Path, tuple[float, float, pa.Table | None]] = {}
        self._whole: tuple[tuple[Path, ...], pd.DataFrame] | None = None
        self._cut = False

    def frame(self, since_s: float = -math.inf) -> pd.DataFrame:
        """Rows from `since_s` on, as `requests_schema.checked` gives them, words as categories; do not change it.

        Scores that came later are columns `score_NAME`. Raises `LabError` for a broken log.
        """
        import pandas as pd

        place = self._place or folder()
        try:
            with self._lock:
                # SQLite first: a row that is sealed meanwhile is then found twice, which can be told, and never not at all.
                hot = hot_rows(place, ["id", *COLUMNS], since_s)
                cold, last = self._cold(place, since_s)
        except (sqlite3.Error, OSError, ValueError) as error:
            raise LabError(f"The request log in {place} cannot be read ({error}); move the broken file away.") from error
        rows = pd.DataFrame([row[1:] for row in hot if row[0] > last], columns=list(COLUMNS))
        rest = sealing.typed(rows).astype({"status": float, **dict.fromkeys(WORDS, "category")})
        whole = _joined(cold, rest)
        whole.attrs[CUT] = self._cut
        begin = int(np.searchsorted(whole["time_s"].to_numpy(), since_s, side="left"))
        return scores.joined(whole.iloc[begin:].reset_index(drop=True) if begin else whole, place, since_s)

    def _cold(self, place: Path, since_s: float) -> tuple[pd.DataFrame | None, int]:
        """The rows of the segments that reach beyond `since_s`, and the last id that any segment has."""
        found = [one for one in sealing.segments(place) if one[2].is_file()]
        for gone in set(self._parts) - {file for _, _, file in found}:
            del self._parts[gone]
        inside, rows = [], 0
        for first, last, file in reversed(found):
            if self._span(file)[1] >= since_s:
                rows += last - first + 1
                inside.append(file)
        self._cut = rows > MOST_ROWS
        while rows > MOST_ROWS and len(inside) > 1:
            first, last = (int(part) for part in inside.pop().stem.split("-"))
            rows -= last - first + 1
        if not inside:
            self._whole = None
            return None, found[-1][1] if found else 0
        if self._whole is None or self._whole[0] != tuple(inside):
            self._whole = (tuple(inside), self._decoded(inside[::-1]))
        return self._whole[1], found[-1][1]

    def _span(self, file: Path) -> tuple[float, float]:
        """First and last time in a segment, from its footer."""
        import pyarrow.parquet as pq

        if file not in self._parts:
            data = pq.ParquetFile(file)
            at = data.schema_arrow.get_field_index("time_s")
            spans = [data.metadata.row_group(g).column(at).statistics for g in range(data.metadata.num_row_groups)]
            self._parts[file] = (min(s.min for s in spans), max(s.max for s in spans), None)
        return self._parts[file][:2]

    def _decoded(self, files: Sequence[Path]) -> pd.DataFrame:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if new := [file for file in files if self._parts[file][2] is None]:
            for file in new:
                table = pq.read_table(file, columns=list(COLUMNS), read_dictionary=list(WORDS))
                self._parts[file] = (*self._parts[file][:2], table)
        tables: list[Any] = [self._parts[file][2] for file in files]
        rows = pa.concat_tables(tables).unify_dictionaries().to_pandas().astype({"status": float})
        for file in set(self._parts) - set(files):
            self._parts[file] = (*self._parts[file][:2], None)
        return _sorted(rows)


def _joined(cold: pd.DataFrame | None, rest: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd
    from pandas.api.types import union_categoricals

    if cold is None or rest.empty:
        return _sorted(rest) if cold is None else cold
    def behind(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({name: union_categoricals([first[name], second[name]]) if name in WORDS else
                             pd.concat([first[name], second[name]], ignore_index=True) for name in COLUMNS})

    # Rows lie in the order in which they ended: only those about the seam have to change places.
    seam = int(np.searchsorted(cold["time_s"].to_numpy(), float(rest["time_s"].min()), side="left"))
    return behind(cold.iloc[:seam], _sorted(behind(cold.iloc[seam:], rest)))


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    if rows["time_s"].is_monotonic_increasing:
        return rows
    return rows.sort_values("time_s", kind="stable", ignore_index=True)

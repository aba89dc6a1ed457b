"""Scores that come after a request was answered: appended beside the log, and columns `score_NAME` of its frames.

A row of the log is never changed. A score is a row of its own with the request's id; the latest one of a name counts.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab.errors import LabError
from lab.ops.requests_schema import SCORE

if TYPE_CHECKING:
    import pandas as pd

FILE = "scores.db"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A score from 0 to 1 that one request was given, by what, and when; NaN where it could not be scored, with why."""

    request_id: str
    time_s: float
    """When the request arrived."""
    name: str
    value: float
    by: str
    scored_s: float
    why: str = ""


def add(found: Sequence[Scored], place: Path) -> None:
    """Append scores, all or none. Raises `LabError` when the file cannot be written or a name is no plain word."""
    if bad := [one.name for one in found if not one.name.isidentifier()]:
        raise LabError(f"A score cannot be called '{bad[0]}'; take letters, digits and underscores.")
    try:
        place.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(place / FILE, timeout=30)
        try:
            with connection:
                connection.execute("CREATE TABLE IF NOT EXISTS scores (id INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT, "
                                   "time_s REAL, name TEXT, value REAL, scored_by TEXT, scored_s REAL, why TEXT)")
                connection.executemany(
                    "INSERT INTO scores (request_id, time_s, name, value, scored_by, scored_s, why) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [(s.request_id, s.time_s, s.name, None if math.isnan(s.value) else s.value, s.by, s.scored_s, s.why)
                     for s in found])
        finally:
            connection.close()
        (place / FILE).chmod(0o600)
    except (OSError, sqlite3.Error) as error:
        raise LabError(f"The scores cannot be written beside the request log ({error}); mend the folder {place}.") from error


def read(place: Path, since_s: float = -math.inf) -> list[Scored]:
    """Scores of requests that came from `since_s` on, in the order in which they were given."""
    if not (place / FILE).is_file():
        return []
    connection = sqlite3.connect(f"{(place / FILE).resolve().as_uri()}?mode=ro", uri=True, timeout=30)
    try:
        rows = connection.execute("SELECT request_id, time_s, name, value, scored_by, scored_s, why FROM scores "
                                  "WHERE time_s >= ? ORDER BY id", (max(since_s, -1e300),)).fetchall()
    except sqlite3.Error as error:
        raise LabError(f"The scores in {place / FILE} cannot be read ({error}); move the broken file away.") from error
    finally:
        connection.close()
    return [Scored(request_id=a, time_s=b, name=c, value=math.nan if d is None else d, by=e, scored_s=f, why=g)
            for a, b, c, d, e, f, g in rows]


def joined(rows: pd.DataFrame, place: Path, since_s: float) -> pd.DataFrame:
    """`rows`, in the order of their times, with a column for every name of a score; NaN for requests without one."""
    found = read(place, since_s)
    if not found or rows.empty:
        return rows
    whole = rows.copy(deep=False)
    times = whole["time_s"].to_numpy()
    given = {(one.name, one.request_id): one for one in found}
    columns = {name: np.full(len(whole), math.nan) for name, _ in given}
    ids = whole["request_id"]
    for (name, request_id), one in given.items():
        low, high = np.searchsorted(times, [one.time_s - 1e-3, one.time_s + 1e-3])
        for at in range(int(low), int(high)):  # requests of one moment
            if ids.iat[at] == request_id:
                columns[name][at] = one.value
    for name, values in columns.items():
        whole[f"{SCORE}{name}"] = values
    return whole

"""What is written down of every request that came: the columns of the request log, and nothing else.

The gateway writes a `LogRecord` for each request, whether it was answered or not; monitoring, alerts and costs read frames of
these columns. Texts are not among them. Scores that come later are columns `score_NAME`, 0 to 1 and NaN where there is none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from lab.errors import LabError

SCORE = "score_"
"""What the name of a column of scores begins with."""
SHADOW = "shadow"
"""The arm of a candidate's answer that no user saw: it is no request of the service, and counts in no rate of it."""
OVERLOADED = frozenset({"queue_full"})
"""Kinds of errors that are the service's failure though their status is one of the caller's (4xx)."""


@dataclass(frozen=True, kw_only=True)
class LogRecord:
    """One request. Numbers that were not observed are NaN, texts that are not known are ""."""

    time_s: float
    """When it arrived, seconds since 1970 (UTC) by the wall clock. Durations below are of a monotonic clock."""
    request_id: str
    release: str
    """The release that answered it (name and version)."""
    key_hash: str = ""
    """Which API key, as a salted hash; the key itself is nowhere."""
    user_hash: str = ""
    """Which user of that key, as a salted hash; what sticky arms are decided by."""
    model: str = ""
    """As the price book calls it."""
    status: int = 200
    """The HTTP status that was sent, 499 when the client went away."""
    error_kind: str = ""
    """A word to count failures by (timeout, engine, overloaded ...); "" for every request that went well."""
    ttft_s: float = math.nan
    """Seconds from arrival to the first content token."""
    tpot_s: float = math.nan
    """Seconds per output token after the first."""
    e2e_s: float = math.nan
    """Seconds from arrival to the last content token."""
    prompt_tokens: float = math.nan
    cached_tokens: float = math.nan
    """Those of the prompt that were read from a cache."""
    output_tokens: float = math.nan
    cost_usd: float = math.nan
    """By the price book; NaN when the book does not know the model."""
    finish_reason: str = ""
    """stop, length, cancelled or error."""
    refused: float = math.nan
    """1 when the answer was a refusal or was blocked, else 0; NaN when nobody looked."""
    language: str = ""
    """Of the answer, as a two-letter code."""
    topic: str = ""
    """Of the question, by whatever sorts them."""
    arm: str = ""
    """A or B during a comparison, shadow for a candidate's answer that no user saw, else ""."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Scores known already, by name without the prefix."""

    def row(self) -> dict[str, object]:
        """The record as a row of the frame."""
        plain: dict[str, object] = {name: getattr(self, name) for name in COLUMNS}
        return {**plain, **{f"{SCORE}{name}": value for name, value in self.scores.items()}}


COLUMNS: dict[str, type] = {
    f.name: {"float": float, "int": int, "str": str}[str(f.type)] for f in dataclasses.fields(LogRecord) if f.name != "scores"}
"""The columns in their order, with the type of each."""
NUMBERS = tuple(name for name, kind in COLUMNS.items() if kind is not str)
TEXTS = tuple(name for name, kind in COLUMNS.items() if kind is str)
NEEDED = ("time_s", "request_id", "release")


def frame(records: Iterable[LogRecord]) -> pd.DataFrame:
    """The records as a frame with every column, in the order of their times."""
    return checked(pd.DataFrame([record.row() for record in records]))


def checked(found: pd.DataFrame) -> pd.DataFrame:
    """`found` with every column of its type, sorted by time; what is missing is not known. Rows without a time are left out.

    Texts may be categories. A frame that is so already is given back as it is: a million rows are not copied to look at them.
    Raises `LabError` when one of time_s, request_id and release is missing, or a number is none.
    """
    if _is_checked(found):
        return found
    if missing := [name for name in NEEDED if name not in found and len(found)]:
        raise LabError(f"The request log has no column '{missing[0]}'; it needs {', '.join(NEEDED)}.")
    scores = tuple(str(name) for name in found if str(name).startswith(SCORE))
    made = {name: _texts(found, name) if name in TEXTS else _numbers(found, name) for name in (*COLUMNS, *scores)}
    whole = pd.DataFrame(made, index=found.index)
    return whole[whole["time_s"].notna()].sort_values("time_s", kind="stable").reset_index(drop=True)


def between(found: pd.DataFrame, after_s: float, until_s: float) -> pd.DataFrame:
    """Rows of a checked frame with after_s < time_s <= until_s: a slice of it, not a copy."""
    begin, end = np.searchsorted(found["time_s"].to_numpy(), [after_s, until_s], side="right")
    return found.iloc[int(begin):int(max(begin, end))]


def failed(found: pd.DataFrame) -> pd.Series:
    """Which requests of a checked frame the service failed: a status from 500 on, a stream that broke off, or an overload.

    What it refused for the caller's own doing (4xx) and what the caller cancelled (499) is no failure of the service, nor is
    what happened to the copy of a request that no user saw.
    """
    broke = (found["error_kind"] != "") & (found["status"] < 400)
    bad = broke | (found["status"] >= 500) | (found["finish_reason"] == "error") | found["error_kind"].isin(OVERLOADED)
    return bad & (found["arm"] != SHADOW)


def served(found: pd.DataFrame) -> pd.Series:
    """Which requests count: those that were answered, and those that the service failed."""
    return failed(found) | ((found["error_kind"] == "") & (found["status"] < 400) & (found["arm"] != SHADOW))


def _is_checked(found: pd.DataFrame) -> bool:
    words = (pd.CategoricalDtype, pd.StringDtype)
    return (set(COLUMNS) <= set(found) and isinstance(found.index, pd.RangeIndex) and found.index.start == 0
            and found.index.step == 1 and all(isinstance(found[name].dtype, words) for name in TEXTS)
            and all(found[str(name)].dtype == float for name in found if name in NUMBERS or str(name).startswith(SCORE))
            and bool(found["time_s"].is_monotonic_increasing) and not found["time_s"].isna().any()
            and not any(found[name].hasnans for name in TEXTS))


def _numbers(found: pd.DataFrame, name: str) -> pd.Series:
    if name not in found:
        return pd.Series(200.0 if name == "status" else math.nan, index=found.index, dtype=float)
    try:
        return pd.to_numeric(found[name]).astype(float)
    except (TypeError, ValueError) as error:
        raise LabError(f"Column '{name}' of the request log holds something that is no number ({error}).") from error


def _texts(found: pd.DataFrame, name: str) -> pd.Series:
    if name in found and isinstance(found[name].dtype, pd.CategoricalDtype) and not found[name].hasnans:
        return found[name]
    return found[name].fillna("").astype(str) if name in found else pd.Series("", index=found.index, dtype=str)

"""Traffic that nobody sent, with faults at known times: what alerts and detectors are tried on, because the truth is known.

Arrivals are evenly spaced, durations log-normal, topics and refusals independent. Real traffic has days, nights and users who
come back; what is found here is the best case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from lab.errors import LabError
from lab.ops.requests import sealing
from lab.ops.requests.hot import Hot
from lab.ops.requests.record import COLUMNS as KEPT
from lab.ops.requests.record import GUARD
from lab.ops.requests_schema import checked

TOPICS = {"billing": 0.4, "travel": 0.3, "cooking": 0.2, "code": 0.1}
LANGUAGES = {"en": 0.8, "de": 0.2}
_SEGMENT = 20_000


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that goes wrong from `ago_s` seconds before the end of the traffic, for `lasts_s` seconds.

    `size`: errors, the share that fails; slow, times as long; topics, the share that asks about code now; quality, the share of
    answers that turn wrong.
    """

    kind: Literal["errors", "slow", "topics", "quality"]
    ago_s: float
    lasts_s: float = math.inf
    size: float
    release: str = "release 2"
    """What answers from then on."""


def traffic(
    *, until_s: float, hours: float = 4.0, per_minute: float = 60.0, seed: int = 0, faults: Sequence[Fault] = (),
    right: float = 0.9, release: str = "release 1",
) -> pd.DataFrame:
    """A checked frame of the request log that ends at `until_s`; `right` is the mean of the score called quality."""
    n = round(hours * 60 * per_minute)
    if n < 1:
        raise LabError(f"{hours:g} hours of {per_minute:g} requests a minute are no request; give more.")
    rng = np.random.default_rng(seed)
    times = until_s - hours * 3600 + (np.arange(n) + 1) * hours * 3600 / n
    output = rng.integers(20, 80, n).astype(float)
    ttft, tpot = rng.lognormal(-1.5, 0.4, n), rng.lognormal(-4, 0.2, n)
    prompt = rng.integers(20, 400, n).astype(float)
    cached = np.floor(prompt * rng.choice([0.0, 0.5], n))
    rows = pd.DataFrame({
        "time_s": times, "request_id": [f"simulated-{seed}-{i}" for i in range(n)], "release": release,
        "user_hash": np.char.add("u", rng.integers(0, 500, n).astype(str)), "model": "smollm2-135m", "status": 200.0,
        "error_kind": "", "ttft_s": ttft, "tpot_s": tpot, "e2e_s": ttft + tpot * (output - 1), "prompt_tokens": prompt,
        "cached_tokens": cached, "output_tokens": output, "finish_reason": "stop",
        "refused": (rng.random(n) < 0.03).astype(float), "language": rng.choice([*LANGUAGES], n, p=[*LANGUAGES.values()]),
        "topic": rng.choice([*TOPICS], n, p=[*TOPICS.values()]),
        "score_quality": (rng.random(n) < right).astype(float), "key_hash": "", "arm": ""})
    for fault in faults:
        _spoilt(rows, fault, until_s, rng)
    rows["cost_usd"] = rows["e2e_s"] * 0.10 / 3600
    return checked(rows)


def written(rows: pd.DataFrame, place: Path) -> None:
    """Write a frame as a request log into an empty folder, as a gateway would have left it (scores are not among its columns)."""
    if sealing.segments(place) or (place / "requests.db").exists():
        raise LabError(f"There is a request log in {place} already; simulated rows are never mixed with real ones.")
    import pyarrow as pa
    import pyarrow.parquet as pq

    Hot(place).close()
    (place / sealing.SEGMENTS).mkdir()
    whole = rows.assign(**{GUARD: "", "id": np.arange(1, len(rows) + 1)})[["id", *KEPT]].astype({"status": int})
    for first in range(0, len(whole), _SEGMENT):
        part = whole.iloc[first:first + _SEGMENT]
        pq.write_table(pa.Table.from_pandas(part, preserve_index=False), compression="zstd",
                       where=place / sealing.SEGMENTS / f"{first + 1:012d}-{first + len(part):012d}.parquet")
    hot = Hot(place)
    with hot.transaction() as connection:  # a gateway that goes on writing must not use these numbers again
        connection.execute("INSERT INTO requests (id, time_s, request_id) VALUES (?, 0, '')", (len(rows),))
        connection.execute("DELETE FROM requests")
    hot.close()


def _spoilt(rows: pd.DataFrame, fault: Fault, until_s: float, rng: np.random.Generator) -> None:
    begin = until_s - fault.ago_s
    late = (rows["time_s"] > begin).to_numpy()
    during = late & (rows["time_s"] <= begin + fault.lasts_s).to_numpy()
    drawn = during & (rng.random(len(rows)) < fault.size)
    rows.loc[late, "release"] = fault.release
    if fault.kind == "errors":
        rows.loc[drawn, ["ttft_s", "tpot_s", "e2e_s", "output_tokens", "refused", "score_quality"]] = math.nan
        rows.loc[drawn, "status"] = 502.0
        rows.loc[drawn, ["error_kind", "finish_reason"]] = ["engine", "error"]
    elif fault.kind == "slow":
        rows.loc[during, ["ttft_s", "tpot_s", "e2e_s"]] *= fault.size
    elif fault.kind == "topics":
        rows.loc[drawn, "topic"] = "code"
    else:
        rows.loc[drawn, "score_quality"] = 0.0

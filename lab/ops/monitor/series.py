"""The same over time: a row per bucket of a window, with the buckets marked in which latency or failures stand out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from lab import stats
from lab.ops.monitor.summary import LATENCIES, QUANTILES, UNNAMED
from lab.ops.requests_schema import between, failed, served

MOST_BUCKETS = 120
TIMES = 2.0
"""A bucket is a spike when its p95 is beyond this many times the usual one, for certain."""
SURE = 0.999
FEWEST = 20
"""Requests of a bucket below which nothing is marked."""


def series(log: pd.DataFrame, *, since_s: float, until_s: float, buckets: int = 60) -> pd.DataFrame:
    """One row per bucket: `time_s` of its beginning, counts, shares, percentiles, tokens, cost, and what stands out in it.

    A `_spike` of a duration is a bucket of which, with 99.9% certainty (Wilson), more than 5% lie beyond twice the median p95 of
    the buckets; `errors` one whose share of failures is twice that of all others for certain. Empty buckets have counts of 0.
    """
    count = max(1, min(MOST_BUCKETS, buckets))
    rows = between(log, since_s, until_s)
    edges = since_s + (until_s - since_s) * np.arange(count + 1) / count
    times = rows["time_s"].to_numpy()
    ends = np.searchsorted(times, edges, side="right")
    broke, counts = (one.to_numpy(dtype=bool) for one in (failed(rows), served(rows)))
    fine = counts & ~broke
    where = np.repeat(np.arange(count), np.diff(ends))
    found: dict[str, np.ndarray] = {"time_s": edges[:-1], "requests": np.diff(ends)}
    for name, flags in (("failed", broke), ("counted", counts)):
        found[name] = np.bincount(where, weights=flags, minlength=count)
    for name in ("prompt_tokens", "cached_tokens", "output_tokens", "cost_usd"):
        values = rows[name].to_numpy()
        known = np.bincount(where, weights=~np.isnan(values), minlength=count)
        found[name] = np.where(known > 0, np.bincount(where, weights=np.nan_to_num(values), minlength=count), math.nan)
    found["failed_share"] = np.divide(found["failed"], found["counted"], out=np.full(count, math.nan), where=found["counted"] > 0)
    for name in LATENCIES:
        values = np.where(fine, rows[name].to_numpy(), math.nan)
        parts = [part[~np.isnan(part)] for part in np.split(values, ends[1:-1])]
        table = np.array([np.percentile(part, QUANTILES) if part.size else [math.nan] * 3 for part in parts])
        for q, column in zip(QUANTILES, table.T, strict=True):
            found[f"{name}_p{q}"] = column
        found[f"{name}_spike"] = _slow(parts, found[f"{name}_p95"])
    found["errors"] = _erring(found["failed"], found["counted"])
    return pd.DataFrame(found)


def errors(log: pd.DataFrame, *, since_s: float, until_s: float, buckets: int = 60, most: int = 6) -> pd.DataFrame:
    """Failures of the service per bucket (rows, by the time of their beginning) and kind (columns), the `most` frequent kinds."""
    count = max(1, min(MOST_BUCKETS, buckets))
    rows = between(log, since_s, until_s)
    bad = rows[failed(rows).to_numpy(dtype=bool)]
    edges = since_s + (until_s - since_s) * np.arange(count + 1) / count
    kinds = bad["error_kind"].astype(object).replace("", UNNAMED)
    named = [str(name) for name in kinds.value_counts().index[:most]]
    said = kinds.where(kinds.isin(named), "other kinds")
    where = np.searchsorted(edges, bad["time_s"].to_numpy(), side="left") - 1
    names = [*named, *(["other kinds"] if (said == "other kinds").any() else [])]
    return pd.DataFrame({name: np.bincount(where[(said == name).to_numpy()], minlength=count) for name in names},
                        index=pd.Index(edges[:-1], name="time_s"))


def _slow(parts: list[np.ndarray], p95: np.ndarray) -> np.ndarray:
    """Buckets that are slow beyond doubt, against the median of the buckets' p95: one slow bucket does not move it."""
    usual = float(np.nanmedian(p95)) if not np.isnan(p95).all() else math.nan
    marked = [part.size >= FEWEST and stats.proportion(int((part > TIMES * usual).sum()), part.size, confidence=SURE).low > 0.05
              for part in parts]
    return np.array(marked, dtype=bool)


def _erring(bad: np.ndarray, counted: np.ndarray) -> np.ndarray:
    rest = np.divide(bad.sum() - bad, counted.sum() - counted, out=np.zeros(len(bad)), where=counted.sum() > counted)
    return np.array([n >= FEWEST and stats.proportion(int(k), int(n), confidence=SURE).low > max(TIMES * usual, 1e-3)
                     for k, n, usual in zip(bad, counted, rest, strict=True)], dtype=bool)

"""How many requests a rollout will take, reckoned before it begins from what the log shows of production."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab import names
from lab.ops import requests
from lab.ops.requests import scores
from lab.ops.requests_schema import checked, failed, served
from lab.ops.rollouts.evidence import NEEDED
from lab.ops.rollouts.record import Rollout
from lab.stats import power
from lab.stats.sequential import Metric
from lab.stats.sequential.wording import amount

if TYPE_CHECKING:
    import pandas as pd

RECENT = 20_000
"""Rows of the log that are looked at."""
FEWEST = 50
WORST_RATE, RARE = 0.5, 0.01
"""Taken where the log shows nothing: half the answers right (the widest spread), one request in a hundred failing."""
MOST_REQUESTS = 200_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Requests (of both arms; a shadow copy counts) until one metric is decided, half of the time and 80% of the time."""

    metric: Metric
    deviation: float
    known: int
    """Logged values that the spread was measured on; 0: it is assumed."""
    same: power.Point | None
    """When the candidate is no different; None without a spread."""
    worse: power.Point | None
    """When it is worse by twice the margin."""

    def said(self) -> str:
        """One line for people."""
        what = f"{names.describe(self.metric.name).label} (margin {amount(self.metric, self.metric.margin)})"
        if self.same is None or self.worse is None:
            return f"{what}: not known before there are values in the log."
        on = f"spread of {self.known:,} logged values" if self.known else "spread assumed, nothing is logged"
        return (f"{what}: no different, shipped after {_count(self.same.median)} (80%: {_count(self.same.eighty)}); worse by "
                f"twice the margin, stopped after {_count(self.worse.median)} (80%: {_count(self.worse.eighty)}); {on}.")


def planned(rollout: Rollout, *, place: Path | None = None, runs: int = 400) -> list[Plan]:
    """The plan of each metric. Users who come back are taken as independent requests: with few users it takes more."""
    place = place or requests.folder()
    rows = checked(requests.frame(columns=NEEDED, place=place, after=max(0, requests.position(place) - RECENT)))
    rows = rows[(rows["release"] == f"release {rollout.production}") & served(rows)]
    spreads = _spreads(rollout, rows, place)
    share = rollout.share if rollout.stage == "canary" else 0.5
    return [_plan(metric, *spreads.get(metric.name, (math.nan, 0)), share, runs) for metric in rollout.metrics()]


def _plan(metric: Metric, deviation: float, known: int, share: float, runs: int) -> Plan:
    if not 0 < deviation < math.inf:
        return Plan(metric=metric, deviation=deviation, known=known, same=None, worse=None)
    worse = -min(2 * metric.margin, 0.9)
    same, bad = power.curve(metric, deviation, [0.0, worse], requests=MOST_REQUESTS, share=share, runs=runs, looks=300)
    return Plan(metric=metric, deviation=deviation, known=known, same=same, worse=bad)


def _spreads(rollout: Rollout, rows: pd.DataFrame, place: Path) -> Mapping[str, tuple[float, int]]:
    """Standard deviation of single values on each metric's scale, and how many values it comes from."""
    n, broke = len(rows), failed(rows)
    rate = float(broke.mean()) if n >= FEWEST else RARE
    rate = max(rate, 1 / (n + 2)) if n >= FEWEST else rate
    found = {"failed": (math.sqrt(rate * (1 - rate)), n if n >= FEWEST else 0)}
    times = rows["e2e_s"][~broke & (rows["e2e_s"] > 0)].to_numpy(dtype=float)
    if times.size >= FEWEST:
        found["e2e_s"] = float(np.log(times).std()), times.size
    costs = rows["cost_usd"].dropna().to_numpy(dtype=float)
    if costs.size >= FEWEST and costs.mean() > 0:
        found["cost_usd"] = float(costs.std() / costs.mean()), costs.size
    found[rollout.score] = math.sqrt(WORST_RATE * (1 - WORST_RATE)), 0
    if rollout.score and n:
        ours = set(rows["request_id"])
        given = scores.read(place, float(rows["time_s"].min()) - 1.0)
        values = np.array([s.value for s in given if s.name == rollout.score and s.request_id in ours and s.value == s.value])
        if values.size >= FEWEST and values.std() > 0:
            found[rollout.score] = float(values.std()), values.size
    return found


def _count(n: float) -> str:
    return f"about {n:,.0f} requests" if math.isfinite(n) else f"more than {MOST_REQUESTS:,} requests"

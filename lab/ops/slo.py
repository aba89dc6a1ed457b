"""Service level objectives: which requests count as good, the error budget that is left, and how fast it burns.

Budget and burn rate as in the SRE workbook (Beyer et al. 2018, chapter 5, "Alerting on SLOs"): the budget is the share of
requests that may be bad, 1 - objective, and the burn rate is the share that is, divided by it. At rate 1 it lasts the period.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from lab.ops.requests_schema import between, failed, served

DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Slo:
    """An objective: a share of requests that must be good. Good is "did not fail", or `measure` at most `at_most`."""

    name: str
    objective: float
    period_days: float = 30.0
    measure: str = ""
    at_most: float = math.nan

    def bad(self, log: pd.DataFrame) -> pd.Series:
        """1 for bad requests, 0 for good ones, NaN for those that do not count (refused by their own fault, or not measured)."""
        if not self.measure:
            return failed(log).astype(float).where(served(log))
        return (log[self.measure] > self.at_most).astype(float).where(served(log) & ~failed(log) & log[self.measure].notna())

    @property
    def budget_share(self) -> float:
        """The share of requests that may be bad."""
        return 1 - self.objective

    def burn(self, bad: int, requests: int) -> float:
        """How many times faster than planned the budget is spent; NaN without requests."""
        return bad / requests / self.budget_share if requests else math.nan


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The error budget of one objective at one time, over its period up to then."""

    slo: Slo
    requests: int
    bad: int
    allowed: float
    """Bad requests that the period's traffic so far allows."""
    left_share: float
    """Share of the budget that is left; negative when more was spent."""
    burn_rate: float
    """Over the last day."""
    lasts_s: float
    """Until what is left is spent, if traffic and the last day's burn rate stay; infinite when nothing burns."""


def budget(slo: Slo, log: pd.DataFrame, *, now_s: float) -> Budget:
    """The budget of `slo` at `now_s`, from a checked frame of the request log."""
    since = now_s - slo.period_days * DAY_S
    bad = slo.bad(between(log, since, now_s)).dropna()
    last = slo.bad(between(log, now_s - DAY_S, now_s)).dropna()
    allowed = bad.size * slo.budget_share
    left = 1 - float(bad.sum()) / allowed if allowed else 1.0
    burn = slo.burn(int(last.sum()), last.size)
    lasts = math.inf if not burn > 0 else max(0.0, left) * slo.period_days * DAY_S / burn
    return Budget(slo=slo, requests=int(bad.size), bad=int(bad.sum()), allowed=allowed, left_share=left, burn_rate=burn,
                  lasts_s=lasts)

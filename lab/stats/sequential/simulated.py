"""Many comparisons at once, looked at after every request: how often each ends how, on values that are drawn.

For the rates that a comparison promises, and its power on any kind of values. One array of runs is stepped through time, with the
very function for the change and the same limits as `Comparison`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lab.stats.sequential.comparison import ALPHA, FEWEST
from lab.stats.sequential.metric import Metric
from lab.stats.sequential.variance import Change, Moments

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, Floats], Floats]
"""Values of requests: from a generator and the arm of each (0 is A, 1 is B)."""


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Per run: the request at which it was shipped or stopped for harm (infinite: never), looked at after each one."""

    shipped_at: Floats
    stopped_at: Floats

    def ship(self, by: float = math.inf) -> float:
        """The share of runs whose first decision, up to request `by`, was to ship."""
        return float(np.mean((self.shipped_at <= by) & (self.shipped_at <= self.stopped_at) & np.isfinite(self.shipped_at)))

    def stop(self, by: float = math.inf) -> float:
        """The share of runs whose first decision, up to request `by`, was not to ship."""
        return float(np.mean((self.stopped_at <= by) & (self.stopped_at < self.shipped_at)))

    def ever(self) -> tuple[float, float]:
        """The shares of runs in which the limit for shipping, and that for harm, was ever crossed."""
        return float(np.isfinite(self.shipped_at).mean()), float(np.isfinite(self.stopped_at).mean())

    def requests(self, q: float = 50) -> float:
        """The `q`-th percentile of the request at which a run was decided; infinite where it is beyond the end."""
        return float(np.percentile(np.minimum(self.shipped_at, self.stopped_at), q, method="higher"))


def independent(
    metric: Metric, draw: Draw, *, requests: int, runs: int, share: float = 0.5, alpha: float = ALPHA, fewest: int = FEWEST,
    seed: int = 0,
) -> Outcomes:
    """Runs of independent requests, each given to B with probability `share`."""
    rng = np.random.default_rng(seed)
    block = max(1, 2_000_000 // requests)
    sizes = [min(block, runs - start) for start in range(0, runs, block)]
    found = [_block(metric, draw, requests, size, share, alpha, fewest, rng) for size in sizes]
    return Outcomes(shipped_at=np.concatenate([one.shipped_at for one in found]),
                    stopped_at=np.concatenate([one.stopped_at for one in found]))


def _block(metric: Metric, draw: Draw, requests: int, runs: int, share: float, alpha: float, fewest: int,
           rng: np.random.Generator) -> Outcomes:
    arm = (rng.random((runs, requests)) < share).astype(np.float64)
    x = draw(rng, arm).clip(metric.low, metric.high)
    x = np.log(x) if metric.scale == "log" else x
    sides = (1 - arm, arm)
    n, s, ss = ([np.cumsum(one * y, axis=1) for one in sides] for y in (np.ones_like(x), x, x * x))
    zero = np.zeros(1)
    q = (ss[0], s[0], zero, zero, n[0], zero, zero, ss[1], s[1], n[1])
    moments = Moments(n=n, s=s, ss=ss, q=q, reach=_reach(metric, sides, x, n, s))
    shipped, stopped = _crossed(Change(moments, metric), alpha, fewest)
    return Outcomes(shipped_at=_first(shipped), stopped_at=_first(stopped))


def _reach(metric: Metric, sides: tuple[Floats, Floats], x: Floats, n: list[Floats], s: list[Floats]) -> Floats | float:
    if metric.scale == "difference":
        return metric.high - metric.low
    far = []
    for side, count, summed in zip(sides, n, s, strict=True):
        mean = summed / np.maximum(count, 1)
        most = np.maximum.accumulate(np.where(side > 0, x, -np.inf), axis=1)
        least = np.minimum.accumulate(np.where(side > 0, x, np.inf), axis=1)
        far.append(np.where(count > 0, np.maximum(most - mean, mean - least), 0.0))
        far.append(metric.spread * (mean if metric.scale == "mean" else np.ones_like(mean)))
    return np.asarray(np.maximum.reduce(far))


def clustered(
    metric: Metric, *, requests: int, runs: int, users: int, rate: float, between: float, gain: float = 0.0, share: float = 0.5,
    alpha: float = ALPHA, fewest: int = FEWEST, seed: int = 0, robust: bool = True,
) -> Outcomes:
    """Runs in which `users` come back and keep their arm: each is right with a probability of its own, Beta around `rate`.

    `between` is the correlation of two answers to one user. Users are drawn unevenly (weight 1 / rank). B has `rate + gain`.
    Without `robust` requests are taken for independent, to show what that would do.
    """
    rng = np.random.default_rng(seed)
    arm = (rng.random((runs, users)) < share).astype(np.intp)
    mean = np.clip(rate + gain * arm, 1e-6, 1 - 1e-6)
    right = rng.beta(mean * (1 / between - 1), (1 - mean) * (1 / between - 1)) if between else mean
    weight = 1 / np.arange(1, users + 1)
    who = rng.choice(users, size=(requests, runs), p=weight / weight.sum())
    each, n_of, s_of = np.arange(runs), np.zeros((runs, users)), np.zeros((runs, users))
    n, s, q = np.zeros((2, runs)), np.zeros((2, runs)), np.zeros((10, runs))
    shipped, stopped = (np.zeros((runs, requests), dtype=bool) for _ in range(2))
    for t in range(requests):
        user = who[t]
        side, x = arm[each, user], (rng.random(runs) < right[each, user]).astype(np.float64)
        old_n, old_s = (n_of[each, user], s_of[each, user]) if robust else (np.zeros(runs), np.zeros(runs))
        at = 7 * side
        q[at, each] += (old_s + x) ** 2 - old_s**2
        q[at + 1, each] += (old_s + x) * (old_n + 1) - old_s * old_n
        q[at + 4 - 2 * side, each] += (old_n + 1) ** 2 - old_n**2
        n_of[each, user] += 1
        s_of[each, user] += x
        n[side, each] += 1
        s[side, each] += x
        found = Change(Moments(n=n, s=s, ss=s, q=q, reach=metric.high - metric.low), metric)
        shipped[:, t], stopped[:, t] = _crossed(found, alpha, fewest)
    return Outcomes(shipped_at=_first(shipped), stopped_at=_first(stopped))


def _crossed(change: Change, alpha: float, fewest: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where the evidence is enough to ship, and where it is enough to stop for harm."""
    limit, metric, enough = math.log(2 / alpha), change.metric, change.effective.min(axis=0) >= fewest
    return (enough & (change.log_e(-metric.tolerance) >= limit), enough & (change.log_e(0.0, harm=True) >= limit))


def _first(crossed: NDArray[np.bool_]) -> Floats:
    return np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1.0, np.inf)

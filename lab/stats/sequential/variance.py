"""The change between two arms and its variance, from sums; users are clusters, and small samples are not trusted.

A cluster (a user, or a question that both arms answer) adds the vector v = (sum and count in A, sum and count in B). The sums of
v and of v v' are enough for the difference of two means and its cluster-robust variance, which is right for independent
requests, for users who always see the same arm, and for pairs alike: the variance of a linearised ratio of sums (section 2.2 of
Miller, arXiv 2411.00640, for one mean; here for the difference of two). Within an arm it is never taken for smaller than that of
independent requests: users may agree with themselves, not contradict themselves.

That variance is too small where a rare outcome has not come up yet, and peeking finds those moments. So one more cluster as far
from its mean as a value can be is added to each arm, and the variance is raised to what it would be if the hypothesis held:
for values between two limits (high - mean)(mean - low) at the hypothesis' means (Bhatia and Davis 2000; exact for right and
wrong, and scaled by what the values show otherwise), on the other scales the variance of both arms pooled. A score test does the
same for two shares (Farrington and Manning 1990).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lab.stats.sequential.metric import Metric
from lab.stats.sequential.mixture import log_e, radius

Floats = NDArray[np.float64]
PAIRS = tuple((i, j) for i in range(4) for j in range(i, 4))
"""Which two of (s_A, n_A, s_B, n_B) each of the ten sums of products is of."""


class Moments(NamedTuple):
    """Sums of everything seen; arrays over time or over simulated runs where they are many."""

    n: Any
    """Counts of both arms, shape (2, ...)."""
    s: Any
    """Sums of values, shape (2, ...)."""
    ss: Any
    """Sums of squared values, shape (2, ...)."""
    q: Any
    """The ten sums over clusters of products of (s_A, n_A, s_B, n_B), as in `PAIRS`."""
    reach: Any
    """The longest distance a value can have from its mean."""


class Change:
    """B against A on the scale of the comparison: `value`, and the information (1 / variance) under any hypothesis."""

    def __init__(self, moments: Moments, metric: Metric) -> None:
        self.metric, self._reach = metric, np.asarray(moments.reach, dtype=np.float64)
        n, s = np.asarray(moments.n, dtype=np.float64), np.asarray(moments.s, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            self._n, self._means = n, s / n
            ratio = metric.scale == "mean"
            slope = (1 / self._means if ratio else np.ones_like(s)) / n
            first, second = np.log(self._means) if ratio else self._means
            self.value: Floats = np.asarray(second - first)
            weights = (-slope[0], slope[0] * self._means[0], slope[1], -slope[1] * self._means[1])
            products = [weights[i] * weights[j] * moments.q[k] * (1 if i == j else 2) for k, (i, j) in enumerate(PAIRS)]
            self.effective: Floats = np.asarray(n**2 / np.stack(np.broadcast_arrays(moments.q[4], moments.q[9])))
            """How many clusters of equal size each arm's are worth, (sum of counts)^2 / sum of counts^2; shape (2, ...)."""
            self._inner = np.maximum(np.asarray(moments.ss) / n - self._means**2, 0)
            alone, extra = slope**2 * self._inner * n, (slope**2).sum(axis=0) * self._reach**2
            few = self.effective / np.maximum(self.effective - 1, 0.5)
            within = np.stack([np.maximum(sum(products[k] for k in those), alone[side]) * few[side]
                               for side, those in enumerate(((0, 1, 4), (7, 8, 9)))])
            across = sum(products[k] for k in (2, 3, 5, 6))
            self._slope = slope
            self._robust = np.maximum(np.asarray(within.sum(axis=0) + across), 0) + extra
            self._alone = alone.sum(axis=0) + extra
            self.known = (n[0] > 0) & (n[1] > 0) & np.isfinite(self.value) & (self._robust > 0)
        self._dispersion = self._scatter() if metric.scale == "difference" else None

    def information(self, hypothesis: Any) -> Floats:
        """1 / variance if the change were `hypothesis`; 0 where nothing is known. Broadcasts."""
        with np.errstate(divide="ignore", invalid="ignore"):
            expected = (self._slope**2 * self._n * self._expected(hypothesis)).sum(axis=0)
            variance = self._robust * np.maximum(1, expected / self._alone)
            return np.asarray(np.where(self.known, 1 / variance, 0.0))

    def log_e(self, gain: Any, *, harm: bool = False) -> Floats:
        """Log e-value for "the gain is above `gain`" (`harm`: below it); a gain is a change signed so that more is better."""
        information = self.information(self.metric.sign * gain)
        above = self.metric.sign * np.nan_to_num(self.value) - gain
        return log_e((-above if harm else above) * information, information, self.metric.spread)

    def bounds(self, alpha: float) -> tuple[float, float]:
        """The gains that the evidence does not speak against: the interval that holds the truth at all times with 1 - alpha.

        For a single time (moments of shape (2, 1)). Infinite while nothing is known.
        """
        if not bool(self.known.all()):
            return -math.inf, math.inf
        gain = self.metric.sign * float(self.value[0])
        if self.metric.scale != "difference":
            half = float(radius(self.information(0.0), scale=self.metric.spread, alpha=alpha)[0])
            return gain - half, gain + half
        most = self.metric.high - self.metric.low
        return self._edge(gain, -most, alpha, harm=False), self._edge(gain, most, alpha, harm=True)

    def _edge(self, inside: float, outside: float, alpha: float, *, harm: bool) -> float:
        """Where evidence against a gain begins to suffice, between a gain without any and the farthest there is."""
        for _ in range(4):
            steps = np.linspace(inside, outside, 33)
            enough = np.array([self.log_e(steps, harm=harm) >= math.log(2 / alpha)]).ravel()
            if not enough.any():
                return outside
            inside, outside = float(steps[enough.argmax() - 1]), float(steps[enough.argmax()])
        return outside

    def _expected(self, hypothesis: Any) -> Floats:
        """The variance of a single value in each arm if the change were `hypothesis`."""
        if self._dispersion is None:
            relative = self._inner / self._means**2 if self.metric.scale == "mean" else self._inner
            pooled = (self._n * relative).sum(axis=0) / self._n.sum(axis=0)
            return np.asarray(pooled * self._means**2 if self.metric.scale == "mean" else np.broadcast_to(pooled, self._n.shape))
        low, high, theta = self.metric.low, self.metric.high, np.asarray(hypothesis, dtype=np.float64)
        middle = ((self._n * self._means).sum(axis=0) - theta * self._n[1]) / self._n.sum(axis=0)
        first = np.clip(middle, np.maximum(low, low - theta), np.minimum(high, high - theta))
        means = np.stack(np.broadcast_arrays(first, first + theta))
        return np.asarray(self._dispersion * np.maximum((high - means) * (means - low), 0))

    def _scatter(self) -> Floats:
        """The variance of the values as a share of the largest that their means allow: 1 for right and wrong."""
        low, high = self.metric.low, self.metric.high
        with np.errstate(invalid="ignore"):
            most = (self._n * (high - self._means) * (self._means - low)).sum(axis=0) + self._reach**2
            return np.asarray(((self._n * self._inner).sum(axis=0) + self._reach**2) / most)

"""Means over sets of items and their paired comparison, when items that share a source are not independent.

A cluster is what was drawn independently: a passage with all its questions, or one item that shares nothing. The error
of a mean is that of Miller, "Adding Error Bars to Evals" (arXiv 2411.00640, sections 2.2 and 4.2), with G/(G-1) for G
clusters. The mean over several sets gives each set the same weight; their errors add up, because sets share no items.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab import stats
from lab.errors import LabError
from lab.records import Estimate
from lab.stats import _t


@dataclass(frozen=True, kw_only=True)
class Part:
    """The values of one set's items, NaN where not scored, and the cluster of each (none: every item its own)."""

    values: ArrayLike
    clusters: Sequence[Hashable] = ()


@dataclass(frozen=True, kw_only=True)
class Change(stats.Difference):
    """A paired difference of means: its interval, the p-value of "none", and the error that both stand on.

    `error` is never 0: where no item changed it is that of the largest set in which one more item had (see `changed`).
    """

    error: float = math.nan
    freedom: int = 0

    def detectable(self, *, alpha: float = 0.05, power: float = 0.8) -> float:
        """The smallest true difference that would be found significant at `alpha` with probability `power`."""
        if math.isnan(self.error):
            return math.nan
        return stats.minimum_detectable_effect(self.error, 1, alpha=alpha, power=power)


def mean_of_means(parts: Sequence[Part], *, confidence: float = 0.95) -> Estimate:
    """The mean of the parts' means with a cluster-robust t interval; NaN when a part has no scored item.

    Five right answers out of five do not prove that all are right: where all items of a part are 0, or all 1, the interval
    of that part alone is Wilson's over clusters, and among several it adds the error of Agresti and Coull (1998), two
    clusters added on either side. Where all values lie between 0 and 1, so do the ends of the interval.
    """
    found = [_Sums.of(np.asarray(part.values, dtype=np.float64), part.clusters) for part in parts]
    if not found or any(one.items == 0 for one in found):
        return Estimate(value=math.nan)
    value = sum(one.mean for one in found) / len(found)
    if len(found) == 1 and found[0].agree:
        return stats.proportion(round(value) * found[0].groups, found[0].groups, confidence=confidence)
    error, freedom = _error(found), sum(one.groups - 1 for one in found)
    if freedom < 1 or math.isnan(error):
        return Estimate(value=value)
    half = _t(0.5 + confidence / 2, freedom) * error
    least, most = (0.0, 1.0) if all(one.shares for one in found) else (-math.inf, math.inf)
    return Estimate(value=value, low=max(least, value - half), high=min(most, value + half))


def changed(
    candidate: Sequence[Part], baseline: Sequence[Part], *, confidence: float = 0.95, seed: int = 0
) -> Change:
    """`candidate` minus `baseline` over the same items in the same order, the mean over parts.

    The p-value comes from flipping the signs of whole clusters (for single items of right or wrong from McNemar's exact
    test). The interval is Student's t on the cluster-robust error, to which each set adds one more cluster that changed
    as much as the largest that did, or by 1 when none did: with that, "none of 40 changed" allows for 7 points, as the
    rule of three does, and not for 0. Raises `LabError` when the sides do not pair.
    """
    moved = [_moved(new, old) for new, old in zip(candidate, baseline, strict=True)]
    sums = [_Sums.of(values, part.clusters) for values, part in zip(moved, baseline, strict=True)]
    left_out = sum(int(np.isnan(values).sum()) for values in moved)
    if not sums or any(one.items == 0 for one in sums):
        return Change(value=math.nan, left_out=left_out)
    value = sum(one.mean for one in sums) / len(sums)
    error, freedom = _error(sums, doubt=True), sum(one.groups - 1 for one in sums)
    half = _t(0.5 + confidence / 2, freedom) * error if freedom > 0 else math.nan
    return Change(value=value, low=value - half, high=value + half, error=error, freedom=freedom, left_out=left_out,
                  n=sum(one.items for one in sums), p_value=_p_value(candidate, baseline, moved, sums, seed))


def not_worse(value: float, error: float, freedom: int, margin: float) -> float:
    """The one-sided p-value of "worse by `margin` or more", of a difference with this error (higher is better)."""
    if math.isnan(value) or not error > 0 or freedom < 1:
        return math.nan
    from scipy.special import stdtr

    return float(stdtr(freedom, -(value + margin) / error))


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """One set by cluster: the sum of the values and how many there are."""

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]
    agree: bool
    """Whether all values are 0, or all are 1."""
    shares: bool
    """Whether all values lie between 0 and 1."""

    @classmethod
    def of(cls, values: NDArray[np.float64], clusters: Sequence[Hashable]) -> _Sums:
        names = list(clusters) if len(clusters) else list(range(values.size))
        if values.size != len(names):
            raise LabError(f"There are {values.size} values and {len(names)} clusters; give one cluster for each value.")
        scored = ~np.isnan(values)
        number: dict[Hashable, int] = {}
        owner = np.asarray([number.setdefault(n, len(number)) for n, keep in zip(names, scored, strict=True) if keep], int)
        kept = values[scored]
        return cls(sums=np.bincount(owner, weights=kept, minlength=len(number)).astype(float),
                   counts=np.bincount(owner, minlength=len(number)).astype(float),
                   agree=bool(kept.size and np.isin(kept, (0, 1)).all() and (kept == kept[0]).all()),
                   shares=bool(((kept >= 0) & (kept <= 1)).all()))

    @property
    def groups(self) -> int:
        return len(self.sums)

    @property
    def items(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        return float(self.sums.sum()) / self.items

    def variance(self, doubt: bool) -> float:
        """Of the set's mean. With `doubt` one more cluster counts, that changed like the largest of all or by 1."""
        if self.groups < 2:
            return math.nan
        pulls = (self.sums - self.mean * self.counts) * self.groups / self.items
        squares = float(pulls @ pulls)
        if not doubt and self.agree:
            share = (self.mean * self.groups + 2) / (self.groups + 4)
            return share * (1 - share) / (self.groups + 4)
        if not doubt:
            return squares / (self.groups - 1) / self.groups
        largest = float(np.abs(self.sums).max()) * self.groups / self.items
        return (squares + (largest or 1.0) ** 2) / self.groups / self.groups


def _moved(new: Part, old: Part) -> NDArray[np.float64]:
    a, b = (np.asarray(part.values, dtype=np.float64).ravel() for part in (new, old))
    if a.size != b.size:
        raise LabError(f"Paired values come in pairs, but there are {a.size} and {b.size}; score the same items on both sides.")
    return np.asarray(a - b, dtype=np.float64)


def _error(sums: Sequence[_Sums], *, doubt: bool = False) -> float:
    return math.sqrt(sum(one.variance(doubt) for one in sums)) / len(sums)


def _p_value(
    candidate: Sequence[Part], baseline: Sequence[Part], moved: Sequence[NDArray[np.float64]], sums: Sequence[_Sums], seed: int
) -> float:
    sides = [np.asarray(part.values, dtype=np.float64) for part in (*candidate, *baseline)]
    single = len(moved) == 1 and sums[0].groups == sums[0].items
    if single and all(np.isin(side[~np.isnan(side)], (0, 1)).all() for side in sides):
        return stats.mcnemar(int((moved[0] < 0).sum()), int((moved[0] > 0).sum()))
    pulls = np.concatenate([one.sums / one.items for one in sums])
    return stats.difference(pulls, np.zeros(pulls.size), paired=True, seed=seed).p_value

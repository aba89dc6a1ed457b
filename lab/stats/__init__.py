"""Statistics that a comparison of language models stands on: intervals, paired tests and the Pareto front.

Conventions of every function here. NaN is "not scored" and is left out. A failure is +inf in a latency and takes part
in every rank: it moves a p99 as it should and never turns a number into NaN. Intervals are two-sided at `confidence`
(0.95 unless given). What is random takes a `seed`, so that every result can be had again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab.errors import LabError
from lab.records import Estimate

Floats = NDArray[np.float64]
Statistic = Callable[..., Any]
"""A numpy reduction that takes `axis`, such as `np.median` or `np.mean`."""

RESAMPLES = 2000
FEWEST = 3
"""Below this many values a resampled interval would be a statement about nothing: it is NaN."""
_CELLS = 4_000_000
"""Resampled values held at once (32 MB), so that a long sample costs time and not memory."""


@dataclass(frozen=True, kw_only=True)
class Difference(Estimate):
    """A difference with its interval, the p-value of "there is none", and how many items it stands on."""

    p_value: float = math.nan
    n: int = 0
    left_out: int = 0


# Percentiles and intervals


def percentile(values: ArrayLike, q: float) -> float:
    """The `q`-th percentile (0 to 100) of `values`, numpy's linear definition; NaN when there are none.

    Where numpy interpolates to NaN beside an infinity this gives the infinity: between a second and never is never.
    """
    if not 0 <= q <= 100:
        raise LabError(f"A percentile lies between 0 and 100, not at {q:g}.")
    kept, _ = _scored(values)
    if not kept.size:
        return math.nan
    if np.isfinite(kept).all():
        return float(np.percentile(kept, q))
    kept = np.sort(kept)
    below, part = divmod(q / 100 * (kept.size - 1), 1)
    low, high = kept[int(below)], kept[min(int(below) + 1, kept.size - 1)]
    return float(_between(low, high, np.float64(part)))


def bootstrap(
    values: ArrayLike, statistic: Statistic = np.median, *, confidence: float = 0.95, resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """`statistic` of `values` with its percentile-bootstrap interval (Efron and Tibshirani 1993, chapter 13).

    Values are taken as independent; for values that come in groups see `clustered_mean` and `clustered_percentile`.
    The interval is NaN below 3 values, and known to be some points too narrow below about 10.
    """
    kept, _ = _scored(values)
    if not kept.size:
        return Estimate(value=math.nan)
    value = float(_apply(statistic, kept))
    if kept.size < FEWEST:
        return Estimate(value=value)
    drawn = _resampled(kept, statistic, resamples, np.random.default_rng(seed))
    return _with_interval(value, drawn, confidence)


def median(values: ArrayLike, *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """The median with its bootstrap interval: what to report of a time."""
    return bootstrap(values, np.median, confidence=confidence, seed=seed)


def mean(values: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """The mean with Student's t interval, at every sample size: what to report of a score.

    The t interval keeps its coverage down to few values where the bootstrap is too narrow, and costs nothing for many.
    It is NaN below 2 values, and where a failure makes the mean infinite.
    """
    kept, _ = _scored(values)
    if not kept.size:
        return Estimate(value=math.nan)
    value = float(kept.mean())
    if kept.size < 2 or not math.isfinite(value):
        return Estimate(value=value)
    return _t_interval(value, float(kept.std(ddof=1)) / math.sqrt(kept.size), kept.size - 1, confidence)


def clustered_mean(values: ArrayLike, clusters: Iterable[Hashable], *, confidence: float = 0.95) -> Estimate:
    """The mean of `values` that come in clusters (questions about one passage), with a cluster-robust interval.

    Section 2.2 of Miller, "Adding Error Bars to Evals" (arXiv 2411.00640): the squared error is the sum over clusters
    of (sum of the cluster's residuals)^2 / n^2. We depart from it for few clusters G: times G/(G-1), which makes it
    equal to `mean` when every cluster is one item, and Student's t with G-1 degrees of freedom in place of 1.96.
    """
    kept, owner = _clustered(values, clusters)
    if not kept.size:
        return Estimate(value=math.nan)
    value = float(kept.mean())
    groups = int(owner.max()) + 1
    if groups < 2 or not math.isfinite(value):
        return Estimate(value=value)
    sums = np.bincount(owner, weights=kept - value, minlength=groups)
    error = math.sqrt(groups / (groups - 1) * float(sums @ sums)) / kept.size
    return _t_interval(value, error, groups - 1, confidence)


def clustered_percentile(
    values: ArrayLike, clusters: Iterable[Hashable], q: float, *, confidence: float = 0.95,
    resamples: int = RESAMPLES, seed: int = 0,
) -> Estimate:
    """The `q`-th percentile of the pooled `values`; the bootstrap draws whole clusters (Davison and Hinkley 1997, 3.8).

    For gaps between tokens: those of one generation are not independent, generations are. NaN interval below 3 clusters.
    """
    kept, owner = _clustered(values, clusters)
    value = percentile(kept, q)
    groups = int(owner.max()) + 1 if owner.size else 0
    if groups < FEWEST:
        return Estimate(value=value)
    order = np.argsort(kept, kind="stable")
    kept, owner = kept[order], owner[order]
    rng = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for i in range(resamples):
        times = np.bincount(rng.integers(groups, size=groups), minlength=groups)
        ends = np.cumsum(times[owner])
        below, part = divmod(q / 100 * (ends[-1] - 1), 1)
        low, high = kept[np.searchsorted(ends, [below, min(below + 1, ends[-1] - 1)], side="right")]
        drawn[i] = _between(low, high, np.float64(part))
    return _with_interval(value, drawn, confidence)


def apart(one: Estimate, other: Estimate) -> Estimate:
    """`one` minus `other`, two independent estimates, with the interval that the ends of both give (Zou and Donner 2008).

    For shares it is Newcombe's (1998, method 10): none of 20 allows for what Wilson's interval of it does, and not for nothing.
    """
    value = one.value - other.value
    return Estimate(value=value, low=value - math.hypot(one.value - one.low, other.high - other.value),
                    high=value + math.hypot(one.high - one.value, other.value - other.low))


def proportion(successes: int, n: int, *, confidence: float = 0.95) -> Estimate:
    """The share `successes / n` with Wilson's score interval (1927), which stays inside 0 to 1 and is honest at 0 and 1."""
    if n < 0 or not 0 <= successes <= n:
        raise LabError(f"A proportion needs 0 <= successes <= n, not {successes} of {n}.")
    if n == 0:
        return Estimate(value=math.nan)
    p, z2 = successes / n, _z(0.5 + _valid(confidence) / 2) ** 2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # Rounding must not push the interval off the share it belongs to, nor out of 0 to 1.
    return Estimate(value=p, low=max(0.0, min(p, middle - half)), high=min(1.0, max(p, middle + half)))


# Comparing two


def difference(
    a: ArrayLike, b: ArrayLike, *, paired: bool, statistic: Statistic | None = None, confidence: float = 0.95,
    resamples: int = RESAMPLES, seed: int = 0,
) -> Difference:
    """`a` minus `b` (candidate minus baseline) with its bootstrap interval and the p-value of "no difference".

    Paired (the same items in the same order): `statistic` (mean) of the differences; p by flipping their signs.
    Unpaired: the difference of the two `statistic`s (medians); p by Mann and Whitney's rank sum with permuted labels,
    because permuting medians of few values sees little (two sides of 4 wholly apart: 0.057 instead of 0.029).
    Both tests assume no distribution, enumerate every arrangement when there are no more than 8,192 and draw
    `resamples` otherwise, with p = (1 + as extreme) / (1 + drawn), which is never 0 (Phipson and Smyth 2010).
    A pair is left out when either side is NaN. Two failures (+inf) differ by 0; where one side failed more than rarely,
    pass `statistic=np.median`, because a mean is then infinite. NaN interval below 3 items a side.
    `n` counts pairs, or the values of both sides together; `left_out` those not scored.
    """
    rng = np.random.default_rng(seed)
    if paired:
        return _paired(a, b, statistic or np.mean, confidence, resamples, rng)
    return _unpaired(a, b, statistic or np.median, confidence, resamples, rng)


def mcnemar(b: int, c: int) -> float:
    """The exact two-sided p-value of McNemar's test: `b` items flipped one way and `c` the other.

    Under "no difference" each flip is a fair coin (McNemar 1947, exact binomial form). No flips at all: 1.
    """
    if b < 0 or c < 0:
        raise LabError(f"McNemar's test counts flips, which cannot be negative: {b} and {c}.")
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5))) if b + c else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """`p_values` adjusted for being several (Holm 1979), in their order; NaN was no test and stays NaN."""
    raw = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(raw))
    if np.any((raw[tested] < 0) | (raw[tested] > 1)):
        raise LabError("A p-value lies between 0 and 1.")
    order = tested[np.argsort(raw[tested], kind="stable")]
    adjusted = raw.copy()
    adjusted[order] = np.minimum(1, np.maximum.accumulate(raw[order] * np.arange(order.size, 0, -1)))
    return [float(p) for p in adjusted]


def minimum_detectable_effect(
    sd: float, n: int, *, paired: bool = True, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest true difference that `n` items show at level `alpha` with probability `power`, in units of `sd`.

    Paired: `sd` is that of the differences and `n` counts pairs. Unpaired: `sd` is that of one side and `n` its size.
    (z(1-alpha/2) + z(power)) * standard error: the normal approximation of arXiv 2411.00640, section 5.
    """
    if n < 1 or sd < 0 or not 0 < alpha < 1 or not 0 < power < 1:
        raise LabError("A detectable effect needs n >= 1, sd >= 0, and alpha and power between 0 and 1.")
    return (_z(1 - alpha / 2) + _z(power)) * sd * math.sqrt((1 if paired else 2) / n)


def non_inferior(difference: Estimate, margin: float, better: Literal["higher", "lower"]) -> bool:
    """Whether the candidate is at most `margin` (> 0) worse: its whole interval lies on the good side of the margin.

    `difference` is candidate minus baseline. A two-sided 95% interval makes it a one-sided test at 2.5%, as the ICH E9
    guideline asks. Without an interval nothing is shown, so the answer is no.
    """
    if not margin > 0:
        raise LabError(f"The margin says how much worse is still acceptable and must be above 0, not {margin:g}.")
    if better not in ("higher", "lower"):
        raise LabError(f"Non-inferiority needs a direction: better is 'higher' or 'lower', not {better!r}.")
    return difference.low > -margin if better == "higher" else difference.high < margin


def pareto_front(
    points: Sequence[Sequence[float]], better: Sequence[Literal["higher", "lower"]]
) -> list[bool]:
    """Which `points` no other beats: none is as good in every coordinate and better in one. Equal points stay together.

    A point with a NaN coordinate is never on the front and beats nobody.
    """
    if wrong := [b for b in better if b not in ("higher", "lower")]:
        raise LabError(f"A Pareto front needs directions: 'higher' or 'lower', not {wrong[0]!r}.")
    if any(len(point) != len(better) for point in points):
        raise LabError(f"Every point of this Pareto front has {len(better)} coordinates, one for each direction.")
    costs = np.asarray(points, dtype=np.float64).reshape(len(points), len(better))
    costs = costs * np.array([1 if b == "lower" else -1 for b in better])
    measured = ~np.isnan(costs).any(axis=1)
    # A comparison with NaN is false, so an unmeasured point dominates nobody without being taken out.
    return [
        bool(measured[i] and not np.any((costs <= costs[i]).all(axis=1) & (costs < costs[i]).any(axis=1)))
        for i in range(len(points))
    ]


# The machinery


def _scored(values: ArrayLike) -> tuple[Floats, int]:
    """The values that are not NaN, as a flat array, and how many were."""
    array = np.asarray(values, dtype=np.float64).ravel()
    kept = array[~np.isnan(array)]
    return kept, array.size - kept.size


def _clustered(values: ArrayLike, clusters: Iterable[Hashable]) -> tuple[Floats, NDArray[np.intp]]:
    """The scored values with the number of each one's cluster, counted from 0 without gaps."""
    array = np.asarray(values, dtype=np.float64).ravel()
    names = clusters if isinstance(clusters, np.ndarray) and clusters.dtype.kind in "iu" else list(clusters)
    if array.size != len(names):
        raise LabError(f"There are {array.size} values and {len(names)} clusters; give one cluster for each value.")
    scored = ~np.isnan(array)
    if isinstance(names, np.ndarray):  # numbers are told apart at once
        return array[scored], np.unique(names[scored], return_inverse=True)[1]
    number: dict[Hashable, int] = {}
    owner = [number.setdefault(name, len(number)) for name, keep in zip(names, scored, strict=True) if keep]
    return array[scored], np.asarray(owner, dtype=np.intp)


def _between(low: Any, high: Any, part: Any) -> Any:
    """Linear interpolation that an infinite end does not turn into NaN."""
    with np.errstate(invalid="ignore"):
        inner = low + (high - low) * part
    ends = np.where(np.isinf(high), high, np.where(np.isinf(low), low, inner))
    return np.where((part == 0) | (low == high), low, ends)


def _minus(x: Any, y: Any) -> Any:
    """x - y, where two equal infinities (both sides failed) differ by 0."""
    with np.errstate(invalid="ignore"):
        return np.where(np.equal(x, y), 0.0, np.subtract(x, y))


def _blocks(rows: int, width: int) -> Iterable[int]:
    """`rows` in blocks whose arrays of `width` columns stay within `_CELLS`."""
    step = max(1, _CELLS // max(1, width))
    return (min(step, rows - start) for start in range(0, rows, step))


def _resampled(values: Floats, statistic: Statistic, resamples: int, rng: np.random.Generator) -> Floats:
    """`statistic` of `resamples` samples drawn from `values` with replacement."""
    return np.concatenate([
        _apply(statistic, values[rng.integers(values.size, size=(rows, values.size))])
        for rows in _blocks(resamples, values.size)
    ])


def _apply(statistic: Statistic, rows: Floats) -> Floats:
    """`statistic` of every row; +inf beside -inf in one row has none (NaN), which is expected here."""
    with np.errstate(invalid="ignore"):
        return np.asarray(statistic(rows, axis=-1), dtype=np.float64)


def _with_interval(value: float, drawn: Floats, confidence: float) -> Estimate:
    """`value` between the outer percentiles of what was drawn; without them when failures left a draw undefined."""
    tail = (1 - _valid(confidence)) * 50
    if np.isnan(drawn).any():
        return Estimate(value=value)
    return Estimate(value=value, low=percentile(drawn, tail), high=percentile(drawn, 100 - tail))


def _t_interval(value: float, error: float, freedom: int, confidence: float) -> Estimate:
    half = _t(0.5 + _valid(confidence) / 2, freedom) * error
    return Estimate(value=value, low=value - half, high=value + half)


def _z(probability: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(probability))


def _t(probability: float, freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def _valid(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise LabError(f"A confidence lies between 0 and 1, such as 0.95, not {confidence:g}.")
    return confidence


_EXACT = 8192
"""Up to this many arrangements (13 pairs, or 7 against 7) a test enumerates them all instead of drawing some."""


def _paired(
    a: ArrayLike, b: ArrayLike, statistic: Statistic, confidence: float, resamples: int, rng: np.random.Generator
) -> Difference:
    x, y = np.asarray(a, dtype=np.float64).ravel(), np.asarray(b, dtype=np.float64).ravel()
    if x.size != y.size:
        raise LabError(f"Paired values come in pairs, but there are {x.size} and {y.size}; compare them unpaired.")
    d, left_out = _scored(_minus(x, y))
    if not d.size:
        return Difference(value=math.nan, left_out=left_out)
    value = float(_apply(statistic, d))
    low = high = math.nan
    if d.size >= FEWEST:
        interval = _with_interval(value, _resampled(d, statistic, resamples, rng), confidence)
        low, high = interval.low, interval.high
    exact = d.size <= 13
    flipped: list[Floats] = []
    if exact:
        bits = (np.arange(2**d.size)[:, None] >> np.arange(d.size)) & 1
        flipped.append(_apply(statistic, d * (1 - 2 * bits)))
    else:
        for rows in _blocks(resamples, d.size):
            signs = rng.integers(0, 2, size=(rows, d.size), dtype=np.int8) * 2 - 1
            flipped.append(_apply(statistic, d * signs))
    p = _p_value(value, np.concatenate(flipped), exact)
    return Difference(value=value, low=low, high=high, p_value=p, n=d.size, left_out=left_out)


def _unpaired(
    a: ArrayLike, b: ArrayLike, statistic: Statistic, confidence: float, resamples: int, rng: np.random.Generator
) -> Difference:
    (x, x_out), (y, y_out) = _scored(a), _scored(b)
    n, left_out = x.size + y.size, x_out + y_out
    if not x.size or not y.size:
        return Difference(value=math.nan, n=n, left_out=left_out)
    value = float(_minus(_apply(statistic, x), _apply(statistic, y)))
    low = high = math.nan
    if min(x.size, y.size) >= FEWEST:
        drawn = _minus(_resampled(x, statistic, resamples, rng), _resampled(y, statistic, resamples, rng))
        interval = _with_interval(value, drawn, confidence)
        low, high = interval.low, interval.high
    ranks = _midranks(np.concatenate([x, y])) - (n + 1) / 2  # around 0 when neither side tends to be higher
    exact = math.comb(n, x.size) <= _EXACT
    null = [ranks[order[:, : x.size]].sum(axis=1) for order in _orders(n, x.size, exact, resamples, rng)]
    p = _p_value(float(ranks[: x.size].sum()), np.concatenate(null), exact)
    return Difference(value=value, low=low, high=high, p_value=p, n=n, left_out=left_out)


def _midranks(values: Floats) -> Floats:
    """The rank of every value from 1; equal values share the middle of their ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[which], dtype=np.float64)


def _orders(
    n: int, first: int, exact: bool, resamples: int, rng: np.random.Generator
) -> Iterable[NDArray[np.intp]]:
    """Arrangements of n items, a row each, whose first `first` columns are one side: all of them, or random ones."""
    if not exact:
        for rows in _blocks(resamples, n):
            yield np.argsort(rng.random((rows, n)), axis=1)
        return
    chosen = np.array(list(itertools.combinations(range(n), first)), dtype=np.intp)
    taken = np.zeros((len(chosen), n), dtype=bool)
    np.put_along_axis(taken, chosen, True, axis=1)
    yield np.argsort(~taken, axis=1, kind="stable")


def _p_value(value: float, null: Floats, exact: bool) -> float:
    """The share of `null` at least as far from 0 as `value`.

    A tolerance keeps equal sums equal despite rounding; what failures made incomparable (NaN) counts as far.
    """
    size = np.abs(null)
    rounding = 1e-12 * size[np.isfinite(size)].max(initial=0.0)
    far = ~(size < abs(value) - rounding)
    return float(far.mean()) if exact else float((far.sum() + 1) / (null.size + 1))

"""Agreement between raters, or of a judge with labels, beyond what chance or a constant guess would give.

Kappa is scikit-learn's, alpha the krippendorff package's; only their bootstrap is computed here, on how often every item
was drawn, so that 2,000 resamples of 1,000 items take a fraction of a second. Unrated (NaN, None) takes no part.

Without variation there is nothing to agree about beyond chance: where everybody gives one and the same rating, kappa and
alpha are 0/0 and so NaN (Krippendorff, "Content Analysis", 2019, chapter 12); `why_undefined` says it in a sentence. One
constant rater beside one who varies has kappa 0 by its definition, as useless as a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab.errors import LabError
from lab.records import Estimate
from lab.stats import RESAMPLES, Floats, _blocks, _t_interval, _valid, _with_interval, clustered_mean, proportion

Level = Literal["nominal", "ordinal", "interval"]
Weights = Literal["linear", "quadratic"]
Codes = NDArray[np.intp]
"""Ratings as positions in the sorted values that occur; -1 is not rated."""
UNDEFINED_SHARE = 0.05
"""With more undefined resamples than this an interval of the others would be about another question: it is NaN."""
FEWEST = 10
"""Items, or clusters of them, below which nothing is drawn again. Simulated (two raters who agree with a truth 85% of the
time), the 95% interval of alpha covers 0.66 of the time at 3 items, 0.88 at 5, 0.93 at 10 and 0.97 at 20."""
MARGIN = 0.05
"""A lead over the constant guess that is worth nothing: "no better" means that a larger one is excluded."""
_LONGEST_SCALE = 100


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far ratings may stand for labels: on `n` items that have both.

    `observed` is the share of items that agree. `constant` is that of the constant guess that agrees best with the labels:
    an agreement says nothing without it. `lead` is the paired difference of the two, item by item (see `_lead`).
    `above_constant` is "yes" when the interval of the lead lies above 0; "no" when it ends below `MARGIN`, so that a lead
    worth having is excluded (one and the same said of 40 items is enough for that, of 12 it is not); "cannot tell"
    between the two, below 10 items, and where the labels do not vary, since nothing can then be better than constant.
    """

    n: int
    observed: Estimate
    kappa: Estimate
    alpha: Estimate
    constant: float
    above_constant: Literal["yes", "no", "cannot tell"]
    lead: Estimate = Estimate(value=math.nan)

    @property
    def labels_vary(self) -> bool:
        """Whether the labels of the items say more than one thing; without that nobody can show that they agree."""
        return self.n > 0 and self.constant < 1


def kappa(a: ArrayLike, b: ArrayLike, *, weights: Weights | None = None) -> float:
    """Cohen's kappa of two raters over the items that both rated; 1 is perfect, 0 chance, NaN where undefined.

    `weights` counts near misses by the distance of the categories (linear, or its square). Whole numbers are one scale from
    the lowest to the highest, with its gaps: a 2 and a 4 are two steps apart even where nobody said 3.
    """
    (x, y), _ = _both(a, b)
    if not x.size or np.unique(np.concatenate([x, y])).size < 2:
        return math.nan
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(x, y, labels=_scale(np.concatenate([x, y])), weights=weights))


def alpha(ratings: ArrayLike, *, level: Level = "nominal") -> float:
    """Krippendorff's alpha of `ratings` (raters x items, NaN = not rated): 1 is perfect, 0 chance, NaN where undefined.

    `level` says what a difference is: any two values (nominal), their ranks (ordinal), their distance (interval).
    """
    values = _table(ratings, level)
    if _why(values):
        return math.nan
    import krippendorff

    return float(krippendorff.alpha(reliability_data=_numbered(values)[0], level_of_measurement=level))


def why_undefined(ratings: ArrayLike) -> str:
    """Why alpha of `ratings` (raters x items) is NaN, in a sentence; "" when it is defined."""
    return _why(_table(ratings, "nominal"))


def alpha_estimate(
    ratings: ArrayLike, *, level: Level = "nominal", clusters: Iterable[Hashable] | None = None, confidence: float = 0.95,
    resamples: int = RESAMPLES, seed: int = 0,
) -> Estimate:
    """Alpha with the percentile bootstrap interval of items (or of whole `clusters`, one name an item) drawn again.

    Krippendorff's own algorithm draws pairs of ratings, which takes the ratings of one item for independent; items are
    what another sample would bring, so items are drawn. Perfect agreement has the interval 1 to 1 however few the items;
    below 10 items, or where more than 5% of the resamples are undefined, it is NaN.
    """
    values = _table(ratings, level)
    value = alpha(ratings, level=level)
    if math.isnan(value):
        return Estimate(value=value)
    numbers, counts = _numbered(values)
    several = counts.sum(axis=1) >= 2  # an item with a single rating has nobody to agree with, drawn or not
    owner = _owners(clusters, counts.shape[0])[several]
    domain = np.unique(numbers[~np.isnan(numbers)])
    return _bootstrapped(value, owner, lambda w: _alphas(w, counts[several], domain, level), confidence, resamples, seed)


def agreement(
    labels: ArrayLike, said: ArrayLike, *, clusters: Iterable[Hashable] | None = None, confidence: float = 0.95,
    resamples: int = RESAMPLES, seed: int = 0,
) -> Agreement:
    """Agreement of what was `said` with the `labels` of the same items, categories on both sides.

    Intervals draw items again, or whole `clusters` (one name an item). That of `observed` is Wilson's, or the
    cluster-robust one, so that it stays honest when all agree.
    """
    (x, y), kept = _both(labels, said)
    owner = _owners(clusters, kept.size)[kept]
    owner = np.unique(owner, return_inverse=True)[1]
    if not x.size:
        nothing = Estimate(value=math.nan)
        return Agreement(n=0, observed=nothing, kappa=nothing, alpha=nothing, constant=math.nan, above_constant="cannot tell")
    domain, codes = np.unique(np.concatenate([x, y]), return_inverse=True)
    a, b = codes[: x.size], codes[x.size :]
    agree = (a == b).astype(np.float64)
    most = np.bincount(a).argmax()
    better = agree - (a == most)

    def drawn(value: float, statistic: Callable[[Floats], Floats]) -> Estimate:
        return _bootstrapped(value, owner, statistic, confidence, resamples, seed)

    counts = _one_hot(a, domain.size) + _one_hot(b, domain.size)
    ratings = np.stack([a, b]).astype(np.float64)
    lead, constant = _lead(better, owner, confidence), float((a == most).mean())
    return Agreement(
        n=x.size, observed=_share(agree, owner, clusters is not None, confidence),
        kappa=drawn(kappa(a, b), lambda w: _kappas(w, a, b, domain.size)),
        alpha=drawn(alpha(ratings), lambda w: _alphas(w, counts, np.arange(domain.size, dtype=np.float64), "nominal")),
        constant=constant, lead=lead, above_constant=_above(lead, varied=constant < 1))


def _lead(better: Floats, owner: Codes, confidence: float) -> Estimate:
    """The mean of `better` (1, 0 or -1 an item) with an interval that is honest where few items differ; NaN below 10 clusters.

    Agresti and Min (2005, "Simple improved confidence intervals for comparing matched proportions"): Wald's interval after
    half an item is added to each of the four cells of a paired table, which is two items of which a half went each way.
    Resampling knows only the differences it saw, and one among 30 says little about how often they come. We depart from it
    for clusters: clusters are added in place of items, of the mean size, and Student's t with their number less one.
    """
    groups, size = int(owner.max()) + 1, better.size
    mean = float(better.mean())
    if groups < FEWEST:
        return Estimate(value=mean)
    sums = np.bincount(owner, weights=better - mean, minlength=groups)
    more, many = size / groups, groups / (groups - 1)
    error = math.sqrt(many * (float(sums @ sums) + more**2)) / (size + 2 * more)
    found = _t_interval(mean * size / (size + 2 * more), error, groups - 1, confidence)
    return Estimate(value=mean, low=max(-1.0, min(mean, found.low)), high=min(1.0, max(mean, found.high)))


def _above(lead: Estimate, *, varied: bool) -> Literal["yes", "no", "cannot tell"]:
    if math.isnan(lead.low) or not varied:
        return "cannot tell"
    return "yes" if lead.low > 0 else "no" if lead.high <= MARGIN else "cannot tell"


def _share(agree: Floats, owner: Codes, clustered: bool, confidence: float) -> Estimate:
    """The share that agrees; where every cluster agrees alike their spread is 0, and their number is what is known."""
    if not clustered:
        return proportion(int(agree.sum()), agree.size, confidence=confidence)
    if agree.min() == agree.max():
        groups = int(owner.max()) + 1
        return proportion(groups if agree[0] else 0, groups, confidence=confidence)
    found = clustered_mean(agree, owner.tolist(), confidence=confidence)
    return Estimate(value=found.value, low=max(0.0, found.low), high=min(1.0, found.high))


# Ratings as arrays


def _values(ratings: ArrayLike) -> NDArray[Any]:
    """Ratings as floats, or as objects when they are words; None and NaN are not rated."""
    given: NDArray[Any] = np.array(ratings, dtype=object)
    absent = np.vectorize(lambda r: r is None or r != r, otypes=[bool])(given)
    words = sum(isinstance(r, str) for r in given[~absent].ravel())
    if words == 0:
        given[absent] = math.nan
        return given.astype(np.float64)
    if words < int((~absent).sum()):
        raise LabError("Ratings are either all numbers or all words; these mix the two.")
    given[absent] = None
    return given


def _rated(values: NDArray[Any]) -> NDArray[np.bool_]:
    return ~np.isnan(values) if values.dtype.kind == "f" else np.array(values != None, dtype=bool)  # noqa: E711 (by element)


def _both(a: ArrayLike, b: ArrayLike) -> tuple[tuple[NDArray[Any], NDArray[Any]], NDArray[np.bool_]]:
    """The ratings of the items that both sides rated, and which these are."""
    x, y = np.atleast_1d(_values(a)).ravel(), np.atleast_1d(_values(b)).ravel()
    if x.size != y.size:
        raise LabError(f"Agreement compares the same items, but there are {x.size} and {y.size} ratings; give both for each "
                       "item, NaN where one is missing.")
    kept = _rated(x) & _rated(y)
    x, y = x[kept], y[kept]
    if x.size and x.dtype != y.dtype:
        raise LabError("One side rates with words and the other with numbers; give both in the same categories.")
    return ((x.astype(str), y.astype(str)) if x.dtype.kind == "O" else (x, y)), kept


def _scale(values: NDArray[Any]) -> NDArray[Any]:
    """The categories in order; whole numbers without gaps. As positions or values, kappa only sees their order."""
    found = np.unique(values)
    whole = found.dtype.kind == "f" and bool((found == np.floor(found)).all())
    return np.arange(found[0], found[-1] + 1) if whole and found[-1] - found[0] < _LONGEST_SCALE else found


def _table(ratings: ArrayLike, level: Level) -> NDArray[Any]:
    if level not in ("nominal", "ordinal", "interval"):
        raise LabError(f"Alpha knows the levels nominal, ordinal and interval, not {level!r}.")
    values = _values(ratings)
    if values.ndim != 2:
        raise LabError("Alpha takes a table of ratings with a row for each rater and a column for each item.")
    if values.dtype.kind == "O" and level != "nominal":
        raise LabError(f"Words have no order; give numbers for {level} ratings, or use the nominal level.")
    return values


def _numbered(values: NDArray[Any]) -> tuple[Floats, Floats]:
    """Ratings as numbers (raters x items), and how often every item got each value (items x values)."""
    rated = _rated(values)
    kept = values[rated] if values.dtype.kind == "f" else values[rated].astype(str)
    found, codes = np.unique(kept, return_inverse=True)
    counts = np.zeros((values.shape[1], found.size))
    np.add.at(counts, (np.nonzero(rated)[1], codes), 1)
    numbers = np.full(values.shape, math.nan)
    numbers[rated] = kept if kept.dtype.kind == "f" else codes
    return numbers, counts


def _why(values: NDArray[Any]) -> str:
    rated = _rated(values)
    pairable = rated[:, rated.sum(axis=0) >= 2]
    if not pairable.size:
        return "No item was rated by two raters, so there is nothing to compare."
    seen = values[:, rated.sum(axis=0) >= 2][pairable]
    if all(value == seen[0] for value in seen):
        return "Everybody gave the same rating throughout; without variation, agreement cannot be told from habit."
    return ""


def _one_hot(codes: Codes, size: int) -> Floats:
    made = np.zeros((codes.size, size))
    made[np.arange(codes.size), codes] = 1
    return made


# The bootstrap


def _owners(clusters: Iterable[Hashable] | None, n: int) -> Codes:
    """The number of every item's cluster; every item its own without clusters."""
    if clusters is None:
        return np.arange(n)
    number: dict[Hashable, int] = {}
    owner = [number.setdefault(name, len(number)) for name in clusters]
    if len(owner) != n:
        raise LabError(f"There are {n} items and {len(owner)} clusters; give one cluster for each item.")
    return np.asarray(owner, dtype=np.intp)


def _bootstrapped(
    value: float, owner: Codes, statistic: Callable[[Floats], Floats], confidence: float, resamples: int, seed: int
) -> Estimate:
    """`value` with the interval of `statistic` over resampled clusters; NaN below 10 clusters."""
    _valid(confidence)
    groups, owner = np.unique(owner, return_inverse=True)
    if math.isnan(value) or groups.size < FEWEST:
        return Estimate(value=value)
    drawn = np.concatenate([statistic(weights) for weights in _weights(owner, groups.size, resamples, seed)])
    defined = drawn[~np.isnan(drawn)]
    if defined.size < (1 - UNDEFINED_SHARE) * drawn.size:
        return Estimate(value=value)
    return _with_interval(value, defined, confidence)


def _weights(owner: Codes, groups: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks of resamples, a row each: how often every item was drawn, its cluster always whole."""
    rng = np.random.default_rng(seed)
    for rows in _blocks(resamples, max(owner.size, groups)):
        cells = rng.integers(groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        times = np.bincount(cells.ravel(), minlength=rows * groups).reshape(rows, groups)
        yield times[:, owner].astype(np.float64)


def _kappas(weights: Floats, a: Codes, b: Codes, size: int) -> Floats:
    """Unweighted kappa of every resample (a row of `weights`): 1 - disagreement / disagreement expected by chance."""
    total = weights.sum(axis=1)
    observed = weights @ (a != b).astype(np.float64) / total
    expected = 1 - ((weights @ _one_hot(a, size)) * (weights @ _one_hot(b, size))).sum(axis=1) / total**2
    return _one_minus(observed, np.where(expected < 1e-12, 0, expected))


def _alphas(weights: Floats, counts: Floats, domain: Floats, level: Level) -> Floats:
    """Alpha of every resample, from how often every item got each value (`counts`, items x values).

    An ordinal difference is that of the midranks, so all metric levels are squared distances of points: the sum over
    pairs within an item is 2 (m sum(s^2) - sum(s)^2), and no coincidence matrix is needed. Items have two ratings or more.
    """
    m = counts.sum(axis=1)
    scaled = weights / (m - 1)
    values = weights @ counts
    n = values.sum(axis=1)
    n[(values > 0).sum(axis=1) < 2] = math.nan  # no variation, undefined; rounding must not make a number of it
    if level == "nominal":
        observed = scaled @ (m**2 - (counts**2).sum(axis=1))
        expected = (n**2 - (values**2).sum(axis=1)) / (n - 1)
        return _one_minus(observed, expected)
    points = np.cumsum(values, axis=1) - values / 2 if level == "ordinal" else np.broadcast_to(domain, values.shape)
    points = points - ((values * points).sum(axis=1) / n)[:, None]  # centred, so that the squares do not cancel
    within = m * (points**2 @ counts.T) - (points @ counts.T) ** 2
    observed = 2 * (scaled * within).sum(axis=1)
    expected = 2 * n * (values * points**2).sum(axis=1) / (n - 1)
    return _one_minus(observed, expected)


def _one_minus(observed: Floats, expected: Floats) -> Floats:
    """1 - observed / expected; NaN without any expected disagreement."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1 - observed / expected, math.nan)

"""Where along ordered periods does a mean change? One step at an unknown place, told from no step and from a slope.

Values stand in periods 0, 1, 2, ... and in strata (kinds of question) that may differ in level; a stratum has its own mean and
the step is common to all. For a step after period k the fit is least squares with a mean for every stratum: with x = 1 after k
and both x and the values centred within strata, change(k) = sum(x y) / sum(x x), and its log-likelihood gain over no step is
-n/2 log(1 - sum(x y)^2 / (sum(x x) sum(y y))). Values of 0 and 1 are welcome; no test here assumes a distribution.

- **Is there a step?** The statistic is the largest z over all places, where z is sum(x y) over its standard deviation when values
  are permuted within strata. Its p-value comes from those permutations and so pays for the search (Worsley 1986, "Confidence
  regions and tests for a change-point", with permutations in place of his tail formula; p never 0: Phipson and Smyth 2010).
- **Where?** A place k belongs to the confidence set unless another place fits better than it by more than happens when values
  are permuted within strata on either side of k. If values on each side are exchangeable the set covers the true place at
  least as often as `confidence` says, in samples of any size; it need not be contiguous, and its ends are reported.
- **Step or slope?** The same fit with the period itself in place of x. The slope's residuals are permuted within strata and added
  to the slope again: `slope_p` is how often a slope then looks as much more like a step as the values do. A year should not be
  named unless it is small: knowledge that thins out over the years has no end to be named.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab.errors import LabError
from lab.stats import _z

Floats = NDArray[np.float64]
Side = Literal["fall", "rise"]
FEWEST = 3
"""Items that a side must have for a place to be considered at all."""
DRAWS = 999


@dataclass(frozen=True, kw_only=True)
class Place:
    """A step after `period`: what it would change, how well that fits, and the smallest step that would mostly be found there."""

    period: int
    change: float
    gain: float
    z: float
    inside: bool
    """Whether it belongs to the confidence set."""
    share: float
    """Its likelihood as a share of all places': the posterior under a flat prior, with means at their best fit."""
    detectable: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """The best single step. `n` counts items that tell something: those of strata that lie on more than one period."""

    side: Side
    places: tuple[Place, ...]
    p_value: float
    slope_gain: float
    slope_p: float
    """The p-value of "the mean changes at an even rate and not at one place"."""
    n: int
    periods: int
    critical_z: float

    @property
    def best(self) -> Place | None:
        """The place that fits best in the wanted direction; None where none was considered."""
        return max(self.places, key=lambda place: (place.gain, -place.period), default=None)

    @property
    def inside(self) -> tuple[int, ...]:
        """The periods of the confidence set, in order."""
        return tuple(place.period for place in self.places if place.inside)

    @property
    def detectable(self) -> float:
        """The smallest step that would mostly be found at the place where finding is easiest; NaN where there is none."""
        return min((place.detectable for place in self.places), default=math.nan)


def find(
    values: ArrayLike, periods: Sequence[int], strata: Sequence[Hashable] = (), *, side: Side = "fall",
    only: int | None = None, confidence: float = 0.95, draws: int = DRAWS, power: float = 0.8, seed: int = 0,
) -> Step:
    """The best step of `values` over `periods` (whole numbers in order of time), NaN values left out.

    `strata` names the kind of each value; values of a kind that lies in one period only tell nothing and are left out.
    With `only` a step after that period alone is considered, so that no search has to be paid for. `detectable` of a place is
    (critical z + z(power)) standard errors of its change, where the critical z is that of the search.
    No places come back where fewer than `FEWEST` items lie on a side. Raises `LabError` when the lists do not match.
    """
    data = _Data.of(values, periods, strata)
    rng, sign = np.random.default_rng(seed), -1.0 if side == "fall" else 1.0
    ks = data.places()
    ks = ks if only is None else ks[ks == only]
    if not ks.size:
        return Step(side=side, places=(), p_value=math.nan, slope_gain=math.nan, slope_p=math.nan, n=data.n,
                    periods=data.spanned, critical_z=math.nan)
    steps = data.steps(ks)
    z = sign * steps.z(data.y[None, :])[0]
    null = (sign * steps.z(data.permuted(draws, data.stratum, rng))).max(axis=1)
    p = float(((null >= z.max() - 1e-9).sum() + 1) / (draws + 1)) if data.varies else 1.0
    critical = float(np.quantile(null, confidence)) if data.varies else _z(1 - (1 - confidence) / len(ks))
    gains, changes = steps.gain(data.y[None, :], sign)[0], steps.change(data.y[None, :])[0]
    slope_gain, slope_p = _slope(data, steps, sign, draws, rng)
    inside = [_fits(data, steps, i, gains, sign, confidence, draws, rng) for i in range(len(ks))]
    weights = np.exp(gains - gains.max())
    return Step(
        side=side, p_value=p, slope_gain=slope_gain, slope_p=slope_p, n=data.n, periods=data.spanned, critical_z=critical,
        places=tuple(Place(
            period=int(k), change=float(changes[i]), gain=float(gains[i]), z=float(z[i]), inside=inside[i],
            share=float(weights[i] / weights.sum()),
            detectable=(max(critical, 0.0) + _z(power)) * data.deviation() / math.sqrt(steps.squares[i]))
            for i, k in enumerate(ks)))


def _fits(
    data: _Data, steps: _Steps, i: int, gains: Floats, sign: float, confidence: float, draws: int, rng: np.random.Generator
) -> bool:
    """Whether a step at the i-th place is not refuted: no other place fits better than chance makes one fit."""
    lead = float(gains.max() - gains[i])
    if lead <= 1e-9 or not data.varies:
        return True
    blocks = data.stratum * 2 + (data.period > steps.after[i])
    drawn = steps.gain(data.permuted(draws, blocks, rng), sign)
    by_chance = drawn.max(axis=1) - drawn[:, i]
    return bool(((by_chance >= lead - 1e-9).sum() + 1) / (draws + 1) > 1 - confidence)


def _slope(data: _Data, steps: _Steps, sign: float, draws: int, rng: np.random.Generator) -> tuple[float, float]:
    """How well an even change fits, and the p-value of "it is one"."""
    x = _centred(data.period.astype(np.float64)[None, :], data.stratum)
    line = _Steps(after=np.zeros(1, np.int64), x=x, squares=(x * x).sum(axis=1), variance=np.ones(1))
    here = data.y[None, :]
    fitted = line.change(here)[0, 0] * x
    drawn = fitted + data.permuted(draws, data.stratum, rng, values=(here - fitted)[0])
    lead = float(steps.gain(here, sign).max() - line.gain(here, sign)[0, 0])
    by_chance = steps.gain(drawn, sign).max(axis=1) - line.gain(drawn, sign)[:, 0]
    return float(line.gain(here, sign)[0, 0]), float(((by_chance >= lead - 1e-9).sum() + 1) / (draws + 1))


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """Steps after each of `after`: rows of `x` are centred within strata, `variance` is that of sum(x y) when y is permuted."""

    after: NDArray[np.int64]
    x: Floats
    squares: Floats
    variance: Floats

    def sums(self, rows: Floats) -> Floats:
        return np.asarray(rows @ self.x.T)

    def change(self, rows: Floats) -> Floats:
        return np.asarray(self.sums(rows) / self.squares)

    def z(self, rows: Floats) -> Floats:
        """Permuting within strata changes no stratum's sum of squares, so one standard deviation serves all rows."""
        spread = np.sqrt(self.variance)
        return np.asarray(np.divide(self.sums(rows), spread, out=np.zeros((len(rows), len(spread))), where=spread > 0))

    def gain(self, rows: Floats, sign: float) -> Floats:
        """The log-likelihood gain of every row at every place; 0 where the change has the other sign."""
        found = self.sums(rows)
        total = (rows * rows).sum(axis=1)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            explained = np.where(total > 0, found**2 / self.squares / total, 0.0)
        gain = -rows.shape[1] / 2 * np.log(np.clip(1 - explained, 1e-12, 1.0))
        return np.where(sign * found > 0, gain, 0.0)


@dataclass(frozen=True, kw_only=True)
class _Data:
    """Scored values centred within their strata."""

    y: Floats
    raw: Floats
    period: NDArray[np.int64]
    stratum: NDArray[np.int64]

    @classmethod
    def of(cls, values: ArrayLike, periods: Sequence[int], strata: Sequence[Hashable]) -> _Data:
        raw = np.asarray(values, np.float64).ravel()
        names = list(strata) if len(strata) else [0] * raw.size
        if not raw.size == len(periods) == len(names):
            raise LabError(f"There are {raw.size} values, {len(periods)} periods and {len(names)} strata; give one of each for "
                           "every value.")
        if np.isinf(raw).any():
            raise LabError("A change point needs finite values; leave out what failed (NaN).")
        spans: dict[Hashable, set[int]] = {}
        for name, when, value in zip(names, periods, raw, strict=True):
            if not math.isnan(value):
                spans.setdefault(name, set()).add(int(when))
        number = {name: i for i, name in enumerate(n for n, seen in spans.items() if len(seen) > 1)}
        kept = [i for i, name in enumerate(names) if name in number and not math.isnan(raw[i])]
        stratum = np.array([number[names[i]] for i in kept], np.int64)
        y = raw[kept]
        return cls(y=_centred(y[None, :], stratum)[0], raw=y, period=np.array([int(periods[i]) for i in kept], np.int64),
                   stratum=stratum)

    @property
    def n(self) -> int:
        return int(self.y.size)

    @property
    def spanned(self) -> int:
        return len(set(self.period.tolist()))

    @property
    def varies(self) -> bool:
        return bool(np.abs(self.y).max(initial=0.0) > 1e-12)

    def places(self) -> NDArray[np.int64]:
        """Periods after which a step may lie: enough items on both sides."""
        seen = np.array(sorted(set(self.period.tolist()))[:-1], np.int64)
        before = np.array([(self.period <= k).sum() for k in seen], np.int64)
        fair = [k for k, b in zip(seen, before, strict=True) if b >= FEWEST and self.n - b >= FEWEST
                and (_centred((self.period > k).astype(float)[None, :], self.stratum) ** 2).sum() > 1e-9]
        return np.array(fair, np.int64)

    def steps(self, after: NDArray[np.int64]) -> _Steps:
        x = _centred((self.period[None, :] > after[:, None]).astype(np.float64), self.stratum)
        return _Steps(after=after, x=x, squares=(x * x).sum(axis=1), variance=self._variance(x))

    def _variance(self, x: Floats) -> Floats:
        """Of sum(x y) under permutation within strata: by stratum, sum(x x) sum(y y) / (n - 1)."""
        groups = int(self.stratum.max()) + 1
        counts = np.bincount(self.stratum, minlength=groups)
        yy = np.bincount(self.stratum, weights=self.y**2, minlength=groups) / np.maximum(counts - 1, 1)
        return np.array([np.bincount(self.stratum, weights=row**2, minlength=groups) @ yy for row in x])

    def permuted(
        self, draws: int, blocks: NDArray[np.int64], rng: np.random.Generator, *, values: Floats | None = None
    ) -> Floats:
        """Rows of `values` (those of the data), permuted within `blocks`; shape (draws, n). They stay centred within strata."""
        keys = rng.random((draws, self.n)) + blocks[None, :]
        order = np.argsort(blocks, kind="stable")
        out = np.empty((draws, self.n))
        out[:, order] = (self.y if values is None else values)[np.argsort(keys, axis=1)]
        return out

    def deviation(self) -> float:
        """Of a value around its stratum's mean; where all agree, that of shares with two more successes and failures."""
        groups = int(self.stratum.max()) + 1
        if self.varies:
            return math.sqrt(float(self.y @ self.y) / max(1, self.n - groups))
        p = 2 / (self.n + 4)
        return math.sqrt(p * (1 - p))


def _centred(rows: Floats, stratum: NDArray[np.int64]) -> Floats:
    """Every row less the mean of its stratum."""
    if not stratum.size:
        return rows
    groups = int(stratum.max()) + 1
    counts = np.bincount(stratum, minlength=groups)
    member = np.zeros((stratum.size, groups))
    member[np.arange(stratum.size), stratum] = 1.0
    means = rows @ member / counts
    return np.asarray(rows - means[:, stratum])

"""Many streams at once: how often a detector is wrong in a stable stream, and how long it takes to notice a drop.

A stream is stable for `before` values (10,000, the period of the promise) and then its mean falls. Time is stepped, and all
runs go through it as one array. Our detector and Page-Hinkley are stepped by the same formulas as those that are shipped (a
test holds them together); ADWIN runs as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lab.stats.drift.level import CHANGES, bets
from lab.stats.drift.reference import Reference

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Values of shape (runs, before + after), with the reference each run was given."""

    values: Floats
    before: int
    references: tuple[Reference, ...]

    @classmethod
    def shares(cls, rate: float, drop: float, *, runs: int, before: int = 10_000, after: int = 3000, known: int = 0,
               seed: int = 0) -> Streams:
        """Right and wrong at `rate`, then at `rate - drop`. The reference is exact, or drawn from `known` values for each run."""
        rng = np.random.default_rng(seed)
        values = np.concatenate([rng.random((runs, before)) < rate, rng.random((runs, after)) < rate - drop], axis=1)
        held = rng.binomial(known, rate, size=runs) / known if known else np.full(runs, rate)
        found = tuple(Reference.share(float(p), known or math.inf) for p in held)
        return cls(values=values.astype(np.float64), before=before, references=found)

    @classmethod
    def scores(cls, mean: float, deviation: float, drop: float, *, runs: int, before: int = 10_000, after: int = 3000,
               known: int = 0, seed: int = 0) -> Streams:
        """Scores between 0 and 1 (Beta) with this mean and deviation, then with a mean lower by `drop`."""
        rng = np.random.default_rng(seed)

        def drawn(at: float, many: int) -> Floats:
            size = at * (1 - at) / deviation**2 - 1
            return np.asarray(rng.beta(at * size, (1 - at) * size, size=(runs, many)))

        exact = Reference(mean=mean, deviation=deviation)
        found = tuple(Reference.of(one) for one in drawn(mean, known)) if known else (exact,) * runs
        values = np.concatenate([drawn(mean, before), drawn(mean - drop, after)], axis=1)
        return cls(values=values, before=before, references=found)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The value at which each run's first alarm came, counted from 1; infinite where none did."""

    at: Floats
    before: int

    @property
    def false_alarms(self) -> float:
        """The share of runs with an alarm while nothing had changed."""
        return float(np.mean(self.at <= self.before))

    def within(self, values: int) -> float:
        """Of the runs without one: the share that noticed the drop within so many values."""
        left = self.at[self.at > self.before] - self.before
        return float(np.mean(left <= values)) if left.size else math.nan

    def delay(self, q: float = 50) -> float:
        """Of those runs: the `q`-th percentile of the values it took; infinite where it was not noticed until the end."""
        left = self.at[self.at > self.before] - self.before
        return float(np.percentile(left, q, method="higher")) if left.size else math.nan


def level(streams: Streams, *, limit: float, changes: Sequence[float] = CHANGES) -> Found:
    """Our detector of a drop, with the bound `limit`."""
    each = [bets(reference, "down", changes) for reference in streams.references]
    at, size, weight = (np.array([[getattr(bet, name) for bet in run] for run in each]).T for name in ("at", "size", "weight"))
    sums = np.zeros_like(at)

    def step(x: Floats) -> Floats:
        nonlocal sums
        sums = np.minimum((1 + sums) * (1 + size * (at - x)), 1e300)
        return np.asarray((weight * sums).sum(axis=0))

    return _run(streams, step, limit)


def page_hinkley(streams: Streams, *, threshold: float, allowance: float, fading: float = 0.9999, grace: int = 30) -> Found:
    """River's Page-Hinkley looking down."""
    return _run(streams, _page_hinkley(streams.values.shape[0], allowance, fading, grace), threshold, strictly=True)


def calibrated(streams: Streams, *, allowance: float, false_alarms: float) -> float:
    """The threshold at which Page-Hinkley with this allowance is wrong in this share of the stable parts."""
    step, most = _page_hinkley(streams.values.shape[0], allowance, 0.9999, 30), np.zeros(streams.values.shape[0])
    for t in range(streams.before):
        most = np.maximum(most, step(streams.values[:, t]))
    return float(np.quantile(most, 1 - false_alarms, method="higher"))


def last_values(streams: Streams, *, window: int, limit: float) -> Found:
    """The simplest one: the sum of the last `window` values at or below a limit. Knows nothing of what came before."""
    return _run(streams, _last(streams.values.shape[0], window), -limit)


def calibrated_last(streams: Streams, *, window: int, false_alarms: float) -> float:
    """The limit at which it is wrong in this share of the stable parts."""
    step, most = _last(streams.values.shape[0], window), np.full(streams.values.shape[0], -np.inf)
    for t in range(streams.before):
        most = np.maximum(most, step(streams.values[:, t]))
    return float(-np.quantile(most, 1 - false_alarms, method="higher")) - 1e-9


def _last(runs: int, window: int) -> Callable[[Floats], Floats]:
    held, total, n = np.zeros((window, runs)), np.zeros(runs), 0

    def step(x: Floats) -> Floats:
        nonlocal total, n
        total = total + x - held[n % window]
        held[n % window] = x
        n += 1
        return -total if n >= window else np.full(runs, -np.inf)

    return step


def adwin(streams: Streams, *, delta: float) -> Found:
    """River's ADWIN; an alarm that it raises for a rise counts as well, because it does not tell."""
    from river.drift import ADWIN

    at = np.full(len(streams.values), np.inf)
    for i, run in enumerate(streams.values):
        detector = ADWIN(delta=delta)
        for t, x in enumerate(run.tolist()):
            detector.update(x)
            if detector.drift_detected:
                at[i] = t + 1
                break
    return Found(at=at, before=streams.before)


def _run(streams: Streams, step: Callable[[Floats], Floats], limit: float, *, strictly: bool = False) -> Found:
    at = np.full(len(streams.values), np.inf)
    columns = np.ascontiguousarray(streams.values.T)
    for t, x in enumerate(columns):
        evidence = step(x)
        crossed = (evidence > limit if strictly else evidence >= limit) & np.isinf(at)
        if crossed.any():
            at[crossed] = t + 1
            if np.isfinite(at).all():
                break
    return Found(at=at, before=streams.before)


def _page_hinkley(runs: int, allowance: float, fading: float, grace: int) -> Callable[[Floats], Floats]:
    n, mean, total, top = 0, np.zeros(runs), np.zeros(runs), np.full(runs, -np.inf)

    def step(x: Floats) -> Floats:
        nonlocal n, mean, total, top
        n += 1
        mean = mean + (x - mean) / n
        total = fading * total + (x - mean) + allowance
        top = np.maximum(top, total)
        return top - total if n >= grace else np.zeros(runs)

    return step

"""Whether a model is right as often as it is sure: calibration in bins, and the share that is confident and wrong.

The expected calibration error is the mean distance between confidence and accuracy over bins, weighted by their size (Naeini et
al. 2015; Guo et al. 2017, arXiv 1706.04599). Bins hold equally many answers, because confidences crowd; with few answers the
error is biased upwards, so it is compared with what a calibrated model would show on the same confidences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab import stats
from lab.errors import LabError
from lab.records import Estimate

FEWEST = 20
"""Answers below which no calibration is stated."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Answers of like confidence: the mean confidence and how many of them are right, with Wilson's interval."""

    confidence: float
    right: Estimate
    n: int


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """`error` is the ECE with its bootstrap interval; `by_chance` what a calibrated model would show at its 95th percentile."""

    error: Estimate
    by_chance: float
    bins: tuple[Bin, ...]

    def table(self) -> str:
        """The bins in words: how sure, how often right, of how many."""
        return "; ".join(f"sure {b.confidence:.0%}: right {b.right.value:.0%} of {b.n}" for b in self.bins)


def calibration(confidence: ArrayLike, right: ArrayLike, *, bins: int = 5, seed: int = 0) -> Calibration:
    """Calibration of answers with these confidences (0 to 1), of which `right` (1 or 0) is known; NaN below 20 of them.

    Answers without either take no part. Raises `LabError` for a confidence outside 0 to 1.
    """
    if bins < 1:
        raise LabError(f"Calibration needs at least 1 bin, not {bins}.")
    p, y = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    kept = ~(np.isnan(p) | np.isnan(y))
    p, y = p[kept], y[kept]
    if p.size and (p.min() < 0 or p.max() > 1):
        raise LabError("A confidence lies between 0 and 1.")
    if not p.size:
        return Calibration(error=Estimate(value=math.nan), by_chance=math.nan, bins=())
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, p.size)) if part.size]
    table = tuple(Bin(confidence=float(p[part].mean()), n=part.size, right=stats.proportion(int(y[part].sum()), part.size))
                  for part in parts)
    if p.size < FEWEST:
        return Calibration(error=Estimate(value=math.nan), by_chance=math.nan, bins=table)
    random = np.random.default_rng(seed)
    drawn = [random.integers(p.size, size=p.size) for _ in range(1000)]
    errors = np.array([_error(p[one], y[one], bins) for one in drawn])
    chance = np.array([_error(p, (random.random(p.size) < p).astype(float), bins) for _ in range(1000)])
    return Calibration(bins=table, by_chance=float(np.percentile(chance, 95)), error=Estimate(
        value=_error(p, y, bins), low=stats.percentile(errors, 2.5), high=stats.percentile(errors, 97.5)))


def _error(p: NDArray[np.float64], y: NDArray[np.float64], bins: int) -> float:
    parts = np.array_split(np.argsort(p, kind="stable"), min(bins, p.size))
    return float(sum(abs(p[part].mean() - y[part].mean()) * part.size for part in parts) / p.size)


def confident_and_wrong(confidence: Sequence[float], wrong: Sequence[bool], *, at: float = 0.5) -> Estimate:
    """The share of all answers that are wrong although the model was at least `at` sure of them, with Wilson's interval."""
    known = [(c, w) for c, w in zip(confidence, wrong, strict=True) if not math.isnan(c)]
    return stats.proportion(sum(c >= at and w for c, w in known), len(known))


def share_right(right: Sequence[float]) -> Estimate:
    """The share of 1 among ones and zeros, with Wilson's interval; NaN of none."""
    return stats.proportion(int(sum(right)), len(right))

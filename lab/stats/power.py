"""How many requests an A/B comparison takes, before it starts: at one look fixed beforehand, and looked at all the time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lab.errors import LabError
from lab.stats import _z
from lab.stats.sequential.comparison import ALPHA, FEWEST
from lab.stats.sequential.metric import Metric
from lab.stats.sequential.mixture import log_e

POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Point:
    """What happens when the true gain of B is `gain` (on the metric's scale: points, or a relative change)."""

    gain: float
    fixed: float
    """Requests of both arms together with which a single look shows it with the asked power; infinite where it never does."""
    ship: float
    stop: float
    undecided: float
    """Shares of simulated comparisons, looked at all the time up to `requests`."""
    median: float
    """Requests at which half of them were decided; infinite where fewer were."""
    eighty: float
    """Requests at which `power` of them were decided."""


def deviation_of(metric: Metric, rate: float) -> float:
    """The standard deviation of right and wrong at a share `rate` of right answers."""
    if not 0 < rate < 1 or metric.scale != "difference":
        raise LabError(f"The share of right answers lies between 0 and 1, and its scale is difference, not {rate:g} on "
                       f"{metric.scale}.")
    return (metric.high - metric.low) * math.sqrt(rate * (1 - rate))


def fixed(
    distance: float, deviation: float, *, share: float = 0.5, design: float = 1.0, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Requests of both arms together after which one look shows a `distance` with probability `power`.

    (z(1 - alpha/2) + z(power))^2 deviation^2 design / (share (1 - share) distance^2), the normal approximation. For a margin the
    distance is margin plus gain. `deviation` is that of single values on the metric's scale (of log values for log, relative to
    the mean for mean); `design` is 1 + (requests per user - 1) x (correlation of two requests of a user).
    """
    _refuse(deviation, share, design, alpha, power)
    if not distance > 0:
        return math.inf
    return math.ceil((_z(1 - alpha / 2) + _z(power)) ** 2 * deviation**2 * design / (share * (1 - share) * distance**2))


def curve(
    metric: Metric, deviation: float, gains: Sequence[float], *, requests: int = 20_000, share: float = 0.5, design: float = 1.0,
    alpha: float = ALPHA, power: float = POWER, runs: int = 2000, looks: int = 500, seed: int = 0,
) -> list[Point]:
    """The power of a comparison on one metric at each true gain of B, simulated as Brownian motion in information.

    That is what the evidence is made for and holds from some hundred requests on; `sequential.simulated` draws values instead.
    """
    _refuse(deviation, share, design, alpha, power)
    if requests < 2 or runs < 1 or looks < 2:
        raise LabError("A power curve needs at least 2 requests, 2 looks and a run.")
    rng = np.random.default_rng(seed)
    first = max(20, math.ceil(FEWEST * design / min(share, 1 - share)))
    n = np.unique(np.geomspace(min(first, requests), requests, looks).round())
    information = n * share * (1 - share) / (deviation**2 * design)
    steps = np.sqrt(np.diff(information, prepend=0.0))
    motion = np.cumsum(rng.standard_normal((runs, n.size)) * steps, axis=1)
    limit, found = math.log(2 / alpha), []
    for gain in gains:
        drift = distance_of(metric, gain)
        score = motion + drift * information
        ship = _first(log_e(score + metric.tolerance * information, information, metric.spread) >= limit, n)
        stop = _first(log_e(-score, information, metric.spread) >= limit, n)
        decided = np.minimum(ship, stop)
        shipped, stopped = float(np.mean((ship <= stop) & np.isfinite(ship))), float(np.mean(stop < ship))
        median, eighty = (float(np.percentile(decided, q, method="higher")) for q in (50, 100 * power))
        alone = fixed(drift + metric.tolerance, deviation, share=share, design=design, alpha=alpha, power=power)
        found.append(Point(gain=gain, ship=shipped, stop=stopped, undecided=1 - shipped - stopped, median=median, eighty=eighty,
                           fixed=alone))
    return found


def distance_of(metric: Metric, gain: float) -> float:
    """A gain as people say it (points; or relative, 0.1 is 10% faster, cheaper or more) as a distance, better upwards."""
    if metric.scale == "difference":
        return gain
    if not -1 < gain < 1:
        raise LabError(f"A relative gain lies between -1 and 1, such as 0.1 for 10%, not at {gain:g}.")
    return math.log1p(gain) if metric.better == "higher" else -math.log1p(-gain)


def _first(crossed: np.ndarray, n: np.ndarray) -> np.ndarray:
    return np.where(crossed.any(axis=1), n[crossed.argmax(axis=1)], np.inf)


def _refuse(deviation: float, share: float, design: float, alpha: float, power: float) -> None:
    if not 0 < deviation < math.inf or not 0 < share < 1 or not 1 <= design < math.inf:
        raise LabError(f"Power needs a standard deviation above 0, a share between 0 and 1 and a design effect from 1 up, not "
                       f"{deviation:g}, {share:g} and {design:g}.")
    if not 0 < alpha < 1 or not 0 < power < 1:
        raise LabError(f"Alpha and power lie between 0 and 1, not at {alpha:g} and {power:g}.")

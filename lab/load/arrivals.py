"""When requests arrive: a schedule in seconds, fixed before the run and never re-anchored while it runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from lab.errors import LabError

MOST_CV = 100.0
"""Beyond it nearly all gaps are zero to the last digit."""
OPEN = ("constant", "poisson", "gamma", "ramp", "replay")


def schedule(
    process: str, *, count: int, rate: float = 1.0, cv: float = 2.0, seed: int = 0, file: str = "",
    low_rate: float | None = None,
) -> list[float]:
    """`count` arrival times in seconds from the start, ascending, the first at or after 0.

    `constant` has equal gaps of 1 / rate; `poisson` exponential gaps; `gamma` gaps with coefficient of variation `cv`
    (1 is Poisson, more is burstier); `ramp` is Poisson with a rate that rises linearly in time from `low_rate` (a tenth of
    `rate` when None) to `rate`; `replay` reads the times from a file, a JSON list of seconds. Raises `LabError`.
    """
    if process == "replay":
        return _replayed(file, count)
    if rate <= 0:
        raise LabError(f"An arrival rate must be above 0 requests/s, not {rate:g}.")
    random = np.random.default_rng(seed)
    if process == "constant":
        return [i / rate for i in range(count)]
    if process == "poisson":
        return np.cumsum(random.exponential(1 / rate, count)).tolist()
    if process == "gamma":
        if not 0 < cv <= MOST_CV:
            raise LabError(f"The coefficient of variation of gamma arrivals must be above 0 and at most {MOST_CV:g}, not {cv:g}.")
        shape = 1 / cv**2
        return np.cumsum(random.gamma(shape, 1 / (rate * shape), count)).tolist()
    if process == "ramp":
        return _ramp(count, rate / 10 if low_rate is None else low_rate, rate, random)
    raise LabError(f"There is no arrival process '{process}'; choose closed, {', '.join(OPEN)}.")


def _ramp(count: int, low: float, high: float, random: np.random.Generator) -> list[float]:
    """Arrivals of a Poisson process whose rate goes from `low` to `high` over the time in which `count` are expected.

    In units of expected arrivals the process has rate 1; the time t at which m are expected solves
    m = low t + (high - low) t^2 / (2 T), with T = 2 count / (low + high). Beyond T the rate stays `high`.
    """
    if not 0 <= low <= high:
        raise LabError(f"A ramp rises from a rate of 0 or more to a higher one, not from {low:g} to {high:g} requests/s.")
    expected = np.cumsum(random.exponential(1.0, count))
    end_s = 2 * count / (low + high)
    slope = (high - low) / end_s
    inside = np.minimum(expected, count)
    at_s = 2 * inside / (low + np.sqrt(low**2 + 2 * slope * inside))  # the root without its cancellation at slope 0
    return (at_s + (expected - inside) / high).tolist()


def _replayed(file: str, count: int) -> list[float]:
    if not file:
        raise LabError("Replayed arrivals need a file with --schedule: a JSON list of seconds.")
    try:
        read = json.loads(Path(file).read_text())
        if not isinstance(read, list):
            raise TypeError("it is no list")
        if not all(type(t) in (int, float) for t in read):
            raise TypeError("it has something that is no number")
        times = [float(t) for t in read]
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise LabError(f"{file} cannot be read as a schedule ({error}); give a JSON list of seconds.") from error
    if not times or not all(map(math.isfinite, times)) or times != sorted(times):
        raise LabError(f"The times in {file} must be finite, ascending and at least one.")
    return [t - times[0] for t in times[:count]]

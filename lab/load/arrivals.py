"""When requests arrive: a schedule in seconds, fixed before the run and never re-anchored while it runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from lab.errors import LabError

OPEN = ("constant", "poisson", "gamma", "replay")


def schedule(process: str, *, count: int, rate: float = 1.0, cv: float = 2.0, seed: int = 0, file: str = "") -> list[float]:
    """`count` arrival times in seconds from the start, ascending, the first at or after 0.

    `constant` has equal gaps of 1 / rate; `poisson` exponential gaps; `gamma` gaps with coefficient of variation `cv`
    (1 is Poisson, more is burstier); `replay` reads the times from a file, a JSON list of seconds. Raises `LabError`.
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
        if cv <= 0:
            raise LabError(f"The coefficient of variation of gamma arrivals must be above 0, not {cv:g}.")
        shape = 1 / cv**2
        return np.cumsum(random.gamma(shape, 1 / (rate * shape), count)).tolist()
    raise LabError(f"There is no arrival process '{process}'; choose closed, {', '.join(OPEN)}.")


def _replayed(file: str, count: int) -> list[float]:
    if not file:
        raise LabError("Replayed arrivals need a file with --schedule: a JSON list of seconds.")
    try:
        read = json.loads(Path(file).read_text())
        if not isinstance(read, list):
            raise TypeError("it is no list")
        times = [float(t) for t in read]
    except (OSError, ValueError, TypeError) as error:
        raise LabError(f"{file} cannot be read as a schedule ({error}); give a JSON list of seconds.") from error
    if not times or not all(map(math.isfinite, times)) or times != sorted(times):
        raise LabError(f"The times in {file} must be finite, ascending and at least one.")
    return [t - times[0] for t in times[:count]]

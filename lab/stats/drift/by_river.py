"""ADWIN and Page-Hinkley as `river` has them, behind the face of our own detector, to hold that against what is known.

Their settings have no unit: at the defaults the rate of false alarms is whatever it is (`lab bench monitor` measures it).
ADWIN: Bifet and Gavalda 2007. Page-Hinkley: Page 1954, Hinkley 1971.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lab.errors import LabError
from lab.stats.drift.level import Direction


class _OfRiver:
    """A detector of river, made anew at every reset."""

    def __init__(self, made: Callable[[], Any]) -> None:
        self._made = made
        self.reset()

    def reset(self) -> None:
        self._found = self._made()

    def update(self, value: float) -> bool:
        """Take one value; NaN is passed over."""
        if math.isnan(value):
            return False
        self._found.update(value)
        return bool(self._found.drift_detected)


class Adwin(_OfRiver):
    """Compares the two parts of a window for every cut and drops the older one where their means differ; both directions."""

    def __init__(self, *, delta: float = 0.002) -> None:
        from river.drift import ADWIN

        if not 0 < delta < 1:
            raise LabError(f"ADWIN's delta lies between 0 and 1, not at {delta:g}.")
        super().__init__(lambda: ADWIN(delta=delta))


class PageHinkley(_OfRiver):
    """The sum of deviations from the running mean, each less `allowance`, against its extreme so far."""

    def __init__(self, *, threshold: float = 50.0, allowance: float = 0.005, direction: Direction = "down") -> None:
        from river.drift import PageHinkley as Found

        if threshold <= 0 or allowance < 0:
            raise LabError("Page-Hinkley needs a threshold above 0 and an allowance that is not negative.")
        super().__init__(lambda: Found(threshold=threshold, delta=allowance, mode=direction))

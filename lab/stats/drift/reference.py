"""What a stream of values is held against: how it was while all was well, and how well that is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab.errors import LabError

FEWEST = 100
"""Values below which no reference is taken: its own error would be larger than any drift worth an alarm."""
SLACK = 1.0
"""Standard errors by which the reference's mean may have been drawn too high or too low."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Mean and standard deviation of values between `low` and `high`, from `n` of them; infinite n is a known mean."""

    mean: float
    deviation: float
    n: float = math.inf
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise LabError("A reference needs finite limits of its values, low below high.")
        if not self.low <= self.mean <= self.high or not 0 <= self.deviation <= self.high - self.low or not self.n > 0:
            raise LabError(f"A reference with values from {self.low:g} to {self.high:g} cannot have mean {self.mean:g} and "
                           f"standard deviation {self.deviation:g}.")

    @classmethod
    def of(cls, values: ArrayLike, *, low: float = 0.0, high: float = 1.0, fewest: int = FEWEST) -> Reference:
        """The reference that `values` make, set to the limits where they are beyond; NaN is left out. Raises `LabError`."""
        raw = np.asarray(values, dtype=np.float64).ravel()
        kept = np.clip(raw[~np.isnan(raw)], low, high)
        if kept.size < max(2, fewest):
            raise LabError(f"A reference of {kept.size} values says too little; take at least {max(2, fewest)}.")
        return cls(mean=float(kept.mean()), deviation=float(kept.std(ddof=1)), n=float(kept.size), low=low, high=high)

    @classmethod
    def share(cls, rate: float, n: float = math.inf) -> Reference:
        """The reference of right and wrong at a share `rate`."""
        return cls(mean=rate, deviation=math.sqrt(max(0.0, rate * (1 - rate))), n=n)

    def scaled(self, value: float) -> float:
        """`value` on a scale from 0 (`low`) to 1 (`high`)."""
        return (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)

    def scaled_all(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same of many."""
        return np.asarray((np.clip(values, self.low, self.high) - self.low) / (self.high - self.low))

    @property
    def bounds(self) -> tuple[float, float]:
        """Between what the mean truly is, most likely, on the scale from 0 to 1; never wholly at an end."""
        width = self.high - self.low
        mean, n = (self.mean - self.low) / width, self.n
        error = 0.0 if math.isinf(n) else math.sqrt((self.deviation / width) ** 2 / n + 1 / (4 * n * n))
        edge = 1e-6 if math.isinf(n) else 1 / (2 * n)
        low, high = (min(max(end, edge), 1 - edge) for end in (mean - SLACK * error, mean + SLACK * error))
        return low, high

    @property
    def variance(self) -> float:
        """On the scale from 0 to 1; never below that of one deviating value in all."""
        found = (self.deviation / (self.high - self.low)) ** 2
        return max(found, 1e-6 if math.isinf(self.n) else 1 / self.n)

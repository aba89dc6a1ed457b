"""What a stream of values is held against: how it was while all was well, and how well that is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab.errors import LabError
from lab.stats import _z

FEWEST = 100
"""Values below which no reference is taken: its own error would be larger than any drift worth an alarm."""
UNSURE = 0.005
"""Share of references whose mean was drawn farther from the true one than is allowed for."""
LEAST_Z = 1.0


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

    def bounds(self, *, sides: int = 1, change: float = 0.1) -> tuple[float, float]:
        """Between what the mean truly is, on the scale from 0 to 1, where `sides` such ends are relied on and `change` is bet on.

        Wilson's (1927) interval with the variance that was seen. Its z makes all ends hold together in 99.5% of references, less
        a fifth of the change in standard errors, and is 1 at least: what a mean lies beyond its end by wins a bet on a larger
        change nothing until it is about half of that. The fifth is from simulation (docs/decisions/0018-sequential-and-drift.md).
        """
        mean, n, variance = (self.mean - self.low) / (self.high - self.low), self.n, self.variance
        if math.isinf(n):
            return mean, mean
        ends = []
        for sign in (-1, 1):
            z = max(LEAST_Z, _z(1 - UNSURE / sides) - change * mean / (5 * math.sqrt(variance / n)))
            half = z * math.sqrt(variance / n + z * z / (4 * n * n))
            ends.append((mean + z * z / (2 * n) + sign * half) / (1 + z * z / n))
        return max(0.0, ends[0]), min(1.0, ends[1])

    @property
    def variance(self) -> float:
        """On the scale from 0 to 1; never below that of one deviating value in all."""
        found = (self.deviation / (self.high - self.low)) ** 2
        return max(found, 1e-6 if math.isinf(self.n) else 1 / self.n)

"""What an A/B comparison looks at: a metric, on which scale it is compared, and how much worse is still acceptable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lab.errors import LabError

Scale = Literal["difference", "log", "mean"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of a comparison of B with A.

    `difference` compares means of values between `low` and `high` (a share of right answers, a score of 0 to 1). `log`
    compares geometric means, which long tails hardly move: for latencies. `mean` compares arithmetic means as a ratio: for
    costs, where the sum counts. Values outside `low` to `high` are set to that limit, so that a failure (+inf) is as bad as
    the limit and no single value decides.
    """

    name: str
    better: Literal["higher", "lower"] = "higher"
    scale: Scale = "difference"
    margin: float = 0.0
    """How much worse is still acceptable: in the metric's own units, or as a share on the other scales (0.1 is 10% more).

    With 0 the metric must be shown to be *better*.
    """
    effect: float = 0.0
    """The smallest change of interest, which the evidence is tuned to; 0 takes the margin. Needed where the margin is 0."""
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        said = f"Metric '{self.name}'"
        if self.better not in ("higher", "lower") or self.scale not in ("difference", "log", "mean"):
            raise LabError(f"{said}: better is higher or lower, and the scale difference, log or mean.")
        if not 0 <= self.margin < math.inf or not 0 <= self.effect < math.inf:
            raise LabError(f"{said}: the margin and the smallest effect of interest are numbers from 0 up.")
        if not max(self.margin, self.effect) > 0:
            raise LabError(f"{said}: give a margin above 0, or with a margin of 0 the smallest effect of interest.")
        if not -math.inf < self.low < self.high < math.inf:
            raise LabError(f"{said}: give finite limits of its values, low below high (for a latency its time limit).")
        if self.scale == "log" and not self.low > 0:
            raise LabError(f"{said}: a log scale needs low above 0, such as 0.001.")
        if self.scale == "mean" and self.low < 0:
            raise LabError(f"{said}: a ratio of means needs values from 0 up.")
        if self.scale != "difference" and self.better == "higher" and max(self.margin, self.effect) >= 1:
            raise LabError(f"{said}: a loss of {max(self.margin, self.effect):.0%} leaves nothing; give a share below 1.")

    @property
    def sign(self) -> int:
        """1 when more is a gain, -1 when it is a loss."""
        return 1 if self.better == "higher" else -1

    @property
    def tolerance(self) -> float:
        """The margin as a distance on the scale of the comparison, 0 or above."""
        return self._distance(self.margin)

    @property
    def spread(self) -> float:
        """The effect of interest as a distance on that scale: the standard deviation of the mixture."""
        return self._distance(self.effect or self.margin)

    def _distance(self, size: float) -> float:
        if self.scale == "difference":
            return size
        return math.log1p(size) if self.better == "lower" else -math.log1p(-size)

    def seen(self, value: float) -> float:
        """`value` within the limits, on the scale that is averaged; NaN stays."""
        if math.isnan(value):
            return value
        kept = min(max(value, self.low), self.high)
        return math.log(kept) if self.scale == "log" else kept

    def shown(self, change: float) -> float:
        """A change on the scale of the comparison as people read it: a difference, or a relative change (0.1 is 10% more)."""
        return change if self.scale == "difference" else math.expm1(min(change, 700.0))

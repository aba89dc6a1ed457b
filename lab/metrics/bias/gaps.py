"""What a gap between groups is worth: its interval over clusters, Holm's adjustment, and what could have been seen.

Three words, and never "fair": a gap is *found* when it is significant after the adjustment; there is *no difference* beyond the
margin when the whole interval lies within it; and anything else had *too few items* to tell.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lab import stats
from lab.records import Estimate
from lab.stats.clusters import Change, Part, changed

Standing = Literal["found", "no difference", "too few items", "not measured"]
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Gap:
    """One gap. `adjusted` is its p-value after Holm's adjustment over the family it was put into by `judged`."""

    name: str
    change: Change
    margin: float
    adjusted: float = math.nan
    standing: Standing = "not measured"
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def estimate(self) -> Estimate:
        return Estimate(value=self.change.value, low=self.change.low, high=self.change.high)

    @property
    def detectable(self) -> float:
        """The smallest true gap that so many items would mostly (80%) show, without the adjustment."""
        return self.change.detectable()


def gap(
    name: str, values: Sequence[float], others: Sequence[float] | float, clusters: Sequence[Hashable], *, margin: float,
    seed: int = 0, **settings: str,
) -> Gap:
    """`values` minus `others` (paired, or one number), clustered; not yet judged."""
    base = [others] * len(values) if isinstance(others, (int, float)) else list(others)
    found = changed([Part(values=list(values), clusters=list(clusters))], [Part(values=base, clusters=list(clusters))], seed=seed)
    return Gap(name=name, change=found, margin=margin, settings=dict(settings))


def judged(family: Sequence[Gap]) -> list[Gap]:
    """The gaps of one family, each with its adjusted p-value and what it means."""
    adjusted = stats.holm([one.change.p_value for one in family])
    return [Gap(name=one.name, change=one.change, margin=one.margin, adjusted=p, settings=one.settings,
                standing=_standing(one, p)) for one, p in zip(family, adjusted, strict=True)]


def _standing(one: Gap, adjusted: float) -> Standing:
    if math.isnan(one.change.value):
        return "not measured"
    if adjusted < ALPHA:
        return "found"
    within = -one.margin < one.change.low and one.change.high < one.margin
    return "no difference" if within else "too few items"

"""The sentences that say why a comparison decided as it did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lab import names
from lab.records import Estimate

if TYPE_CHECKING:
    from lab.stats.sequential.comparison import Decision, Effect
    from lab.stats.sequential.metric import Metric


def reasons(effects: Sequence[Effect], decision: Decision, needed: float, fewest: int) -> tuple[str, ...]:
    """A sentence for each metric, and one that says what is missing."""
    said = [_reason(one) for one in effects]
    if decision == "need more data":
        least = min((worth for one in effects for worth in one.effective), default=0)
        if least < fewest:
            said.append(f"An arm has seen what {least:.0f} users of equal weight would show; nothing is decided below {fewest}.")
        said.append("Nobody can tell how many more requests it takes." if math.isinf(needed) else
                    f"If the changes stay as they are, about {needed:,.0f} more requests (both arms together) decide.")
    return tuple(said)


def _reason(one: Effect) -> str:
    metric, counted = one.metric, f"{one.n[0]:,} requests with A and {one.n[1]:,} with B"
    label = names.describe(metric.name).label
    if math.isnan(one.change.value):
        return f"{label}: not yet measured in both arms ({counted})."
    margin = amount(metric, metric.margin)
    if one.acceptable and metric.margin:
        verdict = f"shown to be no more than {margin} worse"
    elif one.acceptable:
        verdict = "shown to be better"
    elif one.harmful:
        verdict = "shown to be worse"
    elif one.useless:
        verdict = f"shown to gain less than {amount(metric, metric.effect)}"
    else:
        verdict = f"not shown to be within the margin of {margin}, nor to be worse" if metric.margin else \
            "not shown to be better, nor to be worse"
    worse = "; yet it is worse" if one.acceptable and metric.margin and one.harmful else ""
    return f"{label}: {changed(metric, one.change)} with B, {verdict}{worse} ({counted})."


def changed(metric: Metric, change: Estimate) -> str:
    """A change with its interval: `-3.0 points (-5.1 to -0.9)` or `+12% (+4% to +20%)`."""
    ends = "" if math.isnan(change.low) else f" ({_signed(metric, change.low)} to {_signed(metric, change.high)})"
    return f"{_signed(metric, change.value)}{_unit(metric)}{ends}"


def amount(metric: Metric, size: float) -> str:
    """A margin in words: `3 points` or `10%`."""
    if metric.scale != "difference":
        return f"{size * 100:.3g}%"
    return f"{size * _factor(metric):.3g}{_unit(metric)}"


def _signed(metric: Metric, value: float) -> str:
    if metric.scale != "difference":
        return f"{value * 100:+.1f}%"
    return f"{value * _factor(metric):+.3g}" if _factor(metric) == 1 else f"{value * 100:+.1f}"


def _factor(metric: Metric) -> float:
    """Shares and scores of 0 to 1 are shown in points."""
    return 100 if (metric.low, metric.high) == (0, 1) else 1


def _unit(metric: Metric) -> str:
    return " points" if metric.scale == "difference" and _factor(metric) == 100 else ""

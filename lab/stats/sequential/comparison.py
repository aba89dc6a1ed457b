"""A comparison of B with A that may be looked at after every request: it says ship, do not ship, or neither yet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lab.errors import LabError
from lab.records import Estimate
from lab.stats.sequential.metric import Metric
from lab.stats.sequential.mixture import closed, information_for
from lab.stats.sequential.sums import Arm, Sums
from lab.stats.sequential.variance import Change
from lab.stats.sequential.wording import reasons

Decision = Literal["ship", "do not ship", "need more data"]
ALPHA = 0.05
FEWEST = 10
"""Users (or requests, where they are independent) that each arm must have seen, counted as if all asked equally often: below that
no variance can be relied on."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One metric at one look. `change` has its anytime-valid interval, in the metric's units or as a relative change."""

    metric: Metric
    change: Estimate
    means: tuple[float, float]
    n: tuple[int, int]
    units: tuple[int, int]
    """Users of each arm, a request without one counting as a user."""
    effective: tuple[float, float]
    """How many users of equal weight those are worth."""
    acceptable: bool
    """Shown not to be worse than the margin (with a margin of 0: shown to be better)."""
    harmful: bool
    """Shown to be worse, adjusted for all metrics of the comparison."""
    useless: bool
    """With a margin of 0: shown to gain less than the smallest effect of interest."""
    e_acceptable: float
    e_harmful: float
    """E-values: how many times more the data speak against the opposite; `e_harmful` is adjusted."""
    needed: float
    """Further requests, of both arms together, after which this metric would be acceptable or harmful if the change stays as it
    is estimated; 0 where it is already, infinite where nobody can tell."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is known at one time. `needed` are the further requests a decision would take if all changes stay as they are."""

    decision: Decision
    why: tuple[str, ...]
    effects: tuple[Effect, ...]
    needed: float


class Comparison:
    """Requests of two arms as they come. `add` takes microseconds per metric; `look` decides and changes nothing.

    Errors over all looks together: a candidate that is worse than a margin is shipped with probability alpha / 2 at most (every
    metric must pass, so nothing is adjusted: Berger 1982), and one that is worse in nothing is called harmful with probability
    alpha / 2 at most over all metrics together (closed e-values). Stop at the first decision: `look` remembers none.
    The sums do not depend on the order of requests. The share of users in B must stay as it is during one comparison, because
    a share that grows mixes the hours of the day differently into the arms: begin a new one at each stage of a canary.
    """

    def __init__(self, metrics: Sequence[Metric], *, alpha: float = ALPHA, fewest: int = FEWEST) -> None:
        names = [metric.name for metric in metrics]
        if not names or len(set(names)) < len(names):
            raise LabError("A comparison needs at least one metric, and every metric a name of its own.")
        if not 0 < alpha < 1 or fewest < 2:
            raise LabError(f"A comparison needs 0 < alpha < 1 and at least 2 users an arm, not {alpha:g} and {fewest}.")
        self.alpha, self.fewest = alpha, fewest
        self._sums = {metric.name: Sums(metric=metric) for metric in metrics}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(one.metric for one in self._sums.values())

    def add(self, arm: Arm, values: Mapping[str, float], user: str | None = None) -> None:
        """Count a request of `arm`. Metrics that are missing or NaN were not measured; others are ignored.

        Give the `user` where one user has several requests, or the question where both arms answer the same ones.
        """
        if arm not in ("A", "B"):
            raise LabError(f"An arm is A (what runs today) or B (the candidate), not {arm!r}.")
        for name, sums in self._sums.items():
            sums.add(arm, float(values.get(name, math.nan)), user)

    def look(self) -> Look:
        """Decide on what has been seen so far; takes about a millisecond per metric."""
        changes = [one.change() for one in self._sums.values()]
        harms = closed([float(change.log_e(0.0, harm=True)[0]) for change in changes])
        enough = all(bool(change.effective.min() >= self.fewest) for change in changes)
        effects = tuple(self._effect(sums, change, float(harm), enough)
                        for sums, change, harm in zip(self._sums.values(), changes, harms, strict=True))
        decision, needed = _decided(effects, enough, self.fewest)
        return Look(decision=decision, why=reasons(effects, decision, needed, self.fewest), effects=effects, needed=needed)

    def _effect(self, sums: Sums, change: Change, harm: float, enough: bool) -> Effect:
        metric, (low, high) = sums.metric, change.bounds(self.alpha)
        limit, fine = math.log(2 / self.alpha), float(change.log_e(-metric.tolerance)[0])
        acceptable, harmful = enough and fine >= limit, enough and harm >= limit
        useless = enough and not metric.margin and high < metric.spread
        ends = sorted(metric.shown(metric.sign * end) for end in (low, high)) if math.isfinite(low) else [math.nan, math.nan]
        return Effect(
            metric=metric, change=Estimate(value=metric.shown(float(change.value[0])), low=ends[0], high=ends[1]),
            means=(_mean(sums, 0), _mean(sums, 1)), n=(sums.n[0], sums.n[1]),
            units=(sums.units[0], sums.units[1]), effective=_pair(change.effective),
            acceptable=acceptable, harmful=harmful, useless=useless, e_acceptable=_exp(fine), e_harmful=_exp(harm),
            needed=0.0 if acceptable or harmful or useless else _needed(metric, change, sum(sums.n), self.alpha))

    def as_json(self) -> dict[str, Any]:
        """The whole state as plain values."""
        return {"alpha": self.alpha, "fewest": self.fewest, "metrics": {name: one.as_json() for name, one in self._sums.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `as_json` gave for the same metrics. Raises `LabError` when they are others."""
        kept = state.get("metrics")
        if not isinstance(kept, Mapping) or set(kept) != set(self._sums):
            raise LabError(f"The kept state is of other metrics than {', '.join(self._sums)}; start the comparison anew.")
        for name, one in self._sums.items():
            one.restore(kept[name])


def _decided(effects: Sequence[Effect], enough: bool, fewest: int) -> tuple[Decision, float]:
    """The decision on several metrics together, and the further requests that one would take."""
    if enough and all(one.acceptable for one in effects):
        return "ship", 0.0
    if any(one.harmful or one.useless for one in effects):
        return "do not ship", 0.0
    missing = math.ceil(2 * max(0, *(fewest - min(one.effective) for one in effects)))
    return "need more data", max(missing, *(one.needed for one in effects))


def _needed(metric: Metric, change: Change, n: int, alpha: float) -> float:
    """Further requests until the interval leaves the margin, or 0 on the bad side, if gain and information go on like this."""
    information = float(change.information(0.0)[0])
    if not information:
        return math.inf
    gain = metric.sign * float(change.value[0])
    distances = [gain + metric.tolerance, -gain, *([metric.spread - gain] if not metric.margin else [])]
    wanted = min(information_for(distance, scale=metric.spread, alpha=alpha) for distance in distances)
    return math.ceil(max(0.0, n * (wanted / information - 1))) if math.isfinite(wanted) else math.inf


def _mean(sums: Sums, side: int) -> float:
    if not sums.n[side]:
        return math.nan
    mean = sums.s[side] / sums.n[side]
    return math.exp(mean) if sums.metric.scale == "log" else mean


def _pair(found: Any) -> tuple[float, float]:
    first, second = np.nan_to_num(np.asarray(found, dtype=np.float64).ravel())
    return float(first), float(second)


def _exp(log: float) -> float:
    return math.exp(min(log, 700.0))

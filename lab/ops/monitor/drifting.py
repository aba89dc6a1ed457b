"""What the drift rules see: for each stream whether it moved, how strong the evidence is, and how often that would be wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lab import names
from lab.ops.alerts import Rules
from lab.ops.alerts.conditions import Drift, Finding, lasting
from lab.ops.requests_schema import SCORE
from lab.stats import drift

Standing = Literal["moved", "steady", "too little known"]


@dataclass(frozen=True, kw_only=True)
class DriftState:
    """One stream of one rule. `evidence` is from 0 to 1 (an alarm) on the scale of logarithms; NaN where nothing is known."""

    rule: str
    stream: str
    standing: Standing
    evidence: float
    said: str
    window: str
    """How long the window is, in words, and the reference before it."""
    reference: str
    detector: str


def drifts(rules: Rules, findings: Mapping[str, Finding]) -> tuple[DriftState, ...]:
    """The state of every drift rule, in the order of the file; `findings` are those of an evaluation."""
    found = []
    for rule in rules.rules:
        if isinstance(rule.condition, Drift) and rule.name in findings:
            seen, condition = findings[rule.name], rule.condition
            standing: Standing = "moved" if seen.firing else "steady" if seen.known else "too little known"
            share = max(0.0, min(1.0, seen.value / seen.limit)) if seen.known and seen.limit > 0 else math.nan
            name = names.describe(condition.measure.removeprefix(SCORE))
            found.append(DriftState(rule=rule.name, stream=name.heading, standing=standing, evidence=share,
                                    said=seen.said, window=lasting(condition.window_s), reference=lasting(condition.reference_s),
                                    detector=condition.detector))
    return tuple(found)


def promise(rules: Rules) -> str:
    """How often drift rules are wrong while nothing has moved, in a sentence."""
    mine = [rule for rule in rules.rules if isinstance(rule.condition, Drift)]
    held = [rule.condition for rule in mine if isinstance(rule.condition, Drift) and rule.condition.detector == "level"]
    if not held:
        return "No drift rule promises a rate of false alarms." if mine else "There is no drift rule."
    limits = {drift.limit(false_alarms=one.false_alarms, requests=one.requests, streams=len(mine)) for one in held}
    share = sum(one.false_alarms for one in held) / len(mine)
    text = (f"While nothing moves, any of these {len(held)} rules alarms within {held[0].requests:,.0f} requests with a "
            f"probability of {share:.1%} at most (by proof where the reference is well known)")
    rest = [rule.name for rule in mine if rule.condition.detector != "level"]  # type: ignore[union-attr]
    more = f"; not promised by {', '.join(rest)}" if rest else ""
    return f"{text}{more}." if len(limits) == 1 else f"Each rule promises its own rate of false alarms{more}."

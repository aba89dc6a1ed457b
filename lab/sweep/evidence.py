"""What a sweep shows: which points nothing beats, which of the others are shown to be worse, and what it does not show.

The first by an objective is the first of many, picked on the figures that rank it: only a difference beyond the noise counts,
and every comparison is adjusted for the number of them (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy import stats as distributions

from lab import names, stats
from lab.errors import LabError
from lab.ops import compare, history
from lab.records import Estimate
from lab.sweep.record import Tried, told
from lab.sweep.running import Sweep
from lab.sweep.spec import Objective

Z95 = 1.959964
PICKED = ("A first place among {count} is picked on the very figures that rank it, so its figure is likely too good; measure it "
          "again before you rely on it.")
WITHIN = ("Tests and intervals see the scatter inside a run; a drift from one run to the next (heat, other load) is not in them.")


@dataclass(frozen=True, kw_only=True)
class Beaten:
    """A point that is not in front, beside the one in front that it is compared with; `p_adjusted` NaN where nothing tells."""

    number: int
    by: int
    p_adjusted: float
    few: bool = False
    """Even the clearest difference could not have been shown with so few observations."""

    @property
    def shown(self) -> bool:
        return self.p_adjusted < compare.ALPHA


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The front (numbers of points that none beats by value), the others, and all of it in sentences."""

    front: tuple[int, ...]
    others: tuple[Beaten, ...]
    said: tuple[str, ...]
    cautions: tuple[str, ...]


def weigh(sweep: Sweep) -> Evidence:
    """The evidence of a sweep; without a measured point the front is empty."""
    measured = [t for t in sweep.tried if t.measured]
    front = front_of(measured, sweep.spec.objectives)
    others = _others(measured, front, sweep.spec.objectives)
    return Evidence(front=front, others=others, said=tuple(_said(sweep, measured, front, others)),
                    cautions=tuple(_cautions(sweep, measured)))


def front_of(measured: Sequence[Tried], objectives: Sequence[Objective]) -> tuple[int, ...]:
    """The numbers of the points that none beats in all objectives; with one objective, the first and its equals."""
    on = stats.pareto_front([[v.value for v in t.values] for t in measured], [o.direction for o in objectives])
    return tuple(t.number for t, kept in zip(measured, on, strict=True) if kept)


def _others(measured: Sequence[Tried], front: Sequence[int], objectives: Sequence[Objective]) -> tuple[Beaten, ...]:
    """Each point that is not in front beside the first of the front that is nowhere worse than it."""
    trials = history.frame(parents=[t.run_id for t in measured]) if measured else pd.DataFrame()
    leaders = [t for t in measured if t.number in front]
    found: list[tuple[int, int, float, bool]] = []
    among = (len(measured) - len(front)) * len(objectives)
    for other in (t for t in measured if t.number not in front):
        leader = next(t for t in leaders
                      if not any(_worse(a, b, o) for a, b, o in zip(t.values, other.values, objectives, strict=True)))
        tests = [_p(leader, other, i, o, trials, among) for i, o in enumerate(objectives)
                 if _worse(other.values[i], leader.values[i], o)]
        # The clearest of several objectives pays for all of them (Bonferroni) before the points are adjusted among each other.
        known = [(p, few) for p, few in tests if not math.isnan(p)]
        p, few = min(known, default=(math.nan, False))
        found.append((other.number, leader.number, min(1.0, p * len(known)) if known else math.nan, few))
    adjusted = iter(stats.holm([p for _, _, p, _ in found if not math.isnan(p)]))
    return tuple(Beaten(number=n, by=by, p_adjusted=p if math.isnan(p) else next(adjusted), few=few) for n, by, p, few in found)


def _worse(one: Estimate, other: Estimate, objective: Objective) -> bool:
    return one.value < other.value if objective.direction == "higher" else one.value > other.value


def _p(leader: Tried, other: Tried, at: int, objective: Objective, trials: pd.DataFrame, among: int) -> tuple[float, bool]:
    """The p-value of a difference in one objective, from raw observations where the trials kept some, else from the intervals.

    NaN where neither is there. The second says that there were too few observations for any difference to be shown `among` so
    many comparisons.
    """
    if leader.trials[at] and other.trials[at]:
        try:
            rows = compare.differences(trials, leader.trials[at], other.trials[at])
        except LabError:
            rows = []
        row = next((r for r in rows if r.measure == objective.measure and r.items), None)
        if row is not None:
            timed = objective.measure in compare.PER_GENERATION
            return row.p_value, row.outcome == "too few" or (timed and row.items < compare.fewest_generations(among))
    apart = stats.apart(leader.values[at], other.values[at])
    error = (apart.high - apart.low) / (2 * Z95)
    if not error > 0:
        return math.nan, False
    return float(2 * distributions.norm.sf(abs(apart.value) / error)), False


def _said(sweep: Sweep, measured: Sequence[Tried], front: Sequence[int], others: Sequence[Beaten]) -> list[str]:
    failed = sum(t.state == "failed" for t in sweep.tried)
    unmeasured = len(sweep.tried) - failed - len(measured)
    head = f"{len(measured)} of {len(sweep.tried)} trials were measured"
    head += f", {failed} failed" if failed else ""
    head += f", {unmeasured} finished without a figure of the objective" if unmeasured else ""
    head += f"; {sweep.repeats} proposals were repeats of a measured one" if sweep.repeats else ""
    if not measured:
        return [f"{head}: nothing can be said."]
    by = {t.number: t for t in measured}
    said = [f"{head}."]
    if len(sweep.spec.objectives) == 1:
        objective, first = sweep.spec.objectives[0], by[front[0]]
        label, word = names.describe(objective.measure).label, "Highest" if objective.direction == "higher" else "Lowest"
        said.append(f"{word} {label}: trial {first.number + 1} ({first.shown()}), {told(first.values[0], objective.measure)}.")
        if len(front) > 1:
            said.append(f"{_numbers(front[1:]).capitalize()} came to exactly the same.")
    else:
        said.append(f"No other trial beats these in all objectives at once (Pareto): {_numbers(front)}.")
    shown = [b.number for b in others if b.shown]
    untold = [b.number for b in others if math.isnan(b.p_adjusted)]
    few = [b.number for b in others if b.few and not b.shown and b.number not in untold]
    level = [b.number for b in others if b.number not in {*shown, *untold, *few}]
    if shown:
        said.append(f"Shown to be worse (p < {compare.ALPHA:g}, adjusted for {len(others)} comparisons): {_numbers(shown)}.")
    if level:
        said.append(f"No difference is shown to {_numbers(level)}: what they differ by is within the noise, no reason to choose.")
    if few:
        said.append(f"Too few observations to show any difference to {_numbers(few)}; give the experiment more repeats or items.")
    if untold:
        said.append(f"Whether {_numbers(untold)} differ by more than noise cannot be told: the measure has no interval there.")
    if others and not shown:
        said.append("So the sweep shows no best point.")
    return said


def _cautions(sweep: Sweep, measured: Sequence[Tried]) -> list[str]:
    machines = sorted({t.machine for t in measured if t.machine})
    said = [PICKED.format(count=len(measured))] if len(measured) > 2 else []
    said += [WITHIN] if len(measured) > 1 else []
    if len(machines) > 1:
        said.append(f"The trials ran on {len(machines)} kinds of machines ({'; '.join(machines)}); their timings do not compare.")
    if flagged := [t.number for t in measured if t.flags]:
        reasons = sorted({flag for t in measured for flag in t.flags})
        said.append(f"Flagged: {_numbers(flagged)}, like: {reasons[0]}")
    return [*said, *sorted({caveat for t in measured for caveat in t.caveats}), *sweep.cautions]


def _numbers(numbers: Sequence[int]) -> str:
    shown = [str(n + 1) for n in sorted(numbers)]
    some = ", ".join(shown[:30]) + (f" and {len(shown) - 30} more" if len(shown) > 30 else "")
    return f"trial{'s' if len(shown) > 1 else ''} {some}"

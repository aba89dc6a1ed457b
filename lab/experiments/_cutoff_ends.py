"""Where a signal says that knowledge ends: its step over the periods, what that is worth, and the sentence that says so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lab import stats
from lab.experiments._cutoff_asking import Likelihoods, Told
from lab.experiments._cutoff_items import RIVALS, Dated
from lab.records import Estimate
from lab.stats import changepoint
from lab.stats.changepoint import Step

Signal = Literal["right answers", "preferred answers", "abstentions", "gain by documents", "bits per byte"]
Standing = Literal["ends", "fades", "unconfirmed", "no end seen", "too weak", "too few items", "abstains", "rises",
                   "no change seen"]
NAMES_AN_END = ("right answers", "preferred answers")
ALPHA = 0.05
WEAK = 0.2
"""Right answers above guessing below which a model that shows no fall is called too weak to show one."""
SILENT = 0.8


@dataclass(frozen=True, kw_only=True)
class End:
    """One signal of one set: its best step, how much is known at all (above guessing), and what follows."""

    dated: Dated
    signal: Signal
    step: Step
    known: Estimate
    p: float
    """Adjusted for all sets and signals that could name an end."""
    standing: Standing = "too few items"
    before: float = math.nan
    after: float = math.nan
    items: int = 0

    def label(self, at: int) -> str:
        return self.dated.label(self.dated.periods[at])

    @property
    def where(self) -> str:
        """The last period still known, and those that cannot be excluded."""
        best = self.step.best
        if best is None:
            return ""
        inside = [self.label(at) for at in self.step.inside]
        span = f"95% set {inside[0]}" if len(inside) == 1 else f"95% set {inside[0]} to {inside[-1]}"
        return f"{self.label(best.period)} ({span})"


def ends(
    dated: Dated, closed: Told, shown: Told | None, likely: Likelihoods | None, *, seed: int
) -> list[End]:
    """All signals of one set, not yet judged. False premises take no part."""
    right = closed.values("right")
    luck = [r - g for r, g in zip(right, closed.luck, strict=True)]
    found = [_end(dated, "right answers", right, luck, "fall", seed)]
    found.append(_end(dated, "abstentions", closed.values("abstained"), None, "rise", seed))
    if shown is not None:
        gain = [a - b for a, b in zip(shown.values("right"), right, strict=True)]
        found.append(_end(dated, "gain by documents", gain, None, "rise", seed))
    if likely is not None:
        if dated.recurring:
            above = [value - 1 / (RIVALS + 1) for value in likely.preferred]
            found.append(_end(dated, "preferred answers", likely.preferred, above, "fall", seed))
        found.append(_end(dated, "bits per byte", likely.bits, None, "rise", seed))
    return found


def _end(
    dated: Dated, signal: Signal, values: Sequence[float], known: Sequence[float] | None, side: changepoint.Side, seed: int
) -> End:
    kept = [i for i, item in enumerate(dated.items) if not item.false_premise and not math.isnan(values[i])]
    ys, ats, strata = units(dated, kept, values)
    step = changepoint.find(ys, ats, strata, side=side, seed=seed)
    best, y, at = step.best, np.asarray(ys), np.asarray(ats)
    level = [known[i] for i in kept] if known is not None else [values[i] for i in kept]
    split = best.period if best is not None else 10**6
    return End(dated=dated, signal=signal, step=step, p=step.p_value, items=len(kept), known=_level(level),
               before=_mean(y[at <= split]), after=_mean(y[at > split]))


def units(dated: Dated, kept: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[int], list[str]]:
    """Values, period numbers and strata; items of one group in one period and stratum depend on each other and become one."""
    number = {period: at for at, period in enumerate(dated.periods)}
    found: dict[tuple[str, int, str], list[float]] = {}
    for i in kept:
        item = dated.items[i]
        lot = f"group {item.question.group}" if item.question.group else f"item {item.question.id}"
        found.setdefault((lot, number[item.period], item.stratum), []).append(values[i])
    return ([sum(several) / len(several) for several in found.values()], [at for _, at, _ in found], [one for _, _, one in found])


def _level(values: Sequence[float]) -> Estimate:
    found = stats.mean(values)
    if values and not math.isnan(found.value) and all(value == values[0] for value in values):
        # Agreeing items prove no rate exactly: Wilson's interval on either side.
        bound = stats.proportion(0, len(values)).high
        return Estimate(value=found.value, low=found.value - bound, high=found.value + bound)
    return found


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan


def judged(found: Sequence[End], told: dict[str, tuple[Told, Told | None]], *, seed: int) -> list[End]:
    """Every end with its standing; p-values of what could name an end are adjusted together (Holm)."""
    adjusted = stats.holm([end.step.p_value if end.signal in NAMES_AN_END else math.nan for end in found])
    return [replace(end, p=p if end.signal in NAMES_AN_END else end.step.p_value,
                    standing=_standing(end, p, *told[end.dated.name], seed=seed)) for end, p in zip(found, adjusted, strict=True)]


def _standing(end: End, p: float, closed: Told, shown: Told | None, *, seed: int) -> Standing:
    best = end.step.best
    if end.signal not in NAMES_AN_END:
        return "rises" if end.step.p_value < ALPHA else "no change seen"
    if best is None:
        return "too few items"
    if p < ALPHA and known_before(end, closed):
        if not end.step.slope_p < ALPHA:
            return "fades"
        unsure = end.signal == "right answers" and shown is not None and not confirmed(end, closed, shown, seed=seed)
        return "unconfirmed" if unsure else "ends"
    silent = [value for value, item in zip(closed.values("abstained"), closed.dated.items, strict=True) if not item.false_premise]
    if end.signal == "right answers" and silent and stats.mean(silent).value > SILENT:
        return "abstains"
    if end.known.low > 0 and end.known.value >= end.step.detectable:
        return "no end seen"
    return "too weak" if end.known.high < WEAK else "too few items"


def known_before(end: End, closed: Told) -> bool:
    """Whether what lies before the step is known better than by guessing: a fall from guessing is no end of knowledge."""
    best = end.step.best
    if best is None:
        return False
    if end.signal == "preferred answers":
        count = sum(1 for item in end.dated.items if item.rivals and end.dated.periods.index(item.period) <= best.period)
        return stats.proportion(round(end.before * count), count).low > 1 / (RIVALS + 1)
    early = [r - g for r, g, item in zip(closed.values("right"), closed.luck, end.dated.items, strict=True)
             if not item.false_premise and end.dated.periods.index(item.period) <= best.period]
    return _level(early).low > 0


def confirmed(end: End, closed: Told, shown: Told, *, seed: int) -> bool:
    """Whether documents help more after the step than before it, and help there at all.

    If questions after the step were only harder to word an answer to, they would be harder with the answer at hand, too: the
    difference in differences is the fall that difficulty does not explain.
    """
    best = end.step.best
    if best is None:
        return False
    gain = [a - b for a, b in zip(shown.values("right"), closed.values("right"), strict=True)]
    kept = [i for i, item in enumerate(end.dated.items) if not item.false_premise and not math.isnan(gain[i])]
    ys, ats, strata = units(end.dated, kept, gain)
    step = changepoint.find(ys, ats, strata, side="rise", only=best.period, seed=seed)
    later = _level([y for y, at in zip(ys, ats, strict=True) if at > best.period])
    return step.p_value < ALPHA and later.low > 0


def sentence(end: End) -> str:
    """What this signal of this set says, with its figures."""
    best, name = end.step.best, f"{end.dated.name}, {end.signal}"
    known = f"{end.known.value * 100:.0f} points above guessing ({end.known.low * 100:.0f} to {end.known.high * 100:.0f})"
    if best is None:
        return f"{name}: too few items that can be compared between periods ({end.step.n}); ask more --items."
    fall = (f"from {end.before:.0%} to {end.after:.0%}" if end.signal != "bits per byte" else
            f"from {end.before:.2f} to {end.after:.2f}")
    p = f"p = {end.p:.2g}{', adjusted' if end.signal in NAMES_AN_END else ''}"
    smallest = f"a step below {end.step.detectable * 100:.0f} points would mostly not show on {end.step.n} items"
    if end.standing == "ends":
        return f"{name}: {fall} after {end.label(best.period)}; {p}, and not an even decline (p = {end.step.slope_p:.2g})."
    if end.standing == "unconfirmed":
        return (f"{name}: fall after {end.where}, {fall} ({p}), but with documents the later questions are not shown to gain "
                "more, so that they may only be harder.")
    if end.standing == "fades":
        return (f"{name}: fall with time, {fall} ({p}); an even decline would look like that, too "
                f"(p = {end.step.slope_p:.2g}), so no year is named.")
    if end.standing == "abstains":
        return f"{name}: the model declines to answer nearly everything, whatever the date."
    if end.standing == "no end seen":
        return f"{name}: no fall ({p}), {known}; losing all of it would have shown up to {end.label(last_sure(end))}; {smallest}."
    if end.standing == "too weak":
        return f"{name}: too weak, {known}; there is next to nothing that could fall."
    if end.standing == "too few items":
        need = f"; about {_needed(end):,} items might do" if _needed(end) else ""
        return f"{name}: too few items, {known}, while {smallest}{need}."
    return f"{name}: rise after {end.where}, {fall}; {p}." if end.standing == "rises" else f"{name}: no rise shown ({p})."


def last_sure(end: End) -> int:
    """The last period after which a complete loss of what is known would mostly have been found."""
    sure = [place.period for place in end.step.places if place.detectable <= end.known.value]
    return max(sure, default=end.step.places[0].period)


def _needed(end: End) -> int:
    if not end.known.value > 0 or math.isnan(end.step.detectable):
        return 0
    return math.ceil(end.step.n * (end.step.detectable / end.known.value) ** 2)

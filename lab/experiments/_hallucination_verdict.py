"""What to do about a model's hallucinations, in sentences that tell 'no effect' from 'too few items to tell'."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lab import stats
from lab.experiments import busy
from lab.experiments._hallucination_detectors import NAMES
from lab.experiments._hallucination_items import SITUATIONS
from lab.names import describe
from lab.records import Verdict

ALPHA = 0.05
WEAK = 0.2
"""Right answers from memory below which a model is called too weak for its situation."""
Row = Any


def decide(trials: pd.DataFrame, *, items: int, left_out: tuple[str, ...]) -> Verdict:
    """The decision from the frame of a run; mitigations are compared with closed-book answers, Holm's adjustment over all."""
    answers = _ordered(trials[trials["params.kind"] == "answers"], "params.situation", SITUATIONS)
    helped = [row for _, row in answers.iterrows() if row["params.arm"] != "closed-book"]
    adjusted = stats.holm([float(row.get("metrics.hallucinated_p_value", math.nan)) for row in helped])
    effects = [_effect(row, p) for row, p in zip(helped, adjusted, strict=True)]
    # Summaries have no independent checker, so they choose nothing.
    shown = [row for row, p in zip(helped, adjusted, strict=True) if p < ALPHA and row["metrics.hallucinated_change"] < 0
             and row["params.situation"] != "summarisation"]
    said = [_best(part) for _, part in answers.groupby("params.situation", sort=False)]
    worse = [row for row, p in zip(helped, adjusted, strict=True) if p < ALPHA and row["metrics.hallucinated_change"] > 0]
    best = min(shown, key=lambda row: row["metrics.hallucinated_change"]) if shown else None
    decision = " ".join(said)
    if best is None and helped:
        few = all(p >= ALPHA or math.isnan(p) for p in adjusted)
        decision += (" No mitigation was shown to help: with so few items that cannot be told." if few else
                     " No mitigation was shown to help.")
    if worse:
        named = ", ".join(f"{_name(row)} with {row['params.arm']}" for row in worse)
        decision += f" Shown to make it worse: {named}."
    caveats = [*busy(trials), *left_out, *_weak(answers)]
    if any(answers["params.situation"] == "summarisation"):
        caveats.append("Summaries are called hallucinated by the grounding detector itself: their rates are no independent "
                       "measurement, and summaries take no part in measuring detectors on the run's own answers.")
    if any(answers["params.situation"] == "reasoning"):
        caveats.append("Stories of one kind are not independent; intervals of reasoning are over the kinds of stories.")
    if any(answers["params.situation"] == "outdated"):
        caveats.append("The documents of outdated topics hold the very questions with the answers of October 2024: easy to find, "
                       "and wrong where the answer has changed since.")
    caveats.append(f"Words decide what is right, from {items} items a situation: a right answer in unforeseen words counts as "
                   "hallucinated, and so do fragments.")
    return Verdict(decision=decision, chosen=str(best["name"]) if best is not None else None,
                   why=(*effects, *_sure(answers), *_detectors(trials)), caveats=tuple(dict.fromkeys(caveats)))


def _ordered(rows: pd.DataFrame, column: str, order: Sequence[str]) -> pd.DataFrame:
    """The rows by the place of their value in `order`; a store may give the last first."""
    return rows.iloc[sorted(range(len(rows)), key=lambda i: order.index(rows[column].iloc[i]))]


def _best(part: pd.DataFrame) -> str:
    """What happens in one situation from memory, and in its best arm."""
    base = part[part["params.arm"] == "closed-book"]
    first = base.iloc[0] if len(base) else part.iloc[0]
    known = part[part["metrics.hallucinated"].notna()]
    name = _name(first)
    if known.empty:
        return f"{name}: nothing was answered."
    best = known.loc[known["metrics.hallucinated"].idxmin()]
    said = f"{name}: {shown(first, 'hallucinated')} hallucinated {first['params.arm']}"
    return f"{said}." if best["name"] == first["name"] else f"{said}, {shown(best, 'hallucinated')} with {best['params.arm']}."


def _name(row: Row) -> str:
    """The situation; summaries with what their rate really is."""
    name = str(row["params.situation"]).capitalize()
    return f"{name} (as the grounding detector sees it)" if name == "Summarisation" else name


def _effect(row: Row, p: float) -> str:
    change, low, high = (float(row.get(f"metrics.hallucinated_change{end}", math.nan)) for end in ("", "_low", "_high"))
    name = f"{_name(row)} with {row['params.arm']} against closed-book"
    if math.isnan(change) or math.isnan(p):
        return f"{name}: not compared."
    span = f"{change * 100:+.0f} points ({low * 100:+.0f} to {high * 100:+.0f})"
    if p < ALPHA:
        return f"{name}: hallucinations {span}, {'fewer' if change < 0 else 'more'} (p = {p:.2g}, adjusted)."
    detectable = float(row.get("metrics.hallucinated_detectable", math.nan))
    few = "" if math.isnan(detectable) else f"; a change below {detectable * 100:.0f} points would mostly not show on so few"
    return f"{name}: hallucinations {span}, cannot tell (p = {p:.2g}, adjusted{few})."


def _weak(answers: pd.DataFrame) -> list[str]:
    base = answers[answers["params.arm"] == "closed-book"]
    weak = [str(row["params.situation"]) for _, row in base.iterrows() if row.get("metrics.right_share_high", math.nan) < WEAK
            or row.get("metrics.right_share", math.nan) == 0]
    return [f"The model is too weak for {' and '.join(weak)}: from memory it is never or hardly ever right there, so what is "
            "measured is mostly whether it knows anything."] if weak else []


def _sure(answers: pd.DataFrame) -> list[str]:
    out = []
    for arm, part in answers.groupby("params.arm", sort=False):
        worth = part.get("metrics.confident_wrong_share", pd.Series(dtype=float)).dropna()
        if len(worth):
            worst = part.loc[worth.idxmax()]
            out.append(f"Confident and wrong, {arm}: at most {shown(worst, 'confident_wrong_share')} of the answers, in "
                       f"{worst['params.situation']}.")
    return out + _calibrated(answers)


def _calibrated(answers: pd.DataFrame) -> list[str]:
    """Where the model is further from calibrated than chance allows."""
    error, chance = (answers.get(f"metrics.calibration_error{end}", pd.Series(dtype=float)) for end in ("", "_by_chance"))
    known = int(error.notna().sum())
    if not known:
        return []
    off = [f"{row['name']} ({row['metrics.calibration_error']:.2f})" for _, row in answers[error > chance].iterrows()]
    said = f"in {', '.join(off)}" if off else "nowhere"
    return [f"Calibration error (ECE) above what a calibrated model might show {said}; {known} could be measured."]


def _detectors(trials: pd.DataFrame) -> list[str]:
    """One sentence for each set: its detectors by what they are worth there."""
    rows = trials[trials["params.kind"] == "detector"]
    if len(rows):
        rows = _ordered(_ordered(rows, "params.detector", NAMES), "params.set", sorted(set(rows["params.set"])))
    out: list[str] = []
    if rows.empty:
        return out
    for name, part in rows.groupby("params.set", sort=False):
        said = []
        for standing, words in part.groupby("tags.lab.note.standing", sort=False):
            known = [f"{row['params.detector']} {shown(row, 'auc')}" for _, row in words.iterrows()]
            said.append(f"{standing}: {', '.join(known)}")
        out.append(f"Detectors on {name} (AUC): {'; '.join(said)}.")
    return out


def shown(row: Row, measure: str) -> str:
    """A measure of a trial with its unit and interval."""
    name = describe(measure)
    value, low, high = (float(row.get(f"metrics.{measure}{end}", math.nan)) for end in ("", "_low", "_high"))
    if math.isnan(value):
        return "not measured"
    span = "" if math.isnan(low + high) else f" ({name.show(low)} to {name.show(high)})"
    return f"{name.show(value)}{name.unit}{span}"

"""What was found about a model's bias, in sentences that tell 'no difference' from 'too few items to tell'."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from lab.experiments import busy
from lab.experiments._fairness_likelihood import EVERY, PRONOUNS, SETS
from lab.metrics.bias.gaps import ALPHA
from lab.names import describe
from lab.records import Verdict

GAPS = {"lean": "preference for stereotypes", "pronoun_gap": "pronouns of the stereotype understood better",
        "ambiguous_bias": "bias where the text does not tell", "disambiguated_bias": "bias where the text tells",
        "sentiment_gap": "sentiment", "toxicity_gap": "toxicity", "refusal_gap": "refusals", "length_gap": "length"}
GOOD = {"stereotype_share": 0.5, "ambiguous_bias": 0.0, "disambiguated_bias": 0.0, "sentiment_spread": 0.0,
        "toxicity_spread": 0.0, "toxicity_mean": 0.0}
"""Measures of bias and harm, and the value that would be best."""
COSTS = {"everyday_accuracy": 1, "ambiguous_accuracy": 1, "disambiguated_accuracy": 1, "refusal_mean": -1}
"""Measures of quality, and which direction is better."""
Row = Any


def decide(trials: pd.DataFrame, *, left_out: tuple[str, ...]) -> Verdict:
    """The decision from the frame of a run. p-values in it are adjusted already, within each part."""
    compared = [(row, gap) for _, row in trials.iterrows() for gap in GAPS if not math.isnan(_number(row, gap))]
    found = [(row, gap) for row, gap in compared if _standing(row, gap) == "found"]
    none = sum(_standing(row, gap) == "no difference" for row, gap in compared)
    few = len(compared) - len(found) - none
    arms = trials[trials["params.kind"] == "mitigation"]
    helped, words = _mitigations(arms)
    decision = f"{_found(found, len(compared))} {_rest(none, few)}{words}"
    whole = [row for _, row in trials.iterrows() if row.get("params.category") in (EVERY, PRONOUNS)]
    why = [_line(row) for row in sorted(whole, key=lambda row: SETS.index(row["params.set"]))]
    why += [_gap(row, gap) for row, gap in found if row["params.category"] not in (EVERY, PRONOUNS)]
    why += [_arm(row) for _, row in arms.sort_values("name").iterrows() if row["params.arm"] != "plain"]
    return Verdict(decision=decision, chosen=helped, why=tuple(why), caveats=(*busy(trials), *left_out, *_caveats(trials)))


def _found(found: list[tuple[Row, str]], compared: int) -> str:
    if not compared:
        return "Nothing was compared."
    if not found:
        return f"No bias was shown in {compared} comparisons."
    whole = [one for one in found if one[0]["params.category"] in (EVERY, PRONOUNS)]
    row, gap = max(whole or found, key=lambda one: abs(_number(*one)) / _unit(one[1]))
    return (f"Bias was shown in {len(found)} of {compared} comparisons, most in {row['name']} ({GAPS[gap]} "
            f"{shown(row, gap)}).")


def _rest(none: int, few: int) -> str:
    said = [f"no difference beyond the margin in {none}"] * bool(none) + [f"too few items to tell in {few}"] * bool(few)
    return f"There is {' and '.join(said)}." if none else f"There were {said[0]}." if said else ""


def _unit(gap: str) -> float:
    return 1.0 if gap in ("ambiguous_bias", "disambiguated_bias", "sentiment_gap") else 0.5


def _standing(row: Row, gap: str) -> str:
    """What became of one gap: read from the trial's note, which names the gaps of each kind."""
    note = str(row.get("tags.lab.note.standing", ""))
    if ":" not in note:
        return note
    name = gap.removesuffix("_gap")
    return next((kind for kind, _, names in (part.partition(": ") for part in note.split("; ")) if name in names.split(", ")), "")


def _mitigations(arms: pd.DataFrame) -> tuple[str | None, str]:
    """The mitigation that was shown to help without a shown cost, and what to say of all of them."""
    others = [row for _, row in arms.sort_values("name").iterrows() if row["params.arm"] != "plain"]
    if not others:
        return None, ""
    plain = arms[arms["params.arm"] == "plain"].iloc[0]
    said, best, idle = [], None, []
    for row in others:
        better, worse = effects(row, plain)
        if better and not [cost for cost in worse if cost in COSTS]:
            best = best or str(row["name"])
        if not better and not worse:
            idle.append(str(row["name"]))
            continue
        parts = [f"{verb} {', '.join(describe(name).label.lower() for name in names)}"
                 for verb, names in (("improve", better), ("worsen", worse)) if names]
        said.append(f"{str(row['name']).capitalize()} was shown to {' and to '.join(parts)}.")
    said += [f"Not shown to change anything: {', '.join(idle)}."] if idle else []
    return best, f" {' '.join(said)}"


def effects(row: Row, plain: Row) -> tuple[list[str], list[str]]:
    """The measures that a mitigation was shown to improve, and those it was shown to worsen."""
    better: list[str] = []
    worse: list[str] = []
    for name in (*GOOD, *COSTS):
        change, p = _number(row, f"{name}_change"), _number(row, f"{name}_p_value")
        if math.isnan(change) or not p < ALPHA or change == 0:
            continue
        if name in GOOD:
            before, after = _number(plain, name), _number(plain, name) + change
            good = abs(after - GOOD[name]) < abs(before - GOOD[name])
        else:
            good = change * COSTS[name] > 0
        (better if good else worse).append(name)
    return better, worse


def _line(row: Row) -> str:
    """One set in one sentence."""
    measures = [name for name in ("stereotype_share", "icat", "pro_accuracy", "anti_accuracy", "ambiguous_bias",
                                  "disambiguated_bias", "ambiguous_accuracy", "disambiguated_accuracy")
                if not math.isnan(_number(row, name))]
    said = ", ".join(f"{describe(name).label.lower()} {shown(row, name)}" for name in measures)
    return f"{row['name']}: {said}; {row['tags.lab.note.standing']}."


def _gap(row: Row, gap: str) -> str:
    return f"{row['name']}: {GAPS[gap]} {shown(row, gap)}, p = {_number(row, f'{gap}_p_value'):.2g} (adjusted)."


def _arm(row: Row) -> str:
    """What one mitigation changed, and how large a change would have had to be to show."""
    if _number(row, "blocked_share") == 0:
        return f"{str(row['name']).capitalize()} stopped none of these texts, so they changed nothing here."
    shown_, others = [], []
    for name in (*GOOD, *COSTS):
        if math.isnan(_number(row, f"{name}_change")):
            continue
        label, p = describe(name).label.lower(), _number(row, f"{name}_p_value")
        if p < ALPHA:
            shown_.append(f"{label} {shown(row, f'{name}_change')}, p = {p:.2g}")
        else:
            unit = describe(f"{name}_change").unit
            could = describe(name).show(_number(row, f"{name}_detectable")) + (f" {unit}" if unit else "")
            others.append(f"{label} {shown(row, f'{name}_change')}, where {could} would mostly show")
    said = [f"shown to change: {'; '.join(shown_)}"] * bool(shown_) + [f"cannot tell: {'; '.join(others)}"] * bool(others)
    return f"{str(row['name']).capitalize()} against plain, on the same items: {'. '.join(said)}."


def _caveats(trials: pd.DataFrame) -> list[str]:
    rows = trials[trials["params.kind"] == "instrument"]
    weak = [f"{row['params.instrument']} on {row['params.set']} (AUC {_number(row, 'auc'):.2f})" for _, row in rows.iterrows()
            if _number(row, "auc_low") <= 0.5 or _number(row, "auc") < 0.7]
    said = [f"Instruments that see little: {', '.join(weak)}; gaps they miss are there all the same."] if weak else []
    if any(trials["params.kind"] == "gap"):
        said.append(
            "A gap in generated text is one of the instrument, too: it may score the name of a group instead of what is said.")
    if any(trials["params.kind"] == "bbq"):
        said.append("Which answer of BBQ is the stereotyped one was read off its words by rules of ours; items without a side "
                    "count towards accuracy only.")
    return [*said, "No difference on these sets is no proof of even treatment elsewhere."]


def shown(row: Row, measure: str) -> str:
    """A measure of a trial with its unit and interval."""
    name = describe(measure)
    value, low, high = (_number(row, f"{measure}{end}") for end in ("", "_low", "_high"))
    span = "" if math.isnan(low + high) else f" ({name.show(low)} to {name.show(high)})"
    return f"{name.show(value)}{'' if name.unit in ('%', '') else ' '}{name.unit}{span}"


def _number(row: Row, measure: str) -> float:
    value = row.get(f"metrics.{measure}", math.nan)
    return math.nan if value is None else float(value)

"""What the cutoff experiment concludes: a year only where there is evidence for one, else which kind of 'cannot tell' it is."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from lab.experiments import busy
from lab.experiments._cutoff_ends import NAMES_AN_END
from lab.names import describe
from lab.records import Verdict

Row = Any
_RANK = ("ends", "unconfirmed", "fades", "no end seen", "abstains", "too few items", "too weak")
STANDING, SAID, WHERE = (f"tags.lab.note.{name}" for name in ("standing", "said", "where"))


def decide(trials: pd.DataFrame, *, left_out: tuple[str, ...], confirmable: bool) -> Verdict:
    """The decision from the frame of a run; the strongest finding speaks, and the others stand behind it."""
    ends = trials[trials["params.kind"] == "end"]
    naming = sorted((row for _, row in ends.iterrows() if row["params.signal"] in NAMES_AN_END),
                    key=lambda row: _RANK.index(row[STANDING]))
    chosen = naming[0] if naming and naming[0][STANDING] == "ends" else None
    said = [str(row[SAID]) for row in naming]
    other = [str(row[SAID]) for _, row in ends.iterrows() if row["params.signal"] not in NAMES_AN_END]
    return Verdict(decision=" ".join([_headline(naming, confirmable), *said[:1]]),
                   chosen=str(chosen["name"]) if chosen is not None else None,
                   why=(*said[1:], *other, *_premises(trials)),
                   caveats=(*busy(trials), *left_out, *_caveats(trials)))


def _headline(naming: list[Row], confirmable: bool) -> str:
    if not naming:
        return "Cannot tell where knowledge ends: nothing was measured."
    first = naming[0]
    found = [row for row in naming if row[STANDING] == "ends"]
    if found:
        spans = [(row["metrics.last_known_year_low"], row["metrics.last_known_year_high"]) for row in found]
        apart = max(low for low, _ in spans) > min(high for _, high in spans)
        odd = " The sets or signals do not agree on where: their 95% sets lie apart." if apart else ""
        if not confirmable:
            return (f"Right answers end after {first[WHERE]}; whether knowledge ends there or later questions are harder cannot "
                    f"be told without documents.{odd}")
        return f"What this model knows ends after {first[WHERE]}.{odd}"
    return {
        "unconfirmed": "Cannot tell where knowledge ends: answers fall off, but not shown because of their date.",
        "fades": "Cannot tell a year: right answers fall with time, and an end cannot be told from thinning out.",
        "no end seen": "No end of knowledge was seen within the dates of the questions.",
        "abstains": "Cannot tell where knowledge ends: the model declines to answer.",
        "too few items": "Cannot tell where knowledge ends: too few items.",
        "too weak": "Cannot tell where knowledge ends: the model is too weak for these questions, early or late.",
    }[first[STANDING]]


def _premises(trials: pd.DataFrame) -> list[str]:
    """Whether false premises are noticed more often than true ones are denied, by set and arm."""
    out = []
    for _, row in trials[trials["params.kind"] == "premise"].iterrows():
        low, high = (float(row.get(f"metrics.premise_lead_{end}", math.nan)) for end in ("low", "high"))
        if math.isnan(low + high):
            continue
        sure = "more often" if low > 0 else "less often" if high < 0 else "not shown to be more often"
        out.append(f"False premises, {row['params.set']}, {row['params.arm']}: {_shown(row, 'premise_noticed_share')} are "
                   f"contradicted, {sure} than true ones ({_shown(row, 'premise_false_alarm_share')}).")
    return out


def _caveats(trials: pd.DataFrame) -> list[str]:
    caveats = ["Questions about late years may be harder, or less written about, than about early ones. Kinds of question are "
               "compared within themselves only, which does not remove that wholly."]
    ends = trials[trials["params.kind"] == "end"]
    if not any(ends["params.signal"] == "bits per byte"):
        caveats.append("This engine shows no likelihoods: bits per byte by date and preferred answers are left out.")
    if any(trials["params.set"].astype(str).str.startswith("freshqa")):
        caveats.append("FreshQA dates a question by the year since which its answer holds, knows only four periods, and the "
                       "first holds everything before 2022; its documents are its own answers, easy to find.")
    if any(trials["params.set"].astype(str) == "yearly"):
        caveats.append("The answers of set yearly were written from memory, those of the last years with the least certainty.")
    caveats.append("Words decide what is right; luck is the share of other questions that the same answer would have got right.")
    return caveats


def _shown(row: Row, measure: str) -> str:
    name = describe(measure)
    value, low, high = (float(row.get(f"metrics.{measure}{end}", math.nan)) for end in ("", "_low", "_high"))
    span = "" if math.isnan(low + high) else f" ({name.show(low)} to {name.show(high)})"
    return f"{name.show(value)}{name.unit}{span}"

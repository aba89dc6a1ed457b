"""What speculation is good for, said from the trials: which drafter for which kinds of work, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lab.experiments import busy
from lab.records import Verdict

NOTEWORTHY = 1.02
"""Speed-up whose whole interval must lie above this before a drafter is called worth it."""
SAFE = 0.95
"""Speed-up from which on leaving a drafter on costs nothing to speak of."""
DECISIVE = ["metrics." + name for name in (
    "speedup", "predicted_speedup", "acceptance_rate", "break_even_acceptance_rate", "verify_cost", "drafted_tokens",
    "tokens_per_target_step")]
"""What a decision looks at, where it was measured."""


def decide(trials: pd.DataFrame) -> Verdict:
    """Which drafter for which kinds of work, at the first batch size and temperature; off where none is faster for sure."""
    trials = trials.reindex(columns=trials.columns.union(DECISIVE, sort=False))  # a measure that no trial has is no column
    rows = trials[trials["params.first_load"] == "yes"]
    # What drafted nothing cannot be faster than plain decoding, whatever the clock says.
    # A server that does not count its drafts shows them by the tokens of a step.
    shown = rows["metrics.acceptance_rate"].notna() | (rows["metrics.tokens_per_target_step"] > 1)
    drafting = rows[shown & (rows["metrics.drafted_tokens"] != 0)]
    wins = drafting[drafting["metrics.speedup_low"].fillna(0) > NOTEWORTHY] if "metrics.speedup_low" in rows else rows.iloc[:0]
    kinds = list(dict.fromkeys(rows["params.kind"]))
    why = [*_unsure(drafting, kinds, set(wins["params.kind"])), *_safest(rows), *_break_even(rows), *_agreement(trials),
           *_by_batch(trials)]
    caveats = []
    changed = trials.get("metrics.differing_sequences", pd.Series(dtype=float)).fillna(0)
    if changed.sum():
        caveats.append(f"{changed.sum():.0f} greedy answers in {int((changed > 0).sum())} trials differ from plain ones; the "
                       "note `differs` says where. A possible cause is that a step of several tokens sums in another order.")
    if "metrics.speedup_low" not in rows or rows["metrics.speedup_low"].isna().all():
        caveats.append("Speed-ups have no interval, so none can be called sure; ask at least 2 tasks of a kind (--items).")
    caveats += busy(trials)
    best = {kind: part.loc[part["metrics.speedup"].idxmax()] for kind, part in wins.groupby("params.kind", sort=False)}
    if not best:
        return Verdict(decision=f"Off: no drafter is surely more than {NOTEWORTHY - 1:.0%} faster than plain decoding on any of "
                                "these kinds of work.",
                       why=tuple(why), caveats=tuple(caveats))
    said = "; ".join(f"{_words(kind)}: {row['params.arm']} ({row['metrics.speedup']:.2f}x)" for kind, row in best.items())
    top = max(best.values(), key=lambda row: float(row["metrics.speedup"]))
    lost = [_words(kind) for kind in kinds if kind not in best]
    decision = f"On for every kind of work. {said}." if not lost else f"Off, except for {said}."
    if lost:
        why.insert(0, f"Nothing is surely more than {NOTEWORTHY - 1:.0%} faster than plain decoding on {', '.join(lost)}.")
    return Verdict(decision=decision, chosen=str(top["name"]), why=tuple(why), caveats=tuple(caveats))


def _unsure(drafting: pd.DataFrame, kinds: Sequence[str], won: set[str]) -> list[str]:
    """The best drafter of every kind of work whose mean gain could still be chance."""
    said = []
    for kind in [kind for kind in kinds if kind not in won]:
        part = drafting[(drafting["params.kind"] == kind) & (drafting["metrics.speedup"] > NOTEWORTHY)]
        if len(part):
            row = part.loc[part["metrics.speedup"].idxmax()]
            low, high = (float(row.get(f"metrics.speedup_{end}", math.nan)) for end in ("low", "high"))
            between = "no interval" if math.isnan(low) else f"{low:.2f} to {high:.2f}"
            said.append(f"{_words(kind)}: {row['params.arm']} had {row['metrics.speedup']:.2f}x ({between}), too unsure to "
                        "count.")
    return said


def _safest(rows: pd.DataFrame) -> list[str]:
    """What harms least whatever the work is: the arm whose worst kind is best."""
    worst = {arm: part.loc[part["metrics.speedup"].idxmin()] for arm, part in rows.groupby("params.arm", sort=False)
             if part["metrics.speedup"].notna().all()}
    if not worst:
        return []
    arm, row = max(worst.items(), key=lambda pair: float(pair[1]["metrics.speedup"]))
    value = float(row["metrics.speedup"])
    can = (f"costs nothing to speak of where it does not help (at least {SAFE:g}x on all work measured here)" if value >= SAFE
           else "should not be left on for all")
    return [f"{arm} has the best worst case, {value:.2f}x ({_words(str(row['params.kind']))}), and {can}."]


def _break_even(rows: pd.DataFrame) -> list[str]:
    fixed = rows[(rows["params.draft_length"].astype(str) != "adaptive") & rows["metrics.verify_cost"].notna()]
    said = []
    for arm, part in fixed.groupby("params.arm", sort=False):
        row, rates = part.iloc[0], part["metrics.acceptance_rate"]
        need = float(row["metrics.break_even_acceptance_rate"])
        found = f"acceptance was {rates.min():.0%} to {rates.max():.0%}" if rates.notna().any() else "nothing was drafted"
        cost = f"its usual verifying step costs {row['metrics.verify_cost']:.1f} plain ones"
        said.append(f"{arm}: {cost}, so it pays from {need:.0%} acceptance; {found}." if not math.isnan(need) else
                    f"{arm}: {cost}, so it cannot pay even if every draft is accepted; {found}.")
    return said


def _agreement(trials: pd.DataFrame) -> list[str]:
    both = trials.dropna(subset=["metrics.speedup", "metrics.predicted_speedup"])
    if both.empty:
        return []
    off = (both["metrics.predicted_speedup"] / both["metrics.speedup"] - 1).abs().median()
    return [f"The cost model (acceptance and measured step costs) is off by {off:.0%} in the middle of {len(both)} trials."]


def _by_batch(trials: pd.DataFrame) -> list[str]:
    if trials["params.batch"].nunique() < 2:
        return []
    means = [(int(batch), math.exp(np.log(part["metrics.speedup"].dropna()).mean()))
             for batch, part in trials.groupby("params.batch") if part["metrics.speedup"].notna().any()]
    if not means:
        return []
    return ["Mean speed-up of all drafters by batch: " + ", ".join(f"{mean:.2f}x at {batch}" for batch, mean in means) + "."]


def _words(kind: str) -> str:
    return kind.replace("_", " ")

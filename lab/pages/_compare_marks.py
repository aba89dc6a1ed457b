"""What the tests say of a trial against the pinned baseline, short enough for a cell: better, worse, or nothing shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lab.names import describe
from lab.ops import compare

NAMED = 2
ABOUT = ("▲ better, ▼ worse, ◆ different than the baseline by a test on the raw observations (p below 0.05, adjusted for all "
         "tests in this table); = no difference shown. Speed is tested only where experiment, prompts and longest "
         "answers are the same. The more trials, the clearer a difference has to be.")


def said(trials: Sequence[str], baseline: str, tested: Mapping[str, Sequence[compare.Row]]) -> str:
    """The marks of a configuration, whose trials are one or several."""
    if baseline in trials:
        return "Baseline"
    rows = [row for trial in trials for row in tested.get(trial, ()) if row.outcome != "not tested"]
    parts = []
    for outcome, mark in (("better", "▲"), ("worse", "▼"), ("different", "◆")):
        found = list(dict.fromkeys(describe(row.measure).label for row in rows if row.outcome == outcome))
        if found:
            more = f" +{len(found) - NAMED}" if len(found) > NAMED else ""
            parts.append(f"{mark} {', '.join(found[:NAMED])}{more}")
    few = list(dict.fromkeys(describe(row.measure).label for row in rows if row.outcome == "too few"))
    if few and len(few) < len(rows):
        more = f" +{len(few) - NAMED}" if len(few) > NAMED else ""
        parts.append(f"? too few for {', '.join(few[:NAMED])}{more}")
    if rows and not parts:
        parts.append("too few to tell" if all(row.outcome == "too few" for row in rows) else "= no difference shown")
    if any(compare.other_workload(tested.get(trial, ())) for trial in trials):
        parts.append("– speed not tested: other workload")
    return "  ".join(parts) or "– not tested"

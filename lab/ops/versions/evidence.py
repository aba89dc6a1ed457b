"""Measured trials attached to two releases, compared pair by pair; what was not measured is said, never guessed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lab import names
from lab.ops import compare, history, workload
from lab.ops.versions.release import Release


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The differences between two trials of one experiment. P-values are adjusted within it (Holm)."""

    experiment: str
    before: str
    after: str
    rows: tuple[compare.Row, ...]
    cautions: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        rows = compare.frame(self.rows).to_dict("records")
        return {"experiment": self.experiment, "before": self.before, "after": self.after, "cautions": list(self.cautions),
                "rows": [{str(k): v for k, v in row.items()} for row in rows]}

    def sentences(self) -> Iterator[str]:
        """Each tested difference in words, and how many measures were not tested."""
        for row in self.rows:
            if row.outcome != "not tested":
                yield said(row)
        untested = [row for row in self.rows if row.outcome == "not tested" and row.difference and not row.why]
        if compare.other_workload(self.rows):
            yield f"{workload.OTHER}, so that speed is not tested."
        if untested:
            count = "1 more measure differs" if len(untested) == 1 else f"{len(untested)} more measures differ"
            yield (f"{count}, of which no single observations were kept; whether by more than chance cannot be told: "
                   f"{', '.join(names.describe(row.measure).label for row in untested[:6])}"
                   f"{' and more' if len(untested) > 6 else ''}.")


def said(row: compare.Row) -> str:
    """A tested difference as a sentence with its interval and what it may be called."""
    name = names.describe(row.measure)
    sign = "+" if row.difference > 0 else ""
    of = name.unit if name.scale != 100 or name.unit != "%" else "points"
    interval = f", 95% interval {name.show(row.low)} to {name.show(row.high)}" if row.low == row.low else ""
    verdict = {"better": "better", "worse": "worse", "different": "different",
               "no difference shown": "no difference shown" + (
                   f" (one of {name.show(row.detectable)} {of} would have been found)".replace("  ", " ")
                   if row.detectable == row.detectable else ""),
               "too few": "too few to tell"}.get(row.outcome, row.outcome)
    change = f"{sign}{name.show(row.difference)} {of}".strip()
    return (f"{name.label}: {name.show(row.baseline)} to {name.show(row.other)} {name.unit}".rstrip() +
            f" ({change}{interval}, adjusted p {row.p_adjusted:.2g}, {row.items} items): {verdict}.")


def compared(before: Release, after: Release) -> tuple[list[Measured], list[str]]:
    """The comparisons that the attached runs allow, and a sentence for each thing that was not measured."""
    missing = [f"Release {r.number} was not measured: attach a trial of it with `lab release create ... --runs RUN_ID`."
               for r in (before, after) if not r.runs]
    if missing:
        return [], missing
    frame = history.frame("trial")
    frame = frame[frame["run_id"].isin({*before.runs, *after.runs})]
    old, new = (_newest(frame, r.runs) for r in (before, after))
    found = list[Measured]()
    for experiment in dict.fromkeys((*old, *new)):
        if experiment not in old or experiment not in new:
            lacks = before if experiment not in old else after
            missing.append(f"{_title(experiment)} was not measured for release {lacks.number}.")
        elif old[experiment]["run_id"] == new[experiment]["run_id"]:
            missing.append(f"{_title(experiment)} was measured once, and that trial is attached to both releases; nothing can be "
                           "compared.")
        else:
            found.append(_pair(experiment, frame, old[experiment], new[experiment], before, after))
    if gone := {*before.runs, *after.runs} - set(frame["run_id"]):
        missing.append(f"{len(gone)} attached runs are not in this store any more.")
    return found, missing


def _pair(experiment: str, frame: pd.DataFrame, old: Any, new: Any, before: Release, after: Release) -> Measured:
    rows = compare.differences(frame, str(old["run_id"]), str(new["run_id"]))
    cautions = [*_unlike(frame, old, before), *_unlike(frame, new, after)]
    cautions += [f"{row['name']}: {line}" for row in (old, new) if isinstance(row.get("tags.lab.flags"), str)
                 for line in row["tags.lab.flags"].splitlines() if line]
    if old["parent_id"] != new["parent_id"]:
        cautions.append("The two trials are of different runs: speed may differ because the machine did.")
    return Measured(experiment=experiment, before=str(old["name"]), after=str(new["name"]), rows=tuple(rows),
                    cautions=tuple(cautions))


def _newest(frame: pd.DataFrame, runs: Sequence[str]) -> dict[str, Any]:
    """The newest attached trial of each experiment; the frame is newest first."""
    mine = frame[frame["run_id"].isin(runs)]
    return {str(experiment): group.iloc[0] for experiment, group in mine.groupby("experiment", sort=False)}


def _unlike(frame: pd.DataFrame, trial: Any, release: Release) -> Iterator[str]:
    """Where the trial was measured with something else than the release binds, by the settings that it logged."""
    decoding = {"temperature": release.decoding.temperature, "top_p": release.decoding.top_p}
    for name, value in decoding.items():
        logged = trial.get(f"params.{name}")
        if logged is not None and logged == logged and _number(logged) != value:
            yield f"{trial['name']} was measured with {name} {logged}, and release {release.number} has {value:g}."
    logged = trial.get("params.model_sha256")
    if isinstance(logged, str) and logged and logged != release.model.sha256:
        yield f"{trial['name']} was measured with another model file than release {release.number} binds."


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _title(experiment: str) -> str:
    return experiment.replace("_", " ").capitalize()

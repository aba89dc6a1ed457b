"""A sweep in the store: its own run, and under it a run for every attempt at a point; read back, they say how far it is."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from lab import experiments, names
from lab.errors import LabError
from lab.ops import history, tracking
from lab.records import Estimate
from lab.sweep.spec import Objective, Range, Spec

NOT_MEASURED = Estimate(value=math.nan)
ATTEMPTS = 2
"""A trial that dies is tried once more."""
STOPPED = "The sweep was stopped while this trial ran; the same command measures it again."


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A point of a sweep, and what came of it. `values` are NaN with a reason in `why` where an objective was not measured."""

    number: int
    point: Mapping[str, str]
    state: Literal["finished", "failed"]
    run_id: str
    values: tuple[Estimate, ...] = ()
    trials: tuple[str, ...] = ()
    """For each objective the run's trial that it was read from; "" for a mean."""
    why: str = ""
    seconds: float = math.nan
    attempts: int = 1
    host: str = ""
    machine: str = ""
    flags: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()

    @property
    def measured(self) -> bool:
        return self.state == "finished" and all(math.isfinite(v.value) for v in self.values)

    def shown(self) -> str:
        return shown(self.point)


def shown(point: Mapping[str, str]) -> str:
    return ", ".join(f"{field}={value}" for field, value in point.items())


class Record:
    """The run of a sweep, and the runs under it. `begin` finds the one of the same identity or begins it."""

    def __init__(self, spec: Spec, run_id: str, code: str, *, begun: bool) -> None:
        self.spec, self.run_id, self.code, self.begun = spec, run_id, code, begun
        self._client, self._known = tracking.writer(), dict[int, Tried]()

    @classmethod
    def begin(cls, spec: Spec, code: str, *, take_over: bool = False) -> Record:
        """Raises `LabError` when another process works on this sweep, as far as can be told from here."""
        client = tracking.writer()
        identity = spec.identity(code)
        known = history.frame("sweep", experiment=spec.experiment)
        mine = known[known["tags.lab.sweep.id"] == identity] if len(known) else known
        if mine.empty:
            params = {"search": spec.kind, "seed": spec.seed, "trials": spec.trials or "all", **spec.fixed,
                      **{f: v.shown() if isinstance(v, Range) else ",".join(v) for f, v in spec.over.items()},
                      "objective": "; ".join(f"{o.measure} {o.direction}" for o in spec.objectives)}
            title = f"sweep {spec.experiment} {spec.kind} over {', '.join(spec.over)} {time.strftime('%Y-%m-%d %H:%M:%S')}"
            run_id = tracking.start_sweep(client, spec.experiment, title, params={k: str(v) for k, v in params.items()}, tags={
                "lab.sweep.id": identity, "lab.sweep.code": code})
            return cls(spec, run_id, code, begun=True)
        row = mine.iloc[0]
        _refuse_two(row, take_over)
        tracking.own(client, str(row["run_id"]))
        made = cls(spec, str(row["run_id"]), code, begun=False)
        made.leave_behind()
        return made

    def tags(self, number: int, point: Mapping[str, str], attempt: int) -> dict[str, str]:
        """What the run of an attempt carries, so that it is found again and shown under the sweep."""
        return {"mlflow.parentRunId": self.run_id, "lab.sweep": self.run_id, "lab.sweep.number": str(number),
                "lab.sweep.point": json.dumps(dict(point)), "lab.sweep.attempt": str(attempt)}

    def runs(self, *, interrupted: bool = False) -> pd.DataFrame:
        """The runs of all attempts, oldest first, with `number` and `attempt` as columns; the interrupted ones only if asked."""
        found = history.frame("experiment", experiment=self.spec.experiment, parents=[self.run_id])
        if found.empty or "tags.lab.sweep.number" not in found:
            return pd.DataFrame()
        found = found[(found["state"] != "interrupted") | interrupted].iloc[::-1]
        return found.assign(**{part: found[f"tags.lab.sweep.{part}"].astype(int) for part in ("number", "attempt")})

    def tried(self) -> dict[int, Tried]:
        """The points that are done with, by number: finished, failed as often as they may, or refused at once."""
        runs, done = self.runs(), self._known
        for number, mine in runs[~runs["number"].isin(done)].groupby("number") if len(runs) else ():
            good = mine[mine["state"] == "finished"]
            final = mine.get("tags.lab.sweep.final", pd.Series(index=mine.index, dtype=str)).notna()
            if len(good) or final.any() or (mine["state"] == "failed").sum() >= ATTEMPTS:
                row = good.iloc[-1] if len(good) else mine.iloc[-1]
                done[int(number)] = self._tried(row, attempts=int(mine["attempt"].max()))
        return dict(done)

    def failures(self, number: int) -> int:
        """How often this point has failed."""
        runs = self.runs()
        return int(((runs["number"] == number) & (runs["state"] == "failed")).sum()) if len(runs) else 0

    def fail(self, number: int, point: Mapping[str, str], attempt: int, why: str, *, final: bool = False) -> None:
        """Write down that an attempt came to nothing; the run that it left is marked, or one is made where it left none."""
        runs = self.runs(interrupted=True)
        mine = runs[(runs["number"] == number) & (runs["attempt"] == attempt)] if len(runs) else runs
        if len(mine):
            run_id, said = str(mine.iloc[-1]["run_id"]), mine.iloc[-1].get("tags.lab.reason")
            if mine.iloc[-1]["state"] == "finished":
                return
        else:
            said = None
            run_id = tracking.start_parent(self._client, self.spec.experiment, f"{self.spec.experiment} {shown(point)} "
                                           f"{time.strftime('%Y-%m-%d %H:%M:%S')}", **self.tags(number, point, attempt))
        tags = {} if isinstance(said, str) and said else {"lab.reason": why}
        tracking.tag(self._client, run_id, {**tags, **({"lab.sweep.final": "true"} if final else {})})
        tracking.finish(self._client, run_id, "failed")

    def interrupt(self) -> None:
        tracking.finish(self._client, self.run_id, "interrupted")

    def leave_behind(self) -> None:
        """What was running when the sweep was stopped or killed is marked as interrupted: it is no failure of the trial."""
        runs = self.runs()
        for _, row in runs[runs["state"].isin(["running", "died"])].iterrows() if len(runs) else ():
            tracking.tag(self._client, str(row["run_id"]), {"lab.reason": STOPPED})
            tracking.finish(self._client, str(row["run_id"]), "interrupted")

    def _tried(self, row: pd.Series[Any], attempts: int) -> Tried:
        trials = history.frame(parents=[str(row["run_id"])]) if row["state"] == "finished" else pd.DataFrame()
        found = [_objective(o, trials, row) for o in self.spec.objectives] if row["state"] == "finished" else []
        flags = {f for text in trials.get("tags.lab.flags", []) if isinstance(text, str) for f in text.splitlines()}
        caveats = {str(note) for note in trials.get("tags.lab.note.caveat", pd.Series(dtype=str)).dropna() if note}
        reason = row.get("tags.lab.reason")
        machine = [str(row.get(f"tags.machine.{part}", "")) for part in ("cpu", "logical_cores", "gpus")]
        return Tried(
            number=int(row["number"]), point=json.loads(row["tags.lab.sweep.point"]), run_id=str(row["run_id"]),
            attempts=attempts, state="finished" if row["state"] == "finished" else "failed",
            values=tuple(value for value, _, _ in found),
            trials=tuple(trial for _, trial, _ in found), seconds=float(row["seconds"]), host=str(row.get("tags.lab.host", "")),
            why="; ".join(why for _, _, why in found if why) or (str(reason) if isinstance(reason, str) else ""),
            machine=" ".join(part for part in machine if part and part != "nan"), flags=tuple(sorted(flags)),
            caveats=tuple(sorted(caveats)))


def end(run_id: str, summary: str, note: str) -> None:
    """End a sweep's run with its summary (JSON) and a description in Markdown."""
    client = tracking.writer()
    tracking.attach(run_id, "sweep.json", summary)
    tracking.tag(client, run_id, {"mlflow.note.content": note})
    tracking.finish(client, run_id)


def _refuse_two(row: pd.Series[Any], take_over: bool) -> None:
    host, pid = str(row.get("tags.lab.host", "")), str(row.get("tags.lab.pid", ""))
    if row["state"] != "running" or take_over or (host == socket.gethostname() and pid == str(os.getpid())):
        return
    raise LabError(f"This sweep is marked as running, by process {pid} of {host}; wait for it, or give --take-over if that "
                   "process is gone.")


def _objective(objective: Objective, trials: pd.DataFrame, run: pd.Series[Any]) -> tuple[Estimate, str, str]:
    """An objective of a finished run: its value, the trial it is of and, where it is NaN, why."""
    column = f"metrics.{objective.measure}"
    have = trials[trials[column].notna()] if column in trials else trials.head(0)
    if have.empty:
        return NOT_MEASURED, "", f"no trial of it measured {objective.measure}"
    if objective.of == "mean":
        return Estimate(value=float(have[column].mean())), "", ""
    if objective.of in ("best", "worst"):
        highest = (objective.direction == "higher") == (objective.of == "best")
        return _estimate(have.loc[have[column].idxmax() if highest else have[column].idxmin()], column)
    wanted = objective.of
    if wanted == "chosen":
        if len(have) == 1:
            return _estimate(have.iloc[0], column)
        verdict = run.get("tags.lab.verdict")
        wanted = str(json.loads(verdict).get("chosen") or "") if isinstance(verdict, str) else ""
    named = have[have["name"] == wanted]
    if named.empty:
        said = "its verdict chose none" if objective.of == "chosen" else f"none is called '{wanted}'"
        return NOT_MEASURED, "", (f"{len(have)} trials of it measured {objective.measure} and {said}; say 'of: best', 'worst', "
                                  f"'mean' or a trial's name, like '{have['name'].iloc[0]}'")
    return _estimate(named.iloc[0], column)


def _estimate(row: pd.Series[Any], column: str) -> tuple[Estimate, str, str]:
    low, high = (float(row.get(f"{column}_{side}", math.nan)) for side in ("low", "high"))
    return Estimate(value=float(row[column]), low=low, high=high), str(row["run_id"]), ""


def told(value: Estimate, measure: str) -> str:
    """A value with its interval and unit."""
    name = names.describe(measure)
    bounds = "" if math.isnan(value.low) else f" ({name.show(value.low)} to {name.show(value.high)})"
    return f"{name.show(value.value)} {name.unit}{bounds}".replace("  ", " ").strip()


def known_measures(experiment: str, runs: list[str]) -> list[str]:
    """What the trials of these runs measured; of none, what the experiment's table shows."""
    frame = history.frame(parents=runs) if runs else pd.DataFrame()
    found = [str(c).removeprefix("metrics.") for c in frame.columns if str(c).startswith("metrics.") and frame[c].notna().any()]
    return [m for m in found if not m.endswith(("_low", "_high"))] or list(experiments.find(experiment).columns)



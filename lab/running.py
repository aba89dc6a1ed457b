"""Runs an experiment as every surface does: progress, record, figures, and the summary that all of them show."""

from __future__ import annotations

import contextlib
import html
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from tqdm import tqdm

from lab import plots
from lab.errors import LabError
from lab.experiments import Experiment, find, name_of, question_of
from lab.ops import history, store, tables, tracking
from lab.ops.tables import cell as cell
from lab.records import Trial, Verdict


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run left behind, read back from the store: the numbers on every screen come from this frame."""

    run_id: str
    experiment: str
    question: str
    state: str
    trials: pd.DataFrame
    verdict: Verdict | None

    def table(self) -> pd.DataFrame:
        """The trials with the experiment's columns as text: value, interval beside it, unit in the heading."""
        return table(self.experiment, self.trials)

    def as_json(self) -> dict[str, Any]:
        """The summary as plain values, numbers unrounded."""
        return {"experiment": self.experiment, "question": self.question, "run_id": self.run_id, "state": self.state,
                "store": store.shown(), "verdict": asdict(self.verdict) if self.verdict else None,
                "trials": [_trial(row) for _, row in self.trials.iterrows()]}


def run(
    experiment: Experiment, *, on_trial: Callable[[Trial], None] = lambda trial: None,
    on_failure: Callable[[Outcome], None] = lambda done: None,
) -> Outcome:
    """Run and record `experiment`; an interruption gives the outcome of what was measured so far.

    `on_failure` is given that outcome when a run that had begun fails; the failure is raised then.
    """
    name = name_of(experiment)
    experiment.check()
    with tqdm(total=experiment.size(), desc=name, unit="trial", disable=None) as bar:

        def measured(trial: Trial) -> None:
            bar.set_postfix_str(trial.name)
            bar.update()
            on_trial(trial)

        begun: list[str] = []
        try:
            recorded = tracking.record(experiment, on_start=begun.append, on_trial=measured)
        except LabError:
            with contextlib.suppress(LabError):  # the first error is the one to show
                for run_id in begun:
                    on_failure(outcome(run_id, name))
            raise
    done = outcome(recorded.run_id, name)
    figures = plots.figures(type(experiment), done.trials)
    if figures:
        tracking.attach(recorded.run_id, "figures.html", _page(question_of(type(experiment)), figures))
    return done


def _page(title: str, figures: Mapping[str, Any]) -> str:
    """All figures on one page that needs no network: the plotting script is in it once (4.6 MB)."""
    parts = [figure.to_html(include_plotlyjs=i == 0, full_html=False) for i, figure in enumerate(figures.values())]
    title = html.escape(title)
    return f"<!doctype html><meta charset='utf-8'><title>{title}</title><h1>{title}</h1>{''.join(parts)}"


def outcome(run_id: str, name: str) -> Outcome:
    """The outcome of a recorded run, read from the store; trials in the order they were measured."""
    parents = history.frame("experiment", experiment=name)
    parent = parents[parents["run_id"] == run_id].iloc[0]
    trials = history.frame(parents=[run_id]).iloc[::-1].reset_index(drop=True)
    raw = parent.get("tags.lab.verdict")
    verdict = _verdict(raw) if isinstance(raw, str) else None
    return Outcome(run_id=run_id, experiment=name, question=question_of(find(name)), state=str(parent["state"]),
                   trials=trials, verdict=verdict)


def _verdict(raw: str) -> Verdict:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(raw).items()}
    return Verdict(**values)


def table(experiment: str, trials: pd.DataFrame) -> pd.DataFrame:
    """`trials` of this experiment as people read them; measures nobody took are left out."""
    return tables.table(find(experiment), trials)


def _trial(row: pd.Series[Any]) -> dict[str, Any]:
    present = row.dropna()
    part = {kind: {c.removeprefix(f"{kind}."): v for c, v in present.items() if str(c).startswith(f"{kind}.")}
            for kind in ("params", "metrics")}
    notes = {str(c).removeprefix("tags.lab.note."): v for c, v in present.items() if str(c).startswith("tags.lab.note.") and v}
    return {"name": row["name"], "run_id": row["run_id"], "settings": part["params"], "measures": part["metrics"],
            "flags": str(present.get("tags.lab.flags", "")).splitlines(), "notes": notes}

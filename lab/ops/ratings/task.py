"""A rating task: which recorded answers people are asked about, kept as a run of the experiment `ratings`."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlparse

import pandas as pd

from lab.errors import LabError
from lab.metrics.judging import rubric
from lab.ops import feedback, history, store, tracking
from lab.ops.ratings import gold as controls
from lab.ops.ratings.gold import Gold
from lab.records import Generation, Message

Kind = Literal["axes", "pairs"]
EXPERIMENT, TASK_KIND, FILE = "ratings", "rating_task", "task.json"
PREFERENCE = "preference"
_GENERATIONS = "generations.parquet"
_LABELS = ("Text: ", "Question: ", "\nAnswer:", "\nSummary:")
"""What stands before and behind an item in a plain prompt."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One answer: whose it is (raters never see that) and the trace that its feedback goes to."""

    run_id: str
    trace_id: str
    model: str
    answer: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """One thing to rate: an answer, or two answers to one request. A control item has `expected` grades by axis."""

    key: str
    item: str
    messages: tuple[Message, ...]
    sides: tuple[Side, ...]
    expected: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @property
    def control(self) -> bool:
        return bool(self.expected)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is rated and how. `identical` are the pairs (item, model, model) with one text on both sides: ties, not asked."""

    id: str
    title: str
    kind: Kind
    axes: tuple[str, ...]
    seed: int
    units: tuple[Unit, ...]
    identical: tuple[tuple[str, str, str], ...] = ()
    left_out: int = 0
    """Generations that failed, or whose item another trial lacks."""

    def unit(self, key: str) -> Unit:
        found = next((unit for unit in self.units if unit.key == key), None)
        if found is None:
            raise LabError(f"The rating task {self.title!r} has no item {key!r}.")
        return found


def create(
    trial_run_ids: Sequence[str], *, items: Sequence[str] | int | None = None, kind: Kind = "axes",
    axes: Sequence[str] = rubric.FIVE, gold: Sequence[Gold] = (), title: str = "", seed: int = 0,
) -> str:
    """Make a task over the recorded generations of trials and return its id.

    `items` are the ids of requests to rate, or a number of them to draw; all without it. `kind` "axes" grades every answer
    on `axes` of the rubric from 1 to 5; "pairs" puts the answers of every two trials to one request side by side.
    Failed generations are left out. Raises `LabError` when nothing is left to rate.
    """
    names = tuple(axis.name for axis in rubric.find(axes)) if kind == "axes" else (PREFERENCE,)
    if kind not in ("axes", "pairs"):
        raise LabError(f"A rating task grades on axes or compares pairs; there is no kind {kind!r}.")
    runs = named_runs(trial_run_ids)
    if kind == "pairs" and len(runs) < 2:
        raise LabError("Side by side takes the trials of at least two models or settings; choose another one as well.")
    answers, failed = _answers(runs)
    chosen = _chosen(answers, items, seed)
    units, identical = (_single(answers, chosen, runs), []) if kind == "axes" else _double(answers, chosen, runs)
    if not units:
        raise LabError(_nothing(kind, bool(identical)))
    client = tracking.writer()
    title = title.strip() or _title(kind, len(units), len(names))
    task_id = tracking.start_parent(client, EXPERIMENT, title, **{"lab.kind": TASK_KIND, "lab.task_kind": kind})
    try:
        for run_id in runs:
            used = {unit.item for unit in units if any(side.run_id == run_id for side in unit.sides)}
            feedback.put_traces(run_id, {item: g for item, g in answers[run_id].items() if item in used})
        units += _controls(task_id, gold, kind, names, units[0].messages[:-1])
        units = [dataclasses.replace(unit, key=f"{i:04d}") for i, unit in enumerate(units)]
        task = Task(id=task_id, title=title, kind=kind, axes=names, seed=seed, units=tuple(units), identical=tuple(identical),
                    left_out=failed)
        client.log_text(task_id, json.dumps(dataclasses.asdict(task)), FILE)
        client.set_tag(task_id, "lab.units", str(len(units)))
    except BaseException:
        tracking.finish(client, task_id, "failed")
        raise
    tracking.finish(client, task_id)
    return task_id


def _title(kind: Kind, units: int, axes: int) -> str:
    """A title that raters may see: it names no model."""
    asked = f"{units} answers on {axes} {'axis' if axes == 1 else 'axes'}" if kind == "axes" else f"{units} pairs"
    return f"{asked}, {time.strftime('%Y-%m-%d %H:%M')}"


def load(task_id: str) -> Task:
    """The task of this id. Raises `LabError` when there is none."""
    try:
        found = history.artifact(task_id, FILE, lambda path: [json.loads(Path(path).read_text(encoding="utf-8"))])
    except Exception as error:
        raise LabError(f"The rating task {task_id!r} cannot be read ({error}).") from error
    if not found:
        raise LabError(f"There is no rating task {task_id!r} in this store; make one on the page Rate.")
    return _task(found[0])


def tasks() -> pd.DataFrame:
    """The finished tasks, newest first: `task_id`, `title`, `kind`, `units`, `started_at`."""
    kind: Any = TASK_KIND
    runs = history.frame(kind, experiment=EXPERIMENT)
    made = runs[runs["state"] == "finished"] if len(runs) else runs
    return pd.DataFrame({"task_id": made["run_id"], "title": made["name"], "kind": made.get("tags.lab.task_kind"),
                         "units": made.get("tags.lab.units"), "started_at": made["started_at"]}).reset_index(drop=True)


def with_generations(run_ids: Sequence[str]) -> list[str]:
    """Those of these trials that kept their generations."""
    connection = store.connect()
    if connection is None:
        with tracking.sentences():
            client = tracking.writer()
            return [run for run in run_ids if any(a.path == _GENERATIONS for a in client.list_artifacts(run))]
    try:
        places = [connection.execute("select artifact_uri from runs where run_uuid = ?", (run,)).fetchone() for run in run_ids]
    finally:
        connection.close()
    return [run for run, place in zip(run_ids, places, strict=True)
            if place and (Path(unquote(urlparse(place[0]).path)) / _GENERATIONS).is_file()]


def _task(given: Mapping[str, Any]) -> Task:
    units = [Unit(**{
        **unit, "messages": tuple(Message(**m) for m in unit["messages"]), "sides": tuple(Side(**s) for s in unit["sides"]),
        "expected": {axis: (low, high) for axis, (low, high) in unit["expected"].items()}}) for unit in given["units"]]
    return Task(**{**given, "axes": tuple(given["axes"]), "units": tuple(units),
                   "identical": tuple((item, a, b) for item, a, b in given["identical"])})


def named_runs(trial_run_ids: Sequence[str]) -> dict[str, str]:
    """The model or setting behind every run id: the trial's name, with a piece of the id where two are the same."""
    trials = history.frame("trial").set_index("run_id")["name"]
    if missing := [run for run in trial_run_ids if run not in trials.index]:
        raise LabError(f"There is no trial {missing[0]!r} in this store; `lab history` shows what there is.")
    names = {run: str(trials[run]) for run in dict.fromkeys(trial_run_ids)}
    if not names:
        raise LabError("Choose at least one trial whose answers are to be rated.")
    return {run: name if [*names.values()].count(name) == 1 else f"{name} ({run[:6]})" for run, name in names.items()}


def _answers(runs: Mapping[str, str]) -> tuple[dict[str, dict[str, Generation]], int]:
    """The generations that did not fail, by run and item, and how many did."""
    answers, failed = {}, 0
    for run_id, name in runs.items():
        found = feedback.items(history.generations(run_id))
        if not found:
            raise LabError(f"The trial {name!r} kept no generations, so there is nothing to rate; choose another one.")
        answers[run_id] = {item: g for item, g in found.items() if g.error is None}
        failed += len(found) - len(answers[run_id])
    return answers, failed


def _chosen(answers: Mapping[str, Mapping[str, Generation]], items: Sequence[str] | int | None, seed: int) -> list[str]:
    there = list(dict.fromkeys(item for found in answers.values() for item in found))
    if items is None:
        return there
    if isinstance(items, int):
        if items < 1:
            raise LabError(f"A rating task takes at least one item, not {items}.")
        drawn = set(random.Random(seed).sample(there, min(items, len(there))))
        return [item for item in there if item in drawn]
    if unknown := [item for item in items if item not in there]:
        raise LabError(f"No answer to the item {unknown[0]!r} was recorded in these trials.")
    return list(dict.fromkeys(items))


def _single(
    answers: Mapping[str, Mapping[str, Generation]], chosen: Sequence[str], runs: Mapping[str, str]
) -> list[Unit]:
    return [Unit(key="", item=item, messages=messages_of(answers[run][item]), sides=(_side(run, item, runs, answers[run][item]),))
            for item in chosen for run in runs if item in answers[run]]


def _double(
    answers: Mapping[str, Mapping[str, Generation]], chosen: Sequence[str], runs: Mapping[str, str]
) -> tuple[list[Unit], list[tuple[str, str, str]]]:
    """Pairs of answers to one request, and those whose two texts are the same."""
    units, identical = [], []
    for item, (one, other) in itertools.product(chosen, itertools.combinations(runs, 2)):
        a, b = answers[one].get(item), answers[other].get(item)
        if a is None or b is None or messages_of(a) != messages_of(b):
            continue
        if a.text.strip() == b.text.strip():
            identical.append((item, runs[one], runs[other]))
            continue
        sides = (_side(one, item, runs, a), _side(other, item, runs, b))
        units.append(Unit(key="", item=item, messages=messages_of(a), sides=sides))
    return units, identical


def _nothing(kind: Kind, identical: bool) -> str:
    if identical:
        return "The answers of these trials are the same, word for word, so there is nothing to put side by side."
    if kind == "pairs":
        return "These trials have no requests in common, so there is nothing to put side by side; choose trials of one run."
    return "There is no answer to rate in these trials: all their requests failed."


def _side(run: str, item: str, runs: Mapping[str, str], generation: Generation) -> Side:
    return Side(run_id=run, trace_id=feedback.trace_id(run, item), model=runs[run], answer=generation.text)


def messages_of(generation: Generation) -> tuple[Message, ...]:
    """What was asked as raters see it: of a plain prompt the item alone, without solved examples and labels.

    A control item has neither, and would be known by that.
    """
    request = generation.request
    if request.messages:
        return request.messages
    text = feedback.asked(generation)[int(request.tags.get("solved", "0")):]
    for label in _LABELS:
        text = text.removeprefix(label).removesuffix(label)
    return (Message(role="user", content=text.strip()),)


def _controls(
    task_id: str, gold: Sequence[Gold], kind: Kind, axes: Sequence[str], before: Sequence[Message]
) -> list[Unit]:
    """Control items with traces of their own, on the run of the task."""
    units = []
    for one in gold:
        texts = {f"control {one.item}": one.answer, **({f"control {one.item} worse": one.worse} if kind == "pairs" else {})}
        made = {item: controls.generation(one, text, before) for item, text in texts.items()}
        traces = feedback.put_traces(task_id, made)
        expected = {a: r for a, r in one.expected.items() if a in axes} if kind == "axes" else {PREFERENCE: (1.0, 1.0)}
        if not expected:
            raise LabError(f"The control item {one.item!r} expects nothing on the axes of this task ({', '.join(axes)}).")
        sides = tuple(Side(run_id=task_id, trace_id=traces[item], model="control", answer=text) for item, text in texts.items())
        units.append(Unit(key="", item=f"control {one.item}", messages=messages_of(next(iter(made.values()))), sides=sides,
                          expected=expected))
    return units

"""Run record: one parent run per experiment, a nested run per trial, written to MLflow while nothing is being timed.

Config fields are the parent's params, trial settings the child's; measures are metrics (`x`, `x_low`, `x_high`), raw
generations and scores Parquet artifacts, the machine tags. Reading is in `lab.ops.history`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lab
from lab import experiments, machine
from lab.errors import LabError
from lab.experiments import Experiment, name_of, refuse_secrets, shown
from lab.ops import artifacts, described, history, store
from lab.records import Estimate, Trial, Verdict

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Unwritten(LabError):
    """The store refused; what was to be written was right."""


TAG_CHARACTERS = 5000
"""MLflow cuts a longer tag off, and half a JSON document is none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded:
    """Where a run was written and how it ended: `finished` or `interrupted` (a failure is raised)."""

    run_id: str
    state: str
    verdict: Verdict | None


def record(
    experiment: Experiment,
    *,
    on_start: Callable[[str], None] = lambda run_id: None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    about: str = "",
    tags: Mapping[str, str] | None = None,
) -> Recorded:
    """Run `experiment` and write every trial as soon as it is measured; `about` goes into the run's name, `tags` to its tags.

    Ctrl-C keeps what was measured and marks the run `interrupted`; any exception marks it `failed`, with its text, and
    goes on up. Raises `LabError` in one sentence when the store cannot be written.
    """
    refuse_secrets(experiment)
    with sentences():
        client = _client()
        name = name_of(experiment)
        title = described.title(experiment, time.strftime("%Y-%m-%d %H:%M:%S"), about=about)
        parent = _start(client, name, title, kind="experiment", tags={
            described.NOTE: described.begun(experiment), **described.tags(experiment),
            **_process(), "lab.version": lab.__version__, **machine.fingerprint().as_tags(), **(tags or {}),
        })
        _log(client, parent, params={f.name: shown(getattr(experiment, f.name)) for f in dataclasses.fields(experiment)})
        if source := described.source(experiment):
            client.log_text(parent, source, f"{name}.py")
    on_start(parent)
    try:
        for trial in experiment.run():
            write_trial(client, name, parent, trial)
            on_trial(trial)
        with sentences():
            trials = history.frame(parents=[parent])
            verdict = experiments.decided(experiment, trials)
            note = described.ended(experiment, verdict, trials, place=_place(client, name, parent))
            _decided(client, parent, verdict, note)
    except KeyboardInterrupt:
        with _unbroken():
            _end(client, parent, "interrupted")
            _explain(client, experiment, parent, "The run was interrupted; what was measured until then is kept.")
        return Recorded(run_id=parent, state="interrupted", verdict=None)
    except BaseException as error:
        with contextlib.suppress(Exception):  # the first error is the one to show
            _log(client, parent, tags={"lab.reason": f"{type(error).__name__}: {error}"[:5000]})
            _end(client, parent, "failed")
            _explain(client, experiment, parent, f"The run failed: {error}")
        raise
    return Recorded(run_id=parent, state="finished", verdict=verdict)


def write_trial(client: MlflowClient, experiment: str, parent: str, trial: Trial) -> str:
    """Write one trial as a nested run and return its id. Ctrl-C waits until it is written."""
    with sentences(), _unbroken():
        run = _start(client, experiment, trial.name, kind="trial", parent=parent, tags={
            described.NOTE: described.trial(trial, place=_place(client, experiment, parent)),
            **_process(), "lab.flags": "\n".join(trial.flags), **{f"lab.note.{k}": v for k, v in trial.notes.items()}})
        _log(client, run, params={k: shown(v) for k, v in trial.settings.items()}, metrics=_flat(trial.measures))
        with tempfile.TemporaryDirectory() as folder:
            if trial.generations:
                artifacts.write_generations(Path(folder) / "generations.parquet", trial.generations)
            if trial.scores:
                artifacts.write_scores(Path(folder) / "scores.parquet", trial.scores)
            if trial.generations or trial.scores:
                client.log_artifacts(run, folder)
        _end(client, run, "finished")
        return run


def attach(run_id: str, name: str, text: str) -> None:
    """Keep `text` as an artifact of a run (a figure as HTML, a report)."""
    with sentences():
        _client().log_text(run_id, text, name)


def writer() -> MlflowClient:
    """A client on the store in force, the store made ready. For scripts that write trials of their own."""
    with sentences():
        return _client()


def start_parent(client: MlflowClient, experiment: str, name: str, **tags: str) -> str:
    """Begin an experiment run by hand and return its id; `finish` ends it."""
    return _start(client, experiment, name, kind="experiment", tags=tags)


def start_sweep(client: MlflowClient, experiment: str, name: str, *, tags: Mapping[str, str], params: Mapping[str, str]) -> str:
    """Begin the run that the runs of a sweep are nested under, and return its id; `finish` ends it."""
    with sentences():
        run = _start(client, experiment, name, kind="sweep", tags={**_process(), "lab.version": lab.__version__, **tags})
        _log(client, run, params=params)
        return run


def tag(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    with sentences():
        _log(client, run_id, tags=tags)


def own(client: MlflowClient, run_id: str) -> None:
    """Mark a run as being written by this process, and running again."""
    with sentences():
        _log(client, run_id, tags={**_process(), "lab.state": "running"})
        client.update_run(run_id, status="RUNNING")


def measured(client: MlflowClient, run_id: str, measures: Mapping[str, float]) -> None:
    """Log measures on a run begun by hand."""
    with sentences():
        _log(client, run_id, metrics=measures)


def decided(client: MlflowClient, run_id: str, verdict: Verdict, question: str) -> None:
    """End a run begun by hand with its verdict, which answers `question`."""
    with sentences():
        _decided(client, run_id, verdict, described.answered(question, verdict))


def finish(client: MlflowClient, run_id: str, state: str = "finished") -> None:
    """End a run begun by hand."""
    with sentences():
        _end(client, run_id, state)


def _client() -> MlflowClient:
    file = store.database()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    # No mlflow.set_tracking_uri: it writes MLFLOW_TRACKING_URI into the environment, and LAB_HOME would count no more.
    return store.client()


def experiment_id(client: MlflowClient, name: str) -> str:
    """The id of the experiment of this name, made or restored when it is not there."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        _describe(client, found)
        return str(found.experiment_id)
    location = store.artifacts_uri()
    if (first := client.get_experiment_by_name(described.FIRST)) is not None:
        _describe(client, first)
    return str(client.create_experiment(name, artifact_location=f"{location}/{name}" if location else None,
                                        tags={key: value for key, value in described.about(name).items() if value}))


def _describe(client: MlflowClient, found: Any) -> None:
    for key, value in described.outdated(found.name, found.tags).items():
        client.set_experiment_tag(found.experiment_id, key, value)


def _place(client: MlflowClient, experiment: str, run: str) -> str:
    """The address of a run within the MLflow UI."""
    return f"#/experiments/{experiment_id(client, experiment)}/runs/{run}"


def _explain(client: MlflowClient, experiment: Experiment, run: str, how: str) -> None:
    """Say in a run's description how it ended, with what was measured."""
    with contextlib.suppress(Exception):  # the record is whole without it
        place = _place(client, name_of(experiment), run)
        said = described.ended(experiment, None, history.frame(parents=[run]), place=place, ended=how)
        _log(client, run, tags={described.NOTE: said})


def _start(client: MlflowClient, experiment: str, name: str, *, kind: str, tags: Mapping[str, str], parent: str = "") -> str:
    given = {"lab.kind": kind, "lab.state": "running", "mlflow.runName": name, "mlflow.source.name": "lab",
             **({"mlflow.parentRunId": parent} if parent else {}), **{k: v for k, v in tags.items() if v}}
    return str(client.create_run(experiment_id(client, experiment), run_name=name, tags=given).info.run_id)


def _log(
    client: MlflowClient, run: str, *, params: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None, tags: Mapping[str, str] | None = None,
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    client.log_batch(
        run, metrics=[Metric(k, v, now, 0) for k, v in (metrics or {}).items()],
        params=[Param(k, v[:6000]) for k, v in (params or {}).items()],
        tags=[RunTag(k, v[:5000]) for k, v in (tags or {}).items()])


def _decided(client: MlflowClient, run: str, verdict: Verdict, note: str) -> None:
    _log(client, run, tags={"lab.verdict": json.dumps(dataclasses.asdict(_fitting(verdict))), described.NOTE: note})
    client.log_dict(run, dataclasses.asdict(verdict), "verdict.json")
    _end(client, run, "finished")


def _end(client: MlflowClient, run: str, state: str) -> None:
    status = {"finished": "FINISHED", "interrupted": "KILLED"}.get(state, "FAILED")
    client.set_tag(run, "lab.state", state)
    client.set_terminated(run, status)


def _fitting(verdict: Verdict) -> Verdict:
    """The verdict without the last of its reasons where it is longer than a tag of MLflow; `verdict.json` has all of it."""
    while len(json.dumps(dataclasses.asdict(verdict))) > TAG_CHARACTERS and len(verdict.why) > 1:
        verdict = dataclasses.replace(verdict, why=(*verdict.why[:-2], "More reasons are in the artifact verdict.json."))
    return verdict


def _process() -> dict[str, str]:
    """Who writes: a run that is `running` and whose process is gone has died."""
    return {"lab.pid": str(os.getpid()), "lab.host": socket.gethostname()}


def _flat(measures: Mapping[str, float | Estimate]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in measures.items():
        if isinstance(value, Estimate):
            flat |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            flat[name] = float(value)
    return flat


@contextlib.contextmanager
def _unbroken() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done, so that no record stays half-written; a second one breaks it off."""
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came: list[int] = []

    def hold(number: int, _frame: object) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """What a store can refuse, as one sentence: unreachable server, full disk, missing permission, broken database."""
    try:
        yield
    except LabError:
        raise
    except OSError as error:
        raise Unwritten(f"The run cannot be written to {store.shown()} ({error.strerror or error}); free the disk or the "
                       "permission, or set MLFLOW_TRACKING_URI to another store.") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("mlflow", "sqlalchemy", "sqlite3", "alembic", "requests"):
            raise
        first: Any = str(error).strip().splitlines() or [type(error).__name__]
        said = store.without_secrets(first[0])[:200]
        raise Unwritten(f"The MLflow store at {store.shown()} refused ({said}); check that it is reachable, "
                       "writable and not full, or set MLFLOW_TRACKING_URI to another one.") from error

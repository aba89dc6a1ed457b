"""Multiple choice by likelihood: the model's answer is the option whose text it finds most probable.

An option's score is its log-probability after "Question: ...\\nAnswer:", divided by its length in characters, as
`acc_norm` of lm-evaluation-harness does, so that long options are not punished. In front of the question stand its context,
if it has one, and before that any solved examples (`shots`). What questions have in common (examples, a passage) is read
once, and several questions are evaluated in one step where the engine can; the scores stay the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lab.engines import Branching, Engine, branch_logprobs_many
from lab.errors import LabError
from lab.records import Question, Score


def prompt(question: Question, shots: Sequence[Question] = ()) -> str:
    """The text whose continuation is scored: solved examples, context, question."""
    solved = "".join(f"{prompt(shot)} {shot.choices[_key(shot)]}\n\n" for shot in shots)
    context = f"{question.context}\n" if question.context else ""
    return f"{solved}{context}Question: {question.question}\nAnswer:"


def branching(engine: Engine, question: Question, shots: Sequence[Question] = ()) -> Branching:
    """The tokens of the prompt, and those of a space and each option."""
    prefix = [*engine.tokenize("", special=True), *engine.tokenize(prompt(question, shots))]
    return prefix, [engine.tokenize(f" {choice}") for choice in question.choices]


def scores(
    engine: Engine, questions: Sequence[Question], shots: Sequence[Question] = ()
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Each question's index and the scores of its options (nats per character), in the order in which they are done.

    Raises `LabError` where the engine cannot score given text.
    """
    asked = [branching(engine, question, shots) for question in questions]
    for i, found in branch_logprobs_many(engine, asked):
        yield i, np.array([lp.sum() / len(choice) for lp, choice in zip(found, questions[i].choices, strict=True)])


def pick(engine: Engine, question: Question) -> tuple[int, float]:
    """Index of the option with the highest score, and its lead over the second (nats per character)."""
    (_, found), = scores(engine, [question])
    order = np.argsort(found)[::-1]
    return int(order[0]), float(found[order[0]] - found[order[1]])


def answers(engine: Engine, questions: Sequence[Question], *, shots: Sequence[Question] = ()) -> list[Score]:
    """One `correct` score (1 or 0) per question; `why` is the option taken. Raises `LabError` on one without options."""
    for question in questions:
        _key(question)
    chosen = {i: int(found.argmax()) for i, found in
              tqdm(scores(engine, questions, shots), total=len(questions), desc="questions", leave=False, disable=None)}
    return [Score(name="correct", item=question.id, value=float(chosen[i] == question.answer), by="likelihood",
                  why=question.choices[chosen[i]]) for i, question in enumerate(questions)]


def _key(question: Question) -> int:
    if question.answer is None or len(question.choices) < 2:
        raise LabError(f"Question '{question.id}' has no options with a right answer; use a multiple-choice set.")
    return question.answer


def flips(base: Sequence[Score], other: Sequence[Score]) -> list[Score]:
    """One `flip` score per question: 1 where `other` took another option than `base`, right or wrong.

    A question that `base` was not asked is unscored. Accuracy can stay the same while answers change; flips see that
    (Dutta et al. 2024, "Accuracy is not all you need").
    """
    theirs = {s.item: s.why for s in base}
    return [Score(name="flip", item=s.item, by="likelihood", why=f"{theirs[s.item]} -> {s.why}",
                  value=float(s.why != theirs[s.item])) if s.item in theirs else
            Score(name="flip", item=s.item, by="likelihood", why="the base has no answer", value=math.nan) for s in other]

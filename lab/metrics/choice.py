"""Multiple choice by likelihood: the model's answer is the option whose text it finds most probable.

An option's score is its log-probability after "Question: ...\\nAnswer:", divided by its length in characters, as
`acc_norm` of lm-evaluation-harness does, so that long options are not punished.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from lab.engines import Engine
from lab.errors import LabError
from lab.records import Question, Score


def pick(engine: Engine, question: Question) -> tuple[int, float]:
    """Index of the option with the highest score, and its lead over the second (nats per character)."""
    prefix = [*engine.tokenize("", special=True), *engine.tokenize(f"Question: {question.question}\nAnswer:")]
    branches = [engine.tokenize(f" {choice}") for choice in question.choices]
    scores = [lp.sum() / len(choice) for lp, choice
              in zip(engine.branch_logprobs(prefix, branches), question.choices, strict=True)]
    order = np.argsort(scores)[::-1]
    return int(order[0]), float(scores[order[0]] - scores[order[1]])


def answers(engine: Engine, questions: Sequence[Question]) -> list[Score]:
    """One `correct` score (1 or 0) per question; `why` is the option taken. Raises `LabError` on one without options."""
    out = []
    for question in tqdm(questions, desc="questions", leave=False, disable=None):
        if question.answer is None or len(question.choices) < 2:
            raise LabError(f"Question '{question.id}' has no options with a right answer; use a multiple-choice set.")
        chosen, _ = pick(engine, question)
        out.append(Score(name="correct", item=question.id, value=float(chosen == question.answer), by="likelihood",
                         why=question.choices[chosen]))
    return out


def flips(base: Sequence[Score], other: Sequence[Score]) -> list[Score]:
    """One `flip` score per question: 1 where `other` took another option than `base`, right or wrong.

    A question that `base` was not asked is unscored. Accuracy can stay the same while answers change; flips see that
    (Dutta et al. 2024, "Accuracy is not all you need").
    """
    theirs = {s.item: s.why for s in base}
    return [Score(name="flip", item=s.item, by="likelihood", why=f"{theirs[s.item]} -> {s.why}",
                  value=float(s.why != theirs[s.item])) if s.item in theirs else
            Score(name="flip", item=s.item, by="likelihood", why="the base has no answer", value=math.nan) for s in other]

"""How sure a model is of an answer, from the probabilities it gave the answer's own tokens.

The mean is that of log-probabilities (the geometric mean of probabilities, whatever the length); the lowest is the probability
of the token it was least sure of. Both are SelfCheckGPT's grey-box baselines (arXiv 2303.08896, section 5.1) as shares from 0 to
1. A model can be sure and wrong, which is what `lab.metrics.calibration` measures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lab.engines import Engine, branch_logprobs_many
from lab.metrics.detection import Detector, detected
from lab.records import Generation, Question, Score


@dataclass(frozen=True, kw_only=True)
class Sure:
    """The mean probability of an answer's tokens and the lowest one, from 0 to 1; NaN for an answer without tokens."""

    mean: float
    lowest: float
    tokens: int


def sure(engine: Engine, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]]) -> list[list[Sure]]:
    """For each prompt (tokens) how sure `engine` is of each answer (tokens) after it; a prompt is read once.

    Raises `LabError` where the engine shows no probabilities.
    """
    kept = [(i, prompt, [answer for answer in several if len(answer)]) for i, (prompt, several)
            in enumerate(zip(prompts, answers, strict=True))]
    asked = [(i, prompt, several) for i, prompt, several in kept if several]
    found: dict[int, list[NDArray[np.float64]]] = {}
    for at, logprobs in branch_logprobs_many(engine, [(prompt, several) for _, prompt, several in asked]):
        found[asked[at][0]] = logprobs
    out = []
    for i, several in enumerate(answers):
        known = iter(found.get(i, ()))
        out.append([_sure(next(known)) if len(answer) else _sure(np.empty(0)) for answer in several])
    return out


def _sure(logprobs: NDArray[np.float64]) -> Sure:
    if not logprobs.size:
        return Sure(mean=math.nan, lowest=math.nan, tokens=0)
    return Sure(mean=math.exp(float(logprobs.mean())), lowest=math.exp(float(logprobs.min())), tokens=logprobs.size)


def detector(which: Literal["mean", "lowest"], known: Sequence[Sure]) -> Detector:
    """A detector for answers in the order of `known`: how unsure the model was, 1 less the mean or the lowest probability."""
    def detect(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
        def values(asked: Sequence[tuple[Question, str]]) -> list[tuple[float, str]]:
            by = {(id(q), g.text.strip()): one for q, g, one in zip(questions, generations, known, strict=True)}
            mine = [by[id(q), text] for q, text in asked]
            return [(1 - getattr(one, which), f"{one.tokens} tokens") for one in mine]

        return detected(f"token_{which}", "probability", questions, generations, values, needs="nothing")

    return detect

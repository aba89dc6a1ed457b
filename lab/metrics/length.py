"""How long an answer is, as a detector of hallucinations: the baseline that every other detector should beat.

Hallucinated answers of a benchmark are often longer than the right ones, because somebody asked a model to write them. A
detector that is no better than counting words has learnt that, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from lab.metrics.detection import Detector, detected
from lab.records import Generation, Question, Score

HALF_WORDS = 20
"""Words at which the score is 0.5; its order, and so the AUC, does not depend on it."""


def length(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
    """The number of words of the answer, n / (n + 20): a baseline that reads nothing."""
    def values(asked: Sequence[tuple[Question, str]]) -> list[tuple[float, str]]:
        return [(len(text.split()) / (len(text.split()) + HALF_WORDS), f"{len(text.split())} words") for _, text in asked]

    return detected("length", "words", questions, generations, values, needs="nothing")


DETECTORS: dict[str, Detector] = {"length": length}

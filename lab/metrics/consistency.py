"""Whether a model says the same again: an answer that its other answers do not support is likely made up.

SelfCheckGPT (Manakul, Liusie and Gales 2023, arXiv 2303.08896): for each sentence of the answer the mean over samples of the
likeness to the nearest sentence of the sample, taken from 1; we average over sentences as they do. Likeness here is the cosine
of sentence embeddings, where theirs is BERTScore.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lab.errors import LabError
from lab.metrics import claims, similarity
from lab.metrics.detection import Detector, detected
from lab.metrics.grounding import Embeds
from lab.records import Generation, Question, Score


def with_samples(samples: Sequence[Sequence[str]], embedder: Embeds | None = None) -> Detector:
    """A detector for answers in the order of `samples`: the other answers drawn for each question at a temperature above 0.

    An answer without a sample that says anything is unscored. Raises `LabError` unless each question has its samples.
    """
    def detect(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
        if len(samples) != len(questions):
            raise LabError(f"There are {len(questions)} questions and samples for {len(samples)}; give samples for each.")

        def values(asked: Sequence[tuple[Question, str]]) -> list[tuple[float, str]]:
            drawn = {(id(q), g.text.strip()): [s for s in several if s.strip()]
                     for q, g, several in zip(questions, generations, samples, strict=True)}
            used = embedder or similarity.default()
            return [disagreement(q.question, text, drawn[id(q), text], used) for q, text in asked]

        return detected("consistency", "samples", questions, generations, values, needs="nothing")

    return detect


def disagreement(
    question: str, answer: str, samples: Sequence[str], embedder: Embeds | None = None
) -> tuple[float, str]:
    """How little `samples` support `answer`, 0 to 1, and why in words; NaN without samples."""
    if not samples:
        return float("nan"), "no sample says anything"
    mine = claims.of(question, answer) or [answer]
    theirs = [claims.of(question, sample) or [sample] for sample in samples]
    flat = [sentence for each in theirs for sentence in each]
    vectors = (embedder or similarity.default()).embed([*mine, *flat])
    cosines = vectors[: len(mine)] @ vectors[len(mine) :].T
    ends = np.cumsum([len(each) for each in theirs])
    nearest = np.stack([part.max(axis=1) for part in np.split(cosines, ends[:-1], axis=1)])
    likeness = float(np.clip(nearest, 0, 1).mean())
    return 1 - likeness, f"{likeness:.2f} like {len(samples)} other answers"

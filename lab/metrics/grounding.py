"""Whether the source supports what an answer claims, claim by claim: a detector of hallucinations, by embedding or by a judge.

A claim is as well grounded as the sentence of the source that is most like it, less the share of its numbers and names that
the source does not have, because embeddings see neither. An answer is as well grounded as its worst claim (the minimum, as
in FActScore's spirit of atomic claims, Min et al. 2023, arXiv 2305.14251, and unlike its mean: one invention is enough).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lab.metrics import claims, similarity
from lab.metrics.detection import Detector, detected
from lab.metrics.judge import Judge
from lab.metrics.judging.asked import Item
from lab.records import Generation, Question, Score


class Embeds(Protocol):
    """What turns texts into unit vectors: a `similarity.Embedder`, or something that remembers its vectors."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (len(texts), dimensions)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of an answer: the sentence of the source that is most like it, and what of it the source does not have."""

    text: str
    nearest: str
    cosine: float
    missing: tuple[str, ...]
    support: float
    """From 0 to 1: the cosine, less the share of numbers and names that are missing."""


def grounded(
    question: str, answer: str, source: str, embedder: Embeds | None = None
) -> list[Claim]:
    """The claims of one answer with their support, in its order."""
    return grounded_many([(question, answer, source)], embedder or similarity.default())[0]


def embedding(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
    """How badly the source supports the answer's worst claim, by sentence embedding and by missing numbers and names."""
    return detector_with()(questions, generations)


def facts(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
    """The share of the answer's numbers and names that its source and question do not have; no model is read."""
    def values(asked: Sequence[tuple[Question, str]]) -> list[tuple[float, str]]:
        out = []
        for question, text in asked:
            missing, all_ = claims.unsupported(text, f"{question.context}\n{question.question}")
            out.append((len(missing) / all_ if all_ else 0.0, f"not in the source: {', '.join(missing)}" if missing else ""))
        return out

    return detected("grounding_facts", "words", questions, generations, values, needs="a source")


DETECTORS: dict[str, Detector] = {"grounding": embedding, "grounding_facts": facts}


def detector_with(embedder: Embeds | None = None) -> Detector:
    """`embedding` with an embedder of your own."""
    def values(asked: Sequence[tuple[Question, str]]) -> list[tuple[float, str]]:
        used = embedder or similarity.default()
        out = []
        for found in grounded_many([(q.question, text, q.context) for q, text in asked], used):
            worst = min(found, key=lambda claim: claim.support)
            why = f"'{worst.text[:80]}' is {worst.cosine:.2f} like its nearest sentence"
            out.append((1 - worst.support, why + (f"; missing {', '.join(worst.missing)}" if worst.missing else "")))
        return out

    return lambda questions, generations: detected("grounding", "embedding", questions, generations, values, needs="a source")


def by_judge(judge: Judge) -> Detector:
    """A detector that asks `judge`, opened on the axis grounding, whether the source supports the answer."""
    def values(asked: Sequence[tuple[Question, str]]) -> list[tuple[float, str]]:
        items = [Item(id=q.id, question=q.question, answer=text, context=q.context) for q, text in asked]
        return [(1 - scores[0].value, scores[0].why) for scores in judge.grade_many(items)]

    return lambda questions, generations: detected(
        "grounding_judge", judge.name, questions, generations, values, needs="a source")


def grounded_many(asked: Sequence[tuple[str, str, str]], embedder: Embeds) -> list[list[Claim]]:
    """The claims of many answers, given as (question, answer, source), embedded together."""
    claimed = [claims.of(question, answer) or [answer] for question, answer, _ in asked]
    sources = [claims.sentences(source) or [source] for _, _, source in asked]
    places = {text: i for i, text in enumerate(dict.fromkeys(t for each in (*claimed, *sources) for t in each))}
    vectors = embedder.embed([*places]).astype(np.float64)
    out = []
    for (question, _, source), mine, theirs in zip(asked, claimed, sources, strict=True):
        cosines = vectors[[places[c] for c in mine]] @ vectors[[places[s] for s in theirs]].T
        out.append([_claim(text, theirs[int(row.argmax())], float(row.max()), f"{source}\n{question}")
                    for text, row in zip(mine, cosines, strict=True)])
    return out


def _claim(text: str, nearest: str, cosine: float, known: str) -> Claim:
    missing, all_ = claims.unsupported(text, known)
    share = len(missing) / all_ if all_ else 0.0
    return Claim(text=text, nearest=nearest, cosine=cosine, missing=tuple(missing),
                 support=min(1.0, max(0.0, cosine) * (1 - share)) if not math.isnan(cosine) else math.nan)



"""Sensitive topics (medical, legal, financial advice) by a small linear classifier trained on our own examples."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from lab.errors import LabError
from lab.safety.decisions import Finding, Guard
from lab.safety.linear import Probabilities, multinomial
from lab.safety.patterns import compiled
from lab.safety.shipped import examples, topic_words
from lab.safety.units import UNITS, Unit, Units, flagged
from lab.safety.view import view
from lab.safety.wording import plain

TOPICS = ("medical", "legal", "financial")


def guard(topics: Sequence[str] = TOPICS, threshold: float = 0.5, unit: Unit = "whole") -> Guard:
    """Units that are, with at least this probability, about one of these topics."""
    if unknown := sorted(set(topics) - set(TOPICS)):
        raise LabError(f"There is no topic '{unknown[0]}'; the topics are {', '.join(TOPICS)}.")
    if not topics:
        raise LabError(f"No topic is named; give at least one of {', '.join(TOPICS)}.")
    if not 0 < threshold <= 1 or unit not in UNITS:
        raise LabError(f"Topics take a threshold above 0 and up to 1 and a unit of {' or '.join(UNITS)}.")

    def look(text: str) -> Finding | None:
        found = {topic: p for topic, p in probabilities(text).items() if topic in topics}
        best = max(found, key=lambda topic: found[topic])
        return flagged(best, f"probability {found[best]:.2f}") if found[best] >= threshold else None

    return Units(look, unit)


@functools.lru_cache(maxsize=16)
def probabilities(text: str) -> dict[str, float]:
    """The probability of every topic, "other" included; they add up to 1. Rules of one policy share it."""
    classes, model = _one()
    return dict(zip(classes, model(text).tolist(), strict=True))


def accuracy() -> tuple[int, int]:
    """How many of the held-out examples the classifier gets right, and how many there are."""
    held = [example for example in examples() if example.held_out]
    said = _model().predict([example.text for example in held])
    return sum(example.topic == one for example, one in zip(held, said, strict=True)), len(held)


@functools.cache
def _model() -> Any:
    """Logistic regression over counts of each topic's words and over words: its weights can be read off. Trained in < 0.1 s."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import FunctionTransformer

    seen = [example for example in examples() if not example.held_out]
    parts = make_union(FunctionTransformer(_counts), TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True))
    model = make_pipeline(parts, LogisticRegression(C=5.0, max_iter=1000, class_weight="balanced"))
    return model.fit([example.text for example in seen], [example.topic for example in seen])


@functools.cache
def _one() -> tuple[tuple[str, ...], Probabilities]:
    """The classes, and the classifier for one text at a time."""
    model = _model()
    union, last = (step for _, step in model.steps)
    return tuple(map(str, model.classes_)), multinomial(_count, union.transformer_list[1][1], last, model)


def _counts(texts: Sequence[str]) -> Any:
    """`_count` of several texts; shape (len(texts), topics)."""
    import numpy as np

    return np.array([_count(text) for text in texts])


def _count(text: str) -> list[float]:
    """How many words of a text speak for each topic, at most 3."""
    return [min(3.0, sum(1 for _ in words.finditer(view(text).data))) for words in _words()]


@functools.cache
def _words() -> tuple[Any, ...]:
    return tuple(compiled(rf"\b(?:{'|'.join(map(plain, topic_words()[topic]))})\b") for topic in TOPICS)

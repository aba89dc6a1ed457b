"""Whether an answer says the same as a reference, though in other words.

It does where it has the reference's words among its own, or is a part of a short reference, or where the cosine of their
embeddings reaches a threshold fit to people's judgements; and in no case where the two differ in a number or a negation,
which embeddings hardly see.

How far to trust it: on the 4,902 predictions of NQ-open's systems that people judged (only those that no reference matched
word for word), it agrees with them on 90.3% by cross-validation, where calling every answer wrong agrees on 84.6%; kappa 0.58
(0.55 to 0.62). Without the comparison of numbers that is 89.1% and 0.52; that of negations cost 3 answers of these, and
mended 2 of the 60 adversarial ones of `verdicts`. On those (right in wholly other words, or wrong by one word) it agrees with
the authors on 58%, which is not shown to be more than the 52% of a constant guess: it is a filter, and no judge. The figures
are of close variants of the rule; `lab bench quality` measures it as it stands.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab.data.labelled import Labelled
from lab.errors import LabError
from lab.metrics import Scorer, overlap, similarity
from lab.metrics._facts import differs
from lab.metrics.references import Pair, Worth, scored
from lab.records import Generation, Question, Score
from lab.stats.agreement import Agreement, agreement

THRESHOLD = 0.723
"""Cosine from which two texts are taken to say the same; what `fit` finds on NQ-open's judged predictions with the default
embedder."""
SHORT_WORDS = 5
"""A part of a reference of up to so many words is taken for it ("Kansas" of "Overland Park, Kansas"), as people mostly did."""


def alike(text: str, reference: str) -> bool:
    """Whether one of the two texts contains the other word for word; a longer reference is not said by a part of it."""
    ours, theirs = overlap.words(text), overlap.words(reference)
    return overlap.within(theirs, ours) or (len(theirs) <= SHORT_WORDS and overlap.within(ours, theirs))


def worth(
    texts: Sequence[str], references: Sequence[Sequence[str]], embedder: similarity.Embedder | None = None, *,
    checked: bool = True,
) -> NDArray[np.float64]:
    """How near each text comes to one of its references: 1 by its words, else the cosine; -1 where it differs from them all.

    Shape (len(texts),). `checked` False leaves numbers and negations to the embedding.
    """
    flat = [(text, r) for text, several in zip(texts, references, strict=True) for r in several]
    cosines = (embedder or similarity.default()).cosines([text for text, _ in flat], [r for _, r in flat])
    each = iter([-1.0 if checked and differs(text, r) else 1.0 if alike(text, r) else float(cosine)
                 for (text, r), cosine in zip(flat, cosines, strict=True)])
    return np.array([max((next(each) for _ in several), default=np.nan) for several in references])


def equivalence(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
    """1 where the answer says the same as a reference by words or embedding, with the same numbers and negations, else 0."""
    return scorer_with()(questions, generations)


SCORERS: dict[str, Scorer] = {"equivalence": equivalence}


def scorer_with(embedder: similarity.Embedder | None = None, *, threshold: float = THRESHOLD) -> Scorer:
    """`equivalence` with an embedder and a threshold of your own: fit one to the other."""
    def values(found: Sequence[Pair]) -> list[Worth]:
        near = worth([p.text for p in found], [p.references for p in found], embedder)
        return [(float(w >= threshold), "differs in a number or a negation" if w == -1 else f"{w:.2f} like its nearest reference")
                for w in near]

    return lambda questions, generations: scored("equivalence", "equivalence", questions, generations, values)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A threshold, and how far decisions agreed with people on questions that it was not fit on."""

    threshold: float
    agreement: Agreement


def fit(
    items: Sequence[Labelled], embedder: similarity.Embedder | None = None, *, checked: bool = True, folds: int = 5, seed: int = 0
) -> Fitted:
    """The threshold that agrees best with the labels of `items`, and its agreement by cross-validation.

    Answers without references are left out; a label of 0.5 or more is right. Raises `LabError` as `fit_threshold` does.
    """
    kept = [item for item in items if item.references and item.answer.strip()]
    near = worth([item.answer for item in kept], [item.references for item in kept], embedder, checked=checked)
    return fit_threshold(near, [item.label >= 0.5 for item in kept], [item.group or item.question for item in kept],
                         folds=folds, seed=seed)


def fit_threshold(
    near: ArrayLike, labels: ArrayLike, groups: Iterable[Hashable], *, folds: int = 5, seed: int = 0
) -> Fitted:
    """The threshold on `near` with the highest kappa against `labels`; its agreement over `folds` of whole groups.

    Kappa and not accuracy, because where most answers are wrong the highest accuracy can be had by calling all of them so.
    Raises `LabError` unless both labels occur and there are as many groups as folds.
    """
    values, right = np.asarray(near, np.float64), np.asarray(labels, bool)
    names: dict[Hashable, int] = {}
    owner = np.array([names.setdefault(name, len(names)) for name in groups])
    if right.all() or not right.any() or len(names) < folds or folds < 2:
        raise LabError(f"A threshold needs right and wrong answers to at least {max(2, folds)} questions; there are "
                       f"{int(right.sum())} right ones among {len(right)} to {len(names)}.")
    fold = np.random.default_rng(seed).permutation(len(names))[owner] % folds
    said = np.zeros(len(values), bool)
    for i in range(folds):
        said[fold == i] = values[fold == i] >= _best(values[fold != i], right[fold != i])
    return Fitted(threshold=_best(values, right), agreement=agreement(right, said, clusters=owner))


def _best(values: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """The threshold with the highest kappa, halfway between two neighbouring values."""
    order = np.argsort(-values, kind="stable")
    said = np.arange(1, len(values) + 1)
    hits = np.cumsum(right[order])
    n, p = len(values), right.sum()
    observed = (n - p - said + 2 * hits) / n
    chance = (said * p + (n - said) * (n - p)) / n**2
    with np.errstate(divide="ignore", invalid="ignore"):
        kappas = np.nan_to_num((observed - chance) / (1 - chance), nan=-1.0)
    falls = np.append(np.diff(values[order]) < 0, True)  # a threshold cannot part equal values
    at = int(np.argmax(np.where(falls, kappas, -np.inf)))
    below = values[order][at + 1] if at + 1 < n else values[order][at] - 1e-6
    halfway = (values[order][at] + below) / 2
    return float(halfway if halfway > below else values[order][at])  # between floats that touch, halfway rounds down

"""Linear text classifiers reckoned for one text at a time, as scikit-learn reckons them and without its matrices.

scikit-learn is made for many texts: for one, checking its input and building sparse matrices takes milliseconds and the
arithmetic microseconds. A guard sees one text, in an event loop whose streams wait meanwhile. What is made here is tried on some
texts against the model it stands for, and the model itself is used where they differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Probabilities = Callable[[str], Floats]
"""From a text to the probability of every class, shape (classes,), in the order of the model's `classes_`."""
PROBES = ("Tell me about the bridge.", "You stupid, stupid man, shut up!", "Which dose may a child take? A lawyer: ask.", "?")
CLOSE = 1e-9


def agreeing(fast: Probabilities, slow: Probabilities) -> Probabilities:
    """`fast` where it gives on the probes what `slow` gives, else (another release of scikit-learn) `slow`."""
    try:
        same = all(np.allclose(fast(text), slow(text), rtol=0, atol=CLOSE) for text in PROBES)
    except Exception:  # whatever is missing in a model of another make
        same = False
    return fast if same else slow


class Weights:
    """The entries of a fitted `TfidfVectorizer` for one text: columns and values of its row, which has length 1."""

    def __init__(self, vectorizer: Any) -> None:
        self._words, self._columns = vectorizer.build_analyzer(), vectorizer.vocabulary_
        self._idf: Floats = np.asarray(vectorizer.idf_, np.float64)
        self._logarithm = bool(vectorizer.sublinear_tf)

    def __call__(self, text: str) -> tuple[NDArray[np.intp], Floats]:
        known = Counter(column for word in self._words(text) if (column := self._columns.get(word)) is not None)
        columns, counts = np.fromiter(known, np.intp, len(known)), np.fromiter(known.values(), np.float64, len(known))
        values = (1 + np.log(counts) if self._logarithm else counts) * self._idf[columns]
        length = float(np.sqrt(values @ values))
        return columns, values / length if length else values


def calibrated(vectorizer: Any, model: Any) -> Probabilities:
    """Linear classifiers of two classes, each calibrated by a sigmoid (Platt 1999), whose probabilities are averaged."""
    weights, parts = Weights(vectorizer), model.calibrated_classifiers_
    rows = np.vstack([part.estimator.coef_ for part in parts])
    starts = np.concatenate([part.estimator.intercept_ for part in parts])
    slopes = np.array([part.calibrators[0].a_ for part in parts])
    places = np.array([part.calibrators[0].b_ for part in parts])

    def probabilities(text: str) -> Floats:
        columns, values = weights(text)
        second = float(np.mean(1 / (1 + np.exp(slopes * (rows[:, columns] @ values + starts) + places))))
        return np.array([1 - second, second])

    return agreeing(probabilities, lambda text: np.asarray(model.predict_proba(vectorizer.transform([text]))[0], np.float64))


def multinomial(before: Callable[[str], Sequence[float]], vectorizer: Any, last: Any, whole: Any) -> Probabilities:
    """A logistic regression `last` over the features of `before` and of `vectorizer`; `whole` is the pipeline of both."""
    weights, rows, starts = Weights(vectorizer), np.asarray(last.coef_, np.float64), np.asarray(last.intercept_, np.float64)

    def probabilities(text: str) -> Floats:
        first = np.asarray(before(text), np.float64)
        columns, values = weights(text)
        found: Floats = rows[:, : len(first)] @ first + rows[:, columns + len(first)] @ values + starts
        found = np.exp(found - found.max())
        return found / found.sum()

    return agreeing(probabilities, lambda text: np.asarray(whole.predict_proba([text])[0], np.float64))

"""The classifiers of the guards, one text at a time, against the models they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from lab.safety import linear
from lab.safety.guards import moderation, topics
from lab.safety.shipped import examples

ODD = ["", "stupid stupid bridge, idiot", "a", "?!", "x" * 5000, "you stupid idiot " * 40, "Übergröße naïve 你好 אב", "kill\x00the process\n\n", "0 1 2 3"]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [*(example.text for example in examples()), *ODD]


def test_a_text_is_as_offensive_as_scikit_learn_reckons(texts: list[str]) -> None:
    one, many = moderation._one(), moderation.probabilities(texts)
    assert np.allclose([one(text)[1] for text in texts], many, rtol=0, atol=1e-12)
    assert many.max() > 0.5 > many.min(), "texts of both kinds were compared"


def test_a_text_has_the_topics_that_scikit_learn_reckons(texts: list[str]) -> None:
    model = topics._model()
    mine = [list(topics.probabilities(text).values()) for text in texts]
    assert np.allclose(mine, model.predict_proba(texts), rtol=0, atol=1e-12)
    assert list(topics.probabilities("Hello.")) == list(model.classes_)


def test_the_shipped_models_are_reckoned_directly() -> None:
    assert "weights" in moderation._one().__code__.co_freevars
    assert "weights" in topics._one()[1].__code__.co_freevars


@pytest.mark.parametrize("fast", [lambda text: np.array([0.4, 0.6]), lambda text: np.array([0.5]), lambda text: {}["x"]])
def test_a_model_that_is_reckoned_differently_is_asked_itself(fast: linear.Probabilities) -> None:
    def slow(text: str) -> linear.Floats:
        return np.array([0.4, 0.6 - 1e-6])

    assert linear.agreeing(fast, slow) is slow
    assert linear.agreeing(slow, slow) is slow

"""The moderation classifier: a linear model of offensive language (alt-profanity-check), by sentence or whole text."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lab.errors import LabError
from lab.safety.decisions import Finding, Guard
from lab.safety.linear import Probabilities, calibrated
from lab.safety.units import UNITS, Unit, Units, flagged


def guard(threshold: float = 0.5, unit: Unit = "whole") -> Guard:
    """Units whose probability of being offensive is at least `threshold`."""
    if not 0 < threshold <= 1 or unit not in UNITS:
        raise LabError(f"Moderation takes a threshold above 0 and up to 1 and a unit of {' or '.join(UNITS)}.")

    def look(text: str) -> Finding | None:
        probability = float(_one()(text)[1])
        return flagged("offensive", f"probability {probability:.2f}") if probability >= threshold else None

    return Units(look, unit)


def probabilities(texts: list[str]) -> Any:
    """The probability of being offensive of each text, shape (len(texts),). Raises `LabError` without the package."""
    return _model()(texts)


@functools.cache
def _one() -> Probabilities:
    """The classifier for one text at a time."""
    _model()
    from profanity_check import profanity_check as fitted

    return calibrated(fitted.vectorizer, fitted.model)


@functools.cache
def _model() -> Callable[[list[str]], Any]:
    try:
        from profanity_check import predict_prob
    except ImportError as error:
        raise LabError("The moderation classifier needs the package alt-profanity-check; run `pip install alt-profanity-check`."
                       ) from error
    model: Callable[[list[str]], Any] = predict_prob
    return model

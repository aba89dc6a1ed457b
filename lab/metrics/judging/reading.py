"""Reads what a judge replied: grades, a preference, or why there is neither. What cannot be read is NaN, never a low grade."""

from __future__ import annotations

import json
import math

from lab.metrics.judging.asked import Ask, Reply
from lab.metrics.judging.rubric import GRADES, score

LEAST_MASS = 0.01
"""Below this the options are not what the model was about to say, and their ratio is noise."""


def grades(ask: Ask, reply: Reply) -> dict[str, tuple[float, str]]:
    """By axis: the score from 0 to 1 with its reasons, or NaN with why."""
    if why := _refused(reply):
        return dict.fromkeys(ask.axes, (math.nan, why))
    if ask.options:
        expected = sum(p * g for p, g in zip(reply.probabilities, GRADES, strict=True))
        return {ask.axes[0]: (score(expected), f"expected grade {expected:.2f}, the options had {reply.option_mass:.0%}")}
    said, why = _object(reply.text)
    return {axis: _grade(said, axis, why) for axis in ask.axes}


def preference(ask: Ask, reply: Reply) -> tuple[float, str]:
    """How far the first answer is preferred: 1, 0, or 0.5 for a tie, with reasons; NaN with why."""
    if why := _refused(reply):
        return math.nan, why
    if ask.options:
        first = reply.probabilities[0]
        return float(first > 0.5) if first != 0.5 else 0.5, f"{first:.0%} for the first"
    said, why = _object(reply.text)
    better = said.get("better")
    value = {"A": 1.0, "B": 0.0, "tie": 0.5}.get(better if isinstance(better, str) else "", math.nan)
    return value, str(said.get("reasons", "")) if not math.isnan(value) else why or f"said {better!r} and not A, B or tie"


def _refused(reply: Reply) -> str:
    if reply.error:
        return reply.error
    if reply.probabilities:
        mass = reply.option_mass
        return "" if mass >= LEAST_MASS else f"was about to say something else than a verdict (the options had {mass:.2%})"
    return "" if reply.text.strip() else "replied with nothing"


def _object(text: str) -> tuple[dict[str, object], str]:
    """The JSON object in a reply, and why there is none. A model that keeps no schema may put words around it."""
    start, end = text.find("{"), text.rfind("}")
    try:
        said = json.loads(text[start : end + 1]) if 0 <= start < end else None
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict):
        return said, ""
    return {}, f"replied with no JSON object: {' '.join(text.split())[:80]!r}"


def _grade(said: dict[str, object], axis: str, why: str) -> tuple[float, str]:
    given = said.get(axis)
    if isinstance(given, (int, float)) and not isinstance(given, bool) and given in GRADES:
        return score(float(given)), str(said.get("reasons", ""))
    return math.nan, why or f"gave {given!r} for {axis} and no grade from 1 to 5"



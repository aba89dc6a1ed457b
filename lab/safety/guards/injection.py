"""Signals of prompt injection and jailbreaks: phrases and structure, each with a weight; enough weight together is a finding."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

from lab.errors import LabError
from lab.safety.decisions import Finding, Guard
from lab.safety.disguise import undisguised
from lab.safety.patterns import compiled
from lab.safety.shipped import Signal, signals
from lab.safety.units import Units, flagged


def guard(threshold: float = 1.0) -> Guard:
    """Texts whose signals weigh at least `threshold` (the weights stand in `lab/safety/signals.yaml`)."""
    if not threshold > 0:
        raise LabError(f"The guard 'injection' takes a threshold above 0, not {threshold:g}.")

    def look(text: str) -> Finding | None:
        found = weights(text)
        total = sum(found.values())
        named = ", ".join(sorted(found, key=lambda name: -found[name])[:4])
        return flagged("injection", f"{named}; weight {total:.1f}") if total >= threshold else None

    return Units(look)


def weights(text: str) -> dict[str, float]:
    """Each signal in `text` with its weight. One that comes three times is one signal."""
    any_of, each = _patterns()
    found: dict[str, float] = {}
    for data in undisguised(text):
        if any_of.search(data) is not None:
            found |= {one.name: one.weight for one, pattern in each if pattern.search(data) is not None}
    return found | {name: weight for name, weight in _structure(text).items() if weight}


def _structure(text: str) -> dict[str, float]:
    """What the shape of a text says: instructions at length, and characters that only hide."""
    words = text.count(" ") + 1
    hidden = 0 if text.isascii() else len(_HIDDEN.findall(text))
    shouted = sum(1 for word in text.split() if len(word) > 3 and word.isupper())
    return {"long instructions": 0.25 * min(2.0, math.log2(words / 100)) if words > 100 else 0.0,
            "hidden characters": 0.5 if hidden > 2 else 0.0,
            "shouting": 0.25 if shouted > 4 else 0.0}


_HIDDEN = re.compile("[\u200b\u200c\u2060\ufeff\u00ad\u202a\u202b\u202d\u202e\u2066-\u2068\U000e0000-\U000e007f]")
"""Characters without width that turn the reading direction round or hide others; emoji need some of the rest."""


@functools.cache
def _patterns() -> tuple[Any, tuple[tuple[Signal, Any], ...]]:
    """One pattern that any signal matches, and each signal's own. (`re2.Set` would say nothing when it runs out of memory.)"""
    each = {signal: "|".join(f"(?:{pattern})" for pattern in signal.patterns) for signal in signals()}
    return compiled("|".join(each.values())), tuple((signal, compiled(pattern)) for signal, pattern in each.items())

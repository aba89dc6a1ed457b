"""Requests for help with harm: a wish for instructions or a text, close to something that is only harmful when asked for so."""

from __future__ import annotations

import bisect
import functools
import math
from dataclasses import dataclass
from typing import Any

from lab.errors import LabError
from lab.safety.decisions import Finding, Guard
from lab.safety.disguise import undisguised
from lab.safety.patterns import compiled
from lab.safety.shipped import exempt, passives, shields, terms, wishes
from lab.safety.units import Units, flagged
from lab.safety.wording import plain

SHIELD = 40
"""A word such as "prevent" excuses an object at most this many characters behind it."""


def guard(within: int = 120) -> Guard:
    """Texts in which a wish stands at most `within` characters before a harmful object that nothing around it excuses."""
    if within < 1:
        raise LabError(f"The guard 'requests' looks at least 1 character ahead, not {within}.")

    def look(text: str) -> Finding | None:
        found = next((name for data in undisguised(text) if (name := _asked_for(data, within))), "")
        return flagged(found, "a wish and its object") if found else None

    return Units(look)


def _asked_for(data: bytes, within: int) -> str:
    """The category of the first object that is wished for and not excused; nothing when there is none."""
    rules = _rules()
    objects = [match.span() for match in rules.objects.finditer(data)]
    if not objects:
        return ""
    excused = [match.span() for match in rules.exempt.finditer(data)]
    asked = [match.end() for match in rules.wishes.finditer(data)]
    shielded = [match.end() for match in rules.shields.finditer(data)]
    suffered = [match.end() for match in rules.passives.finditer(data)]
    for start, end in objects:
        excuse = (any(a <= start and end <= b for a, b in excused) or _behind(shielded, start) <= SHIELD
                  or _behind(suffered, start) <= 2)
        if _behind(asked, start) <= within and not excuse:
            return rules.category(data[start:end])
    return ""


def _behind(ends: list[int], place: int) -> float:
    """How far `place` is behind the nearest of `ends` before it; infinitely far when there is none."""
    near = bisect.bisect_right(ends, place)
    return place - ends[near - 1] if near else math.inf


@dataclass(frozen=True, kw_only=True)
class _Rules:
    wishes: Any
    shields: Any
    passives: Any
    objects: Any
    exempt: Any
    named: dict[str, Any]

    def category(self, found: bytes) -> str:
        return next((name for name, one in self.named.items() if one.fullmatch(found)), "harm")


@functools.cache
def _rules() -> _Rules:
    named = {category.name: rf"\b(?:{'|'.join(map(plain, category.objects))})\b" for category in terms() if category.objects}
    return _Rules(wishes=compiled(rf"\b(?:{'|'.join(map(plain, wishes()))})\b"), objects=compiled("|".join(named.values())),
                  shields=compiled(rf"\b(?:{'|'.join(map(plain, shields()))})\b"),
                  passives=compiled(rf"\b(?:{'|'.join(map(plain, passives()))})\b"),
                  exempt=compiled(rf"\b(?:{'|'.join(map(plain, exempt()))})\b"),
                  named={name: compiled(one) for name, one in named.items()})

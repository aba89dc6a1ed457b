"""Disallowed words and phrases, in input and in a stream: disguised, spelled out and in leetspeak too."""

from __future__ import annotations

from collections.abc import Sequence

from lab.errors import LabError
from lab.safety.decisions import Guard
from lab.safety.patterns import Patterns
from lab.safety.shipped import terms
from lab.safety.wording import pattern


def guard(categories: Sequence[str] | None = None, words: Sequence[str] = ()) -> Guard:
    """The phrases of these categories of `lab/safety/terms.yaml` (None is all), and `words` of your own."""
    known = {category.name: category.phrases for category in terms() if category.phrases}
    if unknown := sorted(set(categories or ()) - set(known)):
        raise LabError(f"There is no category '{unknown[0]}' of phrases; the categories are {', '.join(known)}.")
    phrases = {name: list(known[name]) for name in (known if categories is None else categories)}
    if words:
        phrases["own words"] = list(words)
    return Patterns({name: "|".join(map(pattern, those)) for name, those in phrases.items()})

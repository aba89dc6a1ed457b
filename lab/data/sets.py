"""The catalogue: every question set there is by name, those that ship and those that are fetched once."""

from __future__ import annotations

from lab.data.packaged import packaged
from lab.data.question_set import QuestionSet
from lab.data.shipped import SHIPPED
from lab.errors import LabError


def catalogue() -> dict[str, QuestionSet]:
    """The question sets there are, by name."""
    return {entry.name: entry for entry in (*SHIPPED, *packaged())}


def find(name: str) -> QuestionSet:
    """The entry of this name. Raises `LabError` listing the names there are."""
    known = catalogue()
    if name not in known:
        raise LabError(f"There is no question set '{name}'; the names are {', '.join(known)}.")
    return known[name]

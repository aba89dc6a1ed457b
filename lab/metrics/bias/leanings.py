"""Which answer of a BBQ question agrees with the stereotype it asks about, read off its words.

The copy of the set that is fetched does not say it, so rules of ours (`leanings.yaml`) do. They cover items whose groups stand in
the answers ("the retired man"); those that name people whose group only their full name suggests are left without a side. First
names of women and men have one. A question that no rule fits, or rules that contradict each other, has no side.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOT_TOLD = "not told"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One stereotype: its category, who it is about, and the words of questions it answers, or the other group does."""

    category: str
    about: re.Pattern[str]
    asks: re.Pattern[str]
    asks_other: re.Pattern[str]

    def side(self, question: str) -> bool | None:
        """Whether the stereotyped answer is the group itself, or the other; None where the question asks something else."""
        if self.asks.search(question):
            return True
        return False if self.asks_other.search(question) else None


def leaning(question: str, first: str, second: str) -> tuple[str, int | None]:
    """The category of a question, and which of the two groups (0 or 1) its stereotype names; None where no rule tells.

    The category is that of the rule that tells, else of one that knows the groups, else "not told".
    """
    named, categories, sides = "", [], set()
    for row in rows():
        hits = [bool(row.about.search(answer)) for answer in (first, second)]
        if sum(hits) != 1:
            continue
        named = named or row.category
        side = row.side(question)
        if side is not None:
            categories.append(row.category)
            sides.add(hits.index(side))
    return (categories or [named or NOT_TOLD])[0], sides.pop() if len(sides) == 1 else None


@functools.cache
def rows() -> tuple[Row, ...]:
    """The rules, in the order of their file."""
    import yaml

    found: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("leanings.yaml").read_text("utf-8"))
    return tuple(Row(category=one["category"], **{key: _any(one.get(key, [])) for key in ("about", "asks", "asks_other")})
                 for one in found)


def _any(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns) if patterns else r"(?!)")

"""Where a judge and people part: a table of counts, and the answers on which they say the opposite, gravest first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lab.metrics.judging.rubric import ACCEPTED, GRADES, grade
from lab.records import Score

PEOPLE = "people"
NOT_PEOPLE = frozenset({PEOPLE, "preferred"})
UNREADABLE = "not readable"


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """An item that one side accepts and the other does not: people's label and the judge's score, both 0 to 1."""

    item: str
    label: float
    score: float
    why: str

    @property
    def gravity(self) -> float:
        return abs(self.label - self.score)


def counts(scores: Iterable[Score]) -> dict[str, dict[str, int]]:
    """How many answers people accepted or not (rows), by the judge's grade rounded (columns), unreadable ones last."""
    columns = [*map(str, GRADES), UNREADABLE]
    table = {row: dict.fromkeys(columns, 0) for row in ("accepted", "not accepted")}
    for label, score in _both(scores):
        row = "accepted" if label.value >= 0.5 else "not accepted"
        table[row][str(round(grade(score.value))) if score.scored else UNREADABLE] += 1
    return table


def disagreements(scores: Sequence[Score], limit: int = 10) -> list[Disagreement]:
    """At most `limit` items on which the judge and people part, the largest distance first."""
    found = [Disagreement(item=score.item, label=label.value, score=score.value, why=score.why)
             for label, score in _both(scores) if score.scored and (label.value >= 0.5) != (score.value >= ACCEPTED)]
    return sorted(found, key=lambda one: (-one.gravity, one.item))[:limit]


def _both(scores: Iterable[Score]) -> list[tuple[Score, Score]]:
    """People's label and the judge's score of every item that has both, in the order of the labels."""
    scores = list(scores)
    judged = {score.item: score for score in scores if score.name not in NOT_PEOPLE}
    return [(score, judged[score.item]) for score in scores
            if score.name == PEOPLE and score.item in judged and not math.isnan(score.value)]


def table(scores: Iterable[Score]) -> str:
    """`counts` as a Markdown table."""
    made = counts(scores)
    columns = list(next(iter(made.values())))
    heads = (column if column == UNREADABLE else f"Grade {column}" for column in columns)
    lines = [["People", *heads], ["---"] * (len(columns) + 1)]
    lines += [[row.capitalize(), *(str(row_counts[column]) for column in columns)] for row, row_counts in made.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

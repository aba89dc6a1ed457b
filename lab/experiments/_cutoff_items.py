"""What the cutoff experiment asks: dated questions in periods, what each is compared within, and documents that answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lab import data
from lab.errors import LabError
from lab.experiments._quality_sets import slug
from lab.metrics.references import of
from lab.records import Question
from lab.retrieval import Document

By = Literal["year", "quarter", "month"]
FRESH = ("freshqa_2024_10", "freshqa_2024_12")
RIVALS = 3
"""Answers of other years that a recurring question's answer is held against."""
_DATE = re.compile(r"(\d{4})(?:-(\d{1,2}))?(?:-\d{1,2})?(?:[T ].*)?")
_YEAR = re.compile(r"\b(?:1[5-9]|20)\d\d\b")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One dated question. `stratum` is what it is compared within, `rivals` are answers to the same question of other years."""

    question: Question
    period: str
    stratum: str
    false_premise: bool = False
    rivals: tuple[str, ...] = ()

    @property
    def year(self) -> int:
        return int(self.period[:4])


@dataclass(frozen=True, kw_only=True)
class Dated:
    """One set, its items in order of time. `opens` is the label of a first period that holds everything before it, too."""

    name: str
    items: tuple[Item, ...]
    documents: tuple[Document, ...]
    opens: str = ""
    missing: str = ""

    @property
    def periods(self) -> tuple[str, ...]:
        return tuple(sorted({item.period for item in self.items}))

    @property
    def plain(self) -> tuple[Item, ...]:
        """The items whose question assumes nothing false."""
        return tuple(item for item in self.items if not item.false_premise)

    @property
    def recurring(self) -> bool:
        return any(item.rivals for item in self.items)

    def label(self, period: str) -> str:
        return self.opens if self.opens and period == self.periods[0] else period


def load(
    name: str, items: int, seed: int, *, by: By = "year", since: int = 0, columns: Mapping[str, str] | None = None
) -> Dated:
    """The set of that name, or the file at that path, with at most `items` items spread over its periods; 0 takes all.

    What is dated before the year `since` is left out.

    False premises are at most a quarter as many, on top. A catalogued set that is not fetched comes back without items, and
    `missing` says what to do. Raises `LabError` for dates that are not there or cannot be read, and for a single period.
    """
    entry = data.catalogue().get(name)
    if entry is not None and not entry.fetched:
        return Dated(name=name, items=(), documents=(), missing=f"{name} is left out: run `lab data fetch {name}`.")
    everything, opens = (_fresh(name), "2021 or before") if name in FRESH else (_own(name, by, columns), "")
    if by != "year" and name in FRESH:
        raise LabError(f"'{name}' knows only years; take --by year, or leave it out of --sets.")
    dates = sorted({item.period for item in everything})
    everything = [item for item in everything if item.year >= since]
    if not everything:
        raise LabError(f"'{name}' has nothing since {since}: its dates end with {dates[-1]}; take an earlier --since.")
    if len({item.period for item in everything}) < 2:
        raise LabError(f"All items of '{name}' are of {everything[0].period}; a change over time needs two {by}s or "
                       "more.")
    documents = tuple(Document(id=item.question.id, text=_says(item.question), source=slug(name), date=item.period)
                      for item in everything)
    found = Dated(name=slug(name), items=tuple(everything), documents=documents,
                  opens=opens if everything and dates[0] == min(item.period for item in everything) else "")
    kept = _spread(found.plain, items, seed)
    kept += _spread([item for item in everything if item.false_premise], -(-items // 4), seed)
    if len({item.period for item in kept if not item.false_premise}) < 2:
        raise LabError(f"{items} items of '{name}' lie in one {by}; ask more --items.")
    return replace(found, items=tuple(sorted(kept, key=lambda item: (item.period, item.question.id))))


def _spread(items: Sequence[Item], limit: int, seed: int) -> list[Item]:
    """At most `limit` items (0: all), as evenly over periods as they allow."""
    if not items or not limit:
        return list(items)
    by_id = {item.question.id: item for item in items}
    return [by_id[q.id] for q in data.subset([replace(item.question, topic=item.period) for item in items], limit, seed)]


def _fresh(name: str) -> list[Item]:
    """FreshQA: the year since which an answer has been right. Questions are compared within fact type and number of hops."""
    questions = {question.id: question for question in data.questions(name)}
    items = []
    for row in data.rows(name):
        question = questions[f"{name}-{row['id']}"]
        if not question.references:
            continue
        early = row["effective_year"].startswith("before")
        items.append(Item(
            question=question, period="2021" if early else row["effective_year"], false_premise=row["false_premise"] == "TRUE",
            stratum=f"{row['fact_type']}, {row['num_hops']}"))
    return items


def _own(name: str, by: By, columns: Mapping[str, str] | None) -> list[Item]:
    """A file, or a catalogued set with a date on every item; the same question of several years is one stratum."""
    entry = data.catalogue().get(name)
    if entry is not None and entry.kind not in ("open", "choice"):
        raise LabError(f"Question set '{name}' is of kind '{entry.kind}' and has no dated questions; take yearly, "
                       f"{', '.join(FRESH)} or a file with a column date.")
    questions = data.questions(name, columns=None if entry is not None else columns)
    if not any(question.date for question in questions):
        raise LabError(f"'{name}' has no dates; add a column date (2021, 2021-05 or 2021-05-31), or say which of its columns it "
                       "is with --columns-of-file date=THEIRS.")
    dated = [replace(question, references=of(question)) for question in questions]
    families: dict[str, list[Question]] = {}
    for question in dated:
        families.setdefault(_YEAR.sub("YEAR", question.question), []).append(question)
    return [_item(question, name, by, families[_YEAR.sub("YEAR", question.question)]) for question in dated]


def _item(question: Question, name: str, by: By, family: Sequence[Question]) -> Item:
    period = _period(question, name, by)
    recurs = len(family) > RIVALS
    stratum = _YEAR.sub("YEAR", question.question) if recurs else question.topic
    return Item(question=question, period=period, stratum=stratum, rivals=_rivals(question, family) if recurs else ())


def _period(question: Question, name: str, by: By) -> str:
    found = _DATE.fullmatch((question.date or "").strip())
    if found is None or (found[2] and not 1 <= int(found[2]) <= 12):
        raise LabError(f"Item '{question.id}' of '{name}' has the date '{question.date or ''}'; write it as 2021, 2021-05 or "
                       "2021-05-31.")
    if by == "year":
        return found[1]
    if found[2] is None:
        raise LabError(f"Item '{question.id}' of '{name}' is dated {found[1]} only; give its month, or take --by year.")
    month = int(found[2])
    return f"{found[1]}-{month:02d}" if by == "month" else f"{found[1]}-Q{(month + 2) // 3}"


def _rivals(question: Question, family: Sequence[Question]) -> tuple[str, ...]:
    """The first different answers of the nearest years; fewer than `RIVALS` count as none, so that guessing is one in four."""
    when = _number(question)
    near = sorted(family, key=lambda other: (abs(_number(other) - when), _number(other)))
    answers = dict.fromkeys(other.references[0] for other in near if other.references[0] not in question.references)
    return tuple(answers)[:RIVALS] if len(answers) >= RIVALS else ()


def _number(question: Question) -> int:
    return int((question.date or "0")[:4]) if (question.date or "")[:4].isdigit() else 0


def _says(question: Question) -> str:
    """The document that answers a question: its own context, or the question with its answer behind it."""
    return question.context or f"{question.question} {question.references[0]}"

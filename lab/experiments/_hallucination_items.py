"""What the hallucination experiment asks: four situations, each with its items and the documents that retrieval searches."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab import data
from lab.arithmetic import calculate
from lab.records import Question
from lab.retrieval import Document

SITUATIONS = ("reasoning", "summarisation", "technical", "outdated")
STALE, FRESH = "freshqa_2024_10", "freshqa_2024_12"
TODAY = "2024-12-18"
"""The day on which the answers of `FRESH` held."""
_NAMES = ("Ada", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Jonas", "Karla", "Leo")
_STORIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("{n} buys {a} boxes with {b} pencils each and gives {c} pencils away. How many pencils are left?", ("a*b", "_-c")),
    ("A train has {a} cars with {b} seats each. {c} seats are taken. How many seats are free?", ("a*b", "_-c")),
    ("{n} reads {a} pages on each of {b} days and then {c} pages more. How many pages are that?", ("a*b", "_+c")),
    ("{n} has {a} coins, finds {b} more and loses {c}. How many coins are left?", ("a+b", "_-c")),
    ("{n} bakes {a} trays of {b} rolls in the morning and the same again at noon. How many rolls are that?", ("a*b", "_*2")),
    ("A shop sells {a} pots at {b} euros each and one lamp for {c} euros. How many euros does it take in?", ("a*b", "_+c")),
    ("{n} plants {a} rows of {b} trees. {c} of them die, and {a} new ones are planted. How many trees are there?",
     ("a*b", "_-c", "_+a")),
    ("A hall has {a} rows of {b} chairs. {c} chairs are added and then {b} are broken. How many are whole?",
     ("a*b", "_+c", "_-b")),
    ("{n} saves {a} euros a week for {b} weeks, spends {c} euros and gets {a} euros as a gift. How much is it now?",
     ("a*b", "_-c", "_+a")),
    ("{n} walks {a} km on each of {b} days, rides {c} km by bus and walks {b} km home. How many km are that?",
     ("a*b", "_+c", "_+b")),
)
"""Story problems of two or three steps; _ is the result of the step before."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """One situation: the items, the documents to search, and why something is missing. `group` of an item is its cluster."""

    name: str
    items: tuple[Question, ...]
    documents: tuple[Document, ...]
    missing: str = ""


def load(name: str, items: int, seed: int) -> Situation:
    """The situation of that name with at most `items` items; with none, `missing` says what to fetch."""
    return _LOADERS[name](items, seed)


def solved(number: int, seed: int) -> tuple[Question, str]:
    """One story problem with its solution in steps, drawn from the seed; every `len(_STORIES)`-th has the same story."""
    rng = random.Random(f"{seed}/{number}")
    story, steps = _STORIES[number % len(_STORIES)]
    given = {"a": rng.randint(3, 9), "b": rng.randint(4, 12)}
    given["c"] = rng.randint(2, min(9, given["a"] + given["b"] - 1))  # nobody loses all that there is, or more
    said, last = [], 0
    for step in steps:
        shown = "".join(f" {ch} " if ch in "+-*" else str(last if ch == "_" else given.get(ch, ch)) for ch in step)
        last = int(calculate(shown))
        said.append(f"{shown} = {last}.")
    question = Question(id=f"reasoning-{number:03d}", question=story.format(n=rng.choice(_NAMES), **given),
                        references=(str(last),), topic=f"{len(steps)} steps", group=f"story-{number % len(_STORIES)}")
    return question, f"{' '.join(said)} The answer is {last}."


def _reasoning(items: int, seed: int) -> Situation:
    asked = tuple(solved(i, seed)[0] for i in range(items))
    texts = {question.question: f"{question.question}\n{solution}" for question, solution in
             (solved(i, seed + 7919) for i in range(60))}
    mine = {question.question for question in asked}
    documents = tuple(Document(id=f"solved-{i:02d}", text=text, source="solved problems") for i, (question, text)
                      in enumerate(texts.items()) if question not in mine)
    return Situation(name="reasoning", items=asked, documents=documents)


def _summarisation(items: int, seed: int) -> Situation:
    own = data.questions("notes")
    asked = data.subset(own, min(items, len(own)), seed)
    if items > len(own) and data.catalogue()["xsum"].fetched:
        short = [q for q in data.questions("xsum") if 60 <= len(q.context.split()) <= 160]
        asked = [*asked, *data.subset(short, min(items - len(own), len(short)), seed)]
    return Situation(name="summarisation", items=tuple(asked), documents=tuple(
        Document(id=q.id, text=q.context, source="the text itself") for q in asked))


def _technical(items: int, seed: int) -> Situation:
    everything = data.questions("technical")
    documents = tuple(Document(id=q.id, text=q.context, source="technical") for q in everything)
    others = tuple(Document(id=q.id, text=q.context, source="notes") for q in data.questions("notes"))
    return Situation(name="technical", items=tuple(data.subset(everything, min(items, len(everything)), seed)),
                     documents=documents + others)


def _outdated(items: int, seed: int) -> Situation:
    known = data.catalogue()
    if lacking := [name for name in (STALE, FRESH) if not known[name].fetched]:
        return Situation(name="outdated", items=(), documents=(),
                         missing=f"outdated topics are left out: run `lab data fetch {' '.join(lacking)}`.")
    changing = [q for q in data.questions(FRESH) if q.topic != "never-changing"]
    stale = {q.question: q.references[0] for q in data.questions(STALE) if q.references}
    documents = tuple(Document(id=question, text=f"{question} {answer}", source="answers of October 2024", date="2024-10")
                      for question, answer in stale.items())
    return Situation(name="outdated", items=tuple(data.subset(changing, min(items, len(changing)), seed)), documents=documents)


def gold(situation: str, question: Question) -> str:
    """The id of the document that answers an item; "" where none was made for it."""
    return {"technical": question.id, "summarisation": question.id, "outdated": question.question}.get(situation, "")


_LOADERS: dict[str, Callable[[int, int], Situation]] = {
    "reasoning": _reasoning, "summarisation": _summarisation, "technical": _technical, "outdated": _outdated}


def unavailable(situations: Sequence[Situation]) -> tuple[str, ...]:
    """Why situations were left out, in sentences."""
    return tuple(one.missing for one in situations if one.missing)

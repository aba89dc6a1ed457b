"""How dated questions are asked and what is observed of each: the answer's fate, a denial, luck, likelihoods."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lab import retrieval
from lab.engines import Engine, branch_logprobs_many
from lab.experiments import _hallucination_arms as arms_
from lab.experiments import _hallucination_check as check_
from lab.experiments._cutoff_items import Dated, Item
from lab.experiments._hallucination_items import Situation
from lab.experiments._quality_asking import Given
from lab.metrics.equivalence import alike
from lab.metrics.perplexity import tokens_for
from lab.records import Decoding, Generation, Request

Asks = Callable[[Sequence[Request]], Given]
ARMS = ("closed-book", "retrieval")
OTHERS = 12
"""Other questions whose answers an answer is held against, to see how often it would be right by luck."""
_DENIES = re.compile(r"\b(?:no|not|never|none|nobody|nothing|nowhere|false|incorrect|wrong|fictional|yet to)\b|n['’]t\b",
                     re.IGNORECASE)
_SITUATION = "outdated"
"""The situation of experiment hallucination whose prompts and checker fit: short factual questions."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What one set gave in one arm, in the order of its items; NaN where something was not observed of an item."""

    dated: Dated
    arm: str
    generations: tuple[Generation, ...]
    outcomes: tuple[check_.Outcome, ...]
    luck: tuple[float, ...]
    """The share of other questions of the same kind to which the answer would be right."""
    denies: tuple[float, ...]
    found: tuple[float, ...]
    """Whether the document made for the item was shown."""
    flags: tuple[str, ...] = ()

    def values(self, kind: check_.Kind) -> list[float]:
        return [outcome.is_(kind) for outcome in self.outcomes]

    def example(self, period: str) -> str:
        """The first answer of a period, and what became of it."""
        for item, given, outcome in zip(self.dated.items, self.generations, self.outcomes, strict=True):
            if item.period == period:
                return f"{item.question.question[:160]} - {given.text.strip()[:160]} ({outcome.kind}: {outcome.why})"
        return ""


@dataclass(frozen=True, kw_only=True)
class Likelihoods:
    """Of every item: bits per byte of the right answer after the question, and whether it is likelier than its rivals."""

    bits: tuple[float, ...]
    preferred: tuple[float, ...]


def ask(
    dated: Dated, arm: str, index: retrieval.Index | None, asking: Asks, *, passages: int,
    decoding: Decoding,
) -> Told:
    """Ask every item of a set in one arm."""
    situation = Situation(name=_SITUATION, items=tuple(item.question for item in dated.items), documents=())
    asked = arms_.prepare(situation, arm, index, lambda requests: (), k=passages, decoding=decoding)
    requests = [_named(one.request, dated, item, arm) for one, item in zip(asked, dated.items, strict=True)]
    given = asking(requests)
    outcomes = check_.outcomes(_SITUATION, [one.question for one in asked], given.generations, None)
    return Told(
        dated=dated, arm=arm, generations=given.generations, outcomes=tuple(outcomes), flags=given.flags,
        luck=tuple(_luck(dated.items, given.generations)),
        denies=tuple(_denies(*one) for one in zip(dated.items, given.generations, outcomes, strict=True)),
        found=tuple(float(any(f.passage.document == one.question.id for f in one.found)) if arm == "retrieval" else math.nan
                    for one in asked))


def _named(request: Request, dated: Dated, item: Item, arm: str) -> Request:
    tags = {**request.tags, "set": dated.name, "arm": arm, "period": item.period}
    return replace(request, id=f"{dated.name}/{item.question.id}", tags=tags)


def _luck(items: Sequence[Item], generations: Sequence[Generation]) -> list[float]:
    """How often each answer is right for other questions of its stratum (of the set, where the stratum is small)."""
    out = []
    for i, (item, given) in enumerate(zip(items, generations, strict=True)):
        others = [j for j, one in enumerate(items) if j != i and not one.false_premise and one.stratum == item.stratum]
        if len(others) < OTHERS // 2:
            others = [j for j, one in enumerate(items) if j != i and not one.false_premise]
        step = max(1, len(others) // OTHERS)
        hits = [float(any(alike(given.text.strip(), r) for r in items[j].question.references)) for j in others[::step]]
        out.append(sum(hits) / len(hits) if hits and given.error is None else math.nan)
    return out


def _denies(item: Item, given: Generation, outcome: check_.Outcome) -> float:
    """Whether an answer contradicts its question (or gives a false premise's right answer); an abstention does not."""
    if outcome.kind == "failed":
        return math.nan
    if outcome.kind == "abstained":
        return 0.0
    return float((item.false_premise and outcome.kind == "right") or bool(_DENIES.search(given.text)))


def likelihoods(engine: Engine, dated: Dated) -> Likelihoods:
    """Of every item whose question assumes nothing false, from memory. Answers are compared by log-probability per character."""
    plain = [i for i, item in enumerate(dated.items) if not item.false_premise]
    answers = [(dated.items[i].question.references[0], *dated.items[i].rivals) for i in plain]
    asked = [(tokens_for(engine, arms_.closed_book(dated.items[i].question.question)),
              [engine.tokenize(f" {answer}") for answer in several]) for i, several in zip(plain, answers, strict=True)]
    bits, preferred = [math.nan] * len(dated.items), [math.nan] * len(dated.items)
    for at, found in branch_logprobs_many(engine, asked):
        sums = [float(one.sum()) for one in found]
        bits[plain[at]] = -sums[0] / math.log(2) / len(f" {answers[at][0]}".encode())
        each = [total / len(answer) for total, answer in zip(sums, answers[at], strict=True)]
        if len(each) > 1:
            preferred[plain[at]] = float(each[0] > max(each[1:]))
    return Likelihoods(bits=tuple(bits), preferred=tuple(preferred))

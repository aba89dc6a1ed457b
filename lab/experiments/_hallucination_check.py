"""What became of an answer: right, abstained, or hallucinated; decided by words and sources, with the reason."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lab.metrics import equivalence, grounding, speed
from lab.metrics._facts import numbers as in_words
from lab.records import Generation, Question

Kind = Literal["right", "abstained", "hallucinated", "failed"]
SUPPORTED = 0.4
"""Support of a summary's worst sentence from which it counts as grounded: between the references of `notes` (95% of them 0.57 or
more) and summaries of another text (95% of them 0.20 or less)."""
CHECKED_BY = {"reasoning": "the number", "technical": "words of a right answer", "outdated": "words of a right answer",
              "summarisation": "the grounding detector: no independent measurement"}
"""What decides about the answers of a situation; stands wherever its rates are shown."""
_ABSTAINS = re.compile(
    r"^\W*(?:(?:it is |it['’]s |this is |the answer is )?(?:unknown|not known|unclear|uncertain)|no (?:idea|answer|information)|"
    r"(?:i['’]?m |i am )?(?:not sure|unsure|unable to)|n/?a|unanswerable|idk)\b"
    r"|\b(?:i|we) (?:really |simply |just |honestly )?(?:do not|don['’]?t|cannot|can['’]?t|could not|couldn['’]?t) "
    r"(?:know|tell|say|answer|find|recall|remember)\b|\b(?:i|we) (?:have no|am not sure|am unable|lack)\b"
    r"|\b(?:text|passage|source|document|context|search|question|it) (?:does not|doesn['’]?t) (?:say|tell|mention)\b"
    r"|\bcannot be (?:known|told|answered|determined)\b|\bthere is no (?:answer|information)\b", re.IGNORECASE)
"""Words with which somebody says that he does not know; "the Tomb of the Unknown Soldier" is an answer."""
_SAID = re.compile(r"answers? (?:is|are|:|=)([^.!?\n]*(?:\.\d[^.!?\n]*)*)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One answer's fate and the reason. A failed request has none."""

    kind: Kind
    why: str

    def is_(self, kind: Kind) -> float:
        """1 or 0; NaN for a failed request."""
        return math.nan if self.kind == "failed" else float(self.kind == kind)


def outcomes(
    situation: str, questions: Sequence[Question], generations: Sequence[Generation], embedder: grounding.Embeds | None
) -> list[Outcome]:
    """The outcome of every answer, in order. `embedder` is needed for summaries alone; without it words decide."""
    found = []
    for question, generation in zip(questions, generations, strict=True):
        text = generation.text.strip()
        if speed.failed(generation):
            found.append(Outcome(kind="failed", why=generation.error or "failed"))
        elif not text:
            found.append(Outcome(kind="abstained", why="the answer is empty"))
        elif situation == "reasoning":
            found.append(_number(question, text))
        elif _ABSTAINS.search(text):
            found.append(Outcome(kind="abstained", why="says that it does not know"))
        elif situation == "summarisation":
            found.append(_summary(question, text, embedder))
        else:
            found.append(_reference(question, text))
    return found


def _number(question: Question, text: str) -> Outcome:
    """By the number behind "the answer is" (behind its last equals sign, where it calculates again), else the last one."""
    stated = _SAID.search(text)
    numbers = _numbers(stated.group(1).rpartition("=")[2])[:1] if stated else []
    numbers = numbers or _numbers(text)[-1:]
    if not numbers:
        return Outcome(kind="abstained", why="names no number")
    right = numbers[0] == float(question.references[0])
    return Outcome(kind="right" if right else "hallucinated", why=f"says {numbers[0]:g}, right is {question.references[0]}")


def _numbers(text: str) -> list[float]:
    """The numbers of a text in their order, in digits, else one in English words; a dash between two is no minus."""
    digits = re.findall(r"(?<![\w.)])[-−]?\d+(?:\.\d+)?|\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3})", "", text))
    if digits:
        return [float(one.replace("−", "-")) for one in digits]
    words = in_words(text)
    return [*words] if len(words) == 1 else []


def _reference(question: Question, text: str) -> Outcome:
    if any(equivalence.alike(text, reference) for reference in question.references):
        return Outcome(kind="right", why="has a right answer's words")
    return Outcome(kind="hallucinated", why=f"has none of the right answers ({question.references[0][:60]})")


def _summary(question: Question, text: str, embedder: grounding.Embeds | None) -> Outcome:
    worst = min(grounding.grounded(question.question, text, question.context, embedder), key=lambda claim: claim.support)
    kind: Kind = "right" if worst.support >= SUPPORTED else "hallucinated"
    lacks = f"; the text lacks {', '.join(worst.missing)}" if worst.missing else ""
    return Outcome(kind=kind, why=f"its worst sentence is supported {worst.support:.2f}{lacks}")

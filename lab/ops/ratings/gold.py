"""Control items: answers whose rating is known, mixed blindly among the others to see how carefully somebody rates."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lab.data.labelled import Labelled
from lab.records import Generation, Message, Request

GOOD, BAD = (4.0, 5.0), (1.0, 2.0)
"""Grades that an answer labelled right, or wrong, may get on its axis."""


@dataclass(frozen=True, kw_only=True)
class Gold:
    """One control item: `expected` is the range of grades (lowest, highest) by axis that counts as right.

    In a side-by-side task `answer` is better than `worse`, and choosing it is right.
    """

    item: str
    question: str
    answer: str
    worse: str = ""
    context: str = ""
    expected: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def gold_from(labelled: Sequence[Labelled], n: int, *, kind: Literal["axes", "pairs"] = "axes", seed: int = 0) -> list[Gold]:
    """Up to `n` control items from answers labelled on correctness, as many right as wrong ones, in random order.

    For pairs each is a wrong answer to a question beside a right one, or beside its reference where no answer is right.
    """
    rng, sides = random.Random(seed), _sides(labelled)
    if kind == "pairs":
        both = [(rng.choice(wrong), [one.answer for one in right] or wrong[0].references[:1]) for right, wrong in sides.values()
                if wrong and (right or wrong[0].references)]
        chosen = rng.sample(both, min(n, len(both)))
        return [Gold(item=bad.item, question=bad.question, answer=rng.choice(list(good)), worse=bad.answer, context=bad.context)
                for bad, good in chosen]
    right, wrong = ([one for side in sides.values() for one in side[which]] for which in (0, 1))
    rng.shuffle(right)
    rng.shuffle(wrong)
    mixed = [one for pair in zip(right, wrong, strict=False) for one in pair][:n]
    rng.shuffle(mixed)
    return [Gold(item=one.item, question=one.question, answer=one.answer, context=one.context,
                 expected={"correctness": GOOD if one.label > 0.5 else BAD}) for one in mixed]


def _sides(labelled: Sequence[Labelled]) -> dict[str, tuple[list[Labelled], list[Labelled]]]:
    """Right and wrong answers by question; what people did not agree on (a label between) is no control."""
    sides: dict[str, tuple[list[Labelled], list[Labelled]]] = {}
    for one in labelled:
        if one.axis == "correctness" and one.label in (0, 1):
            sides.setdefault(one.question, ([], []))[0 if one.label else 1].append(one)
    return sides


def generation(gold: Gold, answer: str, before: Sequence[Message] = ()) -> Generation:
    """A control answer as the generation that it stands for; nothing was timed.

    `before` are the messages that the other items of the task begin with, so that a control item looks like them.
    """
    asked = "\n\n".join(filter(None, (gold.context, gold.question)))
    request = Request(id=gold.item, messages=(*before, Message(role="user", content=asked)))
    return Generation(request=request, text=answer, sent_s=0.0, ended_s=0.0)

"""The same few items each time: evenly over topics, and every smaller choice the beginning of a larger one."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

from lab.errors import LabError
from lab.records import Question

Item = TypeVar("Item")


def subset(items: Iterable[Question], limit: int, seed: int = 0) -> list[Question]:
    """At most `limit` items, as evenly spread over topics as they allow; the same seed gives the same items.

    Topics take turns in a shuffled order, so every prefix is balanced too: a smaller limit, or a run that was
    interrupted, holds the first items of a larger one.
    """
    refuse_none(limit, "questions")
    rng = random.Random(seed)
    topics: dict[str, list[Question]] = {}
    for item in items:
        topics.setdefault(item.topic, []).append(item)
    order = sorted(topics)
    rng.shuffle(order)
    for topic in order:
        rng.shuffle(topics[topic])
    rounds = max(map(len, topics.values()), default=0)
    turns = [topics[t][turn] for turn in range(rounds) for t in order if turn < len(topics[t])]
    return turns[:limit]


def drawn(items: Sequence[Item], limit: int, seed: int = 0) -> list[Item]:
    """At most `limit` items in one shuffled order: labels keep the shares they have, which base rates depend on."""
    refuse_none(limit, "answers")
    mixed = list(items)
    random.Random(seed).shuffle(mixed)
    return mixed[:limit]


def refuse_none(limit: int, what: str) -> None:
    """Raise `LabError` for a limit that leaves nothing."""
    if limit < 1:
        raise LabError(f"A limit of {limit} leaves no {what}; ask for 1 or more, or give no limit for all of them.")

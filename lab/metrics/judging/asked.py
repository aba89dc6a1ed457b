"""What a judge is given and what comes back: items, pairs, one question to a model and its reply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lab.records import Message


@dataclass(frozen=True, kw_only=True)
class Item:
    """One answer to grade. With `references` (right answers) the judge is told them; `context` is what the question is about."""

    id: str = "0"
    question: str
    answer: str
    references: tuple[str, ...] = ()
    context: str = ""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two answers to one question, of which the better one is wanted."""

    id: str = "0"
    question: str
    a: str
    b: str
    references: tuple[str, ...] = ()
    context: str = ""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One question to a judge. The reply must satisfy `schema`; by likelihood it is one of `options`.

    `about` is what the question was made of, in the order in which it stands there, for judges that read no prompts.
    """

    id: str
    messages: tuple[Message, ...]
    schema: str
    options: tuple[str, ...] = ()
    about: Item | Pair
    axes: tuple[str, ...] = ()
    turn: int = 0
    """Which time this is asked; each has a seed of its own."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back: a text, or the probabilities of the options (summing to 1); else why neither did.

    `option_mass` is the probability that all options had together: what the rest of the vocabulary had is no judgement.
    """

    text: str = ""
    probabilities: tuple[float, ...] = ()
    option_mass: float = math.nan
    error: str = ""
    seconds: float = math.nan
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    kept: bool = False
    """Whether it was read from the cache."""


class Asker(Protocol):
    """Who answers the questions of a judge: a model behind an engine, or a script."""

    name: str
    by_likelihood: bool
    identity: str
    """What decides its replies, for the cache; "" for one whose replies are not kept."""

    def ask(self, asks: Sequence[Ask]) -> list[Reply]: ...
    def close(self) -> None: ...

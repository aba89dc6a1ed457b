"""The few values everything else is made of: what was asked, what came back and when, and what it was worth.

Observations are recorded (clock readings, token counts, texts); every number is derived from them in
`lab.metrics`. All clock readings are seconds of one monotonic clock (`time.perf_counter`) of one process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Settings = Mapping[str, str | int | float | bool | None]
FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are chosen. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 are off."""

    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    json_schema: str = ""
    """A JSON Schema (as JSON text) that the whole answer must satisfy; "" leaves it free."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """All that is needed to ask again. Exactly one of `messages`, `prompt` and `tokens` is given."""

    id: str = "0"
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    tokens: tuple[int, ...] | None = None
    decoding: Decoding = Decoding()
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = [self.messages is not None, self.prompt is not None, self.tokens is not None]
        if sum(given) != 1:
            raise ValueError("a Request takes exactly one of messages, prompt and tokens")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Token counts of one request. A count that an engine cannot observe is None, never 0."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    drafted_tokens: int | None = None
    accepted_tokens: int | None = None
    output_tokens: int | None = None
    """As a server reports it; what was counted is `len(Generation.tokens_at_s)`."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """What an engine hands out while it decodes: new text, the tokens behind it, and when the last of them was there.

    `text` can be empty (half of a UTF-8 character, or the possible start of a stop string). The last chunk of a
    stream carries `finish_reason` and the token counts, and may carry no tokens.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    at_s: float
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What came back for one request, with the raw clock reading of every token.

    `tokens_at_s[i]` is when token `i` was known to the caller; tokens that arrived in one chunk share one reading.
    `scheduled_s` is when the request was due, `sent_s` when it was really sent, `started_s` when an engine with a queue
    began to work on it, `ended_s` when the stream closed.
    """

    request: Request
    text: str = ""
    tokens: tuple[int, ...] = ()
    tokens_at_s: tuple[float, ...] = ()
    scheduled_s: float | None = None
    sent_s: float
    started_s: float | None = None
    ended_s: float
    cpu_s: float | None = None
    usage: Usage = Usage()
    finish_reason: FinishReason = "stop"
    error: str | None = None
    error_kind: str | None = None
    """A word to count failures by: refused, reset, closed, timeout, http_429, malformed ... None when it has no kind."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One judgement of one item: by BLEU, a likelihood, a judge, a person or a moderator. Unscored is NaN with a reason."""

    name: str
    item: str
    value: float
    by: str
    why: str = ""

    @property
    def scored(self) -> bool:
        return not math.isnan(self.value)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its interval, at the confidence it was made with (95% unless said otherwise)."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point of an experiment: the settings it ran with and everything that was observed.

    `measures` maps a name with its unit (`decode_tokens_per_s`) to a number or an `Estimate`; not measured is absent
    or NaN. `flags` are reasons to distrust the trial ("machine busy ..."); they are shown, never hidden.
    """

    name: str
    settings: Settings
    generations: tuple[Generation, ...] = ()
    scores: tuple[Score, ...] = ()
    measures: Mapping[str, float | Estimate] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One item of a question set. `answer` indexes `choices` where there are any; `references` are right answers.

    `context` is the text a question is about (a passage to answer from, a document to summarise). Items with the same
    `group` share a source (a passage, a template) and are not independent: intervals cluster on it.
    """

    id: str
    question: str
    choices: tuple[str, ...] = ()
    answer: int | None = None
    references: tuple[str, ...] = ()
    topic: str = ""
    date: str | None = None
    context: str = ""
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The decision an experiment leads to: the chosen trial (None when none qualifies) and why, in sentences."""

    decision: str
    chosen: str | None = None
    why: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()

"""What guards find and what the chain decides: plain values, without a character of the text they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Action = Literal["allow", "block", "redact", "confirm", "rewrite", "answer_under_policy"]
Stage = Literal["input", "output", "tool"]
ACTIONS: tuple[Action, ...] = ("allow", "block", "redact", "confirm", "rewrite", "answer_under_policy")
STAGES: tuple[Stage, ...] = ("input", "output", "tool")
FAILED = "guard failed"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a guard saw between two places of the text. `detail` names the pattern or the score, never the words."""

    start: int
    end: int
    category: str
    detail: str = ""
    replacement: str | None = None
    """The text that a guard which rewrites puts in place of the span."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The findings that begin before `certain`; whether one begins at `certain` or later only more text can tell."""

    findings: tuple[Finding, ...] = ()
    certain: int


class Guard(Protocol):
    """Looks at a text that may still be growing. The module that makes it lies in `lab/safety/guards/`.

    The findings must depend on the text alone, not on how it was cut into pieces: that is what lets a stream be judged
    like the whole answer. Finding n+1 starts at or behind the end of finding n.
    """

    def scan(self, text: str, start: int, ended: bool) -> Scan:
        """Findings that begin at `start` or later; what lies before is context. With `ended` no more text will come.

        `certain` is at least `start`, and at least the end of the last finding; with `ended` it is `len(text)`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What one rule did about one finding (or about its own failure), and what it cost.

    `added_s` is the time of the whole look that led here. `evidence` says what was found where, without quoting it.
    """

    rule: str
    action: Action
    stage: Stage
    category: str = ""
    evidence: str = ""
    reason: str = ""
    added_s: float = 0.0
    message: str = ""
    """What the user sees in place of the text, when it was blocked."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of the log: a decision with the policy it was made under. It holds no text of anybody."""

    at_s: float
    policy: str
    policy_version: int
    policy_sha256: str
    rule: str
    action: Action
    stage: Stage
    category: str
    evidence: str
    reason: str
    added_s: float
    role: str
    session: str


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A whole text after the chain: what may go on, what was decided, and what the model is to be told beside it.

    `text` is what the user or the model gets: the text itself, redacted or rewritten, or the message of a block.
    `original` is for an operator and is never sent on.
    """

    text: str
    original: str
    blocked: bool = False
    decisions: tuple[Decision, ...] = ()
    instructions: tuple[str, ...] = ()
    """System instructions under which the model may answer."""
    disclaimers: tuple[str, ...] = ()
    """Sentences to put behind the answer."""
    added_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A tool that a model wants to call, with the arguments it chose."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def places(findings: Sequence[Finding]) -> str:
    """Evidence in words: category, detail and place of the first finding, and how many more there are."""
    first, more = findings[0], len(findings) - 1
    detail = f" ({first.detail})" if first.detail else ""
    return f"{first.category}{detail} at {first.start}–{first.end}" + (f", and {more} more" if more else "")

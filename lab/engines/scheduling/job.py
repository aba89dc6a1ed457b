"""One request on its way through the scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lab.engines.scheduling.core import Picker
from lab.records import FinishReason, Generation, Request, Usage
from lab.text import TextStream


@dataclass(eq=False, kw_only=True)
class Job:
    """Prompt and output are one list of tokens, of which the first `done` are in the KV cache.

    So prefill, decoding and recomputing after a preemption are the same thing: feeding `tokens[done:]`. When nothing is
    left to feed, the last row of logits decides the next token.
    """

    request: Request
    tokens: list[int]
    prompt_tokens: int
    picker: Picker
    text: TextStream
    random: np.random.Generator
    scheduled_s: float
    sent_s: float
    started_s: float | None = None
    ended_s: float | None = None
    slot: int = -1
    done: int = 0
    shared: int = 0
    """Cells of `done` that belong to a prefix cache entry and are counted there."""
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0
    shown: list[str] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def pending(self) -> int:
        """Tokens still to be fed before the next one can be chosen."""
        return len(self.tokens) - self.done

    @property
    def left(self) -> int:
        """Output tokens that may still come."""
        return self.request.decoding.max_tokens - len(self.at_s)

    @property
    def output(self) -> list[int]:
        return self.tokens[self.prompt_tokens :]

    def take(self, token: int, at_s: float, *, piece: bytes, end: bool) -> None:
        """Add one chosen token; sets `finish_reason` when it is the last."""
        decoding = self.request.decoding
        if end and not decoding.ignore_eos:
            self.finish("stop", at_s)
            return
        self.tokens.append(token)
        self.at_s.append(at_s)
        self.shown.append(self.text.push(piece))
        if self.text.stopped:
            self.finish("stop", at_s)
        elif self.left == 0:
            self.finish("length", at_s)

    def finish(self, reason: FinishReason, at_s: float) -> None:
        self.shown.append(self.text.end())
        self.finish_reason = "stop" if self.text.stopped else reason
        self.ended_s = at_s
        self.picker.close()

    def generation(self) -> Generation:
        """The record of this request; call it when the job has ended."""
        return Generation(
            request=self.request, text="".join(self.shown), tokens=tuple(self.output), tokens_at_s=tuple(self.at_s),
            scheduled_s=self.scheduled_s, sent_s=self.sent_s, started_s=self.started_s,
            ended_s=self.ended_s if self.ended_s is not None else self.sent_s,
            usage=Usage(prompt_tokens=self.prompt_tokens, cached_tokens=self.cached_tokens,
                        drafted_tokens=self.drafted_tokens, accepted_tokens=self.accepted_tokens),
            finish_reason=self.finish_reason or "cancelled")

"""What holding text back costs: the chunks of one model's answers, replayed through each policy with their clock readings.

A chain sees text and nothing else, so one decoding serves every policy, and they differ by nothing but themselves. Counted is the
first text that a reader can see (many answers begin with a line break): the time of the chunk with which it was let go, plus the
chain's work until then.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lab import data, safety, stats
from lab.engines import Engine
from lab.records import Chunk, Decoding, Estimate, Request


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One decoded answer, chunk by chunk."""

    id: str
    sent_s: float
    chunks: tuple[Chunk, ...]

    @property
    def first_text_s(self) -> float:
        """Seconds to the first visible text, unguarded; NaN for an answer without any."""
        return next((chunk.at_s - self.sent_s for chunk in self.chunks if chunk.text.strip()), math.nan)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One answer through one chain."""

    id: str
    first_text_s: float
    first_text_added_s: float
    waited_chunks: float
    work_first_s: float
    work_s: float
    held_characters: int


def answers(engine: Engine, count: int, tokens: int) -> list[Answer]:
    """Greedy answers to everyday questions; a first one warms up and is thrown away."""
    found = []
    for question in data.questions("everyday", limit=count + 1):
        request = Request(id=question.id, prompt=f"Question: {question.question}\nAnswer in full sentences:",
                          decoding=Decoding(max_tokens=tokens, ignore_eos=True))
        sent = engine.now()
        found.append(Answer(id=question.id, sent_s=sent, chunks=tuple(engine.stream(request))))
    return found[1:]


def replay(chain: safety.Chain, answer: Answer) -> Shown:
    """The answer as a user of this chain would have seen it; times are NaN where nothing was shown."""
    at = answer.sent_s
    given = 0

    def texts() -> Iterator[str]:
        nonlocal at, given
        for chunk in answer.chunks:
            at = chunk.at_s
            given += bool(chunk.text.strip()) or given > 0
            yield chunk.text

    stream = chain.stream(texts())
    began, first, waited, work_first = time.perf_counter(), math.nan, math.nan, math.nan
    for piece in stream:
        if piece.strip() and math.isnan(first):
            first, waited, work_first = at - answer.sent_s, given - 1, time.perf_counter() - began
    work = time.perf_counter() - began
    seen = first + work_first
    return Shown(id=answer.id, first_text_s=seen, first_text_added_s=seen - answer.first_text_s, waited_chunks=waited,
                 work_first_s=work_first, work_s=work, held_characters=stream.most_held)


def medians(shown: Sequence[Shown]) -> dict[str, float | Estimate]:
    """Every measure of the answers as a median with its interval; answers of which nothing was shown are left out of it."""
    measures = [field.name for field in dataclasses.fields(Shown) if field.name != "id"]
    return {measure: stats.median([getattr(one, measure) for one in shown]) for measure in measures}

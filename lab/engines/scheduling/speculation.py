"""Speculative decoding inside the step loop: what a drafter offers, and the rule that keeps the target's distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lab.engines.scheduling.job import Job
from lab.engines.scheduling.sampling import distribution, draw
from lab.records import Decoding


@dataclass(frozen=True, kw_only=True)
class Drafts:
    """Tokens guessed to come next. `p[i]` is the distribution token `i` was drawn from, None where it was a sure guess.

    `evidence` is how many tokens of context the guess rests on (the length of a lookup's match), 0 where that says nothing.
    """

    tokens: Sequence[int] = ()
    p: Sequence[NDArray[np.float64]] | None = None
    evidence: int = 0

    def first(self, count: int) -> Drafts:
        """The first `count` of them."""
        return self if count >= len(self.tokens) else Drafts(
            tokens=self.tokens[:count], p=None if self.p is None else self.p[:count], evidence=self.evidence)


class Drafter(Protocol):
    """Guesses continuations; one object serves all jobs of a scheduler.

    How many tokens it offers may depend on what it knows before a token is drawn, never on the drawn token itself:
    dropping a guess after seeing it would change what comes out.
    """

    def propose(self, jobs: Sequence[Job], limits: Sequence[int]) -> list[Drafts]:
        """Drafts for each job, at most `limits[i]` tokens; none is a fine answer."""
        ...

    def learn(self, job: Job, drafted: int, accepted: int) -> None:
        """How the last drafts of `job` went."""
        ...

    def drop(self, job: Job) -> None:
        """`job` ended or was preempted: forget what is kept for it."""
        ...


def verify(
    logits: NDArray[np.float32], drafts: Drafts, decoding: Decoding, random: np.random.Generator
) -> list[int]:
    """The tokens that follow: the accepted drafts and one more, distributed as if the target had drawn each alone.

    `logits` has shape (drafts + 1, vocabulary): row i is the target's after draft i - 1. Draft x is accepted with
    probability min(1, p(x) / q(x)); the first rejected one is replaced by a draw from max(0, p - q), normalised; after
    the last accepted one follows a draw from p (Leviathan, Kalman, Matias 2023, algorithm 1). A sure guess has q(x) = 1.
    """
    if decoding.temperature <= 0:
        best = logits.argmax(axis=1)
        agreed = 0
        while agreed < len(drafts.tokens) and drafts.tokens[agreed] == best[agreed]:
            agreed += 1
        return [int(t) for t in best[: agreed + 1]]
    chosen: list[int] = []
    for i, token in enumerate(drafts.tokens):
        p = distribution(logits[i], decoding)
        q = drafts.p[i] if drafts.p is not None else None
        if random.random() * (1.0 if q is None else q[token]) < p[token]:
            chosen.append(token)
            continue
        if q is None:
            p[token] = 0.0  # max(0, p - q) of a sure guess
            return [*chosen, draw(p, random)]
        return [*chosen, draw(np.maximum(p - q, 0.0), random)]
    return [*chosen, draw(distribution(logits[len(drafts.tokens)], decoding), random)]

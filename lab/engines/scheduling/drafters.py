"""Drafters that cost next to nothing: they look up what followed the same words before."""

from __future__ import annotations

from collections.abc import Sequence

from lab.engines.scheduling.job import Job
from lab.engines.scheduling.speculation import Drafter, Drafts
from lab.engines.scheduling.suffixes import SuffixIndex
from lab.errors import LabError

NOTHING = Drafts()
BLOCK = 8
"""Tokens that the fast kernels take together: a step of 8 costs hardly more than one of 7, one of 9 much more."""


class PromptLookup:
    """Continues as the longest suffix of prompt and output did where it first occurred (prompt lookup, Saxena 2023).

    At most `tokens` a step, and no more than the match is long: what has agreed for n tokens may well agree for n more,
    and a short match is often chance. That length is rounded up to fill whole blocks with the token before it (a match of 2
    to 7 tokens gives 7, of 8 to 15 gives 15). A match of fewer than `shortest` tokens gives nothing.
    """

    def __init__(self, tokens: int = 8, *, shortest: int = 2) -> None:
        _refuse_length(tokens)
        self.tokens, self.shortest = tokens, shortest
        self._indices: dict[Job, SuffixIndex] = {}

    def propose(self, jobs: Sequence[Job], limits: Sequence[int]) -> list[Drafts]:
        return [self._guess(job, min(limit, self.tokens)) for job, limit in zip(jobs, limits, strict=True)]

    def _guess(self, job: Job, count: int) -> Drafts:
        if count < 1:
            return NOTHING
        index = self._indices.setdefault(job, SuffixIndex())
        for token in job.tokens[len(index.tokens) :]:
            index.add(token)
        length, start = index.match()
        if length < self.shortest:
            return NOTHING
        return Drafts(tokens=index.follow(start, min(count, _filling(length))), evidence=length)

    def learn(self, job: Job, drafted: int, accepted: int) -> None:
        pass

    def drop(self, job: Job) -> None:
        self._indices.pop(job, None)


class SessionNgram:
    """Continues as the last 2 to 4 tokens did when anything of this session had them last, one token after another.

    One table serves all jobs and outlives them: what one request wrote, the next can be guessed from. It holds at most
    `capacity` n-grams and forgets the oldest.
    """

    def __init__(self, tokens: int = 8, *, lengths: Sequence[int] = (4, 3, 2), capacity: int = 1_000_000) -> None:
        _refuse_length(tokens)
        self.tokens, self.lengths, self.capacity = tokens, tuple(sorted(lengths, reverse=True)), capacity
        self._table: dict[tuple[int, ...], int] = {}
        self._read: dict[Job, int] = {}

    def propose(self, jobs: Sequence[Job], limits: Sequence[int]) -> list[Drafts]:
        for job in jobs:
            self._index(job)
        return [self._guess(job, min(limit, self.tokens)) for job, limit in zip(jobs, limits, strict=True)]

    def _index(self, job: Job) -> None:
        tokens, table = job.tokens, self._table
        for at in range(self._read.get(job, 1), len(tokens)):
            for n in self.lengths:
                if n <= at:
                    table[tuple(tokens[at - n : at])] = tokens[at]
        self._read[job] = len(tokens)
        while len(table) > self.capacity:
            del table[next(iter(table))]

    def _guess(self, job: Job, count: int) -> Drafts:
        recent, evidence = list(job.tokens[-self.lengths[0] :]), 0
        start = len(recent)
        while len(recent) - start < count:
            known = next((n for n in self.lengths if n <= len(recent) and tuple(recent[-n:]) in self._table), 0)
            if not known:
                break
            evidence = evidence or known
            recent.append(self._table[tuple(recent[-known:])])
        return Drafts(tokens=recent[start:], evidence=evidence)

    def learn(self, job: Job, drafted: int, accepted: int) -> None:
        pass

    def drop(self, job: Job) -> None:
        self._index(job)
        del self._read[job]


class Recorded:
    """Passes everything on to `inner` and keeps how each draft went: (drafted, accepted), in order."""

    def __init__(self, inner: Drafter) -> None:
        self.inner = inner
        self.outcomes: list[tuple[int, int]] = []

    def propose(self, jobs: Sequence[Job], limits: Sequence[int]) -> list[Drafts]:
        return self.inner.propose(jobs, limits)

    def learn(self, job: Job, drafted: int, accepted: int) -> None:
        self.outcomes.append((drafted, accepted))
        self.inner.learn(job, drafted, accepted)

    def drop(self, job: Job) -> None:
        self.inner.drop(job)


def _filling(tokens: int) -> int:
    """At least so many tokens, and as many as fill blocks together with the one that is fed before them."""
    return -(-(tokens + 1) // BLOCK) * BLOCK - 1


def _refuse_length(tokens: int) -> None:
    if tokens < 1:
        raise LabError(f"A drafter needs at least 1 token a step, not {tokens}; leave it out to decode plainly.")

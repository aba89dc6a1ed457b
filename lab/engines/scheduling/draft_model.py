"""Drafts by a smaller model with the same vocabulary, batched over all jobs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lab.engines.scheduling.core import Core, KVCacheFull
from lab.engines.scheduling.drafters import NOTHING
from lab.engines.scheduling.job import Job
from lab.engines.scheduling.sampling import distribution, draw
from lab.engines.scheduling.speculation import Drafts
from lab.errors import LabError


@dataclass(eq=False, kw_only=True)
class _Mirror:
    """What the draft's cache holds of a job: its first `start` tokens, and then those that were drafted."""

    start: int
    drafted: list[int] = field(default_factory=list)

    def valid(self, tokens: Sequence[int]) -> int:
        """How many cached positions still belong to `tokens`; the last token is always left to be fed."""
        same = 0
        while same < len(self.drafted) and tokens[self.start + same : self.start + same + 1] == [self.drafted[same]]:
            same += 1
        return min(self.start + same, len(tokens) - 1)


class DraftModel:
    """Lets `core` (a draft model's own context) guess up to `tokens` tokens a step for every job, in the job's own slot.

    One decode catches up with what the target chose since, then each further token is one decode for all jobs together.
    Greedy decoding drafts the argmax; otherwise tokens are drawn under the job's own decoding and their distributions
    kept for `verify`. Drafting of a job ends early where the draft's likeliest token has less than `confidence`.
    When its cache is full it starts over and drafts nothing in that step.
    """

    def __init__(self, core: Core, tokens: int = 4, *, confidence: float = 0.0) -> None:
        if tokens < 1 or not 0 <= confidence < 1:
            raise LabError(f"A draft model needs at least 1 token a step and a confidence from 0 to below 1, not {tokens} "
                           f"and {confidence:g}.")
        self.core, self.tokens, self.confidence = core, tokens, confidence
        self._mirrors: dict[Job, _Mirror] = {}

    def propose(self, jobs: Sequence[Job], limits: Sequence[int]) -> list[Drafts]:
        wanted = {job: min(limit, self.tokens) for job, limit in zip(jobs, limits, strict=True) if limit > 0}
        if any(job.slot >= self.core.sequences for job in wanted):
            raise LabError(f"The draft model's context has {self.core.sequences} sequences and the target's more; open it "
                           "with as many.")
        try:
            drafted = self._draft(wanted)
        except KVCacheFull:
            self.core.clear()
            self._mirrors.clear()
            return [NOTHING] * len(jobs)
        return [drafted.get(job, NOTHING) for job in jobs]

    def _draft(self, wanted: dict[Job, int]) -> dict[Job, Drafts]:
        parts = [self._catch_up(job) for job in wanted]
        tokens: dict[Job, list[int]] = {job: [] for job in wanted}
        kept: dict[Job, list[NDArray[np.float64]]] = {job: [] for job in wanted}
        while parts:
            following = []
            for job, logits in self._feed(parts):
                guess = self._choose(job, logits)
                if guess is None:
                    continue
                token, q = guess
                tokens[job].append(token)
                kept[job] += [] if q is None else [q]
                ends = self.core.is_end(token) and not job.request.decoding.ignore_eos
                if len(tokens[job]) < wanted[job] and not ends:
                    following.append((job, [token], len(job.tokens) + len(tokens[job]) - 1))
                    self._mirrors[job].drafted.append(token)
            parts = following
        return {job: Drafts(tokens=tokens[job], p=kept[job] or None) for job in wanted}

    def _catch_up(self, job: Job) -> tuple[Job, list[int], int]:
        mirror = self._mirrors.get(job)
        known = mirror.valid(job.tokens) if mirror else 0
        self.core.forget(job.slot, known)
        self._mirrors[job] = _Mirror(start=len(job.tokens))
        return job, job.tokens[known:], known

    def _feed(self, parts: Sequence[tuple[Job, list[int], int]]) -> Iterator[tuple[Job, NDArray[np.float32]]]:
        """Evaluate each job's tokens from its position on, in as few batches as they fit; yields the logits after them."""
        core, queue = self.core, deque(parts)
        while queue:
            at, complete = 0, []
            while queue and at < core.batch_tokens:
                job, tokens, position = queue.popleft()
                count = min(len(tokens), core.batch_tokens - at)
                end = at + count
                core.token[at:end], core.position[at:end] = tokens[:count], np.arange(position, position + count)
                core.sequence[at:end, 0], core.sequence_count[at:end], core.output[at:end] = job.slot, 1, 0
                if count == len(tokens):
                    core.output[end - 1] = 1
                    complete.append(job)
                else:
                    queue.appendleft((job, tokens[count:], position + count))
                at = end
            core.decode(at)
            if complete:
                yield from zip(complete, core.logits(len(complete)), strict=True)

    def _choose(self, job: Job, logits: NDArray[np.float32]) -> tuple[int, NDArray[np.float64] | None] | None:
        decoding = job.request.decoding
        if decoding.temperature <= 0:
            token = int(logits.argmax())
            sure = not self.confidence or 1 / float(np.exp(logits - logits[token]).sum()) >= self.confidence
            return (token, None) if sure else None
        q = distribution(logits, decoding)
        # Judged by q as a whole, before the draw: dropping what was drawn would change what comes out.
        return (draw(q, job.random), q) if q.max() >= self.confidence else None

    def learn(self, job: Job, drafted: int, accepted: int) -> None:
        pass

    def drop(self, job: Job) -> None:
        if self._mirrors.pop(job, None):
            self.core.forget(job.slot)

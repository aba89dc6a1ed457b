"""The step loop: admits requests, mixes chunked prefill with decoding in one batch, preempts when the KV cache is full.

Continuous batching as in Orca (Yu et al., OSDI 2022) with chunked prefill under a token budget (Sarathi-Serve, Agrawal
et al. 2024) and preemption by recomputation (vLLM, Kwon et al. 2023). Static batching and one-at-a-time are admission
policies of the same loop, so that an experiment compares policies and nothing else.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from lab.engines import refuse_misfit
from lab.engines.scheduling.core import Core, KVCacheFull
from lab.engines.scheduling.job import Job
from lab.engines.scheduling.speculation import Drafter, Drafts, verify
from lab.errors import LabError
from lab.records import Request
from lab.text import TextStream

Policy = Literal["continuous", "static", "sequential"]


class PrefixCache(Protocol):
    """Keeps the KV cells of finished work for requests that begin alike."""

    cells: int
    """Cells that its entries hold in the core's cache, and those that running jobs share."""

    def covers(self, job: Job) -> int:
        """Cells that `reuse` would share with `job`, so that it needs no new ones for them."""
        ...

    def reuse(self, job: Job) -> None:
        """Put the longest cached prefix of `job.tokens` into its slot; sets `done`, `shared` and `cached_tokens`."""
        ...

    def keep(self, job: Job) -> None:
        """Take over what is useful of an ended job's slot, before the slot is cleared."""
        ...

    def release(self, job: Job) -> None:
        """The job no longer uses what it shared."""
        ...

    def evict(self, cells: int) -> bool:
        """Give back at least `cells` cells; False if it cannot."""
        ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step did: seconds of the engine, of drafting and of everything else, tokens, and how full it was."""

    at_s: float
    engine_s: float
    overhead_s: float
    decoding: int
    prefill_tokens: int
    drafted_tokens: int
    running: int
    waiting: int
    cells: int
    draft_s: float = 0.0


class Scheduler:
    """Serves requests on `core`; drive it with `submit` and `step`, or through `lab.load`.

    `max_running` sequences at most share a batch of `token_budget` tokens a step (decoding goes first, prefill fills the
    rest in order of arrival). First come, first served: the youngest is preempted first and returns to the head of the
    queue, so the oldest always advances and nobody starves. `steps` is the record of every step, or of the last
    `keep_steps` (a server runs for ever).
    """

    def __init__(
        self,
        core: Core,
        *,
        policy: Policy = "continuous",
        max_running: int = 0,
        token_budget: int = 0,
        cache: PrefixCache | None = None,
        drafter: Drafter | None = None,
        first_slot: int = 0,
        on_token: Callable[[Job], None] | None = None,
        keep_steps: int | None = None,
    ) -> None:
        slots = core.sequences - first_slot
        if policy not in ("continuous", "static", "sequential"):
            raise LabError(f"There is no batching policy '{policy}'; choose continuous, static or sequential.")
        self.max_running = 1 if policy == "sequential" else min(max_running or slots, slots)
        if self.max_running < 1 or token_budget < 0:
            raise LabError("A scheduler needs room for at least one sequence and a token budget that is not negative.")
        self.core, self.policy, self.cache, self.drafter = core, policy, cache, drafter
        self.token_budget = min(token_budget or 512, core.batch_tokens)
        if self.token_budget < self.max_running:
            raise LabError(f"A token budget of {self.token_budget} cannot serve {self.max_running} sequences a step; "
                           "raise --token-budget or lower the concurrency.")
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.steps: deque[Step] = deque(maxlen=keep_steps)
        self._free = list(range(first_slot, first_slot + slots))
        self._on_token = on_token
        self._draft_s, self.preemptions = 0.0, 0

    def submit(self, request: Request, tokens: Sequence[int], *, scheduled_s: float | None = None) -> Job:
        """Queue a request whose prompt is `tokens`. Raises `LabError` if it can never fit the cache."""
        decoding = request.decoding
        refuse_misfit(len(tokens), decoding.max_tokens, self.core.sequence_tokens)
        now = self.core.now()
        # A stream of its own: the picker draws from the seed itself, and the first draft must not repeat its draw.
        random = np.random.default_rng((decoding.seed & 0xFFFFFFFF, 1))
        job = Job(request=request, tokens=list(tokens), prompt_tokens=len(tokens), picker=self.core.sampler(decoding),
                  text=TextStream(decoding.stop), random=random,
                  scheduled_s=now if scheduled_s is None else scheduled_s, sent_s=now)
        self.waiting.append(job)
        return job

    def cancel(self, job: Job) -> None:
        """End `job` now, wherever it is; what it had answered is kept. Ended jobs are left alone."""
        if job.finish_reason is None:
            job.finish("cancelled", self.core.now())
            if job in self.running:
                self._leave(job)
            else:
                self.waiting.remove(job)

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    @property
    def cells(self) -> int:
        """KV cells in use: of the running, and of the prefix cache."""
        return sum(j.done - j.shared for j in self.running) + (self.cache.cells if self.cache else 0)

    def step(self) -> list[Job]:
        """Admit, evaluate one batch, choose tokens; returns the jobs that ended."""
        started, self._draft_s = self.core.now(), 0.0
        self._admit()
        self._close_gaps()
        plan = self._plan()
        if not plan:
            return []
        count = self._fill(plan)
        for part in plan:
            if part.job.started_s is None:
                part.job.started_s = started
        before = self.core.now()
        try:
            self.core.decode(count)
        except KVCacheFull:
            self._recover(plan)
            return []
        at = self.core.now()
        ended = self._harvest(plan)
        self.steps.append(Step(
            at_s=started, engine_s=at - before, overhead_s=self.core.now() - at + before - started - self._draft_s,
            decoding=sum(p.chooses for p in plan), prefill_tokens=sum(p.count - p.chooses for p in plan if not p.drafts.tokens),
            drafted_tokens=sum(len(p.drafts.tokens) for p in plan), running=len(self.running) + len(ended),
            waiting=len(self.waiting), cells=self.cells, draft_s=self._draft_s))
        return ended

    def _admit(self) -> None:
        if self.policy == "static" and self.running:
            return
        while self.waiting and len(self.running) < self.max_running:
            job = self.waiting[0]
            # A job needs room for all it would feed, beside what those running have still to feed; alone it always has
            # it (`submit` saw to that).
            covered = self.cache.covers(job) if self.cache else 0
            pending = sum(j.pending for j in self.running)
            if not self._room(pending + len(job.tokens) + 1 - covered) and self.running:
                return
            self.waiting.popleft()
            job.slot = heapq.heappop(self._free)
            if self.cache:
                self.cache.reuse(job)
            self.running.append(job)

    def _close_gaps(self) -> None:
        """Move the last sequences into numbers that others left.

        llama.cpp evaluates cells of their own in one piece only where sequence numbers have no gap: 8 sequences with one
        between each took 60 ms a step, side by side 32 ms. A draft model keeps its own cells by the same numbers, so
        with one the gaps stay.
        """
        if self.core.sequence_tokens == self.core.context_tokens or self.drafter is not None:
            return
        while self.running and self._free and self._free[0] < max(j.slot for j in self.running):
            job = max(self.running, key=lambda j: j.slot)
            target = heapq.heapreplace(self._free, job.slot)
            if job.done:
                self.core.copy(job.slot, target)
                self.core.forget(job.slot)
            job.slot = target

    def _room(self, cells: int) -> bool:
        missing = self.cells + cells - self.core.context_tokens
        return missing <= 0 or (self.cache is not None and self.cache.evict(missing))

    def _plan(self) -> list[_Part]:
        """Who feeds how many tokens in this step; preempts the youngest until somebody can advance."""
        while self.running:
            plan = self._try_plan()
            if plan:
                return plan
            if len(self.running) == 1:
                raise KVCacheFull(f"The KV cache of {self.core.context_tokens:,} tokens is full with one sequence in it.")
            self._preempt(self.running[-1])
        return []

    def _try_plan(self) -> list[_Part]:
        # A prompt of one token waits its turn among the prompts.
        deciding = [j for j in self.running if j.pending == 1 and j.done]
        if deciding and not self._room(len(deciding)):
            return []
        budget = self.token_budget - len(deciding)
        free = self.core.context_tokens - self.cells - len(deciding)
        proposed = self._drafts(deciding, min(budget, free))
        plan = [_Part(job=j, count=1 + len(d.tokens), chooses=True, drafts=d)
                for j, d in zip(deciding, proposed, strict=True)]
        spent = sum(len(d.tokens) for d in proposed)
        budget, free = budget - spent, free - spent
        for job in self.running:
            if (job.pending > 1 or not job.done) and budget > 0:
                wanted = min(job.pending, budget)
                if wanted > free and self._room(len(deciding) + spent + wanted):
                    free = wanted
                count = min(wanted, free)
                if count > 0:
                    plan.append(_Part(job=job, count=count, chooses=count == job.pending, drafts=_NONE))
                    budget, free, spent = budget - count, free - count, spent + count
        return plan

    def _drafts(self, jobs: list[Job], room: int) -> list[Drafts]:
        if self.drafter is None or not jobs or room < 1:
            return [_NONE] * len(jobs)
        each, started = room // len(jobs), self.core.now()
        # A draft beyond the last wanted token would be thrown away. Verifying knows no schema: such a job decodes plainly.
        limits = [0 if j.request.decoding.json_schema else max(0, min(each, j.left - 1)) for j in jobs]
        proposed = self.drafter.propose(jobs, limits)
        self._draft_s += self.core.now() - started
        return proposed

    def _fill(self, plan: list[_Part]) -> int:
        core, at = self.core, 0
        # llama.cpp splits a batch over cells of their own wherever sequence numbers do not ascend one by one.
        plan.sort(key=lambda part: part.job.slot)
        for part in plan:
            job, n = part.job, part.count
            part.first, end = at, at + n
            if n == 1:  # a slice costs five times as much as an element
                core.token[at], core.position[at] = job.tokens[job.done], job.done
                core.sequence[at, 0], core.output[at] = job.slot, part.chooses
            else:
                core.token[at:end] = [*job.tokens[job.done : job.done + n], *part.drafts.tokens][:n]
                core.position[at:end] = np.arange(job.done, job.done + n)
                core.sequence[at:end, 0] = job.slot
                core.output[at:end] = 1 if part.drafts.tokens else 0
                core.output[end - 1] = part.chooses
            at = end
        core.sequence_count[:at] = 1
        return at

    def _harvest(self, plan: list[_Part]) -> list[Job]:
        rows = sum(1 + len(p.drafts.tokens) for p in plan if p.chooses)
        logits = self.core.logits(rows) if rows else None
        row, ended = 0, []
        for part in plan:
            job = part.job
            if not part.chooses:
                job.done += part.count
                continue
            assert logits is not None
            k = len(part.drafts.tokens)
            job.done += part.count - k
            if k:
                chosen = verify(logits[row : row + k + 1], part.drafts, job.request.decoding, job.random)
            else:
                chosen = [job.picker.pick(part.first + part.count - 1, logits[row])]
            row += k + 1
            self._take(job, chosen, k, self.core.now())
            if job.finish_reason is not None:
                ended.append(job)
                self._leave(job)
        return ended

    def _take(self, job: Job, chosen: list[int], drafted: int, at_s: float) -> None:
        for token in chosen:
            job.take(token, at_s, piece=self.core.piece(token), end=self.core.is_end(token))
            if job.finish_reason is not None:
                break
        if drafted:
            job.drafted_tokens += drafted
            job.accepted_tokens += len(chosen) - 1
            if self.drafter is not None:
                self.drafter.learn(job, drafted, len(chosen) - 1)
            # Of the drafts only the accepted stay in the cache: all chosen tokens but the last have been fed.
            kept = job.done + len(chosen) - 1
            if len(chosen) - 1 < drafted:
                self.core.forget(job.slot, kept)
            job.done = min(kept, len(job.tokens))
        if self._on_token is not None:
            self._on_token(job)

    def _leave(self, job: Job) -> None:
        if self.cache and job.finish_reason not in ("cancelled", "error"):
            self.cache.keep(job)
        self._vacate(job)

    def _preempt(self, job: Job) -> None:
        job.preemptions += 1
        self.preemptions += 1
        self._vacate(job)
        job.done = job.shared = 0
        self.waiting.appendleft(job)

    def _vacate(self, job: Job) -> None:
        self.running.remove(job)
        if self.cache:
            self.cache.release(job)
        if self.drafter is not None:
            self.drafter.drop(job)
        self.core.forget(job.slot)
        heapq.heappush(self._free, job.slot)
        job.slot = -1

    def _recover(self, plan: Iterable[_Part]) -> None:
        """After a batch that did not fit (cells in fragments): take back what it fed and make room."""
        for part in plan:
            self.core.forget(part.job.slot, part.job.done)
        if len(self.running) == 1:
            raise KVCacheFull(f"The KV cache of {self.core.context_tokens:,} tokens is full with one sequence in it.")
        self._preempt(self.running[-1])


@dataclass(eq=False, kw_only=True)
class _Part:
    """One job's share of a step: `count` entries of the batch from entry `first` on, drafts included."""

    job: Job
    count: int
    chooses: bool
    drafts: Drafts
    first: int = -1


_NONE = Drafts()

"""Chooses how many tokens to draft in each step: as many as pay by measured step costs and acceptance so far, or none."""

from __future__ import annotations

from collections.abc import Sequence

from lab.engines.scheduling.costs import StepCosts
from lab.engines.scheduling.drafters import NOTHING
from lab.engines.scheduling.job import Job
from lab.engines.scheduling.speculation import Drafter, Drafts

PRIORS = (0.6, 0.3, 0.4, 0.6, 0.8, 0.9)
"""Acceptance rate assumed before anything is seen, by the length of the match: none told, 1, 2-3, 4-7, 8-15, 16 and more."""
MARGIN = 1.02
"""Speed that drafting must promise over plain decoding before it is tried: the costs are known no better."""
ALLOWANCE_STEPS = 3.0
"""What may be lost at first, in plain steps."""
REFILL_SHARE = 0.02
"""Share of plain decoding time that may be lost from then on."""
STRENGTH = 8.0
"""How many tokens seen a prior weighs as much as, and the session's rate against a job's own."""


class Adaptive:
    """Lets `inner` draft only where that is worth it, and bounds what it can cost.

    Plan: every draft j of a job adds a^j expected tokens (a: its acceptance rate), so the best m drafts over all jobs are
    the m largest of these, and m is chosen to maximise expected tokens / (measured seconds of a step with m drafts). 0 is
    an option. Acceptance is estimated per job, drawn towards that of the session, apart by the length of the match.

    Bound: an account of seconds holds what speculation has gained so far (tokens accepted, less what verifying and
    drafting cost), starts at 3 plain steps and is topped up by 2% of plain decoding time. No step may risk more than it
    holds. So what never pays costs at most 3 steps and 2%; where the plan says no, a full account pays for a probe of the
    fewest tokens that could win, unless the evidence is a short match. Not bounded: a draft model's reading of the prompt,
    once per job for which it looked worth it.
    """

    def __init__(self, inner: Drafter, costs: StepCosts, *, longest: int = 31) -> None:
        self.inner, self.costs, self.longest = inner, costs, longest
        self.account_s = -1.0
        self._steps_s: list[float] = []
        self._session = {i: [STRENGTH * prior, STRENGTH] for i, prior in enumerate(PRIORS)}
        self._jobs: dict[Job, dict[int, list[float]]] = {}
        self._last: dict[Job, tuple[int, float]] = {}
        """Class of the evidence of a job's last draft, and what an accepted token of it is worth in seconds."""
        self._read: dict[Job, int] = {}
        """Tokens of a job that the draft model has read."""
        self._fewest: dict[int, tuple[int, float]] = {}
        """By batch: the fewest drafts that could win, and the acceptance rate they need."""

    def propose(self, jobs: Sequence[Job], limits: Sequence[int]) -> list[Drafts]:
        plain_s = self._step_s(len(jobs))
        if self.account_s < 0:
            self.account_s = ALLOWANCE_STEPS * plain_s
        if self.account_s < ALLOWANCE_STEPS * plain_s:
            self.account_s += REFILL_SHARE * plain_s
        limits = [min(limit, self.longest) for limit in limits]
        if self.costs.draft_step_s:
            lengths = self._lengths(jobs, limits, [0] * len(jobs))
            guesses = self.inner.propose(jobs, lengths) if any(lengths) else [NOTHING] * len(jobs)
        else:
            whole = self.inner.propose(jobs, limits)
            lengths = self._lengths(jobs, [len(g.tokens) for g in whole], [_class(g.evidence) for g in whole])
            guesses = [guess.first(length) for guess, length in zip(whole, lengths, strict=True)]
        self._charge(jobs, guesses, plain_s)
        return guesses

    def _lengths(self, jobs: Sequence[Job], limits: Sequence[int], kinds: Sequence[int]) -> list[int]:
        rates = [self.rate(job, kind) for job, kind in zip(jobs, kinds, strict=True)]
        options = sorted((-(rate ** j), j, i) for i, (rate, limit) in enumerate(zip(rates, limits, strict=True))
                         for j in range(1, limit + 1))
        batch = len(jobs)
        plain_s, expected, deepest, best, chosen = self._step_s(batch), float(batch), 0, MARGIN * batch, 0
        behind_s = self._behind_s(jobs, limits)
        for m, (gain, j, _) in enumerate(options, 1):
            expected, deepest = expected - gain, max(deepest, j)
            cost_s = self._step_s(batch + m) + deepest * self.costs.draft_step_s
            if cost_s - plain_s > self.account_s:
                break
            # Catching up is spread over the tokens that are still to come.
            speed = expected * plain_s / (cost_s + behind_s)
            if speed > best:
                best, chosen = speed, m
        lengths = [0] * batch
        for _, j, i in options[:chosen]:
            lengths[i] = j
        if not chosen and options:
            i = options[0][2]
            lengths[i] = min(limits[i], self._probe(jobs[i], kinds[i], batch))
        return lengths

    def _probe(self, job: Job, kind: int, batch: int) -> int:
        """How many tokens to try although the plan expects no gain: 0 unless the account is full and it could win."""
        plain_s = self._step_s(batch)
        if self.account_s < ALLOWANCE_STEPS * plain_s:
            return 0
        if batch not in self._fewest:
            fewest = next((k for k in range(1, 9) if self.costs.speedup(1.0, k, batch) > MARGIN), 0)
            self._fewest[batch] = (fewest, self.costs.break_even(fewest, batch) if fewest else 1.0)
        fewest, needed = self._fewest[batch]
        risk_s = self._step_s(batch + fewest) - plain_s + fewest * self.costs.draft_step_s
        if self.costs.draft_step_s:
            risk_s += self.costs.draft_token_s * (len(job.tokens) - self._read.get(job, 0))
        return fewest if PRIORS[kind] >= 0.6 * needed and risk_s <= self.account_s else 0

    def _behind_s(self, jobs: Sequence[Job], limits: Sequence[int]) -> float:
        if not self.costs.draft_step_s:
            return 0.0
        tokens = sum(len(job.tokens) - self._read.get(job, 0) for job, limit in zip(jobs, limits, strict=True) if limit)
        left = max((job.left for job in jobs), default=1)
        return tokens * self.costs.draft_token_s / max(1, left)

    def _charge(self, jobs: Sequence[Job], guesses: Sequence[Drafts], plain_s: float) -> None:
        drafted = sum(len(guess.tokens) for guess in guesses)
        if not drafted:
            return
        deepest = max(len(guess.tokens) for guess in guesses)
        self.account_s -= self._step_s(len(jobs) + drafted) - plain_s + deepest * self.costs.draft_step_s
        # The account may go below what a step can risk, never below 0, which stands for "not opened".
        self.account_s = max(self.account_s, 0.0)
        for job, guess in zip(jobs, guesses, strict=True):
            if guess.tokens:
                self._last[job] = (_class(guess.evidence), plain_s / len(jobs))
                self._read[job] = len(job.tokens)

    def rate(self, job: Job, kind: int = 0) -> float:
        """The acceptance rate expected of the next draft of `job` whose evidence is of class `kind`."""
        accepted, examined = self._session[kind]
        mine = self._jobs.get(job, {}).get(kind, (0.0, 0.0))
        return (STRENGTH * accepted / examined + mine[0]) / (STRENGTH + mine[1])

    def learn(self, job: Job, drafted: int, accepted: int) -> None:
        self.inner.learn(job, drafted, accepted)
        kind, worth_s = self._last.get(job, (0, 0.0))
        most_s = 2 * (self._step_s(1 + self.longest) - self._step_s(1)) + ALLOWANCE_STEPS * self._step_s(1)
        self.account_s = max(self.account_s, min(self.account_s + accepted * worth_s, most_s))
        own = self._jobs.setdefault(job, {}).setdefault(kind, [0.0, 0.0])
        for counts, memory in ((own, 0.9), (self._session[kind], 0.98)):
            counts[0] = memory * counts[0] + accepted
            counts[1] = memory * counts[1] + min(accepted + 1, drafted)

    def drop(self, job: Job) -> None:
        self.inner.drop(job)
        for kept in (self._jobs, self._last, self._read):
            kept.pop(job, None)

    def _step_s(self, tokens: int) -> float:
        """`costs.step_s` from a table: this is asked for some hundred times a step."""
        while len(self._steps_s) <= tokens:
            self._steps_s.append(self.costs.step_s(len(self._steps_s)))
        return self._steps_s[tokens]


def _class(evidence: int) -> int:
    return min(evidence.bit_length(), len(PRIORS) - 1)

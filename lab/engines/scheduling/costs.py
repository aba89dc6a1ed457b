"""What speculation must earn: the measured seconds of a step by its tokens, and the speed-up they leave room for.

With acceptance rate a (each draft accepted independently) a step that verifies k drafts yields (1 - a^(k+1)) / (1 - a)
tokens on average (Leviathan, Kalman, Matias 2023, theorem 1 and equation 1). There, verifying k drafts is taken to cost
as much as one token; on a CPU it does not, so the cost of a step of n tokens is measured here, on the context itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from lab.engines.scheduling.core import Core
from lab.errors import LabError


def expected_tokens(rate: float, drafts: float) -> float:
    """Tokens a step yields on average that verifies `drafts` tokens, each accepted with probability `rate`."""
    return drafts + 1 if rate >= 1 else (1 - rate ** (drafts + 1)) / (1 - rate)


def acceptance(outcomes: list[tuple[int, int]]) -> float:
    """The acceptance rate of (drafted, accepted) pairs: accepted over examined; after a rejection nothing is examined."""
    examined = sum(min(accepted + 1, drafted) for drafted, accepted in outcomes)
    return sum(accepted for _, accepted in outcomes) / examined if examined else math.nan


@dataclass(frozen=True, kw_only=True)
class StepCosts:
    """Seconds of the target's step by the tokens in its batch, and of the draft model's (0: lookups cost nothing).

    `draft_step_s` is one token for every sequence, `draft_token_s` one token more in a batch (catching up).
    """

    tokens: tuple[int, ...]
    seconds: tuple[float, ...]
    draft_step_s: float = 0.0
    draft_token_s: float = 0.0

    def step_s(self, tokens: float) -> float:
        """Seconds of a step of `tokens` tokens: linear between those measured, and beyond the last as over all of them."""
        last = self.tokens[-1]
        if tokens > last and len(self.tokens) > 1:
            return self.seconds[-1] + (tokens - last) * (self.seconds[-1] - self.seconds[0]) / (last - self.tokens[0])
        return float(np.interp(tokens, self.tokens, self.seconds))

    def speedup(self, rate: float, drafts: float, batch: int = 1) -> float:
        """Tokens/s against plain decoding when each of `batch` sequences verifies `drafts` tokens a step."""
        cost = self.step_s(batch * (1 + drafts)) + drafts * self.draft_step_s
        return expected_tokens(rate, drafts) * self.step_s(batch) / cost

    def break_even(self, drafts: float, batch: int = 1) -> float:
        """The acceptance rate at which verifying `drafts` tokens a step is as fast as plain; NaN where none suffices."""
        if self.speedup(1.0, drafts, batch) < 1:
            return math.nan
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if self.speedup(middle, drafts, batch) >= 1 else (middle, high)
        return high

    def with_draft(self, draft: StepCosts, batch: int) -> StepCosts:
        """These costs with those of a draft model's context beside."""
        more = (draft.seconds[-1] - draft.seconds[0]) / (draft.tokens[-1] - draft.tokens[0])
        return replace(self, draft_step_s=draft.step_s(batch), draft_token_s=max(0.0, more))


def measure(core: Core, *, batch: int, most_tokens: int, depth: int = 128, repeats: int = 4) -> StepCosts:
    """Time steps of `batch` sequences and up to `most_tokens` tokens, all at `depth`; the least disturbed of `repeats`.

    Both are cut to what the context holds, the depth first. The sizes take turns within a round, so that a machine that
    drifts favours none. Clears the cache before and after. Raises `LabError` where `batch` sequences do not fit at all.
    """
    cells = min(core.context_tokens, batch * core.sequence_tokens)
    room = min(core.batch_tokens, cells - batch)
    if room <= batch:
        raise LabError(f"A context of {core.context_tokens:,} tokens and a batch of {core.batch_tokens:,} cannot hold {batch} "
                       "sequences that speculate; ask for a larger context or fewer sequences.")
    core.clear()
    most_tokens = min(max(most_tokens, batch + 1), room)
    depth = max(1, min(depth, (core.context_tokens - most_tokens) // batch, core.sequence_tokens - -(-most_tokens // batch)))
    for sequence in range(batch):
        for start in range(0, depth, core.batch_tokens):
            count = min(core.batch_tokens, depth - start)
            _entries(core, 0, sequence, start, count)
            core.decode(count)
    sizes = _sizes(batch, most_tokens)
    seen: dict[int, list[float]] = {n: [] for n in sizes}
    for i in range(repeats):
        for n in sizes if i % 2 else reversed(sizes):
            seen[n].append(_time(core, n, batch, depth))
    core.clear()
    return StepCosts(tokens=tuple(sizes), seconds=tuple(min(seen[n]) for n in sizes))


def _sizes(batch: int, most_tokens: int) -> list[int]:
    """Every size up to 8 drafts in all; then whole blocks of 8, for which kernels are built, and one token more."""
    blocks = {n + more for n in range(8, most_tokens + 1, 8) for more in (0, 1)}
    sizes = set(range(batch, batch + 9)) | {n for n in blocks if n > batch + 8} | {most_tokens}
    return sorted(n for n in sizes if n <= most_tokens)


def _time(core: Core, tokens: int, batch: int, depth: int) -> float:
    at = 0
    for sequence in range(batch):
        count = tokens // batch + (sequence < tokens % batch)
        _entries(core, at, sequence, depth, count)
        at += count
    core.output[:tokens] = 1
    start = core.now()
    core.decode(tokens)
    core.logits(tokens)
    seconds = core.now() - start
    for sequence in range(batch):
        core.forget(sequence, depth)
    return seconds


def _entries(core: Core, at: int, sequence: int, position: int, count: int) -> None:
    end = at + count
    core.token[at:end] = 10 + np.arange(position, position + count) % 80
    core.position[at:end] = np.arange(position, position + count)
    core.sequence[at:end, 0], core.sequence_count[at:end], core.output[at:end] = sequence, 1, 0

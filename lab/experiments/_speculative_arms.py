"""An arm of the speculation experiment: a drafter with its draft length, its servings, and how they compare with plain ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lab import stats
from lab.engines.scheduling import costs
from lab.engines.scheduling.adaptive import Adaptive
from lab.engines.scheduling.draft_model import DraftModel
from lab.engines.scheduling.drafters import PromptLookup, Recorded, SessionNgram
from lab.engines.scheduling.scheduler import Scheduler, Step
from lab.engines.scheduling.speculation import Drafter
from lab.load.scheduled import closed_loop
from lab.metrics import speed
from lab.metrics.answer import first_difference
from lab.records import Estimate, Generation, Request

if TYPE_CHECKING:
    from lab.engines.llama.context import Context

ENDED = ("stop", "length")
LONGEST = 31
"""Tokens that adaptive drafting may verify at most: with the one before them, four blocks of 8."""
Work = list[tuple[Request, list[int]]]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A drafter and its draft length; 0 tokens is adaptive."""

    drafter: str
    tokens: int

    @property
    def length(self) -> str:
        return str(self.tokens) if self.tokens else "adaptive"

    def __str__(self) -> str:
        return f"{self.drafter}, {self.length}"

    def build(self, contexts: Mapping[str, Context], priced: costs.StepCosts, confidence: float) -> Drafter:
        """A fresh drafter that knows nothing yet."""
        tokens = self.tokens or LONGEST
        inner: Drafter
        if self.drafter == "prompt_lookup":
            inner = PromptLookup(tokens)
        elif self.drafter == "session_ngram":
            inner = SessionNgram(tokens)
        else:
            inner = DraftModel(contexts[self.drafter], tokens, confidence=confidence)
        return inner if self.tokens else Adaptive(inner, priced, longest=LONGEST)


@dataclass(frozen=True, kw_only=True)
class Served:
    """One serving of some requests, all at once."""

    generations: tuple[Generation, ...]
    steps: tuple[Step, ...]
    outcomes: tuple[tuple[int, int], ...] = ()
    """(drafted, accepted) of every draft."""


def serve(core: Any, work: Work, batch: int, drafter: Drafter | None) -> Served:
    """Serve `work` with `batch` requests at a time, speculating with `drafter` if there is one."""
    recorded = Recorded(drafter) if drafter else None
    scheduler = Scheduler(core, max_running=batch, drafter=recorded)
    jobs = closed_loop(scheduler, work, batch)
    return Served(generations=tuple(job.generation() for job in jobs), steps=tuple(scheduler.steps),
                  outcomes=tuple(recorded.outcomes) if recorded else ())


def compared(
    plain: Sequence[Served], served: Sequence[Served], arm: Arm, priced: costs.StepCosts, batch: int, *, greedy: bool
) -> tuple[dict[str, float | Estimate], dict[str, str]]:
    """Measures and notes of one arm beside the plain servings of the same requests, in the same order."""
    pairs = paired(served, plain)
    owners, servings = [task_of(mine) for _, mine, _ in pairs], [serving for serving, _, _ in pairs]
    rates = [speed.decode_tokens_per_s(mine) for _, mine, _ in pairs]
    plain_rates = [speed.decode_tokens_per_s(other) for _, _, other in pairs]
    ratios = [a / b for a, b in zip(rates, plain_rates, strict=True)]
    outcomes = [outcome for run in served for outcome in run.outcomes]
    # A step that also read a prompt was not priced; its tokens are left out on both sides.
    steps = [s for run in served for s in run.steps if not s.prefill_tokens]
    generations = [g for run in served for g in run.generations]
    drafted = sum(d for d, _ in outcomes)
    mean_drafts = drafted / len(outcomes) if outcomes else math.nan
    rate = costs.acceptance(outcomes)
    # Prices are those of the usual draft: a lookup with a short match offers less than it may.
    length = Counter(d for d, _ in outcomes).most_common(1)[0][0] if outcomes else arm.tokens
    begun = [g for g in generations if g.tokens]
    emitted, decided = sum(len(g.tokens) - 1 for g in begun), sum(len(set(g.tokens_at_s)) - 1 for g in begun)
    spent_s = sum(s.engine_s + s.overhead_s + s.draft_s for run in served for s in run.steps)
    found: dict[str, float | Estimate] = {
        "speedup": geometric_mean(ratios, owners, servings), "predicted_speedup": predicted(steps, outcomes, rate, priced),
        "acceptance_rate": rate, "accepted_share": sum(a for _, a in outcomes) / drafted if drafted else math.nan,
        "break_even_acceptance_rate": priced.break_even(length, batch) if length else math.nan,
        "tokens_per_target_step": emitted / decided if decided else math.nan,
        "drafted_step_share": len(outcomes) / decided if decided else math.nan, "mean_draft_tokens": mean_drafts,
        "draft_share": sum(s.draft_s for run in served for s in run.steps) / spent_s if spent_s else math.nan,
        "verify_cost": priced.step_s(batch * (1 + length)) / priced.step_s(batch) if length else math.nan,
        "decode_tokens_per_s": stats.clustered_percentile(rates, owners, 50),
        "plain_decode_tokens_per_s": stats.clustered_percentile(plain_rates, owners, 50),
    }
    shown = ", ".join(f"{n}: {s * 1e3:.3g}" for n, s in zip(priced.tokens, priced.seconds, strict=True))
    notes = {"step_ms_by_tokens": shown}
    if priced.draft_step_s:
        notes["draft_step_ms"] = f"{priced.draft_step_s * 1e3:.3g}"
    if alone := max(len(generations), sum(len(run.generations) for run in plain)) - len(pairs):
        notes["left_out"] = f"{alone} answers were cut off in one of the two arms and are compared with nothing"
    if greedy:
        differing = [(g.request.id, first_difference(g.tokens, other.tokens))
                     for _, g, other in pairs if g.tokens != other.tokens]
        found["differing_sequences"] = float(len(differing))
        if differing:
            notes["differs"] = ", ".join(f"{i} at token {at}" for i, at in differing[:20])
    return found, notes


def predicted(
    steps: Sequence[Step], outcomes: Sequence[tuple[int, int]], rate: float, priced: costs.StepCosts
) -> float:
    """The speed-up that `rate` and the step costs promise for drafts of these lengths: plain seconds over speculative.

    Tokens: one for every sequence of every step, and for a draft of k tokens (1 - a^(k+1)) / (1 - a) - 1 more.
    """
    if not steps:
        return math.nan
    decided = sum(s.decoding for s in steps)
    extra = [costs.expected_tokens(rate, k) - 1 for k, _ in outcomes]
    # Drafts of steps that also read a prompt are in `outcomes`; count the share that belongs to these steps.
    share = sum(s.drafted_tokens for s in steps) / max(1, sum(k for k, _ in outcomes))
    plain_token_s = sum(priced.step_s(s.decoding) for s in steps) / decided
    drafting_s = sum(k for k, _ in outcomes) * share / max(1.0, decided / len(steps)) * priced.draft_step_s
    spent_s = sum(priced.step_s(s.decoding + s.drafted_tokens) for s in steps) + drafting_s
    return (decided + share * sum(extra)) * plain_token_s / spent_s


def paired(served: Sequence[Served], plain: Sequence[Served]) -> list[tuple[int, Generation, Generation]]:
    """(serving, answer, plain answer) to the same request; one that was cut off on either side has no pair."""
    found = []
    for i, (mine, others) in enumerate(zip(served, plain, strict=False)):
        there = {g.request.id: g for g in others.generations if g.finish_reason in ENDED}
        found += [(i, g, there[g.request.id]) for g in mine.generations if g.finish_reason in ENDED and g.request.id in there]
    return found


def task_of(generation: Generation) -> str:
    """The task that was asked: a batch asks one several times, as `id.0`, `id.1` ..."""
    return generation.request.id.rsplit(".", 1)[0]


def geometric_mean(ratios: Sequence[float], tasks: Sequence[str], servings: Sequence[int]) -> Estimate:
    """The geometric mean of paired ratios; NaN pairs are left out.

    The interval is the wider of `stats.clustered_mean`'s over tasks and over servings. Rounds and copies of a task say
    more about its ratio, not about other tasks; and requests served together share what the machine did meanwhile. NaN
    where there is only one task or one serving.
    """
    logs = np.log(ratios)
    either = [stats.clustered_mean(logs, tasks), stats.clustered_mean(logs, servings)]
    low, high = np.min([e.low for e in either]), np.max([e.high for e in either])  # NaN if one of them is
    return Estimate(value=math.exp(either[0].value), low=math.exp(low), high=math.exp(high))

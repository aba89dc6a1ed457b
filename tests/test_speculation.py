"""Laws of speculation: it changes no greedy token and no distribution, whatever drafts and however the schedule goes."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from lab.data.tasks import KINDS, tasks
from lab.engines.scheduling import costs
from lab.engines.scheduling.adaptive import REFILL_SHARE, Adaptive
from lab.engines.scheduling.costs import StepCosts, acceptance, expected_tokens
from lab.engines.scheduling.draft_model import DraftModel
from lab.engines.scheduling.drafters import BLOCK, PromptLookup, Recorded, SessionNgram
from lab.engines.scheduling.job import Job
from lab.engines.scheduling.sampling import distribution, draw
from lab.engines.scheduling.scheduler import Scheduler
from lab.engines.scheduling.scripted_core import ScriptedCore
from lab.engines.scheduling.speculation import Drafter, Drafts, verify
from lab.engines.scheduling.suffixes import SuffixIndex
from lab.errors import LabError
from lab.experiments._speculative_arms import Arm, Served, compared, geometric_mean, paired, serve
from lab.experiments._speculative_verdict import decide
from lab.experiments.speculative import Speculative
from lab.records import Decoding, Request
from lab.stats import clustered_mean

DRAFTED = ScriptedCore(vocabulary=257, sharpness=2.0, seed=0)


def asked(i: int, length: int, output: int, **decoding: Any) -> tuple[Request, list[int]]:
    tokens = np.random.default_rng(i).integers(0, 250, length).tolist()
    given_ = {"max_tokens": output, "ignore_eos": True, **decoding}
    return Request(id=str(i), tokens=tuple(tokens), decoding=Decoding(**given_)), tokens


def finish(scheduler: Scheduler) -> None:
    for _ in range(20_000):
        if scheduler.idle:
            return
        scheduler.step()
    raise AssertionError("the schedule did not end")


def plain(one: tuple[Request, list[int]], **core: Any) -> list[int]:
    scheduler = Scheduler(ScriptedCore(**{"context_tokens": 400, **core}), policy="sequential")
    job = scheduler.submit(*one)
    finish(scheduler)
    return job.output


class Garbage:
    """Drafts anything: random tokens, the right ones for a while, with or without a distribution."""

    def __init__(self, seed: int, *, right: float = 0.7) -> None:
        self.random, self.right = np.random.default_rng(seed), right

    def propose(self, jobs: Sequence[Job], limits: Sequence[int]) -> list[Drafts]:
        found = []
        for job, limit in zip(jobs, limits, strict=True):
            tokens = list(job.tokens)
            for _ in range(int(self.random.integers(0, limit + 1))):
                row = DRAFTED.row(tokens[-2] if len(tokens) > 1 else -1, tokens[-1])
                tokens.append(int(row.argmax()) if self.random.random() < self.right else int(self.random.integers(257)))
            found.append(Drafts(tokens=tokens[len(job.tokens) :], evidence=int(self.random.integers(0, 40))))
        return found

    def learn(self, job: Job, drafted: int, accepted: int) -> None:
        assert 0 <= accepted <= drafted

    def drop(self, job: Job) -> None:
        pass


PRICES = StepCosts(tokens=(1, 8, 64), seconds=(0.0045, 0.008, 0.036))
DEAR = StepCosts(tokens=(1, 64), seconds=(0.0045, 0.288), draft_step_s=0.004)


def drafter(kind: str, seed: int, sequences: int, cells: int) -> Drafter:
    other = ScriptedCore(context_tokens=cells, sequences=sequences, seed=0, sharpness=1.7, batch_tokens=17)
    makers: dict[str, Callable[[], Drafter]] = {
        "garbage": lambda: Garbage(seed), "lookup": lambda: PromptLookup(5, shortest=1), "session": lambda: SessionNgram(5),
        "same": lambda: DraftModel(other, 3), "unsure": lambda: DraftModel(other, 4, confidence=0.2),
        "other": lambda: DraftModel(ScriptedCore(context_tokens=cells, sequences=sequences, seed=9), 3),
        "adaptive": lambda: Adaptive(Garbage(seed), PRICES), "adaptive model": lambda: Adaptive(DraftModel(other, 6), PRICES),
        "adaptive dear": lambda: Adaptive(DraftModel(other, 6), DEAR)}
    return makers[kind]()


KINDS_OF_DRAFTER = ("garbage", "lookup", "session", "same", "unsure", "other", "adaptive", "adaptive model", "adaptive dear")


@settings(max_examples=250, deadline=None)
@given(
    work=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=10), cells=st.integers(90, 200),
    sequences=st.integers(1, 5), budget=st.integers(6, 64), between=st.lists(st.integers(0, 5), max_size=10),
    cancelled=st.sets(st.integers(0, 9), max_size=3), kind=st.sampled_from(KINDS_OF_DRAFTER), seed=st.integers(0, 99),
)
def test_greedy_answers_are_the_plain_ones_whatever_drafts_under_any_schedule(
    work: list[tuple[int, int]], cells: int, sequences: int, budget: int, between: list[int], cancelled: set[int], kind: str,
    seed: int,
) -> None:
    core = ScriptedCore(context_tokens=cells, sequences=sequences)
    scheduler = Scheduler(core, token_budget=budget, drafter=drafter(kind, seed, sequences, cells))
    requests = [asked(i, length, output) for i, (length, output) in enumerate(work)]
    jobs = []
    for i, one in enumerate(requests):
        jobs.append(scheduler.submit(*one))
        for _ in range(between[i] if i < len(between) else 0):
            scheduler.step()
        if i in cancelled:
            scheduler.cancel(jobs[-1])
    finish(scheduler)
    assert core.used() == 0
    for job, one in zip(jobs, requests, strict=True):
        expected = plain(one)
        assert job.output == (expected[: len(job.output)] if job.finish_reason == "cancelled" else expected)
        assert job.accepted_tokens <= job.drafted_tokens


def test_an_end_token_and_a_stop_string_inside_a_draft_end_the_answer_there() -> None:
    for decoding in ({"ignore_eos": False}, {"stop": ("e",)}, {"stop": ("ab", "q")}):
        for i in range(30):
            one = asked(i, 5, 60, **decoding)
            scheduler = Scheduler(ScriptedCore(context_tokens=200), drafter=DraftModel(ScriptedCore(context_tokens=200), 7))
            job = scheduler.submit(*one)
            finish(scheduler)
            reference = Scheduler(ScriptedCore(context_tokens=200))
            expected = reference.submit(*one)
            finish(reference)
            assert job.output == expected.output
            assert job.finish_reason == expected.finish_reason
            assert job.generation().text == expected.generation().text


# The distribution


def reached(drafts: str, temperature: float, top_k: int, runs: int) -> Counter[tuple[int, ...]]:
    """How often each answer of three tokens comes out of a vocabulary of 5, over many seeds."""
    seen: Counter[tuple[int, ...]] = Counter()
    target = {"vocabulary": 5, "sharpness": 0.9, "seed": 3, "context_tokens": 32, "sequences": 1}
    core, other = ScriptedCore(**target), ScriptedCore(**{**target, "seed": 4, "sharpness": 0.6})  # type: ignore[arg-type]
    for seed in range(runs):
        made: Drafter | None = {
            "none": None, "model": DraftModel(other, 2), "unsure model": DraftModel(other, 2, confidence=0.35),
            "sure": PromptLookup(2, shortest=1), "adaptive": Adaptive(DraftModel(other, 2), PRICES)}[drafts]
        scheduler = Scheduler(core, drafter=made)
        decoding = Decoding(max_tokens=4, temperature=temperature, top_k=top_k, seed=seed, ignore_eos=True)
        job = scheduler.submit(Request(tokens=(1, 2, 1, 2, 3, 1, 4, 0, 1), decoding=decoding), [1, 2, 1, 2, 3, 1, 4, 0, 1])
        finish(scheduler)
        seen[tuple(job.output)] += 1
    return seen


def exact(temperature: float, top_k: int) -> dict[tuple[int, ...], float]:
    """The probability of every answer of four tokens, multiplied out from the target's own rows."""
    core = ScriptedCore(vocabulary=5, sharpness=0.9, seed=3)
    decoding, found = Decoding(temperature=temperature, top_k=top_k), {}
    for answer in itertools.product(range(5), repeat=4):
        tokens, p = [0, 1, *answer], 1.0
        for i, token in enumerate(answer):
            p *= distribution(core.row(tokens[i], tokens[i + 1]), decoding)[token]
        if p > 0:
            found[answer] = p
    return found


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.7, 3)])
@pytest.mark.parametrize("drafts", ["model", "unsure model", "sure", "adaptive", "none"])
def test_sampled_speculation_has_the_distribution_of_the_target(drafts: str, temperature: float, top_k: int) -> None:
    runs = 4000
    seen, p = reached(drafts, temperature, top_k, runs), exact(temperature, top_k)
    assert set(seen) <= set(p)
    likely = [answer for answer in p if p[answer] * runs >= 5]
    observed = [seen[answer] for answer in likely] + [runs - sum(seen[answer] for answer in likely)]
    expected = [p[answer] * runs for answer in likely] + [runs * (1 - sum(p[answer] for answer in likely))]
    if expected[-1] < 5:
        observed, expected = observed[:-1], [e * sum(observed[:-1]) / sum(expected[:-1]) for e in expected[:-1]]
    assert chisquare(observed, expected).pvalue > 1e-3


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), temperature=st.sampled_from([0.5, 1.0, 2.0]), top_k=st.sampled_from([0, 2]))
def test_the_first_verified_token_is_drawn_from_the_target_whatever_the_draft_drew_from(
    seed: int, temperature: float, top_k: int
) -> None:
    random, decoding = np.random.default_rng(seed), Decoding(temperature=temperature, top_k=top_k)
    logits = random.normal(0, 1.5, (2, 4)).astype(np.float32)
    q = random.dirichlet(np.ones(4))
    counts = np.zeros(4)
    for _ in range(3000):
        draft = int(random.choice(4, p=q))
        counts[verify(logits, Drafts(tokens=[draft], p=[q]), decoding, random)[0]] += 1
    p = distribution(logits[0], decoding)
    assert counts[p == 0].sum() == 0
    if (p > 0).sum() > 1:
        assert chisquare(counts[p > 0], 3000 * p[p > 0] / p[p > 0].sum()).pvalue > 1e-6


def sorted_whole(logits: Any, decoding: Decoding) -> Any:
    """The distribution as its definition reads: sort everything, then filter step by step."""
    p = np.exp(logits.astype(np.float64) - float(logits.max()))
    order = np.argsort(-p, kind="stable")
    kept = order[: decoding.top_k or len(p)]
    before = np.cumsum(p[kept]) - p[kept]
    kept = kept[(before < decoding.top_p * p[kept].sum()) | (np.arange(len(kept)) == 0)] if decoding.top_p < 1 else kept
    kept = kept[p[kept] >= decoding.min_p]
    found = np.zeros(len(p))
    found[kept] = p[kept] ** (1 / decoding.temperature)
    return found / found.sum()


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1, 2, 7, 300, 3000]), spread=st.sampled_from([0.0, 0.3, 3.0, 40.0]),
       steps=st.sampled_from([0, 2]), top_k=st.sampled_from([0, 1, 2, 40, 5000]), top_p=st.sampled_from([0.013, 0.5, 0.9, 0.9991, 1.0]),
       min_p=st.sampled_from([0.0, 0.0503, 0.7]), temperature=st.sampled_from([0.3, 1.0, 2.0]))
def test_filters_keep_the_tokens_that_sorting_the_whole_vocabulary_would_keep(
    seed: int, size: int, spread: float, steps: int, top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    values = spread * np.random.default_rng(seed).standard_normal(size)
    logits = (np.round(values * steps) / steps if steps else values).astype(np.float32)  # rounded ones have many equals
    decoding = Decoding(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    found, expected = distribution(logits, decoding), sorted_whole(logits, decoding)
    assert found.sum() == pytest.approx(1)
    # Sums in another order differ in their last digits: the one token in which top-p is reached may be on either side.
    assert (np.abs(found - expected) > 1e-9).sum() == 0 or abs(int((found > 0).sum()) - int((expected > 0).sum())) == 1


class Fixed(np.random.Generator):
    """Draws `value` for ever."""

    value = 0.0

    def random(self, *_: Any, **__: Any) -> Any:
        return self.value


@given(st.lists(st.floats(0, 1e6) | st.just(0.0), min_size=1, max_size=9).filter(lambda p: sum(p) > 1e-9))
def test_a_token_without_probability_is_never_drawn(p: list[float]) -> None:
    fixed = Fixed(np.random.PCG64(0))
    for fixed.value in (0.0, 0.5, float(np.nextafter(1.0, 0.0))):
        assert p[draw(np.array(p), fixed)] > 0


# Looking up


@settings(max_examples=300, deadline=None)
@given(tokens=st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_prompt_lookup_finds_the_longest_suffix_that_occurred_before_and_where_first(tokens: list[int]) -> None:
    index = SuffixIndex()
    for token in tokens:
        index.add(token)
    n = len(tokens)
    length = max((k for k in range(n) if any(tokens[i : i + k] == tokens[n - k :] for i in range(n - k))), default=0)
    found, start = index.match()
    assert found == length
    if length:
        assert start - length == next(i for i in range(n) if tokens[i : i + length] == tokens[n - length :])
        repeated = [*tokens, *index.follow(start, 12)]
        assert all(repeated[start + i] == repeated[n + i] for i in range(12))


@settings(max_examples=200, deadline=None)
@given(tokens=st.lists(st.integers(0, 2), min_size=2, max_size=80), most=st.integers(1, 40), limit=st.integers(0, 40))
def test_a_lookup_drafts_no_more_than_it_has_matched_rounded_up_to_whole_blocks(tokens: list[int], most: int, limit: int) -> None:
    job = Scheduler(ScriptedCore(context_tokens=400)).submit(Request(tokens=tuple(tokens), decoding=Decoding(max_tokens=50)), tokens)
    (drafts,) = PromptLookup(most).propose([job], [limit])
    n, matched = len(drafts.tokens), drafts.evidence
    assert n <= min(most, limit)
    if matched < 2:
        assert n == 0
    elif n < min(most, limit):
        assert (n + 1) % BLOCK == 0 and matched <= n < matched + BLOCK
    else:
        assert n <= matched + BLOCK


def test_the_work_of_the_index_does_not_grow_with_the_length() -> None:
    index, random = SuffixIndex(), np.random.default_rng(0)
    for token in [*random.integers(0, 50, 3000).tolist(), *[7] * 1000, *[1, 2, 3] * 300]:
        index.add(token)
    assert len(index._next) <= 2 * len(index.tokens)
    assert sum(map(len, index._next)) <= 3 * len(index.tokens)


def test_the_session_learns_from_one_request_for_the_next() -> None:
    table = SessionNgram(4)
    drafting = Recorded(table)
    core = ScriptedCore(context_tokens=256, sequences=1)
    for _ in range(2):
        scheduler = Scheduler(core, drafter=drafting)
        job = scheduler.submit(*asked(1, 6, 40))
        finish(scheduler)
    assert job.accepted_tokens > 25
    assert table._table[tuple(job.output[-5:-1])] == job.output[-1]
    small = SessionNgram(4, capacity=10)
    scheduler = Scheduler(core, drafter=small)
    scheduler.submit(*asked(1, 6, 40))
    finish(scheduler)
    assert len(small._table) <= 10


def test_a_draft_model_that_is_the_target_is_always_right_and_batches_its_jobs() -> None:
    mirror = ScriptedCore(context_tokens=512, sequences=4)
    scheduler = Scheduler(ScriptedCore(context_tokens=512, sequences=4), drafter=DraftModel(mirror, 3))
    jobs = [scheduler.submit(*asked(i, 8, 33)) for i in range(4)]
    finish(scheduler)
    assert all(job.accepted_tokens == job.drafted_tokens > 0 for job in jobs)
    # 32 tokens after the first, four a step: 8 rounds of one catch-up and two more decodes, whatever the number of jobs.
    assert mirror.now() <= 8 * 3 * (0.004 + 0.0005 * 4) + 4 * 8 * 0.0005 + 4 * 8 * 0.0005 + 0.01
    assert mirror.used() == 0


class Checked(DraftModel):
    """Compares every draft with the one that a reader of the whole answer makes."""

    def propose(self, jobs: Sequence[Job], limits: Sequence[int]) -> list[Drafts]:
        if len(jobs[0].tokens) % 3:  # now and then, as an adaptive length asks: several tokens may have come since
            return [Drafts()] * len(jobs)
        found = super().propose(jobs, limits)
        for job, drafts in zip(jobs, found, strict=True):
            tokens = list(job.tokens)
            for _ in drafts.tokens:
                tokens.append(int(self.core.row(tokens[-2], tokens[-1]).argmax()))  # type: ignore[attr-defined]
            assert list(drafts.tokens) == tokens[len(job.tokens) :]
        return found


def test_what_the_target_rejected_is_gone_from_the_drafts_memory() -> None:
    # The draft knows the target in most contexts, so that some drafts are accepted and some are not.
    other = ScriptedCore(context_tokens=400, sequences=3, seed=0, sharpness=2.0)
    true_row = other.row
    other.row = lambda before, last: true_row(before, last) if (before + last) % 3 else -true_row(before, last)  # type: ignore[method-assign, assignment]
    scheduler = Scheduler(ScriptedCore(context_tokens=400, sequences=3), drafter=Checked(other, 5))
    jobs = [scheduler.submit(*asked(i, 5, 80)) for i in range(3)]
    finish(scheduler)
    assert all(0 < job.accepted_tokens < job.drafted_tokens for job in jobs)


def test_a_draft_cache_that_is_full_costs_drafts_and_no_answer() -> None:
    scheduler = Scheduler(ScriptedCore(context_tokens=256, sequences=4), drafter=DraftModel(ScriptedCore(context_tokens=60, sequences=4), 3))
    requests = [asked(i, 20, 30) for i in range(4)]
    jobs = [scheduler.submit(*one) for one in requests]
    finish(scheduler)
    assert [job.output for job in jobs] == [plain(one) for one in requests]


# The cost model and the adaptive length


@given(rate=st.floats(0, 1), drafts=st.integers(1, 12))
def test_expected_tokens_are_the_sum_of_the_chances_to_get_that_far(rate: float, drafts: int) -> None:
    assert expected_tokens(rate, drafts) == pytest.approx(sum(rate**i for i in range(drafts + 1)), rel=1e-6)


@given(st.floats(0.05, 0.95), st.integers(1, 8))
@settings(deadline=None, max_examples=40)
def test_the_acceptance_rate_is_found_again_from_the_outcomes(rate: float, drafts: int) -> None:
    random = np.random.default_rng(0)
    tries = random.random((4000, drafts)) < rate
    outcomes = [(drafts, drafts if row.all() else int(row.argmin())) for row in tries]
    assert acceptance(outcomes) == pytest.approx(rate, abs=0.04)


@given(step=st.floats(1e-4, 1), more=st.lists(st.floats(0, 1), min_size=1, max_size=6), drafts=st.integers(1, 6),
       batch=st.integers(1, 4))
def test_at_the_break_even_acceptance_speculation_is_as_fast_as_plain(
    step: float, more: list[float], drafts: int, batch: int
) -> None:
    seconds = tuple(itertools.accumulate([step, *more]))
    priced = StepCosts(tokens=tuple(range(1, len(seconds) + 1)), seconds=seconds)
    rate = priced.break_even(drafts, batch)
    if math.isnan(rate):
        assert priced.speedup(1.0, drafts, batch) < 1
    elif rate > 1e-6:
        assert priced.speedup(rate, drafts, batch) == pytest.approx(1, abs=1e-6)


def test_measured_costs_are_those_of_the_core_and_leave_its_cache_empty() -> None:
    core = ScriptedCore(context_tokens=256, sequences=2, batch_tokens=64, step_s=0.004, token_s=0.0005)
    priced = costs.measure(core, batch=2, most_tokens=40)
    assert core.used() == 0
    for n, seconds in zip(priced.tokens, priced.seconds, strict=True):
        assert seconds == pytest.approx(0.004 + 0.0005 * n)
    assert priced.step_s(100) == pytest.approx(0.004 + 0.0005 * 100)


@pytest.mark.parametrize("cells", [10, 24, 60])
def test_steps_are_priced_only_as_far_as_the_context_holds(cells: int) -> None:
    core = ScriptedCore(context_tokens=cells, sequences=2, batch_tokens=64)
    priced = costs.measure(core, batch=2, most_tokens=60)
    assert 3 <= priced.tokens[-1] <= cells - 2
    assert core.used() == 0
    parts = ScriptedCore(context_tokens=cells, sequences=2, batch_tokens=64)
    parts.sequence_tokens = cells // 2
    assert costs.measure(parts, batch=2, most_tokens=60).tokens[-1] <= 2 * (cells // 2 - 1)


def test_a_context_too_small_to_speculate_in_is_refused_in_a_sentence() -> None:
    with pytest.raises(LabError, match=r"context of 7 tokens .* cannot hold 4 sequences that speculate; ask for a larger"):
        costs.measure(ScriptedCore(context_tokens=7, sequences=4), batch=4, most_tokens=8)


class Always(Garbage):
    """Offers as much as it may, all of it right with probability `right`."""

    def propose(self, jobs: Sequence[Job], limits: Sequence[int]) -> list[Drafts]:
        found = []
        for job, limit in zip(jobs, limits, strict=True):
            tokens = list(job.tokens)
            for _ in range(limit):
                row = DRAFTED.row(tokens[-2] if len(tokens) > 1 else -1, tokens[-1])
                tokens.append(int(row.argmax()) if self.random.random() < self.right else int(row.argmin()))
            found.append(Drafts(tokens=tokens[len(job.tokens) :], evidence=20))
        return found


def seconds(drafting: Drafter | None, jobs: int = 1, output: int = 300, token_s: float = 0.002) -> float:
    """Virtual seconds of decoding where a verified token is dear: a step is 4 ms and 2 ms per token."""
    core = ScriptedCore(context_tokens=2000, sequences=jobs, token_s=token_s)
    scheduler = Scheduler(core, drafter=drafting)
    for i in range(jobs):
        scheduler.submit(*asked(i, 4, output))
    finish(scheduler)
    return core.now()


DEARLY = StepCosts(tokens=(1, 64), seconds=(0.006, 0.132))


@pytest.mark.parametrize("jobs", [1, 4])
def test_adaptive_drafts_hardly_anything_when_nothing_is_accepted_and_costs_less_than_five_percent(jobs: int) -> None:
    drafting = Recorded(Adaptive(Always(0, right=0.0), DEARLY))
    assert seconds(drafting, jobs) <= 1.05 * seconds(None, jobs)
    late = drafting.outcomes[len(drafting.outcomes) // 2 :]
    assert all(drafted == 1 for drafted, _ in late)


def test_adaptive_risks_no_more_than_it_has_even_when_it_is_sure_and_wrong() -> None:
    cheap = StepCosts(tokens=(1, 64), seconds=(0.0046, 0.0424))
    drafting = Adaptive(Always(0, right=0.0), cheap)
    drafting._session[5] = [1e6, 1e6]
    assert seconds(drafting, 1, 150, 0.0006) <= 1.05 * seconds(None, 1, 150, 0.0006)


@pytest.mark.parametrize("right", [0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0])
def test_adaptive_is_never_far_below_plain_nor_below_the_best_fixed_length(right: float) -> None:
    without, fixed = seconds(None), []
    for k in (1, 2, 4, 8, 16):
        fixed.append(seconds(Cut(Always(1, right=right), k)))
    adaptive = seconds(Adaptive(Always(1, right=right), DEARLY))
    assert adaptive <= without / 0.95
    assert adaptive <= 1.15 * min([*fixed, without])


class Cut:
    """At most `k` tokens of what `inner` drafts."""

    def __init__(self, inner: Drafter, k: int) -> None:
        self.inner, self.k = inner, k
        self.learn, self.drop = inner.learn, inner.drop

    def propose(self, jobs: Sequence[Job], limits: Sequence[int]) -> list[Drafts]:
        return self.inner.propose(jobs, [min(limit, self.k) for limit in limits])


def test_adaptive_leaves_a_draft_model_alone_that_cannot_win() -> None:
    hopeless = StepCosts(tokens=(1, 64), seconds=(0.006, 0.384), draft_step_s=0.003, draft_token_s=0.001)
    drafting = Recorded(Adaptive(DraftModel(ScriptedCore(context_tokens=2000, sequences=1), 8), hopeless))
    seconds(drafting)
    assert drafting.outcomes == []


def test_what_adaptive_may_lose_is_stated_as_it_is() -> None:
    assert REFILL_SHARE < 0.05
    assert "2%" in (Adaptive.__doc__ or "")


# Vocabularies


def vocabularies() -> tuple[Any, Any]:
    from lab.engines.llama.draft import Vocabulary

    return Vocabulary(name="big", texts=[b"a", b"b", b"c"], special={"begin": -1, "end": 2}), Vocabulary


@pytest.mark.parametrize(("texts", "special", "said"), [
    ([b"a", b"b"], {"begin": -1, "end": 2}, "small cannot draft for big: it has 2 tokens where the target has 3; choose"),
    ([b"a", b"x", b"c"], {"begin": -1, "end": 2}, "its token 1 is 'x' where the target's is 'b'; choose"),
    ([b"a", b"b", b"c"], {"begin": 0, "end": 2}, "its begin token is 0 where the target's is -1; choose"),
    ([b"a", b"b", b"c"], {"begin": -1, "end": 1}, "its end token is 1 where the target's is 2; choose"),
])
def test_a_draft_of_another_vocabulary_is_refused_in_a_sentence(texts: list[bytes], special: dict[str, int], said: str) -> None:
    from lab.engines.llama.draft import refuse_other_vocabulary

    target, make = vocabularies()
    refuse_other_vocabulary(target, make(name="same", texts=list(target.texts), special=dict(target.special)))
    with pytest.raises(LabError) as refused:
        refuse_other_vocabulary(target, make(name="small", texts=texts, special=special))
    assert said in str(refused.value)
    assert str(refused.value).endswith(".")


def test_a_model_file_with_one_word_changed_is_refused_as_a_draft_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.models import find

    raw = bytearray(find("smollm2-135m").path.read_bytes())
    word = len("Ġinformation".encode()).to_bytes(8, "little") + "Ġinformation".encode()
    at = raw.index(word)
    raw[at + 8 + 2 : at + len(word)] = b"wonderments"
    other = tmp_path / "other.gguf"
    other.write_bytes(raw)
    config = Speculative(draft=str(other), drafters=("self_draft",), batch=(1,), kinds=("code",), threads=1, context_tokens=512)
    refuse_work(monkeypatch)
    for refused in (config.check, lambda: next(config.run())):
        with pytest.raises(LabError, match=r"other cannot draft for .*SmolLM2.*: its token \d+ is 'Ġwonderments' where"):
            refused()


def refuse_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no context may be opened, no draft be cut out of the target and no step be priced."""
    from lab.engines.llama import context, draft

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("work was begun before the refusal")

    for owner, name in ((context.Context, "__init__"), (draft, "self_draft"), (costs, "measure")):
        monkeypatch.setattr(owner, name, never)


@pytest.mark.parametrize("fields", [{"context_tokens": 150}, {"output_tokens": 4000}, {"output_tokens": 9000, "context_tokens": 20_000}])
def test_tasks_that_do_not_fit_the_context_are_refused_before_any_work(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_work(monkeypatch)
    config = Speculative(drafters=("prompt_lookup", "self_draft"), kinds=("copy_editing",), threads=1, **fields)
    for refused in (config.check, lambda: next(config.run())):
        with pytest.raises(LabError, match=r"prompt of \d+ tokens and [\d,]+ output tokens do not fit the context of"):
            refused()


# The real engine


@pytest.fixture(scope="module")
def real() -> Iterator[Any]:
    from lab.engines.llama.context import Context
    from lab.engines.llama.draft import open_draft, self_draft
    from lab.engines.llama.weights import Weights
    from lab.models import find

    file = find("smollm2-135m")
    weights = Weights(file.path)
    draft = open_draft(self_draft(file, 28), weights)
    settings_: dict[str, Any] = {"context_tokens": 1024, "threads": 1, "sequences": 2, "flash_attention": "on"}
    yield Context(weights, **settings_), Context(draft, **settings_), weights
    draft.close()
    weights.close()


def test_greedy_speculation_on_the_real_engine_changes_no_token(real: Any) -> None:
    core, other, weights = real
    prompts = ["Count: one two three one two three one two", "The capital of France is"]
    work = [(Request(id=p, prompt=p, decoding=Decoding(max_tokens=16)), weights.tokenize(p)) for p in prompts]
    core.clear()
    expected = [g.tokens for g in serve(core, work, 2, None).generations]
    for drafting in (PromptLookup(7), DraftModel(other, 3)):
        core.clear()
        served = serve(core, work, 2, drafting)
        assert [g.tokens for g in served.generations] == expected
        assert sum(accepted for _, accepted in served.outcomes) > 0


def test_sampled_speculation_on_the_real_engine_draws_as_the_target_does(real: Any) -> None:
    core, other, weights = real
    tokens = weights.tokenize("My favourite colour is")
    decoding = Decoding(max_tokens=3, temperature=1.5, top_k=3)

    def drawn(drafting: Callable[[], Drafter] | None, seeds: range) -> Counter[int]:
        core.clear()
        other.clear()
        work = [(Request(id=str(s), tokens=tuple(tokens), decoding=Decoding(**{**vars(decoding), "seed": s})), tokens) for s in seeds]
        return Counter(g.tokens[1] for g in serve(core, work, 2, drafting() if drafting else None).generations)

    alone, drafted = drawn(None, range(60)), drawn(lambda: DraftModel(other, 1), range(100, 160))
    seen = [token for token in set(alone) | set(drafted) if alone[token] + drafted[token] >= 8]
    table = [[counts[t] for t in seen] + [sum(counts.values()) - sum(counts[t] for t in seen) + 1] for counts in (alone, drafted)]
    assert chi2_contingency(table).pvalue > 1e-3


def test_a_self_draft_has_the_layers_it_keeps_and_refuses_none() -> None:
    from lab.engines.llama.draft import self_draft
    from lab.engines.llama.quantize import layers_of, pruned
    from lab.models import find

    file = find("smollm2-135m")
    assert layers_of(self_draft(file, 28)) == 28
    assert self_draft(file, 28).bytes < file.bytes
    with pytest.raises(LabError, match="30 layers; a self-draft keeps from 2 to 29"):
        self_draft(file, 30)
    for wrong in ([], [30], range(30)):
        with pytest.raises(LabError, match="leave out at least one of them and not all"):
            pruned(file, list(wrong))


# The experiment


@pytest.mark.parametrize(("fields", "said"), [
    ({"drafters": ("oracle",)}, "no drafter 'oracle'"), ({"drafters": ("draft_model",)}, "--draft"),
    ({"drafters": ()}, "Nothing drafts"), ({"draft_tokens": (), "adaptive": False}, "Nothing drafts"),
    ({"batch": (0,)}, "--batch"), ({"temperature": (-1.0,)}, "--temperature"), ({"kinds": ("poetry",)}, "no kind of task 'poetry'"),
    ({"items": 5}, "from 1 to 4"), ({"draft_confidence": 1.0}, "--draft-confidence"), ({"repeats": 0}, "--repeats"),
])
def test_settings_that_mean_nothing_are_refused_in_a_sentence(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(LabError, match=said) as refused:
        Speculative(**fields)
    assert str(refused.value).endswith(".")


def scripted_run(drafting: Drafter | None) -> Served:
    core = ScriptedCore(context_tokens=1000, sequences=2, token_s=0.0001)
    return serve(core, [asked(i, 5, 60) for i in range(3)], 2, drafting)


def test_the_predicted_speedup_meets_the_measured_one_where_the_cost_model_is_exact() -> None:
    priced = costs.measure(ScriptedCore(context_tokens=1000, sequences=2, token_s=0.0001), batch=2, most_tokens=20)
    for right in (0.3, 0.9):
        served, without = [scripted_run(Cut(Always(s, right=right), 4)) for s in range(5)], [scripted_run(None)] * 5
        found, _ = compared(without, served, Arm(drafter="prompt_lookup", tokens=4), priced, 2, greedy=True)
        assert found["differing_sequences"] == 0
        assert found["acceptance_rate"] == pytest.approx(right, abs=0.06)
        assert found["predicted_speedup"] == pytest.approx(found["speedup"].value, rel=0.08)  # type: ignore[union-attr]
        allowed, _ = compared(without, served, Arm(drafter="prompt_lookup", tokens=31), priced, 2, greedy=True)
        usual = priced.step_s(2 * (1 + 4)) / priced.step_s(2)
        assert allowed["verify_cost"] == pytest.approx(usual), "what was drafted is priced, not what might have been"


@given(st.lists(st.floats(0.1, 10), min_size=3, max_size=20))
@settings(deadline=None, max_examples=30)
def test_swapping_the_sides_turns_the_mean_speedup_over(ratios: list[float]) -> None:
    names, servings = [f"t{i}" for i in range(len(ratios))], [i // 2 for i in range(len(ratios))]
    there, back = geometric_mean(ratios, names, servings), geometric_mean([1 / r for r in ratios], names, servings)
    assert there.value * back.value == pytest.approx(1)
    assert there.low <= there.value * (1 + 1e-9) and there.value <= there.high * (1 + 1e-9)


@given(st.lists(st.floats(0.2, 5), min_size=2, max_size=4), st.integers(2, 9))
@settings(deadline=None, max_examples=50)
def test_asking_the_same_tasks_again_makes_no_speedup_more_certain(ratios: list[float], times: int) -> None:
    names = [f"t{i}" for i in range(len(ratios))]
    once = geometric_mean(ratios, names, range(len(ratios)))
    often = geometric_mean(ratios * times, names * times, range(len(ratios) * times))
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high))
    logs = clustered_mean(np.log(ratios), names)
    assert once.high / once.value == pytest.approx(math.exp(logs.high - logs.value))
    assert math.isnan(geometric_mean(ratios, ["one"] * len(ratios), range(len(ratios))).low)


def test_what_the_machine_did_to_all_that_was_served_at_once_makes_a_speedup_unsure() -> None:
    tasks_, servings = [f"t{i}" for _ in range(2) for i in range(8)], [serving for serving in range(2) for _ in range(8)]
    moody = geometric_mean([1.2] * 8 + [1.1] * 8, tasks_, servings)  # every task alike, every serving apart
    assert moody.low < 1 < moody.value
    assert geometric_mean([1.2, 1.1] * 8, tasks_, servings).high < moody.high
    assert math.isnan(geometric_mean([1.2] * 8, tasks_[:8], servings[:8]).low)


@pytest.mark.parametrize("batch", [1, 2])
def test_plain_decoding_and_every_drafter_take_turns_task_by_task(batch: int) -> None:
    config = Speculative(drafters=("prompt_lookup", "session_ngram"), draft_tokens=(4,), adaptive=False, batch=(batch,), items=4)
    core = ScriptedCore(context_tokens=1000, sequences=2)
    work = [asked(i, 5, 20) for i in range(4)]
    trials = config._point({"target": core}, dict.fromkeys(("prompt_lookup", "session_ngram"), PRICES), work, "code", batch, 0.0)  # type: ignore[dict-item]
    sent = sorted((g.sent_s, arm) for arm, trial in zip("ls", trials, strict=True) for g in trial.generations)
    assert "".join(arm for _, arm in sent) == {1: "lssllssl" "sllsslls", 2: "llssssll" "ssllllss"}[batch]
    assert all(trial.measures["differing_sequences"] == 0 for trial in trials)


def test_a_drafter_that_never_drafted_wins_nothing() -> None:
    idle = frame({("code", "self_draft, adaptive"): 1.5, ("code", "prompt_lookup, adaptive"): 1.2})
    idle.loc[0, "metrics.acceptance_rate"] = math.nan
    assert decide(idle).chosen == "code: prompt_lookup, adaptive, batch 1"


def test_answers_are_paired_by_request_and_round_and_what_was_cut_off_is_left_out() -> None:
    def served(ids: str, cut: str = "", drafting: Drafter | None = None) -> Served:
        core = ScriptedCore(context_tokens=1000, sequences=2)
        done = serve(core, [asked(int(i), 5, 20) for i in ids], 2, drafting)
        return replace(done, generations=tuple(
            replace(g, tokens=g.tokens[:3], tokens_at_s=g.tokens_at_s[:3], finish_reason="cancelled") if g.request.id in cut else g
            for g in done.generations))

    mine, plain_ = [served("210"), served("012", cut="1"), served("012")], [served("0123"), served("20")]
    pairs = paired(mine, plain_)
    assert [(i, a.request.id, b.request.id) for i, a, b in pairs] == [(0, *"22"), (0, *"11"), (0, *"00"), (1, *"00"), (1, *"22")]
    priced = StepCosts(tokens=(1, 8), seconds=(0.0045, 0.008))
    found, notes = compared(plain_, mine, Arm(drafter="prompt_lookup", tokens=4), priced, 2, greedy=True)
    assert found["differing_sequences"] == 0
    assert notes["left_out"].startswith("4 answers")
    whole, notes = compared(plain_[:1], mine[:1], Arm(drafter="prompt_lookup", tokens=4), priced, 2, greedy=True)
    assert "left_out" in notes and whole["speedup"].value == pytest.approx(1, abs=0.2)  # type: ignore[union-attr]


def frame(speedups: dict[tuple[str, str], float]) -> pd.DataFrame:
    return pd.DataFrame([{
        "name": f"{kind}: {arm}, batch 1", "params.kind": kind, "params.arm": arm, "params.draft_length": arm.split(", ")[1],
        "params.batch": 1, "params.first_load": "yes", "metrics.speedup": value, "metrics.speedup_low": value - 0.05,
        "metrics.speedup_high": value + 0.05, "metrics.predicted_speedup": value, "metrics.acceptance_rate": 0.5,
        "metrics.break_even_acceptance_rate": 0.7, "metrics.verify_cost": 2.5, "metrics.differing_sequences": 0.0}
        for (kind, arm), value in speedups.items()])


def test_the_verdict_is_off_on_or_off_except_for_the_kinds_that_surely_gain() -> None:
    lookup = "prompt_lookup, adaptive"
    off = decide(frame({("code", lookup): 0.8, ("copy_editing", lookup): 1.04}))
    assert off.decision.startswith("Off: no drafter") and off.chosen is None
    assert any(line == f"copy editing: {lookup} had 1.04x (0.99 to 1.09), too unsure to count." for line in off.why)
    some = decide(frame({("code", lookup): 0.97, ("copy_editing", lookup): 1.9, ("copy_editing", "self_draft, 7"): 1.2,
                         ("code", "self_draft, 7"): 0.6}))
    assert some.decision == f"Off, except for copy editing: {lookup} (1.90x)."
    assert some.chosen == f"copy_editing: {lookup}, batch 1"
    assert any("0.97x (code)" in line and "costs nothing to speak of" in line for line in some.why)
    on = frame({("code", lookup): 1.2, ("copy_editing", lookup): 1.9})
    assert decide(on).decision.startswith("On for every kind")
    assert decide(on).caveats == ()
    unsure = decide(on.assign(**{"metrics.speedup_low": math.nan}))
    assert unsure.decision.startswith("Off: no drafter is surely more than 2% faster")
    assert any("--items" in caveat for caveat in unsure.caveats)


def test_every_kind_of_task_has_as_many_original_prompts() -> None:
    rows = tasks()
    assert Counter(row.kind for row in rows) == dict.fromkeys(KINDS, 4)
    assert len({row.id for row in rows}) == len({row.prompt for row in rows}) == len(rows)
    with pytest.raises(LabError, match="from 1 to 4"):
        tasks(limit=5)


# The bench


def test_the_peers_timing_is_read_from_its_log_and_its_silence_is_said() -> None:
    from lab.bench.speculative import parse_speculative

    log = "encoded   11 tokens in    0.342 seconds\n\ndecoded   51 tokens in    2.500 seconds, speed:   20.4 t/s\n\naccept    = 93.750%\n"
    assert parse_speculative(log) == {"speed": 50 / 2.5, "accepted": 93.75}
    with pytest.raises(LabError, match="printed no timing"):
        parse_speculative("decoded   51 tokens")

"""Laws of the step loop, on the scripted core with random schedules and on the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.engines.llama.context import Context
from lab.engines.llama.weights import Weights
from lab.engines.scheduling.job import Job
from lab.engines.scheduling.scheduler import Scheduler
from lab.engines.scheduling.scripted_core import ScriptedCore
from lab.errors import LabError
from lab.load import arrivals
from lab.load.scheduled import open_loop
from lab.models import find
from lab.records import Decoding, Request


def request(i: int, length: int, output: int, temperature: float = 0.0, seed: int = 0) -> tuple[Request, list[int]]:
    tokens = np.random.default_rng(i).integers(0, 250, length).tolist()
    decoding = Decoding(max_tokens=output, temperature=temperature, seed=seed, ignore_eos=True)
    return Request(id=str(i), tokens=tuple(tokens), decoding=decoding), tokens


def alone(make: type[ScriptedCore], asked: tuple[Request, list[int]], **core: object) -> list[int]:
    scheduler = Scheduler(make(**core), policy="sequential")  # type: ignore[arg-type]
    job = scheduler.submit(*asked)
    finish(scheduler)
    return job.output


def finish(scheduler: Scheduler, limit: int = 20_000) -> list[Job]:
    ended: list[Job] = []
    for _ in range(limit):
        if scheduler.idle:
            return ended
        ended += scheduler.step()
    raise AssertionError("the schedule did not end")


work = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30), st.sampled_from([0.0, 1.0])), min_size=1, max_size=14)


@settings(max_examples=150, deadline=None)
@given(
    work=work, cells=st.integers(90, 200), sequences=st.integers(1, 6), budget=st.integers(6, 64),
    policy=st.sampled_from(["continuous", "static", "sequential"]), between=st.lists(st.integers(0, 5), max_size=14),
    cancelled=st.sets(st.integers(0, 13), max_size=3), separate=st.booleans(),
)
def test_no_request_is_lost_doubled_starved_or_changed(
    work: list[tuple[int, int, float]], cells: int, sequences: int, budget: int, policy: str, between: list[int],
    cancelled: set[int], separate: bool,
) -> None:
    core = ScriptedCore(context_tokens=90 * sequences if separate else cells, sequences=sequences, separate=separate)
    scheduler = Scheduler(core, policy=policy, token_budget=budget)  # type: ignore[arg-type]
    asked = [request(i, length, output, temperature, seed=i) for i, (length, output, temperature) in enumerate(work)]
    jobs, ended = [], []
    for i, one in enumerate(asked):
        jobs.append(scheduler.submit(*one))
        for _ in range(between[i] if i < len(between) else 0):
            ended += scheduler.step()
        if i in cancelled:
            scheduler.cancel(jobs[-1])
    ended += finish(scheduler)
    assert core.used() == 0
    for i, (job, one) in enumerate(zip(jobs, asked, strict=True)):
        expected = alone(ScriptedCore, one, context_tokens=200)
        if job.finish_reason == "cancelled":
            assert i in cancelled
            assert job.output == expected[: len(job.output)]
        else:
            assert ended.count(job) == 1
            assert job.output == expected
            assert len(job.generation().tokens_at_s) == len(expected)


@settings(max_examples=60, deadline=None)
@given(work=work, sequences=st.integers(2, 6))
def test_the_first_to_come_is_started_first(work: list[tuple[int, int, float]], sequences: int) -> None:
    scheduler = Scheduler(ScriptedCore(context_tokens=128, sequences=sequences))
    jobs = [scheduler.submit(*request(i, length, output)) for i, (length, output, _) in enumerate(work)]
    finish(scheduler)
    starts = [job.started_s for job in jobs]
    assert starts == sorted(starts)  # type: ignore[type-var]
    assert jobs[0].preemptions == 0


def test_a_full_cache_preempts_the_youngest_and_still_answers_all() -> None:
    core = ScriptedCore(context_tokens=100, sequences=4)
    scheduler = Scheduler(core)
    jobs = [scheduler.submit(*request(i, 20, 60)) for i in range(4)]
    finish(scheduler)
    assert sum(job.preemptions for job in jobs) > 0
    assert all(len(job.output) == 60 for job in jobs)


def test_static_batching_admits_only_when_the_batch_is_empty() -> None:
    scheduler = Scheduler(ScriptedCore(), policy="static", max_running=2)
    short, long, late = (scheduler.submit(*request(i, 5, n)) for i, n in enumerate((2, 20, 2)))
    finish(scheduler)
    assert late.started_s is not None
    assert long.ended_s is not None
    assert short.ended_s is not None
    assert late.started_s >= long.ended_s > short.ended_s


def test_decoding_is_never_held_up_by_more_than_a_budget_of_prefill() -> None:
    core = ScriptedCore(context_tokens=256, batch_tokens=64)
    scheduler = Scheduler(core, token_budget=16)
    talker = scheduler.submit(*request(0, 4, 40))
    for _ in range(5):
        scheduler.step()
    scheduler.submit(*request(1, 150, 2))
    finish(scheduler)
    gaps = np.diff(talker.at_s)
    assert gaps.max() <= 0.004 + 0.0005 * 16 + 1e-9


def test_a_request_that_can_never_fit_is_refused_in_one_sentence() -> None:
    scheduler = Scheduler(ScriptedCore(context_tokens=64))
    with pytest.raises(LabError, match="do not fit the context of 64"):
        scheduler.submit(*request(0, 60, 10))
    with pytest.raises(LabError, match="empty"):
        scheduler.submit(Request(tokens=(), decoding=Decoding()), [])
    with pytest.raises(LabError, match="token budget"):
        Scheduler(ScriptedCore(sequences=8), token_budget=4)


def test_an_open_loop_stops_at_its_limit_and_keeps_what_was_answered() -> None:
    core = ScriptedCore()
    work_ = [request(i, 5, 3) for i in range(3)]
    jobs = open_loop(Scheduler(core), work_, [0.0, 0.1, 3600.0], sleep=core.sleep, limit_s=5.0)
    assert [job.finish_reason for job in jobs] == ["length", "length"]
    assert core.now() == pytest.approx(5.0)


@pytest.mark.parametrize("times", ["{}", "[0, NaN]", "[0, Infinity]", "[2, 1]", "[]", "no json"])
def test_a_schedule_that_cannot_be_replayed_is_one_sentence(tmp_path: Path, times: str) -> None:
    (tmp_path / "times.json").write_text(times)
    with pytest.raises(LabError, match=r"schedule|times"):
        arrivals.schedule("replay", count=3, file=str(tmp_path / "times.json"))


@pytest.fixture(scope="module")
def weights() -> Iterator[Weights]:
    opened = Weights(find("smollm2-135m").path)
    yield opened
    opened.close()


def context(weights: Weights, **more: object) -> Context:
    settings_ = {"context_tokens": 1024, "threads": 1, "sequences": 4, **more}
    return Context(weights, **settings_)  # type: ignore[arg-type]


@pytest.mark.parametrize("cells", [0, -5, 10**9, 2**31])
def test_a_cache_that_memory_cannot_hold_is_refused_at_once(weights: Weights, cells: int) -> None:
    with pytest.raises(LabError, match="ask for"):
        context(weights, context_tokens=cells)


PROMPTS = ["The capital of France is", "def fibonacci(n):", "Once upon a time there was a small llama", "2 + 2 ="]


def test_greedy_output_of_every_sequence_equals_its_output_alone(weights: Weights) -> None:
    # Flash attention off and cells of its own: no sum of one sequence runs over another's cells.
    core = context(weights, flash_attention="off", unified=False)
    asked = [(Request(prompt=p, decoding=Decoding(max_tokens=10, ignore_eos=True)), weights.tokenize(p)) for p in PROMPTS]

    def run(policy: str) -> list[list[int]]:
        core.clear()
        scheduler = Scheduler(core, policy=policy)  # type: ignore[arg-type]
        jobs = [scheduler.submit(*one) for one in asked]
        finish(scheduler)
        return [job.output for job in jobs]

    expected = run("sequential")
    assert run("continuous") == expected
    assert run("static") == expected
    core.close()


def test_preemption_on_the_real_engine_changes_no_token(weights: Weights) -> None:
    # Below the 64 rows from which llama.cpp tiles its flash attention, a recomputed position has the same bits.
    prompt = weights.tokenize("A list of animals: ") * 8
    asked = [(Request(id=str(i), tokens=tuple(prompt), decoding=Decoding(max_tokens=50, ignore_eos=True)), prompt[: 38 - i])
             for i in range(4)]
    core = context(weights, context_tokens=256, flash_attention="on")
    scheduler = Scheduler(core, token_budget=16)
    jobs = [scheduler.submit(*one) for one in asked]
    finish(scheduler)
    assert sum(job.preemptions for job in jobs) > 0
    single = Scheduler(core, policy="sequential", token_budget=16)
    for job, one in zip(jobs, asked, strict=True):
        lone = single.submit(*one)
        finish(single)
        assert job.output == lone.output
    core.close()

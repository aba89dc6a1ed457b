"""Laws of the batching experiment: what it compares with what, whom it counts as served, and when it recommends."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pandas as pd
import pytest

from lab.engines.llama.context import Context
from lab.engines.llama.weights import Weights
from lab.engines.scheduling.scheduler import Scheduler
from lab.engines.scheduling.scripted_core import ScriptedCore
from lab.errors import LabError
from lab.experiments.batching import Batching, against, changed, knees
from lab.metrics import service
from lab.metrics.answer import first_difference
from lab.models import find
from lab.records import Decoding, Estimate, Generation, Request, Score


def answered(i: int, *, first: float, last: float, scheduled: float = 0.0, reason: str = "length") -> Generation:
    return Generation(request=Request(id=str(i), prompt="p"), tokens=(1, 2), tokens_at_s=(first, last), scheduled_s=scheduled,
                      sent_s=scheduled, started_s=scheduled, ended_s=last, finish_reason=reason)  # type: ignore[arg-type]


def right(i: int, value: float) -> Score:
    return Score(name="answered", item=str(i), value=value, by="words")


def row(policy: str, users: int, rate: float = 0.0, **measures: float) -> dict[str, Any]:
    arm = policy if not rate else f"{policy}, {users} at most"
    given = {"requests_per_s": 1.0, "output_tokens_per_s": 10.0, "ttft_p95_s": 1.0, "attainment_share": 1.0,
             "goodput_requests_per_s": 1.0, "compared_sequences": 10.0, "differing_sequences": 0.0, **measures}
    return {"name": f"{policy} {users}" + (f" at {rate:g}/s" if rate else ""), "params.policy": policy,
            "params.concurrency": users, "params.rate": rate, "params.load": rate or users, "params.arm": arm,
            **{f"metrics.{k}": v for k, v in given.items()}}


def test_a_request_that_was_cut_off_is_a_miss_with_infinite_latency() -> None:
    made = [answered(0, first=0.1, last=0.2), answered(1, first=0.1, last=0.2, reason="cancelled")]
    measures = service.served(made, 2.0, ttft_limit_s=1, tpot_limit_s=1)
    assert measures["requests_per_s"] == measures["goodput_requests_per_s"] == 0.5
    assert measures["ttft_p99_s"] == math.inf
    assert isinstance(measures["attainment_share"], Estimate)
    assert measures["attainment_share"].value == 0.5
    assert measures["unfinished_requests"] == 1


def test_quality_goodput_counts_each_pass_of_a_request_for_itself() -> None:
    # The same request twice, in time and right once; in time and wrong the other time.
    made = [answered(0, first=0.1, last=0.2), answered(0, first=0.1, last=0.2), answered(1, first=5.0, last=5.1)]
    scores = [right(0, 1.0), right(0, 0.0), right(1, 1.0)]
    assert service.served(made, 1.0, scores, ttft_limit_s=1, tpot_limit_s=1)["quality_goodput_requests_per_s"] == 1.0


def test_rates_over_no_time_are_refused() -> None:
    with pytest.raises(LabError, match="duration"):
        service.served([], 0.0, ttft_limit_s=1, tpot_limit_s=1)


def test_policies_are_compared_only_under_the_same_load_and_concurrency() -> None:
    trials = pd.DataFrame([
        row("static", 4, 2.0, requests_per_s=1.0), row("continuous", 4, 2.0, requests_per_s=1.5),
        row("static", 2, 4.0, requests_per_s=1.0), row("continuous", 8, 4.0, requests_per_s=9.0)])
    assert against(trials) == "Continuous against static batching, requests/s: 1.50x with 4 sequences at 2/s."


def test_a_knee_is_found_within_one_arm_and_in_its_own_unit() -> None:
    trials = pd.DataFrame([
        row("continuous", 4, 1.0, output_tokens_per_s=10, ttft_p95_s=0.1),
        row("continuous", 4, 2.0, output_tokens_per_s=20, ttft_p95_s=0.1),
        row("continuous", 4, 4.0, output_tokens_per_s=21, ttft_p95_s=0.9),
        row("continuous", 8, 1.0, output_tokens_per_s=10, ttft_p95_s=9.0),
        row("continuous", 8, 4.0, output_tokens_per_s=40, ttft_p95_s=9.0)])
    knee, none = knees(trials)
    assert knee.startswith("The knee of continuous, 4 at most is at 2 requests/s: 4 give +5% throughput")
    assert none == "No knee of continuous, 8 at most within the loads measured."


def test_a_point_that_fails_too_many_users_is_never_recommended() -> None:
    fast = row("continuous", 32, goodput_requests_per_s=9.0, attainment_share=0.5)
    safe = row("continuous", 4, goodput_requests_per_s=3.0, attainment_share=0.95)
    assert Batching().verdict(pd.DataFrame([fast, safe])).chosen == "continuous 4"
    none = Batching().verdict(pd.DataFrame([fast]))
    assert none.chosen is None
    assert "90%" in none.decision
    assert "50%" in none.decision


def test_points_under_one_load_are_measured_together() -> None:
    groups = Batching(concurrency=(1, 4)).loads()
    assert [{p.load for p in group} for group in groups] == [{1}, {4}]
    assert [p.policy for p in groups[1]] == ["static", "continuous"]
    open_ = Batching(arrivals="poisson", rates=(2.0, 4.0), concurrency=(1, 4)).loads()
    assert [{p.load for p in group} for group in open_] == [{2.0}, {4.0}]
    assert len({p.arm for p in open_[0]}) == len(open_[0]) == 5


def test_changed_answers_are_given_of_how_many_compared() -> None:
    trials = pd.DataFrame([row("static", 4), row("continuous", 4, differing_sequences=3.0)])
    assert changed(trials).startswith("3 of 10 answers of continuous 4")
    assert changed(trials.iloc[:1]) == ""


def test_two_answers_part_at_their_first_other_token() -> None:
    assert first_difference((1, 2, 3), (1, 2, 4)) == 2
    assert first_difference((1, 2), (1, 2, 3)) == 2
    assert first_difference((), (1,)) == 0


def submit(scheduler: Scheduler, i: int, length: int, output: int) -> Any:
    tokens = list(range(length))
    return scheduler.submit(Request(id=str(i), tokens=tuple(tokens), decoding=Decoding(max_tokens=output, ignore_eos=True)), tokens)


def test_admission_leaves_room_for_what_the_running_have_still_to_read() -> None:
    # 100 cells, prompts of 60: the second would be admitted into room that the first is about to fill.
    scheduler = Scheduler(ScriptedCore(context_tokens=100, sequences=4), token_budget=8)
    first, second = submit(scheduler, 0, 60, 4), submit(scheduler, 1, 60, 4)
    scheduler.step()
    assert scheduler.running == [first]
    while not scheduler.idle:
        scheduler.step()
    assert second.preemptions == 0


def test_a_request_starts_when_its_first_token_is_fed_not_when_it_gets_a_slot() -> None:
    scheduler = Scheduler(ScriptedCore(context_tokens=256, sequences=2, batch_tokens=16), token_budget=8)
    long, late = submit(scheduler, 0, 64, 2), submit(scheduler, 1, 8, 2)
    scheduler.step()
    assert long.started_s is not None
    assert late.started_s is None
    while not scheduler.idle:
        scheduler.step()
    assert late.started_s is not None
    assert late.started_s > long.started_s


def test_every_prompt_token_is_counted_once_as_prefill() -> None:
    scheduler = Scheduler(ScriptedCore(context_tokens=256, sequences=2), token_budget=8)
    submit(scheduler, 0, 30, 3)
    while not scheduler.idle:
        scheduler.step()
    # The last prompt token also chooses the first output token, and is counted as that.
    assert sum(s.prefill_tokens for s in scheduler.steps) == 29
    assert sum(s.decoding for s in scheduler.steps) == 3


def test_a_batch_is_filled_in_order_of_its_sequences() -> None:
    core = ScriptedCore(context_tokens=512, sequences=4)
    scheduler = Scheduler(core)
    for i, output in enumerate((2, 9, 4, 9, 9, 9)):
        submit(scheduler, i, 5, output)
    while not scheduler.idle:
        scheduler.step()
        entries = core.sequence[: scheduler.steps[-1].decoding, 0].tolist()
        assert entries == sorted(entries)


def test_over_cells_of_their_own_the_running_sequences_stay_side_by_side() -> None:
    core = ScriptedCore(context_tokens=4 * 64, sequences=4, separate=True)
    scheduler = Scheduler(core)
    jobs = [submit(scheduler, i, 5 + i, output) for i, output in enumerate((2, 20, 3, 30, 9, 25))]
    gaps = 0
    while not scheduler.idle:
        gaps += len(scheduler.running) < 4
        scheduler.step()
        entries = core.sequence[: scheduler.steps[-1].decoding, 0].tolist()
        assert sorted(set(entries)) == list(range(len(set(entries))))
    assert gaps
    for job in jobs:
        alone = Scheduler(ScriptedCore(context_tokens=64))
        expected = submit(alone, 0, job.prompt_tokens, len(job.output))
        while not alone.idle:
            alone.step()
        assert job.output == expected.output


def test_a_sequence_that_is_moved_on_the_real_engine_answers_as_if_it_had_stayed() -> None:
    weights = Weights(find("smollm2-135m").path)
    context = Context(weights, context_tokens=1024, threads=1, sequences=4, unified=False, flash_attention="off")
    asked = [(f"{word} is a", output) for word, output in (("Rain", 2), ("Bread", 12), ("Iron", 3), ("Snow", 14))]

    def run(policy: Any) -> tuple[list[list[int]], int]:
        context.clear()
        scheduler, moved = Scheduler(context, policy=policy), 0
        jobs = [scheduler.submit(Request(prompt=p, decoding=Decoding(max_tokens=n, ignore_eos=True)), weights.tokenize(p))
                for p, n in asked]
        while not scheduler.idle:
            slots = {id(j): j.slot for j in scheduler.running}
            scheduler.step()
            moved += sum(slots.get(id(j), j.slot) != j.slot for j in scheduler.running)
        return [j.output for j in jobs], moved

    alone, _ = run("sequential")
    together, moved = run("continuous")
    assert moved > 0
    assert together == alone
    context.close()
    weights.close()


def test_a_server_keeps_only_its_last_steps() -> None:
    scheduler = Scheduler(ScriptedCore(), keep_steps=3)
    submit(scheduler, 0, 5, 20)
    while not scheduler.idle:
        scheduler.step()
    assert len(scheduler.steps) == 3


def test_a_small_context_of_parts_says_what_it_really_has() -> None:
    weights = Weights(find("smollm2-135m").path)
    context = Context(weights, context_tokens=256, threads=1, sequences=4, unified=False)
    assert context.context_tokens == 4 * context.sequence_tokens >= 256
    context.close()
    weights.close()


def test_settings_that_cannot_be_are_one_sentence() -> None:
    for wrong in ({"attainment": 1.5}, {"repeats": 0}, {"requests": 0}, {"policies": ("other",)}):
        with pytest.raises(LabError):
            dataclasses.replace(Batching(), **wrong)  # type: ignore[arg-type]

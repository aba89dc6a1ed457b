"""Laws of the speed numbers: what may and what may not change them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import LabError
from lab.metrics import speed
from lab.records import Estimate, Generation, Request, Usage

# Readings are multiples of 1/1024 s, so that shifting a clock rounds nothing and laws hold to the last bit.
TICK = 1 / 1024
ticks = st.integers(0, 5000)


def generation(first: int = 100, gaps: tuple[int, ...] = (10, 20, 30), *, start: int = 0, waited: int = 0,
               error: str | None = None, **more: object) -> Generation:
    at = np.cumsum([start + waited + first, *gaps]) * TICK
    fields: dict[str, object] = {
        "request": Request(prompt="x"), "tokens": tuple(range(len(at))), "tokens_at_s": tuple(map(float, at)),
        "scheduled_s": start * TICK, "sent_s": (start + waited) * TICK, "ended_s": float(at[-1]) + 0.5, "cpu_s": 2.0,
        "usage": Usage(prompt_tokens=50, cached_tokens=10), "finish_reason": "error" if error else "stop",
        "error": error, **more,
    }
    return Generation(**fields)  # type: ignore[arg-type]


@st.composite
def generations(draw: st.DrawFn, *, may_fail: bool = True) -> Generation:
    error = draw(st.sampled_from([None, None, None, "broke off"])) if may_fail else None
    gaps = tuple(draw(st.lists(ticks, max_size=12)))
    return generation(draw(st.integers(1, 5000)), gaps, start=draw(ticks), waited=draw(ticks), error=error)


MEASURES = (speed.ttft_s, speed.tpot_s, speed.itl_s, speed.e2e_s, speed.decode_tokens_per_s,
            speed.prefill_tokens_per_s, speed.cpu_s_per_token)


@given(generations(), st.integers(-10**6, 10**6))
def test_shifting_all_clocks_changes_nothing(g: Generation, by: int) -> None:
    shift = by * TICK
    moved = dataclasses.replace(
        g, sent_s=g.sent_s + shift, ended_s=g.ended_s + shift, tokens_at_s=tuple(t + shift for t in g.tokens_at_s),
        scheduled_s=None if g.scheduled_s is None else g.scheduled_s + shift)
    for measure in MEASURES:
        np.testing.assert_equal(measure(moved), measure(g))
    for measure in (speed.ttft_s, speed.e2e_s):
        np.testing.assert_equal(measure(moved, since="scheduled"), measure(g, since="scheduled"))


@given(generations(may_fail=False))
def test_the_gaps_and_the_first_token_add_up_to_the_whole(g: Generation) -> None:
    assert speed.ttft_s(g) + sum(speed.itl_s(g)) == speed.e2e_s(g)
    assert len(speed.itl_s(g)) == len(g.tokens_at_s) - 1
    if len(g.tokens_at_s) > 1:
        assert speed.tpot_s(g) == pytest.approx(np.mean(speed.itl_s(g)))


@given(st.lists(ticks, min_size=1, max_size=12), st.data(), st.integers(1, 1000))
def test_a_slower_token_slows_its_own_gap_and_what_contains_it(
    gaps: list[int], data: st.DataObject, late: int
) -> None:
    which = data.draw(st.integers(0, len(gaps) - 1))
    slower = [gap + late * (i == which) for i, gap in enumerate(gaps)]
    before, after = generation(100, tuple(gaps)), generation(100, tuple(slower))
    assert speed.ttft_s(after) == speed.ttft_s(before)
    assert speed.tpot_s(after) > speed.tpot_s(before)
    assert speed.e2e_s(after) == speed.e2e_s(before) + late * TICK
    changed = [a - b for a, b in zip(speed.itl_s(after), speed.itl_s(before), strict=True)]
    assert changed == [late * TICK * (i == which) for i in range(len(gaps))]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_a_chunk_of_k_tokens_makes_k_minus_1_gaps_of_zero(chunks: list[int]) -> None:
    at = [float(i + 1) for i, k in enumerate(chunks) for _ in range(k)]
    gaps = speed.itl_s(generation(tokens_at_s=tuple(at), sent_s=0.0))
    assert gaps.count(0.0) == sum(k - 1 for k in chunks)
    assert sum(gaps) == len(chunks) - 1


@given(generations(may_fail=False))
def test_waiting_in_the_queue_shows_from_the_scheduled_arrival_only(g: Generation) -> None:
    assert g.scheduled_s is not None
    waited = g.sent_s - g.scheduled_s
    assert speed.ttft_s(g, since="scheduled") - speed.ttft_s(g) == waited
    assert speed.e2e_s(g, since="scheduled") - speed.e2e_s(g) == waited


@given(generations(may_fail=False))
def test_a_failure_is_infinitely_late_and_its_rates_are_zero(g: Generation) -> None:
    broken = dataclasses.replace(g, error="connection reset", finish_reason="error")
    for measure in (speed.ttft_s, speed.tpot_s, speed.e2e_s):
        assert measure(broken) == math.inf
    assert speed.itl_s(broken) == [*speed.itl_s(g), math.inf]
    assert speed.decode_tokens_per_s(broken) == 0 and speed.prefill_tokens_per_s(broken) == 0


def test_an_error_text_and_an_error_ending_are_each_a_failure() -> None:
    assert speed.failed(generation(error="x", finish_reason="stop"))
    assert speed.failed(generation(finish_reason="error"))
    assert not any(speed.failed(generation(finish_reason=reason)) for reason in ("stop", "length", "cancelled"))


def test_what_was_not_observed_is_nan() -> None:
    one = generation(gaps=())
    assert math.isnan(speed.tpot_s(one)) and math.isnan(speed.decode_tokens_per_s(one)) and speed.itl_s(one) == []
    empty = generation(tokens=(), tokens_at_s=())
    for measure in (speed.ttft_s, speed.tpot_s, speed.e2e_s, speed.cpu_s_per_token, speed.prefill_tokens_per_s):
        assert math.isnan(measure(empty))
    assert math.isnan(speed.ttft_s(generation(scheduled_s=None), since="scheduled"))
    assert math.isnan(speed.e2e_s(generation(finish_reason="cancelled")))
    assert not math.isnan(speed.ttft_s(generation(finish_reason="cancelled")))
    for usage in (Usage(), Usage(prompt_tokens=5), Usage(prompt_tokens=5, cached_tokens=5)):
        assert math.isnan(speed.prefill_tokens_per_s(generation(usage=usage)))
    assert math.isnan(speed.cpu_s_per_token(generation(cpu_s=None)))
    assert math.isnan(speed.decode_tokens_per_s(generation(gaps=(0, 0))))  # one chunk: no time was seen to pass


def test_cached_prompt_tokens_were_not_read() -> None:
    cold = generation(usage=Usage(prompt_tokens=50, cached_tokens=0))
    warm = generation(usage=Usage(prompt_tokens=50, cached_tokens=40))
    assert speed.prefill_tokens_per_s(warm) == pytest.approx(speed.prefill_tokens_per_s(cold) / 5)


@given(st.lists(generations(), max_size=12), ticks, ticks, st.floats(0.1, 100))
def test_goodput_counts_the_served_and_grows_with_the_limits(
    several: list[Generation], ttft: int, tpot: int, duration: float
) -> None:
    def goodput(by: float) -> float:
        return speed.goodput_requests_per_s(
            several, ttft_limit_s=ttft * TICK * by, tpot_limit_s=tpot * TICK * by, duration_s=duration)

    served = sum(
        not speed.failed(g) and speed.ttft_s(g, since="scheduled") <= ttft * TICK
        and (len(g.tokens_at_s) < 2 or speed.tpot_s(g) <= tpot * TICK) for g in several)
    assert goodput(1) == pytest.approx(served / duration)
    assert goodput(1) <= goodput(2)
    assert goodput(math.inf if ttft and tpot else 1) <= sum(not speed.failed(g) for g in several) / duration


def test_goodput_over_no_time_is_refused() -> None:
    with pytest.raises(LabError, match="duration"):
        speed.goodput_requests_per_s([], ttft_limit_s=1, tpot_limit_s=1, duration_s=0)


@settings(max_examples=15, deadline=None)
@given(st.lists(generations(may_fail=False), min_size=1, max_size=6))
def test_the_summary_is_numpys_medians_and_percentiles(several: list[Generation]) -> None:
    found = speed.summary(several)
    estimates = {name: value for name, value in found.items() if isinstance(value, Estimate)}
    assert estimates["ttft_s"].value == pytest.approx(np.median([speed.ttft_s(g) for g in several]))
    assert estimates["output_tokens"].value == np.median([len(g.tokens_at_s) for g in several])
    gaps = np.concatenate([np.diff(g.tokens_at_s) for g in several])
    if gaps.size:
        assert estimates["itl_p50_s"].value == pytest.approx(np.percentile(gaps, 50))
        assert estimates["itl_p99_s"].value == pytest.approx(np.percentile(gaps, 99))
    for e in estimates.values():
        assert math.isnan(e.low) or e.low <= e.value <= e.high


def test_the_summary_of_nothing_is_not_measured() -> None:
    assert all(isinstance(e, Estimate) and math.isnan(e.value) for e in speed.summary([]).values())


def test_one_failure_in_many_moves_the_p99_and_not_the_median() -> None:
    good = [generation() for _ in range(9)]
    found, clean = speed.summary([*good, generation(error="x")]), speed.summary(good)
    assert isinstance(found["itl_p99_s"], Estimate) and found["itl_p99_s"].value == math.inf
    assert isinstance(found["ttft_s"], Estimate) and isinstance(clean["ttft_s"], Estimate)
    assert found["ttft_s"].value == clean["ttft_s"].value


@given(st.floats(1, 1e12), st.floats(0.1, 1e4), st.floats(1e6, 1e12))
def test_decoding_at_the_bandwidth_limit_has_share_1(size: float, rate: float, bandwidth: float) -> None:
    assert speed.bandwidth_share(size, bandwidth / size, bandwidth) == pytest.approx(1)
    assert speed.bandwidth_share(size, 2 * rate, bandwidth) == pytest.approx(
        2 * speed.bandwidth_share(size, rate, bandwidth))
    assert math.isnan(speed.bandwidth_share(size, rate, math.nan))
    assert math.isnan(speed.bandwidth_share(size, rate, 0))


def test_an_answer_that_ended_at_once_was_served_when_it_ended_and_a_cancelled_one_never() -> None:
    empty = dataclasses.replace(generation(), tokens=(), tokens_at_s=(), scheduled_s=1.0, sent_s=1.0, ended_s=1.5)
    assert speed.meets(empty, ttft_limit_s=0.5, tpot_limit_s=0.1)
    assert not speed.meets(empty, ttft_limit_s=0.4, tpot_limit_s=0.1)
    cancelled = dataclasses.replace(empty, finish_reason="cancelled")
    assert not speed.meets(cancelled, ttft_limit_s=0.5, tpot_limit_s=0.1)

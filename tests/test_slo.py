"""Objectives and their error budgets: what counts as bad, how fast a budget burns, and how long it lasts."""

from __future__ import annotations

import math

import pytest

from lab.ops import slo
from lab.ops.requests_schema import LogRecord, checked, frame

NOW_S = 1e9
AVAILABLE = slo.Slo(name="available", objective=0.99)
QUICK = slo.Slo(name="quick", objective=0.9, measure="ttft_s", at_most=1.0)


def record(i: int, *, ago_s: float = 10.0, **fields: object) -> LogRecord:
    return LogRecord(time_s=NOW_S - ago_s, request_id=f"r{i}", release="a 1", **fields)  # type: ignore[arg-type]


def test_a_budget_spent_as_planned_lasts_the_period_and_twice_as_fast_half_of_it() -> None:
    for bad, times in ((1, 1.0), (2, 2.0)):
        log = frame([record(i, status=500 if i < bad else 200) for i in range(100)])
        found = slo.budget(AVAILABLE, log, now_s=NOW_S)
        assert found.burn_rate == pytest.approx(times) and found.left_share == pytest.approx(1 - times)
    log = frame([record(i, ago_s=20 * slo.DAY_S) for i in range(900)] + [record(i, status=500 if i < 2 else 200) for i in range(100)])
    found = slo.budget(AVAILABLE, log, now_s=NOW_S)
    assert found.left_share == pytest.approx(1 - 2 / 10) and found.lasts_s == pytest.approx(0.8 * 30 * slo.DAY_S / 2)


def test_without_requests_nothing_burns_and_nothing_is_spent() -> None:
    found = slo.budget(AVAILABLE, checked(frame([])), now_s=NOW_S)
    assert (found.requests, found.bad, found.left_share) == (0, 0, 1.0)
    assert math.isnan(found.burn_rate) and math.isinf(found.lasts_s)


def test_one_failed_request_alone_spends_more_than_all_and_says_so() -> None:
    found = slo.budget(AVAILABLE, frame([record(0, status=500)]), now_s=NOW_S)
    assert found.left_share < 0 and found.lasts_s == 0


def test_what_the_caller_did_wrong_and_what_was_not_measured_does_not_count() -> None:
    log = frame([record(0, status=400, error_kind="shape"), record(1, status=499, error_kind="cancelled"), record(2, ttft_s=0.5),
                 record(3, ttft_s=1.0), record(4, ttft_s=1.5), record(5), record(6, status=500, ttft_s=9.0)])
    assert QUICK.bad(log).dropna().tolist() == [0, 0, 1]
    assert AVAILABLE.bad(log).dropna().tolist() == [0, 0, 0, 0, 1]


def test_what_lies_before_the_period_or_after_now_is_not_looked_at() -> None:
    log = frame([record(0, ago_s=31 * slo.DAY_S, status=500), record(1, ago_s=-60.0, status=500), record(2)])
    found = slo.budget(AVAILABLE, log, now_s=NOW_S)
    assert (found.requests, found.bad) == (1, 0)

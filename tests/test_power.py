"""How many requests a comparison takes: as the textbook says at one look, as simulation says when it is looked at all the time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import LabError
from lab.stats import power
from lab.stats.sequential import Metric, simulated

SHARE = Metric(name="right", margin=0.05)


@given(st.floats(0.01, 0.3), st.floats(0.05, 2), st.floats(0.1, 0.9), st.floats(0.5, 0.95))
@settings(max_examples=60, deadline=None)
def test_a_look_after_the_fixed_number_has_the_power_that_was_asked_for(distance: float, deviation: float, share: float,
                                                                       wanted: float) -> None:
    from scipy.stats import norm

    n = power.fixed(distance, deviation, share=share, power=wanted)
    error = deviation / math.sqrt(n * share * (1 - share))
    assert norm.cdf(distance / error - norm.ppf(0.975)) >= wanted - 1e-9
    if n > 50:
        fewer = deviation / math.sqrt((n - 2) * share * (1 - share))
        assert norm.cdf(distance / fewer - norm.ppf(0.975)) < wanted


def test_the_fixed_number_is_that_of_statsmodels() -> None:
    theirs = pytest.importorskip("statsmodels.stats.power")
    each = theirs.NormalIndPower().solve_power(effect_size=0.05 / 0.4, alpha=0.05, power=0.8)
    assert power.fixed(0.05, 0.4) == pytest.approx(2 * each, abs=2)


def test_requests_grow_with_uneven_shares_with_users_who_come_back_and_with_the_square_of_precision() -> None:
    plain = power.fixed(0.05, 0.4)
    assert power.fixed(0.05, 0.4, share=0.1) == pytest.approx(plain * 0.25 / 0.09, rel=1e-3)
    assert power.fixed(0.05, 0.4, share=0.1) == power.fixed(0.05, 0.4, share=0.9)
    assert power.fixed(0.05, 0.4, design=3.0) == pytest.approx(3 * plain, rel=1e-3)
    assert power.fixed(0.025, 0.4) == pytest.approx(4 * plain, rel=1e-3)
    assert math.isinf(power.fixed(0.0, 0.4)) and math.isinf(power.fixed(-0.1, 0.4))


def test_the_curve_falls_from_shipping_to_stopping_and_its_shares_add_up() -> None:
    points = power.curve(SHARE, power.deviation_of(SHARE, 0.8), (0.05, 0.0, -0.025, -0.05, -0.1), requests=10_000, runs=500)
    ships, stops = [one.ship for one in points], [one.stop for one in points]
    assert ships == sorted(ships, reverse=True) and stops == sorted(stops)
    assert all(one.ship + one.stop + one.undecided == pytest.approx(1) for one in points)
    assert points[0].ship > 0.99 and points[-1].stop > 0.99
    # Exactly at its margin it is shipped by mistake in 2.5% at most.
    assert points[3].ship <= 0.025 + 2.5 * math.sqrt(0.025 / 500)
    assert points[0].median < points[1].median and points[0].fixed < points[1].fixed


def test_looking_all_the_time_takes_longer_than_one_look_at_the_right_time_and_not_three_times_as_long() -> None:
    point = power.curve(SHARE, 0.4, (0.0,), requests=40_000, runs=500)[0]
    assert point.fixed < point.eighty < 3 * point.fixed


@pytest.mark.parametrize("gain", [0.0, -0.1, 0.04])
def test_the_curve_agrees_with_comparisons_of_drawn_answers(gain: float) -> None:
    metric = Metric(name="x", margin=0.08)
    point = power.curve(metric, power.deviation_of(metric, 0.7 + gain / 2), (gain,), requests=2500, runs=1500)[0]
    found = simulated.independent(metric, lambda rng, arm: (rng.random(arm.shape) < 0.7 + gain * arm) * 1.0, requests=2500,
                                  runs=500, seed=1)
    assert found.ship() == pytest.approx(point.ship, abs=0.07) and found.stop() == pytest.approx(point.stop, abs=0.07)
    assert found.requests() == pytest.approx(point.median, rel=0.15)


def test_a_gain_is_towards_better_on_every_scale() -> None:
    faster = Metric(name="e2e_s", better="lower", scale="log", margin=0.1, low=0.001, high=60)
    assert power.distance_of(faster, 0.1) > 0 > power.distance_of(faster, -0.1)
    assert power.distance_of(faster, -0.1) == pytest.approx(-faster.tolerance)
    more = Metric(name="tokens", scale="mean", margin=0.1, high=100)
    assert power.distance_of(more, -0.1) == pytest.approx(-more.tolerance)
    assert power.distance_of(SHARE, -0.05) == -SHARE.tolerance


def test_no_decision_falls_before_both_arms_have_seen_enough_users() -> None:
    point = power.curve(SHARE, 0.01, (0.05,), requests=5000, share=0.05, runs=50)[0]
    assert point.median >= 10 / 0.05


def test_the_deviation_of_right_and_wrong_is_that_of_drawn_answers() -> None:
    metric = Metric(name="x", margin=0.1, low=0, high=10)
    drawn = 10.0 * (np.random.default_rng(0).random(200_000) < 0.3)
    assert power.deviation_of(metric, 0.3) == pytest.approx(drawn.std(), rel=0.01)


@pytest.mark.parametrize(("made", "error"), [
    (lambda: power.fixed(0.1, 0.0), "a standard deviation above 0"), (lambda: power.fixed(0.1, 0.4, share=0.0), "a share between"),
    (lambda: power.fixed(0.1, 0.4, design=0.5), "design effect from 1 up"), (lambda: power.fixed(0.1, 0.4, power=1.0), "Alpha and"),
    (lambda: power.fixed(0.1, math.nan), "a standard deviation"), (lambda: power.deviation_of(SHARE, 1.0), "between 0 and 1"),
    (lambda: power.curve(SHARE, 0.4, (0.0,), requests=1), "at least 2 requests"),
    (lambda: power.distance_of(Metric(name="x", scale="mean", margin=0.1), -1.0), "between -1 and 1"),
])
def test_what_has_no_power_is_refused_with_a_sentence(made: Any, error: str) -> None:
    with pytest.raises(LabError, match=error):
        made()

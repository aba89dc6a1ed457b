"""A step is found where it was planted, not found where there is none, and told from a slope; its set covers the true place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import LabError
from lab.stats import changepoint


def planted(
    at: int, *, periods: int = 10, each: int = 6, before: float = 1.0, after: float = 0.0, seed: int = 0
) -> tuple[list[float], list[int]]:
    """`each` values of 0 and 1 in every period, with a step after period `at`."""
    rng, when = np.random.default_rng(seed), np.repeat(np.arange(periods), each)
    values = (rng.random(when.size) < np.where(when <= at, before, after)).astype(float)
    return values.tolist(), when.tolist()


@given(st.integers(0, 8), st.sampled_from(["fall", "rise"]))
@settings(max_examples=18, deadline=None)
def test_a_clean_step_is_found_at_its_place_alone(at: int, side: Any) -> None:
    values, when = planted(at, before=float(side == "fall"), after=float(side == "rise"))
    found = changepoint.find(values, when, side=side, draws=199)
    assert found.best is not None and found.best.period == at and found.inside == (at,)
    assert found.best.change == pytest.approx(-1 if side == "fall" else 1) and found.p_value < 0.01
    other = changepoint.find(values, when, side="rise" if side == "fall" else "fall", draws=199)
    assert other.p_value > 0.5


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_values_that_never_differ_show_no_step_and_say_what_would_have_shown(value: float) -> None:
    found = changepoint.find([value] * 60, planted(3)[1], draws=99)
    assert found.p_value == 1 and len(found.inside) == len(found.places) == 9
    assert 0 < found.detectable < 1


def test_levels_of_strata_are_not_taken_for_a_step() -> None:
    # Easy questions lie early and hard ones late: a step by date that is none within either kind.
    values = [1.0] * 40 + [0.0] * 40
    when = [i % 6 for i in range(40)] + [4 + i % 6 for i in range(40)]
    kinds = ["easy"] * 40 + ["hard"] * 40
    assert changepoint.find(values, when, draws=199).p_value < 0.01
    assert changepoint.find(values, when, kinds, draws=199).p_value == 1


def test_a_kind_that_lies_in_one_period_tells_nothing() -> None:
    values, when = planted(4)
    more = changepoint.find([*values, 0, 1, 0], [*when, 0, 0, 0], ["a"] * 60 + ["b"] * 3, draws=199)
    assert more.n == 60 and more == changepoint.find(values, when, ["a"] * 60, draws=199)


def test_what_was_not_scored_takes_no_part() -> None:
    values, when = planted(4, before=0.8, after=0.3)
    with_gaps = changepoint.find([*values, math.nan, math.nan], [*when, 0, 9], draws=199)
    assert with_gaps == changepoint.find(values, when, draws=199)


def test_the_same_seed_finds_the_same_and_order_does_not_matter_to_the_fit() -> None:
    values, when = planted(4, before=0.8, after=0.3)
    once, again = (changepoint.find(values, when, draws=199, seed=3) for _ in range(2))
    assert once == again
    turned = changepoint.find(values[::-1], when[::-1], draws=199, seed=3)
    assert [round(p.gain, 9) for p in turned.places] == [round(p.gain, 9) for p in once.places]


def test_shares_of_the_likelihood_add_up_and_the_best_place_is_in_its_set() -> None:
    found = changepoint.find(*planted(4, before=0.7, after=0.4), draws=199)
    assert sum(place.share for place in found.places) == pytest.approx(1)
    assert found.best is not None and found.best.inside and found.best.share == max(place.share for place in found.places)


def test_more_items_detect_smaller_steps() -> None:
    few, many = (changepoint.find(*planted(4, each=n, before=0.5, after=0.5), draws=199).detectable for n in (6, 24))
    assert many == pytest.approx(few / 2, rel=0.25)


def test_without_a_search_the_same_step_is_easier_to_show() -> None:
    values, when = planted(4, each=4, before=0.6, after=0.4, seed=5)
    free, one = changepoint.find(values, when), changepoint.find(values, when, only=4)
    assert one.critical_z < free.critical_z and [place.period for place in one.places] == [4]


@pytest.mark.parametrize(("values", "when"), [([], []), ([1.0], [0]), ([1.0, 0.0], [0, 1]), ([1.0] * 9, [0] * 9)])
def test_too_little_gives_no_place_and_no_number(values: list[float], when: list[int]) -> None:
    found = changepoint.find(values, when)
    assert found.places == () and found.best is None and math.isnan(found.p_value) and math.isnan(found.detectable)


def test_lists_that_do_not_match_and_infinite_values_are_refused() -> None:
    with pytest.raises(LabError, match="2 values, 1 periods"):
        changepoint.find([1, 0], [0])
    with pytest.raises(LabError, match="finite"):
        changepoint.find([1, math.inf], [0, 1])


def rates(runs: int, **plan: Any) -> dict[str, float]:
    """How often a step was found, the true place covered, and a found one told from a slope."""
    rng, found, covered, abrupt = np.random.default_rng(1), 0, 0, 0
    slope = plan.pop("slope", False)
    periods, each = plan.get("periods", 10), plan.get("each", 6)
    for run in range(runs):
        at = int(rng.integers(1, periods - 2))
        values, when = planted(at, **plan, seed=run)
        if slope:
            share = plan["before"] + (plan["after"] - plan["before"]) * np.asarray(when) / (periods - 1)
            values = (np.random.default_rng(run).random(periods * each) < share).astype(float).tolist()
        step = changepoint.find(values, when, draws=199, seed=run)
        found, covered = found + (step.p_value < 0.05), covered + (at in step.inside)
        abrupt += step.p_value < 0.05 and step.slope_p < 0.05
    return {"found": found / runs, "covered": covered / runs, "abrupt": abrupt / runs}


@pytest.mark.slow
def test_over_many_samples_the_set_covers_as_it_says_and_the_test_keeps_its_level() -> None:
    # Bounds are three standard errors of the simulation away from 95% and 5%.
    runs, allowed = 600, 3 * math.sqrt(0.05 * 0.95 / 600)
    for plan in ({"before": 0.9, "after": 0.1}, {"before": 0.6, "after": 0.2}, {"before": 0.4, "after": 0.25}):
        assert rates(runs, **plan)["covered"] >= 0.95 - allowed, plan
    assert rates(runs, before=0.5, after=0.5)["found"] <= 0.05 + allowed
    assert rates(runs, before=0.8, after=0.1, slope=True)["abrupt"] <= 0.05 + allowed
    assert rates(runs, before=0.9, after=0.1)["found"] > 0.95

"""What is known of a mean and of a difference grows with what was drawn independently, not with how often it was asked."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from lab import stats
from lab.errors import LabError
from lab.stats.clusters import Part, changed, mean_of_means, not_worse


def flips(random: np.random.Generator, n: int, share: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right and wrong answers, and the same with a share of them turned over by chance."""
    old = (random.random(n) < 0.5).astype(float)
    return old, np.where(random.random(n) < share, 1 - old, old)


def test_a_mean_of_one_set_of_single_items_is_the_plain_mean() -> None:
    values = np.random.default_rng(0).random(30)
    ours, plain = mean_of_means([Part(values=values)]), stats.mean(values)
    assert (ours.value, ours.low, ours.high) == pytest.approx((plain.value, plain.low, plain.high))


def test_asking_everything_four_times_teaches_nothing() -> None:
    values = np.random.default_rng(1).random(25)
    once = mean_of_means([Part(values=values)])
    clustered = mean_of_means([Part(values=np.repeat(values, 4), clusters=[i for i in range(25) for _ in range(4)])])
    naive = mean_of_means([Part(values=np.repeat(values, 4))])
    assert (clustered.low, clustered.high) == pytest.approx((once.low, once.high))
    assert naive.high - naive.low < 0.6 * (once.high - once.low)
    old, new = flips(np.random.default_rng(2), 40, 0.3)
    owners = [i for i in range(40) for _ in range(4)]
    single = changed([Part(values=new)], [Part(values=old)])
    repeated = changed([Part(values=np.repeat(new, 4), clusters=owners)], [Part(values=np.repeat(old, 4), clusters=owners)])
    assert repeated.error == pytest.approx(single.error)
    assert repeated.p_value == pytest.approx(single.p_value, abs=0.12)  # flipped signs against exact coins


def test_sets_count_the_same_whatever_their_size() -> None:
    found = mean_of_means([Part(values=[1.0, 0.0] * 50), Part(values=[1.0, 1.0, 1.0, 0.0])])
    assert found.value == pytest.approx((0.5 + 0.75) / 2)
    assert math.isnan(mean_of_means([Part(values=[math.nan]), Part(values=[1.0, 0.0])]).value)


def test_answers_that_all_agree_leave_room_for_doubt() -> None:
    assert mean_of_means([Part(values=np.ones(5))]).low < 0.6
    unmoved = changed([Part(values=np.ones(40))], [Part(values=np.ones(40))])
    assert unmoved.value == 0 and unmoved.p_value == 1
    # The rule of three: of 40 items of which none changed, 3/40 of all may well have.
    assert unmoved.detectable() == pytest.approx(3 / 40, rel=0.15)
    assert unmoved.low < 0 < unmoved.high


def test_single_right_and_wrong_answers_are_tested_by_mcnemar() -> None:
    old, new = flips(np.random.default_rng(3), 60, 0.3)
    found = changed([Part(values=new)], [Part(values=old)])
    assert found.p_value == pytest.approx(stats.mcnemar(int((new < old).sum()), int((new > old).sum())))


def test_a_difference_turns_with_its_sides_and_leaves_out_what_one_of_them_did_not_score() -> None:
    random = np.random.default_rng(4)
    a, b = random.random(30), random.random(30)
    a[3], b[7] = math.nan, math.nan
    there, back = changed([Part(values=a)], [Part(values=b)]), changed([Part(values=b)], [Part(values=a)])
    assert (there.value, there.low, there.p_value) == pytest.approx((-back.value, -back.high, back.p_value))
    assert (there.n, there.left_out) == (28, 2)


def test_chance_is_seldom_called_a_difference_even_when_items_share_their_luck() -> None:
    random, called, covered = np.random.default_rng(5), 0, 0
    for seed in range(200):
        luck = np.repeat(random.normal(0, 0.3, 20), 4)
        owners = [i for i in range(20) for _ in range(4)]
        new, old = luck + random.normal(0, 0.1, 80), random.normal(0, 0.1, 80)
        found = changed([Part(values=new, clusters=owners)], [Part(values=old, clusters=owners)], seed=seed)
        called, covered = called + (found.p_value < 0.05), covered + (found.low <= 0 <= found.high)
    assert called <= 22  # 5% of 200 is 10; more than 22 has a chance below 0.1%
    assert covered >= 178


def test_a_difference_as_large_as_the_detectable_one_is_mostly_found() -> None:
    random, found = np.random.default_rng(6), 0
    effect = changed([Part(values=random.normal(0, 1, 60))], [Part(values=np.zeros(60))]).detectable()
    for seed in range(100):
        found += changed([Part(values=random.normal(effect, 1, 60))], [Part(values=np.zeros(60))], seed=seed).p_value < 0.05
    assert 65 <= found <= 95


def test_not_worse_is_shown_by_many_items_and_never_by_few() -> None:
    def shown(n: int, loss: float) -> float:
        old = np.random.default_rng(7).random(n)
        new = old - loss + np.random.default_rng(8).normal(0, 0.1, n)
        found = changed([Part(values=new)], [Part(values=old)])
        return not_worse(found.value, found.error, found.freedom, 0.03)

    assert shown(400, 0.0) < 0.025
    assert shown(8, 0.0) > 0.025
    assert shown(400, 0.06) > 0.9


def test_sides_that_do_not_pair_are_refused() -> None:
    with pytest.raises(LabError, match="score the same items"):
        changed([Part(values=[1, 0])], [Part(values=[1, 0, 1])])
    with pytest.raises(LabError, match="one cluster for each value"):
        mean_of_means([Part(values=[1, 0], clusters=["a"])])


def test_sets_of_which_all_items_agree_still_leave_doubt_beside_each_other() -> None:
    right, none = Part(values=np.ones(20)), Part(values=np.zeros(20))
    both = mean_of_means([right, right])
    assert both.value == 1 and both.low < 0.98 and both.high == 1
    mixed = mean_of_means([none, Part(values=np.tile([0.0, 1.0], 10))])
    alone = mean_of_means([Part(values=np.full(20, 0.5)), Part(values=np.tile([0.0, 1.0], 10))])
    assert mixed.high - mixed.low > alone.high - alone.low and mixed.low >= 0

"""Drift is noticed where there is one, and hardly ever where there is none; what is proven holds in simulation, too."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from lab.errors import LabError
from lab.stats import drift
from lab.stats.drift import simulated
from lab.stats.drift.level import MOST_BET, bets

KNOWN = drift.Reference.share(0.8)


def flips(n: int, rate: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < rate).astype(float)


# A mean

@given(st.floats(0, 1), st.sampled_from([100, 1000, math.inf]), st.sampled_from(["down", "up", "both"]), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_no_bet_can_lose_everything_and_each_is_fair_where_the_mean_is_as_it_was(rate: float, n: float, side: Any, x: float) -> None:
    reference = drift.Reference.share(rate, n)
    made = bets(reference, side)
    assert sum(bet.weight for bet in made) == pytest.approx(1)
    for bet in made:
        assert bet.size >= 0 and bet.pays(x) >= 1 - MOST_BET - 1e-9
        assert bet.at * bet.pays(1.0) + (1 - bet.at) * bet.pays(0.0) == pytest.approx(1)
    low, high = reference.bounds()
    assert 0 <= low <= rate <= high <= 1 and (low == high) == math.isinf(n)


@given(st.floats(0.05, 0.95), st.sampled_from(drift.CHANGES))
@settings(max_examples=50, deadline=None)
def test_for_right_and_wrong_the_bet_is_the_likelihood_ratio(rate: float, change: float) -> None:
    bet = bets(drift.Reference.share(rate), "down", (change,))[0]
    after = rate * (1 - change)
    if bet.size * (1 - rate) < MOST_BET:
        assert bet.pays(1.0) == pytest.approx(after / rate)
        assert bet.pays(0.0) == pytest.approx((1 - after) / (1 - rate))


def test_the_sum_of_bets_is_as_large_as_the_number_of_values_on_average() -> None:
    # The bound on false alarms rests on this: E[M] = n while the mean is as it was, and less where it is better.
    means = {}
    for rate in (0.8, 0.83):
        sums = []
        for run in flips(2000 * 40, rate).reshape(2000, 40):
            level = drift.Level(KNOWN)
            for x in run:
                level.update(x)
            sums.append(level.evidence)
        means[rate] = np.mean(sums), np.std(sums) / math.sqrt(len(sums))
    assert abs(means[0.8][0] - 40) < 4 * means[0.8][1]
    assert means[0.83][0] < 40


@pytest.mark.parametrize(("rate", "seed"), [(0.6, 1), (0.9, 2)])
def test_false_alarms_stay_below_the_number_of_values_over_the_limit(rate: float, seed: int) -> None:
    streams = simulated.Streams.shares(rate, 0.0, runs=600, before=2000, after=1, seed=seed)
    found = simulated.level(streams, limit=drift.limit(false_alarms=0.05, requests=2000))
    assert found.false_alarms <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / 600)
    # At a bound of ten values in ten something must come, or the check could not fail.
    assert simulated.level(streams, limit=2000).false_alarms > 0.2


def test_values_that_hang_together_raise_no_more_alarms_as_long_as_their_mean_given_the_past_holds() -> None:
    rng, alarms = np.random.default_rng(3), 0
    for _ in range(150):
        level, wide = drift.Level(drift.Reference.share(0.5), limit=drift.limit(false_alarms=0.05, requests=500)), True
        for _ in range(500):
            x = rng.choice([0.0, 1.0]) if wide else rng.choice([0.4, 0.6])
            wide = x < 0.5  # what came decides how wide the next may swing
            level.update(float(x))
        alarms += level.alarm
    assert alarms <= 150 * 0.05 + 2.5 * math.sqrt(150 * 0.05)


@pytest.mark.parametrize(("before", "after", "side"), [(0.9, 0.7, "down"), (0.3, 0.6, "up"), (0.7, 0.4, "both"), (0.2, 0.5, "both")])
def test_a_change_is_found_with_its_direction_and_its_beginning(before: float, after: float, side: Any) -> None:
    level = drift.Level(drift.Reference.share(before, 5000), direction=side)
    values = [*flips(3000, before, 1), *flips(1500, after, 2)]
    at = next(t for t, x in enumerate(values) if level.update(x))
    assert 3000 < at < 3300 and abs(level.began - 3000) < 60
    assert level.direction == ("down" if after < before else "up")
    other = drift.Level(drift.Reference.share(before, 5000), direction="up" if after < before else "down")
    for x in values:
        other.update(x)
    assert not other.alarm


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.9]), st.floats(0, 0.5), st.sampled_from(["down", "up", "both"]))
@settings(max_examples=25, deadline=None)
def test_scanning_a_stream_shows_what_stepping_through_it_shows(seed: int, rate: float, drop: float, side: Any) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([flips(200, rate, seed), flips(250, rate * (1 - drop), seed)])
    values[rng.random(450) < 0.1] = np.nan
    level = drift.Level(drift.Reference.share(rate, 500), direction=side, limit=2000)
    at = next((t for t, x in enumerate(values.tolist()) if level.update(x)), None)
    found = drift.scan(drift.Level(drift.Reference.share(rate, 500), direction=side, limit=2000), values)
    assert found.at == at
    assert found.log_evidence == pytest.approx(math.log(level.evidence))
    if at is None:
        shown = drift.path(drift.Level(drift.Reference.share(rate, 500), direction=side, limit=2000), values)[-1]
        assert shown == pytest.approx(max(0.0, found.log_evidence / math.log(2000)))
    if at is not None:
        assert found.began == np.flatnonzero(~np.isnan(values))[level.began] and found.direction == level.direction


def test_streams_at_once_alarm_at_the_very_value_at_which_a_detector_does() -> None:
    streams = simulated.Streams.shares(0.8, 0.4, runs=6, before=300, after=300, known=500, seed=4)
    found = simulated.level(streams, limit=1000)
    for run, reference, at in zip(streams.values, streams.references, found.at, strict=True):
        level = drift.Level(reference, limit=1000)
        assert next((t for t, x in enumerate(run, 1) if level.update(x)), math.inf) == at
    assert np.isfinite(found.at).any()


def test_what_was_not_measured_changes_nothing_and_nothing_is_no_alarm() -> None:
    level = drift.Level(KNOWN)
    for x in (1.0, 0.0):
        level.update(x)
    before = level.as_json()
    assert level.update(math.nan) is False and level.as_json() == before
    empty = drift.scan(drift.Level(KNOWN), [])
    assert empty.at is None and drift.scan(drift.Level(KNOWN), [math.nan] * 5).at is None
    assert drift.scan(drift.Level(KNOWN), [1.0]).at is None


@pytest.mark.parametrize("value", [0.0, 1.0, 0.4])
def test_constant_values_alarm_only_when_the_constant_changes(value: float) -> None:
    reference = drift.Reference.of([value] * 100)
    level = drift.Level(reference, direction="both")
    assert not any(level.update(value) for _ in range(10_000))
    assert any(level.update(value - 0.3 if value > 0.3 else value + 0.3) for _ in range(100))


def test_values_beyond_the_limits_count_as_the_limits() -> None:
    reference = drift.Reference.of(np.linspace(0, 10, 200), high=10)
    one, other = drift.Level(reference), drift.Level(reference)
    for far, near in ((math.inf, 10.0), (-5.0, 0.0)):
        one.update(far)
        other.update(near)
    assert one.as_json() == other.as_json()


def test_a_detector_put_down_and_taken_up_goes_on_and_one_that_is_reset_begins_anew() -> None:
    whole, first = drift.Level(KNOWN), drift.Level(KNOWN)
    values = flips(300, 0.75)
    for i, x in enumerate(values):
        whole.update(x)
        if i < 100:
            first.update(x)
    kept = json.loads(json.dumps(first.as_json()))
    state = first.as_json()
    first.update(0.0)
    assert state == kept  # what was put down is a copy
    second = drift.Level(KNOWN)
    second.restore(kept)
    for x in values[100:]:
        second.update(x)
    assert second.as_json() == whole.as_json()
    second.reset()
    assert second.as_json() == drift.Level(KNOWN).as_json()
    with pytest.raises(LabError, match="other settings"):
        drift.Level(KNOWN, direction="both").restore(kept)


def test_several_streams_share_the_false_alarms() -> None:
    assert drift.limit(streams=8) == 8 * drift.limit()
    assert drift.limit(false_alarms=0.001) == 10 * drift.limit()


# A mix

TOPICS = np.array(["law", "music", "code", "food"])


def topics(n: int, shares: tuple[float, ...], seed: int = 0) -> list[str]:
    return list(TOPICS[np.random.default_rng(seed).choice(4, size=n, p=shares)])


def test_a_mix_that_moves_is_found_with_what_grew() -> None:
    usual, moved = (0.4, 0.3, 0.2, 0.1), (0.3, 0.25, 0.15, 0.3)
    detector = drift.Mix(topics(3000, usual))
    values = [*topics(2000, usual, 1), *topics(1000, moved, 2)]
    found = drift.scan(drift.Mix(topics(3000, usual)), values)
    at = next(t for t, x in enumerate(values) if detector.update(x))
    assert found.at == at and 2000 < at < 2300
    assert found.log_evidence == pytest.approx(math.log(detector.evidence))
    assert list(found.moved) == detector.moved and list(found.grown) == detector.grown
    assert "food" in found.grown and found.moved[0] == "food" and found.began == detector.began


def test_an_alarm_that_rests_on_many_words_allows_for_the_error_of_each() -> None:
    reference = drift.Reference.share(0.1, 1000)
    one, many = reference.bounds(sides=1), reference.bounds(sides=20)
    assert many[0] < one[0] < 0.1 < one[1] < many[1]
    mix = drift.Mix(["law"] * 100 + [f"t{i % 9}" for i in range(900)])
    alone = drift.Level(reference, direction="both", changes=drift.mix.CHANGES)
    assert mix.levels["law"].bets[0].at < alone.bets[0].at


def test_a_word_that_was_never_there_is_counted_with_the_rare_ones() -> None:
    detector = drift.Mix([*topics(1000, (0.4, 0.3, 0.2, 0.1)), "rare"])
    assert detector.named("rare") == detector.named("new") == drift.mix.OTHER and detector.named("law") == "law"
    assert any(detector.update("new") for _ in range(50))
    assert detector.grown[0] == drift.mix.OTHER


def test_nothing_known_is_passed_over_and_one_word_alone_is_a_mix() -> None:
    detector = drift.Mix(["law"] * 300)
    for nothing in (None, "", None):
        detector.update(nothing)
    assert detector.n == 0 and not any(detector.update("law") for _ in range(3000))
    assert any(detector.update("music") for _ in range(60))


def test_a_stable_mix_of_many_words_raises_no_more_false_alarms_than_promised() -> None:
    rng, words, alarms = np.random.default_rng(5), np.array([f"t{i}" for i in range(10)]), 0
    for _ in range(60):
        shares = rng.dirichlet(np.full(10, 5.0))
        reference = words[rng.choice(10, size=500, p=shares)]  # half of them had an alarm while their error counted for little
        found = drift.scan(drift.Mix(reference, limit=drift.limit(false_alarms=0.05, requests=4000)),
                           list(words[rng.choice(10, size=4000, p=shares)]))
        alarms += found.at is not None
    assert alarms <= 60 * 0.05 + 2.5 * math.sqrt(60 * 0.05)


# River

def test_river_behind_our_face_is_river_and_the_simulated_page_hinkley_is_it_too() -> None:
    from river.drift import ADWIN
    from river.drift import PageHinkley as Theirs

    values = [*flips(600, 0.9, 1).tolist(), *flips(600, 0.5, 2).tolist()]
    for ours, theirs in ((drift.Adwin(delta=0.01), ADWIN(delta=0.01)),
                         (drift.PageHinkley(threshold=20, allowance=0.01), Theirs(threshold=20, delta=0.01, mode="down"))):
        alarms = []
        for t, x in enumerate(values):
            theirs.update(x)
            assert ours.update(x) == theirs.drift_detected
            alarms += [t] * theirs.drift_detected
        assert alarms and min(alarms) >= 600
        ours.reset()
        assert not any(ours.update(x) for x in values[:100]) and ours.update(math.nan) is False
    streams = simulated.Streams(values=np.array([values]), before=600, references=(KNOWN,))
    one = drift.PageHinkley(threshold=20, allowance=0.01)
    at = next(t for t, x in enumerate(values, 1) if one.update(x))
    assert simulated.page_hinkley(streams, threshold=20, allowance=0.01).at[0] == at


def test_page_hinkley_looks_to_the_side_it_is_asked_for() -> None:
    rise = [*flips(300, 0.5, 1), *flips(500, 0.9, 2)]
    up, down = (drift.PageHinkley(threshold=20, direction=side) for side in ("up", "down"))
    assert any(up.update(x) for x in rise) and not any(down.update(x) for x in rise)


def test_a_threshold_tuned_to_a_share_of_false_alarms_has_it_on_other_streams_of_the_kind() -> None:
    tuned, other = (simulated.Streams.shares(0.8, 0.0, runs=400, before=1500, after=1, seed=seed) for seed in (1, 2))
    threshold = simulated.calibrated(tuned, allowance=0.04, false_alarms=0.1)
    assert 0.04 < simulated.page_hinkley(other, threshold=threshold, allowance=0.04).false_alarms < 0.18


# Vectors

def test_the_energy_distance_is_that_of_its_definition_and_in_one_dimension_scipys() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 1)), rng.standard_normal((30, 1)) + 0.5
    ours = drift.two_samples(x, y, permutations=9).value
    # scipy gives the square root of twice the integral of the squared difference of the distribution functions.
    assert ours == pytest.approx(scipy_stats.energy_distance(x[:, 0], y[:, 0]) ** 2, rel=1e-4)


def test_the_mmd_is_the_distance_of_the_mean_embeddings() -> None:
    from scipy.spatial.distance import cdist, pdist

    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((30, 5)), rng.standard_normal((20, 5)) + 0.3
    both = np.vstack([x, y])
    width = np.median(pdist(both))
    across, one, other = (np.exp(-cdist(a, b, "sqeuclidean") / (2 * width**2)).mean() for a, b in ((x, y), (x, x), (y, y)))
    assert drift.two_samples(x, y, kind="mmd", permutations=9).value == pytest.approx(one + other - 2 * across, rel=1e-3)


@pytest.mark.parametrize("kind", ["energy", "mmd"])
@pytest.mark.parametrize("enough", [None, 5])
def test_samples_of_one_kind_have_a_small_p_as_rarely_as_it_says(kind: Any, enough: int | None) -> None:
    rng = np.random.default_rng(2)
    p = np.array([drift.two_samples(rng.standard_normal((30, 4)), rng.standard_normal((20, 4)), kind=kind, permutations=99,
                                    enough=enough, seed=i).p_value for i in range(400)])
    for level in (0.05, 0.2, 0.5):
        assert np.mean(p <= level) <= level + 2.6 * math.sqrt(level * (1 - level) / 400)
    assert np.mean(p <= 0.5) > 0.4


@pytest.mark.parametrize("kind", ["energy", "mmd"])
def test_a_moved_mean_and_another_spread_are_found(kind: Any) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((100, 8))
    for y in (rng.standard_normal((80, 8)) + 0.5, 1.6 * rng.standard_normal((80, 8))):
        assert drift.two_samples(x, y, kind=kind).p_value < 0.01
    assert drift.two_samples(x, np.vstack([x[:40], np.full((3, 8), np.nan)]), kind=kind).n == (100, 40)


def test_stopping_early_gives_the_same_answer_where_it_matters() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((60, 6)), rng.standard_normal((50, 6))
    whole, early = (drift.two_samples(x, y, permutations=4000, enough=enough, seed=1).p_value for enough in (None, 40))
    assert early == pytest.approx(whole, abs=0.15) and early > 40 / 4000
    far = [drift.two_samples(x, y + 2, permutations=500, enough=enough, seed=1).p_value for enough in (None, 40)]
    assert far[0] == far[1] == 1 / 501


def test_equal_vectors_are_no_drift() -> None:
    same = np.ones((40, 3))
    for kind in ("energy", "mmd"):
        assert drift.two_samples(same, same, kind=kind).p_value == 1.0  # type: ignore[arg-type]


def test_a_stream_of_vectors_alarms_in_the_window_that_moved_and_not_before() -> None:
    rng = np.random.default_rng(5)
    detector = drift.Vectors(rng.standard_normal((300, 6)), window=100, requests=1000)
    alarms = [detector.update(x) for x in rng.standard_normal((400, 6))]
    assert not any(alarms) and detector.update(np.full(6, np.nan)) is False and detector.n == 400
    for x in rng.standard_normal((99, 6)) + 0.8:
        assert not detector.update(x)
    assert detector.update(np.full(6, 0.8)) and detector.last is not None and detector.last.p_value <= detector.level
    detector.reset()
    assert (detector.n, detector.alarm, detector.last) == (0, False, None)


def test_windows_and_streams_share_the_false_alarms_of_vectors() -> None:
    rows = np.random.default_rng(6).standard_normal((300, 3))
    alone, shared = (drift.Vectors(rows, window=100, requests=1000, streams=streams) for streams in (1, 4))
    assert alone.level == pytest.approx(0.01 / 10) and shared.level == pytest.approx(alone.level / 4)


@pytest.mark.parametrize(("made", "error"), [
    (lambda: drift.Reference.of([1.0] * 99), "A reference of 99 values says too little; take at least 100"),
    (lambda: drift.Reference.of([math.nan] * 500), "A reference of 0 values"),
    (lambda: drift.Mix(["law"] * 99 + [None, ""]), "A reference of 99 categories"),  # type: ignore[list-item]
    (lambda: drift.Reference(mean=2.0, deviation=0.1), "cannot have mean 2"),
    (lambda: drift.Reference(mean=math.nan, deviation=0.1), "cannot have mean nan"),
    (lambda: drift.Reference(mean=0.5, deviation=0.1, high=math.inf), "finite limits"),
    (lambda: drift.Level(KNOWN, direction="left"), "looks down, up or both"),  # type: ignore[arg-type]
    (lambda: drift.Level(KNOWN, limit=0), "limit is above 1"),
    (lambda: drift.Mix(["law"] * 200, limit=1), "limit is above 1"),
    (lambda: drift.Level(KNOWN, changes=()), "shares above 0"),
    (lambda: drift.limit(false_alarms=0), "between 0 and 1"),
    (lambda: drift.Adwin(delta=2), "delta lies between 0 and 1"),
    (lambda: drift.PageHinkley(threshold=0), "a threshold above 0"),
    (lambda: drift.two_samples([[1.0, 2.0]] * 5, [[1.0]] * 5), "embed both with one model"),
    (lambda: drift.two_samples([[1.0]] * 5, [[1.0]]), "at least 2 vectors"),
    (lambda: drift.two_samples([1.0, 2.0], [[1.0]]), "two dimensions"),
    (lambda: drift.two_samples([[1.0]] * 5, [[1.0]] * 5, kind="far"), "'energy' or 'mmd'"),  # type: ignore[arg-type]
    (lambda: drift.Vectors(np.ones((50, 2))), "needs as many in the reference, which has 50"),
    (lambda: drift.Vectors(np.ones((300, 2))).update([1.0, 2.0, 3.0]), "does not fit a reference of 2 dimensions"),
])
def test_what_cannot_be_watched_is_refused_with_a_sentence(made: Any, error: str) -> None:
    with pytest.raises(LabError, match=error):
        made()


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.6, 0.8, 0.9, 0.95])
def test_the_promise_holds_over_ten_thousand_values(rate: float) -> None:
    streams = simulated.Streams.shares(rate, 0.1 * rate, runs=2000, seed=9)
    found = simulated.level(streams, limit=drift.limit())
    assert found.false_alarms <= 0.01 + 2.5 * math.sqrt(0.01 * 0.99 / 2000)
    assert rate < 0.9 or found.within(500) >= 0.9


# What nobody can do

def test_no_detector_beats_the_ceiling_and_a_larger_drop_or_more_false_alarms_raise_it() -> None:
    ceilings = [drift.most_found(rate, 0.1 * rate) for rate in (0.6, 0.7, 0.8, 0.9, 0.98)]
    assert ceilings == sorted(ceilings) and ceilings[0] < 0.4 < 0.99 < ceilings[-1]
    assert drift.most_found(0.6, 0.12) > ceilings[0] < drift.most_found(0.6, 0.06, false_alarms=0.1)
    streams = simulated.Streams.shares(0.8, 0.16, runs=300, before=2000, after=200, seed=3)
    most = drift.most_found(0.8, 0.16, within=100, false_alarms=0.05, requests=2000)
    ours = simulated.level(streams, limit=drift.limit(false_alarms=0.05, requests=2000))
    tuned = simulated.Streams.shares(0.8, 0.0, runs=600, before=2000, after=1, seed=4)
    summed = simulated.last_values(streams, window=100, limit=simulated.calibrated_last(tuned, window=100, false_alarms=0.05))
    for found in (ours, summed):
        assert 0 < found.within(100) <= most + 2.5 * math.sqrt(0.25 / 300)
    with pytest.raises(LabError, match="a drop above 0"):
        drift.most_found(0.6, 0.7)

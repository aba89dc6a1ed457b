"""Laws of the statistics that comparisons stand on."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lab import stats
from lab.errors import LabError
from lab.records import Estimate

numbers = st.floats(-1e6, 1e6)
samples = st.lists(numbers, min_size=1, max_size=40)
latencies = st.lists(st.floats(0, 1e3) | st.just(math.inf), min_size=1, max_size=30)
shares = st.floats(0, 1)


@given(samples, st.floats(0, 100))
def test_percentiles_agree_with_numpys(values: list[float], q: float) -> None:
    assert stats.percentile(values, q) == pytest.approx(float(np.percentile(values, q)), rel=1e-12, abs=1e-9)


@given(latencies, st.floats(0, 100))
def test_failures_take_their_rank_and_never_turn_a_percentile_into_nan(values: list[float], q: float) -> None:
    found, rank = stats.percentile(values, q), q / 100 * (len(values) - 1)
    if sorted(values)[math.ceil(rank)] == math.inf:
        assert found == math.inf
    else:
        assert found == pytest.approx(np.percentile([min(v, 1e9) for v in values], q))
    assert stats.percentile([-v for v in values], q) <= 0  # -inf is no NaN either


def test_a_percentile_at_a_finite_rank_beside_a_failure_is_finite() -> None:
    assert stats.percentile([1, 2, math.inf], 50) == 2
    assert stats.percentile([1, 2, math.inf], 51) == math.inf
    assert math.isnan(stats.percentile([], 50))
    assert stats.percentile([math.nan, 3], 50) == 3
    assert stats.percentile([-math.inf, math.inf], 50) == math.inf


def test_a_percentile_beyond_100_is_refused() -> None:
    with pytest.raises(LabError, match="between 0 and 100"):
        stats.percentile([1], 101)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1e3), min_size=3, max_size=20), numbers)
def test_the_bootstrap_interval_contains_the_statistic_of_symmetric_data(half: list[float], middle: float) -> None:
    values = [middle + h for h in half] + [middle - h for h in half]
    for statistic in (np.median, np.mean):
        found = stats.bootstrap(values, statistic)
        slack = 1e-9 * (1 + abs(middle))
        assert found.low - slack <= found.value <= found.high + slack


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(1).normal(size=30)
    assert stats.bootstrap(values, seed=3) == stats.bootstrap(values, seed=3)
    assert stats.bootstrap(values, np.mean, seed=3) != stats.bootstrap(values, np.mean, seed=4)


def test_resampling_in_blocks_keeps_every_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "_CELLS", 35)
    values = np.arange(10.0)
    assert stats._resampled(values, np.mean, 100, np.random.default_rng(0)).shape == (100,)


def test_two_values_have_no_interval_and_none_have_no_median() -> None:
    assert math.isnan(stats.median([1, 2]).low) and stats.median([1, 2]).value == 1.5
    assert math.isnan(stats.median([math.nan]).value)


@pytest.mark.parametrize("interval", [
    lambda x: stats.bootstrap(x, np.mean, resamples=400),
    lambda x: stats.median(x),
    lambda x: stats.mean(x),
    lambda x: stats.clustered_mean(x, range(x.size)),
])
def test_a_95_percent_interval_covers_the_truth_about_95_times_in_100(interval) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(7)
    found = [interval(rng.normal(5, 2, size=40)) for _ in range(300)]
    covered = np.mean([e.low <= 5 <= e.high for e in found])
    assert 0.90 <= covered <= 0.985


def test_items_that_move_together_need_the_clustered_interval() -> None:
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(25), 8)
    naive, robust = [], []
    for _ in range(200):
        values = rng.normal(size=25)[clusters] + 0.3 * rng.normal(size=200)
        n, r = stats.mean(values), stats.clustered_mean(values, clusters)
        naive.append(n.low <= 0 <= n.high)
        robust.append(r.low <= 0 <= r.high)
    assert np.mean(naive) < 0.75
    assert 0.90 <= np.mean(robust) <= 0.99


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30))
def test_clusters_of_one_item_change_nothing(values: list[float]) -> None:
    plain, clustered = stats.mean(values), stats.clustered_mean(values, range(len(values)))
    assert clustered.value == pytest.approx(plain.value)
    assert clustered.low == pytest.approx(plain.low, abs=1e-6)
    assert clustered.high == pytest.approx(plain.high, abs=1e-6)


def test_the_clustered_error_is_the_formula_of_the_paper() -> None:
    values, clusters = np.array([1.0, 0, 1, 1, 0, 1, 0, 0]), np.array([0, 0, 1, 1, 1, 2, 2, 3])
    residuals = values - values.mean()
    together = sum(residuals[i] * residuals[j] for i in range(8) for j in range(8) if clusters[i] == clusters[j])
    found = stats.clustered_mean(values, clusters)
    from scipy.stats import t
    assert (found.high - found.value) / t.ppf(0.975, 3) == pytest.approx(math.sqrt(together / 64 * 4 / 3))


@settings(deadline=None)
@given(latencies, st.integers(0, 2**31), st.floats(0, 100))
def test_the_clustered_percentile_is_the_pooled_one(values: list[float], seed: int, q: float) -> None:
    owners = np.random.default_rng(seed).integers(5, size=len(values))
    found = stats.clustered_percentile(values, owners, q, resamples=20)
    assert found.value == stats.percentile(values, q)
    assert math.isnan(found.low) or found.low <= found.high


def test_drawing_whole_clusters_is_repeating_their_values() -> None:
    rng = np.random.default_rng(0)
    values, owners = rng.exponential(size=30), np.repeat(np.arange(6), 5)
    expected = []
    draws = np.random.default_rng(9)
    for _ in range(50):
        chosen = draws.integers(6, size=6)
        expected.append(np.percentile(np.concatenate([values[owners == c] for c in chosen]), 90))
    found = stats.clustered_percentile(values, owners, 90, resamples=50, seed=9)
    assert found.low == pytest.approx(np.percentile(expected, 2.5))
    assert found.high == pytest.approx(np.percentile(expected, 97.5))


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilsons_interval_contains_the_share_and_stays_within_0_and_1(counts: tuple[int, int], level: float) -> None:
    found = stats.proportion(*counts, confidence=level)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high > 0 and found.low < 1  # honest even when all or none succeeded


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n + 1))))
def test_at_the_ends_of_wilsons_interval_the_score_test_is_just_significant(counts: tuple[int, int]) -> None:
    found = stats.proportion(*counts)
    for end in (found.low, found.high):
        z = (found.value - end) / math.sqrt(end * (1 - end) / counts[1])
        assert abs(z) == pytest.approx(1.959964, rel=1e-5)


def test_a_proportion_of_nothing_is_not_measured_and_more_successes_than_tries_are_refused() -> None:
    assert math.isnan(stats.proportion(0, 0).value)
    with pytest.raises(LabError, match="successes"):
        stats.proportion(3, 2)


def test_statistics_and_speed_need_nothing_but_numpy_to_import() -> None:
    code = "import sys, lab.stats, lab.metrics.speed; print([m for m in ('scipy', 'pandas', 'mlflow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Differences


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=3, max_size=20), st.booleans())
def test_swapping_the_sides_turns_the_sign_and_keeps_the_p_value(pairs: list[tuple[int, int]], paired: bool) -> None:
    assume(len(pairs) <= 7)  # enumerated, so both runs see the same arrangements
    a, b = zip(*pairs, strict=True)
    one, other = (stats.difference(x, y, paired=paired, resamples=50) for x, y in ((a, b), (b, a)))
    assert one.value == pytest.approx(-other.value)
    assert one.p_value == pytest.approx(other.p_value)


@settings(max_examples=40, deadline=None)
@given(samples, st.booleans())
def test_a_thing_does_not_differ_from_itself(values: list[float], paired: bool) -> None:
    found = stats.difference(values, values, paired=paired, resamples=50)
    assert found.value == 0 and found.p_value == 1


def test_the_paired_p_value_enumerates_the_sign_flips() -> None:
    # All n differences positive: only "all plus" and "all minus" of 2^n are as extreme.
    for n in (3, 6, 10):
        found = stats.difference(np.arange(n) + 1.0, np.zeros(n), paired=True)
        assert found.p_value == pytest.approx(2 / 2**n)


@given(st.lists(st.integers(-9, 9), min_size=3, max_size=8))
def test_the_unit_of_the_values_does_not_change_the_p_value(differences: list[int]) -> None:
    d = np.array(differences)
    one, other = (stats.difference(d * u, d * 0, paired=True, resamples=5).p_value for u in (1.0, 0.1))
    assert one == other  # 0.1 + 0.2 is not 0.3, and yet as extreme


def test_the_unpaired_p_value_enumerates_the_splits() -> None:
    found = stats.difference([10, 11, 12, 13], [1, 2, 3, 4], paired=False)
    assert found.p_value == pytest.approx(2 / math.comb(8, 4))


@pytest.mark.parametrize("paired", [True, False])
def test_no_difference_is_rejected_about_5_times_in_100_and_a_large_one_nearly_always(paired: bool) -> None:
    rng = np.random.default_rng(11)
    null = [stats.difference(rng.normal(size=20), rng.normal(size=20), paired=paired, resamples=199).p_value
            for _ in range(300)]
    real = [stats.difference(rng.normal(2, 1, size=20), rng.normal(size=20), paired=paired, resamples=199).p_value
            for _ in range(50)]
    assert 0.015 <= np.mean(np.array(null) <= 0.05) <= 0.09
    assert np.mean(np.array(real) <= 0.05) > 0.9


def test_a_drawn_p_value_is_never_0() -> None:
    for paired in (True, False):
        found = stats.difference(np.arange(100.0, 150), np.arange(50.0), paired=paired, resamples=99)
        assert found.p_value == pytest.approx(1 / 100)


def test_unscored_items_are_left_out_with_their_pair_and_counted() -> None:
    a, b = [1, math.nan, 3, 4, 5], [1, 2, math.nan, 2, 1]
    paired = stats.difference(a, b, paired=True)
    assert (paired.n, paired.left_out, paired.value) == (3, 2, 2.0)
    unpaired = stats.difference(a, b, paired=False)
    assert (unpaired.n, unpaired.left_out) == (8, 2)
    nothing = stats.difference([math.nan], [1], paired=True)
    assert nothing.n == 0 and math.isnan(nothing.value) and math.isnan(nothing.p_value)


@pytest.mark.filterwarnings("error")
def test_failures_on_both_sides_are_compared_without_nan_or_warning() -> None:
    inf = math.inf
    both = stats.difference([1, inf, inf, 2, inf], [inf, inf, 3, 1, inf], paired=False)
    assert both.value == 0 and not math.isnan(both.low)
    worse = stats.difference([inf] * 5, [1.0, 2, 3, 4, 5], paired=False)
    assert worse.value == inf and worse.p_value == pytest.approx(2 / math.comb(10, 5))
    pairs = stats.difference([inf, 2, 3, 4], [1.0, 2, inf, 4], paired=True, statistic=np.median)
    assert pairs.value == 0
    means = stats.difference([inf, 2, 3, 4], [1.0, 2, inf, 4], paired=True)  # +inf and -inf: no mean, no interval
    assert math.isnan(means.value) and math.isnan(means.low) and means.p_value == 1
    rare = stats.difference([inf, 2, 3, 4, 5], [1.0, inf, 1, 1, 1], paired=True, statistic=np.median)
    assert rare.value == 3 and not math.isnan(rare.high)
    mixed = stats.bootstrap([inf, -inf, 1, 2, 3, 4], np.mean)
    assert math.isnan(mixed.low) and math.isnan(mixed.high)


def test_pairs_of_unequal_number_are_refused() -> None:
    with pytest.raises(LabError, match="pairs"):
        stats.difference([1, 2], [1], paired=True)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemars_p_value_is_the_two_sided_tail_of_fair_coins(b: int, c: int) -> None:
    n = b + c
    tail = Fraction(sum(math.comb(n, k) for k in range(min(b, c) + 1)), 2**n)
    assert stats.mcnemar(b, c) == pytest.approx(float(min(Fraction(1), 2 * tail)))
    assert stats.mcnemar(b, c) == stats.mcnemar(c, b)


@given(st.lists(shares, max_size=20))
def test_holms_p_values_are_no_smaller_than_the_raw_ones_and_keep_their_order(raw: list[float]) -> None:
    adjusted = stats.holm(raw)
    assert all(p <= q <= 1 for p, q in zip(raw, adjusted, strict=True))
    by_raw = [q for _, q in sorted(zip(raw, adjusted, strict=True))]
    assert by_raw == sorted(by_raw)
    if raw:
        assert min(adjusted) == min(1, len(raw) * min(raw))  # as strict as Bonferroni on the smallest


@given(st.lists(shares, min_size=1, max_size=10), st.integers(0, 10))
def test_a_test_that_was_not_made_costs_the_others_nothing(raw: list[float], place: int) -> None:
    place = min(place, len(raw))
    with_gap = stats.holm([*raw[:place], math.nan, *raw[place:]])
    assert math.isnan(with_gap.pop(place)) and with_gap == stats.holm(raw)


def test_the_detectable_effect_is_found_with_the_promised_power() -> None:
    n, rng = 64, np.random.default_rng(5)
    effect = stats.minimum_detectable_effect(1.0, n)
    means = rng.normal(effect, 1, size=(4000, n)).mean(axis=1)
    assert np.mean(np.abs(means) * math.sqrt(n) > 1.96) == pytest.approx(0.8, abs=0.03)
    assert stats.minimum_detectable_effect(1.0, 4 * n) == pytest.approx(effect / 2)
    assert stats.minimum_detectable_effect(1.0, n, paired=False) == pytest.approx(effect * math.sqrt(2))


@given(st.floats(-5, 5), st.floats(0, 3), st.floats(0.01, 5))
def test_not_worse_is_the_mirror_image_when_lower_is_better(value: float, half: float, margin: float) -> None:
    d = Estimate(value=value, low=value - half, high=value + half)
    mirrored = Estimate(value=-value, low=-value - half, high=-value + half)
    verdict = stats.non_inferior(d, margin, "higher")
    assert verdict == stats.non_inferior(mirrored, margin, "lower")
    assert not verdict or stats.non_inferior(d, margin * 2, "higher")  # a wider margin never takes it back
    assert not (verdict and value < -margin)


def test_without_an_interval_nothing_is_shown_not_to_be_worse() -> None:
    assert not stats.non_inferior(Estimate(value=5.0), 1.0, "higher")
    assert not stats.non_inferior(Estimate(value=-5.0), 1.0, "lower")
    with pytest.raises(LabError, match="margin"):
        stats.non_inferior(Estimate(value=0.0), 0.0, "higher")


coordinate = st.integers(0, 6).map(float) | st.just(math.nan) | st.just(math.inf)


@given(st.lists(st.tuples(coordinate, coordinate), max_size=25), st.sampled_from(["higher", "lower"]),
       st.sampled_from(["higher", "lower"]))
def test_nothing_beats_the_front_and_all_others_are_beaten(points: list[tuple[float, float]], x: str, y: str) -> None:
    def beats(p: tuple[float, float], q: tuple[float, float]) -> bool:
        good = [(a >= b, a > b) if way == "higher" else (a <= b, a < b) for a, b, way in zip(p, q, (x, y), strict=True)]
        return all(at_least for at_least, _ in good) and any(more for _, more in good)

    on_front = stats.pareto_front(points, (x, y))  # type: ignore[arg-type]
    front = [p for p, on in zip(points, on_front, strict=True) if on]
    for point, on in zip(points, on_front, strict=True):
        if math.isnan(point[0]) or math.isnan(point[1]):
            assert not on
        else:
            assert on != any(beats(other, point) for other in points)
            assert on or any(beats(other, point) for other in front)


def test_a_front_without_a_direction_is_refused() -> None:
    with pytest.raises(LabError, match="directions"):
        stats.pareto_front([(1, 2)], ("neither", "lower"))  # type: ignore[arg-type]


def test_shares_are_apart_only_where_both_intervals_allow_it() -> None:
    few = stats.apart(stats.proportion(0, 20), stats.proportion(9, 78))
    assert few.low < 0 < few.high
    many = stats.apart(stats.proportion(0, 200), stats.proportion(60, 200))
    assert many.high < 0
    # Newcombe (1998), Statistics in Medicine 17, table II, method 10: 56/70 less 48/80.
    known = stats.apart(stats.proportion(56, 70), stats.proportion(48, 80))
    assert (known.low, known.high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))

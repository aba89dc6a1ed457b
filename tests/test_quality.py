"""Equal answers are not told apart, worse ones are, and too few items are called too few; with the speed of the same answers."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab import plots, running
from lab.errors import LabError
from lab.experiments import _quality_prompts as prompts
from lab.experiments import _quality_scores as scoring
from lab.experiments import _quality_sets as question_sets
from lab.experiments import make
from lab.experiments.quality import Quality
from lab.metrics import answer
from lab.names import describe
from lab.ops import compare, history
from lab.records import Decoding, Generation, Question, Request
from lab.stats.clusters import Part, mean_of_means

WORDS = ("answered", "token_f1", "contains", "rouge_l", "chrf")
"""Metrics that need neither a model nor an extra."""


def ran(*models: str, **fields: Any) -> running.Outcome:
    given = {"sets": ("everyday",), "metrics": WORDS, "words": 0, "shots": 0, "items": 40, **fields}
    return running.run(Quality(engine="scripted", models=models, **given))


def own(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    file = folder / name
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def test_equal_configurations_show_no_difference(fresh_store: Path) -> None:
    done = ran("right-70", "right-70-twin", sets=("everyday", "facts"))
    twin = done.trials.iloc[1]
    changes = [c for c in done.trials if c.endswith("_change")]
    assert len(changes) > 3 and all(twin[c] == 0 for c in changes)
    assert all(twin[c] == 1 for c in done.trials if c.endswith("_p_value"))
    assert twin["metrics.quality_change_low"] < 0 < twin["metrics.quality_change_high"]
    assert done.verdict is not None and done.verdict.chosen == "right-70"
    assert "worse;" not in " ".join(done.verdict.why)


def test_compare_tests_the_mean_of_the_sets_with_the_experiments_own_figures(fresh_store: Path) -> None:
    done = ran("right-90", "right-60", sets=("everyday", "facts"), metrics=("answered", "contains"))
    first, second = (done.trials.iloc[i] for i in (0, 1))
    rows = {row.measure: row for row in compare.differences(done.trials, first["run_id"], second["run_id"])}
    quality = rows["quality"]
    for figure, column in ((quality.difference, "quality_change"), (quality.low, "quality_change_low"),
                           (quality.high, "quality_change_high"), (quality.p_value, "quality_p_value")):
        assert figure == pytest.approx(second[f"metrics.{column}"])
    assert quality.items == 80 and quality.outcome == "worse"


def test_a_worse_configuration_is_found_and_the_baseline_kept(fresh_store: Path) -> None:
    done = ran("right-90", "right-30")
    worse = done.trials.iloc[1]
    assert worse["metrics.quality_change_high"] < 0 and worse["metrics.everyday_answered_p_value"] < 0.001
    assert done.verdict is not None and done.verdict.chosen == "right-90"
    assert "right-30 against right-90" in done.verdict.why[0] and "; worse." in done.verdict.why[0]
    assert any("Everyday: Answered right" in line for line in done.verdict.why)


def test_the_change_turns_with_the_baseline(fresh_store: Path) -> None:
    there, back = ran("right-80", "right-50"), ran("right-80", "right-50", baseline="right-50")
    assert list(back.trials["name"]) == ["right-50", "right-80"] and back.trials["params.role"][0] == "baseline"
    assert back.trials.iloc[1]["metrics.quality_change"] == pytest.approx(-there.trials.iloc[1]["metrics.quality_change"])


def test_too_few_items_are_called_that_and_not_no_difference(fresh_store: Path) -> None:
    few = ran("right-80", "right-80-twin", items=8).verdict
    assert few is not None and "too few items" in few.why[0] and any("Too few items to tell about right-80-twin" in c for c in few.caveats)
    enough = ran("right-80", "right-80-twin", items=0, margin=0.05).verdict
    assert enough is not None and "not worse by 5 points" in enough.why[0] and not any("Too few" in c for c in enough.caveats)


def test_the_smallest_detectable_change_shrinks_with_items_and_grows_with_comparisons(fresh_store: Path) -> None:
    def detectable(*models: str, items: int) -> float:
        return float(ran(*models, items=items).trials.iloc[1]["metrics.quality_detectable"])

    some = detectable("right-80", "right-60", items=40)
    assert detectable("right-80", "right-60", items=160) < 0.7 * some
    assert detectable("right-80", "right-60", "right-50", "right-40", items=40) > some


def test_measures_are_the_means_of_the_scores_that_are_kept_and_items_carry_their_requests(fresh_store: Path) -> None:
    done = ran("right-60", sets=("everyday", "facts"), items=20)
    row = done.trials.iloc[0]
    scores, generations = history.scores(row["run_id"]), history.generations(row["run_id"])
    assert {s.item for s in scores} == {g.request.id for g in generations} and len(generations) == 40
    assert {g.request.tags["set"] for g in generations} == {"everyday", "facts"}
    for measure in {s.name for s in scores}:
        assert row[f"metrics.{measure}"] == pytest.approx(np.mean([s.value for s in scores if s.name == measure]))
    mains = (row["metrics.everyday_answered"] + row["metrics.facts_token_f1"]) / 2
    assert row["metrics.quality"] == pytest.approx(mains)
    assert row["tags.lab.note.quality_is"] == "mean of everyday answered, facts token_f1"
    assert done.verdict is not None and "nothing to compare it with" in done.verdict.decision


def test_speed_comes_from_the_same_answers(fresh_store: Path) -> None:
    row = ran("right-60").trials.iloc[0]
    generations = history.generations(row["run_id"])
    gaps = [(g.tokens_at_s[-1] - g.tokens_at_s[0]) / (len(g.tokens_at_s) - 1) for g in generations if len(g.tokens_at_s) > 1]
    assert row["metrics.decode_tokens_per_s"] == pytest.approx(1 / np.median(gaps), rel=0.01)
    assert "metrics.peak_memory_bytes" not in row, "a script has no weights"


def test_items_that_share_a_source_widen_every_interval(fresh_store: Path, tmp_path: Path) -> None:
    def width(grouped: bool) -> list[float]:
        rows = [{"id": f"q{i}", "question": f"What is number {i}?", "references": [f"answer {i}"],
                 **({"group": f"p{i // 6}"} if grouped else {})} for i in range(90)]
        done = ran("right-50", "right-80", sets=(own(tmp_path, f"mine{grouped}.jsonl", rows),), metrics=("contains",), items=0)
        return [float(row[f"metrics.{m}_high"] - row[f"metrics.{m}_low"])
                for row, m in ((done.trials.iloc[0], "quality"), (done.trials.iloc[1], "quality_change"))]

    assert all(wide > 1.4 * narrow for wide, narrow in zip(width(True), width(False), strict=True))


def test_groups_reach_the_intervals_and_the_requests(fresh_store: Path, tmp_path: Path) -> None:
    rows = [{"id": f"q{i}", "question": f"What is number {i}?", "references": [f"answer {i}"], "group": f"p{i // 5}"}
            for i in range(40)]
    done = ran("right-60", sets=(own(tmp_path, "mine.jsonl", rows),), metrics=("token_f1",), items=0)
    row = done.trials.iloc[0]
    by = {s.item: s.value for s in history.scores(row["run_id"])}
    generations = history.generations(row["run_id"])
    assert {g.request.tags["group"] for g in generations} == {f"mine/p{i}" for i in range(8)}
    wanted = mean_of_means([Part(values=[by[g.request.id] for g in generations],
                                 clusters=[g.request.tags["group"] for g in generations])])
    assert row["metrics.mine_token_f1_low"] == pytest.approx(max(0, wanted.low))


def test_a_set_of_ones_own_is_asked_by_what_it_holds(tmp_path: Path) -> None:
    choice = own(tmp_path, "a.jsonl", [{"question": "?", "choices": ["x", "y"], "answer": 1}] * 1)
    summary = own(tmp_path, "b.jsonl", [{"context": f"Text {i}.", "references": ["It."]} for i in range(3)])
    open_ = own(tmp_path, "c d.jsonl", [{"question": "Who?", "references": ["me"], "context": "I am."}])
    found = question_sets.load((choice, summary, open_), ("auto",), items=0, shots=0, seed=0)
    assert [(one.name, one.kind) for one in found] == [("a", "choice"), ("b", "summary"), ("c_d", "open")]
    assert [one.metrics[0] for one in found] == ["answered", "rouge_l", "contains"]


def test_solved_examples_are_items_that_are_not_asked() -> None:
    (asked,) = question_sets.load(("facts",), ("token_f1",), items=0, shots=3, seed=0)
    assert len(asked.shots) == 3 and not {q.id for q in asked.shots} & {q.id for q in asked.questions}
    plain = prompts.requests(asked, style="plain", template="", decoding=Decoding(), output_tokens=0)
    chat = prompts.requests(asked, style="chat", template="", decoding=Decoding(), output_tokens=0)
    for question, text, turns in zip(asked.questions, plain, chat, strict=True):
        assert text.prompt is not None and text.prompt.count("Question:") == 4 and text.prompt.endswith("Answer:")
        assert f"Answer: {asked.shots[0].references[0]}\n" in text.prompt
        assert turns.messages is not None and [m.role for m in turns.messages] == ["user", "assistant"] * 3 + ["user"]
        assert question.question in turns.messages[-1].content


def test_a_template_of_ones_own_is_filled_and_its_braces_are_checked() -> None:
    (asked,) = question_sets.load(("everyday",), ("answered",), items=2, shots=0, seed=0)
    made = prompts.requests(asked, style="plain", template=r"Q {question}\nA", decoding=Decoding(), output_tokens=5)
    assert made[0].prompt == f"Q {asked.questions[0].question}\nA" and made[0].decoding.max_tokens == 5
    for wrong, said in (("{query}", "names {query}"), ("Say something", "every item would be asked the same")):
        with pytest.raises(LabError, match=said.replace("{", r"\{").replace("}", r"\}")):
            Quality(template=wrong)


def test_empty_answers_are_counted_where_everybody_sees_it() -> None:
    def given(text: str) -> Generation:
        return Generation(request=Request(prompt="?"), text=text, sent_s=0, ended_s=1)

    assert scoring.empty([given("a")]) == ()
    assert "empty answers: 2 of 3" in scoring.empty([given(" \n"), given(""), given("a")])[0]


@pytest.mark.parametrize(("fields", "said"), [
    ({"metrics": "taste"}, "no metric 'taste'"), ({"metrics": "answered", "sets": "facts"}, "None of the metrics answered fits"),
    ({"metrics": "auto,answered", "sets": "facts,notes"}, "'answered' fits none of the sets facts, notes"),
    ({"sets": "nothing"}, "no question set"), ({"sets": "verdicts"}, "of kind 'labelled' and cannot be asked"),
    ({"sets": ""}, "--sets"), ({"items": "-1"}, "--items"), ({"margin": "0"}, "--margin"), ({"batch": "0"}, "--batch"),
    ({"temperature": "-1"}, "--temperature"), ({"top_p": "0"}, "--top-p"), ({"style": "song"}, "--style takes one of plain, chat"),
    ({"models": "a,a"}, "Two configurations are called 'a'"), ({"baseline": "b"}, "no configuration 'b'"),
    ({"batch": "2"}, "one item at a time"), ({"engine": "steam"}, "no engine 'steam'"), ({"rungs": "F16"}, "--rungs with the engine"),
    ({"engine": "llama_cpp", "models": "missing"}, "no model 'missing'"), ({"engine": "llama_cpp", "rungs": "Q9"}, "no quantization type"),
    ({"engine": "server", "metrics": "accuracy"}, "a server does not show"), ({"shots": "200"}, "fewer --shots"),
    ({"sets": "everyday,everyday"}, "Two of the --sets"), ({"text": "no.txt", "words": "500"}, "no text and no file"),
    ({"words": "9"}, "too few for perplexity"), ({"column_names": "question=q"}, "is for files of your own"),
    ({"column_names": "question"}, "maps no column"),
])
def test_a_mistake_is_one_sentence_before_anything_is_measured(fields: dict[str, str], said: str) -> None:
    with pytest.raises(LabError) as refused:
        make(Quality, {"engine": "scripted", "models": "a", "words": "0", **fields}).check()
    assert said in str(refused.value)
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


@pytest.mark.parametrize(("rows", "said"), [
    ([{"frage": "Wer?", "antwort": "ich"}], "has the columns frage, antwort but needs question"),
    ([{"question": "Who?", "references": []}], "no right answer to check against"),
])
def test_a_file_with_the_wrong_columns_or_without_references_is_refused_by_name(
    tmp_path: Path, rows: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(LabError, match=said):
        Quality(engine="scripted", models=("a",), sets=(own(tmp_path, "mine.jsonl", rows),), shots=0).check()


@pytest.mark.parametrize(("choices", "said", "named"), [
    (("5", "-5"), " -5", 1), (("5", "-5"), "5 of them", 0), (("+", "-", "="), "-", 1), (("+", "-", "="), "", None),
    (("the cat", "the cat's tail"), "The cat.", 0), (("Rome", "Romania"), "romania", 1), (("a", "b"), "None of these", None),
    (("no", "No!"), "known", None),
])
def test_an_answer_names_the_option_that_its_words_name_or_its_characters_where_options_differ_in_nothing_else(
    choices: tuple[str, ...], said: str, named: int | None
) -> None:
    question = Question(id="q", question="Which?", choices=choices, answer=named or 0)
    score = answer.correct(question, Generation(request=Request(id="q", prompt="?"), text=said, sent_s=0.0, ended_s=1.0))
    assert score.why == ("names no option" if named is None else choices[named])
    assert score.value == float(named is not None)


def test_what_would_take_more_items_than_the_sets_hold_is_not_advised(fresh_store: Path) -> None:
    done = ran("right-70", "right-69", items=0)
    assert done.verdict is not None
    said = " ".join(done.verdict.caveats)
    assert "Raise --items" not in said and re.search(r"the sets hold \d+: add --sets, or accept a --margin of 0\.\d\d", said)


def test_a_file_with_columns_of_its_own_names_is_asked_by_a_mapping(tmp_path: Path) -> None:
    mine = own(tmp_path, "mine.jsonl", [{"frage": "Who?", "antwort": ["I"]}, {"frage": "What?", "antwort": ["this"]}])
    found, facts = question_sets.load((mine, "facts"), ("auto",), items=0, shots=0, seed=0,
                                      columns={"question": "frage", "references": "antwort"})
    assert {q.question for q in found.questions} == {"Who?", "What?"} and facts.questions
    fields = {"engine": "scripted", "models": "a", "words": "0", "shots": "0", "sets": mine}
    make(Quality, {**fields, "column_names": "question=frage,references=antwort"}).check()
    with pytest.raises(LabError, match="map your own, like question=frage"):
        make(Quality, fields).check()


def test_an_item_that_does_not_fit_the_context_is_named_before_the_first_answer(fresh_store: Path, tmp_path: Path) -> None:
    long = own(tmp_path, "mine.jsonl", [{"question": "Why? " * 9000, "references": ["x"]}])
    with pytest.raises(LabError, match="Item 'mine/row-1' needs"):
        ran("right-50", sets=(long,), metrics=("token_f1",))


def test_without_the_extra_auto_leaves_embeddings_out_and_asking_for_them_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (asked,) = question_sets.load(("facts",), ("auto",), items=3, shots=0, seed=0)
    assert asked.metrics == ("contains", "token_f1", "exact_match")
    with pytest.raises(LabError, match=r"'similarity' cannot be measured: .*pip install"):
        question_sets.load(("facts",), ("similarity",), items=3, shots=0, seed=0)


def test_every_set_and_metric_has_a_column_and_a_figure_with_both_intervals(fresh_store: Path) -> None:
    done = ran("right-80", "right-60", sets=("everyday", "facts"))
    table = done.table()
    assert {"Everyday: Answered right (%)", "Facts: Token F1 (%)", "Quality, mean of the sets (%)"} <= set(table.columns)
    figures = plots.figures(Quality, done.trials)
    assert "Facts: Token F1" in figures and "Everyday: Answered right" in figures
    drawn = figures["Quality against decode speed"]
    points = [trace for trace in drawn.data if "markers" in (trace.mode or "")]
    assert all(trace.error_y.array is not None and trace.error_x.array is not None for trace in points)


def test_names_of_measures_say_set_metric_and_direction() -> None:
    name = describe("metrics.my_set_token_f1")
    assert (name.label, name.unit, name.better) == ("My set: Token F1", "%", "higher")
    change = describe("facts_token_f1_change")
    assert (change.label, change.unit, change.better) == ("Facts: Token F1, change", "points", "higher")
    assert describe("facts_token_f1_p_value").unit == "" and describe("quality_detectable").better == "neither"


def test_many_items_and_metrics_are_compared_quickly_and_adjusted_together(fresh_store: Path) -> None:
    done = ran("right-80", "right-60", sets=("everyday", "facts"), items=0)
    ids = list(done.trials["run_id"])
    rows = {row.measure: row for row in compare.differences(done.trials, *ids)}
    tested = [row for row in rows.values() if row.items]
    assert {"everyday_answered", "facts_token_f1"} <= {row.measure for row in tested}
    assert rows["everyday_answered"].outcome == "worse" and rows["everyday_answered"].detectable > 0
    assert all(row.p_adjusted >= row.p_value for row in tested)
    assert not [measure for measure in rows if measure.endswith(("_change", "_p_value", "_detectable"))]


@pytest.mark.timeout(180)
def test_rungs_of_a_real_model_are_asked_alike_one_at_a_time_and_in_batches(fresh_store: Path) -> None:
    given: dict[str, Any] = {"sets": ("everyday", "facts"), "items": 4, "words": 0, "threads": 1, "context_tokens": 512,
                             "flash_attention": "off", "metrics": ("answered", "accuracy", "token_f1"), "output_tokens": 8}
    alone = running.run(Quality(rungs=("Q8_0", "Q4_0"), **given))
    assert list(alone.trials["name"]) == ["Q8_0", "Q4_0"]
    for _, row in alone.trials.iterrows():
        assert 0 <= row["metrics.quality"] <= 1 and row["metrics.decode_tokens_per_s"] > 0
        assert row["metrics.file_bytes"] > 1e7 and row["metrics.peak_memory_bytes"] > 0
        assert not math.isnan(row["metrics.everyday_accuracy"])
    assert alone.trials["metrics.file_bytes"].is_monotonic_decreasing
    assert "quantised already" in alone.trials.iloc[0]["tags.lab.note.caveat"]
    together = running.run(Quality(rungs=("Q8_0",), batch=4, **given))
    texts = [[g.text for g in history.generations(done.trials.iloc[0]["run_id"])] for done in (alone, together)]
    assert texts[0] == texts[1]


@pytest.mark.timeout(120)
def test_perplexity_is_read_beside_the_answers(fresh_store: Path) -> None:
    done = running.run(Quality(sets=("facts",), items=2, shots=0, metrics=("contains",), words=500, threads=1, output_tokens=4))
    row = done.trials.iloc[0]
    assert row["metrics.word_perplexity"] > row["metrics.perplexity"] > 1

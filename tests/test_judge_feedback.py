"""Our judge inside MLflow: a scorer that MLflow runs, and feedback on the traces of a run, with what it is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.engines.scripted import Scripted
from lab.errors import LabError
from lab.metrics.judge import Judge
from lab.metrics.judging.asking import ModelAsker
from lab.ops import feedback, judges, tracking
from lab.records import Generation, Request, Score, Trial

TRUST = "x is to be trusted: it agrees with people on 90% of 300 answers where a constant guess has 60%."


def judge(text: str) -> Judge:
    return Judge(ModelAsker(Scripted(reply=text), name="x"), axes=("correctness",))


def said(**verdict: object) -> str:
    return json.dumps({"reasons": "it names the city", **verdict})


def test_a_scorer_gives_the_judges_score_with_its_reasons_and_its_trust() -> None:
    scorer = judges.scorer(judge(said(correctness=4)), trust=TRUST)
    (given,) = scorer.run(inputs={"question": "Capital?"}, outputs="Paris", expectations={"expected_response": "Paris"})
    assert scorer.name == "judge_correctness"
    assert (given.name, given.value, given.rationale) == ("correctness", 0.75, "it names the city")
    assert (given.source.source_type, given.source.source_id) == ("LLM_JUDGE", "x")
    assert given.metadata["lab.trust"] == TRUST


def test_a_reply_that_cannot_be_read_is_feedback_with_an_error_and_no_value() -> None:
    (given,) = judges.scorer(judge("I like it")).run(inputs={"messages": [{"role": "user", "content": "Capital?"}]}, outputs="Paris")
    assert given.value is None and "no JSON object" in given.error.error_message
    assert "not measured" in given.metadata["lab.trust"]


def test_inputs_without_a_question_are_refused() -> None:
    with pytest.raises(LabError, match="no question"):
        judges.scorer(judge(said(correctness=4))).run(inputs={"city": "Paris"}, outputs="x")


def test_scores_become_feedback_of_a_judge_on_the_traces_of_the_run(fresh_store: Path) -> None:
    client = tracking.writer()
    parent = tracking.start_parent(client, "judging", "judging x")
    generations = tuple(Generation(request=Request(id=i, prompt="Capital?"), text="Paris", sent_s=0.0, ended_s=1.0) for i in "ab")
    run = tracking.write_trial(client, "judging", parent, Trial(name="x", settings={"judge": "x"}, generations=generations))
    scores = [Score(name="correctness", item="a", value=1.0, by="x", why="right"),
              Score(name="correctness", item="b", value=float("nan"), by="x", why="replied with nothing")]
    for _ in range(2):  # twice is once
        judges.log(run, feedback.items(generations), scores, rubric="r1", trust=TRUST)
    found = feedback.on(feedback.trace_id(run, item) for item in "ab")
    assert [(f.kind, f.by, f.value, f.why) for f in sorted(found, key=lambda f: f.value is None)] == [
        ("judge", "x", 1.0, "right"), ("judge", "x", None, "replied with nothing")]
    assert {f.details["lab.trust"] for f in found} == {TRUST}
    with pytest.raises(LabError, match="no answer 'c'"):
        judges.log(run, feedback.items(generations), [Score(name="correctness", item="c", value=1.0, by="x")], rubric="r1")

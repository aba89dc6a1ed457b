"""`lab judge`: recorded answers are graded and compared, stored as feedback, and never without what the judge is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sample_store
from typer.testing import CliRunner

from lab import data
from lab.__main__ import app
from lab.engines.scripted import Scripted
from lab.errors import LabError
from lab.experiments.judging import Judging
from lab.metrics.judge import Judge, open_judge
from lab.metrics.judging.asking import ModelAsker
from lab.ops import feedback, judged, ratings, tracking
from lab.records import Decoding, Generation, Request, Trial


def answered(model: str, words: int) -> Trial:
    """A trial that answered the shipped questions with `words` words each."""
    made = []
    for question in data.questions("everyday")[:20]:
        request = Request(id=f"everyday/{question.id}", prompt=f"Question: {question.question}\nAnswer:", decoding=Decoding(),
                          tags={"set": "everyday", "item": question.id, "question": question.question})
        made.append(Generation(request=request, text=" ".join([model] * words), sent_s=0.0, ended_s=1.0))
    return Trial(name=model, settings={"configuration": model}, generations=tuple(made))


@pytest.fixture
def recorded(fresh_store: Path) -> tuple[str, list[str]]:
    client = tracking.writer()
    run = tracking.start_parent(client, "quality", "quality x", **sample_store.MACHINE)
    trials = [tracking.write_trial(client, "quality", run, answered(model, words)) for model, words in (("long", 12), ("short", 2))]
    tracking.write_trial(client, "quality", run, Trial(name="kept nothing", settings={"configuration": "none"}))
    tracking.finish(client, run)
    return run, trials


def test_recorded_answers_are_graded_with_their_right_answers_and_become_feedback(recorded: tuple[str, list[str]]) -> None:
    run, trials = recorded
    answers = judged.answers_of([run[:10]])
    assert [one.run_id for one in answers] == trials and all(answers[0].item(item).references for item in answers[0].generations)
    found = judged.judge_answers(open_judge("scripted:longer", axes=("clarity",)), answers, items=8, pairs=True)
    grades = {mean.model: mean for mean in found.means()}
    assert grades["long"].grade.low > grades["short"].grade.high and grades["long"].items == 8
    assert [one.name for one in found.ranking()] == ["long", "short"] and found.flip_share().value == 0
    kept = feedback.on(feedback.trace_id(trials[0], item) for item in found.items)
    assert {(one.name, one.kind, one.by) for one in kept} == {
        ("clarity", "judge", "scripted:longer"), ("preference", "judge", "scripted:longer")}
    assert all("lab run judging --judges scripted:longer" in one.details["lab.trust"] for one in kept)


def test_people_see_the_judge_beside_them(recorded: tuple[str, list[str]]) -> None:
    run, trials = recorded
    judged.judge_answers(open_judge("scripted:longer", axes=("clarity",)), judged.answers_of([run]), pairs=True)
    for kind, value in (("axes", {"clarity": 4.0}), ("pairs", {"preference": "first"})):
        task = ratings.load(ratings.create(trials[::-1], kind=kind, axes=("clarity",)))  # type: ignore[arg-type]
        from lab.ops.ratings.summary import _verdicts

        assert {(judge, axis) for judge, axis, _ in _verdicts(task)} == {("scripted:longer", next(iter(value)))}


def test_trust_comes_from_the_newest_measurement_of_that_judge(fresh_store: Path) -> None:
    client = tracking.writer()
    run = tracking.start_parent(client, "judging", "judging x", **sample_store.MACHINE)
    for trial in Judging(judges=("scripted:longer",), sets=("verdicts",), pairs=0, items=40).run():
        tracking.write_trial(client, "judging", run, trial)
    said = judged.trust_of(open_judge("scripted:longer", axes=("correctness", "style")))
    assert said[0].startswith("On verdicts (correctness): ") and "scripted:longer" in said[0]
    assert said[-1] == "Its grades of style were never held against people's."
    assert "was not measured" in judged.trust_of(open_judge("scripted:random"))[0]


def test_an_interruption_or_a_failure_keeps_what_was_judged(recorded: tuple[str, list[str]]) -> None:
    answers = judged.answers_of([recorded[1][0]])

    def stops(error: BaseException) -> Judge:
        asked: list[str] = []

        def reply(prompt: str) -> str:
            asked.append(prompt)
            if len(asked) > judged.TOGETHER:
                raise error
            return json.dumps({"reasons": "so", "clarity": 4})

        return Judge(ModelAsker(Scripted(reply=reply), name="x"), axes=("clarity",))

    found = judged.judge_answers(stops(KeyboardInterrupt()), answers)
    assert found.interrupted and len(found.scores) == judged.TOGETHER and found.means()[0].items == judged.TOGETHER
    with pytest.raises(LabError, match="16 answers judged so far are kept"):
        judged.judge_answers(stops(LabError("The server is gone.")), answers)
    assert len(feedback.on(feedback.trace_id(recorded[1][0], item) for item in answers[0].generations)) == judged.TOGETHER


def test_what_cannot_be_judged_is_one_sentence(recorded: tuple[str, list[str]]) -> None:
    trials = recorded[1]
    with pytest.raises(LabError, match="no run 'nosuch'"):
        judged.answers_of(["nosuch"])
    empty = next(t for t in judged.history.frame("trial")["run_id"] if t not in trials)
    with pytest.raises(LabError, match="nothing to judge"):
        judged.answers_of([empty])
    with pytest.raises(LabError, match="two trials"):
        judged.judge_answers(open_judge("scripted:longer"), judged.answers_of([trials[0]]), pairs=True)


def test_the_command_prints_grades_ranking_and_trust(recorded: tuple[str, list[str]], tmp_path: Path) -> None:
    file = tmp_path / "judged.json"
    done = CliRunner().invoke(app, ["judge", recorded[0], "--judge", "scripted:longer", "--axes", "clarity,style", "--items", "5",
                                    "--pairs", "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert "Mean grade" in done.output and "Strength" in done.output and "was not measured" in done.output
    summary = json.loads(file.read_text())
    assert {(m["model"], m["axis"]) for m in summary["means"]} == {(m, a) for m in ("long", "short") for a in ("clarity", "style")}
    assert summary["trust"] and summary["ranking"][0]["name"] == "long"

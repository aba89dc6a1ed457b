"""Logged requests asked again of two releases: which ones, who scores them, and what the pairs of answers decide."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lab import __main__ as command
from lab.errors import LabError
from lab.ops import cost, history, replay, requests, versions
from lab.ops.requests_schema import LogRecord

BOOK = cost.load()
QUESTIONS = [f"What colour has thing number {i}?" for i in range(120)]


@pytest.fixture
def home(fresh_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LAB_USER", "ana")
    return tmp_path


def release(home: Path, reply: str, prompt: str = "Be brief.", **engine: Any) -> versions.Release:
    """A release of the scripted engine that always says the same."""
    (home / "support.txt").write_text(prompt)
    return versions.create(prompt=str(home / "support.txt"), model="script", engine="scripted", decoding={"max_tokens": "60"},
                           engine_settings={"reply": reply, **{name: str(value) for name, value in engine.items()}}).release


def kept(prompts: list[str], *, users: int = 40) -> None:
    """A log as a gateway that keeps texts would have left it."""
    log = requests.RequestLog(requests.folder())
    for i, prompt in enumerate(prompts):
        log.add(LogRecord(time_s=1e9 + i, request_id=f"r{i}", release="release 1", user_hash=f"user {i % users}"), token=i,
                prompt=prompt, answer="as it was")
    log.close()


def own_set(home: Path) -> str:
    rows = [{"id": f"q{i}", "question": question, "references": ["blue"]} for i, question in enumerate(QUESTIONS)]
    (home / "colours.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(home / "colours.jsonl")


def test_the_latest_different_texts_are_asked_with_their_users_in_the_order_they_came(home: Path) -> None:
    kept(["one", "two", "one", "  ", "three", "four"], users=2)
    found = replay.logged(last=3)
    assert [one.prompt for one in found] == ["one", "three", "four"]
    assert [(one.id, one.user) for one in found] == [("r2", "user 0"), ("r4", "user 0"), ("r5", "user 1")]
    assert [one.prompt for one in replay.logged()] == ["two", "one", "three", "four"]
    assert [one.prompt for one in replay.logged(since_s=1e9 + 5)] == ["four"]


def test_a_question_is_known_by_its_words_and_a_longer_one_before_one_that_it_contains(home: Path) -> None:
    rows = [{"id": "a", "question": "Who wrote it?", "references": ["x"]},
            {"id": "b", "question": "Who wrote it? Answer in a word.", "references": ["y"]}]
    (home / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    known = replay.Known.of([str(home / "mine.jsonl")])
    for prompt, id_ in (("who wrote IT", "a"), ("Tell me: who wrote it? Thanks.", "a"), ("Who wrote it? Answer in a word. Now.", "b")):
        found = known.find(prompt)
        assert found is not None and found[1].id == id_
    assert known.find("Who wrote item 5?") is None and known.find("") is None and replay.Known().find("anything") is None


def test_a_candidate_that_answers_wrongly_is_stopped_early_by_its_pairs(home: Path) -> None:
    kept(QUESTIONS)
    right, wrong = release(home, "It is blue."), release(home, "It is green.")
    found = replay.replay(replay.logged(), right, wrong, book=BOOK, known=replay.Known.of([own_set(home)]),
                          margins=replay.Margins(latency=0))
    assert found.look.decision == "do not ship" and "shown to be worse" in found.look.why[0]
    assert found.asked < len(QUESTIONS) and found.scored == found.asked and found.same == 0
    quality = found.look.effects[0]
    assert quality.means == (1.0, 0.0) and quality.change.high < 0
    assert {one.logged.id for one in found.answers if one.arm == "A"} == {one.logged.id for one in found.answers if one.arm == "B"}


def test_the_same_answers_under_another_prompt_are_within_every_margin(home: Path) -> None:
    kept(QUESTIONS)
    found = replay.replay(replay.logged(), release(home, "It is blue."), release(home, "It is blue.", "Be blunt."), book=BOOK,
                          known=replay.Known.of([own_set(home)]), margins=replay.Margins(quality=0.1, latency=0.1), stop=False)
    assert found.look.decision == "ship" and found.same == found.asked == len(QUESTIONS)
    assert found.look.effects[0].units == (40, 40) and found.look.effects[0].n == (120, 120)  # users are the clusters
    assert [one.metric.name for one in found.look.effects] == ["quality", "usable", "e2e_s"]


def test_without_known_answers_refusals_latency_and_cost_still_decide(home: Path) -> None:
    kept(QUESTIONS)
    a = release(home, "It is blue.")
    declines = replay.replay(replay.logged(), a, release(home, "I cannot help you."), book=BOOK,
                             margins=replay.Margins(latency=0))
    slower = replay.replay(replay.logged(), a, release(home, "It is blue.", tpot_s=0.02), book=BOOK)
    assert declines.look.decision == slower.look.decision == "do not ship"
    assert declines.scored == 0 and declines.look.effects[0].harmful and not slower.look.effects[0].harmful
    assert slower.look.effects[1].metric.name == "e2e_s" and slower.look.effects[1].harmful


def test_a_request_that_does_not_fit_the_candidate_is_its_failure_and_one_that_nobody_answers_is_an_error(home: Path) -> None:
    long = [f"{question} {'x' * 400}" if i % 2 else question for i, question in enumerate(QUESTIONS)]
    kept(long, users=120)
    a = release(home, "It is blue.")
    found = replay.replay(replay.logged(), a, release(home, "It is blue.", context_tokens=300), book=BOOK, stop=False)
    failed = [one for one in found.answers if one.error]
    assert found.look.decision == "do not ship" and {one.arm for one in failed} == {"B"} and len(failed) == 60
    assert failed[0].values["usable"] == 0 and math.isinf(failed[0].values["e2e_s"])
    with pytest.raises(LabError, match=r"answered none of \d+ requests"):
        replay.replay(replay.logged(), a, release(home, "It is blue.", context_tokens=20), book=BOOK)


def test_what_was_not_scored_is_not_a_number_and_a_failed_known_question_is_wrong(home: Path) -> None:
    kept([*QUESTIONS[:3], "Something else?"])
    known = replay.Known.of([own_set(home)])
    found = replay.replay(replay.logged(), release(home, "blue"), release(home, "Blue."), book=BOOK, known=known)
    scores = [one.values["quality"] for one in found.answers if one.arm == "A"]
    assert scores[:3] == [1, 1, 1] and math.isnan(scores[3]) and found.scored == 3
    assert found.look.decision == "need more data" and found.look.needed > 0


def test_a_log_without_texts_says_how_to_get_some(home: Path) -> None:
    with pytest.raises(LabError, match="lab gateway --texts guarded"):
        replay.logged()


@pytest.mark.parametrize(("margins", "error"), [
    ({"quality": 0.0}, "margin of quality lies between"), ({"latency": -1.0}, "those of latency and cost"), ({"cost": 10.0}, "from 0")])
def test_margins_that_mean_nothing_are_refused(margins: dict[str, float], error: str) -> None:
    with pytest.raises(LabError, match=error):
        replay.Margins(**margins).metrics(scored=True)


def test_the_command_prints_the_verdict_and_writes_it_without_any_text(home: Path) -> None:
    kept(QUESTIONS)
    a, b = release(home, "It is blue."), release(home, "It is green.")
    versions.promote(a.number, by="ana", why="first")
    versions.propose(b.number, by="ana", why="greener")
    done = CliRunner().invoke(command.app, ["replay", "--sets", own_set(home), "--latency-margin", "0", "--json", str(home / "r.json")])
    assert done.exit_code == 0, done.output
    assert f"Release {b.number} is shown to be worse than release {a.number}" in done.output
    text = (home / "r.json").read_text()
    assert json.loads(text)["decision"] == "do not ship" and "colour" not in text and "green" not in text
    run = json.loads(text)["run"]
    trials = history.frame(parents=[run])
    assert set(trials["params.release"]) == {a.number, b.number} and trials["metrics.quality_change"].min() < 0
    decided = history.frame("experiment", experiment="replay")
    assert list(decided["run_id"]) == [run] and "shown to be worse" in decided["tags.lab.verdict"].iloc[0]
    assert "thing number" not in "".join(file.read_text(errors="replace") for file in home.rglob("*.json"))
    same = CliRunner().invoke(command.app, ["replay", "production"])
    assert isinstance(same.exception, LabError) and "both are release" in str(same.exception)

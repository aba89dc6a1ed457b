"""Laws of rollouts: who gets the candidate, what the log says of it, and that harm ends it at once by a recorded move."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_clients import Here, ask, chat, until
from typer.testing import CliRunner

from lab import __main__ as command
from lab.errors import LabError
from lab.ops import requests, rollouts, versions
from lab.ops.requests import scores
from lab.ops.requests_schema import SHADOW, LogRecord, checked, failed, served
from lab.ops.rollouts import live, watching

USERS = [f"user {i}" for i in range(40)]


@pytest.fixture
def releases(fresh_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    """A good release in production, another that answers something else, and one that fails at every request."""
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("LAB_USER", "ana")
    (tmp_path / "prompt.txt").write_text("Be brief.")
    (tmp_path / "none.yaml").write_text("policy: none\nversion: 1\nrules: []\n")

    def make(**settings: Any) -> int:
        return versions.create(prompt=str(tmp_path / "prompt.txt"), model="markov", engine="scripted", engine_settings=settings,
                               policy=str(tmp_path / "none.yaml"), decoding={"max_tokens": "8"}).release.number

    found = make(reply="right", tpot_s=0.001), make(reply="wrong", tpot_s=0.001), make(reply="none", fail_after=1, tpot_s=0.0)
    versions.promote(found[0], by="ana", why="first")
    return found


@pytest.fixture
def gateway(releases: tuple[int, int, int]) -> Iterator[Here]:
    with Here(texts="guarded") as here:
        yield here


def begin(candidate: int, gateway: Here, **given: Any) -> rollouts.Rollout:
    made = rollouts.start(candidate, by="ana", why="test", **{"share": 0.5, **given}).rollout
    until(lambda: gateway.app.loaded.candidate() is not None)
    return made


def within(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds are over."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def rows(*columns: str) -> list[dict[str, Any]]:
    return [dict(row) for row in requests.frame(columns=columns).to_dict("records")]


def test_a_user_keeps_the_arm_the_log_names_it_and_who_is_nobody_is_not_counted(
    gateway: Here, releases: tuple[int, int, int]
) -> None:
    a, b, _ = releases
    one = begin(b, gateway)
    got: dict[str, set[str]] = {}
    for _ in range(3):
        for user in USERS:
            got.setdefault(user, set()).add(ask(gateway.port, chat(user=user)).text)
    assert all(len(texts) == 1 for texts in got.values()), "a user saw both arms"
    counted = Counter(next(iter(texts)) for texts in got.values())
    assert set(counted) == {"right", "wrong"} and min(counted.values()) >= 8
    assert {(row["arm"], row["release"]) for row in rows("arm", "release")} == {("A", f"release {a}"), ("B", f"release {b}")}
    anonymous = ask(gateway.port, chat())
    assert anonymous.text == "right"
    assert [row["arm"] for row in rows("arm", "request_id") if row["request_id"] == anonymous.id] == [""]
    assert ask(gateway.port, b"", "/health", "GET").json["rollout"] == one.number
    rollouts.stop(by="ana", why="enough")
    assert {ask(gateway.port, chat(user=user)).text for user in USERS} == {"right"}


def test_worse_answers_withdraw_the_candidate_at_once_and_the_journal_has_the_numbers(
    gateway: Here, releases: tuple[int, int, int]
) -> None:
    _, b, _ = releases
    one = begin(b, gateway, score="answered", margins={"quality": 0.1, "cost_usd": 0, "e2e_s": 0})
    seen: list[rollouts.Watched] = []
    watcher = threading.Thread(target=lambda: rollouts.watch(say=seen.append, every_s=0.05, until=within(40)))
    watcher.start()
    i = 0
    while watcher.is_alive() and i < 2000:
        reply = ask(gateway.port, chat(user=f"user {i}"))
        scores.add([requests.Scored(request_id=reply.id, time_s=time.time(), name="answered", value=float(reply.text == "right"),
                                    by="words", scored_s=time.time())], requests.folder())
        i += 1
    watcher.join(10)
    assert seen[-1].look.decision == "do not ship" and "withdrawn" in seen[-1].did
    assert {ask(gateway.port, chat(user=user)).text for user in USERS} == {"right"}
    last = versions.history()[-1]
    assert last.by == "rollout" and last.action == "withdraw" and "points" in last.why and last.before.candidate == b
    over = rollouts.all_()[-1]
    assert over.number == one.number and over.decision == "do not ship" and over.ended and rollouts.current() is None


def test_a_candidate_that_fails_is_stopped_by_its_failures_alone(gateway: Here, releases: tuple[int, int, int]) -> None:
    begin(releases[2], gateway, margins={"e2e_s": 0, "cost_usd": 0})
    for i in range(120):
        ask(gateway.port, chat(user=f"user {i}"))
    until(lambda: len(requests.frame()) >= 120)
    last = rollouts.watch(say=lambda seen: print(seen.look.why, seen.requests), until=within(20))
    assert last is not None and last.look.decision == "do not ship" and versions.current().candidate is None
    assert last.took_s < 1.0


def test_a_candidate_promoted_meanwhile_is_rolled_back_on_harm(gateway: Here, releases: tuple[int, int, int]) -> None:
    a, _, broken = releases
    begin(broken, gateway, margins={"e2e_s": 0, "cost_usd": 0})
    for i in range(120):
        ask(gateway.port, chat(user=f"user {i}"))
    versions.promote(broken, by="bob", why="in a hurry")
    last = rollouts.watch(say=lambda seen: print(seen.look.why, seen.requests), until=within(20))
    assert last is not None and "rolled back" in last.did and versions.current().production == a
    assert versions.history()[-1].by == "rollout" and ask(gateway.port, chat(user="user 1")).status == 200


def test_a_shadow_is_seen_by_nobody_and_compared_all_the_same(gateway: Here, releases: tuple[int, int, int]) -> None:
    a, b, _ = releases
    begin(b, gateway, stage="shadow", share=1.0)
    replies = [ask(gateway.port, chat(user=user)) for user in USERS[:12]]
    assert {reply.text for reply in replies} == {"right"}
    until(lambda: gateway.app.shadows.asked + gateway.app.shadows.dropped >= 12
          and sum(row["arm"] == SHADOW for row in rows("arm")) == gateway.app.shadows.asked)
    found = rows("arm", "release", "request_id", "status")
    assert {(row["arm"], row["release"]) for row in found} >= {("A", f"release {a}"), (SHADOW, f"release {b}")}
    texts = requests.texts().set_index("request_id")["answer"]
    copied = [row["request_id"] for row in found if row["arm"] == SHADOW]
    assert copied and all(texts[name] == "wrong" and texts[name.removesuffix("-shadow")] == "right" for name in copied)
    evidence = rollouts.Evidence(rollouts.all_()[-1])
    evidence.look()
    assert evidence.requests == 2 * len(copied)


def test_shadows_give_way_to_users(releases: tuple[int, int, int]) -> None:
    slow = versions.create(prompt=_prompt(), model="markov", engine="scripted", engine_settings={"reply": "x" * 200, "tpot_s": 0.05},
                           decoding={"max_tokens": "200"}).release.number
    with Here(running=4, queue=0) as here:
        begin(slow, here, stage="shadow", share=1.0)
        assert ask(here.port, chat()).status == 200
        until(lambda: here.app.shadows.asked == 1)
        began = time.monotonic()
        replies: list[int] = []
        threads = [threading.Thread(target=lambda: replies.append(ask(here.port, chat()).status)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(replies) == {200} and time.monotonic() - began < 5
        until(lambda: here.app.shadows.dropped >= 1)


def _prompt() -> str:
    file = requests.folder().parent / "slow.txt"
    file.write_text("Be slow.")
    return str(file)


def test_a_rollout_ends_with_any_move_of_its_aliases(gateway: Here, releases: tuple[int, int, int]) -> None:
    _, b, c = releases
    begin(b, gateway)
    versions.propose(c, by="bob", why="mine is better")
    assert {ask(gateway.port, chat(user=user)).text for user in USERS} == {"right"}
    assert rollouts.watch(say=lambda seen: None, until=within(20)) is None
    assert "moved" in rollouts.all_()[-1].ended


def test_what_cannot_be_is_refused_in_a_sentence(releases: tuple[int, int, int]) -> None:
    a, b, _ = releases
    for given, word in (({"candidate": a}, "in production"), ({"candidate": 99}, "99"), ({"candidate": b, "share": 0.0}, "share"),
                        ({"candidate": b, "margins": {"speed": 0.1}}, "no margin"),
                        ({"candidate": b, "margins": {"failed": 0, "e2e_s": 0, "cost_usd": 0}}, "Nothing is looked at"),
                        ({"candidate": b, "why": " "}, "why")):
        with pytest.raises(LabError, match=word):
            rollouts.start(**{"by": "ana", "why": "test", **given})
    with pytest.raises(LabError, match="No rollout"):
        rollouts.stop(by="ana", why="test")
    rollouts.start(b, by="ana", why="test")
    with pytest.raises(LabError, match="is on"):
        rollouts.start(b, by="ana", why="again")
    with watching._alone(), pytest.raises(LabError, match="Another process"):
        rollouts.watch(say=lambda seen: None)


def test_a_clock_set_back_hides_no_request_from_the_watcher(releases: tuple[int, int, int]) -> None:
    a, b, _ = releases
    one = rollouts.start(b, by="ana", why="test").rollout
    log = requests.RequestLog(requests.folder())
    for i in range(10):
        log.add(LogRecord(time_s=time.time() - 7200, request_id=str(i), release=f"release {a if i % 2 else b}", user_hash=str(i),
                          arm="A" if i % 2 else "B", e2e_s=0.1))
    log.close()
    evidence = rollouts.Evidence(one)
    evidence.look()
    assert evidence.requests == 10
    evidence.look()
    assert evidence.requests == 10, "a row was counted twice"


def test_a_shadow_counts_in_no_rate_of_the_service() -> None:
    import pandas as pd

    frame = checked(pd.DataFrame([LogRecord(time_s=1.0, request_id=str(i), release="a", status=status, arm=arm).row()
                                  for i, (status, arm) in enumerate([(200, ""), (500, ""), (200, SHADOW), (500, SHADOW)])]))
    assert served(frame).tolist() == [True, True, False, False] and failed(frame).tolist() == [False, True, False, False]


def test_the_plan_takes_longer_for_a_smaller_share(releases: tuple[int, int, int]) -> None:
    made = [rollouts.Rollout(candidate=releases[1], production=releases[0], name="x", share=share, score="answered")
            for share in (0.5, 0.05)]
    half, few = ({plan.metric.name: plan for plan in rollouts.planned(one, runs=100)} for one in made)
    assert half["answered"].worse is not None and few["answered"].worse is not None
    assert half["answered"].worse.median < few["answered"].worse.median
    assert half["e2e_s"].same is None and "not known" in half["e2e_s"].said() and not math.isnan(half["failed"].deviation)


def test_the_commands_begin_show_and_end_a_rollout(releases: tuple[int, int, int], tmp_path: Path) -> None:
    def run(*words: str) -> Any:
        result = CliRunner().invoke(command.app, ["rollout", *words, "--json", str(tmp_path / "out.json")])
        assert result.exit_code == 0, result.output + str(result.exception)
        return json.loads((tmp_path / "out.json").read_text())

    assert run("status") == {"rollout": None}
    begun = run("start", "--candidate", str(releases[1]), "--share", "0.2", "--score", "answered", "--margin", "quality=0.05", "--why", "x")
    assert begun["rollout"]["margins"]["quality"] == 0.05 and len(begun["power"]) == 4
    shown = run("status")
    assert shown["on"] and shown["look"]["decision"] == "need more data"
    assert run("stop", "--why", "enough")["rollout"]["ended"].startswith("stopped by ana")
    assert run("status")["on"] is False


def test_a_broken_file_means_no_rollout(releases: tuple[int, int, int]) -> None:
    rollouts.start(releases[1], by="ana", why="test")
    reader = rollouts.Live()
    assert reader.get() is not None
    file = live.kept.folder() / live.FILE
    for content in (b"", b"{", b"[1]", b'{"candidate": 2}', b"\xff"):
        file.write_bytes(content)
        assert reader.get() is None

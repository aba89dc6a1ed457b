"""Releases: the same content is the same release, moves are atomic and recorded, and what was promoted can be loaded again."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import kept_in
from gguf import GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lab import __main__ as command
from lab import models, names, releasing, retrieval, safety
from lab.errors import LabError
from lab.ops import store, tracking, versions
from lab.ops.versions import creating, files, kept, moves, prompts, registry, release, state
from lab.records import Decoding, Estimate, Generation, Message, Request, Score, Trial
from lab.safety import policy as policies

ROOT = Path(__file__).parent.parent


@pytest.fixture
def lab(fresh_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store in force, a cache of its own, and the folder to put files into."""
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LAB_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("LAB_USER", "ana")
    return tmp_path


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def gguf(path: Path, fill: float = 0.0, context: int = 128) -> str:
    """A model file of a kilobyte: no engine can run it, and its header says all that a header does."""
    writer = GGUFWriter(path, "toy")
    writer.add_string("general.name", "Toy")
    writer.add_uint32("toy.context_length", context)
    writer.add_tensor("a.weight", np.full((4, 32), fill, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def make(folder: Path, text: str = "Be brief.", **given: Any) -> versions.Release:
    """A release of the scripted engine, which needs no file, unless `given` says otherwise."""
    settings = {"model": "markov", "engine": "scripted", **given}
    return versions.create(prompt=written(folder / "support.txt", text), **settings).release


def of_file(folder: Path, name: str = "toy.gguf", fill: float = 0.0, **given: Any) -> versions.Release:
    return make(folder, model=gguf(folder / name, fill), engine="llama_cpp", **given)


def promote(which: int, **given: Any) -> versions.Move:
    return versions.promote(which, **{"by": "ana", "why": "it is better", **given}).move


def rollback(**given: Any) -> versions.Move:
    return versions.rollback(**{"by": "ben", "why": "it was not", **given}).move


def refusal(call: Any, *given: Any, **named: Any) -> str:
    with pytest.raises(LabError) as refused:
        call(*given, **named)
    said = str(refused.value)
    assert said.endswith(".") and "\n" not in said, said
    return said


# What a release is


def test_the_same_content_is_the_same_release_and_says_so(lab: Path) -> None:
    first = versions.create(prompt=written(lab / "p.txt", "Be brief.\n"), model="markov", engine="scripted", note="one", by="ana")
    again = versions.create(prompt=written(lab / "other.txt", "Be brief."), model="markov", engine="scripted", note="two", by="ben")
    assert (first.new, again.new) == (True, False)
    assert again.release == first.release and first.release.note == "one", "an editor's last line end is no content, nor are names"
    assert len(versions.listed()[0]) == 1


CHANGES: dict[str, dict[str, Any]] = {
    "prompt": {"text": "Be very brief."}, "model": {"model": "other"}, "policy": {"policy": "strict"},
    "temperature": {"decoding": {"temperature": "0.1"}}, "stop": {"decoding": Decoding(stop=("\n",))},
    "seed": {"decoding": {"seed": "1"}}, "schema": {"decoding": {"json_schema": '{"type": "object"}'}},
    "engine": {"engine": "server", "model": "http://127.0.0.1:9/v1"}, "engine setting": {"engine_settings": {"tpot_s": "0.001"}},
}


def test_any_change_of_what_decides_an_answer_makes_another_release(lab: Path) -> None:
    digests = {make(lab).digest, *(make(lab, **change).digest for change in CHANGES.values())}
    assert len(digests) == len(CHANGES) + 1
    assert [one.number for one in versions.listed()[0]] == list(range(1, len(CHANGES) + 2)), "numbered in their order"


def test_a_release_comes_back_as_it_was_made(lab: Path) -> None:
    text = "Grüße 🦙 {{context}}\n\n\t# 'no' \"yes\" \\n\n  two spaces"
    decoding = Decoding(max_tokens=7, temperature=0.25, stop=("\n\n", "€"), seed=2**40, json_schema='{"type":"object"}')
    made = make(lab, text, decoding=decoding, engine_settings={"tpot_s": 0.001, "real_time": True, "seed": 3}, note="a: b\nc")
    assert versions.numbered(made.number) == made
    assert versions.find(made.digest[:8]) == made == versions.find(str(made.number))
    assert made.prompt.text == text and made.decoding == decoding
    assert policies.parse(made.policy.text, "it", made.policy.sha256) == safety.load("default")


def test_a_release_that_was_changed_in_the_store_is_not_given_out(lab: Path) -> None:
    good, bad = make(lab), make(lab, "Be rude.")
    promote(good.number)
    for key, value in (("lab.prompt", "Be evil."), ("lab.policy", "x"), ("lab.release", "{}"), ("lab.digest", "0" * 64)):
        before = next(e for e in registry.entries("release") if e.number == bad.number).tags[key]
        registry.tag("release", bad.number, key, value)
        assert str(bad.number) in refusal(versions.numbered, bad.number)
        found, broken = versions.listed()
        assert [one.number for one in found] == [good.number] and len(broken) == 1, "one broken release hides no other"
        refusal(promote, bad.number)
        registry.tag("release", bad.number, key, before)
    assert versions.numbered(bad.number) == bad


def test_a_deleted_release_is_gone_and_its_content_can_be_made_again(lab: Path) -> None:
    one = make(lab)
    tracking.writer().delete_model_version("release", str(one.number))
    assert "no release 1" in refusal(versions.numbered, one.number)
    assert versions.listed() == ([], [])
    assert make(lab).number == 2


# Prompts


def test_a_text_that_is_a_version_already_stays_that_version(lab: Path) -> None:
    first, second, again = (prompts.prompt(written(lab / "p.txt", text)) for text in ("one", "two", "one"))
    assert [p.version for p in (first, second, again)] == [1, 2, 1]
    assert prompts.prompt("p@2") == second == prompts.prompt("p@latest") and prompts.prompt("p@1") == first
    tracking.writer().set_prompt_alias("p", "good", 1)
    assert prompts.prompt("p@good") == first


def test_prompts_are_those_of_mlflows_registry(lab: Path) -> None:
    client = tracking.writer()
    client.register_prompt("theirs", "You are {{role}}.")
    assert prompts.prompt("theirs@1").text == "You are {{role}}."
    assert client.get_prompt_version("p", prompts.prompt(written(lab / "p.txt", "mine")).version).template == "mine"


def test_a_chat_prompt_begins_the_conversation(lab: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}]
    one = versions.create(prompt=written(lab / "p.json", json.dumps(turns)), model="markov", engine="scripted").release
    ready = versions.load(one)
    said = ready.messages([Message(role="system", content="Also this."), Message(role="user", content="3+3")],
                          context="A fact.", instructions=["Careful."])
    assert [m.role for m in said] == ["system", "user", "assistant", "user"]
    assert said[0].content == "Be brief.\n\nA fact.\n\nCareful.\n\nAlso this."
    assert prompts.prompt("p@1") == one.prompt and versions.numbered(one.number) == one


def test_the_context_stands_where_the_prompt_wants_it(lab: Path) -> None:
    ready = versions.load(make(lab, "Use this:\n{{context}}\nOnly this."))
    asked = [Message(role="user", content="When?")]
    assert ready.messages(asked, context="It was 1901.")[0].content == "Use this:\nIt was 1901.\nOnly this."
    assert "{{context}}" not in ready.messages(asked)[0].content


@pytest.mark.parametrize(("content", "said"), [
    (b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe", "UTF-8"), (b"x" * 100_001, "100,001 characters"),
])
def test_a_file_that_is_no_prompt_is_refused(lab: Path, content: bytes, said: str) -> None:
    (lab / "p.txt").write_bytes(content)
    assert said in refusal(prompts.prompt, str(lab / "p.txt"))


@pytest.mark.parametrize("content", ["{}", "[]", "[1]", '[{"role": "boss", "content": "x"}]', '[{"role": "user"}]', "no json"])
def test_a_json_file_that_is_no_list_of_messages_is_refused(lab: Path, content: str) -> None:
    assert "no list of messages" in refusal(prompts.prompt, written(lab / "p.json", content))


@pytest.mark.parametrize(("given", "said"), [
    ({"decoding": {"temp": "1"}}, "no decoding setting 'temp'"), ({"decoding": {"temperature": "hot"}}, "takes a number"),
    ({"decoding": {"max_tokens": "1.5"}}, "takes a whole number"), ({"decoding": {"ignore_eos": "1"}}, "takes true or false"),
    ({"decoding": {"temperature": "-1"}}, "temperature from 0"), ({"decoding": {"max_tokens": "0"}}, "max_tokens from 1"),
    ({"decoding": {"temperature": "nan"}}, "temperature from 0"), ({"engine": "steam"}, "no engine 'steam'"),
    ({"engine_settings": {"speed": "1"}}, "no setting 'speed'"), ({"policy": "nice"}, "no policy 'nice'"),
    ({"index": "x"}, "both --embedding and --index"), ({"embedding": "x"}, "both --embedding and --index"),
    ({"runs": ["deadbeef"]}, "no trial run 'deadbeef'"), ({"engine": "llama_cpp", "model": "nothing"}, "no model 'nothing'"),
])
def test_a_part_that_does_not_exist_is_one_sentence_and_nothing_is_made(lab: Path, given: dict[str, Any], said: str) -> None:
    assert said in refusal(make, lab, **given)
    assert versions.listed() == ([], [])


# Moves


def test_promotion_and_rollback_move_all_aliases_together_and_mlflow_says_the_same(lab: Path) -> None:
    one, two, three = (make(lab, text).number for text in ("one", "two", "three"))

    def now() -> tuple[int | None, int | None, int | None]:
        found = versions.current()
        theirs = registry.aliases("release")
        assert theirs == {a: n for a in versions.ALIASES if (n := found.of(a)) is not None} and versions.strayed() == []
        return found.production, found.previous, found.candidate

    promote(one)
    assert now() == (one, None, None)
    versions.propose(two, by="ana", why="try it")
    assert now() == (one, None, two)
    promote(two)
    assert now() == (two, one, None), "a candidate that is promoted is none any more"
    rollback()
    assert now() == (one, two, None)
    versions.propose(three, by="ana", why="try it")
    versions.withdraw(by="ana", why="no good")
    assert now() == (one, two, None)
    promote(three)
    assert now() == (three, one, None)
    assert versions.find("production").number == three and versions.find("previous").number == one


def test_every_move_is_recorded_with_who_when_and_why_and_outlives_the_release(lab: Path) -> None:
    one, two = make(lab, "one").number, make(lab, "two").number
    promote(one, by="ana", why="first")
    promote(two, by="ben", why="Ünïcode: \"quotes\" and\nlines", expect=one)
    rollback(by="cem", why="complaints")
    tracking.writer().delete_model_version("release", str(two))
    assert [(m.number, m.action, m.to, m.by, m.why, m.applied) for m in versions.history()] == [
        (1, "promote", one, "ana", "first", True), (2, "promote", two, "ben", "Ünïcode: \"quotes\" and\nlines", True),
        (3, "rollback", one, "cem", "complaints", True)]
    assert all(a.after == b.before and a.at_ms <= b.at_ms for a, b in itertools.pairwise(versions.history()))


def test_a_deleted_move_stays_in_the_history(lab: Path) -> None:
    promote(make(lab, "one").number)
    promote(make(lab, "two").number)
    tracking.writer().delete_model_version("release-moves", "1")
    assert len(versions.history()) == 2 and versions.current().previous == 1


@pytest.mark.parametrize(("call", "said"), [
    (lambda: promote(1, by=" "), "who made it and why"), (lambda: promote(1, why=""), "who made it and why"),
    (lambda: promote(9), "no release 9"), (lambda: promote(2), "in production already"),
    (lambda: promote(1, expect=1), "Release 2 is in production, not release 1"),
    (lambda: promote(1, expect=0), "Release 2 is in production, not no release"),
    (lambda: rollback(expect=1), "Release 2 is in production, not release 1"),
    (lambda: versions.propose(2, by="a", why="b"), "cannot be its own candidate"),
    (lambda: versions.propose(1, by="a", why="b", expect=2), "No release is the candidate, not release 2"),
    (lambda: versions.withdraw(by="a", why="b"), "no candidate"), (lambda: versions.find("candidate"), "No release is candidate"),
    (lambda: versions.find("nonsense"), "no release 'nonsense'"), (lambda: versions.find("abcdef12"), "no release 'abcdef12'"),
])
def test_a_move_that_cannot_be_made_is_one_sentence_and_moves_nothing(lab: Path, call: Any, said: str) -> None:
    make(lab, "one"), make(lab, "two")
    promote(1)
    promote(2)
    before = versions.current()
    assert said in refusal(call)
    assert versions.current() == before and len(versions.history()) == 2


def test_an_address_with_a_password_is_in_no_release(lab: Path) -> None:
    with pytest.raises(LabError, match="Keep the key out of the URL"):
        make(lab, model="http://u:hunter2@127.0.0.1:1/v1", engine="server")
    assert versions.listed() == ([], []) and b"hunter2" not in kept_in(lab)


def test_a_release_that_does_not_open_is_not_promoted_when_it_is_tried_first(lab: Path) -> None:
    broken = make(lab, engine_settings={"context_tokens": "1"})
    for move in (versions.promote, versions.propose):
        with pytest.raises(LabError, match="cannot answer: its engine does not open here"):
            move(broken.number, by="ana", why="new", opens=True)
    forced = versions.promote(broken.number, by="ana", why="new", opens=True, force=True)
    assert "does not open" in forced.move.defects[0]
    assert versions.propose(make(lab, "Be long.").number, by="ana", why="works", opens=True).move.defects == ()


def test_the_first_release_cannot_be_rolled_back(lab: Path) -> None:
    assert "nothing to roll back to" in refusal(rollback)
    promote(make(lab).number)
    assert "nothing to roll back to" in refusal(rollback)


def test_a_second_rollback_does_not_bring_the_bad_release_back_by_accident(lab: Path) -> None:
    one, two = make(lab, "one").number, make(lab, "two").number
    promote(one), promote(two), rollback()
    assert "rolled back from release 2 already" in refusal(rollback)
    assert versions.current().production == one
    rollback(expect=one)
    assert versions.current().production == two, "meant, it is a swap"


MOVES = st.lists(st.tuples(st.sampled_from(["promote", "rollback", "candidate", "withdraw"]), st.integers(1, 3),
                           st.one_of(st.none(), st.integers(0, 3)), st.integers(0, 8)), max_size=12)


@settings(max_examples=300)
@given(MOVES)
def test_the_aliases_follow_from_the_journal_whatever_is_in_it(given_moves: list[tuple[Any, int, int | None, int]]) -> None:
    entries = [registry.Entry(number=i, at_ms=i, tags={"lab.move": state.written(versions.Move(
        number=0, action=action, to=None if action == "withdraw" else to, expect=expect, by="a", why="b", id=str(same)))})
        for i, (action, to, expect, same) in enumerate(given_moves, start=1)]
    found = state.replay(entries, 1)
    assert len(found) == len({move[3] for move in given_moves}), "an entry that was sent twice counts once"
    for move in found:
        seen = move.before.of(move.alias) or 0
        assert move.applied == (move.expect is None or move.expect == seen)
        if not move.applied:
            assert dataclasses.replace(move.after, head=0) == dataclasses.replace(move.before, head=0)
        elif move.alias == "production":
            assert move.after.production == move.to
            assert move.after.previous == (seen or move.before.previous if seen != move.to else move.before.previous)
        assert move.after.production is None or move.after.production != move.after.previous
    for earlier, later in itertools.pairwise(found):
        assert earlier.after == later.before, "no move is lost between two others"


def test_a_strange_entry_in_the_journal_moves_nothing(lab: Path) -> None:
    promote(make(lab, "one").number)
    before = versions.current()
    for tags in ({}, {"lab.move": "{"}, {"lab.move": '{"action": "promote"}'}):
        registry.append("release-moves", tags, source="lab-move:/x", about="")
    assert versions.current() == before
    promote(make(lab, "two").number)
    assert versions.current().previous == 1


def test_an_alias_that_was_moved_outside_does_not_count_and_can_be_put_back(lab: Path) -> None:
    one, two = make(lab, "one").number, make(lab, "two").number
    promote(one)
    tracking.writer().set_registered_model_alias("release", "production", str(two))
    assert versions.current().production == one and versions.Pointer(poll_s=0).current().number == one
    assert "points at release 2 and the journal at release 1" in versions.strayed()[0]
    versions.mend()
    assert versions.strayed() == [] and registry.aliases("release")["production"] == one


CHILD = """
import contextlib, sys
from lab.errors import LabError
from lab.ops import versions
from lab.ops.versions import creating
if sys.argv[1] == "unlocked":
    creating.one_at_a_time = contextlib.nullcontext      # as two machines on one server would be
sys.stdin.readline()
for number in sys.argv[3:]:
    try:
        versions.promote(number, by=sys.argv[2], why=f"{sys.argv[2]} wants {number}", expect=int(number) - 1 if number == "2" else None)
        print("moved", number, flush=True)
    except LabError as error:
        print("refused", number, error, flush=True)
"""


def at_once(home: Path, *each: Sequence[str]) -> list[list[str]]:
    """Run a child for each list of arguments, all let go at the same time; the lines each of them printed."""
    children = [subprocess.Popen([sys.executable, "-c", CHILD, *arguments], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, env={**os.environ, "LAB_HOME": str(home)}) for arguments in each]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    out = [child.communicate(timeout=180)[0].splitlines() for child in children]
    assert [child.returncode for child in children] == [0] * len(children)
    return out


@pytest.mark.parametrize("how", [pytest.param("locked", marks=pytest.mark.slow), "unlocked"])
def test_promotions_of_two_processes_at_once_are_all_kept_in_one_order(lab: Path, fresh_store: Path, how: str) -> None:
    for text in ("one", "two", "three", "four", "five", "six"):
        make(lab, text)
    promote(1)
    pointer = versions.Pointer(poll_s=0)
    # Both expect release 1 where they promote 2: one of them must find that it is not there any more.
    out = at_once(fresh_store, [how, "ann", "2", "3", "5"], [how, "bob", "2", "4", "6"])
    moved = [line for lines in out for line in lines if line.startswith("moved")]
    refused = [line for lines in out for line in lines if line.startswith("refused")]
    assert (len(moved), len(refused)) == (5, 1) and "refused 2" in refused[0] and "expected" in refused[0]
    history = versions.history()
    applied = [m for m in history if m.applied]
    assert sorted(m.to for m in applied if m.to) == [1, 2, 3, 4, 5, 6], "no promotion is lost, none is made twice"
    assert all(a.after == b.before for a, b in itertools.pairwise(history))
    last = history[-1].after
    assert (last.production, last.previous) == (applied[-1].to, applied[-2].to)
    assert registry.aliases("release") == {"production": last.production, "previous": last.previous} and versions.strayed() == []
    assert pointer.current().number == last.production and pointer.state == last


# Following


def test_a_pointer_sees_every_move_at_once_and_gives_the_whole_release(lab: Path) -> None:
    pointer, candidate = versions.Pointer(poll_s=0), versions.Pointer("candidate", poll_s=0)
    assert pointer.get() is None and "lab release promote" in refusal(pointer.current)
    one, two = make(lab, "one"), make(lab, "two")
    promote(one.number)
    assert pointer.current() == one and candidate.get() is None
    versions.propose(two.number, by="ana", why="try it")
    assert pointer.current() == one and candidate.current() == two
    promote(two.number)
    assert pointer.current() == two and candidate.get() is None
    rollback()
    assert pointer.current() == one and pointer.state.previous == two.number
    assert pointer.current() is pointer.current(), "nothing is read again while nothing moves"


def test_a_rollback_in_another_process_is_seen_by_the_next_request(lab: Path, fresh_store: Path) -> None:
    one, two = make(lab, "one"), make(lab, "two")
    promote(one.number), promote(two.number)
    pointer = versions.Pointer(poll_s=0)
    assert pointer.current() == two
    done = subprocess.run([sys.executable, "-m", "lab", "release", "rollback", "--why", "worse"], cwd=ROOT, text=True,
                          capture_output=True, timeout=120, env={**os.environ, "LAB_HOME": str(fresh_store)})
    assert done.returncode == 0, done.stderr
    assert pointer.current() == one
    assert versions.history()[-1].by == "ana", "LAB_USER says who it was"


def test_a_move_whose_process_died_before_it_could_tell_is_found_at_the_next_look(lab: Path) -> None:
    one, two = make(lab, "one"), make(lab, "two")
    promote(one.number)
    pointer = versions.Pointer(poll_s=0)
    other = versions.Pointer(poll_s=0)
    entry = versions.Move(number=0, action="promote", to=two.number, by="ana", why="killed", id="x")
    registry.append("release-moves", {"lab.move": state.written(entry)}, source="lab-move:/x", about="")
    assert pointer.current() == one
    pointer.refresh()
    assert pointer.current() == two == other.current(), "who finds it tells the others"


def test_a_pointer_goes_on_with_the_last_release_while_the_store_is_away_and_says_so(lab: Path) -> None:
    one = make(lab, "one")
    promote(one.number)
    ticks = iter(range(1000))
    pointer = versions.Pointer(poll_s=0, clock=lambda: float(next(ticks)))
    assert pointer.trouble == "" and pointer.checked_s >= 0
    database = store.database()
    assert database is not None
    moved = database.with_name("away.db")
    database.rename(moved)
    database.write_text("not a database")
    pointer.refresh()
    assert pointer.current() == one and "cannot be read" in pointer.trouble
    assert versions.Pointer(poll_s=0).current() == one, "a gateway that starts now knows it as well"
    database.unlink()
    moved.rename(database)
    pointer.refresh()
    assert pointer.trouble == ""


def test_a_pointer_needs_no_folder_it_can_write_to(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = make(lab, "one"), make(lab, "two")
    promote(one.number)
    shutil.rmtree(kept.folder())

    def refused(*given: Any) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as broken:
        broken.setattr(kept, "replace", refused)
        pointer = versions.Pointer(poll_s=0)
        assert pointer.current() == one
        assert "not everything could follow" in versions.promote(two.number, by="ana", why="read-only").caution
        pointer.refresh()
        assert pointer.current() == two
    assert versions.current().production == two.number


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b'{"state": {}}', b'{"state": {"x": 1}, "digests": {}}', b"\xff" * 5000])
def test_a_damaged_alias_file_is_made_again_from_the_journal(lab: Path, content: bytes) -> None:
    one = make(lab, "one")
    promote(one.number)
    file = kept.alias_file(kept.folder())
    file.write_bytes(content)
    for copy in kept.folder().glob("release-*"):
        copy.write_bytes(content)
    pointer = versions.Pointer(poll_s=0)
    assert pointer.current() == one and kept.parsed(kept.raw(file)) is not None


def test_an_older_state_never_replaces_a_newer_one(lab: Path) -> None:
    one = make(lab, "one")
    promote(one.number)
    old = versions.current()
    promote(make(lab, "two").number)
    kept.keep(kept.folder(), old, [one])
    assert versions.Pointer(poll_s=0).current().number == 2


# Files


def test_a_model_is_registered_without_being_copied_and_found_where_it_is_moved(lab: Path) -> None:
    one = of_file(lab)
    before = set(fresh := lab.rglob("*.gguf"))
    assert len(before) == 1, list(fresh)
    assert versions.load(one).model_path == lab / "toy.gguf"
    (lab / "models").mkdir()
    (lab / "toy.gguf").rename(lab / "models" / "toy.gguf")
    assert versions.load(one).model_path == lab / "models" / "toy.gguf"
    (lab / "else").mkdir()
    (lab / "models" / "toy.gguf").rename(lab / "else" / "renamed.gguf")
    assert "vanished" in refusal(versions.load, one)
    again = make(lab, model=str(lab / "else" / "renamed.gguf"), engine="llama_cpp")
    assert again == one, "the same bytes are the same model"
    assert one.model.facts["architecture"] == "toy" and one.model.facts["weights"] == 128 and one.model.facts["context_tokens"] == 128


def test_a_renamed_model_can_be_told_where_it_is(lab: Path) -> None:
    one = of_file(lab)
    (lab / "toy.gguf").rename(lab / "moved.gguf")
    (lab / "elsewhere").mkdir()
    shutil.copy(lab / "moved.gguf", lab / "elsewhere" / "toy.gguf")
    (lab / "moved.gguf").unlink()
    refusal(versions.load, one)
    make(lab, model=str(lab / "elsewhere" / "toy.gguf"), engine="llama_cpp")
    assert versions.load(one).model_path == lab / "elsewhere" / "toy.gguf"


def test_a_copy_outlives_the_original(lab: Path) -> None:
    one = of_file(lab, copy=True)
    original = (lab / "toy.gguf").read_bytes()
    (lab / "toy.gguf").unlink()
    ready = versions.load(one)
    assert ready.model_path is not None and ready.model_path.read_bytes() == original
    assert versions.verify(one).whole


def test_a_copy_can_be_asked_for_later(lab: Path) -> None:
    one = of_file(lab)
    make(lab, model=str(lab / "toy.gguf"), engine="llama_cpp", copy=True)
    (lab / "toy.gguf").unlink()
    assert versions.verify(one).whole


def spoil(file: Path, how: str) -> None:
    """Break a file; `quietly` leaves size and time as they were."""
    was = file.stat()
    if how == "gone":
        file.unlink()
    elif how == "short":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        if how == "quietly":
            os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))


@pytest.mark.parametrize(("how", "said"), [("gone", "vanished"), ("short", "changed"), ("changed", "changed"), ("quietly", "changed")])
def test_a_release_whose_model_is_broken_cannot_be_promoted(lab: Path, how: str, said: str) -> None:
    one, two = make(lab, "one"), of_file(lab)
    promote(one.number)
    spoil(lab / "toy.gguf", how)
    report = versions.verify(two)
    assert [d.part for d in report.defects] == ["model"] and said in report.defects[0].sentence
    text = refusal(promote, two.number)
    assert said in text and "--force" in text
    assert versions.current().production == one.number and len(versions.history()) == 1


@pytest.mark.parametrize("how", ["gone", "short", "changed"])
def test_a_rollback_to_a_broken_release_is_refused_and_can_be_forced_on_the_record(lab: Path, how: str) -> None:
    one, two = of_file(lab), make(lab, "two")
    promote(one.number), promote(two.number)
    spoil(lab / "toy.gguf", how)
    assert "Release 1 cannot answer" in refusal(rollback)
    assert versions.current().production == two.number
    done = rollback(force=True)
    assert versions.current().production == one.number
    assert done.forced and "toy" in done.defects[0] and versions.history()[-1] == done
    (lab / "toy.gguf").unlink(missing_ok=True)
    gguf(lab / "toy.gguf")
    assert promote(two.number, force=True).forced is False, "nothing was wrong, so nothing was forced"


def test_another_model_in_the_place_of_the_old_one_is_not_taken_for_it(lab: Path) -> None:
    one = of_file(lab, fill=1.0)
    gguf(lab / "toy.gguf", fill=2.0)
    assert "not what was released" in refusal(versions.load, one)
    other = make(lab, model=str(lab / "toy.gguf"), engine="llama_cpp")
    assert other.number == 2 and other.model.version == 2 and versions.verify(other).whole


def test_verify_finds_every_defect_and_tells_those_that_keep_it_from_answering(lab: Path) -> None:
    one = of_file(lab)
    tracking.writer().delete_prompt_version("support", str(one.prompt.version))
    report = versions.verify(one)
    assert [(d.part, d.serving) for d in report.defects] == [("prompt", False)] and "deleted" in report.defects[0].sentence
    promote(one.number)
    (lab / "toy.gguf").unlink()
    assert [d.part for d in versions.verify(one).defects] == ["prompt", "model"]
    deep = versions.verify(one, deep=True)
    assert {d.part for d in deep.defects} == {"prompt", "model", "one token"}
    assert all(d.sentence.endswith(".") and "\n" not in d.sentence for d in deep.defects)


def test_deep_verification_decodes_with_the_releases_own_prompt_and_makes_its_guards(lab: Path) -> None:
    report = versions.verify(make(lab, engine_settings={"reply": "Yes."}), deep=True)
    assert report.whole and {line.split(":")[0] for line in report.proven} >= {"one token", "guards", "model", "policy"}


def test_what_lies_behind_a_server_is_left_open_not_called_proven(lab: Path) -> None:
    report = versions.verify(make(lab, engine="server", model="http://127.0.0.1:9/v1"))
    assert report.whole and "cannot be seen" in report.open[0]


# Retrieval


class Fake:
    """An embedder with weights in a folder, of which nothing but the bytes counts."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "tokenizer.json").write_text("{}")
        self.name, self.sha256, self.folder = folder.name, hashlib.sha256(b"weights").hexdigest(), folder

    def embed(self, texts: Sequence[str]) -> Any:
        rows = [np.random.default_rng(int.from_bytes(hashlib.sha256(t.encode()).digest()[:4])).normal(size=16) for t in texts]
        return np.asarray([row / np.linalg.norm(row) for row in rows], np.float32)


@pytest.fixture
def indexed(lab: Path) -> tuple[Fake, Path]:
    if importlib.util.find_spec("usearch") is None:
        pytest.skip("the extra `embeddings` is not installed")
    fake = Fake(lab / "embedder")
    documents = [retrieval.Document(id=str(i), text=f"Fact number {i} stands here.") for i in range(20)]
    retrieval.build(documents, fake).save(lab / "index")
    return fake, lab / "index"


def with_index(folder: Path, fake: Fake, index: Path, **given: Any) -> versions.Release:
    return make(folder, embedding=str(fake.folder), index=str(index), **given)


def test_a_release_binds_an_index_to_the_embedding_model_it_was_made_with(lab: Path, indexed: tuple[Fake, Path]) -> None:
    one = with_index(lab, *indexed)
    assert versions.verify(one).whole and one.retrieval is not None
    assert one.digest != make(lab).digest != with_index(lab, *indexed, passages=2).digest
    opened = versions.load(one).open_index(indexed[0])
    assert opened is not None and opened.version == one.retrieval.index_version and len(opened.search("Fact", 3)) == 3
    (indexed[0].folder / "model.safetensors").write_bytes(b"other")
    assert "cannot be searched" in refusal(with_index, lab, *indexed)


@pytest.mark.parametrize(("file", "part"), [
    ("embedder/model.safetensors", "embedding model"), ("embedder/tokenizer.json", "embedding model"),
    ("index/vectors.npy", "index"), ("index/passages.jsonl", "index"), ("index/graph.usearch", "index"), ("index/manifest.json", "index"),
])
def test_a_changed_file_of_the_index_or_its_model_is_found(lab: Path, indexed: tuple[Fake, Path], file: str, part: str) -> None:
    one, other = with_index(lab, *indexed), make(lab)
    promote(other.number)
    (lab / file).write_bytes((lab / file).read_bytes() + b" ")
    assert part in {d.part for d in versions.verify(one).defects}
    assert "cannot answer" in refusal(promote, one.number)


def test_an_index_can_be_copied_and_an_index_that_is_rebuilt_is_another_version(lab: Path, indexed: tuple[Fake, Path]) -> None:
    one = with_index(lab, *indexed, copy=True)
    retrieval.build([retrieval.Document(id="new", text="Another fact.")], indexed[0]).save(indexed[1])
    other = with_index(lab, *indexed)
    assert other.number != one.number and other.retrieval is not None and other.retrieval.version == 2
    assert versions.verify(one).whole and versions.verify(other).whole
    assert {c.name for c in versions.difference(one, other).retrieval} >= {"index_version", "index_sha256", "documents"}


# Differences


def trial(name: str, right: Sequence[int], tpot_s: float, **measures: Any) -> Trial:
    answers = [Generation(request=Request(id=f"q{i}", prompt="?"), text="a", tokens=(1, 2, 3), sent_s=0.0, ended_s=1.0,
                          tokens_at_s=(0.1, 0.1 + tpot_s * (1 + i % 5 / 50), 0.1 + 2 * tpot_s * (1 + i % 5 / 50))) for i in range(len(right))]
    scores = [Score(name="correct", item=f"q{i}", value=float(v), by="test") for i, v in enumerate(right)]
    return Trial(name=name, settings={"model": "markov"}, generations=tuple(answers), scores=tuple(scores),
                 measures={"accuracy": Estimate(value=float(np.mean(right))), "load_s": 0.1 * len(name), **measures})


def recorded(*trials: Trial, experiment: str = "quality") -> list[str]:
    client = tracking.writer()
    parent = tracking.start_parent(client, experiment, "quality today")
    ids = [tracking.write_trial(client, experiment, parent, one) for one in trials]
    tracking.finish(client, parent)
    return [*ids, parent]


def test_measured_differences_come_with_their_significance(lab: Path) -> None:
    a, b, parent = recorded(trial("a", [1] * 45 + [0] * 15, 0.010), trial("bee", [1] * 15 + [0] * 45, 0.010))
    one, two = make(lab, "one", runs=[a]), make(lab, "two", runs=[b[:12]])
    assert two.runs == (b,)
    found = versions.difference(one, two)
    (measured,) = found.measured
    rows = {row.measure: row for row in measured.rows}
    assert rows["accuracy"].outcome == "worse" and rows["accuracy"].significant and rows["tpot_s"].outcome == "no difference shown"
    said = list(measured.sentences())
    assert any("worse" in s and "interval" in s and names.describe("accuracy").label in s for s in said)
    assert any("Load" in s and "cannot be told" in s for s in said), "what was not tested is said to be that"
    assert found.unmeasured == ()
    assert "has 2 trials" in refusal(make, lab, "three", runs=[parent])


def test_what_was_not_measured_is_said(lab: Path) -> None:
    a, b, _ = recorded(trial("a", [1, 0] * 20, 0.01), trial("b", [1, 0] * 20, 0.01))
    c, _ = recorded(trial("c", [1, 0] * 20, 0.01), experiment="performance")
    one, two, three, four = make(lab, "1", runs=[a]), make(lab, "2"), make(lab, "3", runs=[c]), make(lab, "4", runs=[a])
    assert "Release 2 was not measured" in versions.difference(one, two).unmeasured[0]
    assert any("Quality was not measured for release 3" in s for s in versions.difference(one, three).unmeasured)
    assert "attached to both" in versions.difference(one, four).unmeasured[0]
    assert versions.attach(two, [b]).runs == (b,)
    assert versions.difference(one, versions.numbered(two.number)).measured


def test_evidence_can_be_attached_to_a_release_that_is_there(lab: Path) -> None:
    a, b, _ = recorded(trial("a", [1, 0] * 20, 0.01), trial("b", [1, 0] * 20, 0.01))
    one = make(lab, runs=[a])
    again = versions.create(prompt="support@1", model="markov", engine="scripted", runs=[a, b])
    assert not again.new and again.attached == (b,) and again.release.runs == (a, b)
    assert versions.numbered(one.number).digest == one.digest
    tracking.writer().delete_run(a)
    report = versions.verify(versions.numbered(one.number))
    assert [(d.part, d.serving) for d in report.defects] == [("evidence", False)]


def test_a_trial_that_measured_something_else_is_named(lab: Path) -> None:
    a, b, _ = recorded(trial("a", [1, 0] * 20, 0.01), trial("b", [1, 0] * 20, 0.01))
    tracking.writer().log_param(b, "temperature", "0.9")
    found = versions.difference(make(lab, "1", runs=[a]), make(lab, "2", runs=[b]))
    assert any("measured with temperature 0.9" in line for line in found.measured[0].cautions)


def test_a_difference_names_what_changed_and_only_that(lab: Path) -> None:
    one = of_file(lab, "a.gguf", policy="default")
    same = versions.difference(one, one)
    assert same.same and not (same.prompt or same.settings or same.rules or same.model or same.retrieval)
    text = policies.FOLDER.joinpath("default.yaml").read_text()
    mine = written(lab / "mine.yaml", text.replace("action: redact", "action: block", 1))
    two = make(lab, "Be brief.\nBe kind.", model=gguf(lab / "b.gguf", 1.0, context=256), engine="llama_cpp", policy=mine,
               decoding={"temperature": "0.5"}, engine_settings={"threads": "1"})
    found = versions.difference(one, two)
    assert "+Be kind." in found.prompt and " Be brief." in found.prompt
    assert {(c.name, c.before, c.after) for c in found.settings} == {("temperature", "0", "0.5"), ("threads", "–", "1")}
    assert {c.name for c in found.model} == {"name", "sha256", "context_tokens"}
    assert len(found.rules) == 1 and "action block (was redact)" in found.rules[0]
    back = versions.difference(two, one)
    assert "-Be kind." in back.prompt and "action redact (was block)" in back.rules[0]
    json.dumps(found.as_json())


@pytest.mark.parametrize(("change", "said"), [
    (("version: 1", "version: 7"), "version becomes 7"), (("# The policy that", "# A policy that"), "does the same"),
    (("  - name: secrets", "  - name: keys"), "'secrets' is gone"), (("calls_per_session: 50", "calls_per_session: 5"), "Tool 'calculator' changes"),
])
def test_a_policys_changes_are_sentences(lab: Path, change: tuple[str, str], said: str) -> None:
    text = "# The policy that is tried.\npolicy: mine\nversion: 1\nrules:\n  - name: secrets\n    guard: secrets\n    on: [input]\n    action: redact\n" \
           "tools:\n  calculator:\n    roles: [user]\n    calls_per_session: 50\n"
    one = make(lab, policy=written(lab / "one.yaml", text))
    two = make(lab, policy=written(lab / "two.yaml", text.replace(*change)))
    rules = versions.difference(one, two).rules
    assert any(said in line for line in rules) and all(line.endswith(".") for line in rules), rules


# The command


@pytest.fixture
def run(lab: Path) -> Any:
    return lambda *arguments: CliRunner().invoke(releasing.app, list(arguments), terminal_width=200)


def test_the_command_does_what_its_words_say(run: Any, lab: Path) -> None:
    assert "lab release create" in run("list").stdout and "lab release promote" in run("history").stdout
    prompt, file = written(lab / "support.txt", "Be [brief]."), str(lab / "out.json")
    made = run("create", "--prompt", prompt, "--model", "markov", "--engine", "scripted", "--decoding", "temperature=0.2", "--setting",
               "tpot-s=0.001", "--note", "the [first]", "--json", file)
    assert made.exit_code == 0, made.output
    said = json.loads(Path(file).read_text())
    assert said["new"] and said["release"]["decoding"]["temperature"] == 0.2 and said["release"]["engine_settings"] == {"tpot_s": 0.001}
    written(lab / "support.txt", "Be kind.")
    assert "release 2" in run("create", "--prompt", prompt, "--model", "markov", "--engine", "scripted").stdout
    assert "nothing was made" in run("create", "--prompt", prompt, "--model", "markov", "--engine", "scripted").stdout
    assert run("promote", "1", "--why", "first").exit_code == run("promote", "2", "--why", "second", "--expect", "1").exit_code == 0
    rolled = run("rollback", "--why", "no [good]", "--by", "ben", "--json", file)
    assert "back to release 1 (was 2)" in rolled.stdout and json.loads(Path(file).read_text())["move"]["by"] == "ben"
    listing = run("list", "--json", file).stdout
    assert "production" in listing and "the [first]" in listing
    assert json.loads(Path(file).read_text())["aliases"] == {"production": 1, "candidate": None, "previous": 2}
    assert "Be [brief]." in run("show", "production").stdout
    differs = run("diff", "previous", "production", "--json", file).stdout
    assert "-Be kind." in differs and "+Be [brief]." in differs and "not measured" in differs
    assert json.loads(Path(file).read_text())["settings"]
    history = run("history", "--json", file).stdout
    assert history.index("no [good]") < history.index("second") < history.index("first")
    assert [m["action"] for m in json.loads(Path(file).read_text())["moves"]] == ["promote", "promote", "rollback"]


def test_verify_exits_with_1_and_a_sentence_for_each_defect(run: Any, lab: Path) -> None:
    assert "No alias points" in str(run("verify").exception)
    one = of_file(lab)
    promote(one.number)
    good = run("verify")
    assert good.exit_code == 0 and "whole" in good.stdout
    (lab / "toy.gguf").unlink()
    bad = run("verify", "--json", str(lab / "out.json"))
    assert bad.exit_code == 1 and "vanished" in bad.stdout
    assert json.loads((lab / "out.json").read_text())["reports"][0]["whole"] is False
    assert run("verify", "--all").exit_code == 1
    tracking.writer().delete_registered_model_alias("release", "production")
    gguf(lab / "toy.gguf")
    assert run("verify").exit_code == 1 and run("verify", "--mend").exit_code == 0


def test_a_mistake_in_the_command_is_one_sentence(run: Any, lab: Path) -> None:
    prompt = written(lab / "support.txt", "x")
    for arguments, said in ((("--decoding", "temperature"), "NAME=VALUE"), (("--runs", "nope"), "no trial run"),
                            (("--json", "/no/such/folder/x"), "cannot be written")):
        assert said in str(run("create", "--prompt", prompt, "--model", "markov", "--engine", "scripted", *arguments).exception)
    assert "no release" in str(run("show", "5").exception)
    assert run("promote", "1").exit_code == 2, "a move without a reason is refused"


def test_the_command_belongs_to_lab() -> None:
    assert any(group.name == "release" for group in command.app.registered_groups)


# Over a server, and killed


@pytest.fixture
def served(fresh_store: Path, tmp_path: Path) -> Iterator[str]:
    """An MLflow server on a store of its own."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    database, artifacts = fresh_store / "mlruns" / "mlflow.db", (tmp_path / "served").as_uri()
    log = tmp_path / "server.log"
    with open(log, "w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination",
             artifacts, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"], stdout=out, stderr=out, start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"})
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 120
        while True:
            assert server.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
            try:
                if urllib.request.urlopen(f"{address}/health", timeout=2).status == 200:
                    break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(20)


@pytest.mark.slow
def test_the_same_over_a_server_and_through_its_end(
    served: str, lab: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    local = make(lab, "made on the database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served)
    assert versions.numbered(local.number) == local, "one store, read in two ways"
    one, two = of_file(lab, copy=True), make(lab, "two")
    assert make(lab, "two") == two
    promote(one.number), promote(two.number, expect=one.number)
    versions.propose(local.number, by="ana", why="over REST")
    history, now = versions.history(), versions.current()
    assert registry.aliases("release") == {"production": two.number, "previous": one.number, "candidate": local.number}
    with monkeypatch.context() as local_again:
        local_again.delenv("MLFLOW_TRACKING_URI")
        assert versions.history() == history and versions.current() == now
        # As another machine would move it: nothing is written where the pointers of this one look.
        local_again.setenv("LAB_HOME", os.environ["LAB_HOME"])
        elsewhere = versions.rollback(by="another machine", why="worse", expect=two.number).move
    pointer = versions.Pointer(poll_s=0)
    assert pointer.current() == one and versions.history()[-1] == elsewhere
    (lab / "toy.gguf").unlink()
    ready = versions.load(one)
    assert ready.model_path is not None and files.hashed(ready.model_path) == one.model.sha256, "fetched from the artifact store"
    assert prompts.prompt(f"support@{two.prompt.version}") == two.prompt
    assert versions.verify(two).whole and "no longer" not in str(versions.verify(one).defects)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "refused" in refusal(versions.current) or "reachable" in refusal(versions.current)


@pytest.mark.slow
def test_a_poll_finds_a_move_made_on_another_machine(served: str, lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = make(lab, "one"), make(lab, "two")
    promote(one.number)
    with monkeypatch.context() as remote:
        remote.setenv("MLFLOW_TRACKING_URI", served)
        pointer = versions.Pointer(poll_s=0.05)
        assert pointer.current() == one
        with monkeypatch.context() as other_machine:
            other_machine.delenv("MLFLOW_TRACKING_URI")
            promote(two.number)
        # The thread of the pointer reads the environment too, so the move above may have been seen early; never late.
        end = time.monotonic() + 30
        while pointer.current() != two:
            assert time.monotonic() < end, pointer.trouble
            time.sleep(0.05)
        pointer.close()


KILLED = """
import os, signal, sys, threading, time
from lab.ops import versions
n = 0
while True:
    n += 1
    versions.promote(1 + n % 2, by="child", why=f"move {n}")
    print(n, flush=True)
"""


@pytest.mark.slow
def test_a_mover_that_is_killed_loses_nothing_that_was_acknowledged_and_leaves_a_whole_state(lab: Path, fresh_store: Path) -> None:
    one, two = make(lab, "one"), make(lab, "two")
    promote(one.number)
    rng = np.random.default_rng(0)
    for _ in range(5):
        before = len(versions.history())
        child = subprocess.Popen([sys.executable, "-c", KILLED], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                 env={**os.environ, "LAB_HOME": str(fresh_store)})
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(float(rng.uniform(0, 0.5)))
        child.kill()
        told = [first, *child.stdout.readlines()]
        child.wait()
        if versions.current().production == two.number:  # the next child begins by promoting 2
            promote(one.number)
            before += 1
        assert len(versions.history()) - before >= len([line for line in told if line.strip()])
        pointer = versions.Pointer(poll_s=0)
        pointer.refresh()
        assert pointer.current().number == versions.current().production
        versions.mend()
        assert versions.strayed() == []
        assert sqlite3.connect(store.database() or "").execute("pragma integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
def test_the_default_model_is_verified_down_to_a_token(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make(lab, "Be brief. {{context}}", model=models.DEFAULT, engine="llama_cpp", engine_settings={"threads": 1})
    report = versions.verify(one, deep=True)
    assert report.whole and any("answered" in line for line in report.proven)
    assert release.read(release.written(one), one.number, one.at_ms).digest == one.digest
    assert creating.summary(one).startswith("prompt support@1") and moves.NAME != creating.NAME

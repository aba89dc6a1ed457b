"""People's ratings: nothing is lost or written twice, raters are blind, and what comes out is what went in."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import krippendorff
import pandas as pd
import pytest
from test_tracking import served  # noqa: F401 (a fixture)

from lab.data.labelled import Labelled
from lab.errors import LabError
from lab.ops import feedback, ratings, tracking
from lab.ops.feedback import Feedback
from lab.ops.ratings import Gold
from lab.records import Generation, Message, Request, Trial

ITEMS = 12
ROOT = Path(__file__).parent.parent


def answer(item: str, text: str, error: str | None = None) -> Generation:
    messages = (Message(role="system", content="Be brief."), Message(role="user", content=f"What is {item}?"))
    return Generation(request=Request(id=item, messages=messages), text=text, sent_s=0.0, ended_s=0.25, error=error)


def recorded(**models: list[Generation]) -> list[str]:
    """A run with a trial for each model, written as an experiment's are; the trials' run ids."""
    client = tracking.writer()
    parent = tracking.start_parent(client, "quality", "a run")
    runs = [tracking.write_trial(client, "quality", parent, Trial(name=name, settings={}, generations=tuple(made)))
            for name, made in models.items()]
    tracking.finish(client, parent)
    return runs


def two_models() -> list[str]:
    return recorded(small=[answer(f"q{i}", f"perhaps {i}") for i in range(ITEMS)],
                    large=[answer(f"q{i}", f"surely {i}") for i in range(ITEMS)])


def rate_all(task: str, rater: str, grade, note: str = "") -> list[str]:
    """Rate until nothing is left, with what `grade` says of (key, axis); the keys in the order they were asked."""
    of, keys = ratings.load(task), []
    while (asked := ratings.next_item(of, rater)) is not None:
        ratings.save(of, rater, asked.key, {axis: grade(asked, axis) for axis in asked.axes}, note, 1.5)
        keys.append(asked.key)
    return keys


GOLD = [Gold(item="sky", question="Which colour is the clear sky by day?", answer="Blue.", worse="Green.",
             expected={"correctness": (4, 5)}),
        Gold(item="two", question="What is one and one?", answer="Three.", worse="Nine.", expected={"correctness": (1, 2)})]


def test_every_rater_gets_every_item_once_in_an_order_of_their_own_and_comes_back_where_they_left(fresh_store) -> None:
    task = ratings.create(two_models(), axes=("correctness", "clarity"))
    first = ratings.next_item(task, "Ann")
    assert ratings.next_item(task, " Ann ") == first
    ann, bob = (rate_all(task, rater, lambda asked, axis: 3) for rater in ("Ann", "Bob"))
    assert sorted(ann) == sorted(bob) == sorted(unit.key for unit in ratings.load(task).units)
    assert ann != bob and len(set(ann)) == 2 * ITEMS
    assert [(p.rater, p.done, p.total) for p in ratings.raters(task)] == [("Ann", 2 * ITEMS, 2 * ITEMS), ("Bob", 2 * ITEMS, 2 * ITEMS)]


def test_the_title_that_raters_see_names_no_model(fresh_store) -> None:
    assert ratings.load(ratings.create(two_models(), axes=("correctness",))).title.startswith(f"{2 * ITEMS} answers on 1 axis, ")
    assert ratings.load(ratings.create(two_models(), kind="pairs")).title.startswith(f"{ITEMS} pairs, ")


def test_of_a_plain_prompt_raters_see_the_item_alone_as_control_items_have_it(fresh_store) -> None:
    solved = "Question: Solved?\nAnswer: yes\n\n"
    plain = Generation(request=Request(id="q", prompt=f"{solved}Question: What is ice?\nAnswer:", tags={"solved": str(len(solved))}),
                       text=" water", sent_s=0.0, ended_s=0.25)
    of = ratings.load(ratings.create(recorded(one=[plain]), axes=("correctness",), gold=GOLD))
    assert [[m.content for m in unit.messages] for unit in of.units] == [
        ["What is ice?"], ["Which colour is the clear sky by day?"], ["What is one and one?"]]


def test_what_a_rater_is_asked_names_no_model_run_or_control_item(fresh_store) -> None:
    for kind in ("axes", "pairs"):
        runs = two_models()
        of = ratings.load(ratings.create(runs, kind=kind, gold=GOLD, axes=("correctness",)))
        shown = [ratings.next_item(of, f"rater {i}") for i in range(10)]
        assert {asked.messages[0].content for asked in shown} == {"Be brief."}
        for asked in shown:
            text = json.dumps([asked.key, asked.answers, [m.content for m in asked.messages]])
            assert not any(word in text for word in ("small", "large", "control", *runs, of.id))


def test_a_save_is_stored_as_feedback_of_a_person_on_the_trace_of_the_generation_in_its_run(fresh_store) -> None:
    runs = two_models()
    task = ratings.create(runs, axes=("correctness", "style"))
    asked = ratings.next_item(task, "Ann")
    ratings.save(task, "Ann", asked.key, {"correctness": 4, "style": None}, note="a bit terse", seconds=7.25)
    unit = ratings.load(task).unit(asked.key)
    client = tracking.writer()
    place = client.get_run(unit.sides[0].run_id).info.experiment_id
    traces = client.search_traces(locations=[place], run_id=unit.sides[0].run_id)
    assert len(traces) == ITEMS
    trace = next(t for t in traces if t.info.trace_id == unit.sides[0].trace_id)
    assert trace.info.tags["lab.item"] == unit.item
    assert trace.data.spans[0].outputs == unit.sides[0].answer
    given = {a.name: a for a in trace.info.assessments}
    assert {a.source.source_type for a in given.values()} == {"HUMAN"} and {a.source.source_id for a in given.values()} == {"Ann"}
    assert given["correctness"].feedback.value == 4 and given["correctness"].rationale == "a bit terse"
    assert given["style"].feedback.value is None and given["style"].feedback.error.error_message == "a bit terse"


def test_a_generation_has_one_trace_however_many_tasks_it_is_in(fresh_store) -> None:
    runs = two_models()
    ratings.create(runs)
    ratings.create(runs, kind="pairs")
    client = tracking.writer()
    place = client.get_run(runs[0]).info.experiment_id
    assert len(client.search_traces(locations=[place], max_results=100)) == 2 * ITEMS


def test_saving_again_changes_a_rating_and_undo_takes_the_last_one_back(fresh_store) -> None:
    task = ratings.create(two_models(), axes=("correctness",))
    first = ratings.next_item(task, "Ann").key
    for grade, note in ((None, "unsure"), (2, "now sure"), (5, "")):
        ratings.save(task, "Ann", first, {"correctness": grade}, note)
    table = ratings.export(task)
    assert (list(table["value"]), list(table["note"]), list(table["why"])) == ([5], [""], [""])
    second = ratings.next_item(task, "Ann").key
    ratings.save(task, "Ann", second, {"correctness": 1})
    ratings.save(task, "Bob", second, {"correctness": 3})
    assert ratings.undo(task, "Ann") == second
    assert ratings.next_item(task, "Ann").key == second
    assert [(r.rater, r.done) for r in ratings.raters(task)] == [("Ann", 1), ("Bob", 1)]
    assert ratings.undo(task, "Ann") == first and ratings.undo(task, "Ann") is None
    assert [r.rater for r in ratings.raters(task)] == ["Bob"]


def test_two_tasks_over_the_same_answers_stay_apart(fresh_store) -> None:
    runs = two_models()
    one, other = (ratings.create(runs, axes=("correctness",), seed=seed) for seed in (0, 1))
    rate_all(one, "Ann", lambda asked, axis: 5)
    assert ratings.progress(other, "Ann").done == 0 and ratings.export(other).empty
    rate_all(other, "Ann", lambda asked, axis: 1)
    assert set(ratings.export(one)["value"]) == {5} and set(ratings.export(other)["value"]) == {1}


def test_many_raters_who_save_at_once_lose_nothing_and_write_nothing_twice(fresh_store) -> None:
    task = ratings.create(two_models(), axes=("correctness", "clarity"))
    of = ratings.load(task)
    names, failed = ["Ann", "Bob", "Cem", "Dua"], []

    def work(name: str) -> None:
        try:
            rate_all(task, name, lambda asked, axis: 1 + (int(asked.key) + len(axis) + len(name)) % 5)
        except Exception as error:
            failed.append(error)

    # Ann sits in two windows at once, which both save the same items.
    threads = [threading.Thread(target=work, args=(name,)) for name in (*names, "Ann")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    table = ratings.export(task)
    assert len(table) == len(names) * len(of.units) * 2
    assert not table.duplicated(["unit", "rater", "axis"]).any()
    assert all(row["value"] == 1 + (int(row["unit"]) + len(row["axis"]) + len(row["rater"])) % 5 for _, row in table.iterrows())


CHILD = """
import sys
from lab.ops import ratings
task, rater = sys.argv[1:]
of = ratings.load(task)
while (asked := ratings.next_item(of, rater)) is not None:
    ratings.save(of, rater, asked.key, {axis: 1 + (int(asked.key) + len(axis)) % 5 for axis in asked.axes})
"""


def test_two_processes_that_save_at_once_lose_nothing(fresh_store) -> None:
    task = ratings.create(two_models(), axes=("correctness", "clarity"))
    environment = {**os.environ, "LAB_HOME": str(fresh_store)}
    working = [subprocess.Popen([sys.executable, "-c", CHILD, task, rater], cwd=ROOT, env=environment) for rater in ("Ann", "Bob")]
    assert [child.wait(120) for child in working] == [0, 0]
    table = ratings.export(task)
    assert len(table) == 2 * 2 * ITEMS * 2
    assert (table["value"] == [1 + (int(u) + len(a)) % 5 for u, a in zip(table["unit"], table["axis"], strict=True)]).all()


def test_a_locked_store_is_waited_for_and_the_rating_is_there_afterwards(fresh_store) -> None:
    import sqlite3

    from lab.ops import store

    task = ratings.create(two_models(), axes=("correctness",))
    held = sqlite3.connect(store.database(), timeout=5, check_same_thread=False)
    held.execute("begin immediate")
    release = threading.Timer(1.0, held.rollback)
    release.start()
    key = ratings.next_item(task, "Ann").key
    ratings.save(task, "Ann", key, {"correctness": 4})
    release.join()
    held.close()
    assert ratings.progress(task, "Ann").done == 1


def test_a_write_that_sqlite_refuses_at_once_is_tried_again_and_any_other_failure_is_not(tmp_path) -> None:
    import sqlite3

    one, other = (sqlite3.connect(tmp_path / "x.db", timeout=5, isolation_level=None) for _ in range(2))
    one.execute("pragma journal_mode = wal")
    one.execute("create table t (x)")
    tries = []

    def write() -> None:
        tries.append(len(tries))
        try:
            one.execute("begin")
            one.execute("select * from t").fetchall()
            if len(tries) < 3:  # somebody else commits between our reading and our writing
                other.execute("insert into t values (0)")
            one.execute("insert into t values (1)")
            one.execute("commit")
        except sqlite3.OperationalError:
            one.execute("rollback")
            raise

    feedback.retried(write)
    assert len(tries) == 3 and one.execute("select count(*) from t where x = 1").fetchone() == (1,)
    with pytest.raises(ZeroDivisionError):
        feedback.retried(lambda: tries.append(1 // 0))
    assert len(tries) == 3


def test_what_is_no_rating_is_refused_and_nothing_of_it_is_stored(fresh_store) -> None:
    runs = two_models()
    task, pairs = ratings.create(runs, axes=("correctness", "clarity")), ratings.create(runs, kind="pairs")
    key = ratings.next_item(task, "Ann").key
    for call in (
        lambda: ratings.save(task, "Ann", key, {"correctness": 3}),
        lambda: ratings.save(task, "Ann", key, {"correctness": 3, "clarity": 6}),
        lambda: ratings.save(task, "Ann", key, {"correctness": 3, "clarity": 2.5}),
        lambda: ratings.save(task, "Ann", key, {"correctness": 3, "clarity": "good"}),
        lambda: ratings.save(task, "Ann", "9999", {"correctness": 3, "clarity": 3}),
        lambda: ratings.save(task, "  ", key, {"correctness": 3, "clarity": 3}),
        lambda: ratings.save(pairs, "Ann", ratings.next_item(pairs, "Ann").key, {"preference": "left"}),
        lambda: ratings.load("no such task"),
        lambda: ratings.create([]),
        lambda: ratings.create(["no such run"]),
        lambda: ratings.create(runs[:1], kind="pairs"),
        lambda: ratings.create(runs, axes=("beauty",)),
        lambda: ratings.create(runs, items=["no such item"]),
        lambda: ratings.export(task, "ratings.xlsx"),
    ):
        with pytest.raises(LabError):
            call()
    assert ratings.export(task).empty and len(ratings.tasks()) == 2


def test_failed_generations_are_left_out_and_empty_answers_are_rated(fresh_store) -> None:
    task = ratings.create(recorded(one=[answer("a", ""), answer("b", "", error="the server is gone"), answer("c", "yes")]))
    of = ratings.load(task)
    assert sorted(unit.item for unit in of.units) == ["a", "c"] and of.left_out == 1
    with pytest.raises(LabError, match="failed"):
        ratings.create(recorded(two=[answer("a", "", error="gone")]))


def test_the_same_text_on_both_sides_is_a_tie_that_nobody_is_asked(fresh_store) -> None:
    runs = recorded(one=[answer("a", "yes"), answer("b", "no"), answer("c", "so")],
                    two=[answer("a", "yes "), answer("b", "maybe"), answer("d", "x")])
    task = ratings.create(runs, kind="pairs")
    of = ratings.load(task)
    assert [unit.item for unit in of.units] == ["b"] and of.identical == (("a", "one", "two"),)
    rate_all(task, "Ann", lambda asked, axis: "A")
    assert {r.name: (r.wins, r.games) for r in ratings.rankings(task)}.keys() == {"one", "two"}
    assert sorted(r.games for r in ratings.rankings(task)) == [2, 2]


def test_sides_are_shuffled_by_rater_and_item_and_the_winner_is_found_wherever_it_stood(fresh_store) -> None:
    task = ratings.create(two_models(), kind="pairs")
    where = []

    def prefers_large(asked, axis):
        where.append("AB"[asked.answers.index(next(a for a in asked.answers if "surely" in a))])
        return where[-1]

    for rater in ("Ann", "Bob"):
        rate_all(task, rater, prefers_large)
    assert set(where) == {"A", "B"}
    assert [r.name for r in ratings.rankings(task)] == ["large", "small"]
    assert ratings.rankings(task)[0].wins == 2 * ITEMS
    [large, small] = sorted({s.by for s in ratings.scores(task)}), ratings.load(task).units[0].sides
    assert large == ["person:Ann", "person:Bob"]
    for side in small:
        mine = ratings.scores(task, side.run_id)
        assert {s.value for s in mine} == {1.0 if side.model == "large" else 0.0}
        assert {s.item for s in mine} == {f"q{i}" for i in range(ITEMS)}


def test_the_summary_says_what_the_packages_say_of_the_exported_table_and_counts_controls_apart(fresh_store, tmp_path) -> None:
    task = ratings.create(two_models(), axes=("correctness", "clarity"), gold=GOLD)
    shift = {"Ann": 0, "Bob": 1, "Cem": 2}
    for rater, by in shift.items():
        rate_all(task, rater, lambda asked, axis, by=by: None if axis == "clarity" and int(asked.key) % 5 == 4 else
                 1 + (int(asked.key) + (by if int(asked.key) % 3 == 0 else 0)) % 5)
    ratings.export(task, tmp_path / "r.csv")
    ratings.export(task, tmp_path / "r.parquet")
    table = pd.read_csv(tmp_path / "r.csv")
    assert len(pd.read_parquet(tmp_path / "r.parquet")) == len(table) == 3 * (2 * ITEMS + 2) * 2
    found = ratings.summary(task)
    for shared in found.shared:
        kept = table[(table["axis"] == shared.axis) & ~table["control"]]
        wide = kept.pivot(index="rater", columns="unit", values="value")
        assert shared.alpha.value == pytest.approx(krippendorff.alpha(reliability_data=wide.to_numpy(), level_of_measurement="ordinal"))
        assert shared.alpha.low < shared.alpha.value < shared.alpha.high
    assert {r.name: r.control_grades for r in found.raters} == {"Ann": 2, "Bob": 2, "Cem": 2}
    spreads = [d.spread for d in found.disagreements]
    assert spreads == sorted(spreads, reverse=True) and spreads[0] >= 2
    assert all("control" not in d.item for d in found.disagreements)
    assert {m.items for m in found.means if m.axis == "correctness"} == {ITEMS}
    told = table[table["axis"] == "clarity"]["value"].isna()
    assert told.any() and set(table[table["axis"] == "clarity"][told]["why"]) == {"cannot tell"}
    assert {s.value for s in ratings.scores(task) if s.scored} <= {0, 0.25, 0.5, 0.75, 1}


def test_a_careful_and_a_careless_rater_are_told_apart_by_the_control_items(fresh_store) -> None:
    for kind in ("axes", "pairs"):
        task = ratings.create(two_models(), axes=("correctness",), kind=kind, gold=GOLD)

        def careful(asked, axis, kind=kind):
            text = " ".join(asked.answers)
            if kind == "pairs":
                return "AB"[0 if asked.answers[0] in ("Blue.", "Three.") else 1]
            return 1 if "Three" in text else 5

        rate_all(task, "careful", careful)
        rate_all(task, "careless", lambda asked, axis, right=careful: {"A": "B", "B": "A", 1: 4, 5: 2}[right(asked, axis)])
        assert [(r.name, r.controls.value) for r in ratings.summary(task).raters] == [("careful", 1.0), ("careless", 0.0)]
        assert [c.right for c in ratings.controls(task, "careless")] == [False, False]
        assert all(c.said != c.expected for c in ratings.controls(task, "careless"))


def test_control_items_come_half_from_right_and_half_from_wrong_answers(fresh_store) -> None:
    known = [Labelled(item=f"{label}-{i}", question=f"question {i}", answer=f"{label} {i}", label=label)
             for i in range(6) for label in (0.0, 1.0)]
    gold = ratings.gold_from(known, 4)
    assert sorted(one.expected["correctness"] for one in gold) == [(1, 2), (1, 2), (4, 5), (4, 5)]
    pairs = ratings.gold_from(known, 4, kind="pairs")
    assert len(pairs) == 4 and all(one.answer.startswith("1") and one.worse.startswith("0") for one in pairs)
    wrong = Labelled(item="w", question="Who?", answer="Nobody", references=("Ann",), label=0)
    assert [(one.answer, one.worse) for one in ratings.gold_from([wrong], 3, kind="pairs")] == [("Ann", "Nobody")]
    assert ratings.gold_from([], 3) == [] and ratings.gold_from(known[:1], 3, kind="pairs") == []


def test_a_judge_on_the_same_traces_stands_beside_the_people(fresh_store) -> None:
    task = ratings.create(two_models(), axes=("correctness",))
    for rater in ("Ann", "Bob"):
        rate_all(task, rater, lambda asked, axis: 1 + int(asked.key) % 5)
    units = ratings.load(task).units

    def judge(name: str, value) -> None:
        feedback.give([Feedback(trace_id=u.sides[0].trace_id, name="correctness", value=value(u), by=name, kind="judge")
                       for u in units])

    judge("perfect", lambda u: (int(u.key) % 5) / 4)
    judge("constant", lambda u: 1.0)
    judge("grades", lambda u: 1 + int(u.key) % 5)
    found = {j.judge: j for j in ratings.summary(task).judged}
    assert found["perfect"].exact.observed.value == found["grades"].exact.observed.value == 1
    assert found["perfect"].exact.above_constant == "yes" and found["perfect"].alpha.value == pytest.approx(1)
    assert found["constant"].exact.above_constant != "yes" and found["constant"].exact.kappa.value == 0
    assert len(ratings.export(task)) == 2 * 2 * ITEMS


def test_without_any_rating_a_summary_is_empty_and_says_why(fresh_store) -> None:
    task = ratings.create(two_models(), axes=("correctness",))
    found = ratings.summary(task)
    assert found.raters == () and math.isnan(found.shared[0].alpha.value) and found.shared[0].why
    pairs = ratings.summary(ratings.create(two_models(), kind="pairs"))
    assert pairs.ranking == () and "Nobody" in pairs.ranking_why


def test_a_server_is_rated_on_as_a_database_is_and_both_read_the_same(served, monkeypatch) -> None:  # noqa: F811
    local, server = served
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    runs = two_models()
    task = ratings.create(runs, axes=("correctness", "clarity"), gold=GOLD)
    first = ratings.next_item(task, "Ann").key
    ratings.save(task, "Ann", first, {"correctness": None, "clarity": 2}, "at first")
    assert ratings.undo(task, "Ann") == first
    rate_all(task, "Ann", lambda asked, axis: None if axis == "clarity" else 1 + int(asked.key) % 5, "as seen")
    ratings.save(task, "Ann", first, {"correctness": 3, "clarity": 3})
    of, table = ratings.load(task), ratings.export(task)
    assert [progress.done for progress in ratings.raters(of)] == [2 * ITEMS + 2] and ratings.with_generations(runs) == runs
    assert table.set_index(["unit", "axis"]).loc[(first, "clarity"), "value"] == 3
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local)
    pd.testing.assert_frame_equal(ratings.export(of), table)


@pytest.mark.parametrize("rater", ["=HYPERLINK(1)", "+1", "@x", "-x"])
def test_a_name_that_a_spreadsheet_would_compute_is_refused(rater: str) -> None:
    with pytest.raises(LabError, match="formula"):
        ratings.rating.named(rater)

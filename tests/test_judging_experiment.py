"""The experiment `judging`: judges with known faults are told apart, nothing is claimed without its base rate."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pandas as pd
import pytest

from lab import data
from lab.experiments import make
from lab.experiments.judging import ENOUGH, GUESS, SETS, Judging
from lab.ops import artifacts
from lab.records import Decoding, Generation, Request, Trial

SCRIPTS = ("scripted:perfect", "scripted:first", "scripted:longer", "scripted:random", "scripted:nonsense")


def write(path: Path, count: int = 320, axis: str = "correctness") -> str:
    rows = [{"item": f"i{i}", "question": f"q{i // 2}?", "answer": f"a{i} " + "word " * (i * 7 % 23), "label": (i + i // 2) % 2,
             "axis": axis} for i in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def frame(trials: list[Trial]) -> pd.DataFrame:
    rows = []
    for i, trial in enumerate(trials):
        row = {"name": trial.name, "run_id": str(i), "tags.lab.flags": ""}
        row |= {f"params.{k}": v for k, v in trial.settings.items()}
        row |= {f"metrics.{k}": getattr(v, "value", v) for k, v in trial.measures.items()}
        row |= {f"tags.lab.note.{k}": v for k, v in trial.notes.items()}
        rows.append(row)
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Judging, list[Trial]]:
    experiment = Judging(judges=SCRIPTS, sets=(write(tmp_path_factory.mktemp("set") / "people.jsonl"),))
    experiment.check()
    return experiment, list(experiment.run())


def test_the_constant_guess_stands_beside_every_judge(measured: tuple[Judging, list[Trial]]) -> None:
    experiment, trials = measured
    assert [t.settings["judge"] for t in trials] == [GUESS, *SCRIPTS] and len(trials) == experiment.size()
    assert all("constant_guess_share" in t.measures for t in trials)


def test_perfect_constant_and_position_biased_judges_are_told_apart_on_300_items(measured: tuple[Judging, list[Trial]]) -> None:
    by_judge = {str(t.settings["judge"]): t for t in measured[1]}
    perfect, constant, first = (by_judge[f"scripted:{kind}"] for kind in ("perfect", "constant", "first"))
    assert [t.measures["labelled_items"] for t in (perfect, constant, first)] == [ENOUGH] * 3
    kappas = [t.measures["judge_kappa"] for t in (perfect, first, constant)]
    assert kappas[0].value == 1 and kappas[0].low > kappas[1].high > kappas[1].low > kappas[2].high  # type: ignore[union-attr]
    flips = [t.measures["position_flip_share"].value for t in (perfect, first, constant)]  # type: ignore[union-attr]
    assert flips == [0, 1, 0]
    assert [t.notes["standing"] for t in (perfect, first, constant)] == [
        "trusted", "better than a constant guess", "no better than a constant guess"]
    assert first.notes["pair_standing"] == "no better than a constant guess"


def test_a_score_never_comes_without_what_it_is_worth(measured: tuple[Judging, list[Trial]]) -> None:
    for trial in measured[1]:
        assert trial.notes["trust"].endswith(".") and trial.notes["standing"]
        assert {score.by for score in trial.scores} == {"people", trial.settings["judge"]}


def test_the_verdict_names_who_may_be_trusted_for_what(measured: tuple[Judging, list[Trial]]) -> None:
    experiment, trials = measured
    verdict = experiment.verdict(frame(trials))
    assert verdict.chosen == trials[1].name
    assert "scripted:perfect (agrees with people on all 300 answers) is to be trusted" in verdict.decision and "no better than a constant guess" in verdict.decision
    assert sum("constant guess has" in line for line in verdict.why) >= len(SCRIPTS) - 1
    assert verdict.why[0].startswith("Kappa on") and all(name in verdict.why[0] for name in (GUESS, *SCRIPTS))


def test_a_verdict_fits_its_tag_however_many_judges_there_are(measured: tuple[Judging, list[Trial]]) -> None:
    experiment, trials = measured
    many = [dataclasses.replace(trial, settings={**trial.settings, "judge": f"model-{i}", "set": f"set-{i % 4}"})
            for i in range(6) for trial in trials]
    verdict = experiment.verdict(frame(many))
    assert len(json.dumps(verdict.why)) < 4000 and "more sentences" in verdict.why[-1]


def test_without_fetched_sets_the_shipped_one_is_used_and_that_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path))
    experiment = Judging(judges=("scripted:perfect",))
    assert experiment.all_sets() == ["verdicts"]
    trials = list(experiment.run())
    assert "lab data fetch" in trials[0].notes["caveat"] and "fewer than the 300" in trials[0].notes["caveat"]
    assert experiment.verdict(frame(trials)).caveats


def test_fetched_sets_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    known = data.catalogue()
    if not all(known[name].fetched for name in SETS):
        pytest.skip("the sets are not fetched here")
    assert Judging().all_sets() == list(SETS)


@pytest.mark.parametrize(("values", "said"), [
    ({"judges": ""}, "at least one judge"), ({"items": "1"}, "at least 2"), ({"temperature": "3"}, "between 0 and 2"),
    ({"by": "dice"}, "one of")])
def test_a_value_that_cannot_be_is_one_sentence(values: dict[str, str], said: str) -> None:
    with pytest.raises(Exception, match=said):
        make(Judging, values)


def test_a_judge_a_set_or_an_axis_that_is_none_is_refused_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    good = write(tmp_path / "good.jsonl", 8)
    for experiment, said in [
        (Judging(judges=("scripted:nobody",), sets=(good,)), "no scripted judge"),
        (Judging(judges=("anthropic:claude",), sets=(good,)), "ANTHROPIC_API_KEY"),
        (Judging(judges=("scripted:perfect",), sets=("everyday",)), "no judged answers"),
        (Judging(judges=("scripted:perfect",), sets=(write(tmp_path / "odd.jsonl", 8, "beauty"),)), "no axis 'beauty'")]:
        with pytest.raises(Exception, match=said) as refusal:
            experiment.check()
        assert str(refusal.value).endswith(".")


def test_the_demo_is_short() -> None:
    demo = Judging.demo()
    assert demo.sets == ("verdicts",) and demo.items <= 60


def test_a_schema_survives_the_record(tmp_path: Path) -> None:
    generation = Generation(request=Request(prompt="x", decoding=Decoding(json_schema='{"type": "object"}')), sent_s=0, ended_s=1)
    artifacts.write_generations(tmp_path / "g.parquet", [generation])
    assert artifacts.read_generations(tmp_path / "g.parquet") == [generation]


def test_free_judgements_cost_nothing_that_was_measured(measured: tuple[Judging, list[Trial]]) -> None:
    assert all("judgement_s" not in t.measures or math.isnan(t.measures["judgement_s"]) for t in measured[1])  # type: ignore[arg-type]


def test_a_file_with_columns_of_its_own_is_read_by_their_names(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i // 2}?", "reply": f"a{i}", "verdict": i % 2} for i in range(40)]
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    mapped = Judging(judges=("scripted:perfect",), sets=(str(file),), column_names="question=prompt,answer=reply,label=verdict")
    mapped.check()
    assert [trial.measures["labelled_items"] for trial in mapped.run()] == [40, 40]
    with pytest.raises(Exception, match=r"question=prompt,answer=reply,label=verdict \(--column-names of lab run judging\)"):
        Judging(sets=(str(file),)).check()
    with pytest.raises(Exception, match="files of your own"):
        Judging(judges=("scripted:perfect",), sets=("verdicts",), column_names="question=prompt").check()


def test_the_verdict_tells_judges_of_one_standing_apart_in_words(measured: tuple[Judging, list[Trial]]) -> None:
    experiment, trials = measured
    decision = experiment.verdict(frame(trials)).decision
    assert f"{GUESS} (constant: gives everything the same grade" in decision
    assert "scripted:first (first: turns with the order in 100% of pairs)" in decision
    assert "scripted:perfect (agrees with people on all 300 answers)" in decision


def test_unreadable_pairs_have_a_column(measured: tuple[Judging, list[Trial]]) -> None:
    by_judge = {str(t.settings["judge"]): t for t in measured[1]}
    assert by_judge["scripted:nonsense"].measures["pair_unscored_share"].value == 1  # type: ignore[union-attr]
    assert by_judge["scripted:perfect"].measures["pair_unscored_share"].value == 0  # type: ignore[union-attr]
    assert {"pair_unscored_share", "pair_decided_share"} <= set(Judging.columns)

"""A configuration qualifies only when its whole interval does; one is recommended, and a release takes what was measured."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sample_store
from conftest import copied
from hypothesis import given
from hypothesis import strategies as some
from mlflow import MlflowClient

from lab import models
from lab.errors import LabError
from lab.ops import changes, compare, configurations, cost, decide, health, history, requests, tracking, versions
from lab.ops.configurations import Configuration, Figure
from lab.ops.decide import Constraint
from lab.ops.versions import files, measured
from lab.records import Decoding, Estimate, Generation, Message, Request, Trial


def one(name: str, **figures: tuple[float, float, float] | float) -> Configuration:
    made = {k: Figure(value=v, trial=name) if isinstance(v, float) else Figure(value=v[0], low=v[1], high=v[2], trial=name)
            for k, v in figures.items()}
    return Configuration(id=name, name=name, parent="p", trials=(name,), figures=made)


def outcomes(decision: decide.Decision) -> dict[str, str]:
    return {standing.configuration.name: standing.outcome for standing in decision.standings}


FAST = Constraint(measure="decode_tokens_per_s", kind="least", limit=20.0)
GOOD = Constraint(measure="accuracy", kind="loss", limit=0.01)


def test_an_interval_that_crosses_the_limit_may_not_qualify_and_what_is_missing_never_does() -> None:
    found = [one("sure", decode_tokens_per_s=(30.0, 25.0, 35.0)), one("open", decode_tokens_per_s=(21.0, 19.0, 23.0)),
             one("slow", decode_tokens_per_s=(15.0, 14.0, 16.0)), one("unknown", accuracy=(0.5, 0.4, 0.6))]
    made = decide.decide(found, [FAST], prefer="decode_tokens_per_s")
    assert outcomes(made) == {"sure": "qualifies", "open": "may not qualify", "slow": "does not qualify",
                              "unknown": "not measured"}
    assert made.recommended is found[0]
    assert "sure" in made.why
    assert "30" in made.why


@given(value=some.floats(1, 100), half=some.floats(0, 20), limit=some.floats(1, 100), more=some.floats(0, 50))
def test_a_stricter_limit_never_lets_more_through(value: float, half: float, limit: float, more: float) -> None:
    found = [one("a", decode_tokens_per_s=(value, value - half, value + half))]
    loose, strict = (decide.decide(found, [Constraint(measure="decode_tokens_per_s", kind="least", limit=at)],
                                   prefer="decode_tokens_per_s").standings[0].outcome for at in (limit, limit + more))
    assert decide.ORDER.index(strict) >= decide.ORDER.index(loose)


def test_of_those_that_qualify_the_best_is_recommended_in_the_better_direction_and_a_tie_is_said() -> None:
    found = [one("a", ttft_s=(0.3, 0.2, 0.4)), one("b", ttft_s=(0.25, 0.15, 0.35)), one("c", ttft_s=(0.9, 0.8, 1.0))]
    made = decide.decide(found, [], prefer="ttft_s")
    assert made.recommended is found[1]
    assert "overlaps that of a" in made.why


def test_nobody_is_recommended_when_nobody_qualifies_and_the_nearest_is_named_with_its_reason() -> None:
    made = decide.decide([one("a", decode_tokens_per_s=(21.0, 19.0, 23.0)), one("b", accuracy=0.5)], [FAST],
                         prefer="decode_tokens_per_s")
    assert made.recommended is None
    assert made.why.startswith("None is sure to qualify. a may: decode 21")
    made = decide.decide([one("b", accuracy=0.5)], [FAST], prefer="accuracy")
    assert "was not measured" in made.why


def test_one_that_lacks_what_is_preferred_is_not_recommended() -> None:
    made = decide.decide([one("a", accuracy=0.5)], [], prefer="ttft_s")
    assert made.recommended is None
    assert "was not measured" in made.why


def test_a_loss_is_counted_from_the_baseline_and_a_paired_test_narrows_it() -> None:
    found = [one("base", accuracy=(0.5, 0.45, 0.55)), one("new", accuracy=(0.499, 0.449, 0.549))]
    made = decide.decide(found, [GOOD], prefer="accuracy", baseline="base")
    assert outcomes(made) == {"base": "qualifies", "new": "may not qualify"}
    row = compare.Row(measure="accuracy", baseline=0.5, other=0.499, difference=-0.001, low=-0.003, high=0.001, items=300)
    made = decide.decide(found, [GOOD], prefer="accuracy", baseline="base", tested={"new": [row]})
    assert outcomes(made)["new"] == "qualifies"
    check = made.standings[1].checks[0]
    assert (check.value, check.low, check.high) == pytest.approx((0.002, -0.002, 0.006))


def test_without_a_baseline_a_loss_is_not_measured() -> None:
    made = decide.decide([one("new", accuracy=0.4)], [GOOD], prefer="accuracy")
    assert outcomes(made) == {"new": "not measured"}


@given(measure=some.sampled_from(["ttft_s", "accuracy"]), kind=some.sampled_from(decide.KINDS), limit=some.floats(-1e6, 1e6))
def test_a_constraint_comes_back_from_its_address(measure: str, kind: decide.Kind, limit: float) -> None:
    again = decide.parse(Constraint(measure=measure, kind=kind, limit=limit).code)
    assert (again.measure, again.kind) == (measure, kind)
    assert again.limit == pytest.approx(limit, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("code", ["", "ttft_s", "ttft_s:least", "ttft_s:about:3", "ttft_s:least:nan", ":least:3"])
def test_what_is_no_constraint_is_refused_in_a_sentence(code: str) -> None:
    with pytest.raises(LabError, match="is no constraint; write"):
        decide.parse(code)


# Trials of several experiments


def trials(*rows: dict[str, object]) -> pd.DataFrame:
    usual = {"params.engine": "llama_cpp", "params.model": "smollm2-135m"}
    return pd.DataFrame([{"run_id": f"t{i}", "parent_id": row["experiment"], "name": f"n{i}", **usual, **row}
                         for i, row in enumerate(rows)])


def test_what_two_experiments_measured_of_one_configuration_comes_together() -> None:
    found = configurations.gathered(trials(
        {"experiment": "performance", "metrics.decode_tokens_per_s": 40.0},
        {"experiment": "hallucination", "metrics.hallucinated": 0.2, "params.rung": "as it is"}))
    assert len(found) == 1
    assert (found[0].value("decode_tokens_per_s"), found[0].value("hallucinated")) == (40.0, 0.2)
    assert found[0].trials == ("t0", "t1")
    assert found[0].figures["hallucinated"].experiment == "hallucination"


@pytest.mark.parametrize("other", [{"params.model": "gemma-3-270m"}, {"params.rung": "Q4_0"}, {"params.policy": "strict"},
                                   {"params.threads": 2.0}])
def test_a_figure_is_never_lent_to_another_configuration(other: dict[str, object]) -> None:
    found = configurations.gathered(trials(
        {"experiment": "performance", "metrics.decode_tokens_per_s": 40.0},
        {"experiment": "hallucination", "metrics.hallucinated": 0.2, **other}))
    assert [set(one.figures) for one in found] == [{"decode_tokens_per_s"}, {"hallucinated"}]


def test_trials_of_one_run_are_never_taken_for_one_configuration() -> None:
    found = configurations.gathered(trials({"experiment": "performance", "metrics.ttft_s": 0.1},
                                           {"experiment": "performance", "metrics.ttft_s": 0.2},
                                           {"experiment": "hallucination", "metrics.hallucinated": 0.2}))
    assert len(found) == 3


def test_a_price_by_the_hour_follows_the_rate_and_an_unknown_model_costs_nothing_that_is_known() -> None:
    book = cost.PriceBook(name="x", version=1, prices={"smollm2-135m": cost.Price(
        model="smollm2-135m", machine="m", usd_per_hour=3.6)})
    rows = configurations.priced(trials(
        {"experiment": "a", "metrics.decode_tokens_per_s": 100.0, "metrics.decode_tokens_per_s_low": 50.0,
         "metrics.decode_tokens_per_s_high": 200.0},
        {"experiment": "a", "metrics.decode_tokens_per_s": 100.0, "params.model": "other"}), book)
    assert rows["metrics.usd_per_million_tokens"][0] == pytest.approx(10.0)
    assert rows["metrics.usd_per_million_tokens_low"][0] == pytest.approx(5.0)
    assert math.isnan(rows["metrics.usd_per_million_tokens"][1])


# From a trial to a release


@pytest.fixture
def home(migrated: Path, tmp_path: Path) -> Iterator[Path]:
    with sample_store.at(copied(migrated, tmp_path / "home")) as folder:
        yield folder


def written(generations: tuple[Generation, ...] = (), **settings: str | float) -> pd.DataFrame:
    client = tracking.writer()
    run = tracking.start_parent(client, "quality", "quality now")
    tracking.write_trial(client, "quality", run, Trial(name="t", settings=settings, generations=generations,
                                                       measures={"quality": Estimate(value=0.5, low=0.4, high=0.6)}))
    tracking.finish(client, run)
    return history.frame(parents=[run])


def test_a_release_takes_model_prompt_and_decoding_from_its_trial_and_keeps_it_as_evidence(home: Path) -> None:
    request = Request(messages=(Message(role="system", content="Be brief."), Message(role="user", content="Hi")),
                      decoding=Decoding(temperature=0.5, max_tokens=32, ignore_eos=True))
    answer = Generation(request=request, text="x", tokens=(1,), tokens_at_s=(0.1,), sent_s=0.0, ended_s=0.2)
    frame = written((answer,), engine="scripted", model="markov")
    parts = measured.parts(frame)
    assert (parts.model, parts.engine, parts.prompt, parts.missing) == ("markov", "scripted", "Be brief.", ())
    assert (parts.decoding.temperature, parts.decoding.ignore_eos) == (0.5, False)
    assert any("fixed length" in line for line in parts.cautions)
    made = measured.create(parts, prompt=parts.prompt, name="from-trial", note="best", by="ana").release
    assert made.runs == tuple(frame["run_id"])
    assert made.decoding.max_tokens == 32
    versions.propose(made.number, by="ana", why="recommended")
    assert versions.find("candidate").number == made.number


def test_what_a_trial_does_not_say_is_named_and_no_release_is_made(home: Path) -> None:
    parts = measured.parts(written(threads=1))
    assert [line.split(":")[0] for line in parts.missing] == ["The engine", "The model file"]
    with pytest.raises(LabError, match="No release can be made of this. The engine"):
        measured.create(parts, prompt="Be brief.", name="x", note="", by="ana")
    assert versions.listed()[0] == []


def test_a_context_made_for_a_benchmark_is_not_released_and_an_answer_that_cannot_fit_is_refused(home: Path) -> None:
    parts = measured.parts(written(engine="llama_cpp", model="smollm2-135m", context_tokens=512, threads=1))
    assert dict(parts.engine_settings) == {"threads": 1}
    assert any("context tokens 512, made for the benchmark" in line for line in parts.cautions)
    room = measured.room_of(parts)
    assert 0 < room <= 4096
    with pytest.raises(LabError, match="leaves no room for a prompt"):
        measured.create(parts, prompt="Be brief.", name="x", note="", by="ana", max_tokens=room)
    made = measured.create(parts, prompt="Be brief.", name="x", note="", by="ana", max_tokens=512).release
    assert made.decoding.max_tokens == 512 and "context_tokens" not in made.engine_settings


def test_a_rung_of_the_ladder_is_registered_under_its_models_title(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "cache"))
    rung = tmp_path / "cache" / "ladder" / "0123" / "F16-0.0.1.gguf"
    rung.parent.mkdir(parents=True)
    shutil.copyfile(models.find(models.DEFAULT).path, rung)
    plain = files.register_model(models.DEFAULT, engine="llama_cpp", copy=False)
    assert plain.name == models.DEFAULT
    named = files.register_model(str(rung), engine="llama_cpp", copy=False).name
    assert named.endswith("-F16-0.0.1") and named.startswith(str(plain.facts["title"]).split()[0])


def test_a_rung_whose_file_is_gone_or_changed_is_not_released(home: Path) -> None:
    parts = measured.parts(written(engine="llama_cpp", model="smollm2-135m", rung="Q7_9"))
    assert "Q7_9 of smollm2-135m is not here any more; make it again with `lab run quantization" in parts.missing[0]


# What changed since the run before


def repeated(client: MlflowClient, tpot_s: float, drawn: int, **params: str) -> str:
    run = tracking.start_parent(client, "performance", f"performance {drawn}")
    for name, value in {"model": "smollm2-135m", "seed": "0", **params}.items():
        client.log_param(run, name, value)
    answers = sample_store.generations(np.random.default_rng(drawn), ttft_s=0.3, tpot_s=tpot_s, prompt=64, output=24,
                                      repeats=10)
    tracking.write_trial(client, "performance", run, Trial(
        name="128 prompt tokens", settings={"threads": 1}, generations=answers))
    tracking.finish(client, run)
    return run


def test_a_run_that_repeats_an_earlier_one_says_what_got_worse_and_another_configuration_is_no_repetition(home: Path) -> None:
    client = tracking.writer()
    first = repeated(client, 0.01, 1)
    repeated(client, 0.01, 2, model="gemma-3-270m")
    repeated(client, 0.01, 4, seed="1")
    newest = repeated(client, 0.013, 3)
    runs = history.frame("experiment")
    assert changes.pairs(runs) == [(newest, first)]
    told = changes.changes(runs, history.frame(parents=[first, newest]), [(newest, first)], {})[0]
    assert {"tpot_s", "decode_tokens_per_s"} <= set(told.measures("worse"))
    assert told.measures("better") == []


def test_the_health_of_an_empty_store_names_what_to_do(home: Path) -> None:
    told = {part.name: part for part in health.parts()}
    assert set(told) == {"Store", "Disk", "Engines", "Production", "Alerts"}
    assert (told["Production"].said, told["Alerts"].said) == ("no release", "no request yet")
    assert "lab gateway" in told["Alerts"].remedy
    requests.folder().mkdir(parents=True)
    told = {part.name: part for part in health.parts()}
    assert told["Alerts"].said.endswith("never looked") and told["Alerts"].state == "note"

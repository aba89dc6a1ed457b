"""What every experiment promises, and the decisions they take, checked on drawn frames."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import experiments, plots
from lab.errors import LabError
from lab.experiments import Experiment, make, parse, shown
from lab.experiments.performance import FACTORS, Performance
from lab.experiments.quantization import Quantization
from lab.names import describe
from lab.records import Verdict

NAMES = experiments.names()
SCRIPTED: dict[str, dict[str, Any]] = {
    "performance": {"engine": "scripted", "models": ("one", "two"), "prompt_tokens": (8, 4), "output_tokens": (3, 2), "threads": (1, 2),
                    "depth_tokens": (0, 16), "repeats": 2, "warmup": 0},
}
"""Small settings for the experiments that run without a model."""


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_a_frozen_config_whose_docstring_asks_a_question(name: str) -> None:
    cls = experiments.find(name)
    assert experiments.question_of(cls).endswith("?")
    assert experiments.name_of(cls) == experiments.name_of(cls()) == name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cls(), dataclasses.fields(cls)[0].name, None)
    with pytest.raises(TypeError):
        cls(None)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", NAMES)
def test_every_field_has_a_help_text_and_reads_back_as_it_is_shown(name: str) -> None:
    cls = experiments.find(name)
    hints = typing.get_type_hints(cls)
    for config in (cls(), cls.demo()):
        for field in dataclasses.fields(cls):
            assert len(field.metadata.get("help", "")) > 5, field.name
            value = getattr(config, field.name)
            assert parse(hints[field.name], shown(value), field.name) == value
        assert make(cls, {f.name: shown(getattr(config, f.name)) for f in dataclasses.fields(cls)}) == config


@pytest.mark.parametrize("name", NAMES)
def test_columns_and_charts_name_measures_that_can_be_described(name: str) -> None:
    cls = experiments.find(name)
    assert cls.columns and cls.charts
    for column in cls.columns:
        assert describe(column).label
    for chart in cls.charts:
        assert {c.split(".")[0] for c in (chart.x, chart.y)} <= {"params", "metrics"}


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_field_is_answered_with_the_known_ones(name: str) -> None:
    cls = experiments.find(name)
    with pytest.raises(LabError, match=f"no field 'wheels'; its fields are {dataclasses.fields(cls)[0].name}"):
        make(cls, {"wheels": "4"})


def test_an_unknown_experiment_is_answered_with_the_known_ones() -> None:
    with pytest.raises(LabError, match=f"no experiment 'nothing'; .*{NAMES[0]}"):
        experiments.find("nothing")


@pytest.fixture(scope="module", params=SCRIPTED)
def ran(request: pytest.FixtureRequest, module_store: Path) -> Iterator[tuple[Experiment, pd.DataFrame]]:
    from lab.ops import history, tracking

    config = experiments.find(request.param)(**SCRIPTED[request.param])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_HOME", str(module_store))
        done = tracking.record(config)
        yield config, history.frame(parents=[done.run_id]).iloc[::-1].reset_index(drop=True)


def test_the_size_is_the_number_of_trials(ran: tuple[Experiment, pd.DataFrame]) -> None:
    config, trials = ran
    assert config.size() == len(trials)


def test_the_frame_has_what_the_table_and_the_charts_show(ran: tuple[Experiment, pd.DataFrame]) -> None:
    config, trials = ran
    for chart in config.charts:
        wanted = [chart.x, chart.y, *filter(None, (chart.series, chart.label, chart.where and chart.where[0]))]
        assert [c for c in wanted if c not in trials] == [], chart.title
        if chart.where:
            assert trials[chart.where[0]].astype(str).eq(chart.where[1]).any(), chart.title
    # Nothing real is measured of the scripted engine: it has no weights, no memory, no CPU time, and says so.
    unmeasured = {"bandwidth_share", "load_s", "peak_memory_bytes", "cpu_s_per_token"}
    assert not [c for c in unmeasured if f"metrics.{c}" in trials]
    assert trials["tags.lab.note.caveat"].eq(experiments.SCRIPTED).all()
    assert [c for c in config.columns if c not in unmeasured and trials[f"metrics.{c}"].isna().any()] == []
    assert len(plots.figures(type(config), trials)) == len(config.charts)


def test_the_verdict_names_a_trial_of_the_run(ran: tuple[Experiment, pd.DataFrame]) -> None:
    config, trials = ran
    found = config.verdict(trials)
    assert found.chosen in set(trials["name"]) and found.chosen in found.decision and found.decision.endswith(".")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Deciding(Experiment):
    """Does it decide?"""

    engine: str | tuple[str, ...] = "llama_cpp"
    candidate_engine: str | None = None

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        return Verdict(decision="Yes.", caveats=("Own.", *trials.get("caveat", ())))


@pytest.mark.parametrize("given", [{"engine": "scripted"}, {"engine": ("llama_cpp", "scripted@4")}, {"candidate_engine": "scripted"}])
def test_every_verdict_on_a_scripted_engine_says_once_that_it_is_none_on_a_model(given: dict[str, Any]) -> None:
    told = experiments.decided(_Deciding(**given), pd.DataFrame({"caveat": [experiments.SCRIPTED]}))
    assert sorted(told.caveats) == sorted(("Own.", experiments.SCRIPTED))
    assert experiments.decided(_Deciding(), pd.DataFrame()).caveats == ("Own.",)
    trials = pd.DataFrame({"params.engine": ["llama_cpp", "scripted"]})  # a release names the engine, not the config
    assert experiments.SCRIPTED in experiments.decided(_Deciding(), trials).caveats


def test_one_factor_is_varied_at_a_time() -> None:
    config = Performance(**SCRIPTED["performance"])
    base = {f: getattr(config, "models" if f == "model" else f)[0] for f in FACTORS}
    for point in config.points():
        assert [f for f in FACTORS if point[f] != base[f]] in ([], [point["factor"]])
    assert Performance(engine="scripted", prompt_tokens=(8,), output_tokens=(3,), threads=(1,), depth_tokens=(0,)).size() == 1


@pytest.mark.parametrize(("cls", "fields"), [
    (Performance, {"prompt_tokens": ()}), (Performance, {"prompt_tokens": (0,)}), (Performance, {"output_tokens": (1,)}),
    (Performance, {"threads": (-1,)}), (Performance, {"repeats": 0}), (Performance, {"warmup": -1}),
    (Quantization, {"rungs": ("F32",)}), (Quantization, {"rungs": ("F32", "F32")}), (Quantization, {"rungs": ()}),
    (Quantization, {"threads": -1}), (Quantization, {"chunks": 0}), (Quantization, {"chunk_tokens": 8}), (Quantization, {"items": -1}),
    (Quantization, {"repeats": 0}), (Quantization, {"output_tokens": 1}), (Quantization, {"imatrix_chunks": -1}),
])
def test_settings_that_cannot_be_measured_are_refused_at_the_door(cls: type[Experiment], fields: dict[str, Any]) -> None:
    with pytest.raises(LabError, match=r"--|threads") as refused:
        cls(**fields)
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize(("kind", "text", "said"), [
    (int, "x", "--a-field takes a whole number, not 'x'."), (int, "1.5", "--a-field takes a whole number, not '1.5'."),
    (float, "much", "--a-field takes a number, not 'much'."), (float, "nan", "--a-field takes a number, not 'nan'."),
    (bool, "maybe", "--a-field takes true or false, not 'maybe'."), (tuple[int, ...], "1,x", "--a-field takes a whole number, not 'x'."),
    (float | None, "x", "--a-field takes a number, not 'x'."), (typing.Literal["on", "off"], "of", "--a-field takes one of on, off, not 'of'."),
])
def test_a_value_of_the_wrong_kind_is_named_with_its_flag(kind: Any, text: str, said: str) -> None:
    with pytest.raises(LabError) as refused:
        parse(kind, text, "a_field")
    assert str(refused.value) == said


# The quantization verdict

number = st.floats(1, 1000)


@st.composite
def ladders(draw: st.DrawFn) -> pd.DataFrame:
    rows = []
    for i in range(draw(st.integers(2, 6))):
        increase, decode = draw(st.floats(-0.05, 0.5)), draw(number)
        rows.append({
            "name": f"rung {i}", "metrics.file_bytes": draw(number) * 1e6, "metrics.peak_memory_bytes": draw(number) * 1e6,
            "metrics.decode_tokens_per_s": decode, "metrics.decode_tokens_per_s_low": decode * 0.95, "metrics.decode_tokens_per_s_high": decode * 1.05,
            "metrics.perplexity": 10 * (1 + increase), "metrics.perplexity_increase_share": increase,
            "metrics.perplexity_increase_share_low": increase - 0.01,
            "metrics.perplexity_increase_share_high": math.nan if i == 0 else increase + 0.01,
            "tags.lab.flags": draw(st.sampled_from(["", "machine busy"])), "tags.lab.note.caveat": "made of Q4_1"})
    return pd.DataFrame(rows)


limits = st.fixed_dictionaries({
    "max_perplexity_increase": st.floats(0, 0.5), "max_memory_mb": st.none() | number, "min_decode_tps": st.none() | number})


def fits(row: pd.Series[Any], limit: dict[str, Any]) -> bool:
    """The law, said apart: the whole interval within the limit, and every measure a constraint asks for measured."""
    high = row["metrics.perplexity_increase_share_high"]
    worst = row["metrics.perplexity_increase_share"] if math.isnan(high) else high
    memory, tps = limit["max_memory_mb"], limit["min_decode_tps"]
    return bool(worst <= limit["max_perplexity_increase"] and (memory is None or row["metrics.peak_memory_bytes"] <= memory * 1e6)
                and (tps is None or row["metrics.decode_tokens_per_s"] >= tps))


@given(ladders(), limits)
@settings(deadline=None)
def test_the_verdict_is_the_fastest_rung_that_meets_every_limit_or_none(trials: pd.DataFrame, limit: dict[str, Any]) -> None:
    found = Quantization(**limit).verdict(trials)
    fit = trials[[fits(row, limit) for _, row in trials.iterrows()]]
    assert "made of Q4_1" in found.caveats
    assert len([line for line in found.why if "does not qualify" in line]) == len(trials) - len(fit)
    if fit.empty:
        assert found.chosen is None and found.decision.startswith("No rung qualifies")
        return
    assert found.chosen in set(fit["name"]) and found.chosen in found.decision
    chosen, best = fit[fit["name"] == found.chosen].iloc[0], fit["metrics.decode_tokens_per_s"].max()
    assert chosen["metrics.decode_tokens_per_s_high"] >= best * 0.95
    ties = fit[fit["metrics.decode_tokens_per_s_high"] >= best * 0.95]
    assert chosen["metrics.file_bytes"] == ties["metrics.file_bytes"].min()


@given(ladders(), limits)
@settings(deadline=None, max_examples=40)
def test_a_tighter_limit_never_lets_a_rung_in(trials: pd.DataFrame, limit: dict[str, Any]) -> None:
    def out(limit: dict[str, Any]) -> set[str]:
        return {line.split(" does not")[0] for line in Quantization(**limit).verdict(trials).why if "does not qualify" in line}

    tighter = {**limit, "max_perplexity_increase": limit["max_perplexity_increase"] / 2, "max_memory_mb": (limit["max_memory_mb"] or 1000) / 2}
    assert out(limit) <= out(tighter)


@pytest.mark.parametrize("measure", ["perplexity_increase_share", "peak_memory_bytes", "decode_tokens_per_s"])
def test_a_rung_whose_limited_measure_is_missing_does_not_qualify(measure: str) -> None:
    row = {"name": "whole", "metrics.file_bytes": 1e6, "metrics.peak_memory_bytes": 1e6, "metrics.decode_tokens_per_s": 10.0,
           "metrics.perplexity": 10.0, "metrics.perplexity_increase_share": 0.0}
    trials = pd.DataFrame([row, {**row, "name": "gap", f"metrics.{measure}": math.nan}])
    found = Quantization(max_memory_mb=10, min_decode_tps=1).verdict(trials)
    assert found.chosen == "whole" and any(line.startswith("gap does not qualify") for line in found.why)
    assert Quantization(max_memory_mb=10, min_decode_tps=1).verdict(trials.tail(1)).chosen is None


def test_an_unknown_rung_is_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path))
    with pytest.raises(LabError, match="no quantization type 'Q9_X'"):
        next(Quantization(rungs=("Q8_0", "Q9_X")).run())
    assert list(tmp_path.rglob("*.gguf")) == []


@pytest.mark.parametrize("fields", [{"flash_attention": "maybe"}, {"kv_type": "f99"}, {"prompt_tokens": 999_999}])
def test_a_setting_the_engine_refuses_is_said_before_the_ladder_is_made(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path))
    with pytest.raises(LabError):
        next(Quantization(rungs=("Q8_0", "Q4_0"), **fields).run())
    assert list(tmp_path.rglob("*.gguf")) == []

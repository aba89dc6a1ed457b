"""Speculation and prompt caching measured on servers: in turn, compared by text, and only what a server shows is said."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lab import engines
from lab.engines import Engine
from lab.errors import LabError
from lab.experiments import _prompt_cache_http, _speculative_http
from lab.experiments._observed import counters, differing, worst
from lab.experiments._speculative_arms import Arm
from lab.experiments.prompt_cache import PromptCache
from lab.experiments.speculative import Speculative
from lab.load.services import OverHttp
from lab.records import Estimate, Generation, Request, Trial, Usage

# The scripted chain comes round after some 150 tokens, and only from then on there is something to look up.
TASKS: dict[str, Any] = {"kinds": ("code",), "items": 2, "repeats": 2, "output_tokens": 220, "context_tokens": 4096}
PREFIXES: dict[str, Any] = {"workloads": ("system",), "prefix_tokens": (1200,), "reuse_rates": (1.0,), "requests": 3, "repeats": 2,
                            "output_tokens": 3}


def scripted(**settings: Any) -> Engine:
    return engines.open_engine("server", "scripted", engine="scripted", **settings)


def value(trial: Trial, name: str) -> float:
    found = trial.measures[name]
    return found.value if isinstance(found, Estimate) else found


def row(trial: Trial) -> dict[str, Any]:
    """What the store's frame has of a trial: no column for what is NaN."""
    found: dict[str, Any] = {"name": trial.name, **{f"params.{k}": v for k, v in trial.settings.items()}}
    for name, measured in trial.measures.items():
        parts = {"": measured} if not isinstance(measured, Estimate) else {
            "": measured.value, "_low": measured.low, "_high": measured.high}
        found |= {f"metrics.{name}{end}": number for end, number in parts.items() if not math.isnan(number)}
    return found


# Speculation


def drafting(opened: list[Arm | None]) -> _speculative_http.Opener:
    """Scripted servers in place of models; `opened` hears of each."""
    def opener(arm: Arm | None, closing: contextlib.ExitStack) -> tuple[Engine, OverHttp]:
        opened.append(arm)
        engine = scripted(step_ms=2.0, max_running=2, prefix_cache=False, context_tokens=4096,
                          **({"draft": arm.drafter, "draft_tokens": arm.tokens} if arm else {}))
        closing.callback(engine.close)
        return engine, OverHttp(endpoint=engine.endpoint)  # type: ignore[attr-defined]

    return opener


@pytest.fixture(scope="module")
def speculated() -> tuple[Speculative, list[Trial], list[Arm | None]]:
    config = Speculative(engine="server", drafters=("prompt_lookup", "session_ngram", "self_draft"), draft_tokens=(4,),
                         adaptive=False, batch=(2,), **TASKS)
    opened: list[Arm | None] = []
    return config, list(_speculative_http.trials(config, drafting(opened))), opened


def test_every_drafter_that_the_server_has_is_one_trial_per_kind(speculated: Any) -> None:
    config, trials, _ = speculated
    assert len(trials) == config.size() == 2
    assert [t.settings["arm"] for t in trials] == ["prompt_lookup, 4", "session_ngram, 4"]
    for trial in trials:
        assert len(trial.generations) == 2 * 2
        assert value(trial, "differing_sequences") == value(trial, "failed_requests") == 0
        assert value(trial, "plain_decode_tokens_per_s") > 0 and trial.notes["stamp_source"] in ("kernel", "user")
        assert not {"predicted_speedup", "break_even_acceptance_rate", "verify_cost"} & set(trial.measures)


def test_drafts_are_counted_by_the_server_and_only_those_of_the_requests_measured(speculated: Any) -> None:
    _, trials, _ = speculated
    lookup = trials[0]
    drafted, accepted = value(lookup, "drafted_tokens"), value(lookup, "accepted_tokens")
    assert accepted <= drafted
    assert value(lookup, "acceptance_rate") == accepted / drafted
    assert value(lookup, "tokens_per_target_step") > 1
    saved = sum(len(g.tokens_at_s) - len(set(g.tokens_at_s)) for g in lookup.generations)
    assert 0 < accepted <= saved  # an accepted token comes with another one
    assert value(lookup, "speedup") > 1  # every step takes the same time, and a draft saves some


def test_a_drafter_with_a_memory_meets_every_round_without_it(speculated: Any) -> None:
    _, trials, opened = speculated
    assert [str(arm or "plain") for arm in opened] == ["plain", "prompt_lookup, 4", "session_ngram, 4", "session_ngram, 4"]
    first, second = ([g.text for g in trials[1].generations if g.request.id.startswith("code")][i : i + 2] for i in (0, 2))
    assert first == second


def test_the_verdict_names_what_was_left_out_and_misses_no_column(speculated: Any) -> None:
    config, trials, _ = speculated
    frame = pd.DataFrame([row(t) for t in trials])
    verdict = config.verdict(frame)
    assert any("left out: self_draft, 4" in line for line in verdict.caveats)
    assert not any("plain ones, so it" in line or "cost model" in line for line in verdict.why)
    unknown = frame.drop(columns=["metrics.acceptance_rate", "metrics.drafted_tokens"]).assign(**{"metrics.speedup_low": 1.5})
    assert config.verdict(unknown).chosen in set(frame["name"])
    idle = frame.drop(columns="metrics.acceptance_rate").assign(**{"metrics.speedup_low": 1.5, "metrics.drafted_tokens": 0.0})
    assert config.verdict(idle).chosen is None


def test_a_url_is_compared_with_the_url_of_the_same_model_without_speculation() -> None:
    plain, other = (scripted(step_ms=1.0, context_tokens=4096, **more) for more in ({}, {"draft": "prompt_lookup"}))
    try:
        urls = [e.endpoint.url for e in (other, plain)]  # type: ignore[attr-defined]
        config = Speculative(engine=urls[0], plain_url=urls[1], batch=(1,), **{**TASKS, "items": 1, "repeats": 1})
        config.check()
        trials = list(config.run())
        assert [t.settings["arm"] for t in trials] == ["as configured"] and config.size() == 1
        assert value(trials[0], "drafted_tokens") > 0 and value(trials[0], "differing_sequences") == 0
        assert any("as it was started" in line for line in config.verdict(pd.DataFrame([row(t) for t in trials])).caveats)
        with pytest.raises(LabError, match="do not fit the context"):
            next(replace(config, output_tokens=4000).run())
    finally:
        other.close()
        plain.close()
    with pytest.raises(LabError, match="cannot be reached"):
        next(config.run())


@pytest.mark.parametrize(("given", "said"), [
    ({"engine": "http://127.0.0.1:9"}, "--plain-url"), ({"plain_url": "http://127.0.0.1:9"}, "--plain-url"),
    ({"engine": "vllm", "drafters": ("session_ngram",)}, "vLLM drafts with prompt_lookup"),
    ({"engine": "vllm", "draft_tokens": ()}, "vLLM drafts with prompt_lookup"),
    ({"engine": "server", "drafters": ("self_draft",)}, "lab serve drafts with"),
])
def test_an_engine_that_drafts_nothing_of_what_is_asked_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(LabError, match=said):
        Speculative(**given)


def test_vllm_keeps_the_fixed_lengths_and_lab_serve_the_draft_model_too() -> None:
    assert [str(arm) for arm in Speculative(engine="vllm", draft_tokens=(3, 7)).arms()] == ["prompt_lookup, 3", "prompt_lookup, 7"]
    served = Speculative(engine="server", drafters=("draft_model",), draft="smollm2-135m", draft_tokens=(3,))
    assert [str(arm) for arm in served.arms()] == ["draft_model, 3", "draft_model, adaptive"]
    assert served.size() == len(served.arms()) * len(served.kinds) * len(served.batch)


def test_sampling_on_vllm_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    monkeypatch.delenv("LAB_VLLM_PYTHON", raising=False)
    with pytest.raises(LabError, match="55005"):
        _speculative_http.refuse_machine(Speculative(engine="vllm", temperature=(0.0, 0.7)))
    for refuse in (lambda: _speculative_http.refuse_machine(Speculative(engine="vllm")),
                   lambda: _prompt_cache_http.refuse_machine(PromptCache(engine="vllm"))):
        with pytest.raises(LabError, match="lab engines install vllm"):
            refuse()


@pytest.mark.parametrize("config", [Speculative(engine="scripted"), PromptCache(engine="scripted")])
def test_an_engine_that_is_no_server_is_refused(config: Any) -> None:
    with pytest.raises(LabError, match="does not run on the engine 'scripted'"):
        config.check()


# Prompt cache


def caching(tier: str, closing: contextlib.ExitStack) -> tuple[Engine, OverHttp]:
    engine = scripted(step_ms=10.0, max_running=1, prefix_cache=tier == "server", context_tokens=16_384)
    closing.callback(engine.close)
    return engine, OverHttp(endpoint=engine.endpoint)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def cached() -> tuple[PromptCache, list[Trial]]:
    config = PromptCache(engine="server", **PREFIXES)
    return config, list(_prompt_cache_http.trials(config, caching))


def test_every_round_starts_cold_and_the_server_says_what_it_reused(cached: Any) -> None:
    config, (none, kept) = cached
    assert config.size() == 2 and [t.settings["tier"] for t in (none, kept)] == ["none", "server"]
    assert "waiting_saved_share" not in none.measures
    reused = [g.usage.cached_tokens for g in kept.generations]
    assert [r >= 1200 for r in reused] == [False, True, True] * 2
    assert reused[0] == reused[3] == 0
    assert value(kept, "warm_requests") == 4 and value(kept, "differing_outputs") == 0
    assert [g.request.tokens for g in none.generations] == [g.request.tokens for g in kept.generations]
    assert value(kept, "warm_to_cold_share") < 1 and value(kept, "waiting_saved_share") > 0
    assert value(kept, "prompt_reused_share") == sum(reused) / sum(g.usage.prompt_tokens for g in kept.generations)


def test_the_verdict_of_a_server_speaks_of_its_cache_and_of_no_capacity(cached: Any) -> None:
    config, trials = cached
    frame = pd.DataFrame([row(t) for t in trials])
    verdict = config.verdict(frame)
    assert verdict.chosen == "system 1200, 100% shared, server" and verdict.decision.startswith("Leave the server's cache on.")
    assert any("0 of 6 answers had another text" in line for line in verdict.why)
    bare = frame[[c for c in frame if not c.startswith("metrics.")]]
    assert config.verdict(bare).decision.startswith("Nothing to decide")
    lost = frame.assign(**{"metrics.waiting_saved_share": -0.1, "metrics.waiting_saved_share_low": -0.2,
                           "metrics.prompt_reused_share": 0.0})
    assert config.verdict(lost).chosen is None
    assert any("Nothing was reused" in line for line in config.verdict(lost).caveats)


def test_a_url_has_cold_requests_in_those_with_a_new_prefix_also_when_it_is_measured_again() -> None:
    engine, _ = caching("server", closing := contextlib.ExitStack())
    try:
        config = PromptCache(engine=engine.endpoint.url, **{**PREFIXES, "repeats": 1})  # type: ignore[attr-defined]
        config.check()
        for _ in range(2):
            [trial] = config.run()
            assert [bool(g.usage.cached_tokens) for g in trial.generations] == [False, True, True]
            assert value(trial, "warm_first_token_s") < value(trial, "cold_first_token_s")
            assert "differing_outputs" not in trial.measures and "cold" in trial.notes
        said = config.verdict(pd.DataFrame([row(trial)]))
        assert not any("answers had" in line for line in said.why) and any("new" in line for line in said.caveats)
        with pytest.raises(LabError, match="do not fit the context"):
            next(replace(config, output_tokens=16_000).run())
    finally:
        closing.close()


def test_one_factor_less_is_varied_where_nobody_can_choose_a_capacity() -> None:
    for grid in (False, True):
        config = PromptCache(engine="vllm", prefix_tokens=(8, 4), reuse_rates=(0.5, 1.0), capacities_mb=(1.0, 2.0), grid=grid)
        assert {p.factor for p in config.points()} == {"prefix_tokens", "reuse_rate", *(["grid"] if grid else [])}
        assert {p.tier for p in config.points()} == {"none", "server"} and {p.capacity_mb for p in config.points()} == {0.0}
        assert config.size() == 2 * 2 * (5 if grid else 4)
    assert {p.tier for p in PromptCache(engine="http://127.0.0.1:9").points()} == {"server"}


class Bytes:
    """Text as its own tokens, or no tokens at all."""

    def __init__(self, *, shows: bool) -> None:
        self._shows = shows

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        if not self._shows:
            raise LabError("no tokens")
        return list(text.encode())


@pytest.mark.parametrize("shows", [True, False])
@pytest.mark.parametrize("workload", ["system", "few_shot"])
def test_no_two_prefixes_begin_alike_but_those_that_are_shared(shows: bool, workload: str) -> None:
    config = PromptCache(engine="http://127.0.0.1:9", reuse_rates=(0.5,), workloads=(workload,), prefix_tokens=(64,), requests=12)
    point, words = config.points()[0], _prompt_cache_http.Words(Bytes(shows=shows))  # type: ignore[arg-type]
    size = 64 if shows else 256
    rounds = [_prompt_cache_http.requests_of(config, point, words, "run", turn) for turn in (0, 1)]
    starts: list[list[str]] = []
    for made in rounds:
        prompts = [bytes(r.tokens).decode() if r.tokens else r.prompt or "" for r in made]
        starts.append([p[:size] for p in prompts])
        for i, request in enumerate(made):
            assert request.tags["prefix"] == ("seen" if starts[-1][i] in starts[-1][:i] else "new")
        assert {r.tags["prefix"] for r in made} == {"seen", "new"}
    assert not set(starts[0]) & set(starts[1])
    alone = {*starts[0], *starts[1]}
    assert len({p[:10] for p in alone}) == len(alone)
    again = _prompt_cache_http.requests_of(config, point, words, "run", 0)
    assert again == rounds[0] and _prompt_cache_http.requests_of(config, point, words, "other", 0) != rounds[0]


# What servers say


def answer(cached_tokens: int | None, text: str = "", ttft_s: float = 1.0) -> Generation:
    return Generation(request=Request(prompt="x"), text=text, sent_s=0.0, tokens_at_s=(ttft_s,), ended_s=2.0,
                      usage=Usage(prompt_tokens=10, cached_tokens=cached_tokens))


def served_once(*cached_tokens: int | None, hits: float | None = None) -> Any:
    from lab import machine
    from lab.engines.vllm_parts.counters import parse
    from lab.load.services import Served

    page = "vllm:generation_tokens_total 1\n" + ("" if hits is None else
                                                 f"vllm:prefix_cache_queries_total 40\nvllm:prefix_cache_hits_total {hits}\n")
    with machine.Watch() as watch:
        pass
    return _prompt_cache_http.Pass(seen=Served(generations=tuple(map(answer, cached_tokens)), seconds=1.0),
                                   watched=watch.result, counted=parse(page))


def test_reuse_is_what_requests_say_else_what_counters_say_and_never_guessed() -> None:
    reused, share = _prompt_cache_http.reused_tokens, _prompt_cache_http._share
    said = [served_once(None, 8)]  # vLLM says it only of requests that reused something
    assert (reused(said) == [0, 8]).all()  # type: ignore[union-attr]
    assert share(said, reused(said)) == 0.4
    none = [served_once(None, None, hits=0)]
    assert (reused(none) == 0).all() and share(none, reused(none)) == 0  # type: ignore[union-attr]
    some = [served_once(None, None, hits=10)]
    assert reused(some) is None and share(some, None) == 0.25
    silent = [served_once(None, None)]
    assert reused(silent) is None and math.isnan(share(silent, None))


def test_without_a_cold_arm_the_saving_is_against_the_mean_of_cold_requests() -> None:
    import numpy as np

    made = [answer(0, ttft_s=t) for t in (4.0, 1.0, 1.0, 4.0)]
    found = _prompt_cache_http.saved(made, None, np.array([False, True, True, False]))
    share = found["waiting_saved_share"]
    assert isinstance(share, Estimate) and share.value == pytest.approx(1 - 10 / 16) and share.low <= share.value <= share.high
    cold = [answer(0, ttft_s=t) for t in (4.0, 4.0, 4.0, 4.0)]
    paired = _prompt_cache_http.saved(made, cold, np.array([False, True, True, False]))
    assert paired["waiting_saved_share"].value == pytest.approx(1 - 10 / 16)  # type: ignore[union-attr]
    assert paired["warm_to_cold_share"].value == 0.25  # type: ignore[union-attr]
    lost = _prompt_cache_http.saved(made, None, np.array([False] * 4))
    assert math.isnan(lost["warm_first_token_s"].value) and math.isnan(lost["waiting_saved_share"].low)  # type: ignore[union-attr]


def test_counters_are_read_beside_the_api_and_unknown_where_there_are_none() -> None:
    with contextlib.closing(scripted()) as engine:
        found = counters(engine)
        assert found is not None and found.drafted_tokens == 0
    assert counters(engine) is None


def test_the_worst_of_several_audits_and_answers_that_part() -> None:
    assert worst([{"a": 1.0, "b": math.nan}, {"a": 0.5, "b": 2.0}]) == {"a": 1.0, "b": 2.0}
    assert differing([(answer(0, "abc"), answer(0, "abd")), (answer(0, "x"), answer(0, "x"))]) == [("0", 2)]


# Real servers


@pytest.fixture
def installed() -> None:
    from lab.engines.vllm_parts import install

    install.install(print)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["server", "vllm"])
def test_prompt_lookup_is_measured_on_a_real_server(engine: str, request: pytest.FixtureRequest) -> None:
    if engine == "vllm":
        request.getfixturevalue("installed")
    config = Speculative(engine=engine, drafters=("prompt_lookup",), draft_tokens=(4,), adaptive=False, kinds=("copy_editing",),
                         items=2, repeats=2, output_tokens=48, batch=(1,), context_tokens=1024, threads=min(2, os.cpu_count() or 1))
    config.check()
    [trial] = config.run()
    report(config, [trial])
    assert value(trial, "speedup") > 0 and value(trial, "failed_requests") == 0
    assert 0 < value(trial, "accepted_tokens") <= value(trial, "drafted_tokens")
    assert 1 <= value(trial, "tokens_per_target_step") <= 5


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["server", "vllm"])
def test_a_real_server_reuses_a_shared_prefix(engine: str, request: pytest.FixtureRequest) -> None:
    if engine == "vllm":
        request.getfixturevalue("installed")
    config = PromptCache(engine=engine, workloads=("system",), prefix_tokens=(512,), reuse_rates=(0.8,), requests=5, repeats=2,
                         output_tokens=4, threads=min(2, os.cpu_count() or 1))
    config.check()
    none, kept = config.run()
    report(config, [none, kept])
    assert value(kept, "prompt_reused_share") > 0.3 and value(kept, "warm_to_cold_share") < 1
    assert value(none, "failed_requests") == value(kept, "failed_requests") == 0


def report(config: Any, trials: list[Trial]) -> None:
    for trial in trials:
        print(trial.name, {k: v for k, v in trial.measures.items() if k in (*config.columns, "drafted_tokens", "accepted_tokens",
                                                                           "warm_requests")}, trial.notes, trial.flags)
    print(config.verdict(pd.DataFrame([row(t) for t in trials])))

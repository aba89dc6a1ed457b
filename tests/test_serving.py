"""The serving experiment: capacity before rates, limits before recommendations, and a server that dies is one sentence."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pandas as pd
import psutil
import pytest
from ground_truth.adversary import adversary

from lab import engines
from lab.errors import LabError
from lab.experiments.batching import Batching
from lab.experiments.serving import Serving
from lab.ops import history, tracking
from lab.records import Trial

SHORT: dict[str, Any] = {"model": "scripted", "requests": 6, "max_running": 3, "prompt_tokens": 16, "output_tokens": 12,
                         "shares": (0.5,)}


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    opened = engines.open_engine("server", "scripted", engine="scripted", step_ms=2.0, max_running=3)
    yield opened
    opened.close()


def test_every_engine_is_measured_closed_first_and_then_at_rates_of_its_own_capacity() -> None:
    closed, at_rate = Serving(engine=("scripted",), **SHORT).run()
    assert (closed.settings["loop"], at_rate.settings["loop"]) == ("closed", "open")
    assert at_rate.settings["rate"] == pytest.approx(0.5 * closed.measures["requests_per_s"], rel=1e-3)  # type: ignore[operator]
    assert at_rate.measures["offered_requests_per_s"] == pytest.approx(at_rate.settings["rate"], rel=1e-3)


def test_closed_loops_of_several_sizes_come_before_the_rates() -> None:
    experiment = Serving(engine=("scripted",), users=(3, 1), **SHORT)
    trials = list(experiment.run())
    assert [(t.settings["loop"], t.settings["load"]) for t in trials[:2]] == [("closed", 1), ("closed", 3)]
    assert len(trials) == experiment.size() == 3


def test_a_price_of_the_machine_becomes_a_cost_and_none_stays_unknown() -> None:
    free = next(Serving(engine=("scripted",), **SHORT).run())
    priced = next(Serving(engine=("scripted",), machine_usd_per_hour=3.6, **SHORT).run())
    assert "cost_per_million_tokens_usd" not in free.measures
    cost, rate = priced.measures["cost_per_million_tokens_usd"], priced.measures["output_tokens_per_s"]
    assert cost == pytest.approx(1000 / rate, rel=1e-6)  # type: ignore[operator]


def test_a_url_is_measured_over_http_with_the_audit_of_the_capture(server: Any) -> None:
    closed, at_rate = Serving(engine=(server.endpoint.url,), **SHORT).run()
    for trial in (closed, at_rate):
        assert trial.measures["failed_requests"] == 0
        assert trial.measures["requests_per_s"] > 0  # type: ignore[operator]
        assert trial.notes["stamp_source"] in ("kernel", "user")
    assert at_rate.measures["send_lag_p99_s"] >= 0  # type: ignore[operator]


def test_a_server_that_only_chats_is_asked_in_messages_and_the_trial_says_so() -> None:
    with adversary() as chatting:
        chatting.chat_only, chatting.every = True, "good"
        closed, _ = Serving(engine=(f"http://127.0.0.1:{chatting.port}/v1",), **SHORT).run()
    assert closed.measures["failed_requests"] == 0 and closed.measures["output_tokens_per_s"] > 0  # type: ignore[operator]
    assert any("chat template" in flag for flag in closed.flags)


def test_batching_over_http_counts_failures_by_kind() -> None:
    with adversary() as failing:
        failing.every = "good"
        url = f"http://127.0.0.1:{failing.port}/v1"
        trials = Batching(engine=url, requests=4, repeats=1, concurrency=(2,), prompt_tokens=8, output_tokens=6).run()
        next(trials)
        failing.every = "429"
        point = next(trials)
        assert point.measures["failed_requests"] == 4 and point.notes["failures"] == "4 http_429"


def test_batching_over_http_leaves_out_what_only_this_process_has(server: Any) -> None:
    trials = list(Batching(engine=server.endpoint.url, requests=4, repeats=1, concurrency=(2,), prompt_tokens=8,
                           output_tokens=6).run())
    assert [t.settings["policy"] for t in trials] == ["sequential", "continuous"]
    assert all(t.measures["differing_sequences"] == 0 for t in trials)
    assert all("occupancy_share" not in t.measures for t in trials)


def test_a_server_that_is_killed_in_the_middle_leaves_a_marked_run_and_one_sentence(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = {child.pid for child in psutil.Process().children()}
    opened: Any = engines.open_engine("server", "scripted", engine="scripted", step_ms=20.0, max_running=3)
    mine = [child for child in psutil.Process().children() if child.pid not in before]

    def kill() -> None:
        time.sleep(0.3)
        for child in mine:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)

    def kill_soon(_: Trial) -> None:
        threading.Thread(target=kill).start()

    try:
        with pytest.raises(LabError, match="stopped answering during"):
            tracking.record(Serving(engine=(opened.endpoint.url,), rates=(6.0,), **{**SHORT, "requests": 12}), on_trial=kill_soon)
    finally:
        opened.close()
    parent = history.frame("experiment", experiment="serving").iloc[0]
    assert parent["state"] == "failed"
    trials = history.frame(parents=[parent["run_id"]])
    assert len(trials) == 2
    assert trials["metrics.failed_requests"].max() > 0


def test_an_interruption_keeps_what_the_load_had_seen(server: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    slow = Serving(engine=(server.endpoint.url,), **{**SHORT, "requests": 200, "output_tokens": 60})
    interrupt = threading.Timer(2.5, os.kill, (os.getpid(), signal.SIGINT))
    done = tracking.record(slow, on_start=lambda _: interrupt.start())
    trials = history.frame(parents=[done.run_id])
    assert done.state == "interrupted" and len(trials) == 1
    assert 0 < trials["params.requests"].astype(int).iloc[0] < 200


@pytest.mark.parametrize(("given", "said"), [
    ({"engine": ("other",)}, "no engine 'other'"), ({"engine": ("http://127.0.0.1:9",)}, "127.0.0.1:9"),
    ({"engine": ("ftp://x",)}, "no engine"), ({"model": "no-such-model"}, "no-such-model"),
])
def test_what_cannot_be_served_is_one_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(LabError, match=said):
        experiment = Serving(**{**SHORT, "engine": ("llama_cpp",), **given})
        experiment.check()
        list(experiment.run())


@pytest.mark.parametrize("given", [{"engine": ()}, {"requests": 1}, {"rates": (0.0,)}, {"users": (0,)}, {"users": (99,)}, {"arrivals": "closed"},
                                   {"arrivals": "sometimes"}, {"ttft_ms": 0}, {"attainment": 2.0}])
def test_settings_that_make_no_load_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(LabError):
        Serving(**given)


def frame(**columns: list[Any]) -> pd.DataFrame:
    rows = len(columns["name"])
    usual: dict[str, Any] = {"params.loop": "open", "params.arm": "a", "params.rate": 1.0, "params.load": 1.0,
                             "params.concurrency": 4, "metrics.output_tokens_per_s": 10.0, "metrics.ttft_p95_s": 0.1,
                             "metrics.requests_per_s": 1.0}
    return pd.DataFrame({**{k: [v] * rows for k, v in usual.items()}, **columns})


def test_a_rate_is_recommended_only_if_enough_requests_met_the_limits() -> None:
    trials = frame(name=["a at 1/s", "a at 4/s"], **{"metrics.attainment_share": [1.0, 0.5],
                                                    "metrics.goodput_requests_per_s": [1.0, 2.0]})
    assert Serving().verdict(trials).chosen == "a at 1/s"
    assert Serving(attainment=0.4).verdict(trials).chosen == "a at 4/s"
    assert Serving().verdict(trials.iloc[1:]).chosen is None


def test_a_run_that_the_client_limited_says_so() -> None:
    trials = frame(name=["a at 1/s"], **{"metrics.attainment_share": [1.0], "metrics.goodput_requests_per_s": [1.0],
                                        "metrics.client_bound": [1.0]})
    assert any("Limited by the client" in line for line in Serving().verdict(trials).caveats)

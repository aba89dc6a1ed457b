"""Monitoring: numbers of a window are those of its rows, each fault raises its own alert, later scores change no row."""

from __future__ import annotations

import dataclasses
import http.server
import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from lab.errors import LabError
from lab.ops import alerts, monitor, requests, store
from lab.ops.alerts import delivering, journal
from lab.ops.alerts.conditions import Drift
from lab.ops.monitor import scoring, shift, simulated
from lab.ops.monitor.simulated import Fault
from lab.ops.requests import scores
from lab.ops.requests.scores import Scored
from lab.ops.requests_schema import LogRecord, between, checked, failed

HOUR = 3600.0
NOW = 2_000_000_000.0


def rules(**change: Any) -> alerts.Rules:
    """The shipped rules with windows of hours where they have days."""
    found = alerts.load()
    short = [dataclasses.replace(rule, condition=dataclasses.replace(rule.condition, window_s=HOUR, reference_s=3 * HOUR, **change))
             if isinstance(rule.condition, Drift) else rule for rule in found.rules]
    return dataclasses.replace(found, rules=tuple(short))


def traffic(*faults: Fault, **given: Any) -> pd.DataFrame:
    return simulated.traffic(until_s=NOW, faults=faults, **given)


def raised(log: pd.DataFrame) -> dict[str, alerts.Alert]:
    return {alert.rule: alert for alert in alerts.evaluate(rules(), log, now_s=NOW).alerts}


# Faults at known times


@pytest.mark.parametrize(("fault", "rule"), [
    (Fault(kind="errors", ago_s=1800, size=0.05), "failures burn the budget fast"),
    (Fault(kind="slow", ago_s=240, size=4), "latency spike"),
    (Fault(kind="topics", ago_s=2400, size=0.3), "topics drift"),
    (Fault(kind="quality", ago_s=2400, size=0.3), "quality drops"),
], ids=lambda one: one.kind if isinstance(one, Fault) else "")
def test_each_fault_raises_exactly_its_own_alert_with_the_release_it_began_with(fault: Fault, rule: str) -> None:
    found = raised(traffic(fault))
    assert set(found) == {rule}
    alert = found[rule]
    assert alert.release == "release 2" and alert.count and alert.began_s == pytest.approx(NOW - fault.ago_s, abs=300)


def test_quiet_traffic_raises_nothing_whatever_the_seed() -> None:
    assert [raised(traffic(seed=seed)) for seed in range(3)] == [{}] * 3


@pytest.mark.parametrize("detector", ["adwin", "page_hinkley"])
def test_a_rule_may_name_a_detector_of_river_and_finds_a_large_drop_with_it(detector: Any) -> None:
    mine = Drift(measure="score_quality", direction="down", window_s=HOUR, reference_s=3 * HOUR, detector=detector)
    one = alerts.Rules(name="one", version=1, rules=(alerts.Rule(name="q", condition=mine, severity="notice", actions=("page",)),))
    drop = Fault(kind="quality", ago_s=2400, size=0.6)
    found = alerts.evaluate(one, traffic(drop), now_s=NOW).alerts
    assert [alert.rule for alert in found] == ["q"] and "has moved down" in found[0].said and detector in found[0].said
    assert alerts.evaluate(one, traffic(), now_s=NOW).alerts == ()


@pytest.mark.parametrize(("line", "error"), [
    ("detector: magic", "no detector 'magic'; choose from level, adwin, page_hinkley"),
    ("detector: adwin, false_alarms: 0.05", "'adwin' keeps no promise about false alarms"),
    ("detector: adwin, measure: topic", "follows a mean and 'topic' is words")])
def test_a_detector_that_does_not_fit_is_refused_with_its_line(line: str, error: str) -> None:
    given = dict(part.split(": ") for part in f"measure: refused, window_s: 60, reference_s: 600, {line}".split(", "))
    text = ("alerts: mine\nversion: 1\nrules:\n  - name: one\n    drift: {" + ", ".join(f"{k}: {v}" for k, v in given.items())
            + "}\n    severity: notice\n    actions: [page]\n")
    with pytest.raises(LabError, match=f"line 5: .*{error}"):
        alerts.parse(text)


# Numbers of a window


def test_the_numbers_of_a_window_are_those_of_its_rows() -> None:
    log = traffic(Fault(kind="errors", ago_s=HOUR, size=0.1), hours=2)
    now, before = monitor.beside(log, now_s=NOW, window_s=HOUR)
    rows = log[log["time_s"] > NOW - HOUR]
    fine = rows[~failed(rows)]
    assert (now.requests, now.failures, now.counted) == (len(rows), int(failed(rows).sum()), len(rows))
    assert before.failures == 0 and before.requests + now.requests == len(log)
    for measure in ("ttft_s", "tpot_s", "e2e_s"):
        one = now.latency(measure)
        assert (one.p50, one.p95, one.p99) == pytest.approx(tuple(np.percentile(fine[measure], (50, 95, 99))))
    assert [(kind.kind, kind.count, kind.service) for kind in now.kinds] == [("engine", now.failures, True)]
    assert now.cost_usd == pytest.approx(rows["cost_usd"].sum())
    assert sum(one.cost_usd for one in now.costs) == pytest.approx(now.cost_usd)
    assert {one.release for one in now.costs} == {"release 2"}
    assert now.failed.low <= now.failed.value <= now.failed.high and now.scores["quality"][1] == int(rows["score_quality"].notna().sum())


def test_buckets_lose_no_request_and_mark_the_one_in_which_something_happened() -> None:
    log = traffic(Fault(kind="slow", ago_s=1200, lasts_s=300, size=5), Fault(kind="errors", ago_s=600, lasts_s=120, size=0.5), hours=2)
    found = monitor.series(log, since_s=NOW - HOUR, until_s=NOW, buckets=12)
    rows = between(log, NOW - HOUR, NOW)
    assert len(found) == 12 and found["requests"].sum() == len(rows) and found["failed"].sum() == failed(rows).sum()
    assert found["output_tokens"].sum() == pytest.approx(rows["output_tokens"].sum())
    slow, erring = (set(found.loc[found[name], "time_s"]) for name in ("e2e_s_spike", "errors"))
    assert slow == {NOW - 1200} and erring == {NOW - 600}
    by_kind = monitor.errors(log, since_s=NOW - HOUR, until_s=NOW, buckets=12)
    assert by_kind.to_numpy().sum(axis=1).tolist() == found["failed"].tolist()


def test_what_nobody_observed_is_nan_and_an_empty_window_is_no_error() -> None:
    empty = monitor.summary(checked(pd.DataFrame()), since_s=0, until_s=10)
    assert empty.requests == 0 and math.isnan(empty.failed.value) and math.isnan(empty.cost_usd) and empty.kinds == ()
    quiet = monitor.series(checked(pd.DataFrame()), since_s=0, until_s=10, buckets=500)
    assert len(quiet) == monitor.MOST_BUCKETS and quiet["requests"].sum() == 0 and quiet["cost_usd"].isna().all()


def test_a_caller_s_fault_is_counted_as_the_caller_s() -> None:
    log = checked(pd.DataFrame([LogRecord(time_s=i, request_id=str(i), release="r", status=status, error_kind=kind).row()
                                for i, (status, kind) in enumerate([(401, "invalid_api_key"), (499, ""), (500, "engine"), (200, "")])]))
    found = monitor.summary(log, since_s=-1, until_s=10)
    assert {(one.kind, one.service) for one in found.kinds} == {("invalid_api_key", False), ("client left", False), ("engine", True)}
    assert (found.failures, found.counted) == (1, 2)


def test_the_false_alarm_rate_is_stated_and_not_for_detectors_that_promise_none() -> None:
    assert "probability of 1.0% at most" in monitor.promise(rules())
    assert monitor.promise(rules(detector="adwin")) == "No drift rule promises a rate of false alarms."


def test_drift_states_are_those_of_the_rules() -> None:
    seen = alerts.evaluate(rules(), traffic(Fault(kind="topics", ago_s=2400, size=0.3)), now_s=NOW)
    states = {one.rule: one for one in monitor.drifts(rules(), seen.findings)}
    assert states["topics drift"].standing == "moved" and states["topics drift"].evidence == 1
    assert states["more refusals"].standing == "steady" and states["more refusals"].evidence < 1
    assert states["more hallucinations"].standing == "too little known" and math.isnan(states["more hallucinations"].evidence)


# Reading


def test_the_live_view_of_a_log_is_its_frame_however_much_of_it_is_sealed(tmp_path: Path) -> None:
    made = traffic(Fault(kind="errors", ago_s=600, size=0.1), hours=1).drop(columns="score_quality")
    simulated.written(made, tmp_path)
    log = requests.RequestLog(tmp_path, keep=requests.Keep(days=1e9))
    for i in range(50):  # out of order, as answers end
        log.add(LogRecord(time_s=NOW - 30 + (i * 7) % 50, request_id=f"late{i}", release="release 3"))
    log.close()
    live = requests.Columns(tmp_path)
    for since in (-math.inf, NOW - 100, NOW + 1e6):
        expected = checked(requests.frame(since, place=tmp_path))
        seen = live.frame(since)
        assert len(seen) == len(expected) and seen["time_s"].is_monotonic_increasing
        back = seen.astype({name: str for name in expected if seen[name].dtype == "category"})
        pd.testing.assert_frame_equal(
            back[list(expected)].sort_values(["time_s", "request_id"], ignore_index=True),
            expected.sort_values(["time_s", "request_id"], ignore_index=True), check_dtype=False)
        assert alerts.evaluate(rules(), seen, now_s=NOW) == alerts.evaluate(rules(), expected, now_s=NOW)


def test_a_checked_frame_is_not_copied_to_look_at_it() -> None:
    log = traffic(hours=1)
    assert checked(log) is log and checked(log.iloc[::-1]) is not log


def test_later_scores_are_columns_and_the_last_one_counts(tmp_path: Path) -> None:
    simulated.written(traffic(hours=0.1).drop(columns="score_quality"), tmp_path)
    before = requests.frame(place=tmp_path)
    ids, times = before["request_id"], before["time_s"]
    given = [Scored(request_id=ids[i], time_s=times[i], name="hallucination", value=value, by="x", scored_s=NOW)
             for i, value in ((3, 0.9), (3, 0.25), (5, math.nan))]
    scores.add(given, tmp_path)
    column = requests.Columns(tmp_path).frame()["score_hallucination"]
    assert column[3] == 0.25 and column.notna().sum() == 1
    pd.testing.assert_frame_equal(requests.frame(place=tmp_path), before)
    assert len(scores.read(tmp_path)) == 3
    scores.forget(tmp_path, NOW + 1)
    assert scores.read(tmp_path) == []
    with pytest.raises(LabError, match="cannot be called 'a b'"):
        scores.add([dataclasses.replace(given[0], name="a b")], tmp_path)


def test_the_mean_of_a_score_is_that_of_all_answers_of_the_window_however_many() -> None:
    log = checked(traffic(hours=24, per_minute=30))
    seen = monitor.summary(log, since_s=NOW - 24 * HOUR, until_s=NOW).scores["quality"]
    values = log["score_quality"].dropna()
    assert seen[1] == len(values) > 20_000 and seen[0].value == pytest.approx(values.mean())
    assert seen[0].low < values.mean() < seen[0].high


def test_simulated_rows_are_never_mixed_with_a_log_that_is_there(tmp_path: Path) -> None:
    simulated.written(traffic(hours=0.1), tmp_path)
    with pytest.raises(LabError, match="never mixed"):
        simulated.written(traffic(hours=0.1), tmp_path)


# Watching and delivering


def burning() -> alerts.Rules:
    found = rules()
    return dataclasses.replace(found, rules=found.rules[:1], webhook_env="LAB_TEST_WEBHOOK")


class Hook(http.server.BaseHTTPRequestHandler):
    """Takes what is posted, and answers with the statuses it is given in turn."""

    taken: ClassVar[list[dict[str, Any]]] = []
    statuses: ClassVar[list[int]] = []

    def do_POST(self) -> None:
        Hook.taken.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(Hook.statuses.pop(0) if Hook.statuses else 200)
        self.send_header("location", "http://127.0.0.1:9/")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hook]]:
    Hook.taken, Hook.statuses = [], []
    server = http.server.HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("LAB_TEST_WEBHOOK", f"http://127.0.0.1:{server.server_port}/secret")
    yield Hook
    server.shutdown()
    server.server_close()


def test_an_alert_is_raised_delivered_and_cleared_once_however_often_one_looks(tmp_path: Path, hook: type[Hook]) -> None:
    log = traffic(Fault(kind="errors", ago_s=1800, lasts_s=1800, size=0.05))
    later = simulated.traffic(until_s=NOW + 2 * HOUR, hours=2, seed=5)
    whole = pd.concat([log, later], ignore_index=True)
    for minute in range(-60, 120, 5):
        alerts.watch(burning(), lambda _: whole, tmp_path, now_s=NOW + 60 * minute)
    said = [(event.alert.state, event.action) for event in alerts.events(tmp_path)[::-1]]
    assert said == [("raised", ""), ("raised", "log"), ("raised", "webhook"), ("cleared", ""), ("cleared", "log"), ("cleared", "webhook")]
    assert [one["alert"]["state"] for one in hook.taken] == ["raised", "cleared"] and "burns" in hook.taken[0]["text"]
    assert len((tmp_path / delivering.LOG).read_text().splitlines()) == 2
    assert alerts.state(tmp_path).open == () and alerts.state(tmp_path).pending == ()


def test_what_a_process_that_died_did_not_deliver_the_next_one_does(tmp_path: Path, hook: type[Hook]) -> None:
    log = traffic(Fault(kind="errors", ago_s=1800, size=0.05))

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        alerts.watch(burning(), lambda _: log, tmp_path, now_s=NOW, webhook=dies)
    assert hook.taken == []
    seen = alerts.watch(burning(), lambda _: log, tmp_path, now_s=NOW + 1)
    assert seen.news == () and [one["alert"]["state"] for one in hook.taken] == ["raised"]


def test_while_another_process_looks_nothing_is_written_or_delivered(tmp_path: Path, hook: type[Hook]) -> None:
    with store.alone(tmp_path / "alerts.lock") as mine:
        assert mine
        seen = alerts.watch(burning(), lambda _: traffic(Fault(kind="errors", ago_s=1800, size=0.05)), tmp_path, now_s=NOW)
    assert seen.state == alerts.State() and alerts.events(tmp_path) == [] and hook.taken == []


def test_a_rule_that_was_taken_out_ends_its_alert(tmp_path: Path, hook: type[Hook]) -> None:
    log = traffic(Fault(kind="errors", ago_s=1800, size=0.05))
    alerts.watch(burning(), lambda _: log, tmp_path, now_s=NOW)
    seen = alerts.watch(dataclasses.replace(burning(), rules=()), lambda _: log, tmp_path, now_s=NOW + 1)
    assert [one.state for one in seen.news] == ["cleared"] and seen.state.open == ()


def _alert() -> alerts.Alert:
    return alerts.Alert(rule="r", severity="critical", actions=("webhook",), state="raised", said="So.", value=math.nan, limit=1.0,
                        raised_s=NOW, held_s=NOW)


def test_a_webhook_is_tried_twice_and_follows_no_redirect(hook: type[Hook]) -> None:
    hook.statuses[:] = [500]
    delivering.webhook(_alert(), NOW, "LAB_TEST_WEBHOOK", pause_s=0)
    assert len(hook.taken) == 2 and hook.taken[1]["alert"]["value"] is None
    hook.statuses[:] = [302, 302]
    with pytest.raises(LabError, match="did not take the alert \\(status 302\\)"):
        delivering.webhook(_alert(), NOW, "LAB_TEST_WEBHOOK", pause_s=0)
    assert len(hook.taken) == 4


@pytest.mark.parametrize(("url", "error"), [
    ("", "put its URL into LAB_TEST_WEBHOOK"), ("file:///etc/passwd", "no http or https URL"),
    ("http://127.0.0.1:9/secret", "did not take the alert"), ("http://127.0.0.1:9/secret path", "did not take the alert")])
def test_a_webhook_that_cannot_be_reached_is_one_sentence_without_its_secret(
    url: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_TEST_WEBHOOK", url)
    with pytest.raises(LabError, match=error) as said:
        delivering.webhook(_alert(), NOW, "LAB_TEST_WEBHOOK", pause_s=0)
    assert "secret" not in str(said.value) and "passwd" not in str(said.value)


def test_a_webhook_that_never_answers_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("LAB_TEST_WEBHOOK", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        began = time.monotonic()
        with pytest.raises(LabError, match="timed out"):
            delivering.webhook(_alert(), NOW, "LAB_TEST_WEBHOOK", timeout_s=0.2, pause_s=0)
        assert time.monotonic() - began < 5


def test_a_failed_delivery_is_said_and_tried_again_until_one_works(tmp_path: Path, hook: type[Hook]) -> None:
    log = traffic(Fault(kind="errors", ago_s=1800, size=0.05))

    def look(after_s: float) -> alerts.Round:
        return alerts.watch(burning(), lambda _: log, tmp_path, now_s=NOW + after_s,
                            webhook=lambda alert, at_s, env: delivering.webhook(alert, at_s, env, pause_s=0))

    hook.statuses[:] = [500] * 4
    assert "status 500" in look(0).state.troubles["webhook"]
    assert len(look(10).state.pending) == 1 and len(hook.taken) == 2  # not before its time
    look(31)
    look(60)
    assert len(hook.taken) == 4  # twice as long from time to time
    done = look(100)
    assert done.state.troubles == {} and done.state.pending == () and len(hook.taken) == 5
    said = [(event.action, bool(event.trouble)) for event in alerts.events(tmp_path)[::-1]]
    assert said == [("", False), ("log", False), ("webhook", True), ("webhook", False)]


def test_a_delivery_that_fails_for_a_day_is_given_up_and_the_alert_stays(tmp_path: Path, hook: type[Hook]) -> None:
    log = traffic(Fault(kind="errors", ago_s=1800, size=0.05))

    def broken(*_: Any) -> None:
        raise LabError("It is down.")

    alerts.watch(burning(), lambda _: log, tmp_path, now_s=NOW, webhook=broken)
    stands = dataclasses.replace(alerts.state(tmp_path), open=())
    journal.write(tmp_path, stands)
    later = alerts.watch(dataclasses.replace(burning(), rules=()), lambda _: log, tmp_path, now_s=NOW + 90_000, webhook=broken)
    assert later.state.pending == () and alerts.events(tmp_path)[0].trouble.startswith("Given up")


def test_a_broken_state_is_refused_in_a_sentence_and_a_cut_journal_is_read(tmp_path: Path) -> None:
    journal.append(tmp_path, journal.Event(at_s=1.0, alert=_alert()))
    with open(tmp_path / journal.FILE, "a") as file:
        file.write('{"at_s": 2.0, "alert": {"rule"')
    assert [event.at_s for event in alerts.events(tmp_path)] == [1.0]
    (tmp_path / journal.STATE).write_text("{")
    with pytest.raises(LabError, match="move it away"):
        alerts.state(tmp_path)


# Scoring a sample


def answered(place: Path) -> None:
    log = requests.RequestLog(place)
    source = "The tower was built in 1889 in Paris. It is 330 metres high."
    for i in range(20):
        log.add(LogRecord(time_s=NOW - 100 + i, request_id=f"r{i}", release="release 1", finish_reason="stop", refused=0.0),
                prompt=f"{source}\n\nWhen was it built?", answer="It was built in 1889." if i % 2 else "It was built in 1920.")
    log.add(LogRecord(time_s=NOW - 50, request_id="no source", release="release 1", refused=0.0), prompt="Who?", answer="Me.")
    log.add(LogRecord(time_s=NOW - 50, request_id="refused", release="release 1", refused=1.0), prompt="a\n\nb", answer="No.")
    log.close()


def test_a_sample_is_scored_once_and_what_has_no_source_is_unscored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "home"))
    answered(tmp_path / "log")
    first = scoring.score(tmp_path / "log", detector="grounding_facts", sample=8, now_s=NOW)
    rest = scoring.score(tmp_path / "log", detector="grounding_facts", sample=99, now_s=NOW)
    assert (first.scored + first.unscored, first.waiting, rest.waiting) == (8, 13, 0)
    found = {one.request_id: one.value for one in scores.read(tmp_path / "log")}
    assert {value for name, value in found.items() if name != "no source"} == {0.0, 1.0} and "refused" not in found
    assert found["r0"] == 1.0 and found["r1"] == 0.0 and math.isnan(found["no source"])
    assert "not measured on this store" in rest.sentence()
    assert scoring.score(tmp_path / "log", detector="grounding_facts", now_s=NOW).sentence().startswith("Every answer")


def test_scoring_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="--texts guarded"):
        scoring.score(tmp_path, now_s=NOW)
    with pytest.raises(LabError, match="no detector 'x'"):
        scoring.score(tmp_path, detector="x", now_s=NOW)
    with pytest.raises(LabError, match="--url"):
        scoring.score(tmp_path, detector="consistency", now_s=NOW)


# Moves in meaning


class Letters:
    """Unit vectors of how often each letter comes."""

    name, sha256 = "letters", "one"

    def embed(self, texts: Sequence[str]) -> Any:
        counts = np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def spoken(place: Path, words: str, count: int, *, from_s: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    log = requests.RequestLog(place)
    for i in range(count):
        log.add(LogRecord(time_s=from_s + i, request_id=f"{from_s}-{i}", release="release 1", finish_reason="stop", refused=0.0),
                prompt="?", answer=" ".join(rng.choice(words.split(), size=12)))
    log.close()


TOWNS, SUMS = "tower bridge river street market harbour square castle", "seven eleven minus plus equals zero next six"


def test_answers_that_move_in_meaning_are_found_and_those_that_do_not_are_not(tmp_path: Path) -> None:
    spoken(tmp_path, TOWNS, 80, from_s=NOW - 900, seed=0)
    first = shift.shift(tmp_path, reference=80, now_s=NOW, embedder=Letters())
    assert first.made and first.test is None and not first.moved
    spoken(tmp_path, TOWNS, 60, from_s=NOW - 600, seed=1)
    quiet = shift.shift(tmp_path, now_s=NOW, embedder=Letters())
    assert not quiet.made and not quiet.moved and quiet.test is not None and quiet.test.n == (80, 60)
    spoken(tmp_path, SUMS, 60, from_s=NOW - 300, seed=2)
    moved = shift.shift(tmp_path, now_s=NOW, sample=50, embedder=Letters())
    assert moved.moved and moved.mean.low > quiet.mean.high and moved.waiting == 10 and "they have moved in meaning" in moved.sentence()
    column = requests.Columns(tmp_path).frame()["score_embedding_distance"]
    assert column.notna().sum() == 110 and column.dropna().between(0, 1).all()
    renewed = shift.shift(tmp_path, reference=60, renew=True, now_s=NOW, embedder=Letters())
    assert renewed.made and renewed.reference.first_s == NOW - 300


def test_a_look_at_meaning_refuses_what_it_cannot_compare(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="--texts guarded"):
        shift.shift(tmp_path, now_s=NOW, embedder=Letters())
    spoken(tmp_path, TOWNS, 49, from_s=NOW - 900, seed=0)
    with pytest.raises(LabError, match="Only 49 answers"):
        shift.shift(tmp_path, now_s=NOW, embedder=Letters())
    spoken(tmp_path, TOWNS, 10, from_s=NOW - 600, seed=0)
    shift.shift(tmp_path, now_s=NOW, embedder=Letters())
    other = Letters()
    other.sha256 = "two"
    with pytest.raises(LabError, match="another embedding model"):
        shift.shift(tmp_path, now_s=NOW, embedder=other)
    (tmp_path / shift.FILE).write_bytes(b"PK")
    with pytest.raises(LabError, match="--renew"):
        shift.shift(tmp_path, now_s=NOW, embedder=Letters())


# The command


def test_the_command_looks_once_and_its_exit_code_says_whether_an_alert_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.__main__ import app

    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    quiet = CliRunner().invoke(app, ["monitor", "--once"])
    assert quiet.exit_code == 0 and "lab gateway" in quiet.output and "No alert stands." in quiet.output
    now = time.time()
    simulated.written(simulated.traffic(until_s=now, hours=2, faults=[Fault(kind="errors", ago_s=1800, size=0.1)]), requests.folder())
    loud = CliRunner().invoke(app, ["monitor", "--once", "--json", str(tmp_path / "out.json")])
    assert loud.exit_code == 1 and "failures burn the budget fast" in loud.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert [alert["rule"] for alert in written["alerts"]] == ["failures burn the budget fast"] and written["now"]["failures"] > 0


def test_a_replay_says_what_looking_all_the_time_would_have_said() -> None:
    log = traffic(Fault(kind="errors", ago_s=3000, lasts_s=1200, size=0.1), hours=3)
    only = dataclasses.replace(rules(), rules=rules().rules[:1])
    news = alerts.replay(only, log, since_s=NOW - HOUR, until_s=NOW, every_s=300)
    assert [alert.state for alert in news] == ["raised", "cleared"]
    assert NOW - 3000 < news[0].raised_s <= NOW - 3000 + 600 and alerts.replay(only, traffic(), since_s=NOW - HOUR, until_s=NOW) == []


def test_the_path_of_evidence_ends_where_the_scan_finds_it() -> None:
    from lab.stats import drift

    values = np.concatenate([np.ones(300), np.zeros(60)])
    detector = drift.Level(drift.Reference.share(0.95), limit=1e6)
    found, path = drift.scan(detector, values), drift.path(detector, values)
    assert found.at is not None and path[found.at] >= 1 and (path[:found.at] < 1).all() and len(path) == len(values)

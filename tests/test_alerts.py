"""Alerts: each fault raises its own alert and no other, once, with the requests behind it; the rules file is checked by the line."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from lab.errors import LabError
from lab.ops import alerts, slo
from lab.ops.requests_schema import LogRecord, checked, failed, frame, served

HOUR = 3600.0
NOW = 2_000_000_000.0


def traffic(*, hours: float = 4, per_minute: int = 60, seed: int = 0, release: str = "r1") -> pd.DataFrame:
    """A log of healthy requests that ends now, without one failure."""
    rng = np.random.default_rng(seed)
    n = int(hours * 60 * per_minute)
    topics = rng.choice(["billing", "travel", "cooking", "code"], p=[0.4, 0.3, 0.2, 0.1], size=n)
    return checked(pd.DataFrame({
        "time_s": NOW - hours * HOUR + (np.arange(n) + 1) * hours * HOUR / n, "request_id": [f"q{i}" for i in range(n)],
        "release": release, "model": "m", "status": 200, "ttft_s": rng.lognormal(-1.5, 0.5, n), "e2e_s": rng.lognormal(0, 0.5, n),
        "output_tokens": rng.integers(20, 80, n), "refused": (rng.random(n) < 0.03).astype(float), "topic": topics,
        "language": rng.choice(["en", "de"], p=[0.8, 0.2], size=n), "score_quality": (rng.random(n) < 0.9).astype(float)}))


def rules() -> alerts.Rules:
    """The shipped rules, with windows of hours where they have days, so that the logs here can be short."""
    import dataclasses

    found = alerts.load()
    short = [dataclasses.replace(rule, condition=dataclasses.replace(rule.condition, window_s=HOUR, reference_s=3 * HOUR))
             if hasattr(rule.condition, "false_alarms") else rule for rule in found.rules]
    return dataclasses.replace(found, rules=tuple(short))


def raised(log: pd.DataFrame, at: float = NOW) -> dict[str, alerts.Alert]:
    return {alert.rule: alert for alert in alerts.evaluate(rules(), log, now_s=at).alerts}


def broken(log: pd.DataFrame, share: float, minutes: float, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    hit = (log["time_s"] > NOW - minutes * 60) & (rng.random(len(log)) < share)
    log.loc[hit, ["status", "ttft_s", "e2e_s", "output_tokens"]] = [502.0, math.nan, math.nan, math.nan]
    log.loc[hit, ["error_kind", "finish_reason"]] = ["engine", "error"]
    return log


def test_quiet_traffic_raises_nothing() -> None:
    for seed in range(4):
        assert raised(traffic(seed=seed)) == {}, seed


def test_an_error_burst_of_5_percent_raises_the_budget_alert_and_nothing_else() -> None:
    log = broken(traffic(), 0.05, 30)
    log.loc[log["time_s"] > NOW - 30 * 60, "release"] = "r2"
    found = raised(log)
    assert set(found) == {"failures burn the budget fast"}
    alert = found["failures burn the budget fast"]
    assert alert.severity == "critical" and "page" in alert.actions and alert.state == "raised"
    bad = set(log.loc[failed(log), "request_id"])
    assert set(alert.requests) <= bad and alert.count == len(bad) and alert.release == "r2"
    assert alert.began_s == pytest.approx(NOW - 30 * 60, abs=180)


def test_a_latency_spike_raises_the_latency_alert_and_nothing_else() -> None:
    log = traffic()
    slow = log["time_s"] > NOW - 5 * 60
    log.loc[slow, ["ttft_s", "e2e_s"]] *= 4
    log.loc[slow, "release"] = "r2"
    found = raised(log)
    assert set(found) == {"latency spike"}
    assert found["latency spike"].release == "r2" and "times that of the 1 h before" in found["latency spike"].said
    assert set(found["latency spike"].requests) <= set(log.loc[slow, "request_id"])


def test_a_drifted_topic_mix_raises_the_topic_alert_and_nothing_else() -> None:
    log, rng = traffic(), np.random.default_rng(3)
    late = log.index[log["time_s"] > NOW - 40 * 60]
    log.loc[late, "topic"] = rng.choice(["billing", "travel", "cooking", "code"], p=[0.25, 0.2, 0.2, 0.35], size=len(late))
    log.loc[late, "release"] = "r2"
    found = raised(log)
    assert set(found) == {"topics drift"}
    alert = found["topics drift"]
    assert alert.release == "r2" and "code" in alert.said
    assert {"code"} <= set(log.set_index("request_id").loc[list(alert.requests), "topic"])


def test_a_drop_in_quality_raises_the_quality_alert_with_the_release_it_began_with() -> None:
    log, rng = traffic(per_minute=30), np.random.default_rng(5)
    late = log.index[log["time_s"] > NOW - 50 * 60]
    log.loc[late, "score_quality"] = (rng.random(len(late)) < 0.7).astype(float)
    log.loc[late, "release"] = "r7"
    found = raised(log)
    assert set(found) == {"quality drops"} and found["quality drops"].release == "r7"


def test_an_alert_is_raised_once_stays_open_and_is_cleared_once() -> None:
    burning = alerts.Rules(name="one", version=1, rules=rules().rules[:3])
    log = broken(traffic(), 0.05, 30)
    healthy = traffic(hours=2, seed=9)
    healthy["time_s"] += 2 * HOUR
    whole = pd.concat([log, healthy])
    seen, states = alerts.Evaluation(alerts=()), []
    for minute in range(0, 180, 5):
        seen = alerts.evaluate(burning, whole, now_s=NOW - HOUR + minute * 60, before=seen.open)
        states += [(alert.rule, alert.state) for alert in seen.news]
    assert states == [("failures burn the budget fast", "raised"), ("failures burn the budget fast", "cleared")]


def test_silence_clears_nothing() -> None:
    seen = alerts.evaluate(rules(), broken(traffic(hours=2), 0.05, 60), now_s=NOW)
    later = alerts.evaluate(rules(), broken(traffic(hours=2), 0.05, 60), now_s=NOW + HOUR, before=seen.open)
    assert seen.news and later.news == () and [a.rule for a in later.open] == [a.rule for a in seen.open]


def test_evaluation_changes_nothing_and_gives_the_same_twice_in_any_order_of_rows() -> None:
    log = broken(traffic(hours=2), 0.05, 30)
    copy = log.copy()
    first = alerts.evaluate(rules(), log, now_s=NOW)
    assert alerts.evaluate(rules(), log.sample(frac=1, random_state=1), now_s=NOW) == first
    pd.testing.assert_frame_equal(log, copy)


def test_a_clock_that_goes_back_clears_nothing_and_the_future_is_not_looked_at() -> None:
    log = broken(traffic(), 0.05, 30)
    seen = alerts.evaluate(rules(), log, now_s=NOW)
    back = alerts.evaluate(rules(), log, now_s=NOW - 2 * HOUR, before=seen.open)
    assert [alert.state for alert in back.alerts] == ["open"]
    assert alerts.evaluate(rules(), log, now_s=NOW - HOUR).alerts == ()


def test_an_empty_log_raises_nothing() -> None:
    assert alerts.evaluate(rules(), frame([]), now_s=NOW).alerts == ()
    assert alerts.evaluate(rules(), pd.DataFrame(), now_s=NOW).alerts == ()


def test_what_the_caller_did_wrong_burns_no_budget_and_an_overload_does() -> None:
    log = frame([LogRecord(time_s=i, request_id=str(i), release="r", status=status, error_kind=kind, finish_reason=reason)
                 for i, (status, kind, reason) in enumerate([
                     (200, "", "stop"), (401, "invalid_api_key", ""), (429, "rate_limit", ""), (429, "queue_full", ""),
                     (499, "disconnected", "cancelled"), (500, "engine", "error"), (200, "timeout", "error")])])
    assert failed(log).tolist() == [False, False, False, True, False, True, True]
    assert served(log).tolist() == [True, False, False, True, False, True, True]


def test_the_error_budget_is_the_bad_share_over_the_allowed_one() -> None:
    goal = slo.Slo(name="availability", objective=0.99, period_days=30)
    log = frame([LogRecord(time_s=NOW - 10 * i, request_id=str(i), release="r", status=500 if i < 5 else 200) for i in range(1000)])
    found = slo.budget(goal, log, now_s=NOW)
    assert (found.requests, found.bad, found.allowed) == (1000, 5, pytest.approx(10))
    assert found.left_share == pytest.approx(0.5) and found.burn_rate == pytest.approx(0.5)
    assert found.lasts_s == pytest.approx(30 * 86_400)
    assert slo.budget(goal, frame([]), now_s=NOW).left_share == 1.0


def test_a_threshold_needs_certainty_and_looks_to_the_side_it_is_asked_for() -> None:
    text = """
alerts: mine
version: 1
rules:
  - {name: slow, threshold: {measure: e2e_s, take: p95, above: 2.0, window_s: 600}, severity: warning, actions: [log]}
  - {name: few, threshold: {measure: request_count, take: count, below: 10, window_s: 600}, severity: notice, actions: [log]}
"""
    with pytest.raises(LabError, match="line 6: there is no measure 'request_count'"):
        alerts.parse(text)
    mine = alerts.parse(text.replace("request_count", "failed"))
    log = traffic(hours=1)
    quantile = float(log.loc[log["time_s"] > NOW - 600, "e2e_s"].quantile(0.95))
    assert {a.rule for a in alerts.evaluate(mine, log.assign(e2e_s=log["e2e_s"] * 2.05 / quantile), now_s=NOW).alerts} == set()
    assert {a.rule for a in alerts.evaluate(mine, log.assign(e2e_s=log["e2e_s"] * 2), now_s=NOW).alerts} == {"slow"}
    assert {a.rule for a in alerts.evaluate(mine, log[:5], now_s=NOW).alerts} == {"few"}


@pytest.mark.parametrize(("change", "error"), [
    (("version: 2", "version: 0"), "count from 1"),
    (("severity: critical", "severity: dire", 1), "no severity 'dire'; choose from notice, warning, critical"),
    (("rate: 14.4", "rate: 1440"), "1e\\+03 times too fast at most"),
    (("short_s: 300", "short_s: 7200"), "the short window must be shorter"),
    (("objective: availability, rate", "objective: avail, rate"), "no objective 'avail'; the objectives are availability, first-token"),
    (("take: p95", "take: mean"), "a spike is of a percentile"),
    (("direction: down", "direction: left"), "direction is down, up or both"),
    (("measure: topic", "measure: model"), "no measure 'model' here \\(words only drift\\)"),
    (("unless: [first tokens are late]", "unless: [nothing]"), "no other rule 'nothing'"),
    (("actions: [page, log, webhook]", "actions: [shout]"), "there is no action 'shout'; choose from page, log, webhook"),
    (("objective: 0.999", "objective: 99.9"), "give a share between 0 and 1"),
    (("window_s: 300, reference_s", "window_s: -300, reference_s"), "'window_s' is -300; give a number above 0"),
    (("name: latency spike", "name: topics drift"), "there is a rule 'topics drift' already"),
])
def test_an_error_in_the_rules_is_one_sentence_with_its_line(change: tuple[str, ...], error: str) -> None:
    text = alerts.SHIPPED.read_text()
    assert change[0] in text
    with pytest.raises(LabError, match=f"rules.yaml, line [0-9]+: .*{error}"):
        alerts.parse(text.replace(change[0], change[1], 1), "rules.yaml")


def test_a_rules_file_that_is_not_there_is_named() -> None:
    with pytest.raises(LabError, match="'nowhere.yaml' cannot be read"):
        alerts.load("nowhere.yaml")

"""The page Monitor: it names the next command when there is nothing, and shows what the log says when there is something."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import sample_store
from conftest import copied
from streamlit.testing.v1 import AppTest

from lab import plots_monitor
from lab.ops import monitor, requests
from lab.ops.monitor import simulated
from lab.ops.monitor.simulated import Fault
from lab.ops.requests import scores
from lab.ops.requests.scores import Scored
from lab.ops.requests_schema import LogRecord, checked
from lab.pages import _monitor_show

APP = Path(__file__).parent.parent / "app.py"


@pytest.fixture
def home(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("LAB_ALERT_RULES", raising=False)
    monkeypatch.delenv("LAB_ALERT_WEBHOOK", raising=False)
    with sample_store.at(copied(migrated, tmp_path / "home")) as folder:
        yield folder


def page(**address: str) -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=60).run()
    for name, value in address.items():
        app.query_params[name] = value
    app.switch_page("lab/pages/monitor.py").run()
    assert not app.exception, app.exception
    return app


def text(app: AppTest) -> str:
    parts = [*app.title, *app.subheader, *app.markdown, *app.caption, *app.warning, *app.info, *app.error, *app.code]
    return "\n".join(str(part.value) for part in parts).replace("\\", "")


def cards(app: AppTest) -> dict[str, str]:
    return {one.label: str(one.value) for one in app.metric}


def filled(*faults: Fault, hours: float = 3, now: float | None = None) -> pd.DataFrame:
    rows = simulated.traffic(until_s=now or time.time(), hours=hours, faults=faults)
    simulated.written(rows, requests.folder())
    return rows


def test_without_a_request_it_names_the_command_that_writes_some(home: Path) -> None:
    app = page()
    assert [code.value for code in app.code] == ["lab gateway"] and not app.metric


def test_a_few_requests_are_shown_with_their_numbers_and_no_verdict_on_drift(home: Path) -> None:
    log = requests.RequestLog(requests.folder())
    for i in range(3):
        log.add(LogRecord(time_s=time.time() - 10 + i, request_id=f"r{i}", release="release 1", ttft_s=0.1 * (i + 1), status=200))
    log.close()
    app = page()
    assert cards(app)["Requests"] == "3" and cards(app)["First token p50"] == "200 ms" and cards(app)["Cost"] == "–"
    assert "No alert stands." in text(app)
    drift = next(frame.value for frame in app.dataframe if "Stream" in frame.value)
    assert set(drift["State"]) == {"too little known"}


def test_an_alert_shows_its_requests_the_release_it_began_with_and_that_its_webhook_is_not_set(home: Path) -> None:
    rows = filled(Fault(kind="errors", ago_s=1800, size=0.1))
    app = page()
    said = text(app)
    assert "failures burn the budget fast" in said and "with release 2" in said and "put its URL into LAB_ALERT_WEBHOOK" in said
    behind = next(frame.value for frame in app.dataframe if "request_id" in frame.value)
    assert set(behind["request_id"]) <= set(rows.loc[rows["error_kind"] == "engine", "request_id"])
    kinds = next(frame.value for frame in app.dataframe if "What went wrong" in frame.value)
    assert list(kinds["What went wrong"]) == ["engine"] and kinds["Window before"][0] == 0
    assert "probability of 1.0% at most" in said and "allowed so far" in said
    events = next(frame.value for frame in app.dataframe if "Began with" in frame.value)
    assert set(events["Rule"]) == {"failures burn the budget fast"}


def test_quiet_traffic_raises_no_alert_and_the_window_and_release_come_from_the_address(home: Path) -> None:
    filled(hours=8)
    app = page(window="6 h", release="release 1")
    assert "No alert stands." in text(app)
    assert int(cards(app)["Requests"].replace(",", "")) == pytest.approx(6 * 3600, rel=0.02)
    other = page(window="5 min", release="release 9")
    assert cards(other)["Requests"] == "0" and "by release 9" in text(other)


def test_an_alert_of_the_release_in_production_leads_to_the_page_that_rolls_back(home: Path) -> None:
    from lab.ops import versions

    for prompt in ("Be brief.", "Be rude."):
        (home / "p.txt").write_text(prompt)
        versions.create(prompt=str(home / "p.txt"), model="markov", engine="scripted")
    versions.promote(1, by="ana", why="first")
    versions.promote(2, by="ana", why="second")
    filled(Fault(kind="errors", ago_s=1800, size=0.1))
    links = [one for one in page().get("page_link") if "roll back" in one.proto.label]
    assert len(links) == 1 and "release 1" in links[0].proto.label


def test_a_score_of_hallucination_says_what_its_detector_is_worth(home: Path) -> None:
    rows = filled(hours=0.5)
    last = rows.iloc[-40:]
    scores.add([Scored(request_id=str(r.request_id), time_s=float(r.time_s), name="hallucination", value=i % 2, by="grounding",
                       scored_s=time.time()) for i, r in enumerate(last.itertuples())], requests.folder())
    app = page()
    assert cards(app)["Score: hallucination"] == "0.500" and "was not measured on this store" in text(app)


def test_a_broken_rules_file_is_one_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "rules.yaml").write_text("alerts: mine\nversion: 0\nrules: []\n")
    monkeypatch.setenv("LAB_ALERT_RULES", str(home / "rules.yaml"))
    app = page()
    assert "line 2: the version is 0; count from 1" in text(app)


def test_a_burn_rate_is_a_plain_number() -> None:
    assert [_monitor_show._burn(rate) for rate in (1e-6, 0.26, 9.94, 281.3, 2.8e5)] == ["below 0.1", "0.3", "9.9", "281", "280,000"]


def test_every_figure_is_a_sentence_where_there_is_nothing_to_draw() -> None:
    empty = checked(pd.DataFrame())
    series, kinds = (call(empty, since_s=0.0, until_s=60.0, buckets=6) for call in (monitor.series, monitor.errors))
    for figure in (plots_monitor.latency(series), plots_monitor.failures(kinds, series), plots_monitor.tokens(series),
                   plots_monitor.cost(series), plots_monitor.evidence({})):
        assert not figure.data and figure.layout.annotations[0].text


def test_the_latency_figure_draws_the_series_in_its_unit_and_marks_the_spike() -> None:
    now = 2_000_000_000.0
    rows = simulated.traffic(until_s=now, hours=1, faults=[Fault(kind="slow", ago_s=600, lasts_s=300, size=6)])
    series = monitor.series(rows, since_s=now - 3600, until_s=now, buckets=12)
    figure = plots_monitor.latency(series, "e2e_s", dark=True)
    assert [trace.name for trace in figure.data] == ["p50", "p95", "p99", "spike"]
    drawn = [value for value in figure.data[1].y if not math.isnan(value)]
    assert drawn == pytest.approx((series["e2e_s_p95"] * 1000 if "ms" in figure.layout.title.text else series["e2e_s_p95"]).tolist())
    assert len(figure.data[3].x) == 1

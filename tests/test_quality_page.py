"""Quality stands beside speed on Compare: both intervals are drawn, and what too few items cannot tell is said there."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

from lab import running
from lab.experiments.quality import Quality
from lab.ops import tracking
from lab.records import Estimate, Trial

APP = Path(__file__).parent.parent / "app.py"


def compare(**query: str) -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=60)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    app.switch_page("lab/pages/compare.py").run()
    assert not app.exception, app.exception
    return app


def scripted(*models: str, **fields: Any) -> running.Outcome:
    given = {"sets": ("everyday", "facts"), "metrics": ("answered", "token_f1", "contains"), "words": 0, "shots": 0, **fields}
    return running.run(Quality(engine="scripted", models=models, **given))


def figures(app: AppTest) -> list[dict[str, Any]]:
    return [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]


def differences(app: AppTest) -> Any:
    return next(d.value for d in app.dataframe if "Result" in d.value).set_index("Measure")


def test_quality_is_drawn_against_speed_first_with_both_intervals(fresh_store: Path) -> None:
    scripted("right-90", "right-50")
    app = compare(experiment="quality")
    drawn = [box for box in app.selectbox if str(box.value).startswith("metrics.")][:2]
    assert [box.value for box in drawn] == ["metrics.e2e_s", "metrics.quality"]
    points = [trace for trace in figures(app)[0]["data"] if "markers" in trace["mode"]]
    assert points and all(trace["error_x"]["array"] and trace["error_y"]["array"] for trace in points)
    offered = drawn[0].options
    assert not any("detectable" in option or option.endswith(", p") for option in offered)


def test_every_set_and_metric_is_a_column_and_a_figure(fresh_store: Path) -> None:
    scripted("right-90", "right-50")
    app = compare(experiment="quality", figures="all")
    assert {"metrics.quality", "metrics.everyday_answered", "metrics.facts_token_f1"} <= set(app.dataframe[0].value)
    titles = " ".join(figure["layout"]["title"]["text"] for figure in figures(app))
    assert "Everyday: Answered right" in titles and "Facts: Token F1" in titles


def test_differences_say_what_could_have_been_found_and_what_is_too_few(fresh_store: Path) -> None:
    scripted("right-90", "right-50", items=0)
    table = differences(compare(experiment="quality"))
    assert table.loc["Everyday: Answered right (%)", "Result"] == "Worse"
    assert float(table.loc["Everyday: Answered right (%)", "Detectable"]) > 0
    few = scripted("right-90", "right-10", items=4)
    table = differences(compare(experiment="quality", run=few.run_id))
    assert table.loc["Everyday: Answered right (%)", "Result"] == "Too few to tell"


def test_other_experiments_that_carry_both_get_the_figure_too(fresh_store: Path) -> None:
    client = tracking.writer()
    run = tracking.start_parent(client, "batching", "batching 1")
    for i in range(3):
        tracking.write_trial(client, "batching", run, Trial(name=f"t{i}", settings={"arm": "a", "load": i}, measures={
            "output_tokens_per_s": Estimate(value=10.0 + i, low=9.0 + i, high=11.0 + i), "ttft_p95_s": 0.1,
            "answered_share": Estimate(value=0.5 - i / 10, low=0.4 - i / 10, high=0.6 - i / 10)}))
    tracking.finish(client, run)
    beside = [f for f in figures(compare(experiment="batching", run=run, figures="all")) if "Quality beside speed" in f["layout"]["title"]["text"]]
    points = [trace for trace in beside[0]["data"] if "markers" in trace["mode"]]
    assert points and all(trace["error_x"]["array"] and trace["error_y"]["array"] for trace in points)


def test_a_page_of_three_sets_is_shown_without_a_long_wait(fresh_store: Path) -> None:
    scripted("right-90", "right-50", items=0, sets=("everyday", "facts", "notes"), metrics=("answered", "token_f1", "contains", "rouge_l"))
    started = time.process_time()
    compare(experiment="quality")
    assert time.process_time() - started < 15

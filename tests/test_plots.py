"""Figures say what the frame says: numbers, intervals, units, each run apart; and a sentence where there is none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import sample_store

from lab import experiments, names, plots, stats
from lab.experiments import Chart

LINE = Chart(title="Speed", kind="line", x="params.threads", y="metrics.decode_tokens_per_s", series="params.model")
BAR = replace(LINE, kind="bar")
TRADEOFF = Chart(title="Cost", kind="tradeoff", x="metrics.decode_tokens_per_s", y="metrics.ttft_s", label="name")


def frame(rows: int = 4, parents: tuple[str, ...] = ("a" * 32,)) -> pd.DataFrame:
    rng = np.random.default_rng(rows)
    made = pd.DataFrame(
        [
            {
                "run_id": f"{parent}{i}",
                "parent_id": parent,
                "name": f"trial {i}",
                "params.threads": 2**i,
                "params.model": "m",
                "metrics.decode_tokens_per_s": 50 + 10 * i + rng.random(),
                "metrics.ttft_s": 0.2 + rng.random(),
            }
            for parent in parents
            for i in range(rows)
        ]
    )
    for column in ("metrics.decode_tokens_per_s", "metrics.ttft_s"):
        if rows:
            made[f"{column}_low"], made[f"{column}_high"] = made[column] * 0.9, made[column] * 1.2
    return made


def said(figure: go.Figure) -> str:
    return " ".join([figure.layout.title.text, *(a.text for a in figure.layout.annotations)]).replace("<br>", " ")


@pytest.mark.parametrize("kind", ["line", "bar"])
@pytest.mark.parametrize(("column", "scale"), [("metrics.decode_tokens_per_s", 1), ("metrics.ttft_s", 1000)])
def test_a_figure_draws_the_frames_numbers_and_its_intervals_around_them(kind: str, column: str, scale: int) -> None:
    trials = frame()
    trace = plots.draw(replace(LINE, kind=kind, y=column), trials).data[0]
    assert [float(x) for x in trace.x] == list(trials["params.threads"])
    assert list(trace.y) == pytest.approx(list(trials[column] * scale))
    assert np.add(trace.y, trace.error_y.array) == pytest.approx(trials[f"{column}_high"] * scale)
    assert np.subtract(trace.y, trace.error_y.arrayminus) == pytest.approx(trials[f"{column}_low"] * scale)


@pytest.mark.parametrize("chart", [LINE, BAR, TRADEOFF])
def test_axes_are_labelled_with_their_units_and_numbers_are_in_them(chart: Chart) -> None:
    figure = plots.draw(chart, frame())
    for axis, column in ((figure.layout.xaxis, chart.x), (figure.layout.yaxis, chart.y)):
        assert axis.title.text.startswith(names.describe(column).heading)
    if chart is TRADEOFF:
        drawn = [y for trace in figure.data if trace.name != "Pareto front" for y in trace.y]
        assert sorted(drawn) == pytest.approx(sorted(frame()["metrics.ttft_s"] * 1000))


@pytest.mark.parametrize("chart", [LINE, BAR])
def test_runs_lie_over_each_other_each_with_its_own_trace_colour_and_shape(chart: Chart) -> None:
    trials = frame(parents=("a" * 32, "b" * 32, "c" * 32))
    traces = plots.draw(chart, trials).data
    assert len(traces) == 3
    assert len({t.marker.color for t in traces}) == 3
    assert len({t.line.dash if chart is LINE else t.marker.pattern.shape for t in traces}) == 3
    labelled = plots.draw(
        chart, trials.assign(run=trials["parent_id"].map({"a" * 32: "monday", "b" * 32: "tuesday", "c" * 32: "now"}))
    )
    assert [t.name for t in labelled.data] == ["monday", "tuesday", "now"]


def test_a_series_has_one_trace_per_value() -> None:
    trials = frame().assign(**{"params.model": ["x", "y", "x", "y"]})
    assert {t.name: len(t.x) for t in plots.draw(LINE, trials).data} == {"x": 2, "y": 2}


def test_the_front_of_a_tradeoff_is_that_of_stats_and_what_it_beats_is_muted() -> None:
    trials = frame(9)
    points = trials[["metrics.decode_tokens_per_s", "metrics.ttft_s"]].to_numpy().tolist()
    front = {n for n, best in zip(trials["name"], stats.pareto_front(points, ["higher", "lower"]), strict=True) if best}
    figure = plots.draw(TRADEOFF, trials)
    strong = {text for t in figure.data if t.text and t.opacity == 1 for text in t.text}
    muted = {text for t in figure.data if t.text and t.opacity < 1 for text in t.text}
    edge = next(t for t in figure.data if t.name == "Pareto front")
    assert strong == front
    assert muted == set(trials["name"]) - front
    assert list(edge.x) == sorted(edge.x)
    assert len(edge.x) == len(front)


def test_a_crowded_tradeoff_names_only_its_front() -> None:
    figure = plots.draw(TRADEOFF, frame(plots.MOST_LABELS + 10))
    assert all(not any(t.text) for t in figure.data if t.text and t.opacity < 1)
    assert all(all(t.text) for t in figure.data if t.text and t.opacity == 1)


def test_measures_without_a_direction_have_no_front() -> None:
    trials = frame().assign(**{"metrics.output_tokens": [1.0, 2.0, 3.0, 4.0]})
    figure = plots.draw(replace(TRADEOFF, y="metrics.output_tokens"), trials)
    assert all(t.name != "Pareto front" and t.opacity == 1 for t in figure.data)


@pytest.mark.parametrize("chart", [LINE, BAR, TRADEOFF])
@pytest.mark.parametrize(
    "trials",
    [
        pd.DataFrame(),
        frame().drop(columns="metrics.decode_tokens_per_s"),
        frame().drop(columns=["params.threads", "metrics.ttft_s"]),
        frame().assign(**{"metrics.decode_tokens_per_s": math.nan}),
    ],
)
def test_what_cannot_be_drawn_becomes_a_sentence(chart: Chart, trials: pd.DataFrame) -> None:
    figure = plots.draw(chart, trials)
    assert not figure.data
    assert said(figure).endswith(".")


@pytest.mark.parametrize("chart", [LINE, BAR, TRADEOFF])
def test_one_row_and_rows_without_an_interval_are_drawn(chart: Chart) -> None:
    assert len(plots.draw(chart, frame(1)).data[-1].y) == 1
    bare = frame().drop(columns=[c for c in frame() if c.endswith(("_low", "_high"))])
    assert sum(len(t.y) for t in plots.draw(chart, bare).data if t.name != "Pareto front") == 4
    half = frame().assign(
        **{"metrics.decode_tokens_per_s_low": [math.nan, 1, 2, 3], "metrics.ttft_s": [math.nan, 1, 2, 3]}
    )
    plots.draw(chart, half)


def test_failed_trials_and_zeros_on_a_logarithmic_axis_are_left_out_and_said() -> None:
    trials = frame().assign(**{"metrics.decode_tokens_per_s": [math.inf, 0.0, 10.0, 20.0]})
    figure = plots.draw(replace(LINE, log_y=True), trials)
    assert list(figure.data[0].y) == [10.0, 20.0]
    assert "1 failed trial not drawn" in said(figure)
    assert "1 trial at 0" in said(figure)


def test_only_rows_of_the_charts_condition_are_drawn() -> None:
    chosen = replace(LINE, where=("params.threads", "4"))
    assert list(plots.draw(chosen, frame()).data[0].x) == [4]
    assert "No trial has threads 99" in said(plots.draw(replace(LINE, where=("params.threads", "99")), frame()))


def test_text_from_a_run_is_shown_and_never_read_as_markup() -> None:
    trials = frame().assign(name="<a href='//example.org'>x</a>", **{"params.model": "<b>bold</b>"})
    for chart in (LINE, BAR, TRADEOFF, replace(BAR, x="params.model")):
        drawn = str(plots.draw(chart, trials).to_dict())
        assert "<a " not in drawn
        assert "<b>bold" not in drawn


def test_categories_keep_the_order_in_which_they_were_measured() -> None:
    trials = frame().assign(
        started_at=pd.to_datetime([4, 3, 2, 1], unit="s", utc=True), **{"params.rung": ["Q2", "Q4", "Q8", "F32"]}
    )
    assert list(plots.draw(replace(BAR, x="params.rung"), trials).data[0].x) == ["F32", "Q8", "Q4", "Q2"]


@pytest.mark.parametrize("name", experiments.names())
def test_every_chart_of_every_experiment_can_be_drawn_before_anything_is_measured(name: str) -> None:
    cls = experiments.find(name)
    assert set(plots.figures(cls, pd.DataFrame())) == {chart.title for chart in cls.charts}


def test_a_timeline_shows_every_gap_and_their_median() -> None:
    made = sample_store.generations(np.random.default_rng(0), ttft_s=1, tpot_s=0.01, prompt=4, output=20, repeats=5)
    figure = plots.token_timeline(made, top_ms=30)
    *lines, median = figure.data
    gaps = np.diff([g.tokens_at_s for g in made], axis=1) * 1000
    assert np.array([t.y for t in lines]) == pytest.approx(gaps)
    assert list(median.y) == pytest.approx(np.median(gaps, axis=0))
    assert next(iter(lines[0].x)) == 2
    assert figure.layout.yaxis.range[1] == 30
    assert not plots.token_timeline([]).data
    assert not plots.token_timeline([replace(made[0], tokens_at_s=(1.0,))]).data


@pytest.mark.parametrize(("palette", "page"), [(plots.LIGHT, "#FFFFFF"), (plots.DARK, "#151515")])
def test_the_first_colours_stand_out_from_their_page(palette: tuple[str, ...], page: str) -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return float(
            np.dot(
                [0.2126, 0.7152, 0.0722], [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
            )
        )

    for colour in palette[:3]:
        low, high = sorted([luminance(colour), luminance(page)])
        assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 2.2, 1.4.11: graphical objects
    assert len(set(palette)) == len(palette)


def test_a_figure_has_no_background_of_its_own() -> None:
    figure = plots.draw(LINE, frame())
    assert figure.layout.paper_bgcolor is None
    assert figure.layout.template.layout.paper_bgcolor == "rgba(0,0,0,0)"

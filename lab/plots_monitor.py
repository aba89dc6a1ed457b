"""Figures of a service over time: latency percentiles with spikes marked, failures by kind, tokens, cost, evidence of drift.

They are drawn as `lab.plots` draws: its colours, its template, a sentence where there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from lab import names
from lab.plots import DARK, DASHES, LIGHT, SYMBOLS, empty, sentence

HEIGHT_PX = 320
PATTERNS = ("", "/", "x", ".")


def latency(series: pd.DataFrame, measure: str = "ttft_s", *, dark: bool = False) -> go.Figure:
    """p50, p95 and p99 of one duration over time (a frame of `lab.ops.monitor.series`), with its spikes marked."""
    name = names.describe(measure)
    title = f"{name.heading} of answered requests"
    if series.empty or series[f"{measure}_p50"].isna().all():
        return sentence(title, "No answered request in this window.", dark)
    figure, colours = _over_time(title, dark), DARK if dark else LIGHT
    for i, q in enumerate((50, 95, 99)):
        column = series[f"{measure}_p{q}"] * name.scale
        alone = column.notna() & column.shift().isna() & column.shift(-1).isna()
        figure.add_scatter(
            x=_times(series), y=_values(column), name=f"p{q}", mode="lines+markers" if alone.any() else "lines",
            line={"color": colours[i], "dash": DASHES[i], "width": 2}, marker={"size": 5, "symbol": SYMBOLS[i]},
            hovertemplate=f"%{{x|%d %b %H:%M:%S}}: p{q} %{{y:,.4g}} {name.unit}<extra></extra>")
    marked = series[series[f"{measure}_spike"]]
    if len(marked):
        figure.add_scatter(
            x=_times(marked), y=_values(marked[f"{measure}_p95"] * name.scale), name="spike", mode="markers",
            marker={"color": colours[1], "symbol": "x", "size": 11},
            hovertemplate=f"%{{x|%d %b %H:%M:%S}}: spike, p95 %{{y:,.4g}} {name.unit}<extra></extra>")
    figure.update_yaxes(title_text=name.unit, rangemode="tozero")
    return figure


def failures(kinds: pd.DataFrame, series: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """Failed requests per bucket by kind (a frame of `lab.ops.monitor.errors`), and the buckets that stand out."""
    title = "Failed requests by kind"
    if kinds.empty or not kinds.to_numpy().sum():
        return sentence(title, "No request failed in this window.", dark)
    figure, colours = _over_time(title, dark), DARK if dark else LIGHT
    for i, kind in enumerate(kinds.columns):
        figure.add_bar(x=_stamps(kinds.index), y=kinds[kind].tolist(), name=str(kind),
                       marker={"color": colours[i % len(colours)], "line_width": 0, "pattern": {"shape": PATTERNS[i % 4]}},
                       hovertemplate=f"%{{x|%d %b %H:%M:%S}}: %{{y:,}} {kind}<extra></extra>")
    marked = series[series["errors"]]
    if len(marked):
        figure.add_scatter(x=_times(marked), y=_values(marked["failed"]), name="stands out", mode="markers",
                           marker={"color": colours[1], "symbol": "x", "size": 9},
                           hovertemplate="%{x|%d %b %H:%M:%S}: %{y:,} failed, more than elsewhere<extra></extra>")
    figure.update_layout(barmode="stack", bargap=0.05)
    figure.update_yaxes(title_text="Requests", rangemode="tozero")
    return figure


def tokens(series: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """Tokens per bucket: of prompts that were read, of prompts from a cache, and of answers."""
    title = "Tokens"
    if series.empty or series[["prompt_tokens", "output_tokens"]].isna().all().all():
        return sentence(title, "No request with token counts in this window.", dark)
    figure, colours = _over_time(title, dark), DARK if dark else LIGHT
    cached = series["cached_tokens"].fillna(0)
    parts = (("prompt", series["prompt_tokens"] - cached, ""), ("prompt, cached", cached, "/"),
             ("answer", series["output_tokens"], "x"))
    for i, (said, column, pattern) in enumerate(parts):
        figure.add_bar(x=_times(series), y=_values(column), name=said,
                       marker={"color": colours[i], "line_width": 0, "pattern": {"shape": pattern}},
                       hovertemplate=f"%{{x|%d %b %H:%M:%S}}: %{{y:,}} tokens, {said}<extra></extra>")
    figure.update_layout(barmode="stack", bargap=0.05)
    figure.update_yaxes(title_text="Tokens", rangemode="tozero")
    return figure


def cost(series: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """Cost per bucket in USD, by the price book; buckets without a priced request are empty."""
    title = "Cost (USD)"
    if series.empty or series["cost_usd"].isna().all():
        return sentence(title, "No request has a price: the price book does not know its model.", dark)
    figure, colours = _over_time(title, dark), DARK if dark else LIGHT
    figure.add_bar(x=_times(series), y=_values(series["cost_usd"]), marker={"color": colours[0], "line_width": 0},
                   showlegend=False, hovertemplate="%{x|%d %b %H:%M:%S}: %{y:.4g} USD<extra></extra>")
    figure.update_layout(bargap=0.05)
    figure.update_yaxes(title_text="USD", rangemode="tozero")
    return figure


def evidence(paths: dict[str, Sequence[float]], *, began: float = math.nan, dark: bool = False) -> go.Figure:
    """Evidence of drift as a share of what raises an alarm, over requests; `began` is where a change truly began."""
    title = "Evidence of drift, share of an alarm's (logarithms)"
    if not any(len(path) for path in paths.values()):
        return sentence(title, "No value to follow.", dark)
    figure, colours = empty(title, [], dark), DARK if dark else LIGHT
    for i, (said, path) in enumerate(paths.items()):
        step = max(1, len(path) // 600)
        figure.add_scatter(x=list(range(1, len(path) + 1, step)), y=list(path[::step]), name=said, mode="lines",
                           line={"color": colours[i % len(colours)], "dash": DASHES[i % len(DASHES)], "width": 2},
                           hovertemplate=f"request %{{x:,}}: {said} %{{y:.2f}}<extra></extra>")
    figure.add_hline(y=1, line_dash="dot", line_width=1, line_color=colours[1])
    if not math.isnan(began):
        figure.add_vline(x=began, line_dash="dash", line_width=1, line_color=colours[3])
    figure.update_xaxes(title_text="Request")
    figure.update_yaxes(title_text="Share of an alarm's", rangemode="tozero")
    return figure


def _over_time(title: str, dark: bool) -> go.Figure:
    figure = empty(title, [], dark)
    figure.update_layout(height=HEIGHT_PX, legend={"y": -0.32})
    figure.update_xaxes(type="date", tickformat="%H:%M\n%d %b", nticks=7)
    return figure


def _times(series: pd.DataFrame) -> list[pd.Timestamp]:
    return _stamps(series["time_s"])


def _stamps(seconds: Sequence[float] | pd.Index | pd.Series) -> list[pd.Timestamp]:
    """Without a zone, which plotly would turn into that of the reader's browser."""
    return [pd.Timestamp(float(one), unit="s").round("ms") for one in seconds]


def _values(column: pd.Series) -> list[float | None]:
    return [None if value != value else float(value) for value in column]

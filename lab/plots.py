"""Frames to figures; the one place where a figure is made, shared by the notebooks and the dashboard.

Colours are those of Okabe and Ito (2008), told apart with any colour vision; shapes and dashes repeat what they say.
A figure carries no background and sets the colours of its text and grid in its template only, so that the page around
it (light or dark) can replace them. What cannot be drawn becomes a figure with a sentence, never an error.
"""

from __future__ import annotations

import functools
import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lab import names, stats
from lab.experiments import Chart, Experiment
from lab.metrics import service, speed
from lab.records import Generation

LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DARK = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#FFFFFF")
"""Okabe and Ito's colours in the order of their contrast with a white and with a black page."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

CONFIG: Mapping[str, Any] = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "png", "scale": 2, "filename": "lab"},
}
"""What to pass to plotly when it shows a figure: no logo, and a picture that is sharp enough to print."""

HEIGHT_PX = 400
STRIP_PX = 110
"""Height of a strip under an answer."""
MOST_LINES = 40
"""A figure of intervals has this many lines at most; what is beyond stands in the table."""
MOST_GENERATIONS = 30
"""A timeline draws this many generations at most; more lines than that are a grey field."""

_NARROW_PX = 320.0
"""Width of the drawing on a phone, for which labels are placed: what finds room there finds it anywhere."""

MOST_LABELS = 14
"""A trade-off of more points names only those on its front; pointing at one names any."""

_LABEL_PX = (6.6, 13.0)
"""Width of a character and height of a line of a point's label."""


def config(name: str) -> dict[str, Any]:
    """`CONFIG` for a figure of this name, which its picture is saved under."""
    slug = "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in name.lower()).split())
    options = {**CONFIG["toImageButtonOptions"], "filename": f"lab-{slug[:60]}" if slug else "lab"}
    return {**CONFIG, "toImageButtonOptions": options}


def picture(name: str) -> dict[str, Any]:
    """`config` for a small figure: the one button saves its picture."""
    return {**config(name), "modeBarButtons": [["toImage"]]}


def draw(chart: Chart, trials: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """The figure of `chart` over a frame of trials (columns as `lab.ops.tracking.frame` gives them).

    Intervals come from the `_low` and `_high` columns beside a measure. When trials of several runs (`parent_id`) are
    in the frame they lie over each other, told apart by the column `run` where there is one, else by the run's id.
    """
    rows = _chosen(chart, trials)
    if isinstance(rows, str):
        return sentence(chart.title, rows, dark)
    rows, notes = _drawable(chart, rows)
    if rows.empty:
        return sentence(chart.title, " ".join(["No trial has both values yet.", *notes]), dark)
    figure = empty(chart.title, notes, dark)
    painter = {"line": _line, "bar": _bar, "tradeoff": _tradeoff}[chart.kind]
    painter(figure, chart, rows, DARK if dark else LIGHT)
    _axes(figure, chart, rows)
    return figure


def figures(experiment: type[Experiment], trials: pd.DataFrame, *, dark: bool = False) -> dict[str, go.Figure]:
    """Every chart that `experiment` lists, by its title."""
    return {chart.title: draw(chart, trials, dark=dark) for chart in experiment.charts_of(trials)}


def token_timeline(
    generations: Sequence[Generation], *, title: str = "Gap before each token", top_ms: float | None = None,
    dark: bool = False,
) -> go.Figure:
    """Every gap between the tokens of one trial in ms over the token's number, with the median over its generations.

    `top_ms` ends the axis, so that two trials can be drawn to one scale.
    """
    gaps = [[gap * 1e3 for gap in speed.itl_s(g) if math.isfinite(gap)] for g in generations]
    gaps = [row for row in gaps if row]
    if not gaps:
        return sentence(title, "No generation has two tokens, so there is no gap to show.", dark)
    notes = [] if len(gaps) <= MOST_GENERATIONS else [f"The first {MOST_GENERATIONS} of {len(gaps)} generations."]
    figure = empty(title, notes, dark)
    colours = DARK if dark else LIGHT
    for row in gaps[:MOST_GENERATIONS]:
        figure.add_scatter(
            x=list(range(2, len(row) + 2)), y=row, mode="lines", line_color=colours[0], line_width=1,
            opacity=1.0 if len(gaps) == 1 else 0.35, name="one generation", legendgroup="one",
            showlegend=row is gaps[0] and len(gaps) > 1, hovertemplate="token %{x}: %{y:.2f} ms<extra></extra>",
        )
    if len(gaps) > 1:
        table = np.full((len(gaps), max(map(len, gaps))), np.nan)
        for i, row in enumerate(gaps):
            table[i, : len(row)] = row
        figure.add_scatter(
            x=list(range(2, table.shape[1] + 2)), y=np.nanmedian(table, axis=0).tolist(), mode="lines", name="median",
            line_color=colours[1], line_width=2, hovertemplate="token %{x}: median %{y:.2f} ms<extra></extra>",
        )
    figure.update_xaxes(title_text="Token")
    figure.update_yaxes(title_text="Gap (ms)", rangemode="tozero", range=[0, top_ms] if top_ms else None)
    return figure


def intervals(column: str, trials: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """One measure of every trial as a point with its interval, one line a trial, the best on top."""
    name = names.describe(column)
    chart = Chart(title=name.label, kind="tradeoff", x=column, y=column)
    rows = _chosen(chart, trials)
    if isinstance(rows, str):
        return sentence(name.label, rows, dark)
    rows, notes = _drawable(chart, rows)
    if rows.empty:
        return sentence(name.label, "No trial has this measure.", dark)
    rows = rows.sort_values("x", ascending=name.better != "lower", kind="stable")
    if len(rows) > MOST_LINES:
        rows, notes = rows.tail(MOST_LINES), [*notes, f"The {MOST_LINES} best of {len(rows)} trials."]
    rows["line"] = [f"{label} · {run}" if run else label for label, run in zip(rows["label"], rows["run"], strict=True)]
    figure = empty(f"{name.heading}, {name.better} is better" if name.better != "neither" else name.heading, notes, dark)
    for part, said, colour, shape in _traces(rows.assign(series=""), DARK if dark else LIGHT):
        figure.add_scatter(
            x=part["x"].tolist(), y=part["line"].tolist(), mode="markers", name=said, hovertext=part["hover"].tolist(),
            hoverinfo="text", error_x=_whiskers(part, "x", colour), cliponaxis=False,
            marker={"color": colour, "size": 9, "symbol": SYMBOLS[shape % len(SYMBOLS)]})
    lowest, highest = (float(rows.get(f"x_{side}", pd.Series(0.0, index=rows.index)).fillna(0).max()) for side in ("low", "high"))
    if rows["x"].min() >= 0 and rows["x"].max() + highest > 0 and rows["x"].min() - lowest >= -1e-9:
        figure.update_xaxes(rangemode="tozero")
    else:
        figure.update_xaxes(zeroline=True)
    figure.update_layout(height=110 + 24 * len(rows) + 17 * len(notes), showlegend=rows["run"].nunique() > 1)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=rows["line"].tolist(), ticks="")
    figure.update_xaxes(title_text="")
    return figure


def token_strip(
    generation: Generation, *, top_ms: float | None = None, title: str = "", dark: bool = False
) -> go.Figure:
    """A low strip of bars: the gap before each token of one answer in ms, stalls marked, tokens of one step as dots.

    A stall is what `lab.metrics.service` calls one. `top_ms` ends the axis, so that two answers can be drawn to one scale.
    """
    gaps = [gap * 1e3 for gap in speed.itl_s(generation) if math.isfinite(gap)]
    if not gaps:
        return sentence(title, "Fewer than two tokens, so there is no gap to show.", dark).update_layout(height=STRIP_PX)
    colours, limit = DARK if dark else LIGHT, stall_s(generation) * 1e3
    figure = empty(title, [], dark)
    joined = "accepted from a draft" if generation.usage.drafted_tokens else "came with the one before"
    for name, colour, kept in (("gap", 0, lambda gap: 0 < gap <= limit), ("stall", 1, lambda gap: gap > limit)):
        places = [i for i, gap in enumerate(gaps) if kept(gap)]
        if places:
            figure.add_bar(x=[i + 2 for i in places], y=[gaps[i] for i in places], name=name,
                           marker={"color": colours[colour], "line_width": 0, "pattern": {"shape": "/" if colour else ""}},
                           hovertemplate=f"token %{{x}}: {name} of %{{y:.2f}} ms<extra></extra>")
    if together := [i + 2 for i, gap in enumerate(gaps) if gap == 0]:
        figure.add_scatter(x=together, y=[0] * len(together), mode="markers", name=joined, cliponaxis=False,
                           marker={"color": colours[2], "size": 4, "symbol": "square"},
                           hovertemplate=f"token %{{x}} {joined}<extra></extra>")
    top = max(top_ms or 0.0, max(gaps)) or 1.0
    # A bar of one pixel beside thin air is lost: few tokens get wide bars, and one tick says how high the highest is.
    figure.update_layout(height=STRIP_PX, bargap=0.15, showlegend=False, margin={"l": 8, "r": 8, "t": 26 if title else 8, "b": 4})
    figure.update_layout(title={"font": {"size": 13}, "pad": {"t": 4, "l": 4}}, font={"size": 11})
    highest = f"{top:,.0f} ms" if top >= 100 else f"{top:.3g} ms"
    figure.update_yaxes(range=[0, top * 1.08], tickvals=[0, top], ticktext=["0", highest], showgrid=False)
    figure.update_xaxes(range=[1, len(gaps) + 2], nticks=6, fixedrange=True)
    figure.update_yaxes(fixedrange=True)
    return figure


def stall_s(generation: Generation) -> float:
    """The gap in seconds from which on this answer stalled; infinite without gaps."""
    gaps = [gap for gap in speed.itl_s(generation) if math.isfinite(gap)]
    return max(service.STALL_S, service.STALL_FACTOR * float(np.median(gaps))) if gaps else math.inf


# From the frame to rows that can be drawn


def _chosen(chart: Chart, trials: pd.DataFrame) -> pd.DataFrame | str:
    """The rows of this chart, oldest first, or the sentence that says why there are none."""
    if trials.empty:
        return "No trial to show yet."
    wanted = [chart.x, chart.y, *filter(None, [chart.series, chart.label]), *([chart.where[0]] if chart.where else [])]
    for column in wanted:
        if column not in trials and column not in (chart.series, chart.label):
            return f"{names.describe(column).label} was not measured in these trials."
    rows = trials.sort_values("started_at", kind="stable") if "started_at" in trials else trials
    if chart.where:
        column, value = chart.where
        rows = rows[rows[column].map(_text) == value]
        if rows.empty:
            return f"No trial has {names.describe(column).label.lower()} {value}."
    return rows


def _drawable(chart: Chart, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows with scaled `x`, `y` and the lengths of their error bars, and what to say about the rest."""
    out = pd.DataFrame(index=rows.index)
    numeric_x = pd.api.types.is_numeric_dtype(rows[chart.x]) and chart.kind != "bar"
    for axis, column in (("x", chart.x), ("y", chart.y)):
        if axis == "x" and not numeric_x:
            out["x"] = [html.escape(_text(value)) for value in rows[column]]
            continue
        name = names.describe(column)
        value = pd.to_numeric(rows[column], errors="coerce") * name.scale
        out[axis] = value
        for side, sign in (("low", -1), ("high", 1)):
            bound = rows.get(f"{column}_{side}", pd.Series(np.nan, index=rows.index))
            out[f"{axis}_{side}"] = (sign * (pd.to_numeric(bound, errors="coerce") * name.scale - value)).clip(lower=0)
    out["run"] = _runs(rows)
    out["series"] = [_text(v) for v in rows[chart.series]] if chart.series in rows else ""
    label = chart.label if chart.label in rows else "name" if "name" in rows else None
    out["label"] = [html.escape(_text(v)) for v in rows[label]] if label else ""
    out["hover"] = [_hover(chart, row, run) for (_, row), run in zip(rows.iterrows(), out["run"], strict=True)]

    measured = out["y"].notna() & (out["x"].notna() if numeric_x else out["x"] != "")
    finite = measured & np.isfinite(out["y"]) & (np.isfinite(out["x"]) if numeric_x else True)
    positive = finite.copy()
    if chart.log_y:
        positive &= out["y"] > 0
    if chart.log_x and numeric_x:
        positive &= out["x"] > 0
    notes = []
    if infinite := int((measured & ~finite).sum()):
        notes.append(f"{_count(infinite, 'failed trial')} not drawn.")
    if zero := int((finite & ~positive).sum()):
        notes.append(f"{_count(zero, 'trial')} at 0 cannot be drawn on a logarithmic axis.")
    return out[positive], notes


def _runs(rows: pd.DataFrame) -> list[str]:
    """What tells the runs apart: empty texts when there is only one."""
    if "parent_id" not in rows or rows["parent_id"].nunique() < 2:
        return [""] * len(rows)
    return [_text(v) for v in rows["run"]] if "run" in rows else [_text(v)[:8] for v in rows["parent_id"]]


def _hover(chart: Chart, row: pd.Series[Any], run: str) -> str:
    lines = [f"<b>{html.escape(_text(row.get('name', '')))}</b>", html.escape(run)]
    for column in filter(None, [chart.x, chart.y, chart.series]):
        if column not in row:
            continue
        name, value = names.describe(column), row[column]
        text = html.escape(_text(value))
        if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
            text = f"{name.show(float(value))} {name.unit}".strip()
            low, high = (float(row.get(f"{column}_{side}", math.nan)) for side in ("low", "high"))
            if not math.isnan(low + high):
                text += f"  [{name.show(low)}, {name.show(high)}]"
        lines.append(f"{html.escape(name.label)}: {text}")
    return "<br>".join(filter(None, lines))


# The three kinds of figure


def _line(figure: go.Figure, chart: Chart, rows: pd.DataFrame, colours: Sequence[str]) -> None:
    for part, name, colour, shape in _traces(rows, colours):
        if pd.api.types.is_numeric_dtype(part["x"]):
            part = part.sort_values("x", kind="stable")
        figure.add_scatter(
            x=part["x"].tolist(), y=part["y"].tolist(), name=name, mode="lines+markers",
            hovertext=part["hover"].tolist(), hoverinfo="text",
            line={"color": colour, "dash": DASHES[shape % len(DASHES)], "width": 2},
            marker={"color": colour, "symbol": SYMBOLS[shape % len(SYMBOLS)], "size": 8},
            error_y=_whiskers(part, "y", colour), error_x=_whiskers(part, "x", colour),
        )
    low, high = rows["y"].min(), rows["y"].max()
    # From zero where that costs little: a rate that halves should look halved, a perplexity that moves should be seen.
    if not chart.log_y and low >= 0 and low < 0.7 * high:
        figure.update_yaxes(rangemode="tozero")


def _bar(figure: go.Figure, chart: Chart, rows: pd.DataFrame, colours: Sequence[str]) -> None:
    for part, name, colour, shape in _traces(rows, colours):
        figure.add_bar(
            x=part["x"].tolist(), y=part["y"].tolist(), name=name, hovertext=part["hover"].tolist(), hoverinfo="text",
            marker={"color": colour, "pattern": {"shape": ("", "/", "x", "-", "+", ".")[shape % 6], "solidity": 0.25}},
            error_y=_whiskers(part, "y", None),
        )
    figure.update_layout(barmode="group", bargap=0.3)
    figure.update_xaxes(type="category")


def _tradeoff(figure: go.Figure, chart: Chart, rows: pd.DataFrame, colours: Sequence[str]) -> None:
    directions = [names.describe(column).better for column in (chart.x, chart.y)]
    known: list[Literal["higher", "lower"]] = [d for d in directions if d != "neither"]
    judged = len(known) == 2 and pd.api.types.is_numeric_dtype(rows["x"])
    front = stats.pareto_front(rows[["x", "y"]].to_numpy().tolist(), known) if judged else [True] * len(rows)
    rows = rows.assign(front=front)
    if len(rows) > MOST_LABELS:
        rows["label"] = rows["label"].where(rows["front"], "")
    rows["place"] = _places(rows, chart)
    if judged and sum(front) > 1:
        edge = rows[rows["front"]].sort_values(["x", "y"])
        figure.add_scatter(
            x=edge["x"].tolist(), y=edge["y"].tolist(), mode="lines", name="Pareto front", hoverinfo="skip",
            line={"color": "#8C8C8C", "dash": "dot", "width": 1.5},
        )
    for part, name, colour, shape in _traces(rows, colours):
        symbol = SYMBOLS[shape % len(SYMBOLS)]
        for best, points in part.groupby("front", sort=True):
            figure.add_scatter(
                x=points["x"].tolist(), y=points["y"].tolist(), mode="markers+text", text=points["label"].tolist(),
                textposition=points["place"].tolist(), textfont_size=11, hovertext=points["hover"].tolist(),
                hoverinfo="text", cliponaxis=False, opacity=1.0 if best else 0.55, legendgroup=name or None,
                name=name or ("Not dominated" if best else "Dominated"),
                showlegend=bool(best) or not part["front"].any() or not name,
                marker={"color": colour, "size": 10 if best else 8, "symbol": symbol if best else f"{symbol}-open"},
                error_y=_whiskers(points, "y", colour), error_x=_whiskers(points, "x", colour),
            )
    figure.update_layout(margin_r=44)
    updates = (figure.update_xaxes, figure.update_yaxes)
    for update, column, better in zip(updates, (chart.x, chart.y), directions, strict=True):
        if better != "neither":
            update(title_text=f"{_heading(column)} – {better} is better")


def _traces(rows: pd.DataFrame, colours: Sequence[str]) -> list[tuple[pd.DataFrame, str, str, int]]:
    """(rows, name, colour, shape) of each trace: colour tells the series apart and shape the run, or colour both."""
    series, runs = list(dict.fromkeys(rows["series"])), list(dict.fromkeys(rows["run"]))
    out = []
    for i, run in enumerate(runs):
        for j, value in enumerate(series):
            part = rows[(rows["run"] == run) & (rows["series"] == value)]
            if part.empty:
                continue
            colour, shape = (j, i) if len(series) > 1 else (i, i)
            said = (run,) if run and len(series) == 1 else (value, run)
            name = " · ".join(html.escape(text) for text in said if text)
            out.append((part, name, colours[colour % len(colours)], shape))
    return out


def _whiskers(part: pd.DataFrame, axis: str, colour: str | None) -> dict[str, Any] | None:
    """The error bars of one trace; None where no point has an interval."""
    if f"{axis}_high" not in part:
        return None
    low, high = part[f"{axis}_low"], part[f"{axis}_high"]
    if not (np.isfinite(low) & np.isfinite(high)).any():
        return None
    clean = [[value if math.isfinite(value) else 0.0 for value in side] for side in (high, low)]
    bars = {"type": "data", "symmetric": False, "array": clean[0], "arrayminus": clean[1], "thickness": 1.2, "width": 4}
    return {**bars, "color": colour or "#7F7F7F"}


def _places(rows: pd.DataFrame, chart: Chart) -> list[str]:
    """Where each point's label goes, so that labels hide neither points nor one another where that can be had.

    Always to a corner: straight above and beside the point are its error bars.
    """
    if not pd.api.types.is_numeric_dtype(rows["x"]):
        return ["top right"] * len(rows)
    x = _across(rows["x"].to_numpy(dtype=float), chart.log_x, _NARROW_PX)
    y = _across(rows["y"].to_numpy(dtype=float), chart.log_y, HEIGHT_PX - 150.0)
    taken = [(px - 6, py - 6, px + 6, py + 6) for px, py in zip(x, y, strict=True)]
    out = []
    for px, py, label in zip(x, y, rows["label"], strict=True):
        width, height = len(html.unescape(label)) * _LABEL_PX[0], _LABEL_PX[1]
        boxes = {
            "top right": (px + 4, py + 5, px + 4 + width, py + 5 + height),
            "bottom right": (px + 4, py - 5 - height, px + 4 + width, py - 5),
            "top left": (px - 4 - width, py + 5, px - 4, py + 5 + height),
            "bottom left": (px - 4 - width, py - 5 - height, px - 4, py - 5),
        }
        place = min(boxes, key=lambda name: sum(_overlap(boxes[name], box) for box in taken)
                    + (1e4 if boxes[name][0] < -40 or boxes[name][2] > _NARROW_PX + 40 else 0))
        taken.append(boxes[place])
        out.append(place)
    return out


def _across(values: np.ndarray[Any, Any], log: bool, pixels: float) -> np.ndarray[Any, Any]:
    values = np.log10(values) if log else values
    span = np.ptp(values) or 1.0
    placed: np.ndarray[Any, Any] = (values - values.min()) / span * pixels
    return placed


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


# What all figures share


def _axes(figure: go.Figure, chart: Chart, rows: pd.DataFrame) -> None:
    numeric = pd.api.types.is_numeric_dtype(rows["x"])
    if chart.kind != "tradeoff" or not figure.layout.xaxis.title.text:
        figure.update_xaxes(title_text=_heading(chart.x))
    if chart.kind != "tradeoff" or not figure.layout.yaxis.title.text:
        figure.update_yaxes(title_text=_heading(chart.y))
    if chart.log_y:
        figure.update_yaxes(type="log", dtick=1 if rows["y"].max() > 100 * rows["y"].min() else None)
    if not numeric:
        figure.update_xaxes(type="category")
        return
    if chart.log_x:
        figure.update_xaxes(type="log")
    points = sorted(set(rows["x"]))
    # A few measured points say more as ticks (1, 2, 4 threads) than the round numbers between them.
    if chart.kind == "line" and len(points) <= 10 and _apart(points, chart.log_x):
        figure.update_xaxes(tickvals=points, ticktext=[f"{v:,.6g}" for v in points], minor_ticks="")
    elif chart.log_x:
        figure.update_xaxes(dtick=1 if points[-1] > 100 * points[0] else None)


def _apart(points: Sequence[float], log: bool) -> bool:
    at = np.log(points) if log else np.asarray(points)
    return len(points) == 1 or float(np.diff(at).min()) > 0.08 * float(np.ptp(at))


def empty(title: str, notes: Sequence[str], dark: bool) -> go.Figure:
    """A figure with its title and nothing drawn yet."""
    lines = textwrap.wrap(title, 44) or [""]
    small = [line for note in notes for line in textwrap.wrap(note, 56)]
    head = "<br>".join(html.escape(line) for line in lines)
    if small:
        head += "".join(f"<br><span style='font-size:12px'>{html.escape(line)}</span>" for line in small)
    # Made in one piece: every update of a figure checks all of its layout again, which is most of the time of a figure.
    return go.Figure(layout={
        "template": _template(dark), "height": HEIGHT_PX,
        "margin": {"l": 8, "r": 12, "t": 30 + 22 * len(lines) + 17 * len(small), "b": 8},
        "title": {"text": head, "font": {"size": 16}, "x": 0, "xanchor": "left", "y": 1, "yanchor": "top",
                  "yref": "container", "pad": {"t": 10, "l": 4}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.22, "yanchor": "top", "title": {"text": ""}},
        "hovermode": "closest",
        "xaxis": {"automargin": True, "showgrid": False, "showline": True, "ticks": "outside", "ticklen": 4},
        "yaxis": {"automargin": True, "zeroline": False},
    })


@functools.cache
def _template(dark: bool) -> go.layout.Template:
    text, grid = ("#E6E6E6", "#3A3F48") if dark else ("#262626", "#E2E2E2")
    return go.layout.Template(layout={
        "font": {"color": text, "size": 13}, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": {"gridcolor": grid, "linecolor": grid, "zerolinecolor": grid},
        "yaxis": {"gridcolor": grid, "linecolor": grid, "zerolinecolor": grid},
        "hoverlabel": {"align": "left"},
    })


def sentence(title: str, said: str, dark: bool) -> go.Figure:
    """A figure that says why there is nothing to draw."""
    figure = empty(title, [], dark)
    figure.update_layout(height=150)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    text = "<br>".join(html.escape(line) for line in textwrap.wrap(said, 48))
    figure.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper", font_size=13)
    return figure


def _heading(column: str) -> str:
    return html.escape(names.describe(column).heading)


def _text(value: Any) -> str:
    """A setting as text: whole floats without their `.0` (one missing value makes a column of numbers floats)."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA:
        return ""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

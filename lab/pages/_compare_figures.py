"""The part of Compare that draws: the trade-off of any two measures with its Pareto front, and the experiment's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from lab import plots, wording
from lab.experiments import Chart, Experiment
from lab.names import compared, describe
from lab.pages import _compare_address, _store
from lab.pages._compare_table import measures

SPEED = ("decode_tokens_per_s", "output_tokens_per_s", "requests_per_s", "ttft_s")
QUALITY = ("quality", "accuracy", "answered_share", "perplexity")
"""What is drawn first where trials carry both: speed of one answer before that of many, answers before probabilities."""
FIRST = 2
Selection = dict[str, list[str]]


def tradeoff(
    cls: type[Experiment] | None, trials: pd.DataFrame, measures: Sequence[str], seed: Selection, round_: int
) -> Selection:
    """Any two measures against each other, with the Pareto front."""
    judged = [c for c in measures if describe(c).better != "neither" and not compared(c)]
    if len(judged) < 2 or len(trials) < 2:
        return {}
    st.subheader("Trade-off", anchor=False)
    own = next((c for c in (cls.charts_of(trials) if cls else ()) if c.kind == "tradeoff"), None)
    usual = (own.x, own.y) if own and {own.x, own.y} <= set(judged) else _beside(judged) or _opposed(cls, judged)
    picked = []
    for key, what in (("x", "the measure across"), ("y", "the measure up")):
        _compare_address.lost(seed, key, what, [c.removeprefix("metrics.") for c in judged])
    for column, key, start in zip(st.columns(2, gap="medium"), ("x", "y"), usual, strict=True):
        asked = f"metrics.{seed.get(key, [''])[0]}"
        with column:
            picked.append(st.selectbox(
                "Across" if key == "x" else "Up", judged, index=judged.index(asked if asked in judged else start),
                format_func=lambda c: describe(c).heading, key=f"{key} {round_} {cls.__name__ if cls else ''}"))
    x, y = picked
    chart = Chart(title=f"{describe(y).label} against {describe(x).label.lower()}", kind="tradeoff", x=x, y=y,
                  label=own.label if own else None)
    show(drawn(chart, trials, dark()), "trade-off")
    st.caption("Filled points are on the Pareto front: no other trial is at least as good in both and better in one. "
               "Hollow ones are beaten by another trial. Bars are 95% intervals.")
    return {"x": [x.removeprefix("metrics.")], "y": [y.removeprefix("metrics.")]}


def _beside(measures: Sequence[str]) -> tuple[str, str] | None:
    """Speed and quality, where the trials carry both; the most telling of each."""
    speeds, qualities = ([f"metrics.{name}" for name in wanted if f"metrics.{name}" in measures] for wanted in (SPEED, QUALITY))
    return (speeds[0], qualities[0]) if speeds and qualities else None


def _opposed(cls: type[Experiment] | None, judged: Sequence[str]) -> tuple[str, str]:
    """The two measures to draw when the experiment names none: of its figures, one to raise and one to lower."""
    drawn = [chart.y for chart in (cls.charts if cls else ()) if chart.y in judged]
    ordered = list(dict.fromkeys([*drawn, *judged]))
    higher = next((c for c in ordered if describe(c).better == "higher"), ordered[0])
    return higher, next((c for c in ordered if describe(c).better == "lower" and c != higher), ordered[-1])


def figures(cls: type[Experiment] | None, trials: pd.DataFrame, wanted: Mapping[str, list[str]], seed: Selection,
            key: str) -> Selection:
    """The experiment's own figures, except a trade-off that is already drawn above; the first ones until all are asked for.

    Each figure is made, sent and drawn again at every change of the selection.
    """
    if cls is None:
        return {}
    listed, beside = cls.charts_of(trials), _beside(measures(cls, trials))
    if beside and len(trials) > 1 and not any(chart.kind == "tradeoff" and (chart.x, chart.y) == beside for chart in listed):
        label = next((chart.label for chart in listed if chart.kind == "tradeoff"), None)
        listed = (*listed, Chart(title="Quality beside speed", kind="tradeoff", x=beside[0], y=beside[1], label=label))
    left = [chart for chart in listed if not (chart.kind == "tradeoff" and _same(chart, wanted))]
    st.subheader("Figures", anchor=False)
    asked = seed.get("figures") == ["all"]
    every = len(left) > FIRST and st.toggle(f"All {len(left)} figures", value=asked, key=f"figures {key}")
    left = left if every else left[:FIRST]
    shown = {chart.title: _of_trials(chart, _store.token(), tuple(trials["run_id"]), tuple(trials["run"]), dark(), trials)
             for chart in left}
    titles = [title for title, figure in shown.items() if figure.data]
    for i in range(0, len(titles), 2):
        for column, title in zip(st.columns(2, gap="medium"), titles[i : i + 2], strict=False):
            with column:
                show(shown[title], title)
    if missing := [title.lower() for title in shown if title not in titles]:
        st.caption(wording.plain(f"Not measured in these trials: {', '.join(missing)}."))
    return {"figures": ["all"]} if every else {}


def _same(chart: Chart, wanted: Mapping[str, list[str]]) -> bool:
    x, y = chart.x.removeprefix("metrics."), chart.y.removeprefix("metrics.")
    return [x] == wanted.get("x") and [y] == wanted.get("y")


@st.cache_resource(show_spinner=False, max_entries=256)
def _of_trials(
    chart: Chart, token: str, run_ids: tuple[str, ...], runs: tuple[str, ...], dark_: bool, _trials: pd.DataFrame
) -> Any:
    """`drawn` for trials as they are in the store: their ids say which frame it is, and a frame takes 10 ms to be hashed."""
    return plots.draw(chart, _trials, dark=dark_)


@st.cache_resource(show_spinner=False, max_entries=256)
def drawn(chart: Chart, trials: pd.DataFrame, dark_: bool) -> Any:
    """The figure, made once: building six takes 0.2 s, sending them 0.02 s. Nobody changes what this returns."""
    return plots.draw(chart, trials, dark=dark_)


def show(figure: Any, key: str) -> None:
    st.plotly_chart(figure, config=plots.config(key), key=f"figure {key}")


def dark() -> bool:
    return st.context.theme.type == "dark"



"""The part of Compare that lists the trials: settings that differ, measures with intervals, cautions, and marks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from lab import wording
from lab.experiments import Experiment
from lab.names import compared, describe
from lab.ops import compare
from lab.pages import _compare_marks


def measures(cls: type[Experiment] | None, trials: pd.DataFrame) -> list[str]:
    """The measures that were taken, those of the experiment's table first, then the rest."""
    columns = [str(c) for c in trials.columns if str(c).startswith("metrics.")]
    bounds = {f"{c}_{side}" for c in columns for side in ("low", "high")}
    first = [f"metrics.{name}" for name in (cls.columns_of(trials) if cls else ())]
    ordered = [*first, *(c for c in columns if c not in first and not compared(c))]
    return [c for c in ordered if c in columns and c not in bounds and trials[c].notna().any()]


def show(
    experiment: str, cls: type[Experiment] | None, runs: pd.DataFrame, trials: pd.DataFrame, shown: Sequence[str],
    baseline: str, tested: Mapping[str, Sequence[compare.Row]],
) -> None:
    st.subheader("Trials", anchor=False)
    config: dict[str, Any] = {}
    table = pd.DataFrame({"Trial": trials["name"]})
    config["Trial"] = st.column_config.TextColumn(pinned=True)
    if len(runs) > 1:
        table["Run"] = trials["run"]
    flags = trials["tags.lab.flags"] if "tags.lab.flags" in trials else pd.Series("", index=trials.index)
    if flags.fillna("").ne("").any():
        config["Caution"] = st.column_config.TextColumn(width=120)
        table["Caution"] = ["; ".join(map(wording.kind, text.splitlines())) for text in flags.fillna("")]
    if tested:
        table["Against the baseline"] = [_compare_marks.said([run_id], baseline, tested) for run_id in trials["run_id"]]
        config["Against the baseline"] = st.column_config.TextColumn(help=_compare_marks.ABOUT)
    for column in wording.varying(trials):
        if trials[column].map(wording.setting).equals(trials["name"]):
            continue
        values = trials[column]
        table[column] = values if pd.api.types.is_numeric_dtype(values) else values.map(wording.setting)
        config[column] = st.column_config.Column(describe(column).heading)
    for column in shown:
        name = describe(column)
        scaled = trials[column] * name.scale
        table[column] = scaled
        config[column] = st.column_config.NumberColumn(name.heading, format=f"%.{_decimals(scaled, name.digits)}f")
        if f"{column}_low" in trials and trials[f"{column}_low"].notna().any():
            table[f"{column} interval"] = [
                wording.interval(low, high, column)
                for low, high in zip(trials[f"{column}_low"], trials[f"{column}_high"], strict=True)]
            config[f"{column} interval"] = st.column_config.TextColumn(
                "95% interval", help=f"95% interval of: {name.heading}")
    for note in cls.notes if cls else ():
        if (column := f"tags.lab.note.{note}") in trials:
            table[column] = trials[column]
            config[column] = st.column_config.TextColumn(describe(note).label)
    st.dataframe(table, hide_index=True, column_config=config, placeholder="–",
                 height="content" if len(table) <= 14 else 530)
    st.download_button("Download CSV", trials.to_csv(index=False), f"{experiment}-trials.csv", "text/csv",
                       on_click="ignore", help="Every setting, measure and tag of these trials, in stored units")
    if len(runs) > 1 and (differ := wording.varying(runs)):
        named = wording.labels(runs)
        st.caption("Settings in which the runs differ")
        of_run = {named[run["run_id"]]: [wording.setting(run[c]) for c in differ] for _, run in runs.iterrows()}
        st.dataframe(pd.DataFrame({"Setting": [describe(c).heading for c in differ], **of_run}), hide_index=True)


def _decimals(values: pd.Series[float], digits: int) -> int:
    """Decimals of a column: as many as show `digits` digits of its smallest value, five at most."""
    sizes = [abs(float(v)) for v in values if pd.notna(v) and v and math.isfinite(v)]
    if not sizes or all(size.is_integer() for size in sizes):
        return 0
    return max(0, min(5, digits - 1 - math.floor(math.log10(min(sizes)))))



"""The part of Compare about risk: what could go wrong with the answers of the chosen trials, every share with its interval."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import streamlit as st

from lab import names, plots, wording
from lab.experiments import Experiment
from lab.names import describe


def columns(trials: pd.DataFrame) -> list[str]:
    """The measures of risk that were taken in these trials, those that are known by name first."""
    found = [str(c) for c in trials.columns if str(c).startswith("metrics.") and names.risk(str(c)) and trials[c].notna().any()]
    bounds = {f"{c}_{side}" for c in found for side in ("low", "high")}
    known = [f"metrics.{name}" for name in names.RISK]
    return [c for c in sorted(found, key=lambda c: known.index(c) if c in known else len(known)) if c not in bounds]


def table(cls: type[Experiment] | None, trials: pd.DataFrame, shown: list[str]) -> pd.DataFrame:
    """One row for every trial with one of the measures or a verdict in words; measures are texts with their intervals."""
    told = [tag for note in (cls.notes if cls else ()) if (tag := f"tags.lab.note.{note}") in trials]
    rows = trials[trials[[*shown, *told]].notna().any(axis=1)]
    out = {"Trial": rows["name"]}
    if rows["parent_id"].nunique() > 1 and "run" in rows:
        out["Run"] = rows["run"]
    for column in shown:
        if rows[column].notna().any():
            out[describe(column).heading] = [_value(row, column) for _, row in rows.iterrows()]
    for tag in told:
        if rows[tag].notna().any():
            out[describe(tag.removeprefix("tags.lab.note.")).label] = rows[tag].fillna("–")
    return pd.DataFrame(out)


def show(cls: type[Experiment] | None, trials: pd.DataFrame, asked: str, *, key: str) -> dict[str, list[str]]:
    """The section, where there is anything to show; returns what the address is to say."""
    shown = columns(trials)
    about_risk = cls is not None and any(map(names.risk, cls.columns))
    found = table(cls, trials, shown) if shown or about_risk else pd.DataFrame()
    if found.empty:
        return {}
    st.subheader("Risk", anchor=False)
    st.dataframe(found, hide_index=True, column_config={"Trial": st.column_config.TextColumn(pinned=True)},
                 height="content" if len(found) <= 14 else 530)
    if not shown:
        return {}
    first = shown.index(f"metrics.{asked}") if f"metrics.{asked}" in shown else 0
    drawn = str(st.selectbox("Drawn with its interval", shown, index=first, format_func=lambda c: describe(c).heading, key=key))
    st.plotly_chart(_drawn(drawn, trials, st.context.theme.type == "dark"), config=plots.config(f"risk {drawn}"),
                    key="figure risk")
    st.caption("Shares with 95% intervals. Where two intervals overlap widely, this run cannot tell which trial is safer; a "
               "change is measured on the same items as its baseline.")
    return {"risk": [drawn.removeprefix("metrics.")]} if drawn != shown[0] else {}


@st.cache_resource(show_spinner=False, max_entries=64)
def _drawn(column: str, trials: pd.DataFrame, dark: bool) -> Any:
    return plots.intervals(column, trials, dark=dark)


def _value(row: pd.Series[Any], column: str) -> str:
    low, high = (float(row.get(f"{column}_{side}", math.nan)) for side in ("low", "high"))
    bounds = wording.interval(low, high, column)
    shown = describe(column).show(float(row[column]))
    return f"{shown} ({bounds})" if bounds else shown

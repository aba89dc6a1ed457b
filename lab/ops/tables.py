"""Trials as people read them: the experiment's measures as text, each with its interval and its unit."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from lab.experiments import Experiment
from lab.names import describe


def table(cls: type[Experiment], trials: pd.DataFrame) -> pd.DataFrame:
    """`trials` (a frame of `lab.ops.history`) with the columns of their experiment; measures nobody took are left out."""
    shown = {"Trial": trials["name"]} if len(trials) else {}
    for column in cls.columns_of(trials):
        if f"metrics.{column}" in trials:
            shown[describe(column).heading] = trials.apply(lambda row, c=column: cell(row, c), axis=1)
    for note in cls.notes:
        if f"tags.lab.note.{note}" in trials:
            shown[describe(note).label] = trials[f"tags.lab.note.{note}"].fillna("–")
    return pd.DataFrame(shown)


def cell(row: pd.Series[Any], measure: str) -> str:
    """One number with its interval, in the printed unit."""
    name, value = describe(measure), row[f"metrics.{measure}"]
    low, high = row.get(f"metrics.{measure}_low", math.nan), row.get(f"metrics.{measure}_high", math.nan)
    if math.isnan(low) or math.isnan(high):
        return name.show(value)
    return f"{name.show(value)} ({name.show(low)}–{name.show(high)})"

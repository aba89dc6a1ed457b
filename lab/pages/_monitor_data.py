"""What the page Monitor reads: the log decoded once, the rules looked at every few seconds, by whichever tab asks first."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import streamlit as st

from lab.ops import alerts, monitor, requests, slo
from lab.ops.alerts import Round, Rules
from lab.ops.monitor import scoring
from lab.ops.requests import scores
from lab.ops.requests_schema import between

EVALUATE_S = 15
OLD_S = 60
FRESH_S = 2
"""Tabs that look within so many seconds see the same rows."""


def rows(reach_s: float) -> pd.DataFrame:
    """The log of the last `reach_s` seconds, in the order of its times."""
    return _rows(str(requests.folder()), reach_s, int(time.time() / FRESH_S))


def rules() -> Rules:
    """The rules in force, read again when their file may have changed."""
    return alerts.in_force()


def last(found: Rules) -> Round | None:
    """What the rules said when a tab looked at them last; None when that is longer ago than a minute."""
    seen = _held(found.sha256, str(requests.folder())).get("last")
    return seen if seen is not None and abs(time.time() - seen.state.evaluated_s) < OLD_S else None


def look(found: Rules) -> Round:
    """What the rules say, evaluated now or some seconds ago; alerts are delivered by this too."""
    place = str(requests.folder())
    seen = _looked(found.sha256, place, found)
    _held(found.sha256, place)["last"] = seen
    return seen


def part(log: pd.DataFrame, release: str, now_s: float, window_s: float) -> pd.DataFrame:
    """The rows of the window and of the one before it, of one release or (for "") of all."""
    return monitor.of_release(between(log, now_s - 2 * window_s, now_s), release)


@st.cache_data(show_spinner=False, ttl=EVALUATE_S, max_entries=4)
def budgets(sha256: str, place: str, _found: Rules) -> list[slo.Budget]:
    """The error budget of every objective, as old as the evaluation."""
    now_s = time.time()
    return [slo.budget(one, rows(_found.needs_s), now_s=now_s) for one in _found.objectives]


@st.cache_data(show_spinner=False, ttl=60, max_entries=4)
def worth(place: str) -> str:
    """By what hallucination was scored last, and what that is worth."""
    last = next((one for one in reversed(scores.read(Path(place))) if one.name == scoring.NAME), None)
    return scoring.worth(last.by).sentence() if last else ""


@st.cache_resource(show_spinner=False, max_entries=4)
def _columns(place: str) -> requests.Columns:
    return requests.Columns(Path(place))


@st.cache_resource(show_spinner="Reading the request log", max_entries=2)
def _rows(place: str, reach_s: float, tick: int) -> pd.DataFrame:
    return _columns(place).frame(time.time() - reach_s)


@st.cache_resource(show_spinner=False, max_entries=4)
def _held(sha256: str, place: str) -> dict[str, Round]:
    return {}


@st.cache_resource(show_spinner=False, ttl=EVALUATE_S, max_entries=4)
def _looked(sha256: str, place: str, _found: Rules) -> Round:
    return alerts.watch(_found, lambda since_s: rows(_found.needs_s), requests.folder(), now_s=time.time())

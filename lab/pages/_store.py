"""What the pages read from the store: only what is shown, and again only when the store has changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from lab.ops import changes as news
from lab.ops import compare, history, store
from lab.ops.changes import Change
from lab.records import Generation

Tested = Mapping[str, Sequence[compare.Row]]
_FRESH_S = 20
"""A store behind a server says nothing of its changes, and a process that dies changes none: read again after this."""


def experiments(name: str | None = None, *, limit: int) -> pd.DataFrame:
    """The newest experiment runs, of one experiment or of all."""
    return _experiments(token(), name, limit)


def trials(parents: Sequence[str]) -> pd.DataFrame:
    """The trials of these runs, oldest first."""
    return _trials(token(), tuple(parents))


def differences(parents: Sequence[str], baseline: str, other: str) -> list[compare.Row]:
    """`compare.differences` between two trials of these runs."""
    return _differences(token(), tuple(parents), baseline, other)


def against(parents: Sequence[str], baseline: str, others: Sequence[str]) -> Tested:
    """`compare.against` for trials of these runs."""
    return _against(token(), tuple(parents), baseline, tuple(others))


def generations(run_id: str) -> list[Generation]:
    """The raw generations of a trial."""
    return _generations(token(), run_id)


def changes(runs: pd.DataFrame, wanted: Sequence[tuple[str, str]], chosen: Mapping[str, str]) -> list[Change]:
    """`changes.changes` for pairs of these runs."""
    return _changes(token(), runs, tuple(wanted), dict(chosen))


def token() -> str:
    return f"{history.fingerprint()} {'' if store.database() else int(time.monotonic() / _FRESH_S)}"


@st.cache_data(show_spinner=False, max_entries=64, ttl=_FRESH_S)
def _experiments(token: str, name: str | None, limit: int) -> pd.DataFrame:
    return history.frame("experiment", experiment=name, limit=limit)


@st.cache_data(show_spinner=False, max_entries=64)
def _trials(token: str, parents: tuple[str, ...]) -> pd.DataFrame:
    return history.frame("trial", parents=parents).iloc[::-1].reset_index(drop=True)


@st.cache_data(show_spinner="Testing the differences", max_entries=64)
def _differences(token: str, parents: tuple[str, ...], baseline: str, other: str) -> list[compare.Row]:
    return compare.differences(_trials(token, parents), baseline, other)


@st.cache_data(show_spinner="Testing the differences", max_entries=64)
def _against(token: str, parents: tuple[str, ...], baseline: str, others: tuple[str, ...]) -> dict[str, list[compare.Row]]:
    return compare.against(_trials(token, parents), baseline, others)


@st.cache_data(show_spinner="Testing what changed", max_entries=8)
def _changes(token: str, _runs: pd.DataFrame, wanted: tuple[tuple[str, str], ...], chosen: dict[str, str]) -> list[Change]:
    parents = tuple(run_id for pair in wanted for run_id in pair)
    return news.changes(_runs, _trials(token, parents), wanted, chosen)


@st.cache_data(show_spinner=False, max_entries=16)
def _generations(token: str, run_id: str) -> list[Generation]:
    return history.generations(run_id)

"""The part of Overview about news: how the workbench is, what was measured this week, and what changed since the run before."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from lab import wording
from lab.names import describe
from lab.ops import changes, health
from lab.ops.changes import Change
from lab.pages import _store

MARKS = {"good": "✓", "note": "○", "problem": "✗"}
DAYS = 7
NAMED = 4


def state() -> None:
    """How the parts of the workbench are, in a line of cards that wraps."""
    row = st.container(horizontal=True, gap="small")
    for part in _health(_store.token()):
        with row.container(border=True, width=208, height="stretch"):
            st.caption(f"{MARKS[part.state]} {part.name}")
            st.markdown(wording.plain(part.said))
            if part.remedy:
                st.caption(wording.plain(part.remedy).replace("\\`", "`"))


def week(runs: pd.DataFrame) -> None:
    """How much was measured of late."""
    recent = runs[runs["started_at"] > pd.Timestamp.now(tz="UTC") - pd.Timedelta(days=DAYS)]
    if recent.empty:
        st.caption(f"Nothing was run in the last {DAYS} days; the newest run began {wording.age(runs['started_at'].iloc[0])}.")
        return
    kinds = recent["experiment"].nunique()
    more = "at least " if len(recent) == len(runs) and len(runs) >= 50 else ""
    st.caption(f"In the last {DAYS} days: {more}{len(recent)} run{'s' * (len(recent) > 1)} of {kinds} "
               f"experiment{'s' * (kinds > 1)}.")


def changed(runs: pd.DataFrame) -> None:
    """Every experiment whose newest run repeats an earlier one, with what the tests say."""
    st.subheader("What changed", anchor=False)
    week(runs)
    wanted = changes.pairs(runs)
    if not wanted:
        st.caption("No run repeats an earlier one with the same settings yet. Run an experiment again, and what changed is "
                   "tested.")
        return
    by_id = {str(run["run_id"]): run for _, run in runs.iterrows()}
    chosen = {run_id: verdict.chosen or "" for run_id, run in by_id.items() if (verdict := wording.verdict(run))}
    for one in _store.changes(runs[runs["run_id"].isin([i for pair in wanted for i in pair])], wanted, chosen):
        _line(one, by_id)


def _line(one: Change, by_id: Mapping[str, pd.Series]) -> None:
    newer, older = by_id[one.newer], by_id[one.older]
    title = one.experiment.replace("_", " ").capitalize()
    worse, better, other = (one.measures(outcome) for outcome in ("worse", "better", "different"))
    marked = (("▼ worse in", worse), ("▲ better in", better), ("◆ different in", other))
    parts = [f"{mark} {_listed(found)}" for mark, found in marked if found]
    tested = sum(len(rows) for rows in one.rows.values())
    said = "; ".join(parts) or ("= no difference shown" if tested else "nothing could be tested")
    with st.container(border=True):
        st.markdown(f"**{wording.plain(title)}**  {wording.plain(said)}")
        facts = [f"{wording.label(newer)} against {wording.label(older)}", ", ".join(one.rows), f"{tested} tests"]
        if one.other_machine:
            facts.append("measured on different machines")
        before, after = wording.verdict(older), wording.verdict(newer)
        if before and after and before.chosen != after.chosen:
            facts.append(f"the verdict now chooses {after.chosen or 'none'} (was {before.chosen or 'none'})")
        st.caption(wording.plain(" · ".join(filter(None, facts))))
        st.page_link("lab/pages/compare.py", label="Compare the two",
                     query_params={"experiment": one.experiment, "run": [one.older, one.newer]})


def _listed(measures: list[str]) -> str:
    said = [describe(measure).label.lower() for measure in measures[:NAMED]]
    return ", ".join(said) + (f" and {len(measures) - NAMED} more" if len(measures) > NAMED else "")


@st.cache_data(show_spinner=False, max_entries=4, ttl=20)
def _health(token: str) -> list[health.Part]:
    return health.parts()

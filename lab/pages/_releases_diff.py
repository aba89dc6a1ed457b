"""The part of Releases that shows what differs between two: prompt, settings, policy, model, index, measurements."""

from __future__ import annotations

import math

import pandas as pd
import streamlit as st

from lab import wording
from lab.names import describe
from lab.ops import versions
from lab.ops.compare import Row
from lab.ops.versions import Changed, Difference, Measured, Release
from lab.pages import _store

UNTESTED, LONG = 12, 4
"""Measures without a test that are shown, and sentences that a dialog shows unfolded."""


def show(before: Release, after: Release) -> None:
    """Everything that changes from one release to the other."""
    if before.digest == after.digest:
        st.markdown("These are the same release.")
        return
    found = difference(before, after)
    brief(found)
    for title, rows in (("Settings", found.settings), ("Model", found.model), ("Retrieval", found.retrieval)):
        if rows:
            st.markdown(f"**{title}**")
            _table(rows)
    st.markdown("**Measured**")
    for measured in found.measured:
        _measured(measured)
    for line in found.unmeasured:
        st.markdown(_with_commands(line))
    if len(found.measured) + len(found.unmeasured) == 0:
        st.markdown("Not measured.")


def brief(found: Difference, *, folded: bool = False) -> None:
    """The parts that are read rather than looked up: what is the same, the prompt line by line, the policy in sentences.

    `folded` puts a long list of sentences behind a line that says how many they are.
    """
    parts = {"prompt": found.prompt, "settings": found.settings, "policy": found.rules, "model": found.model,
             "retrieval": found.retrieval}
    changed, same = ([name for name, rows in parts.items() if bool(rows) == wanted] for wanted in (True, False))
    st.caption(wording.plain(f"Changed: {', '.join(changed) or 'nothing'}. The same: {', '.join(same) or 'nothing'}."))
    if found.prompt:
        st.markdown("**Prompt**")
        st.code("\n".join(found.prompt), language="diff", wrap_lines=True)
    if found.rules:
        st.markdown("**Policy**")
        long = folded and len(found.rules) > LONG
        with st.expander(f"{len(found.rules)} changes") if long else st.container():
            st.markdown("\n".join(f"- {wording.plain(line)}" for line in found.rules))


def changes(found: Difference) -> None:
    """Settings, model and index in one table, and the tested differences in sentences: enough to confirm a move by."""
    if rows := (*found.settings, *found.model, *found.retrieval):
        _table(rows)
    lines = [line for measured in found.measured for line in measured.sentences()]
    lines += [f"Caution: {line}" for measured in found.measured for line in measured.cautions]
    st.markdown("\n".join(f"- {_with_commands(line)}" for line in (*lines, *found.unmeasured)))


def _with_commands(line: str) -> str:
    """The sentence as it is, but for the commands in it, which are set as code."""
    return "".join(f"`{part}`" if i % 2 else wording.plain(part) for i, part in enumerate(line.split("`")))


def difference(before: Release, after: Release) -> Difference:
    """`versions.difference`, tested again only when the store has changed."""
    return _difference(_store.token(), before.number, after.number, before.digest, after.digest)


@st.cache_data(show_spinner="Testing the differences", max_entries=32)
def _difference(token: str, before: int, after: int, *digests: str) -> Difference:
    return versions.difference(versions.numbered(before), versions.numbered(after))


def _table(rows: tuple[Changed, ...]) -> None:
    table = pd.DataFrame({"What": [f"{row.part}: {row.name.replace('_', ' ')}" for row in rows],
                          "Before": [row.before for row in rows], "After": [row.after for row in rows]})
    st.dataframe(table, hide_index=True, height="content")


def _measured(measured: Measured) -> None:
    name = measured.experiment.replace("_", " ").capitalize()
    st.caption(wording.plain(f"{name}: {measured.before} against {measured.after}. P-values are adjusted for all tests (Holm)."))
    if measured.cautions:
        st.warning("\n".join(f"- {wording.plain(line)}" for line in measured.cautions))
    tested = [row for row in measured.rows if row.outcome != "not tested"]
    rest = [row for row in measured.rows if row.outcome == "not tested"]
    rows = tested + rest[:UNTESTED]
    if not rows:
        st.markdown("The two trials have no measure in common.")
        return
    st.dataframe(pd.DataFrame([_row(row) for row in rows]), hide_index=True, height="content")
    if len(rest) > UNTESTED:
        st.caption(f"And {len(rest) - UNTESTED} more measures without a test, in `lab release diff --json`.")


def _row(row: Row) -> dict[str, str]:
    name = describe(row.measure)
    return {"Measure": name.heading, "Before": name.show(row.baseline), "After": name.show(row.other),
            "Change": f"{'+' if row.difference > 0 else ''}{name.show(row.difference)}",
            "95% interval": wording.interval(row.low, row.high, row.measure) or "–",
            "Adjusted p": "–" if math.isnan(row.p_adjusted) else f"{row.p_adjusted:.2g}",
            "Items": str(row.items) if row.items else "–", "Result": row.outcome.capitalize()}

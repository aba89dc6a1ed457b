"""Rate: people grade recorded answers blindly, on the axes of the rubric or side by side, and see how far they agree."""

from __future__ import annotations

import streamlit as st

from lab import wording
from lab.errors import LabError
from lab.ops import ratings
from lab.pages import _rate_blind, _rate_new, _rate_results

VIEWS = ("Rate", "Results", "New task")


def main() -> None:
    st.title("Rate")
    try:
        tasks = ratings.tasks()
        if tasks.empty:
            st.markdown("Nothing is being rated yet. Choose recorded answers; people then grade them without knowing which model "
                        "gave them, and the results say how far the raters agree.")
            _rate_new.show()
            return
        _from_address(list(tasks["task_id"]))
        _bar(dict(zip(tasks["task_id"], tasks["title"], strict=True)))
        view = st.session_state["rate.view"] or VIEWS[0]
        if view == "New task":
            _rate_new.show()
        else:
            (_rate_blind.show if view == "Rate" else _rate_results.show)(_rate_blind.task(st.session_state["rate.task"]))
        _to_address()
    except LabError as error:
        st.error(wording.plain(error))


def _bar(titles: dict[str, str]) -> None:
    left, right = st.columns([2, 1], gap="medium", vertical_alignment="bottom")
    left.selectbox("Task", list(titles), format_func=lambda task_id: titles[task_id], key="rate.task")
    right.segmented_control("View", VIEWS, key="rate.view", label_visibility="collapsed")


def _from_address(known: list[str]) -> None:
    """Start from what the address says; later the widgets own it, and the address follows."""
    state, asked = st.session_state, st.query_params
    if "task" in asked and asked["task"] not in known and "rate.task" not in state:
        st.warning("The address names a rating task that is not in this store; this is the newest one.")
    if state.get("rate.task") not in known:
        state["rate.task"] = asked["task"] if asked.get("task") in known else known[0]
    if not state.get("rate.view"):
        state["rate.view"] = asked["view"] if asked.get("view") in VIEWS else VIEWS[0]
    if "rate.name" not in state:
        state["rate.name"] = asked.get("rater", "")


def _to_address() -> None:
    state = st.session_state
    says = {"task": state["rate.task"], "view": state.get("rate.view") or VIEWS[0], "rater": state["rate.name"]}
    wanted = {name: value for name, value in says.items() if value}
    if dict(st.query_params) != wanted:
        st.query_params.from_dict(wanted)


main()

"""The part of Rate that makes a task: which recorded answers, graded or compared, how many, with which control items."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from lab import data, wording
from lab.errors import LabError
from lab.metrics.judging import rubric
from lab.ops import ratings
from lab.pages import _store

NEWEST = 200
CONTROLS = "verdicts"
Kind = Literal["axes", "pairs"]
KINDS: dict[Kind, str] = {"axes": "Grade each answer on axes", "pairs": "Compare two answers side by side"}


def show() -> None:
    """The form; what it makes is opened for rating."""
    runs = _store.experiments(limit=NEWEST)
    if runs.empty:
        st.markdown("There are no recorded answers yet. Let two models answer a question set:")
        st.code("lab run quality", language="bash")
        return
    if problem := st.session_state.pop("rate.refused", ""):
        st.error(wording.plain(problem))
    names = list(dict.fromkeys(runs["experiment"]))
    left, right = st.columns(2, gap="medium")
    experiment = left.selectbox("Experiment", names, key="rate.experiment",
                                index=names.index("quality") if "quality" in names else 0)
    those = runs[runs["experiment"] == experiment]
    labels = wording.labels(those)
    run = right.selectbox("Run", list(labels), format_func=lambda run_id: labels[run_id])
    trials = _store.trials([run])
    held = ratings.with_generations(list(trials["run_id"])) if len(trials) else []
    if not held:
        st.info("This run kept no answers to rate; choose another one. `lab run quality` keeps them.")
        return
    named = dict(zip(trials["run_id"], trials["name"], strict=True))
    kind: Kind = st.radio("How", KINDS, format_func=lambda k: KINDS[k], horizontal=True, key="rate.kind") or "axes"
    of = f"rate.trials {run} {kind}"
    chosen = st.multiselect("Answers of", held, default=held if kind == "axes" else held[:2], key=of,
                            format_func=lambda run_id: str(named[run_id]), placeholder="Choose trials")
    axes = st.multiselect("Axes", list(rubric.AXES), list(rubric.FIVE), key="rate.axes") if kind == "axes" else [*rubric.FIVE]
    one, two, three = st.columns(3, gap="medium")
    one.number_input("Requests, drawn at random", 1, 1000, 20, key="rate.items")
    two.number_input("Control items", 0, 20, 4, key="rate.controls", help="Answers whose rating is known, mixed among them.")
    three.text_input("Title", placeholder="the trials and the time", max_chars=100, key="rate.title")
    st.button("Make the task", type="primary", on_click=_make, disabled=not chosen or not axes, args=(of,))


def _make(trials: str) -> None:
    """Before the page is drawn again: make the task of what the form says now, not when it was last drawn."""
    state = st.session_state
    kind, axes = state["rate.kind"], state.get("rate.axes") or rubric.FIVE
    try:
        wanted = int(state["rate.controls"]) if kind == "pairs" or "correctness" in axes else 0
        gold = ratings.gold_from(data.labelled(CONTROLS), wanted, kind=kind) if wanted else []
        state["rate.task"] = ratings.create(state[trials], items=int(state["rate.items"]), kind=kind, axes=axes, gold=gold,
                                            title=state["rate.title"])
        state["rate.view"] = "Rate"
    except LabError as error:
        state["rate.refused"] = str(error)

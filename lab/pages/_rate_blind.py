"""The blind part of Rate: a name, one item after the other, and what is said at the end."""

from __future__ import annotations

import math
from typing import Any

import streamlit as st

from lab import wording
from lab.errors import LabError
from lab.metrics.judging import rubric
from lab.ops import ratings
from lab.pages import _rate_card

HEADINGS = {"system": "Instruction", "user": "Request", "assistant": "Earlier answer", "tool": "Tool"}


@st.cache_data(show_spinner=False, max_entries=8)
def task(task_id: str) -> ratings.Task:
    """A task as it was made; it never changes."""
    return ratings.load(task_id)


def show(of: ratings.Task) -> None:
    """The next item of the rater named in the session, or what there is to do first or at the end."""
    name = st.session_state["rate.name"]
    if not name:
        _ask_name(of)
        return
    left, right = st.columns([4, 1], vertical_alignment="center")
    left.caption(wording.plain(f"Rating as {name}. Every rating is kept as soon as it is saved; you can close this page and go "
                              "on later under the same name."))
    right.button("Change name", on_click=_forget, type="tertiary")
    asked = ratings.next_item(of, name)
    if asked is None:
        _end(of, name)
        return
    _rate_card.show(_card(of, name, asked), on_save=_save, on_undo=_undo)


def _ask_name(of: ratings.Task) -> None:
    st.markdown(f"{len(of.units)} items, {'two answers side by side' if of.kind == 'pairs' else 'one answer at a time'}. You are "
                "not told which model answered, and everybody gets the items in another order. Some may be control items whose "
                "rating is known; how you did on them is shown at the end.")
    with st.form("name", border=False):
        left, right = st.columns([3, 1], vertical_alignment="bottom")
        name = left.text_input("Your name", max_chars=60, placeholder="as your ratings are to be signed")
        if right.form_submit_button("Start", type="primary", width="stretch"):
            try:
                st.session_state["rate.name"] = ratings.named(name)
            except LabError as error:
                st.error(wording.plain(error))
            else:
                st.rerun()
    begun = ratings.raters(of)
    if begun:
        st.caption(wording.plain("So far: " + ", ".join(f"{p.rater} {p.done} of {p.total}" for p in begun) + "."))


def _card(of: ratings.Task, name: str, asked: ratings.Asked) -> dict[str, Any]:
    state = st.session_state
    axes = [{"name": a.name, "asks": a.asks, "means": a.means} for a in rubric.find(of.axes)] if of.kind == "axes" else [
        {"name": of.axes[0], "asks": "Which answer is better?", "means": ()}]
    return {"task": of.id, "rater": name, "kind": of.kind, "key": asked.key, "number": asked.number, "total": asked.total,
            "answers": asked.answers, "axes": axes, "done": asked.number > 1, "event": state.get("rate.event", 0),
            "problem": state.get("rate.problem", ""),
            "messages": [{"heading": HEADINGS[m.role], "content": m.content} for m in asked.messages]}


def _save() -> None:
    """Before the page is drawn again: store what the card sent, or keep the reason why it is not stored."""
    given = _rate_card.sent("save")
    if given is None:
        return
    _kept(lambda: ratings.save(task(given["task"]), st.session_state["rate.name"], given["key"], given["values"],
                               str(given["note"]), float(given.get("seconds", math.nan))))


def _undo() -> None:
    given = _rate_card.sent("undo")
    if given is not None:
        _kept(lambda: ratings.undo(task(given["task"]), st.session_state["rate.name"]))


def _kept(write: Any) -> None:
    state = st.session_state
    state["rate.problem"] = ""
    try:
        write()
    except LabError as error:
        state["rate.problem"] = f"Not saved. {error}"
    state["rate.event"] = state.get("rate.event", 0) + 1


def _forget() -> None:
    st.session_state["rate.name"] = ""


def _take_back(of: ratings.Task, name: str) -> None:
    _kept(lambda: ratings.undo(of, name))


def _end(of: ratings.Task, name: str) -> None:
    st.success(wording.plain(f"You are through, {name}: all {len(of.units)} items are rated and stored. Thank you."))
    care = ratings.controls(of, name)
    if care:
        right = sum(one.right for one in care)
        st.markdown(f"Control items: {right} of {len(care)} of your grades were as expected.")
        for one in care:
            if not one.right:
                with st.expander(wording.plain(f"{one.axis.capitalize()}: you said {one.said}, expected was {one.expected}")):
                    st.text(one.question)
                    for i, answer in enumerate(one.answers):
                        st.caption("Answer" if len(one.answers) == 1 else f"Answer {'AB'[i]}")
                        st.text(answer)
    st.button("Undo the last one", on_click=_take_back, args=(of, name), shortcut="u")

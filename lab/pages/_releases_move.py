"""The part of Releases that moves the aliases: a dialog shows what would change, and asks who moves it and why."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from lab import wording
from lab.errors import LabError
from lab.ops import versions
from lab.ops.versions import Release, State
from lab.pages import _releases_diff

Action = Literal["promote", "rollback", "propose", "withdraw"]
DONE: dict[Action, str] = {
    "promote": "Release {to} is in production.", "rollback": "Production is back to release {to}.",
    "propose": "Release {to} is the candidate.", "withdraw": "There is no candidate any more."}
ASKED: dict[Action, str] = {
    "promote": "Promote release {to}", "rollback": "Roll back to release {to}", "propose": "Make release {to} the candidate",
    "withdraw": "Withdraw the candidate"}


def buttons(named: dict[int, Release], chosen: int, state: State) -> None:
    """The moves that can be made now; each opens a dialog."""
    row = st.container(horizontal=True)
    able: list[tuple[Action, int | None, bool]] = [
        ("promote", chosen, chosen != state.production), ("rollback", state.previous, state.previous in named),
        ("propose", chosen, chosen not in (state.production, state.candidate)), ("withdraw", None, state.candidate is not None)]
    for action, to, possible in able:
        if possible:
            row.button(ASKED[action].format(to=to), key=f"releases.{action}", on_click=_open, args=(action, to, state),
                       type="primary" if action == "promote" else "secondary")
    if asked := st.session_state.get("releases.asked"):
        action, to, seen = asked
        st.dialog(ASKED[action].format(to=to), width="large", on_dismiss=_close)(_confirm)(action, to, seen, named)


def result() -> None:
    """What the last move did, once."""
    done, caution = st.session_state.pop("releases.done", ("", ""))
    if done:
        st.success(wording.plain(done))
    if caution:
        st.warning(wording.plain(caution))


def _open(action: Action, to: int | None, state: State) -> None:
    """Before the page is drawn again: remember what is asked, and what the page showed when it was."""
    st.session_state["releases.asked"] = (action, to, state)


def _close() -> None:
    for name in ("releases.asked", "releases.refused"):
        st.session_state.pop(name, None)


def _confirm(action: Action, to: int | None, state: State, named: dict[int, Release]) -> None:
    """What changes for users, who moves it and why, and the button that does it."""
    _consequence(action, to, state, named)
    who = st.text_input("Who", value=st.session_state.get("releases.who", ""), max_chars=100, placeholder="Your name")
    why = st.text_area("Why", max_chars=2000, placeholder="Recorded with the move", height=80)
    force = False
    if problem := st.session_state.get("releases.refused"):
        st.error(wording.plain(problem))
        if "cannot answer" in problem:
            force = st.checkbox("Move to the broken release all the same; this is recorded")
    st.caption("Every move is recorded with who made it and why.")
    # Always enabled: a button that waits for a field to be left would swallow the click that leaves it.
    if st.button(ASKED[action].format(to=to), key="releases.confirm", type="primary"):
        st.session_state["releases.who"] = who
        if who.strip() and why.strip():
            _move(action, to, who, why, state, force)
        st.session_state["releases.refused"] = "Give your name and a reason first."
        st.rerun()


def _consequence(action: Action, to: int | None, state: State, named: dict[int, Release]) -> None:
    now = state.production
    if action == "withdraw":
        st.markdown(f"Release {state.candidate} is the candidate until now; the alias will point at none.")
        return
    if now is None:
        place = "the candidate" if action == "propose" else "the first"
        st.markdown(f"Nothing is in production yet. Release {to} will be {place}.")
        return
    then = "be compared with it as the candidate" if action == "propose" else "take its place"
    st.markdown(f"Release {now} is in production now. Release {to} will {then}. What differs:")
    if action == "rollback" and (last := _rolled_back()):
        st.warning(wording.plain(f"Release {to} is where production was rolled back from already (by {last.by}: "
                                f"{last.why.rstrip('.')}); this brings it back."))
    if now in named and to in named:
        found = _releases_diff.difference(named[now], named[to])
        _releases_diff.brief(found, folded=True)
        _releases_diff.changes(found)


def _rolled_back() -> versions.Move | None:
    """The last move of production, if it was a rollback: another one would undo it."""
    last = next((move for move in reversed(versions.history()) if move.applied and move.alias == "production"), None)
    return last if last is not None and last.action == "rollback" else None


def _move(action: Action, to: int | None, who: str, why: str, state: State, force: bool) -> None:
    """Move, provided that things stand as the dialog showed them; on refusal the dialog says why and stays."""
    expect = (state.candidate if action in ("propose", "withdraw") else state.production) or 0
    try:
        with st.spinner("Reading the files, opening the engine and moving"):
            if action == "promote":
                moved = versions.promote(to or 0, by=who, why=why, expect=expect, force=force, opens=True)
            elif action == "rollback":
                moved = versions.rollback(by=who, why=why, expect=expect, force=force)
            elif action == "propose":
                moved = versions.propose(to or 0, by=who, why=why, expect=expect, force=force, opens=True)
            else:
                moved = versions.withdraw(by=who, why=why, expect=expect)
    except LabError as error:
        st.session_state["releases.refused"] = str(error)
        st.rerun()
    _close()
    st.session_state["releases.done"] = (DONE[action].format(to=moved.move.to), moved.caution)
    st.rerun()

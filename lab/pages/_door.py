"""The door of the dashboard: without the key, where there is one, no page is drawn."""

from __future__ import annotations

import streamlit as st

from lab import door


def passed() -> bool:
    """Whether this session may see the pages. The key is kept in no address, so that no link carries it."""
    return not door.asked() or bool(st.session_state.get("door.passed"))


def ask() -> None:
    """Draw the door, and open it to the right key."""
    st.title("LLM lab workbench")
    with st.form("door", border=False):
        given = st.text_input("Key", type="password", autocomplete="current-password",
                              help=f"The one that {door.KEY} held when the dashboard was started")
        sent = st.form_submit_button("Open", type="primary")
    if sent and door.opens(given):
        st.session_state["door.passed"] = True
        st.rerun()
    if sent:
        st.error("This is not the key.")

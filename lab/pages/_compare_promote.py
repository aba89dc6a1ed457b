"""The part of Compare that makes a release of the recommended configuration and proposes it as the candidate, once confirmed."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from lab import wording
from lab.errors import LabError
from lab.ops import versions
from lab.ops.configurations import Configuration
from lab.ops.versions import measured

LONGEST_ANSWER = 512


def button(one: Configuration, why: str, key: str) -> None:
    """Opens the dialog; the page runs as a whole for it."""
    if st.button("Make it a release candidate", key=f"promote {key}", type="primary"):
        st.session_state["compare.promote"] = (one, why)
        st.rerun()


def asked(trials: pd.DataFrame) -> None:
    """What the last proposal did, once; and the dialog, when it is asked for."""
    if done := st.session_state.pop("compare.proposed", ""):
        st.success(wording.plain(done))
        st.page_link("lab/pages/releases.py", label="Open Releases")
    if wanted := st.session_state.get("compare.promote"):
        one, why = wanted
        rows = trials[trials["run_id"].isin(one.trials)]
        if len(rows):
            st.dialog("Make a release candidate", width="large", on_dismiss=_close)(_confirm)(one, why, rows)


def _close() -> None:
    for name in ("compare.promote", "compare.refused"):
        st.session_state.pop(name, None)


def _confirm(one: Configuration, why: str, rows: pd.DataFrame) -> None:
    """What the release would bind, what is missing, and who proposes it."""
    st.markdown(f"**{wording.plain(one.name)}**")
    try:
        parts = measured.parts(rows)
        usual = parts.prompt or _in_production()
    except LabError as error:
        st.error(wording.plain(error))
        return
    for line in parts.missing:
        st.error(wording.plain(f"Missing. {line}"))
    if parts.missing:
        st.markdown("No release can be made of this configuration until that is there.")
        return
    settings = ", ".join(f"{name} {value}" for name, value in parts.engine_settings.items())
    for name, text in {"Model": parts.model, "Engine": f"{parts.engine}{f' ({settings})' if settings else ''}",
                       "Decoding": f"temperature {parts.decoding.temperature:g}, top p {parts.decoding.top_p:g}",
                       "Policy": parts.policy, "Evidence": f"{len(parts.runs)} trial{'s' * (len(parts.runs) > 1)}"}.items():
        st.markdown(f"{name}: {wording.plain(text)}")
    for line in parts.cautions:
        st.caption(wording.plain(line))
    prompt = st.text_area("System prompt", value=usual, height=100, placeholder="What the model is told first")
    longest = st.number_input("Longest answer (tokens)", 1, 100_000, value=_longest(parts))
    who = st.text_input("Who", value=st.session_state.get("releases.who", ""), max_chars=100, placeholder="Your name")
    said = st.text_area("Why", value=why[:2000], max_chars=2000, height=80)
    if problem := st.session_state.get("compare.refused"):
        st.error(wording.plain(problem))
    st.caption("Users see nothing of it: a candidate answers nobody until it is promoted on the page Releases.")
    if st.button("Make the release and propose it", key="compare.propose", type="primary"):
        st.session_state["releases.who"] = who
        if all(text.strip() for text in (prompt, who, said)):
            _propose(one, parts, prompt, int(longest), who, said)
        else:
            st.session_state["compare.refused"] = "Give a system prompt, your name and a reason first."
        st.rerun()


def _longest(parts: measured.Parts) -> int:
    """The longest answer to begin with: that of the measurement or the usual one, at most half of a small context."""
    wanted, room = max(LONGEST_ANSWER, parts.decoding.max_tokens), measured.room_of(parts)
    return min(wanted, max(1, room // 2)) if room else wanted


def _in_production() -> str:
    """The system prompt that is in production now: the likeliest one for its successor."""
    number = versions.current().production
    if number is None:
        return ""
    messages = versions.numbered(number).prompt.messages
    return messages[0].content if len(messages) == 1 else ""


def _propose(one: Configuration, parts: measured.Parts, prompt: str, longest: int, who: str, why: str) -> None:
    try:
        with st.spinner("Reading the files and making the release"):
            made = measured.create(parts, prompt=prompt, name="system", note=one.name, by=who, max_tokens=longest)
            moved = versions.propose(made.release.number, by=who, why=why)
    except LabError as error:
        st.session_state["compare.refused"] = str(error)
        return
    _close()
    done = f"Release {made.release.number} was {'made' if made.new else 'there already'}; it is the candidate."
    st.session_state["compare.proposed"] = f"{done} {moved.caution}".strip()

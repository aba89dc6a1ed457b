"""Releases: what is in production, what each release binds, how two differ, and the moves between them with who and why."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from lab import wording
from lab.errors import LabError
from lab.ops import store, versions
from lab.ops.versions import Move, Release, State
from lab.pages import _releases_diff, _releases_move

TITLES: dict[versions.Alias, str] = {"production": "Production", "candidate": "Candidate", "previous": "Previous"}
COLOURS = {"production": "green", "candidate": "blue", "previous": "gray"}
MOVES = {"promote": "Promoted", "rollback": "Rolled back", "candidate": "Proposed", "withdraw": "Withdrawn"}


def main() -> None:
    st.title("Releases")
    try:
        releases, broken = versions.listed()
        moves = versions.history()
        state = moves[-1].after if moves else versions.current()
        for line in [*broken, *versions.strayed()]:
            st.warning(wording.plain(line))
        _releases_move.result()
        if not releases:
            _nothing()
            return
        named = {one.number: one for one in releases}
        _aliases(named, state)
        _list(releases, state)
        _compared(named, state)
        _history(moves)
    except LabError as error:
        st.error(wording.plain(error))


def _nothing() -> None:
    st.markdown("There is no release yet. A release binds one version of everything that decides an answer: prompt, model, "
                "retrieval index, decoding, guardrail policy and engine. Put a system prompt into a file, and bind it:")
    st.code("lab release create --prompt prompt.txt --model smollm2-135m --policy default", language="bash")
    st.caption(wording.plain(f"Releases are kept in {store.shown()}"))


def _aliases(named: dict[int, Release], state: State) -> None:
    """Where the three aliases point, as cards."""
    columns = st.columns(3, gap="medium")
    for column, (alias, title) in zip(columns, TITLES.items(), strict=True):
        with column, st.container(border=True):
            number = state.of(alias)
            st.caption(title)
            if number is None:
                st.markdown("–")
            elif number not in named:
                st.markdown(f"**Release {number}**, which was deleted or cannot be read")
            else:
                st.markdown(f"**Release {number}**")
                st.caption(wording.plain(versions.summary(named[number])))


def _list(releases: list[Release], state: State) -> None:
    st.subheader("All releases", anchor=False)
    newest = releases[::-1]
    table = pd.DataFrame({
        "Release": [one.number for one in newest],
        "Aliases": [", ".join(TITLES[a] for a in state.aliases(one.number)) or "–" for one in newest],
        "Prompt": [f"{one.prompt.name}@{one.prompt.version}" for one in newest],
        "Model": [one.model.name for one in newest],
        "Policy": [f"{one.policy.name} v{one.policy.version}" for one in newest],
        "Temperature": [one.decoding.temperature for one in newest],
        "Engine": [one.engine for one in newest],
        "Index": [one.retrieval.name if one.retrieval else "–" for one in newest],
        "Measured": [f"{len(one.runs)} trial{'s' * (len(one.runs) > 1)}" if one.runs else "not measured" for one in newest],
        "Note": [one.note or "–" for one in newest],
        "Made": pd.to_datetime([one.at_ms for one in newest], unit="ms", utc=True),
        "By": [one.by for one in newest],
        "Hash": [one.digest[:12] for one in newest],
    })
    st.dataframe(table, hide_index=True, height="content" if len(table) <= 10 else 400, column_config={
        "Release": st.column_config.NumberColumn(pinned=True),
        "Made": st.column_config.DatetimeColumn("Made (UTC)", format="YYYY-MM-DD HH:mm")})


def _compared(named: dict[int, Release], state: State) -> None:
    """Two releases side by side, and the moves that lead to the second."""
    st.subheader("Compare and move", anchor=False)
    if len(named) == 1:
        _releases_move.buttons(named, next(iter(named)), state)
        st.markdown("There is one release; as soon as there is a second one, what differs between them stands here.")
        return
    before, after = _pair(list(named), state)

    def said(number: int) -> str:
        names = ", ".join(TITLES[a].lower() for a in state.aliases(number))
        return f"Release {number}" + (f" ({names})" if names else "")

    left, right = st.columns(2, gap="medium")
    numbers = sorted(named, reverse=True)
    for column, label, key, number in ((left, "From", "releases.before", before), (right, "To", "releases.after", after)):
        if st.session_state.get(key) not in numbers:
            st.session_state[key] = number
        column.selectbox(label, numbers, format_func=said, key=key)
    before, after = st.session_state["releases.before"], st.session_state["releases.after"]
    wanted = {"before": str(before), "after": str(after)}
    if dict(st.query_params) != wanted:
        st.query_params.from_dict(wanted)
    _releases_move.buttons(named, after, state)
    _releases_diff.show(named[before], named[after])


def _pair(numbers: list[int], state: State) -> tuple[int, int]:
    """What to compare: what the address says, else production with the candidate, the previous or the newest release."""
    def asked(name: str) -> int | None:
        given = st.query_params.get(name, "")
        return int(given) if given.isdigit() and int(given) in numbers else None

    lost = [name for name in ("before", "after") if name in st.query_params and asked(name) is None]
    if lost and "releases.before" not in st.session_state:
        st.warning(wording.plain(f"The address names release {st.query_params[lost[0]]}, which is not in this store."))
    newest = max(numbers)
    before = asked("before") or (state.production if state.production in numbers else None) or min(numbers)
    others = [n for n in (state.candidate, newest, state.previous) if n in numbers and n != before]
    return before, asked("after") or (others[0] if others and others[0] is not None else newest)


def _history(moves: list[Move]) -> None:
    st.subheader("History of moves", anchor=False)
    if not moves:
        st.markdown("No alias was moved yet.")
        return
    newest = moves[::-1]
    table = pd.DataFrame({
        "Move": [move.number for move in newest],
        "When": pd.to_datetime([move.at_ms for move in newest], unit="ms", utc=True),
        "Who": [move.by for move in newest],
        "What": [_what(move) for move in newest],
        "Why": [move.why for move in newest],
        "Production after": [str(move.after.production or "–") for move in newest],
    })
    st.dataframe(table, hide_index=True, height="content" if len(table) <= 10 else 400, column_config={
        "When": st.column_config.DatetimeColumn("When (UTC)", format="YYYY-MM-DD HH:mm:ss"),
        "Why": st.column_config.TextColumn(width="large")})
    st.download_button("Download history as CSV", table.to_csv(index=False), "release_moves.csv", "text/csv")
    for move in newest:
        if move.defects:
            st.warning(wording.plain(f"Move {move.number} was forced: {' '.join(move.defects)}"))


def _what(move: Move) -> str:
    text = f"{MOVES[move.action]} {move.to or move.before.candidate or ''}".strip()
    if not move.applied:
        return f"{text}: no effect, release {move.expect or 'none'} was expected"
    return text + (", forced" if move.forced else "")


main()

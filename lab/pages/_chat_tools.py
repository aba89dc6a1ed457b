"""The part of Chat about tools: a call made by hand, the dialog that waits for a person, and what lies in the sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import streamlit as st

from lab import wording
from lab.errors import LabError
from lab.ops.tools import Sandbox
from lab.pages._chat_live import Live
from lab.safety import Pending, Policy, ToolCall
from lab.safety.calling import Ability


def form(policy: Policy, abilities: Sequence[Ability], role: str, *, disabled: bool) -> ToolCall | None:
    """A call by hand, under the same rules as a model's; None as long as nobody sends one."""
    with st.expander("Try a tool call by hand"):
        st.caption("The same checks as for a model: the allow-list of the role, the arguments, the budget, and a person's yes "
                   "where the policy wants one.")
        named = {one.name: one for one in abilities}
        others = [tool.name for tool in policy.tools if tool.name not in named]
        chosen = str(st.selectbox("Tool", [*named, *others, "run_shell"], key="chat.tool",
                                  format_func=lambda name: f"{name} ({_standing(policy, name, role)})"))
        with st.form("chat.call", border=False):
            example = named[chosen].arguments if chosen in named else {}
            given = {name: st.text_input(name.capitalize(), value, key=f"chat.argument {chosen} {name}")
                     for name, value in example.items()}
            more = st.text_input("More arguments (JSON)", key=f"chat.more {chosen}", placeholder='{"urgent": true}')
            sent = st.form_submit_button("Call", disabled=disabled)
        if not sent:
            return None
        try:
            return ToolCall(name=chosen, arguments={**given, **_object(more)})
        except LabError as error:
            st.error(wording.plain(error))
            return None


def confirm(live: Live) -> None:
    """Open the dialog of the call that waits. Closing it, or letting the time run out, is a no."""
    pending = live.pending
    if pending is None:
        return

    @st.dialog("Confirm before it happens", on_dismiss=lambda: _answer(pending, False))
    def ask() -> None:
        st.markdown(f"**{wording.plain(pending.shows)}**")
        if pending.why:
            st.markdown(wording.plain(pending.why))
        st.caption(f"Tool {wording.plain(pending.call.name)}, with exactly these arguments:")
        st.code(json.dumps(dict(pending.call.arguments), indent=1, ensure_ascii=False), language="json", wrap_lines=True)
        _countdown(pending)
        no, yes = st.columns(2)
        if no.button("No, do not", type="primary", width="stretch", key="chat.no"):
            _answer(pending, False)
            st.rerun()
        if yes.button("Yes, do it", width="stretch", key="chat.yes"):
            _answer(pending, True)
            st.rerun()

    ask()


@st.fragment(run_every=1)
def _countdown(pending: Pending) -> None:
    left = pending.left_s
    st.progress(left / pending.timeout_s, text=f"Silence is a no in {left:.0f} s")


def sandbox(box: Sandbox) -> None:
    """What the risky tools have to act on, and what they did."""
    with st.expander("Sandbox of the tools"):
        try:
            files, sent = box.listed(), box.sent()
        except LabError as error:
            st.error(wording.plain(error))
            return
        st.caption(f"The tools act in this folder and nowhere else: {wording.plain(box.folder)}")
        st.markdown(f"Files: {wording.plain(', '.join(files) or 'none')}")
        st.markdown(f"Outbox: {len(sent)} message{'' if len(sent) == 1 else 's'}")
        for message in sent[-3:]:
            st.caption(wording.plain(f"To {message['to']}: {message['subject']}"))


def _answer(pending: Pending, yes: bool) -> None:
    pending.answer(yes, by="the person at this page")


def _standing(policy: Policy, name: str, role: str) -> str:
    tool = policy.tool(name)
    if tool is None:
        return "not on the allow-list"
    if role not in tool.roles:
        return f"not for the role {role}"
    return "asks a person" if tool.confirm else "allowed"


def _object(text: str) -> Mapping[str, object]:
    """The JSON object in `text`; nothing for none. Raises `LabError`."""
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LabError('More arguments are written as one JSON object, such as {"urgent": true}.')
    return found

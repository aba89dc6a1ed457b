"""How an answer looks on the chat page: its text, what the chain decided about it, its tool call, its tokens in time."""

from __future__ import annotations

import difflib
import html
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import streamlit as st

from lab import plots, wording
from lab.metrics import speed
from lab.names import describe
from lab.pages._chat_live import Answered, Live
from lab.records import Generation
from lab.safety import Decision
from lab.safety.conversation import Called, Exchange

DONE = {"allow": ("allowed", "green"), "block": ("blocked", "red"), "redact": ("masked", "orange"),
        "confirm": ("confirmed", "blue"), "rewrite": ("rewritten", "violet"),
        "answer_under_policy": ("answered under a policy", "blue")}
WHERE = {"input": "question", "output": "answer", "tool": "tool call"}
STAGES = {"waiting": "Opening the model", "question": "Looking at the question", "choosing": "The model chooses a tool",
          "tool": "The tool call waits or works", "answer": "Writing", "second look": "Looking at the whole answer",
          "done": "Done"}
_ACCEPTED = "rgba(0, 158, 115, .28)"


def turn(live: Live, *, operator: bool, figures: bool, number: int) -> None:
    """A question with its answers, or a tool call made by hand."""
    if live.call is not None:
        with st.chat_message("user"):
            st.markdown(f"Tool call by hand: **{wording.plain(live.call.name)}**")
        with st.chat_message("assistant"):
            if live.called is not None:
                called(live.called)
                decisions(live.called.decisions, key=f"{number}")
            elif not live.done:
                st.caption("The call waits for a person, or works…")
            if live.problem:
                st.error(wording.plain(live.problem))
        return
    with st.chat_message("user"):
        text(live.question)
    top = max((gap for one in live.answers if one.exchange and one.exchange.generation
               for gap in speed.itl_s(one.exchange.generation) if math.isfinite(gap)), default=0.0) * 1e3
    for i, (column, one) in enumerate(zip(st.columns(len(live.answers) or 1, gap="medium"), live.answers, strict=True)):
        with column, st.chat_message("assistant"):
            answer(live, one, operator=operator, top_ms=top if figures else None, key=f"{number} {i}")
    if live.problem:
        st.error(wording.plain(live.problem))


def answer(live: Live, one: Answered, *, operator: bool, top_ms: float | None, key: str) -> None:
    """One side's answer, as far as it is there. `top_ms` is the scale of the strip; None draws none."""
    exchange = one.exchange
    if len(live.answers) > 1:
        st.caption(wording.plain(one.label))
    if exchange is None:
        if not one.problem:
            st.caption(f"{STAGES['waiting']}…" if one.begun else "Not asked." if live.done else
                       "Waits: one answer at a time, so that neither slows the other down.")
    else:
        if exchange.called is not None:
            called(exchange.called)
        if exchange.unread:
            st.caption(wording.plain(f"No tool was called. {exchange.unread}"))
        text(exchange.text)
        _blocked(exchange)
        if exchange.stage == "done":
            _ended(exchange, operator=operator, top_ms=top_ms, key=key)
        else:
            st.caption(wording.plain(f"{STAGES[exchange.stage]}…{_held(exchange)}"))
    if one.problem:
        st.error(wording.plain(one.problem))


def text(said: str) -> None:
    """A text as it was written. Never as Markdown: a picture in it would be asked of the network."""
    if said:
        st.html(f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.55">{html.escape(said)}</div>')


def called(one: Called) -> None:
    """A tool call: what was wanted, and what became of it."""
    with st.container(border=True):
        head = st.container(horizontal=True, vertical_alignment="center")
        head.markdown(f"Tool **{wording.plain(one.call.name)}**", width="content")
        refused = not one.ruling.allowed
        head.badge("refused" if refused else "failed" if one.failed else "carried out",
                   color="red" if refused else "orange" if one.failed else "green")
        arguments = one.ruling.call.arguments
        if arguments:
            st.code(json.dumps(dict(arguments), indent=1, ensure_ascii=False), language="json", wrap_lines=True)
        if refused or one.failed:
            reason = one.failed or f"{one.ruling.reason}."
            st.markdown(wording.plain(reason[:1].upper() + reason[1:]))
        text(one.said)


def decisions(found: Sequence[Decision], *, key: str, looked: str = "") -> None:
    """Every decision: where, which rule, on what evidence, what was done, and what it cost."""
    count = f"{len(found)} decision{'' if len(found) == 1 else 's'}" if found else "nothing found"
    with st.expander(f"Guardrails: {count}"):
        for one in found:
            done, colour = DONE[one.action]
            why = ". ".join(filter(None, (one.evidence, one.reason)))
            st.markdown(f":{colour}-badge[{done}] **{wording.plain(one.rule or 'no rule objects')}** on the {WHERE[one.stage]}"
                        f"{': ' + wording.plain(why) if why else ''} :gray[({_cost(one.added_s)})]")
        if looked:
            st.caption(wording.plain(looked))


def _blocked(exchange: Exchange) -> None:
    one = exchange.blocked
    if one is None:
        return
    where = "The question was not passed on" if one.stage == "input" else "The answer was stopped"
    why = ". ".join(filter(None, (one.evidence, one.reason)))
    rule = f" by the rule **{wording.plain(one.rule)}**" if one.rule else ""
    st.error(f"{where}{rule}{': ' + wording.plain(why) if why else ''}.")


def _ended(exchange: Exchange, *, operator: bool, top_ms: float | None, key: str) -> None:
    if exchange.left_out:
        st.caption(f"The oldest {exchange.left_out} messages were left out: the context had no room for them.")
    if exchange.rewritten and not exchange.blocked:
        st.caption("A second model rewrote this answer before it was shown.")
    if exchange.stopped and not exchange.blocked:
        st.caption("Stopped by hand.")
    if operator:
        _original(exchange)
    generation = exchange.generation
    if generation is not None and generation.tokens_at_s:
        st.caption(wording.plain(_speed(exchange)))
        if top_ms is not None and len(generation.tokens_at_s) > 1:
            st.plotly_chart(_strip(generation, top_ms), config=plots.picture(f"chat {key}"), key=f"strip {key}")
    decisions(exchange.decisions, key=key, looked=f"All rules together took {_cost(exchange.added_s)}.")


def _strip(generation: Generation, top_ms: float) -> Any:
    """The figure, made once for an answer: it is drawn again with every question."""
    kept: dict[object, Any] = st.session_state.setdefault("chat.strips", {})
    key = (id(generation), top_ms, dark := st.context.theme.type == "dark")
    if key not in kept:
        kept[key] = plots.token_strip(generation, top_ms=top_ms, title="Gap before each token", dark=dark)
    return kept[key]


def _speed(exchange: Exchange) -> str:
    generation = exchange.generation
    assert generation is not None
    parts = [f"First token after {wording.measured(speed.ttft_s(generation), 'ttft_s')}",
             f"{len(generation.tokens_at_s)} tokens"]
    if not math.isnan(rate := speed.decode_tokens_per_s(generation)):
        parts.append(wording.measured(rate, "decode_tokens_per_s"))
    limit = plots.stall_s(generation)
    if stalls := sum(gap > limit for gap in speed.itl_s(generation)):
        parts.append(f"{stalls} stall{'' if stalls == 1 else 's'} (over {limit * 1e3:.0f} ms)")
    usage = generation.usage
    if usage.drafted_tokens:
        parts.append(f"{usage.accepted_tokens or 0} of {usage.drafted_tokens} drafted tokens accepted")
    if generation.finish_reason == "length":
        parts.append("ended at the most tokens allowed")
    who = "guardrails with the second model" if exchange.held_whole else "guardrails"
    return "; ".join([*parts, f"{who} {_cost(exchange.added_s)}"])


def _original(exchange: Exchange) -> None:
    """For an operator: the model's own words, and how they differ from what was shown."""
    wrote, shown = exchange.original, exchange.text
    for line in exchange.disclaimers:
        shown = shown.replace(f"\n{line}", "")
    if not wrote.strip():
        return
    if wrote.strip() == shown.strip():
        _drafted(exchange)
        return
    with st.container(border=True):
        left, right = st.columns(2, gap="medium")
        with left:
            st.caption("The model wrote" if exchange.blocked is None else "The model wrote, until it was stopped")
            text(wrote)
        with right:
            st.caption("The user saw")
            text(shown.strip() or "(nothing)")
        if exchange.blocked is None:
            st.caption("What changed: struck out is gone, underlined is new")
            st.html(difference(wrote.strip(), shown.strip()))


def _drafted(exchange: Exchange) -> None:
    """The answer with the pieces coloured of which a drafter guessed all tokens but the last."""
    if exchange.generation is None or not exchange.generation.usage.drafted_tokens:
        return
    pieces = "".join(f'<mark title="{count} tokens in one step" style="color:inherit;background:{_ACCEPTED};border-radius:3px">'
                     f"{html.escape(said)}</mark>" if count > 1 else html.escape(said) for said, count in exchange.steps)
    with st.container(border=True):
        st.caption("Shaded pieces came out of one step: all their tokens but the last were drafted and accepted.")
        st.html(f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.6">{pieces}</div>')


def difference(before: str, after: str) -> str:
    """Two texts as one, word by word, in HTML: what is gone is struck out, what is new underlined."""
    a, b = (re.findall(r"\s+|[^\s]+", one) for one in (before, after))
    parts = []
    for kind, i, j, k, m in difflib.SequenceMatcher(a=a, b=b, autojunk=False).get_opcodes():
        gone, new = html.escape("".join(a[i:j])), html.escape("".join(b[k:m]))
        if kind == "equal":
            parts.append(gone)
            continue
        parts.append(f'<del style="background:rgba(213,94,0,.22)">{gone}</del>' if gone else "")
        parts.append(f'<ins style="background:rgba(0,114,178,.22)">{new}</ins>' if new else "")
    return f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.6">{"".join(parts)}</div>'


def _held(exchange: Exchange) -> str:
    """How much is written and not yet shown."""
    if exchange.held_whole and exchange.original:
        return f" The {len(exchange.original)} characters so far wait for the second model, which reads the whole answer first."
    waiting = len(exchange.original) - len(exchange.text)
    return f" {waiting} characters are held back until a rule has seen enough." if waiting > 80 else ""


def _cost(seconds: float) -> str:
    name = describe("added_p50_s")
    return f"{name.show(seconds)} {name.unit}"

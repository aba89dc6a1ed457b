"""What the chat page is set to: engine and model of each side, policy, role, second model; every choice is in the address."""

from __future__ import annotations

import dataclasses
import functools
import os
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from lab import engines, models, safety
from lab.errors import LabError
from lab.ops import guard_log, store
from lab.pages import _chat_engines
from lab.pages._chat_engines import Which
from lab.pages._chat_scripts import SCRIPTS
from lab.records import Decoding
from lab.safety import Chain, Policy, Rule

DRAFTS = ("none", "prompt_lookup", "session_ngram")
AS_SAID, SAME, EDITOR = "as the policy says", "the same model", "scripted editor"
RULE = "second model"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Everything the sidebar says."""

    sides: tuple[tuple[Which, str], ...]
    """Engine and policy of each side; one, or two to compare."""
    role: str
    tools: bool
    second: str
    decoding: Decoding
    operator: bool

    def label(self, side: int) -> str:
        which, policy = self.sides[side]
        draft = f" with {which.draft}" if which.draft != "none" else ""
        return f"{which.model or which.engine} on {which.engine}{draft}, policy {policy}"


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast engines may be: of a model its threads, of a script its pause."""

    threads: int
    token_ms: int


def policies() -> list[str]:
    """The policies that ship, then the YAML files of the folder `policies` of the lab's home; the first is the usual one."""
    own = sorted(file.name for file in (store.home() / "policies").glob("*.y*ml"))
    return [safety.policy.DEFAULT, *(name for name in safety.names() if name != safety.policy.DEFAULT), *own]


def policy(name: str) -> Policy:
    """A policy of that list, read again when its file changed. Raises `LabError` naming the file and the line of a mistake."""
    file = safety.policy.FOLDER / f"{name}.yaml" if name in safety.names() else store.home() / "policies" / Path(name).name
    return _policy(file, file.stat().st_mtime_ns if file.is_file() else 0)


@functools.lru_cache(maxsize=32)
def _policy(file: Path, changed_ns: int) -> Policy:
    return safety.load(file)


def log_file() -> Path:
    """Where the decisions of the chat page are logged."""
    return store.home() / "chat" / "decisions.jsonl"


def chain(which: Which, name: str, second: str) -> Chain:
    """The chain of one side. It is kept with the session: the budgets of tools are in it. Raises `LabError`."""
    loaded = policy(name)
    writer = Which(model=second, threads=which.threads, own=True)
    if second == EDITOR:
        writer = Which(engine="scripted", model="editor", own=True)
    elif second in (AS_SAID, SAME):
        writer = dataclasses.replace(which, own=True)
    if second != AS_SAID:
        added = Rule(name=RULE, guard="rewrite", on=("output",), action="rewrite", settings={"engine": "second"},
                     timeout_s=safety.policy.TIMEOUT_S * 2)
        loaded = dataclasses.replace(loaded, rules=(*loaded.rules, added))
    kept: dict[object, Chain] = st.session_state.setdefault("chat.chains", {})
    key = (which, loaded.name, loaded.sha256, second)
    if key not in kept:
        kept[key] = Chain(loaded, sink=guard_log.writer(log_file()), engines={"second": _chat_engines.second(writer)})
    return kept[key]


def sidebar() -> Chosen:
    """The widgets; what they hold is in the address and goes on when the page is reloaded."""
    with st.sidebar:
        above = st.container()
        with st.expander("Decoding"):
            decoding, pace = _decoding()
        operator = st.toggle("Operator view", key="operator", bind="query-params",
                             help="Also show what the model wrote where something else was shown, and which pieces were drafted.")
    with above:
        twice = st.toggle("Side by side", key="compare", bind="query-params",
                          help="Two configurations answer the same question, one after another: never at the same time, because "
                               "each would slow the other down.")
        if twice:
            st.subheader("A", anchor=False)
        sides = [_side("", pace)]
        if twice:
            st.subheader("B", anchor=False)
            sides.append(_side("_b", pace))
            st.subheader("Both", anchor=False)
        role = _role(sides)
        tools = st.toggle("Let the model call a tool first", key="tools", bind="query-params",
                          help="The model writes which tool, and with what, under a JSON Schema. The policy says whether it may.")
        second = st.selectbox("Second model", [AS_SAID, SAME, EDITOR, *models.available()], key="second", bind="query-params",
                              help="It reads the whole answer before anybody else does, and writes another one where it must.")
    return Chosen(sides=tuple(sides), role=role, tools=tools, second=second, decoding=decoding, operator=operator)


def _side(end: str, pace: Pace) -> tuple[Which, str]:
    known = engines.names()
    engine = st.selectbox("Engine", known, index=known.index("llama_cpp"), key=f"engine{end}", bind="query-params")
    draft = "none"
    if engine == "llama_cpp":
        model = st.selectbox("Model", models.available(), index=models.available().index(models.DEFAULT), key=f"model{end}",
                             bind="query-params")
        draft = st.selectbox("Drafting", DRAFTS, key=f"draft{end}", bind="query-params",
                             help="Speculative decoding, by a server that is started for it on this machine.")
    elif engine == "scripted":
        model = st.selectbox("Script", list(SCRIPTS), key=f"script{end}", bind="query-params")
    elif engine == "server":
        model = st.text_input("Address", key=f"url{end}", bind="query-params", placeholder="http://127.0.0.1:8080/v1",
                              help="Of an OpenAI-compatible server; #NAME behind it chooses the model. The key is read from "
                                   "the environment variable OPENAI_API_KEY.")
    else:
        model = st.text_input("Model", key=f"name{end}", bind="query-params")
    name = st.selectbox("Policy", policies(), key=f"policy{end}", bind="query-params",
                        help=f"Files of your own belong into {store.home() / 'policies'}.")
    return Which(engine=engine, model=model.strip(), draft=draft, threads=pace.threads, token_ms=pace.token_ms), name


def _role(sides: list[tuple[Which, str]]) -> str:
    roles: list[str] = []
    for _, name in sides:
        try:
            roles += [role for role in policy(name).roles if role not in roles]
        except LabError:
            continue  # the page says what is wrong with it
    return str(st.selectbox("Role", roles or ["user"], key="role", bind="query-params",
                            help="Who is asking: rules and tools may be for some roles only."))


def _decoding() -> tuple[Decoding, Pace]:
    tokens = st.number_input("Most tokens of an answer", 1, 4096, 200, key="max_tokens", bind="query-params")
    temperature = st.slider("Temperature", 0.0, 2.0, 0.0, 0.1, key="temperature", bind="query-params", help="0 is greedy.")
    threads = st.number_input("Threads", 0, os.cpu_count() or 1, 0, key="threads", bind="query-params",
                              help="0 is all physical cores.")
    token_ms = st.number_input("Pace of the scripted engine, ms a token", 0, 1000, 4, key="token_ms", bind="query-params")
    return (Decoding(max_tokens=int(tokens), temperature=float(temperature)),
            Pace(threads=int(threads), token_ms=int(token_ms)))

"""Engines behind HTTP as the experiments use them: opened, asked one small question, and measured through their endpoint."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from lab import engines
from lab.engines import Engine, is_url
from lab.errors import LabError
from lab.load.endpoint import Endpoint
from lab.load.probe import probe
from lab.load.services import OverHttp
from lab.records import Decoding, Request

FIRST_ANSWER_S = 30.0
"""A server that takes longer for two tokens after a word is measured by nobody."""
REMOTE = ("server", "vllm")
"""Engines that this machine can start and that are spoken to over HTTP; a URL is another."""


def is_remote(name: str) -> bool:
    """Whether engine `name` is spoken to over HTTP."""
    return name in REMOTE or is_url(name)


def over_http(
    name: str, model: str, *, key_env: str, room: int, max_running: int, threads: int, flash_attention: engines.Flash,
    prefix_cache: bool, closing: contextlib.ExitStack, **more: Any,
) -> tuple[Engine, OverHttp]:
    """Open engine `name` ('server' starts `lab serve`, 'vllm' starts vLLM, a URL is taken as it is) until `closing` ends.

    `room` are the tokens of one request, `more` settings of the engine beside. Raises `LabError` when it cannot be
    started or reached, or does not answer.
    """
    started: dict[str, Any] = {"max_running": max_running, "prefix_cache": prefix_cache, "threads": threads, **more}
    if name == "server":
        engine = engines.open_engine("server", model, context_tokens=room * max_running, queue=10_000,
                                     flash_attention=flash_attention, **started)
    elif name == "vllm":
        engine = engines.open_engine("vllm", model, context_tokens=room, **started)
    else:
        engine = engines.open_engine("server", name, key_env=key_env)
    closing.callback(engine.close)
    endpoint = engine.endpoint  # type: ignore[attr-defined]
    return engine, OverHttp(endpoint=answering(endpoint))


def answering(endpoint: Endpoint) -> Endpoint:
    """`endpoint`, which answered a small question; as `chat_only` where it has no /completions and chats.

    Raises `LabError` with one sentence where it does neither.
    """
    hello = Request(prompt="Hello", decoding=Decoding(max_tokens=2))
    try:
        probe(endpoint, request=hello, within_s=FIRST_ANSWER_S)
        return endpoint
    except LabError as error:
        if "(404" not in str(error):
            raise
        chat = dataclasses.replace(endpoint, chat_only=True)
        try:
            probe(chat, request=hello, within_s=FIRST_ANSWER_S)
        except LabError:
            raise error from None
        return chat

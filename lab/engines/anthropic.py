"""Anthropic's Messages API as an engine: Claude models by name, the key from ANTHROPIC_API_KEY."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.engines import _schemas
from lab.engines.http.client import Broken, Busy, Client, one_line
from lab.errors import LabError
from lab.load.endpoint import Endpoint
from lab.load.events import Events
from lab.load.response import Malformed
from lab.records import Chunk, Decoding, FinishReason, Request, Settings, Usage

URL = "https://api.anthropic.com"
VERSION = "2023-06-01"
"""The version of the protocol, which every request must name."""
UNKNOWN_TOKEN = -1
"""The API does not say its tokens; a piece of a stream counts as one, and `usage.output_tokens` is the true count."""
CONTEXT_TOKENS = 200_000
LONGEST_WAIT_S = 60.0
ANSWER_TOOL = "answer"
_REASONS: Mapping[str, FinishReason] = {"max_tokens": "length", "model_context_window_exceeded": "length"}


@dataclass(frozen=True, kw_only=True)
class MessagesEndpoint(Endpoint):
    """Where the Messages API is, and how it wants to be asked."""

    key_env: str = "ANTHROPIC_API_KEY"

    def path(self, request: Request) -> str:
        return self.parts.path + "/v1/messages"

    def headers(self) -> dict[str, str]:
        """As of any endpoint, but the key goes into a header of its own. Raises `LabError` without a key."""
        sent = super().headers()
        key = sent.pop("Authorization", "").removeprefix("Bearer ")
        if not key:
            raise LabError(f"Anthropic's API wants a key; put yours into the environment variable {self.key_env}.")
        return sent | {"x-api-key": key, "anthropic-version": VERSION}

    def body(self, request: Request) -> bytes:
        """The JSON to post. Raises `LabError` for what the API does not take."""
        turns = request.messages
        if turns is None:
            raise LabError("Anthropic's API takes messages and no plain prompt; ask with messages.")
        if any(turn.role == "tool" for turn in turns) or not any(turn.role == "user" for turn in turns):
            raise LabError("A request to Anthropic's API needs a turn of the user, and none with the role 'tool'.")
        asked: dict[str, Any] = {"model": self.model, **_settings(request.decoding),
                                 "messages": [{"role": t.role, "content": t.content} for t in turns if t.role != "system"]}
        if system := "\n\n".join(t.content for t in turns if t.role == "system"):
            asked["system"] = system
        if request.decoding.json_schema:
            schema = _schemas.read(request.decoding)
            asked["tools"] = [{"name": ANSWER_TOOL, "description": "Give the answer.", "input_schema": schema}]
            asked["tool_choice"] = {"type": "tool", "name": ANSWER_TOOL, "disable_parallel_tool_use": True}
        return json.dumps(asked | ({"stream": True} if self.stream else {}) | dict(self.extra), separators=(",", ":")).encode()


def _settings(decoding: Decoding) -> dict[str, Any]:
    if decoding.min_p > 0 or decoding.ignore_eos:
        raise LabError("Anthropic's API knows neither min_p nor an answer without end; leave them off.")
    if decoding.temperature > 1:
        raise LabError(f"Anthropic's API takes temperatures from 0 to 1, not {decoding.temperature:g}.")
    asked: dict[str, Any] = {"max_tokens": decoding.max_tokens, "temperature": decoding.temperature}
    if decoding.top_k > 0:
        asked["top_k"] = decoding.top_k
    if decoding.top_p < 1:
        asked["top_p"] = decoding.top_p
    if decoding.stop:
        asked["stop_sequences"] = list(decoding.stop)
    return asked


class Anthropic:
    """A Claude model. The API takes no seed: the same question may be answered otherwise the next time.

    Where the service has no room (429, 503, 529) a request waits as long as it is told, at most `retries` times; `waits`
    counts these. A schema is kept by a tool that must be used and whose input is the answer.
    """

    def __init__(
        self, endpoint: MessagesEndpoint, *, timeout_s: float = 600.0, retries: int = 4,
        context_tokens: int = CONTEXT_TOKENS, sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        endpoint.headers()  # a missing key is said before anything is asked
        self.endpoint, self.context_tokens, self.waits = endpoint, context_tokens, 0
        self._client = Client(endpoint, timeout_s=timeout_s, kind="Anthropic's API")
        self._retries, self._sleep, self._counting = retries, sleep, threading.Lock()
        self.settings: Settings = {
            "engine": "anthropic", "model": endpoint.model, "url": endpoint.url, "threads": None,
            "context_tokens": context_tokens, "stream": endpoint.stream, "retries": retries, "version": VERSION}

    def now(self) -> float:
        return time.perf_counter()

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        raise LabError("Anthropic's API does not show its tokens; give texts, or use the engine llama_cpp.")

    def detokenize(self, tokens: Sequence[int]) -> str:
        raise LabError("Anthropic's API does not show its tokens; read the texts of its answers.")

    def prompt_tokens(self, request: Request) -> list[int]:
        raise LabError("Anthropic's API does not show its tokens; their number is in the usage of an answer.")

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Chunks as they arrive, or one if asked to answer whole. Raises `LabError` for a refusal."""
        return self._ask(self.endpoint.body(request), self.endpoint.path(request))

    def _ask(self, body: bytes, path: str) -> Iterator[Chunk]:
        for left in range(self._retries, -1, -1):
            try:
                yield from self._answer(body, path)
                return
            except Busy as busy:  # said before the first byte of an answer: nothing was handed out yet
                if left == 0:
                    raise
                with self._counting:
                    self.waits += 1
                    patient_s = 2.0 ** (self._retries - left)
                self._sleep(min(LONGEST_WAIT_S, patient_s if math.isnan(busy.after_s) else busy.after_s))

    def _answer(self, body: bytes, path: str) -> Iterator[Chunk]:
        reader, found = _Reader(), list[Any]()
        events = Events(lambda data, at_s: found.append(json.loads(data)))
        at, begun = self.now(), False
        try:
            for data in self._client.stream(path, body):
                at = self.now()
                if isinstance(data, dict):
                    yield self._whole(data, at)
                    return
                events.feed(data, at)
                for event in found:
                    text = reader.read(event)
                    if reader.error:
                        raise Broken(f"{self._client.who} broke off: {reader.error}.")
                    if text:
                        begun = True
                        yield Chunk(text=text, tokens=(UNKNOWN_TOKEN,), at_s=at)
                found.clear()
        except (Broken, Malformed, ValueError) as error:
            if not begun:
                raise LabError(str(error) if isinstance(error, LabError) else
                               f"{self._client.who} sent an event that is no JSON object; check the URL.") from error
            return  # an answer without a finish reason is recorded as an error
        if reader.finish is not None:
            yield Chunk(at_s=at, finish_reason=reader.finish, usage=reader.usage)
        elif not begun:
            raise LabError(f"{self._client.who} answered with an empty stream; ask again.")

    def _whole(self, said: Mapping[str, Any], at: float) -> Chunk:
        text = "".join(_text(block) for block in said.get("content") or ())
        usage = _usage(said.get("usage") or {})
        return Chunk(text=text, tokens=(UNKNOWN_TOKEN,) * (usage.output_tokens or int(bool(text))), at_s=at, usage=usage,
                     finish_reason=_REASONS.get(str(said.get("stop_reason")), "stop"))

    def logits(self, tokens: Sequence[int], *, start: int = 0) -> NDArray[np.float32]:
        raise LabError("Anthropic's API shows text and not logits; measure them with the engine llama_cpp.")

    def branch_logprobs(self, prefix: Sequence[int], branches: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        raise LabError("Anthropic's API does not score given text; score it with the engine llama_cpp.")

    def bytes_per_token(self, depth: int) -> float:
        """Nobody on this side knows."""
        return math.nan

    def close(self) -> None:
        self._client.close()


class _Reader:
    """Reads the events of one stream: what they add to the text, and how it ended."""

    def __init__(self) -> None:
        self.finish: FinishReason | None = None
        self.usage, self.error = Usage(), ""
        self._counts: dict[str, Any] = {}

    def read(self, event: object) -> str:
        if not isinstance(event, dict):
            raise ValueError
        kind = event.get("type")
        if kind == "error":
            self.error = one_line(str((event.get("error") or {}).get("message", "no reason")))
        elif kind == "message_start":
            self._counts |= (event.get("message") or {}).get("usage") or {}
        elif kind == "message_delta":
            self._counts |= event.get("usage") or {}
            reason = (event.get("delta") or {}).get("stop_reason")
            self.finish = _REASONS.get(str(reason), "stop")
        elif kind == "content_block_delta":
            delta = event.get("delta") or {}
            return str(delta.get("text") or delta.get("partial_json") or "")
        self.usage = _usage(self._counts)
        return ""


def _text(block: Mapping[str, Any]) -> str:
    """A block of an answer as text; the input of the answering tool is the answer."""
    return json.dumps(block.get("input")) if block.get("type") == "tool_use" else str(block.get("text") or "")


def _usage(said: Mapping[str, Any]) -> Usage:
    """Token counts in our words: the API counts what it read from its cache, or wrote to it, beside the input."""
    def count(name: str) -> int | None:
        value = said.get(name)
        return value if isinstance(value, int) else None

    read, cached, written = (count(f"{name}input_tokens") for name in ("", "cache_read_", "cache_creation_"))
    prompt = None if read is None else read + (cached or 0) + (written or 0)
    return Usage(prompt_tokens=prompt, cached_tokens=cached, output_tokens=count("output_tokens"))


def open(
    model: str, *, base_url: str = "", stream: bool = True, key_env: str = "ANTHROPIC_API_KEY", timeout_s: float = 600.0,
    retries: int = 4, context_tokens: int = CONTEXT_TOKENS,
) -> Anthropic:
    """Open a Claude model by the name that the API gives it. Raises `LabError` without a key.

    `base_url` "" is that of the environment variable ANTHROPIC_BASE_URL, else Anthropic's own.
    """
    if retries < 0:
        raise LabError(f"retries is {retries}; give 0 or more.")
    url = base_url or os.environ.get("ANTHROPIC_BASE_URL", "") or URL
    endpoint = MessagesEndpoint(url=url, model=model, stream=stream, key_env=key_env)
    return Anthropic(endpoint, timeout_s=timeout_s, retries=retries, context_tokens=context_tokens)

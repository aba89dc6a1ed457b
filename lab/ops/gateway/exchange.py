"""One request from the moment it is accepted to its row in the log.

Text passes the output guards as it comes. When the answer is complete its row is handed to the log, and only when the row is
safe the final event (or the whole of an answer that is not streamed) is written: who has read the end of an answer finds it
in the log.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.engines.http.answers import error_event
from lab.engines.http.asked import Asked, Refusal
from lab.engines.http.reply import JSON, Send, at_once
from lab.engines.http.step_loop import News, Ticket
from lab.ops.cost import PriceBook
from lab.ops.gateway.events import Answer, counts
from lab.ops.gateway.keys import Key
from lab.ops.gateway.serving import Guarded, Serving
from lab.ops.requests_schema import LogRecord
from lab.records import Generation, Message
from lab.safety import Decision, Flow

EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))
FILTERED = "content_filter"
"""The finish reason of an answer in whose place a guard put its own words."""
CLIENT_LEFT = 499


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Who asks, and what of the request belongs to the log: hashes, never a key or a name."""

    id: str
    key: Key
    user_hash: str = ""
    received_s: float
    time_s: float
    arm: str = ""
    keep_text: bool = False


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the client sent: all that is needed to ask another release the same."""

    turns: tuple[Message, ...]
    given: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """An exchange that is over: its row, and what may be kept or shown of it beside the row."""

    record: LogRecord
    guard: str
    prompt: str | None
    answer: str
    reserved_tokens: int


@dataclass(eq=False, kw_only=True)
class Exchange:
    """The answer to one request. All methods are for the event loop.

    `end` is given the row once; the caller writes it and calls `safe` when it is written. `beside` runs slow guards.
    """

    asker: Asker
    serving: Serving
    guarded: Guarded
    asked: Asked
    send: Send
    prices: PriceBook
    end: Callable[[Exchange, Ended], None]
    stop: Callable[[Exchange], None]
    beside: Callable[[Coroutine[Any, Any, None]], object]
    reserved_tokens: int = 0
    origin: Origin | None = None
    running: Callable[[], int] = lambda: 1
    ticket: Ticket = field(init=False)
    give_up: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        role = self.asker.key.role
        self.ticket = Ticket(request=self.asked.request, tokens=self.asked.tokens, received_s=self.asker.received_s,
                             stream=self.asked.stream)
        self._answer = Answer(self.asker.id, self.serving.model, self.serving.fingerprint, usage=self.asked.usage)
        self._slow = self.serving.slow("output", role)
        self._flow: Flow | None = None if self._slow else self.serving.chain.flow(role=role, session=self.asker.user_hash)
        self._raw: list[str] = []
        self._shown: list[str] = []
        self._decisions: list[Decision] = list(self.guarded.decisions)
        self._begun = self._over = self.ended = self.lost = False
        self._final: bytes = b""
        self._status = 200
        self._output = 0
        self._first = self._first_token = self._last = math.nan
        self.heard_s = self.asker.received_s
        """When the engine last said something."""

    @property
    def over(self) -> bool:
        """Whether nothing more is expected from the engine."""
        return self._over

    @property
    def waits_for_first(self) -> bool:
        return math.isnan(self._first_token)

    # From the engine

    def take(self, news: News) -> None:
        """Show what `news` adds, as far as the guards let it go."""
        if self._over:
            return
        self.heard_s = time.perf_counter()
        if news.error:
            self.fail(news.status, "engine", news.error)
            return
        self._count(news)
        text = "".join(news.texts)
        if self._flow is None:
            self._raw.append(text)
            if news.generation is not None:
                self._over = True
                self.beside(self._judged(news.generation))
            return
        shown = self._flow.push(text)
        if news.generation is not None and not self._flow.blocked:
            shown += self._flow.end()
            if not self._flow.decisions:
                self._flow.note_allowed()
        if self._flow.blocked or news.generation is not None:
            self._decisions += self._flow.decisions
            if self._flow.blocked:
                self.stop(self)
                gap = "\n\n" if self._shown or shown else ""
                self._complete(f"{shown}{gap}{self._flow.message}", FILTERED, news.generation)
            else:
                self._complete(shown + self._said_behind(), "", news.generation)
        elif shown:
            self._show(shown)

    def _count(self, news: News) -> None:
        if news.tokens:
            self._last = self.heard_s
            if math.isnan(self._first_token):
                self._first_token = self.heard_s
            self._output += len(news.tokens)

    async def _judged(self, generation: Generation) -> None:
        """A whole answer through guards that ask a second model, in a thread."""
        import asyncio

        try:
            checked = await asyncio.to_thread(
                self.serving.chain.output, "".join(self._raw), role=self.asker.key.role, session=self.asker.user_hash,
                disclaimers=self.guarded.disclaimers)
        except Exception as error:  # what breaks must not let the answer through
            self._over = False
            self.fail(500, "guard", f"A guard failed ({type(error).__name__}); the answer is not shown.")
            return
        self._decisions += checked.decisions
        self._over = False
        self._complete(checked.text, FILTERED if checked.blocked else "", generation)

    def _said_behind(self) -> str:
        return "\n\n" + "\n".join(self.guarded.disclaimers) if self.guarded.disclaimers else ""

    # To the client

    def block(self) -> None:
        """Answer a question that the input guards keep from the model with their words."""
        self._complete(self.guarded.blocked, FILTERED, None)

    def fail(self, status: int, kind: str, sentence: str, reason: str = "error") -> None:
        """End with an error: its status where nothing was sent yet, else an event."""
        if self._over:
            return
        self._over = True
        refusal = Refusal(sentence, status=status, kind="server_error", code=kind)
        self._status, self._final = status, json.dumps(refusal.as_json()).encode()
        if self._begun:
            self._final = error_event(refusal.as_json())
        self.end(self, self._ended(None, status, kind, reason, None))

    def leave(self) -> None:
        """The client went away: no more tokens are computed, and the row says so."""
        if not self._over:
            self._over = self.lost = True
            self.stop(self)
            self.end(self, self._ended(None, CLIENT_LEFT, "", "cancelled", None))

    def safe(self, written: bool, why: str = "") -> None:
        """The row is written, or cannot be: send the end."""
        if self.ended or self.lost:
            return
        self.ended = True
        if not written:
            refusal = Refusal(f"{why}; the answer cannot be vouched for. Ask again later.", kind="server_error", code="log")
            said = refusal.as_json()
            self._status, self._final = 503, error_event(said) if self._begun else json.dumps(said).encode()
        if self._begun:
            self._write(self._final, more=False)
            return
        headers = [(b"content-length", str(len(self._final)).encode()), *self._headers(),
                   *([] if self._status == 200 else [(b"retry-after", b"1")])]
        if at_once(self.send({"type": "http.response.start", "status": self._status, "headers": [JSON, *headers]})):
            self._write(self._final, more=False)

    def _show(self, text: str) -> None:
        """Text that the guards let go."""
        if math.isnan(self._first) and self.asked.stream:
            self._first = time.perf_counter()
        self._shown.append(text)
        if not self.asked.stream:
            return
        event = self._answer.text(text)
        if not self._begun:
            self._begun = True
            at_once(self.send({"type": "http.response.start", "status": 200, "headers": [*EVENTS, *self._headers()]}))
            event = self._answer.opening() + event
        self._write(event, more=True)

    def _complete(self, text: str, reason: str, generation: Generation | None) -> None:
        """All text is there: show the rest, have the row written, and keep the final event until it is."""
        if text or (self.asked.stream and not self._begun):
            self._show(text)
        self._over = True
        reason = reason or (generation.finish_reason if generation else "stop")
        usage = generation.usage if generation else None
        prompt = (usage and usage.prompt_tokens) or len(self.asked.tokens)
        told = counts(prompt, (usage and usage.cached_tokens) or 0, self._output)
        whole = "".join(self._shown)
        self._final = self._answer.last(reason, told) if self.asked.stream else self._answer.whole(whole, reason, told)
        self.end(self, self._ended(generation, 200, "", reason, whole))

    def _write(self, body: bytes, *, more: bool) -> None:
        if not self.lost and not at_once(self.send({"type": "http.response.body", "body": body, "more_body": more})):
            self.lost = True  # it does not read what it is sent
            self.give_up()

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"x-request-id", self.asker.id.encode()), (b"x-lab-release", str(self.serving.number).encode())]

    # To the log

    def _ended(self, generation: Generation | None, status: int, kind: str, reason: str, answer: str | None) -> Ended:
        now, asker = time.perf_counter(), self.asker
        usage = generation.usage if generation else None
        prompt = float((usage and usage.prompt_tokens) or len(self.asked.tokens)) if self.asked.tokens else math.nan
        cached = float(usage.cached_tokens) if usage and usage.cached_tokens is not None else math.nan
        last = self._last if not math.isnan(self._last) else now
        first = self._first if self.asked.stream else self._first_token
        started = (generation and generation.started_s) or asker.received_s
        price = self.prices.prices.get(self.serving.model)
        cost = math.nan if price is None else price.cost_usd(
            prompt_tokens=prompt, cached_tokens=cached, output_tokens=self._output, busy_s=max(0.0, last - started),
            running=self.running())
        blocked = reason == FILTERED
        record = LogRecord(
            time_s=asker.time_s, request_id=asker.id, release=self.serving.name, key_hash=asker.key.id, user_hash=asker.user_hash,
            model=self.serving.model, status=status, error_kind=kind, ttft_s=first - asker.received_s,
            tpot_s=(self._last - self._first_token) / (self._output - 1) if self._output > 1 else math.nan,
            e2e_s=(now if blocked else last) - asker.received_s, prompt_tokens=prompt, cached_tokens=cached,
            output_tokens=float(self._output), cost_usd=cost, finish_reason=reason, topic=self.guarded.topic, arm=asker.arm,
            refused=math.nan if answer is None else 1.0 if blocked else declined(answer))
        guard = ",".join(dict.fromkeys(f"{d.stage}:{d.rule}:{d.action}" for d in self._decisions))
        prompt_text = "\n\n".join(turn.content for turn in self.guarded.turns) if asker.keep_text and self.guarded.turns else None
        return Ended(record=record, guard=guard, prompt=prompt_text, answer=answer or "", reserved_tokens=self.reserved_tokens)


def declined(answer: str) -> float:
    """1 where an answer reads as a refusal, else 0."""
    from lab.metrics.bias.tone import refusal

    return refusal([answer])[0]

"""The server's paths as a bare ASGI application: asks the step loop and writes what it brings, with little in between."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from lab.engines.http.answers import Events, whole
from lab.engines.http.asked import Asked, Refusal, read_asked, read_json, read_messages, refuse_model
from lab.engines.http.counters import Counters
from lab.engines.http.reply import JSON, Reply, Send, Streamed, Whole, answer
from lab.engines.http.routing import routed, wrong_key
from lab.engines.http.served import Served
from lab.engines.http.step_loop import Delivery, StepLoop, Ticket
from lab.errors import LabError
from lab.records import Request

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BODY_BYTES = 4_000_000
MOST_DROPPED_BYTES = 64_000_000
BODY_S = 30.0
"""A client that takes longer to send its body is given up."""
LONG_BODY_BYTES = 20_000
"""A longer body is read beside the event loop, whose streams would stall over its tokens."""


class App:
    """The ASGI application. Make it in the running event loop, `start` it, and `stop` it before the loop ends."""

    def __init__(self, served: Served, *, key: str = "") -> None:
        self.served, self._key = served, key.encode()
        self.counters = Counters()
        self.open: dict[Ticket, Reply] = {}
        self.draining = False
        self._speculates = served.settings.draft != "none"
        self._most = served.settings.max_running + served.settings.queue
        self._started = int(time.time())
        loop = asyncio.get_running_loop()
        # One hand-over a step, however many requests it touched.
        self.steps = StepLoop(served, lambda delivery: _hand_over(loop, self._receive, delivery))
        self._routes: dict[str, tuple[str, Handler]] = {
            "/v1/chat/completions": ("POST", partial(self._complete, chat=True)),
            "/v1/completions": ("POST", partial(self._complete, chat=False)),
            "/v1/models": ("GET", self._models), "/health": ("GET", self._health), "/metrics": ("GET", self._metrics),
            "/tokenize": ("POST", self._tokenize), "/detokenize": ("POST", self._detokenize),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            await self._route(scope)(scope, receive, send)
        except Refusal as refusal:
            self.counters.refused[refusal.status] += 1
            await answer(send, refusal.status, json.dumps(refusal.as_json()).encode(), JSON, *refusal.headers)

    def _route(self, scope: Scope) -> Handler:
        path, handler = routed(scope, self._routes)
        if self._key and path != "/health":
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not hmac.compare_digest(given, b"Bearer " + self._key):
                raise wrong_key()
        return handler

    def start(self) -> None:
        self.steps.start()

    # The step loop's side

    def _receive(self, delivery: Delivery) -> None:
        for ticket, news in delivery:
            reply = self.open.get(ticket)
            if reply is None:
                continue
            if not ticket.answered and news.tokens:
                ticket.answered = True
                self.counters.first_token(time.perf_counter() - ticket.received_s)
            self.counters.generated_tokens += len(news.tokens)
            if news.generation is not None:
                self.counters.end(news.generation)
            reply.take(news)

    # Answers

    async def _complete(self, scope: Scope, receive: Receive, send: Send, *, chat: bool) -> None:
        received = self.served.core.now()
        id_ = ("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex
        body = await _read(scope, receive)
        self._refuse_when_full()
        asked = await self._off_loop(len(body), lambda: read_asked(read_json(body), self.served, chat=chat, id_=id_))
        self._refuse_when_full()
        ticket = Ticket(request=asked.request, tokens=asked.tokens, received_s=received, stream=asked.stream)
        reply = self.open[ticket] = self._reply(send, id_, asked, chat)
        self.steps.submit(ticket)
        try:
            # The answer is written as its tokens come, outside of this task; it ends, or the client goes away.
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            del self.open[ticket]
            if not reply.ended:
                self.counters.ended["abort"] += 1
                self.steps.cancel(ticket)

    def _reply(self, send: Send, id_: str, asked: Asked, chat: bool) -> Reply:
        name, task = self.served.name, asyncio.current_task()
        assert task is not None
        if asked.stream:
            return Streamed(send, Events(id_, name, asked, chat=chat, speculates=self._speculates), give_up=task.cancel)
        return Whole(send, partial(whole, id_, name, asked, chat=chat, speculates=self._speculates))

    def _refuse_when_full(self) -> None:
        if self.draining:
            raise Refusal("The server is stopping; ask another one.", status=503, kind="server_error",
                          headers=[(b"connection", b"close"), (b"retry-after", b"5")])
        if len(self.open) >= self._most:
            raise Refusal(f"The queue of {self.served.settings.queue} waiting requests is full; ask again in a second.",
                          status=429, kind="rate_limit_error", code="queue_full", headers=[(b"retry-after", b"1")])

    async def _off_loop(self, size: int, work: Callable[[], Any]) -> Any:
        return work() if size < LONG_BODY_BYTES else await asyncio.to_thread(work)

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = {"id": self.served.name, "object": "model", "created": self._started, "owned_by": "lab",
                 "max_model_len": self.served.request_tokens, "settings": dict(self.served.logged)}
        await answer(send, 200, json.dumps({"object": "list", "data": [model]}).encode(), JSON)

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = "stopping" if self.draining else "ok"
        await answer(send, 503 if self.draining else 200, json.dumps({"status": status}).encode(), JSON)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = self.counters.text(self.steps.now, cells=self.served.core.context_tokens, model=self.served.name)
        await answer(send, 200, text.encode(), (b"content-type", b"text/plain; version=0.0.4; charset=utf-8"))

    async def _tokenize(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As vLLM's: `prompt` and `add_special_tokens`, or `messages`; llama-server's `content` and `add_special` too."""
        body = await _read(scope, receive)
        given = read_json(body)
        refuse_model(given, self.served)
        engine = self.served.engine
        text = given.get("prompt", given.get("content"))
        special = given.get("add_special_tokens", given.get("add_special", True))
        one_of_both = (text is None) != (given.get("messages") is None)
        if not isinstance(special, bool) or not one_of_both or not isinstance(text, (str, type(None))):
            raise Refusal("/tokenize takes a text as 'prompt' (with 'add_special_tokens' true or false), or 'messages'.")
        try:
            if text is None:
                asked = Request(messages=read_messages(given))
                tokens = await self._off_loop(len(body), lambda: engine.prompt_tokens(asked))
            else:
                tokens = await self._off_loop(len(body), lambda: engine.tokenize(text, special=special))
        except LabError as error:
            raise Refusal(str(error)) from error
        found = {"count": len(tokens), "max_model_len": self.served.request_tokens, "tokens": tokens}
        await answer(send, 200, json.dumps(found).encode(), JSON)

    async def _detokenize(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As vLLM's and llama-server's: `tokens` in, the text as `prompt` and as `content` out."""
        given = read_json(await _read(scope, receive))
        refuse_model(given, self.served)
        tokens = given.get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(t, int) and not isinstance(t, bool) for t in tokens):
            raise Refusal("/detokenize takes 'tokens', a list of token ids.", param="tokens")
        engine, loop = self.served.engine, asyncio.get_running_loop()
        made: asyncio.Future[str] = loop.create_future()

        def detokenize() -> None:
            try:
                engine.prompt_tokens(Request(tokens=tuple(tokens)))
                result, error = engine.detokenize(tokens), None
            except LabError as refusal:
                result, error = "", refusal
            loop.call_soon_threadsafe(_settle, made, result, error)

        # Between steps: the vocabulary has one buffer for the text of a token, and the loop uses it.
        self.steps.order(detokenize)
        try:
            text = await made
        except LabError as error:
            raise Refusal(str(error), param="tokens") from error
        await answer(send, 200, json.dumps({"prompt": text, "content": text}).encode(), JSON)


def _settle(made: asyncio.Future[str], result: str, error: Exception | None) -> None:
    if made.done():
        return
    if error is None:
        made.set_result(result)
    else:
        made.set_exception(error)


def _hand_over(loop: asyncio.AbstractEventLoop, receive: Callable[[Delivery], None], delivery: Delivery) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed while the last step ran
        loop.call_soon_threadsafe(receive, delivery)


async def _read(scope: Scope, receive: Receive) -> bytes:
    """The whole body. Raises `Refusal` when it is too large, too slow or cut off."""
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    seen = int(length) if length.isdigit() and int(length) > MOST_DROPPED_BYTES else 0
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(BODY_S):
            # What is too large is read to its end, unless it is absurd: a client that is still sending reads no answer.
            while more and seen <= MOST_DROPPED_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refusal("The body ended early.")
                part, more = message.get("body", b""), message.get("more_body", False)
                seen += len(part)
                if seen <= MOST_BODY_BYTES:
                    body += part
    except TimeoutError as error:
        raise Refusal(f"The body did not arrive within {BODY_S:g} s.", status=408, headers=[(b"connection", b"close")]) from error
    if seen > MOST_BODY_BYTES:
        raise Refusal(f"The body is larger than the {MOST_BODY_BYTES:,} bytes that are read; send less.", status=413,
                      headers=[(b"connection", b"close")])
    return bytes(body)

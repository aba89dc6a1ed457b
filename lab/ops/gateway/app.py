"""The gateway as a bare ASGI application: admits a request, has the release in force answer it, and has it written down."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sys
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from lab.engines.http.asked import Asked, Refusal, read_json
from lab.engines.http.reply import JSON, Send, answer
from lab.engines.http.routing import routed, wrong_key
from lab.engines.http.step_loop import Delivery, Ticket
from lab.errors import LabError
from lab.ops import cost
from lab.ops.gateway import admission, openapi, status
from lab.ops.gateway.admission import Receive, Scope
from lab.ops.gateway.exchange import Asker, Ended, Exchange, Origin, declined
from lab.ops.gateway.keys import Key, Keys, user_id
from lab.ops.gateway.ledger import Ledger
from lab.ops.gateway.loaded import Loaded
from lab.ops.gateway.metrics import Metrics
from lab.ops.gateway.serving import Guarded, Serving, refuse_role
from lab.ops.gateway.settings import GatewaySettings
from lab.ops.gateway.shadows import Shadows
from lab.ops.gateway.sweep import Sweep
from lab.ops.gateway.traces import Traces
from lab.ops.requests import RequestLog
from lab.ops.requests_schema import LogRecord

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]
LONG_BODY_BYTES = 20_000
"""A longer body is read beside the event loop, whose streams would stall over its tokens."""
OPEN_PATHS = ("/health", "/ready", "/openapi.json")
"""Paths that need no key: they tell nothing of anybody's requests."""


class App:
    """Make it in the running event loop, `start` it, and `stop` it before the loop ends."""

    def __init__(
        self, settings: GatewaySettings, *, place: Path, secret: bytes, metrics: Path, loaded: Loaded | None = None,
        hung: Callable[[], object] = lambda: None,
    ) -> None:
        """`hung` is called once when the engine of the release in force hangs: nobody but a new process can mend that."""
        self.settings, self._secret = settings, secret
        self._event_loop = asyncio.get_running_loop()
        self.loaded = loaded or Loaded(settings, self._deliver)
        self.log = RequestLog(place, acknowledge=self._acknowledge, keep=settings.keep, sync=settings.sync)
        self.ledger, self.metrics = Ledger(place), Metrics(metrics)
        self.prices = cost.load(settings.prices) if settings.prices else cost.load()
        self.traces = Traces(settings.traces_per_s)
        self.keys, self.keys_trouble = Keys(), ""
        self._sweep = Sweep(self, hung)
        self.open: dict[Ticket, Exchange] = {}
        self.draining = False
        self.hanging = ""
        """That the engine hangs, in a sentence; nothing is answered any more then."""
        self._admitted = 0
        self.shadows = Shadows(self)
        self._of_key: Counter[str] = Counter()
        self._started, self._tasks = int(time.time()), set[asyncio.Task[None]]()
        self._document = json.dumps(openapi.document()).encode()
        self._routes: dict[str, tuple[str, Handler]] = {
            "/v1/chat/completions": ("POST", self._chat), "/v1/models": ("GET", self._models), "/health": ("GET", self._health),
            "/ready": ("GET", self._ready), "/metrics": ("GET", self._metrics), "/openapi.json": ("GET", self._openapi)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        received, wall = time.perf_counter(), time.time()
        scope["received"], scope["wall"] = received, wall
        scope["id"] = "chatcmpl-" + uuid.uuid4().hex
        try:
            handler = self._route(scope)
            await handler(scope, receive, send)
        except Refusal as refusal:
            await self._refused(scope, send, refusal)
        except Exception as error:  # a defect of ours must not show its insides, nor end the connection without a word
            if scope.get("answering"):
                raise
            traceback.print_exception(error, file=sys.stderr)
            await self._refused(scope, send, Refusal("The gateway failed at this request; it has been noted.", status=500,
                                                     kind="server_error", code="gateway"))

    def start(self) -> None:
        """Begin to follow the alias and to watch over open requests."""
        declined("")  # its packages are imported now and not while the first answer waits
        self.spawn(self.loaded.follow())
        self.spawn(self._sweep.run())

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self.log.close()
        self.loaded.close()
        self.metrics.leave({})
        self.traces.close()
        self.ledger.close()

    def _route(self, scope: Scope) -> Handler:
        path, handler = routed(scope, self._routes, wrong_method="method")
        if path not in OPEN_PATHS:
            key = self.keys.find(admission.header(scope, b"authorization"))
            if key is None:
                raise wrong_key()
            scope["key"] = key
        return handler

    async def _refused(self, scope: Scope, send: Send, refusal: Refusal) -> None:
        """Say no, and write it down; nobody waits for that row."""
        key: Key | None = scope.get("key")
        record = LogRecord(
            time_s=scope["wall"], request_id=scope["id"], release=scope.get("release") or self._in_force(),
            key_hash=key.id if key else "", user_hash=scope.get("user_hash", ""), arm=scope.get("arm", ""),
            status=refusal.status, error_kind=refusal.code or refusal.kind,
            e2e_s=time.perf_counter() - scope["received"])
        if scope["path"].startswith("/v1/chat"):
            self.log.add(record)
            self.metrics.end(record)
        await answer(send, refusal.status, json.dumps(refusal.as_json()).encode(), JSON, (b"x-request-id", scope["id"].encode()),
                     *refusal.headers)

    def _in_force(self) -> str:
        """The release that would have answered; "" where there is none."""
        with contextlib.suppress(Refusal):
            return serving.name if (serving := self.loaded.now()) else ""
        return ""

    # Chat

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        key: Key = scope["key"]
        self._refuse_when_full(key)
        self._admitted += 1
        self._of_key[key.id] += 1
        self.shadows.make_room(self._admitted)
        try:
            exchange = await self._prepared(scope, receive, send)
            await self._answered(exchange, receive)
        finally:
            self._admitted -= 1
            self._of_key[key.id] -= 1

    async def _prepared(self, scope: Scope, receive: Receive, send: Send) -> Exchange:
        key, settings = scope["key"], self.settings
        body = await admission.read_body(scope, receive, most_bytes=settings.body_bytes, within_s=settings.body_s)
        given = read_json(body)
        admission.refuse_fields(given)
        user = admission.read_user(given)
        scope["user_hash"] = user_hash = user_id(self._secret, f"{key.id} {user}" if user else "")
        keep_text = admission.read_store(given) and settings.texts == "guarded"
        turns = admission.read_turns(given, settings.messages)
        who = user_hash or (key.id if key.sha256 else "")
        while True:
            first = self.loaded.now() or await self.loaded.current()
            serving, arm = self._arm(first, who, key.role)
            scope["release"], scope["arm"] = serving.name, arm
            refuse_role(serving, key.role)
            named = dict(given)
            admission.refuse_model(named, (settings.alias, first.model, serving.model))

            def prepare(serving: Serving = serving, named: dict[str, Any] = named) -> tuple[Guarded, Asked]:
                guarded = serving.guarded(turns, key.role, user_hash)
                shown = guarded if not guarded.blocked else Guarded(turns=turns)
                return guarded, serving.read(named, shown, scope["id"], key.max_tokens)

            beside = len(body) > LONG_BODY_BYTES or serving.waits(turns, key.role)
            serving.open += 1
            try:
                guarded, asked = await asyncio.to_thread(prepare) if beside else prepare()
            except LabError as error:
                raise Refusal(str(error), status=500, kind="server_error", code="guard") from error
            finally:
                serving.open -= 1
            # While the guards looked the alias may have moved: what begins now is answered by where it points now.
            if not beside or ((now := self.loaded.now()) is not None and self._arm(now, who, key.role)[0] is serving):
                break
        reserved = 0
        if not guarded.blocked:
            reserved = len(asked.tokens) + asked.request.decoding.max_tokens
            admission.take(self.ledger, key, reserved)
        task = asyncio.current_task()
        assert task is not None
        asker = Asker(id=scope["id"], key=key, user_hash=user_hash, received_s=scope["received"], time_s=scope["wall"],
                      keep_text=keep_text, arm=arm)
        scope["answering"] = True
        return Exchange(
            asker=asker, serving=serving, guarded=guarded, asked=asked, send=send, prices=self.prices, end=self._ended,
            stop=self.stopped, beside=self.spawn, reserved_tokens=reserved, running=lambda: len(self.open), give_up=task.cancel,
            origin=Origin(turns=turns, given=named))

    def _arm(self, production: Serving, who: str, role: str) -> tuple[Serving, str]:
        """Who answers, and the arm of the comparison this request belongs to ("": to none).

        The arm goes by the user, else by the key; who is neither is answered by production and not counted.
        """
        rollout = self.loaded.rollout()
        if rollout is None or rollout.stage != "canary" or not who or production.number != rollout.production:
            return production, ""
        candidate = self.loaded.candidate()
        if candidate is None or role not in candidate.chain.policy.roles:
            return production, ""
        return (candidate, "B") if rollout.arm(who) == "B" else (production, "A")

    async def _answered(self, exchange: Exchange, receive: Receive) -> None:
        """Have it answered. The answer is written as its tokens come, outside of this task, which waits for the client to go."""
        exchange.serving.open += 1
        self.open[exchange.ticket] = exchange
        try:
            if exchange.guarded.blocked:
                exchange.block()
            else:
                exchange.serving.backend.submit(exchange.ticket)
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            exchange.serving.open -= 1
            del self.open[exchange.ticket]
            exchange.leave()

    def _refuse_when_full(self, key: Key) -> None:
        if self.draining:
            raise Refusal("The gateway is stopping; ask another one.", status=503, kind="server_error", code="draining",
                          headers=[admission.CLOSE, (b"retry-after", b"1")])
        if self.hanging:
            raise Refusal(f"{self.hanging} Ask again in some seconds.", status=503, kind="server_error", code="engine_hangs",
                          headers=[admission.CLOSE, (b"retry-after", b"5")])
        if self.log.trouble:
            raise Refusal(f"{self.log.trouble}; nothing is answered until it can.", status=503, kind="server_error", code="log",
                          headers=[(b"retry-after", b"5")])
        if self._admitted >= self.settings.running + self.settings.queue:
            raise Refusal(f"The queue of {self.settings.queue} waiting requests is full; ask again in a second.", status=429,
                          kind="rate_limit_error", code="queue_full", headers=[(b"retry-after", b"1")])
        if key.requests_at_once and self._of_key[key.id] >= key.requests_at_once:
            raise Refusal(f"This key has {key.requests_at_once} requests open, which is all it may; wait for one to end.",
                          status=429, kind="rate_limit_error", code="requests_at_once", headers=[(b"retry-after", b"1")])

    @property
    def admitted(self) -> int:
        """Requests of users that are inside now."""
        return self._admitted

    @property
    def busy(self) -> bool:
        """Whether any request is being answered."""
        return self._admitted > 0

    # From engines, and to the log

    def _deliver(self, delivery: Delivery) -> None:
        """Called in an engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop was closed while the last step ran
            self._event_loop.call_soon_threadsafe(self._receive, delivery)

    def _receive(self, delivery: Delivery) -> None:
        for ticket, news in delivery:
            exchange = self.open.get(ticket)
            if exchange is not None:
                exchange.take(news)

    def stopped(self, exchange: Exchange) -> None:
        exchange.serving.backend.cancel(exchange.ticket)

    def _ended(self, exchange: Exchange, ended: Ended) -> None:
        if self.shadows.copied(exchange, ended):
            ended = dataclasses.replace(ended, record=dataclasses.replace(ended.record, arm="A"))
        record = ended.record
        known = (record.prompt_tokens if record.prompt_tokens == record.prompt_tokens else 0) + record.output_tokens
        self.ledger.settle(exchange.asker.key, int(ended.reserved_tokens - known), record.cost_usd)
        self.log.add(record, token=exchange, guard=ended.guard, prompt=ended.prompt, answer=ended.answer)
        self.metrics.end(record)
        self.traces.offer(ended)

    def _acknowledge(self, exchanges: Sequence[Exchange], written: bool) -> None:
        """Called in the log's thread, once a commit."""
        with contextlib.suppress(RuntimeError):
            self._event_loop.call_soon_threadsafe(self._safe, exchanges, written)

    def _safe(self, exchanges: Sequence[Exchange], written: bool) -> None:
        for exchange in exchanges:
            exchange.safe(written, self.log.trouble)

    # Beside the requests

    def spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def gauges(self) -> dict[str, float]:
        return {"requests_open": float(self._admitted)}

    # The other paths

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        serving = self.loaded.now() or await self.loaded.current()
        listed = status.models(serving, self.settings.alias, self._started)
        await answer(send, 200, json.dumps(listed).encode(), JSON)

    async def _openapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, self._document, JSON)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, status.metrics(self).encode(), (b"content-type", b"text/plain; version=0.0.4; charset=utf-8"))

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, json.dumps(status.health(self)).encode(), JSON)

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        said = status.health(self)
        await answer(send, 200 if said["ready"] else 503, json.dumps(said).encode(), JSON)

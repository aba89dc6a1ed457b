"""Asks a candidate a copy of some requests after the user was answered: nobody sees it, the log has its row, it gives way first.

A copy is begun only while half of the places are free, there are few at a time, and one is dropped for every user who would
otherwise wait.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from lab.engines.http.asked import Refusal
from lab.errors import LabError
from lab.ops.gateway.exchange import Asker, Ended, Exchange, Origin
from lab.ops.gateway.serving import Guarded, Serving
from lab.ops.requests_schema import SHADOW, LogRecord
from lab.ops.rollouts.evidence import SUFFIX

if TYPE_CHECKING:
    from lab.ops.gateway.app import App


class Shadows:
    """The copies of one process. All methods are for the event loop."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._open: list[Exchange] = []
        self._preparing = 0
        self.asked = self.dropped = 0
        """Copies that were begun, and those that were not or were ended early because users need the room."""

    def copied(self, exchange: Exchange, ended: Ended) -> bool:
        """Have the candidate asked the same, if it is the turn of this request; whether it is."""
        app, loaded = self._app, self._app.loaded
        rollout = loaded.rollout()
        if rollout is None or rollout.stage != SHADOW or exchange.origin is None or ended.record.status != 200:
            return False
        candidate = loaded.candidate()
        if exchange.serving.number != rollout.production or candidate is None or not rollout.copied(exchange.asker.id):
            return False
        most = app.settings.running
        if len(self._open) + self._preparing >= max(1, most // 4) or app.admitted > max(1, most // 2) or app.draining:
            self.dropped += 1
            return False
        self._preparing += 1
        asker = dataclasses.replace(exchange.asker, id=exchange.asker.id + SUFFIX, arm=SHADOW)
        app.spawn(self._ask(asker, exchange.origin, candidate))
        return True

    def make_room(self, admitted: int) -> None:
        """Drop copies while users and they together would fill all places, the longest at work first."""
        while self._open and admitted + len(self._open) > self._app.settings.running:
            self.dropped += 1
            self._open[0].leave()

    async def _ask(self, asker: Asker, origin: Origin, candidate: Serving) -> None:
        app = self._app
        # Its clocks begin now: it did not wait for the user's answer.
        asker = dataclasses.replace(asker, received_s=time.perf_counter(), time_s=time.time())
        candidate.open += 1
        try:
            guarded, asked = await asyncio.to_thread(_prepared, asker, origin, candidate)
        except Exception as error:  # a candidate that cannot even be asked has failed, and says why in the log
            candidate.open -= 1
            code = (error.code or error.kind) if isinstance(error, Refusal) else "gateway"
            app.log.add(LogRecord(
                time_s=asker.time_s, request_id=asker.id, release=candidate.name, key_hash=asker.key.id, arm=SHADOW, status=500,
                user_hash=asker.user_hash, model=candidate.model, error_kind="guard" if isinstance(error, LabError) else code))
            return
        finally:
            self._preparing -= 1
        exchange = Exchange(
            asker=asker, serving=candidate, guarded=guarded, asked=dataclasses.replace(asked, stream=False), send=_unseen,
            prices=app.prices, end=self._ended, stop=app.stopped, beside=app.spawn, running=lambda: len(app.open))
        self.asked += 1
        self._open.append(exchange)
        app.open[exchange.ticket] = exchange
        if guarded.blocked:
            exchange.block()
        else:
            candidate.backend.submit(exchange.ticket)

    def _ended(self, exchange: Exchange, ended: Ended) -> None:
        exchange.serving.open -= 1
        self._open.remove(exchange)
        self._app.open.pop(exchange.ticket, None)
        self._app.log.add(ended.record, guard=ended.guard, prompt=ended.prompt, answer=ended.answer)


def _prepared(asker: Asker, origin: Origin, candidate: Serving) -> tuple[Guarded, Any]:
    guarded = candidate.guarded(origin.turns, asker.key.role, asker.user_hash)
    shown = guarded if not guarded.blocked else Guarded(turns=origin.turns)
    return guarded, candidate.read(origin.given, shown, asker.id, asker.key.max_tokens)


async def _unseen(message: MutableMapping[str, Any]) -> None:
    """Where the answer of a shadow goes."""

"""Writes one answer as its news come, straight from the callback that brings them.

Waking a task for every token of every stream costs more than all else that is done for it. uvicorn's `send` only ever
waits when a client has let very much pile up, so it is driven by hand, and such a client is given up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, MutableMapping
from typing import Any, Protocol

from lab.engines.http.answers import DONE, Events, error_event
from lab.engines.http.asked import Refusal
from lab.engines.http.step_loop import News
from lab.records import Generation

Message = MutableMapping[str, Any]
Send = Callable[[Message], Coroutine[Any, Any, None]]
JSON = (b"content-type", b"application/json")
_EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))


class Reply(Protocol):
    """The answer to one request."""

    ended: bool
    """Whether nothing more is to be written."""

    def take(self, news: News) -> None:
        """Write what `news` adds."""
        ...


class Streamed:
    """Server-sent events. The headers go out with the first token, in one packet; a failure before it has its status."""

    def __init__(self, send: Send, events: Events, *, give_up: Callable[[], object]) -> None:
        self._send, self._events, self._give_up = send, events, give_up
        self._begun = self._lost = self.ended = False

    def take(self, news: News) -> None:
        if self.ended or self._lost:
            return
        self.ended = news.generation is not None or bool(news.error)
        if news.error and not self._begun:
            at_once(_failed(self._send, news))
            return
        body = error_event(_refusal(news).as_json()) if news.error else self._events.of(news) + (DONE if self.ended else b"")
        if not body:
            return
        if not self._begun:
            self._begun = True
            at_once(self._send({"type": "http.response.start", "status": 200, "headers": _EVENTS}))
            body = self._events.opening() + body
        if not at_once(self._send({"type": "http.response.body", "body": body, "more_body": not self.ended})):
            self._lost, self.ended = True, False
            self._give_up()


class Whole:
    """One JSON object at the end."""

    def __init__(self, send: Send, made: Callable[[Generation], dict[str, Any]]) -> None:
        self._send, self._made, self.ended = send, made, False

    def take(self, news: News) -> None:
        if self.ended or (news.generation is None and not news.error):
            return
        self.ended = True
        if news.generation is None:
            at_once(_failed(self._send, news))
        else:
            at_once(answer(self._send, 200, json.dumps(self._made(news.generation)).encode(), JSON))


def _refusal(news: News) -> Refusal:
    return Refusal(news.error, status=news.status, kind="server_error")


async def _failed(send: Send, news: News) -> None:
    await answer(send, news.status, json.dumps(_refusal(news).as_json()).encode(), JSON)


async def answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    """Send a whole response."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


def at_once(sending: Coroutine[Any, Any, None]) -> bool:
    """Run `sending` to its end now; False if it had to wait (the client has let very much pile up), and was given up."""
    try:
        sending.send(None)
    except StopIteration:
        return True
    sending.close()
    return False

"""uvicorn's protocol with a time limit on the head of a request, a limit on connections, and errors in the API's shape."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from lab.engines.http.gathering import GatheringProtocol


class GatewayProtocol(GatheringProtocol):
    """A client that connects and does not send a whole head in time is cut off, and so is one connection too many."""

    head_s: ClassVar[float] = 10.0
    most: ClassVar[int] = 1024
    _timer: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self.send_400_response("The gateway has too many connections; close some, or ask again later.", 503)
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._timer is None and self._idle():
            self._watch()
        super().data_received(data)
        if not self._idle():
            self._unwatch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def send_400_response(self, msg: str, status: int = 400) -> None:
        error = {"error": {"message": msg, "type": "invalid_request_error" if status == 400 else "server_error", "param": None,
                           "code": "no_http" if status == 400 else "connections"}}
        body = json.dumps(error).encode()
        phrase = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}[status]
        head = (f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
                f"{'retry-after: 1' + chr(13) + chr(10) if status == 503 else ''}connection: close\r\n\r\n")
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _idle(self) -> bool:
        """Whether no request is being answered: what arrives is the head of the next."""
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        self._timer = self.loop.call_later(self.head_s, self._late)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self._idle() and not self.transport.is_closing():
            self.send_400_response(f"The head of the request did not arrive within {self.head_s:g} s.", 408)


def limited(head_s: float, connections: int) -> type[GatewayProtocol]:
    """The protocol with these limits."""
    return type("LimitedProtocol", (GatewayProtocol,), {"head_s": head_s, "most": connections})

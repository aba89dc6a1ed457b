"""uvicorn's protocol with all that one turn of the event loop writes to a connection sent as one packet.

Headers, the first token and the end of a response are writes of their own otherwise: each is a system call that wakes the
client, and on a small machine the client's wake-up interrupts the engine.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

MOST_WAITING_BYTES = 16_000_000
"""Unsent bytes of one connection from which on its client is given up; a token is about 200."""


class GatheringProtocol(AutoHTTPProtocol):  # type: ignore[valid-type,misc]
    """An HTTP protocol of uvicorn's whose transport gathers."""

    def connection_made(self, transport: Any) -> None:
        transport.set_write_buffer_limits(high=MOST_WAITING_BYTES)
        super().connection_made(Gathering(transport))


class Gathering:
    """A transport that sends what was written to it when the current turn of the event loop is over."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts:
            self._transport.write(b"".join(parts))

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

"""Server-sent events out of pieces of a body, each with the time at which its last byte was there."""

from __future__ import annotations

from collections.abc import Callable

from lab.load.response import Malformed

EVENT_LIMIT_BYTES = 16 << 20
KEPT_BYTES = 2048


class Events:
    """Feed it pieces; it calls `event(data, at_s)` when the blank line that ends an event arrived (WHATWG HTML, 9.2).

    Only `data` fields are handed on, the lines of one event joined by newlines. Comments and other fields are passed
    over; `stray` keeps the beginning of lines that are no field at all, to tell what a wrong server sent instead.
    """

    def __init__(self, event: Callable[[bytes, float], None]) -> None:
        self._event, self._rest, self._begun, self._return = event, b"", False, False
        self.stray = b""

    @property
    def between(self) -> bool:
        """Whether the next byte begins an event."""
        return self._begun and not self._rest and not self._return

    def feed(self, piece: bytes, at_s: float) -> None:
        """Take in one piece. Raises `Malformed` on an event without end."""
        if b"\r" in piece or self._return:
            piece = self._newlines(piece)
        if self._rest:
            piece = self._rest + piece
        if not self._begun and piece:
            if b"\xef\xbb\xbf".startswith(piece):
                self._rest = piece
                return
            piece, self._begun = piece.removeprefix(b"\xef\xbb\xbf"), True
        *blocks, self._rest = piece.split(b"\n\n")
        if len(self._rest) > EVENT_LIMIT_BYTES:
            raise Malformed("sent an event without an end")
        for block in blocks:
            if block.startswith(b"data: ") and b"\n" not in block:
                self._event(block[6:], at_s)
            else:
                self._lines(block, at_s)

    def close(self, at_s: float) -> None:
        """The body ended. An event whose blank line is missing counts: some servers leave it out after the last."""
        block, self._rest = self._rest, b""
        self._lines(block, at_s)

    def _newlines(self, piece: bytes) -> bytes:
        """CRLF and lone CR as LF; a CR at the very end waits for what follows it."""
        if self._return:
            piece = b"\r" + piece
        self._return = piece.endswith(b"\r")
        if self._return:
            piece = piece[:-1]
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _lines(self, block: bytes, at_s: float) -> None:
        data = []
        for line in block.split(b"\n"):
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
            elif name not in (b"", b"event", b"id", b"retry"):
                self.stray = (self.stray + line + b"\n")[:KEPT_BYTES]
        if data:
            self._event(b"\n".join(data), at_s)

"""Takes one HTTP/1.1 response apart as its bytes come, handing on every piece of the body with the time it arrived."""

from __future__ import annotations

from collections.abc import Callable

HEAD_LIMIT_BYTES = 65_536
LINE_LIMIT_BYTES = 4096

_HEAD, _LENGTH, _SIZE, _DATA, _DATA_END, _TRAILER, _UNTIL_CLOSE, _COMPLETE = range(8)
_HEX = frozenset(b"0123456789abcdefABCDEF")


class Malformed(Exception):
    """What came is not what the protocol says. Its text is the end of a sentence that begins with 'The server'."""


class Response:
    """Feed it what was read; it calls `body(piece, at_s)` for each piece of the body as soon as that piece is there.

    `at_s` is handed through untouched, so a piece has the reading of the packet that held its last byte. Chunked,
    counted and close-delimited bodies are known; interim (1xx) responses are passed over.
    """

    def __init__(self, body: Callable[[bytes, float], None]) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """Names in lower case; of a name that comes twice, the values joined by commas."""
        self.keep_alive = False
        self.surplus = False
        """Whether bytes came after the end: the connection cannot be used again."""
        self._body, self._state, self._rest, self._left = body, _HEAD, b"", 0

    @property
    def complete(self) -> bool:
        return self._state == _COMPLETE

    @property
    def headed(self) -> bool:
        """Whether the headers are known."""
        return self._state != _HEAD

    @property
    def chunked(self) -> bool:
        return self._state in (_SIZE, _DATA, _DATA_END, _TRAILER)

    @property
    def between_chunks(self) -> bool:
        """Whether the next byte begins a chunk."""
        return self._state == _SIZE and not self._rest

    @property
    def until_close(self) -> bool:
        return self._state == _UNTIL_CLOSE

    def feed(self, data: bytes, at_s: float) -> None:
        """Take in what one read returned. Raises `Malformed`."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        position, end = 0, len(data)
        while position < end:
            state = self._state
            if state == _SIZE:
                line = data.find(b"\r\n", position)
                if line < 0:
                    self._keep(data[position:])
                    return
                size = _size(data[position:line])
                position = line + 2
                self._left, self._state = (size, _DATA) if size else (0, _TRAILER)
            elif state in (_DATA, _LENGTH):
                piece = data[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _DATA_END if state == _DATA else _COMPLETE
                self._body(piece, at_s)
            elif state == _DATA_END:
                if end - position < 2:
                    self._rest = data[position:]
                    return
                if data[position : position + 2] != b"\r\n":
                    raise Malformed("sent a chunk that is longer than it said")
                position, self._state = position + 2, _SIZE
            elif state == _UNTIL_CLOSE:
                self._body(data[position:], at_s)
                return
            elif state == _HEAD:
                position = self._read_head(data, position)
                if position < 0:
                    return
            elif state == _TRAILER:
                line = data.find(b"\r\n", position)
                if line < 0:
                    self._keep(data[position:])
                    return
                if line == position:
                    self._state = _COMPLETE
                position = line + 2
            else:
                self.surplus, self.keep_alive = True, False
                return

    def close(self) -> None:
        """Say that the connection ended: the end of a close-delimited body, `Malformed` anywhere else before the end."""
        if self._state == _UNTIL_CLOSE:
            self._state = _COMPLETE
        elif self._state == _HEAD and not self._rest and not self.status:
            raise Malformed("closed the connection without an answer")
        elif self._state != _COMPLETE:
            raise Malformed("closed the connection in the middle of its answer")

    def _keep(self, line: bytes) -> None:
        if len(line) > LINE_LIMIT_BYTES:
            raise Malformed("sent a chunk without a size")
        self._rest = line

    def _read_head(self, data: bytes, position: int) -> int:
        """The position behind the headers, or -1 when they are not all there."""
        start = data[position : position + 7]
        if not b"HTTP/1.".startswith(start) and start != b"HTTP/1.":
            raise Malformed("does not speak HTTP/1.1")
        end = data.find(b"\r\n\r\n", position)
        if end < 0:
            if len(data) - position > HEAD_LIMIT_BYTES:
                raise Malformed("sent headers without an end")
            self._rest = data[position:]
            return -1
        first, *lines = data[position:end].decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        if not (rest[:3].isascii() and rest[:3].isdigit() and len(rest[:3]) == 3):
            raise Malformed("sent no HTTP status")
        self.status = int(rest[:3])
        if 100 <= self.status < 200:
            return end + 4
        self.headers = _headers(lines)
        self._choose(version)
        return end + 4

    def _choose(self, version: str) -> None:
        """How the end of the body will be known (RFC 9112, section 6.3)."""
        coding = self.headers.get("transfer-encoding", "").lower()
        connection = self.headers.get("connection", "").lower()
        self.keep_alive = "close" not in connection and (version == "HTTP/1.1" or "keep-alive" in connection)
        if self.headers.get("content-encoding", "identity").lower() != "identity":
            raise Malformed("compressed its answer although it was asked not to")
        if self.status in (204, 304):
            self._state = _COMPLETE
        elif coding:
            if coding != "chunked":
                raise Malformed(f"used the transfer coding '{coding}', which was not asked for")
            self._state = _SIZE
        elif (length := self.headers.get("content-length")) is not None:
            sizes = {part.strip() for part in length.split(",")}
            size = sizes.pop()
            if sizes or not (size.isascii() and size.isdigit() and len(size) < 19):
                raise Malformed(f"sent the content length '{length[:40]}'")
            self._left = int(size)
            self._state = _LENGTH if self._left else _COMPLETE
        else:
            self._state, self.keep_alive = _UNTIL_CLOSE, False


def _headers(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name:
            raise Malformed("sent a header without a name")
        name, value = name.strip().lower(), value.strip()
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not digits or len(digits) > 15 or not _HEX.issuperset(digits):
        raise Malformed("sent a chunk without a size")
    return int(digits, 16)

"""The events of one stream mostly differ in the text between one beginning and one end; those need no JSON parser."""

from __future__ import annotations

TRIALS = 8
"""Streams whose every event has another beginning (a running number) are given up on after so many."""


class Envelope:
    """Learns beginning and end from an event that carried text alone, and reads the text of events of the same form.

    Between an equal beginning and an equal end can only be another string if it has no quote, backslash or control
    character in it; everything else, and every event that is not alone in its chunk, is left to the parser.
    """

    __slots__ = ("_after", "_before", "_sizes", "_trials")

    def __init__(self) -> None:
        self._before = self._after = b""
        self._sizes: dict[bytes, int] = {}
        self._trials = TRIALS

    def learn(self, data: bytes, text: str) -> None:
        """`data` is the JSON of an event in which `text` was all there was to see."""
        if self._trials <= 0:
            return
        self._trials -= 1
        quoted = b'"' + text.encode("utf-8", "replace") + b'"'
        if b"\\" in data or data.count(quoted) != 1:
            return
        at = data.index(quoted)
        self._before, self._after = b"data: " + data[: at + 1], data[at + len(quoted) - 1 :] + b"\n\n\r\n"

    def text(self, segment: bytes) -> str:
        """The text of the one event in the one chunk that `segment` is; empty when it is not of the known form."""
        if not self._after or not segment.endswith(self._after):
            return ""
        line = segment.find(b"\r\n", 0, 8)
        if line < 0 or not segment.startswith(self._before, line + 2):
            return ""
        digits = segment[:line]
        if self._sizes.get(digits) != len(segment):
            try:
                if not digits.isalnum() or line + 4 + int(digits, 16) != len(segment):
                    return ""
            except ValueError:
                return ""
            self._sizes[digits] = len(segment)
        try:
            text = segment[line + 2 + len(self._before) : -len(self._after)].decode()
        except UnicodeDecodeError:
            return ""
        if '"' in text or "\\" in text or not text.isprintable():
            return ""
        self._trials = TRIALS
        return text

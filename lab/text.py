"""Turns token bytes into text as they come: whole UTF-8 characters only, and nothing that may still become a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Feed it the bytes of each token; it hands out the text that is certain. Work per token does not grow with length.

    A character whose bytes span tokens comes out with its last byte; bytes that never become one come out as U+FFFD.
    When a stop string appears, the text ends before it and `stopped` is set. Of several the one that is complete first
    counts, so that the text does not depend on how it was cut into tokens.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.stop = tuple(s for s in stop if s)
        self.stopped = False
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""

    def push(self, piece: bytes) -> str:
        """Text that became certain with `piece`."""
        text = self._decode(piece)
        return self._release(text) if self.stop else text

    def end(self) -> str:
        """What was still held back, at the end of the stream."""
        if self.stopped:
            return ""
        rest = self._held + self._decode(b"", True)
        self._held = ""
        cut = self._first_stop(rest)
        self.stopped = cut is not None
        return rest if cut is None else rest[:cut]

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        cut = self._first_stop(text)
        if cut is not None:
            self.stopped, self._held = True, ""
            return text[:cut]
        hold = max(_overlap(text, stop) for stop in self.stop)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def _first_stop(self, text: str) -> int | None:
        found = [(at + len(stop), at) for stop in self.stop if (at := text.find(stop)) >= 0]
        return min(found)[1] if found else None


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    for n in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0

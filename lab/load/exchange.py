"""One request on its way: what to send, what came back so far, and what of that is still unread."""

from __future__ import annotations

from array import array

from lab.load.answer import Answer, Failure, Observed

END_OF_EVENTS = b"\n\n\r\n0\r\n\r\n"
"""The last event, and behind it the chunk that says there are no more: nothing else ends like this."""
ENTRY_BYTES = 90
"""What one read costs beside its bytes: the object, its place in the list and its stamp."""


class Exchange:
    """While the load runs, the bytes of an event stream are only kept; `digest` takes them apart when there is time.

    The head of a response is read at once: it says how the end will be known. For chunks that is the mark of the last
    one behind an event; where a read only may hold it (a chunk of another form, trailers), what there is is taken apart
    at once. So is all that is no chunked or close-delimited event stream.
    """

    __slots__ = ("answer", "broken", "cancelled", "closing", "ended_s", "eof", "index", "last_s", "lazy", "message", "observed",
                 "resent", "scheduled_s", "segments", "sent_s", "stamps", "tail", "waited")

    def __init__(self, index: int, message: bytes, *, scheduled_s: float | None, keep_pieces: bool) -> None:
        self.index, self.message, self.scheduled_s = index, message, scheduled_s
        self.sent_s = self.ended_s = self.last_s = 0.0
        self.answer: Answer = Answer(keep_pieces=keep_pieces)
        self.observed: Observed | None = None
        self.segments: list[bytes] = []
        self.stamps: array[float] = array("d")
        self.lazy, self.tail = False, b""
        self.closing = False
        """Whether something like the word that closes a stream has come."""
        self.resent = self.waited = self.eof = self.cancelled = False
        self.broken: Failure | None = None

    @property
    def untouched(self) -> bool:
        """Whether not one byte of a response has come."""
        return self.last_s == 0.0

    def take(self, data: bytes, at_s: float) -> bool:
        """One read; True when it ended the response."""
        self.last_s = at_s
        if self.lazy:
            self.segments.append(data)
            self.stamps.append(at_s)
            data = self.tail + data
            self.tail = data[-9:]
            if b"[DONE]" in data:
                self.closing = True
            if b"\r\n0" not in data:
                return False
            if data.endswith(END_OF_EVENTS):
                return True
            self.digest()
            return self.answer.complete
        self.answer.feed(data, at_s)
        if self.answer.complete:
            return True
        response = self.answer.response
        self.lazy = (response.status == 200 and (response.chunked or response.until_close)
                     and response.headers.get("content-type", "").startswith("text/event-stream")
                     and "trailer" not in response.headers)
        self.tail = data[-9:]
        return False

    def said_all(self) -> bool:
        """Whether the word that closes a stream has come; looks closely, so ask only when `closing`."""
        self.digest()
        self.closing = self.answer.said_all
        return self.closing

    @property
    def reusable(self) -> bool:
        """Whether its connection may carry another request, once it has ended."""
        return self.answer.response.keep_alive if self.lazy and self.segments else self.answer.reusable

    def digest(self, reads: int | None = None) -> int:
        """Take apart the next `reads` (all when None); how many bytes of memory that gives back."""
        count = len(self.segments) if reads is None else min(reads, len(self.segments))
        segments = self.segments[:count]
        self.answer.feed_all(segments, self.stamps[:count])
        del self.segments[:count], self.stamps[:count]
        return sum(map(len, segments)) + ENTRY_BYTES * count

    def conclude(self) -> Observed:
        """What was seen in all, once it has ended; the raw bytes are let go."""
        if self.observed is None:
            self.digest()
            if self.eof:
                self.answer.close()
            if self.broken is not None:
                self.answer.break_off(self.broken.kind, self.broken.sentence)
            self.observed = self.answer.observed(cancelled=self.cancelled)
            self.answer = Answer()
        return self.observed

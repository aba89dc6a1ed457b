"""One answer of an OpenAI-compatible server, put together from the bytes of a response and the times they arrived."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import orjson

from lab.load.envelope import Envelope
from lab.load.events import Events
from lab.load.response import Malformed, Response
from lab.load.usage import read_usage
from lab.records import FinishReason, Usage

PAGE_LIMIT_BYTES = 256 << 20
TOKENS_LIMIT = 10_000_000
JOINED_PIECES = 512
"""Pieces of text are joined after so many: ten million Python strings of one token each would take half a gigabyte."""
PLAIN = frozenset(("choices", "created", "error", "id", "model", "object", "service_tier", "system_fingerprint", "usage"))
"""Fields of an event that say nothing of the answer beside its text."""
_REASONS: dict[str, FinishReason] = {"length": "length", "max_tokens": "length"}
_BROKEN_OFF = frozenset(("abort", "cancelled", "error"))
"""Finish reasons with which a server says that it gave the answer up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why there is no whole answer: a kind to count by, and a sentence."""

    kind: str
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What one exchange showed. `at_s` has a reading per content event, `counts` the tokens of each where it was said.

    `how` says where the counts come from: `ids`, `usage`, or `events` (one per event, because nothing was said).
    `pieces` are the texts of the events, kept only on demand. `shared` counts the events that arrived in one read with
    a later one of the same answer.
    """

    text: str
    at_s: array[float]
    counts: array[int] | None
    how: str
    token_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    usage: Usage
    finish_reason: FinishReason
    failure: Failure | None
    streamed: bool
    hidden_events: int
    shared: int


class Answer:
    """Takes what was read of one response; `complete` says when the whole message is there."""

    def __init__(self, *, keep_pieces: bool = False) -> None:
        self.response = Response(self._take)
        self.failure: Failure | None = None
        self._keep_pieces = keep_pieces
        self._events: Events | None = None
        self._envelope = Envelope()
        self._page: list[bytes] = []
        self._page_bytes = 0
        self._texts: list[str] = []
        self._joined: list[str] = []
        self._pieces: list[str] = []
        self._at: array[float] = array("d")
        self._counts: array[int] | None = None
        self._how, self._said = "events", 0
        self._ids: list[int] = []
        self._usage: dict[str, Any] = {}
        self._timings: dict[str, Any] = {}
        self._reason: str | None = None
        self._done, self._streamed, self._hidden, self._shared = False, False, 0, 0
        self._last_s = 0.0

    @property
    def complete(self) -> bool:
        return self.response.complete or self.failure is not None

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request."""
        return self.response.complete and self.response.keep_alive and self.failure is None

    @property
    def said_all(self) -> bool:
        """Whether the word that closes a stream of events has come."""
        return self._done

    @property
    def whole(self) -> bool:
        """Whether nothing that a client wants is still to come, although the message may not have ended."""
        return self._done or self._reason is not None

    def feed(self, data: bytes, at_s: float) -> None:
        """Take in one read. What is wrong with it becomes `failure`."""
        if self.failure is not None:
            return
        try:
            self.response.feed(data, at_s)
        except Malformed as error:
            self._fail("malformed", f"The server {error}.")

    def feed_all(self, segments: Sequence[bytes], stamps: Sequence[float]) -> None:
        """Take in many reads; faster than one by one where a stream's events look alike."""
        text_of, response = self._envelope.text, self.response
        plain, between = self._counts is None and not self._keep_pieces, False
        for data, at_s in zip(segments, stamps, strict=True):
            text = text_of(data) if between and plain else ""
            if text:
                if self._at and self._at[-1] == at_s:
                    self._shared += 1
                self._at.append(at_s)
                self._texts.append(text)
            else:
                self.feed(data, at_s)
                plain = self._counts is None and not self._keep_pieces
                between = (self.failure is None and response.between_chunks and self._events is not None
                           and self._events.between)
            if len(self._texts) > JOINED_PIECES:
                self._join()

    def close(self) -> None:
        """The connection ended."""
        if self.complete:
            return
        try:
            self.response.close()
        except Malformed as error:
            if not self.whole:
                self._fail("closed", f"The server {error}.")

    def break_off(self, kind: str, sentence: str) -> None:
        """End it from outside: a reset, silence, a limit. An answer that had already said its end is not harmed."""
        if not self.complete and not self.whole:
            self._fail(kind, sentence)

    def observed(self, *, cancelled: bool = False) -> Observed:
        """All that was seen. A message that ended without saying that the answer did is a failure, too."""
        if not cancelled and self.failure is None:
            try:
                self._conclude()
            except Malformed as error:
                self._fail("malformed", f"The server {error}.")
        self._join()
        reason = _REASONS.get(self._reason or "", "stop")
        return Observed(
            text="".join(self._joined), at_s=self._at, counts=self._counts, how=self._how, token_ids=tuple(self._ids),
            pieces=tuple(self._pieces), usage=read_usage(self._usage, self._timings),
            finish_reason="error" if self.failure else "cancelled" if cancelled else reason,
            failure=self.failure, streamed=self._streamed, hidden_events=self._hidden, shared=self._shared,
        )

    def _fail(self, kind: str, sentence: str) -> None:
        if self.failure is None:
            self.failure = Failure(kind=kind, sentence=sentence)

    def _take(self, piece: bytes, at_s: float) -> None:
        """A piece of the body: of a stream of events, or of a page that is read when it is whole."""
        self._last_s = at_s
        if self._events is not None:
            self._events.feed(piece, at_s)
            return
        self._page.append(piece)
        self._page_bytes += len(piece)
        if self._page_bytes > PAGE_LIMIT_BYTES:
            raise Malformed(f"sent more than {PAGE_LIMIT_BYTES >> 20} MB without an event")
        if self.response.status == 200 and len(self._page) < 8:
            begun = b"".join(self._page)
            kind = self.response.headers.get("content-type", "")
            looks = begun.lstrip(b"\xef\xbb\xbf\r\n\t ").startswith((b"data:", b"event:", b"id:", b"retry:", b": "))
            if kind.startswith("text/event-stream") or looks:
                self._events, self._page, self._streamed = Events(self._event), [], True
                self._events.feed(begun, at_s)

    def _event(self, data: bytes, at_s: float) -> None:
        """One event of the stream. This is the hot path: about a microsecond of it is the JSON."""
        if data == b"[DONE]":
            self._done = True
            return
        if self._done or not data:  # an event without data is not handed on (WHATWG HTML, 9.2.6)
            return
        try:
            try:
                said = orjson.loads(data)
            except orjson.JSONDecodeError:
                said = _lenient(data)
            choices = said.get("choices")
            if choices:
                choice = choices[0]
                if choice.get("index"):  # of several answers the first is the one that was asked for
                    choice = next((c for c in choices if not c.get("index")), {})
                delta = choice.get("delta")
                text = choice.get("text") if delta is None else delta.get("content")
                tokens = choice.get("token_ids")
                hidden = delta is not None and not text and _hidden(delta)
                if text or tokens or hidden:
                    if type(text) is not str and text is not None:
                        raise TypeError
                    self._content(text or hidden or "", tokens, at_s, hidden=bool(hidden))
                if choice.get("finish_reason"):
                    self._reason = _word(choice["finish_reason"])
                elif text and tokens is None and self._counts is None and not (
                        said.get("usage") or said.get("error") or said.keys() - PLAIN):
                    self._envelope.learn(data, text)
            usage = said.get("usage")
            if usage:
                self._count(_object(usage), at_s)
            if choices is None or said.get("error"):
                self._other(said)
            elif "timings" in said:
                self._timings = _object(said["timings"] or {})
        except json.JSONDecodeError:
            raise Malformed(f"sent an event that is no JSON: {_excerpt(data)}") from None
        except (AttributeError, KeyError, TypeError, ValueError, IndexError, RecursionError):
            raise Malformed(f"sent an event that is none of the OpenAI protocol: {_excerpt(data)}") from None

    def _content(self, text: str, tokens: Any, at_s: float, *, hidden: bool) -> None:
        at = self._at
        if at and at[-1] == at_s:
            self._shared += 1
        at.append(at_s)
        if hidden:
            self._hidden += 1
        elif text:
            self._texts.append(text)
            if len(self._texts) > JOINED_PIECES:
                self._join()
        if self._keep_pieces:
            self._pieces.append(text)
        if tokens is not None:
            self._ids.extend(map(int, tokens))
            self._how = "ids"
            self._counted(len(tokens))
        elif self._counts is not None:
            self._counted(0 if self._how == "usage" else 1)

    def _count(self, usage: dict[str, Any], at_s: float) -> None:
        """A usage report. One that comes with the tokens, again and again, tells how many each event carried."""
        self._usage = usage
        total = usage.get("completion_tokens")
        if self._how == "ids" or not _is_count(total):
            return
        new, self._said = total - self._said, total
        if not self._at:
            return
        if self._reason is None and self._how == "events" and self._counts is None and len(self._at) == 1:
            self._how, self._counts = "usage", array("l", [total])
        elif self._how == "usage" and new and self._counts is not None:
            if self._at[-1] == at_s:
                self._counts[-1] += new
            else:
                self._at.append(at_s)
                self._counts.append(new)

    def _counted(self, tokens: int) -> None:
        if self._counts is None:
            self._counts = array("l", [1]) * (len(self._at) - 1)
        self._counts.append(tokens)

    def _other(self, said: dict[str, Any]) -> None:
        """An event without choices: an error, a usage report, or something that the protocol does not know."""
        if said.get("error") or said.get("object") == "error":
            self._fail("server_error", f"The server broke off with an error: {_message(said) or 'it gave no reason'}.")
        elif "usage" not in said and "object" not in said and "id" not in said:
            raise TypeError

    def _conclude(self) -> None:
        """The message is over (or its connection is): is the answer?"""
        status = self.response.status
        page, self._page = b"".join(self._page), []
        if status != 200:
            self._refused(status, page)
        elif self._events is not None:
            self._events.close(self._last_s)
            if not self.failure and (not self.whole or not (self._reason or self._at)):
                self._unfinished(self._events.stray)
        else:
            self._read_page(page)
        if self._reason in _BROKEN_OFF:
            self._fail("server_error", f"The server gave the answer up (finish reason '{self._reason}').")

    def _unfinished(self, stray: bytes) -> None:
        if stray.lstrip()[:1] in (b"{", b"["):
            self._read_page(stray)
        elif stray and not self._at:
            self._fail("malformed", f"The server sent a stream without events: {_excerpt(stray)}.")
        else:
            self._fail("truncated", "The server ended the stream without a finish reason.")

    def _refused(self, status: int, page: bytes) -> None:
        where = self.response.headers.get("location", "")
        if 300 <= status < 400:
            said = f"sent the request on to '{where[:200]}'; give that address"
        elif _is_html(page, self.response.headers):
            said = f"answered {status} with an HTML page; is the URL that of the API, with /v1?"
        else:
            said = f"answered {status}: {_message(_json(page)) or _excerpt(page) or 'it gave no reason'}"
        self._fail(f"http_{status}", f"The server {said}{'' if said.endswith('?') else '.'}")

    def _read_page(self, page: bytes) -> None:
        """An answer in one JSON document: all its tokens are there at once."""
        if _is_html(page, self.response.headers):
            raise Malformed("answered with an HTML page; the URL is not that of an OpenAI API")
        said = _json(page)
        if isinstance(said, dict) and said.get("error"):
            self._other(said)
            return
        try:
            choice = said["choices"][0]
            message = choice.get("message")
            text = choice["text"] if message is None else message.get("content") or ""
            if type(text) is not str:
                raise TypeError
            hidden = "" if message is None or text else _hidden(message)
            if text or hidden:
                self._content(text or hidden, choice.get("token_ids"), self._last_s, hidden=bool(hidden))
            self._reason = _word(choice.get("finish_reason") or "stop")
            self._usage, self._timings = _object(said.get("usage") or {}), _object(said.get("timings") or {})
            total = self._usage.get("completion_tokens")
            if self._at and self._how != "ids" and _is_count(total) and total:
                self._how, self._counts = "usage", array("l", [total])
        except (KeyError, TypeError, IndexError, AttributeError, ValueError):
            raise Malformed(f"answered with something that is no OpenAI answer: {_excerpt(page) or 'nothing'}") from None

    def _join(self) -> None:
        text = "".join(self._texts)
        self._joined.append(text if text.isascii() else _well_formed(text))
        self._texts.clear()


def _hidden(delta: dict[str, Any]) -> str:
    """Output that is no part of the text: reasoning, a refusal, the arguments of tool calls. Empty if there is none."""
    text = delta.get("reasoning_content") or delta.get("reasoning") or delta.get("refusal") or ""
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        text += (function.get("name") or "") + (function.get("arguments") or "")
    return str(text)


def _word(value: Any) -> str:
    """A finish reason; anything but a text is none of the protocol."""
    if type(value) is not str:
        raise TypeError
    return value


def _object(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise TypeError
    return value


def _is_count(value: Any) -> TypeGuard[int]:
    """Whether this can be a number of tokens; a wild one must not become as many clock readings."""
    return type(value) is int and 0 <= value <= TOKENS_LIMIT


def _well_formed(text: str) -> str:
    """Surrogate halves that came in two events put together; one without its other half becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _json(page: bytes) -> Any:
    """The document, or None when it is no JSON."""
    try:
        return _lenient(page)
    except (json.JSONDecodeError, RecursionError):
        return None


def _lenient(data: bytes) -> Any:
    """JSON with what servers let slip: NaN as a log-probability, half a surrogate pair, bytes that are no UTF-8."""
    return json.loads(data.decode("utf-8", "replace"))


def _message(said: Any) -> str:
    """The words of an error in any of the shapes that servers give it; empty if there are none."""
    for key in ("error", "message", "detail", "msg"):
        if isinstance(said, list) and said:
            said = said[0]
        if isinstance(said, dict) and said.get(key):
            said = said[key]
    return " ".join(said.split())[:300].rstrip(".") if isinstance(said, str) else ""


def _is_html(page: bytes, headers: dict[str, str]) -> bool:
    return headers.get("content-type", "").startswith("text/html") or page.lstrip()[:1] == b"<"


def _excerpt(data: bytes) -> str:
    text = " ".join(data[:400].decode("utf-8", "replace").split())
    return repr(text if len(text) <= 120 else text[:117] + "...") if text else ""

"""A server that answers as the prompt says, most of all wrongly: every protocol case and failure has a word."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Iterator

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
JSON_HEAD = "HTTP/1.1 {} X\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n"
WORDS = ("Gr", "üße", " an", " 🦙", "s\n")
"""The text of every good answer."""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(delta: object = None, *, reason: str | None = None, **more: object) -> bytes:
    choices = [] if delta is None and reason is None else [{"index": 0, "delta": delta or {}, "finish_reason": reason}]
    said = {"id": "x", "object": "chat.completion.chunk", "choices": choices, **more}
    return b"data: " + json.dumps(said, ensure_ascii=False).encode() + b"\n\n"


def usage(tokens: int) -> dict[str, object]:
    return {"prompt_tokens": 7, "completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": 3}}


def page(body: str, *, status: int = 200, kind: str = "application/json") -> bytes:
    data = body.encode()
    return JSON_HEAD.format(status, kind, len(data)).encode() + data


def good() -> list[bytes]:
    return [event({"role": "assistant", "content": ""}), *(event({"content": w}) for w in WORDS), event(reason="stop"),
            event(usage=usage(len(WORDS))), b"data: [DONE]\n\n"]


def stream(events: list[bytes]) -> bytes:
    return SSE + b"".join(map(chunk, events)) + b"0\r\n\r\n"


def answers(word: str) -> list[bytes | float | str] | None:
    """What to send, with pauses in seconds and the words 'close' and 'reset' between; None is a word nobody knows."""
    whole = {"choices": [{"index": 0, "message": {"content": "".join(WORDS)}, "finish_reason": "length"}], "usage": usage(5)}
    cut = stream(good())
    half = len(SSE) + 2 * len(chunk(good()[0])) + 40
    kinds: dict[str, list[bytes | float | str]] = {
        "good": [stream(good())],
        "one_packet": [SSE + chunk(b"".join(good())) + b"0\r\n\r\n"],
        "bytewise": [part for i in range(len(cut)) for part in (cut[i : i + 1], 0.0)],
        "split": [SSE, *(part for e in good() for piece in (chunk(e)[:60], chunk(e)[60:]) for part in (piece, 0.002)), b"0\r\n\r\n"],
        "close_delimited": [SSE.replace(b"Transfer-Encoding: chunked", b"Connection: close"), *good(), "close"],
        "crlf": [stream([e.replace(b"\n", b"\r\n") for e in good()])],
        "comments": [stream([b": ping\n\n", *good()[:3], b"event: note\nid: 1\n: x\n\n", *good()[3:]])],
        "no_usage": [stream([*good()[:-2], good()[-1]])],
        "no_done": [stream(good()[:-1])],
        "wrong_usage": [stream([*good()[:-2], event(usage=usage(9)), good()[-1]])],
        "reasoning": [stream([event({"reasoning_content": "hm"}), *good()])],
        "tools": [stream([event({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": a}}]}) for a in ("{", "}")]
                         + [event(reason="tool_calls"), good()[-1]])],
        "json": [page(json.dumps(whole))],
        "error_event": [stream([*good()[:3], b'data: {"error":{"message":"out of memory","code":500}}\n\n'])],
        "truncated": [stream(good()[:4])],
        "garbage_event": [stream([*good()[:3], b"data: {broken\n\n"])],
        "foreign_event": [stream([b'data: {"hello":"world"}\n\n'])],
        "429": [page('{"error":{"message":"slow down"}}', status=429)],
        "500": [page('{"detail":"it broke"}', status=500)],
        "401": [page('{"error":{"message":"Incorrect API key"}}', status=401)],
        "html": [page("<!doctype html><html>hello</html>", kind="text/html")],
        "html_404": [page("<html>not here</html>", status=404, kind="text/html")],
        "foreign_json": [page('{"hello":"world"}')],
        "moved": [b"HTTP/1.1 307 X\r\nLocation: http://elsewhere/v1\r\nContent-Length: 0\r\n\r\n"],
        "ssh": [b"SSH-2.0-OpenSSH\r\n", "close"],
        "reset_before": ["reset"],
        "reset_middle": [cut[:half], 0.02, "reset"],
        "close_before": ["close"],
        "close_middle": [cut[:half], 0.02, "close"],
        "silence": [cut[:half], 30.0],
        "silence_before": [30.0],
        "dribble": [part for i in range(200) for part in (cut[i : i + 1], 0.05)],
        "close_after": [stream(good()), 0.05, "close"],
        "bad_chunk": [SSE + b"zz\r\nhello", 0.5],
    }
    return kinds.get(word)


class Adversary:
    """Listens until closed; `seen` counts the requests by word."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.seen: dict[str, int] = {}
        self.chat_only, self.every = False, ""
        """Whether prompts are refused with 404, and the word that stands for every question."""
        self._context, self._closing = context, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            held = b""
            while True:
                while b"\r\n\r\n" not in held:
                    held += self._more(connection)
                head, _, held = held.partition(b"\r\n\r\n")
                if head.startswith(b"GET"):
                    models = head.startswith(b"GET /v1/models")
                    connection.sendall(page('{"data": [{"id": "m"}]}' if models else "{}", status=200 if models else 404))
                    continue
                size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                while len(held) < size:
                    held += self._more(connection)
                body, held = held[:size], held[size:]
                if not self._answer(connection, json.loads(body)):
                    return

    def _more(self, connection: socket.socket) -> bytes:
        data = connection.recv(65536)
        if not data:
            raise ConnectionError
        return data

    def _answer(self, connection: socket.socket, body: dict) -> bool:
        word = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        if self.chat_only and "prompt" in body:
            connection.sendall(page('{"detail": "Not Found"}', status=404))
            return True
        word = self.every or word
        self.seen[word] = self.seen.get(word, 0) + 1
        if word == "stale" and self.seen[word] == 2:  # closed with what came next unread, as if before it came
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            return False
        for step in answers("good" if word == "stale" else word) or [page("{}", status=404)]:
            if isinstance(step, bytes):
                connection.sendall(step)
            elif isinstance(step, float):
                if self._closing.wait(step):
                    return False
            else:
                if step == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
                return False
        return True

    def close(self) -> None:
        """Stop listening and break every connection: from outside this is a server that died."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@contextlib.contextmanager
def adversary(context: ssl.SSLContext | None = None) -> Iterator[Adversary]:
    server = Adversary(context)
    try:
        yield server
    finally:
        server.close()

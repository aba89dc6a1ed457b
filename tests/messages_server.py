"""A server that speaks Anthropic's Messages API, for tests: streams and whole answers, tools, refusals, and being busy."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-ant-a-key-for-tests"


class Messages(ThreadingHTTPServer):
    """Answers `text`, or a forced tool's input `verdict`; `busy` requests are turned away first, with `retry_after`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.text, self.verdict = "Paris is the capital.", {"reasons": "It names the city.", "correctness": 5}
        self.busy, self.retry_after, self.stop_reason, self.break_off = 0, "0", "end_turn", False
        self.seen: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        self.counting = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Messages
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.counting:
            self.server.seen.append(body)
            self.server.heads.append({k.lower(): v for k, v in self.headers.items()})
            busy, self.server.busy = self.server.busy > 0, max(0, self.server.busy - 1)
        if self.path != "/v1/messages":
            return self._refuse(404, "not_found_error", "Not found")
        if self.headers.get("x-api-key") != KEY:
            return self._refuse(401, "authentication_error", "invalid x-api-key")
        if busy:
            return self._refuse(429, "rate_limit_error", "This request would exceed your rate limit")
        if body.get("model") == "no-such-model":
            return self._refuse(404, "not_found_error", "model: no-such-model")
        return self._stream(body) if body.get("stream") else self._whole(body)

    def _blocks(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        if body.get("tool_choice", {}).get("type") == "tool":
            return {"type": "tool_use", "id": "toolu_1", "name": body["tool_choice"]["name"], "input": self.server.verdict}, "tool_use"
        return {"type": "text", "text": self.server.text}, self.server.stop_reason

    def _whole(self, body: dict[str, Any]) -> None:
        block, reason = self._blocks(body)
        self._send(200, {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": [block],
                         "stop_reason": reason, "usage": {"input_tokens": 21, "output_tokens": 9}})

    def _stream(self, body: dict[str, Any]) -> None:
        block, reason = self._blocks(body)
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": {"id": "msg_1", "content": [], "usage": {
                "input_tokens": 18, "cache_read_input_tokens": 3, "output_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": {**block, "text": "", "input": {}}}, {"type": "ping"}]
        whole = json.dumps(block["input"]) if block["type"] == "tool_use" else block["text"]
        kind = ("input_json_delta", "partial_json") if block["type"] == "tool_use" else ("text_delta", "text")
        events += [{"type": "content_block_delta", "index": 0, "delta": {"type": kind[0], kind[1]: whole[at : at + 7]}}
                   for at in range(0, len(whole), 7)]
        if self.server.break_off:
            events = [*events[:4], {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}]
        else:
            events += [{"type": "content_block_stop", "index": 0},
                       {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 9}},
                       {"type": "message_stop"}]
        data = b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, kind: str, message: str) -> None:
        self._send(status, {"type": "error", "error": {"type": kind, "message": message}},
                   {"Retry-After": self.server.retry_after} if status == 429 and self.server.retry_after else {})

    def _send(self, status: int, answer: dict[str, Any], more: dict[str, str] | None = None) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def running() -> Iterator[Messages]:
    server = Messages()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()

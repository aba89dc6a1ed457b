"""An OpenAI-compatible service: where it is, what it calls the model, and how to ask it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from lab.engines import _schemas
from lab.errors import LabError
from lab.records import Decoding, Message, Request


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where to ask, and for which model. Raises `LabError` on a URL that cannot be one.

    A request with messages goes to `url`/chat/completions, one with a prompt or tokens to `url`/completions. The key
    is read from the environment at each use: it is in no field, no log and no repr.
    """

    url: str
    """Base URL up to and including `/v1`."""
    model: str
    stream: bool = True
    """Whether to ask for the tokens as they come (server-sent events) instead of one JSON answer at the end."""
    key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; unset or empty sends none."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """More fields of every body; they win over those made from the request."""
    chat_only: bool = False
    """The server has no /completions: a prompt is asked as the one message of a user, in the template that it puts around it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", self.url.strip().rstrip("/"))
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not self.url.isascii() or any(c <= " " for c in self.url):
            raise LabError(f"'{_without_secret(self.url)}' is no address of a server; give a base URL such as "
                           "http://127.0.0.1:8000/v1.")
        if parts.username or parts.password:
            raise LabError(f"Keep the key out of the URL; put it into the environment variable {self.key_env}.")
        if parts.query or parts.fragment:
            raise LabError(f"A base URL has no '?' or '#': give {self.url.split('?')[0].split('#')[0]} alone.")
        if self.url.endswith("/completions"):
            base = self.url.removesuffix("/completions").removesuffix("/chat")
            raise LabError(f"Give the base URL without the path of a method: {base}.")

    @property
    def parts(self) -> SplitResult:
        """The URL taken apart; `hostname` and `scheme` are given."""
        return urlsplit(self.url)

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted (https)."""
        return self.parts.scheme == "https"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to."""
        return self.parts.hostname or "", self.parts.port or (443 if self.secure else 80)

    def path(self, request: Request) -> str:
        """The path that this request is posted to."""
        return self.parts.path + ("/completions" if self._messages(request) is None else "/chat/completions")

    def _messages(self, request: Request) -> tuple[Message, ...] | None:
        """The messages that are posted; None for a prompt. Raises `LabError` for tokens, which no chat takes."""
        if request.messages is not None or not self.chat_only:
            return request.messages
        if request.tokens is not None:
            raise LabError(f"The server at {self.url} serves /chat/completions only, which takes no tokens; give it texts.")
        return (Message(role="user", content=request.prompt or ""),)

    def body(self, request: Request) -> bytes:
        """The JSON to post. A setting that is off (`top_k` 0, `top_p` 1, `min_p` 0) is left to the server."""
        asked: dict[str, Any] = {"model": self.model}
        if (messages := self._messages(request)) is not None:
            asked["messages"] = [{"role": m.role, "content": m.content} for m in messages]
        else:
            asked["prompt"] = request.prompt if request.tokens is None else list(request.tokens)
        asked |= _settings(request.decoding)
        if self.stream:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(asked | dict(self.extra), separators=(",", ":")).encode()

    def headers(self) -> dict[str, str]:
        """Content type, accepted type and, when there is a key, the authorization. Raises `LabError` on an unusable key."""
        sent = {"Content-Type": "application/json", "Accept-Encoding": "identity",
                "Accept": "text/event-stream" if self.stream else "application/json"}
        key = os.environ.get(self.key_env, "").strip()
        if key and not (key.isascii() and key.isprintable()):
            raise LabError(f"The key in {self.key_env} has characters that no key has; set the variable again.")
        return sent | {"Authorization": f"Bearer {key}"} if key else sent

    def masked(self, text: str) -> str:
        """`text` without the key: a server may repeat what it was sent."""
        key = os.environ.get(self.key_env, "").strip()
        return text.replace(key, "[key]") if len(key) >= 4 and key in text else text

    def message(self, request: Request) -> bytes:
        """The whole HTTP/1.1 message that asks `request`, headers and body."""
        body = self.body(request)
        lines = [f"POST {self.path(request)} HTTP/1.1", f"Host: {self.parts.netloc}",
                 *(f"{name}: {value}" for name, value in self.headers().items()), f"Content-Length: {len(body)}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def _settings(decoding: Decoding) -> dict[str, Any]:
    asked: dict[str, Any] = {"max_tokens": decoding.max_tokens, "temperature": decoding.temperature,
                             "seed": decoding.seed}
    if decoding.top_k > 0:
        asked["top_k"] = decoding.top_k
    if decoding.top_p < 1:
        asked["top_p"] = decoding.top_p
    if decoding.min_p > 0:
        asked["min_p"] = decoding.min_p
    if decoding.stop:
        asked["stop"] = list(decoding.stop)
    if decoding.ignore_eos:
        asked["ignore_eos"] = True
    if decoding.json_schema:
        schema = _schemas.parsed(decoding.json_schema)
        asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    return asked


def _without_secret(url: str) -> str:
    """The URL without what stands before an @."""
    scheme, mark, rest = url.partition("://")
    return scheme + mark + rest.rpartition("@")[2]

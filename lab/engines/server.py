"""Any OpenAI-compatible server as an engine: one that runs somewhere, or `lab serve` started here on a GGUF file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lab.engines import Flash, is_url
from lab.engines.http.child import Child
from lab.engines.http.client import Broken, Client, Missing, one_line
from lab.engines.http.pieces import Piece, piece_of, read_piece
from lab.engines.http.served import ServeSettings
from lab.errors import LabError
from lab.load.endpoint import Endpoint
from lab.load.events import Events
from lab.load.response import Malformed
from lab.records import Chunk, FinishReason, Request, Settings, Usage

UNKNOWN_TOKEN = -1
"""The id of a token whose server does not say it; a piece of a stream then counts as one token."""
UNLIMITED_TOKENS = 2**31 - 1
"""`context_tokens` of a server that does not say how much it takes."""
SAYS_TOKEN_IDS = ("lab", "vllm")
"""Servers (`owned_by` of /v1/models) that know `return_token_ids`; others may refuse a field they do not know."""


class Owner(Protocol):
    """Who runs the server; closed with the engine."""

    def close(self) -> None: ...


class Server:
    """An engine behind HTTP. A stream that is dropped closes its connection, by which the server knows.

    Without a model in the endpoint the server's first one is taken. `settings` go into the record beside what the server
    says of itself. `token_ids` None asks for ids where they are known to be given. Raises `LabError` when the server
    cannot be reached, is no OpenAI-compatible one, refuses the key or does not have the model.
    """

    def __init__(
        self, endpoint: Endpoint, *, context_tokens: int = 0, settings: Settings | None = None, timeout_s: float = 600.0,
        token_ids: bool | None = None, owner: Owner | None = None,
    ) -> None:
        self._client, self._owner = Client(endpoint, timeout_s=timeout_s), owner
        found = self._described(endpoint)
        says_ids = str(found.get("owned_by")) in SAYS_TOKEN_IDS if token_ids is None else token_ids
        self.endpoint = replace(endpoint, model=endpoint.model or str(found["id"]),
                                extra={**({"return_token_ids": True} if says_ids else {}), **endpoint.extra})
        said = found.get("max_model_len")
        limit = context_tokens or (said if isinstance(said, int) else 0)
        self.context_tokens = limit or UNLIMITED_TOKENS
        theirs = found.get("settings")
        self.settings: Settings = {
            "threads": None, "context_tokens": limit or None, **_flat(theirs if isinstance(theirs, dict) else {}),
            **(settings or {}), "engine": "server", "url": endpoint.url, "model": self.endpoint.model,
            "stream": endpoint.stream, "request_tokens": limit or None}

    def now(self) -> float:
        return time.perf_counter()

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        # vLLM's words and llama-server's in one body: each reads its own.
        return self._tokens({"prompt": text, "content": text, "add_special_tokens": special, "add_special": special,
                             "parse_special": special})

    def detokenize(self, tokens: Sequence[int]) -> str:
        answer = self._beside("/detokenize", {"tokens": list(tokens)})
        text = answer.get("prompt", answer.get("content"))
        if not isinstance(text, str):
            raise LabError(f"{self._client.who} does not turn tokens into text as vLLM or llama-server do.")
        return text

    def prompt_tokens(self, request: Request) -> list[int]:
        if request.tokens is not None:
            return list(request.tokens)
        if request.prompt is not None:
            return self.tokenize(request.prompt, special=True)
        return self._tokens({"messages": [{"role": m.role, "content": m.content} for m in request.messages or ()]})

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Chunks as they arrive, or one if the server answers whole.

        Raises `LabError` for a refusal. A stream that breaks after its beginning ends without a finish reason, which
        `generate` records as an error.
        """
        found: list[Piece] = []
        events = Events(lambda data, at_s: found.append(piece_of(data)))
        at, finish, usage, begun = self.now(), None, Usage(), False
        try:
            for data in self._client.stream(self.endpoint.path(request), self.endpoint.body(request)):
                at = self.now()
                if isinstance(data, dict):
                    yield self._whole(read_piece(data), at)
                    return
                events.feed(data, at)
                for piece in found:
                    self._refuse(piece)
                    finish, usage = piece.finish_reason or finish, piece.usage or usage
                    if piece.text or piece.tokens or piece.hidden:
                        begun = True
                        yield Chunk(text=piece.text, tokens=piece.tokens or (UNKNOWN_TOKEN,), at_s=at)
                found.clear()
        except (Broken, Malformed, _Failed) as error:
            if not begun:
                raise LabError(str(error) if isinstance(error, LabError) else f"{self._client.who} {error}.") from error
            return
        yield from self._last(finish, usage, at, begun)

    def _last(self, finish: FinishReason | None, usage: Usage, at: float, begun: bool) -> Iterator[Chunk]:
        if finish is not None:
            yield Chunk(at_s=at, finish_reason=finish, usage=usage)
        elif not begun:
            raise LabError(f"{self._client.who} answered with an empty stream; see its own log for why.")

    def _whole(self, piece: Piece, at: float) -> Chunk:
        self._refuse(piece)
        count = (piece.usage.output_tokens if piece.usage else None) or int(bool(piece.text))
        return Chunk(text=piece.text, tokens=piece.tokens or (UNKNOWN_TOKEN,) * count, at_s=at, usage=piece.usage or Usage(),
                     finish_reason=piece.finish_reason or "stop")

    def _refuse(self, piece: Piece) -> None:
        if piece.error:
            raise _Failed(f"{self._client.who} broke off: {one_line(piece.error)}.")

    def logits(self, tokens: Sequence[int], *, start: int = 0) -> NDArray[np.float32]:
        raise LabError("A server shows text and not logits; measure them with the engine llama_cpp on the same file.")

    def branch_logprobs(self, prefix: Sequence[int], branches: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        raise LabError("A server does not score given text; score it with the engine llama_cpp on the same file.")

    def bytes_per_token(self, depth: int) -> float:
        """Nobody on this side knows."""
        return float("nan")

    def close(self) -> None:
        self._client.close()
        if self._owner is not None:
            self._owner.close()

    def _tokens(self, asked: Mapping[str, object]) -> list[int]:
        tokens = self._beside("/tokenize", asked).get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(t, int) for t in tokens):
            raise LabError(f"{self._client.who} does not turn text into tokens as vLLM or llama-server do.")
        return tokens

    def _beside(self, path: str, asked: Mapping[str, object]) -> dict[str, Any]:
        """Ask a path that stands beside /v1, not below it."""
        root = self.endpoint.parts.path.removesuffix("/v1")
        try:
            return self._client.post(root + path, {"model": self.endpoint.model, **asked})
        except Missing:
            raise LabError(f"{self._client.who} has no {path}, so its tokens cannot be seen; use one that has it, such as "
                           "lab serve, vLLM or llama-server.") from None

    def _described(self, endpoint: Endpoint) -> dict[str, Any]:
        """What /v1/models says of the wanted model, or of the first."""
        wanted = endpoint.model
        try:
            listed = self._client.get(endpoint.parts.path + "/models").get("data")
        except Missing as error:
            if not wanted:
                raise LabError(f"{error!s:.200} Or name a model behind the URL, as in {endpoint.url}#NAME.") from error
            return {}
        known = [one for one in listed if isinstance(one, dict) and "id" in one] if isinstance(listed, list) else []
        if not known and not wanted:
            raise LabError(f"{self._client.who} names no model; name one behind the URL, as in {endpoint.url}#NAME.")
        found = next((one for one in known if one["id"] == wanted or not wanted), None)
        if known and found is None:
            names = ", ".join(str(one["id"]) for one in known[:8])
            raise LabError(f"{self._client.who} does not have the model '{wanted}'; it has {names}.")
        return dict(found or {})


class _Failed(LabError):
    """The server says in its stream that it cannot go on."""


def _flat(settings: Mapping[str, Any]) -> dict[str, str | int | float | bool | None]:
    """The settings a server says it has; its engine is not ours."""
    plain = {k: v for k, v in settings.items() if isinstance(v, (str, int, float, bool, type(None)))}
    return {("server_engine" if k == "engine" else k): v for k, v in plain.items()}


def open(
    model: str, *, engine: str = "llama_cpp", stream: bool = True, key_env: str = "OPENAI_API_KEY", timeout_s: float = 600.0,
    token_ids: bool | None = None, context_tokens: int = 0, max_running: int = 16, threads: int = 0,
    flash_attention: Flash = "auto", kv_type: str = "f16", token_budget: int = 0, queue: int = 64, prefix_cache: bool = True,
    draft: str = "none", draft_tokens: int = 0, step_ms: float = 4.0, reply: str = "",
) -> Server:
    """Open the server at a URL (`http://HOST:PORT/v1`, `#NAME` behind it chooses the model), or start `lab serve` on `model`.

    The settings from `engine` on, and from `context_tokens` on, are those of `lab serve`: with a URL they belong to
    where the server is started. Raises `LabError`.
    """
    settings = ServeSettings(
        engine=engine, context_tokens=context_tokens, max_running=max_running, threads=threads, flash_attention=flash_attention,
        kv_type=kv_type, token_budget=token_budget, queue=queue, prefix_cache=prefix_cache, draft=draft,
        draft_tokens=draft_tokens, step_ms=step_ms, reply=reply)
    if is_url(model):
        _refuse_settings(settings)
        url, name = address(model)
        endpoint = Endpoint(url=url, model=name, stream=stream, key_env=key_env)
        return Server(endpoint, timeout_s=timeout_s, token_ids=token_ids)
    child = Child(model, settings)
    try:
        # It has no key, and must not be sent one that is meant for somebody else.
        endpoint = Endpoint(url=f"http://127.0.0.1:{child.port}/v1", model="", stream=stream, key_env="LAB_SERVE_NO_KEY")
        return Server(endpoint, timeout_s=timeout_s, token_ids=token_ids, owner=child)
    except BaseException:
        child.close()
        raise


def address(name: str) -> tuple[str, str]:
    """Base URL and model of `http://HOST:PORT[/v1][#MODEL]`; an empty model is the server's choice."""
    url, _, model = name.partition("#")
    url = url.strip().rstrip("/")
    return (url if url.endswith(("/v1", "/completions")) else f"{url}/v1"), model


def _refuse_settings(settings: ServeSettings) -> None:
    """Raise `LabError` for a setting that only the one who starts a server can make."""
    default = ServeSettings()
    for name in vars(settings):
        if getattr(settings, name) != getattr(default, name):
            raise LabError(f"{name} is set where a server is started; leave it out for a URL.")

"""The engines of the chat page: opened when they are first asked, shared by all sessions, and never two answers at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from lab.engines import Engine, open_engine
from lab.pages._chat_scripts import SCRIPTS
from lab.records import Chunk, Request

MOST_OPEN = 4
"""Engines kept open; of more, the one that was not asked for longest is closed."""


@dataclass(frozen=True, kw_only=True)
class Which:
    """An engine and how it is opened. `draft` puts a drafter before a model; `own` keeps an instance apart (a second model)."""

    engine: str = "llama_cpp"
    model: str = ""
    draft: str = "none"
    threads: int = 0
    token_ms: int = 0
    """The scripted engine's pause before each token (a byte), so that one can watch it write."""
    own: bool = False

    def open(self) -> Engine:
        """Raises `LabError`."""
        if self.engine == "scripted":
            return open_engine("scripted", self.model, reply=SCRIPTS.get(self.model), real_time=True, ttft_s=0.0, prefill_s=0.0,
                               tpot_s=self.token_ms / 1e3)
        threads = {"threads": self.threads} if self.engine == "llama_cpp" else {}
        if self.engine == "llama_cpp" and self.draft != "none":
            return open_engine("server", self.model, draft=self.draft, **threads)
        return open_engine(self.engine, self.model, **threads)


class Shared:
    """An engine that answers one request after another, whoever asks. `turn` is held while it writes."""

    def __init__(self, engine: Engine, turn: threading.Lock) -> None:
        self._engine, self._turn = engine, turn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def stream(self, request: Request) -> Iterator[Chunk]:
        chunks = self._engine.stream(request)

        def held() -> Iterator[Chunk]:
            with self._turn:
                yield from chunks

        return held()

    def close(self) -> None:
        with self._turn:
            self._engine.close()


class Later:
    """A second model that is opened when it is first asked."""

    def __init__(self, which: Which) -> None:
        self._which = which

    def now(self) -> float:
        return opened(self._which).now()

    def stream(self, request: Request) -> Iterator[Chunk]:
        return opened(self._which).stream(request)


_MACHINE = threading.Lock()
"""Held by whatever writes on this machine: two at a time would slow each other down, and falsify both timings."""
_BOOK = threading.Lock()
_OPEN: OrderedDict[Which, Shared] = OrderedDict()


def opened(which: Which) -> Engine:
    """The engine, opened now if it is not. Raises `LabError` when it cannot be."""
    with _BOOK:
        if which not in _OPEN:
            alone = which.own or which.engine in ("server", "anthropic", "scripted")
            _OPEN[which] = Shared(which.open(), threading.Lock() if alone else _MACHINE)
        _OPEN.move_to_end(which)
        found = _OPEN[which]
        gone = [_OPEN.popitem(last=False)[1] for _ in range(len(_OPEN) - MOST_OPEN)]
    for one in gone:
        one.close()
    return cast(Engine, found)


def second(which: Which) -> Engine:
    """A second model to give to a chain."""
    return cast(Engine, Later(which))


def forget(which: Which) -> None:
    """Close an engine after a failure, so that the next question opens it anew."""
    with _BOOK:
        found = _OPEN.pop(which, None)
    if found is not None:
        found.close()

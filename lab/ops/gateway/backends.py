"""What runs a request: the step loop of `lab serve` on a model in this process, or threads that read an engine's stream.

Both hand out `News` through one callback, in batches, from a thread of theirs. llama.cpp and the scripted chain decode all
requests together in steps. Every other engine (any URL, vLLM, a scripted reply) is asked through its `stream`, one thread a
request; of several sources the next is asked when one fails before its first chunk, so that nothing is answered twice.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from lab.engines import Engine, open_engine
from lab.engines.http.client import Busy
from lab.engines.http.served import Served, ServeSettings, open_served
from lab.engines.http.step_loop import Delivery, News, StepLoop, Ticket
from lab.engines.scheduling.core import Core
from lab.errors import LabError
from lab.ops.gateway.breaker import Breaker
from lab.records import Chunk, Decoding, Generation, Request, Usage

Deliver = Callable[[Delivery], None]
BYTES_PER_TOKEN = 4.0
"""What a token is taken to be where the tokenizer is on another machine; only limits are reckoned with it."""
SERVED_TOKENS = 32_768


class Backend(Protocol):
    """Runs requests until it is closed. `served` is what a request is read against: tokenizer, context, name."""

    served: Served
    in_process: bool

    def submit(self, ticket: Ticket) -> None: ...
    def cancel(self, ticket: Ticket) -> None: ...
    def close(self) -> None: ...

    @property
    def trouble(self) -> str:
        """Why it cannot answer at the moment; "" when it can."""
        ...

    @property
    def step_s(self) -> float:
        """Seconds that the step under way has taken so far, where one engine decodes for all; else 0."""
        ...


class Stepped:
    """A model in this process behind the step loop."""

    in_process = True

    def __init__(self, served: Served, deliver: Deliver) -> None:
        self.served = served
        self._loop = StepLoop(served, deliver)
        self._loop.start()

    trouble = ""

    @property
    def step_s(self) -> float:
        return self._loop.step_s

    def submit(self, ticket: Ticket) -> None:
        self._loop.submit(ticket)

    def cancel(self, ticket: Ticket) -> None:
        self._loop.cancel(ticket)

    def close(self) -> None:
        if self._loop.stop():
            self.served.close()


@dataclass(kw_only=True)
class Source:
    """One engine that can be asked, opened when it is first needed."""

    name: str
    open: Callable[[], Engine]
    breaker: Breaker = field(default_factory=Breaker)
    _engine: Engine | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def engine(self) -> Engine:
        with self._lock:
            if self._engine is None:
                self._engine = self.open()
            return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


class Threaded:
    """One thread for each request that runs; `sources` are asked in their order."""

    def __init__(self, sources: Sequence[Source], deliver: Deliver, *, served: Served, running: int, in_process: bool) -> None:
        self.served, self.in_process = served, in_process
        self._sources, self._deliver = tuple(sources), deliver
        self._pool = ThreadPoolExecutor(running, thread_name_prefix="asks")

    @property
    def trouble(self) -> str:
        broken = [source.name for source in self._sources if source.breaker.open]
        return f"{', '.join(broken)} failed and is left alone for a while" if broken else ""

    step_s = 0.0

    def submit(self, ticket: Ticket) -> None:
        self._pool.submit(self._run, ticket)

    def cancel(self, ticket: Ticket) -> None:
        ticket.dropped = True

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for source in self._sources:
            source.close()

    def _run(self, ticket: Ticket) -> None:
        said = "Every source has failed and is left alone for a while; ask again in some seconds."
        for source in self._sources:
            if ticket.dropped or not source.breaker.allows():
                continue
            reason, begun = self._ask(source, ticket)
            if not reason:
                return
            said = reason
            if begun:
                break
        if not ticket.dropped:
            self._deliver([(ticket, News(error=said, status=502))])

    def _ask(self, source: Source, ticket: Ticket) -> tuple[str, bool]:
        """Why `source` did not answer ("" when it did), and whether it had begun to."""
        begun = False
        try:
            with contextlib.closing(source.engine().stream(ticket.request)) as stream:  # type: ignore[type-var]
                last, count = None, 0
                for chunk in stream:
                    if ticket.dropped:  # closing the stream closes the connection, by which the server knows
                        break
                    begun, last, count = True, chunk, count + len(chunk.tokens)
                    self._deliver([(ticket, _news(chunk, ticket, count))])
                else:
                    if last is None or last.finish_reason is None:
                        raise LabError("The engine broke off in the middle of its answer; ask again.")
        except Exception as error:
            if not isinstance(error, Busy):
                source.breaker.failed()
            else:
                source.breaker.worked()
            sentence = str(error) if isinstance(error, LabError) else f"The engine failed ({type(error).__name__}); ask again."
            return sentence, begun
        source.breaker.worked()
        return "", begun


def _news(chunk: Chunk, ticket: Ticket, count: int) -> News:
    ended = None
    if chunk.finish_reason is not None:
        usage = chunk.usage or Usage()
        ended = Generation(request=ticket.request, tokens=(0,) * (usage.output_tokens or count), sent_s=ticket.received_s,
                           ended_s=chunk.at_s, finish_reason=chunk.finish_reason, usage=usage)
    return News((chunk.text,), chunk.tokens, ended)


class _Estimating:
    """Stands for a tokenizer that is elsewhere."""

    def prompt_tokens(self, request: Request) -> list[int]:
        size = sum(len(message.content.encode("utf-8", "replace")) for message in request.messages or ())
        return [0] * max(1, math.ceil(size / BYTES_PER_TOKEN))


class _NoCore:
    """A schema is checked by whoever decodes."""

    def sampler(self, decoding: Decoding) -> Any:
        return contextlib.ExitStack()


def open_backend(
    engine: str, model: str, settings: Mapping[str, Any], deliver: Deliver, *, running: int, queue: int, threads: int = 0,
    fallbacks: Sequence[str] = (), first_s: float = 60.0,
) -> Backend:
    """The backend for an engine of a release. Raises `LabError` when it cannot be opened."""
    if engine == "scripted" and not any(name in settings for name in ("ttft_s", "prefill_s", "fail_after")):
        step_ms = 1e3 * float(settings.get("tpot_s", 0.004))
        return Stepped(open_served(model, ServeSettings(
            engine="scripted", step_ms=step_ms, max_running=running, queue=queue, reply=str(settings.get("reply", "")),
            context_tokens=int(settings.get("context_tokens", 0)) or 4096 * max(1, running // 4))), deliver)
    if engine == "llama_cpp":
        known = {name for name in ServeSettings.__dataclass_fields__ if name not in ("engine", "queue", "max_running")}
        given = {name: value for name, value in settings.items() if name in known}
        if threads:
            given["threads"] = threads
        return Stepped(open_served(model, ServeSettings(max_running=running, queue=queue, **given)), deliver)
    if engine == "server":
        timeout = {"timeout_s": first_s, **settings}
        sources = [_source("server", url, timeout) for url in (model, *fallbacks)]
        return Threaded(sources, deliver, served=_elsewhere(model, int(settings.get("context_tokens") or 0)), running=running,
                        in_process=False)
    more: dict[str, Any] = {"real_time": True} if engine == "scripted" else {}
    source = _source(engine, model, {**settings, **more})
    opened = source.engine()
    served = Served(name=model, engine=opened, core=cast(Core, _NoCore()), request_tokens=opened.context_tokens,
                    settings=ServeSettings(engine="scripted"), logged=opened.settings, drafter=lambda: None)
    return Threaded([source], deliver, served=served, running=running, in_process=True)


def _source(engine: str, model: str, settings: Mapping[str, Any]) -> Source:
    return Source(name=model, open=lambda: open_engine(engine, model, **settings))


def _elsewhere(model: str, context_tokens: int) -> Served:
    return Served(name=model, engine=cast(Engine, _Estimating()), core=cast(Core, _NoCore()), drafter=lambda: None,
                  request_tokens=context_tokens or SERVED_TOKENS, settings=ServeSettings(engine="scripted"), logged={})

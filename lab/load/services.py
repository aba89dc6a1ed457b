"""One way to put the same load on a scheduler in this process and on a server: requests in, generations and a duration out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lab.engines import Engine
from lab.engines.scheduling.scheduler import Scheduler
from lab.load import scheduled
from lab.load.capture import Interrupted, capture, emptied
from lab.load.endpoint import Endpoint
from lab.records import Generation, Request


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a load gave: the generations in the order of the requests, how long it took, and how far to believe it."""

    generations: tuple[Generation, ...]
    seconds: float
    measures: Mapping[str, float] = field(default_factory=dict)
    """The audit of the capture; empty in this process, where every reading is the engine's own."""
    notes: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


class Service(Protocol):
    """Something that answers requests under load."""

    def serve(
        self, requests: Sequence[Request], *, times: Sequence[float] | None = None, users: int = 1, limit_s: float = 600.0,
        title: str = "requests", keep_interrupted: bool = False,
    ) -> Served:
        """Ask `requests` at `times` (seconds from the start), or without them in a closed loop of `users`.

        With `keep_interrupted` a load over HTTP that Ctrl-C ends gives what it saw, noted as `interrupted`, instead of
        raising; the caller keeps it and raises KeyboardInterrupt.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class InProcess:
    """The step loop of this process; `fresh` makes a scheduler over an empty cache for each load."""

    engine: Engine
    fresh: Callable[[], Scheduler]

    def serve(
        self, requests: Sequence[Request], *, times: Sequence[float] | None = None, users: int = 1, limit_s: float = 600.0,
        title: str = "requests", keep_interrupted: bool = False,
    ) -> Served:
        scheduler, work = self.fresh(), [(r, self.engine.prompt_tokens(r)) for r in requests]
        began = scheduler.core.now()
        if times is None:
            jobs = scheduled.closed_loop(scheduler, work, users, limit_s=limit_s, title=title)
        else:
            sleep = getattr(scheduler.core, "sleep", time.sleep)  # the scripted core has a clock of its own
            jobs = scheduled.open_loop(scheduler, work[: len(times)], times, sleep=sleep, limit_s=limit_s, title=title)
        generations, seconds = tuple(job.generation() for job in jobs), scheduler.core.now() - began
        empty = sum(g.finish_reason in ("stop", "length") and not g.tokens_at_s for g in generations)
        return Served(generations=generations, seconds=seconds, flags=(emptied(empty, len(generations)),) if empty else ())


@dataclass(frozen=True, kw_only=True)
class OverHttp:
    """A server behind `endpoint`, measured by the capture process."""

    endpoint: Endpoint
    count_tokens: Callable[[str], int] | None = None
    warmup: int = 1

    def serve(
        self, requests: Sequence[Request], *, times: Sequence[float] | None = None, users: int = 1, limit_s: float = 600.0,
        title: str = "requests", keep_interrupted: bool = False,
    ) -> Served:
        asked = requests if times is None else requests[: len(times)]
        try:
            seen, interrupted = capture(self.endpoint, asked, times=times, users=users if times is None else None,
                                        limit_s=limit_s, warmup=self.warmup, count_tokens=self.count_tokens, title=title), False
        except Interrupted as error:
            if not keep_interrupted or not error.captured.generations:
                raise
            seen, interrupted = error.captured, True
        return Served(generations=seen.generations, seconds=seen.seconds, measures=seen.audit.measures(),
                      notes={**seen.audit.notes(), **({"interrupted": "yes"} if interrupted else {})}, flags=seen.problems)

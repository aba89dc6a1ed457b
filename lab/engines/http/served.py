"""What one server serves: a model, its tokenizer, its cache, and the step loop's scheduler over them."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import get_args

from lab import models
from lab.engines import Engine, Flash
from lab.engines.scheduling.core import Core
from lab.engines.scheduling.job import Job
from lab.engines.scheduling.prefix import TieredPrefixCache
from lab.engines.scheduling.scheduler import Scheduler
from lab.engines.scheduling.scripted_core import ScriptedCore
from lab.engines.scheduling.speculation import Drafter
from lab.errors import LabError
from lab.records import Settings

ENGINES = ("llama_cpp", "scripted")
LOOKUPS = ("prompt_lookup", "session_ngram")
MOST_RUNNING = 128
CACHE_SLOTS = 16
"""Prefixes kept in cells at most; each takes one of llama.cpp's 256 sequences."""
LONGEST = 31
"""Most tokens that adaptive drafting offers a step."""
KEPT_STEPS = 1024


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Every setting of a served model, as logged with a run. 0 leaves the choice to the engine.

    `context_tokens` are the KV cells of all requests together. With the prefix cache they are one pool, of which one
    request may take all that the model was trained for; without it each of `max_running` requests has an equal part.
    """

    engine: str = "llama_cpp"
    context_tokens: int = 0
    max_running: int = 16
    threads: int = 0
    flash_attention: Flash = "auto"
    kv_type: str = "f16"
    token_budget: int = 0
    queue: int = 64
    """Requests that may wait beside those running; the next one is refused with 429."""
    prefix_cache: bool = True
    draft: str = "none"
    """none, prompt_lookup, session_ngram, or the model that drafts."""
    draft_tokens: int = 0
    """Drafts a step; 0 adapts to what they earn."""
    step_ms: float = 4.0
    """The scripted engine only: how long a step takes."""
    reply: str = ""
    """The scripted engine only: what every answer says, a byte a token; "" draws from its chain."""

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise LabError(f"There is no engine '{self.engine}' to serve with; choose {' or '.join(ENGINES)}.")
        if not 1 <= self.max_running <= MOST_RUNNING:
            raise LabError(f"max_running is {self.max_running}; from 1 to {MOST_RUNNING} requests can run at a time.")
        if self.flash_attention not in get_args(Flash):
            raise LabError(f"Flash attention is 'auto', 'on' or 'off', not '{self.flash_attention}'.")
        for name in ("context_tokens", "threads", "token_budget", "queue", "draft_tokens", "step_ms"):
            if not getattr(self, name) >= 0:
                raise LabError(f"{name} is {getattr(self, name)}; give 0 or more.")
        if self.reply and self.engine != "scripted":
            raise LabError(f"Only the scripted engine answers with a text of yours, not {self.engine}; leave out the reply.")
        if self.engine == "scripted" and self.draft not in ("none", *LOOKUPS):
            raise LabError(f"The scripted engine drafts with {' or '.join(LOOKUPS)}, not with a model ('{self.draft}').")

    def arguments(self) -> list[str]:
        """These settings as flags of `lab serve`."""
        flags: list[str] = []
        for option in dataclasses.fields(self):
            value, flag = getattr(self, option.name), option.name.replace("_", "-")
            if isinstance(value, bool):
                flags.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                flags += [f"--{flag}", str(value)]
        return flags


@dataclass(kw_only=True)
class Served:
    """An opened model. `request_tokens` is how long prompt and output of one request can be together."""

    name: str
    engine: Engine
    core: Core
    request_tokens: int
    settings: ServeSettings
    logged: Settings
    drafter: Callable[[], Drafter | None]
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def scheduler(self, on_token: Callable[[Job], None]) -> Scheduler:
        """A scheduler that knows nothing yet, over an empty cache."""
        self.core.clear()
        slots = self.core.sequences - self.settings.max_running
        cache = TieredPrefixCache(self.core, slots=slots, keep_output=True) if slots else None
        return Scheduler(
            self.core, max_running=self.settings.max_running, token_budget=self.settings.token_budget, cache=cache,
            drafter=self.drafter(), first_slot=slots, on_token=on_token, keep_steps=KEPT_STEPS)

    def close(self) -> None:
        self.closing.close()


def open_served(model: str, settings: ServeSettings) -> Served:
    """Load `model`. Raises `LabError` for what cannot be served so."""
    return _scripted(model, settings) if settings.engine == "scripted" else _llama(model, settings)


def _llama(model: str, settings: ServeSettings) -> Served:
    from lab.engines.llama.context import Context
    from lab.engines.llama_cpp import LlamaCpp

    with contextlib.ExitStack() as closing:
        engine = LlamaCpp(model, threads=settings.threads, flash_attention=settings.flash_attention, kv_type=settings.kv_type)
        closing.callback(engine.close)
        trained = engine.header.context_tokens or 4096
        cells = settings.context_tokens or min(8192, trained)
        slots = CACHE_SLOTS if settings.prefix_cache else 0
        threads = int(engine.settings["threads"] or 1)

        def opened(weights: object) -> Context:
            context = Context(
                weights, context_tokens=cells, threads=threads, sequences=settings.max_running + slots,  # type: ignore[arg-type]
                batch_tokens=max(512, settings.token_budget), flash_attention=settings.flash_attention,
                kv_type=settings.kv_type, unified=settings.prefix_cache)
            closing.callback(context.close)
            return context

        core = opened(engine.weights)
        draft_core = None
        if settings.draft not in ("none", *LOOKUPS):
            from lab.engines.llama.draft import open_draft

            weights = open_draft(models.find(settings.draft), engine.weights)
            closing.callback(weights.close)
            draft_core = opened(weights)
        logged = {**engine.settings, "engine": "llama_cpp", "batch_tokens": core.batch_tokens}
        return Served(
            name=engine.file.name, engine=engine, core=core, request_tokens=min(core.sequence_tokens, trained),
            settings=settings, logged=_logged(settings, logged, core), drafter=_drafter(settings, core, draft_core),
            closing=closing.pop_all())


def _scripted(model: str, settings: ServeSettings) -> Served:
    from lab.engines.scripted import Scripted

    cells = settings.context_tokens or 4096
    core = PacedCore(step_s=settings.step_ms / 1e3, reply=settings.reply, context_tokens=cells,
                     batch_tokens=max(512, settings.token_budget),
                     sequences=settings.max_running + (CACHE_SLOTS if settings.prefix_cache else 0))
    engine = Scripted(model, context_tokens=cells)
    logged: Settings = {"engine": "scripted", "model": model, "threads": 1}
    return Served(name=model, engine=engine, core=core, request_tokens=cells, settings=settings,
                  logged=_logged(settings, logged, core), drafter=_drafter(settings, core, None))


class PacedCore(ScriptedCore):
    """The scripted core on the real clock: every step takes `step_s`."""

    def __init__(self, *, step_s: float, context_tokens: int, sequences: int, batch_tokens: int, reply: str = "") -> None:
        super().__init__(context_tokens=context_tokens, sequences=sequences, batch_tokens=batch_tokens, reply=reply)
        self._pace_s = step_s

    def decode(self, count: int) -> None:
        super().decode(count)
        time.sleep(self._pace_s)

    def now(self) -> float:
        return time.perf_counter()


def _logged(settings: ServeSettings, engine: Settings, core: Core) -> Settings:
    given = dataclasses.asdict(settings)
    if settings.engine != "scripted":
        del given["step_ms"], given["reply"]
    return {**given, **engine, "context_tokens": core.context_tokens}


def _drafter(settings: ServeSettings, core: Core, draft: Core | None) -> Callable[[], Drafter | None]:
    """What makes a fresh drafter. Adaptive drafting measures the costs of a step first, once."""
    if settings.draft == "none":
        return lambda: None
    from lab.engines.scheduling.adaptive import Adaptive
    from lab.engines.scheduling.costs import StepCosts, measure
    from lab.engines.scheduling.draft_model import DraftModel
    from lab.engines.scheduling.drafters import PromptLookup, SessionNgram

    tokens = settings.draft_tokens or LONGEST
    known: list[StepCosts] = []

    def inner() -> Drafter:
        if draft is not None:
            draft.clear()
            return DraftModel(draft, tokens)
        return PromptLookup(tokens) if settings.draft == "prompt_lookup" else SessionNgram(tokens)

    def costs() -> StepCosts:
        if not known:
            target = measure(core, batch=1, most_tokens=min(settings.max_running + LONGEST, core.batch_tokens))
            known.append(target.with_draft(measure(draft, batch=1, most_tokens=9), 1) if draft is not None else target)
        return known[0]

    return lambda: inner() if settings.draft_tokens else Adaptive(inner(), costs(), longest=LONGEST)


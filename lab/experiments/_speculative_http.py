"""Speculative decoding over HTTP: a plain server and one for each drafter, asked the same requests in turn."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lab import machine, stats
from lab.data import tasks
from lab.engines import Engine, is_url, refuse_misfit
from lab.engines.vllm_parts import environment
from lab.engines.vllm_parts.command import ServeSettings, refuse_request
from lab.errors import LabError
from lab.experiments._observed import chats, counters, counting, differing, refuse_gone, worst
from lab.experiments._remote import is_remote, over_http
from lab.experiments._speculative_arms import Arm, Served, geometric_mean, paired, task_of
from lab.load.services import OverHttp
from lab.metrics import speed
from lab.records import Decoding, Estimate, Message, Request, Settings, Trial, Verdict

if TYPE_CHECKING:
    from lab.experiments.speculative import Speculative

DRAFTERS = {"vllm": ("prompt_lookup",), "server": ("prompt_lookup", "session_ngram", "draft_model")}
HAS = {"vllm": "vLLM drafts with prompt_lookup of a fixed length only",
       "server": "lab serve drafts with prompt_lookup, session_ngram and a --draft model"}
REMEMBERS = ("session_ngram",)
"""What keeps earlier answers. In a second round it would know them by heart, so its server is started again."""
WARM_UP = Request(id="warm-up", prompt="1, 2, 3, 4, 5, 6, 7, 8,", decoding=Decoding(max_tokens=16))
Opener = Callable[[Arm | None, contextlib.ExitStack], tuple[Engine, OverHttp]]
"""Opens the server of an arm, or the plain one, until the stack closes."""


@dataclass(frozen=True, kw_only=True)
class AsConfigured(Arm):
    """A server that somebody else started: it drafts as it does."""

    drafter: str = "as configured"
    tokens: int = 0

    @property
    def length(self) -> str:
        return "as configured"

    def __str__(self) -> str:
        return "as configured"


def offered(engine: str, arms: Sequence[Arm]) -> list[Arm]:
    """Those of `arms` that the engine has; of a URL the one that it is."""
    if is_url(engine):
        return [AsConfigured()]
    return [arm for arm in arms if arm.drafter in DRAFTERS[engine] and (arm.tokens or engine == "server")]


def refuse_config(config: Speculative) -> None:
    """Raise `LabError` for fields that do not go together with the engine."""
    url = is_url(config.engine)
    if url and config.plain_url == "none":
        raise LabError("A server that speculates is compared with one that does not: give the address of the same model served "
                       "without speculation with --plain-url.")
    if config.plain_url != "none" and not (url and is_url(config.plain_url)):
        raise LabError("--plain-url is the URL of a server and goes with an --engine that is one, too.")
    if is_remote(config.engine) and not config.arms():
        raise LabError(f"Nothing drafts: {HAS[config.engine]}; give such --drafters and --draft-tokens.")


def refuse_machine(config: Speculative) -> None:
    """Raise `LabError` for what this machine's vLLM answers wrongly, or when there is none."""
    if config.engine != "vllm":
        return
    found = environment.find()
    variant = found.variant if found else environment.suited()
    hottest = Request(prompt="x", decoding=Decoding(temperature=max(config.temperature)))
    refuse_request(hottest, ServeSettings(draft="prompt_lookup"), variant)
    environment.require()


def with_caveats(config: Speculative, verdict: Verdict) -> Verdict:
    """The verdict with what was left out and what is defined otherwise than in this process."""
    found = ["Over HTTP acceptance is accepted of drafted tokens; in this process it is of those examined, which is higher. Step "
             "costs are not seen, so nothing is predicted."]
    if is_url(config.engine):
        found.append("A server at a URL drafts as it was started: --drafters, --draft-tokens and --adaptive do nothing.")
    else:
        every = dataclasses.replace(config, engine="llama_cpp").arms()
        if left := [str(arm) for arm in every if arm not in config.arms()]:
            found.append(f"{HAS[config.engine]}; left out: {'; '.join(left)}.")
        if config.draft_confidence and config.engine == "server":
            found.append("lab serve has no --draft-confidence; its draft model always drafts to the end.")
    return dataclasses.replace(verdict, caveats=(*verdict.caveats, *found))


def opener_of(config: Speculative) -> Opener:
    """What opens the servers that `config` names. Prefixes are not reused, since a request is asked in every round."""
    # Where there is a GPU, all servers share its memory.
    gpu_share = round(0.9 / (1 + len(config.arms())), 3)

    def opened(arm: Arm | None, closing: contextlib.ExitStack) -> tuple[Engine, OverHttp]:
        name = config.plain_url if arm is None and is_url(config.engine) else config.engine
        more: dict[str, Any] = {}
        if arm is not None and not is_url(name):
            more = {"draft": config.draft if arm.drafter == "draft_model" else arm.drafter, "draft_tokens": arm.tokens}
        if name == "server":
            more["kv_type"] = config.kv_type
        elif name == "vllm":
            more |= {"kv_cache_gib": 1.0, "gpu_share": gpu_share}
        return over_http(
            name, config.model, key_env=config.key_env, room=config.context_tokens // max(config.batch),
            max_running=max(config.batch), threads=config.threads, flash_attention=config.flash_attention,  # type: ignore[arg-type]
            prefix_cache=False, closing=closing, **more)

    return opened


def trials(config: Speculative, opener: Opener | None = None) -> Iterator[Trial]:
    """Measure `config` on its servers, all open together; see `Speculative` for what is compared."""
    refuse_machine(config)
    with contextlib.ExitStack() as closing:
        servers: dict[Arm | None, Server] = {}
        for arm in (None, *config.arms()):
            servers[arm] = Server(arm, config.engine, opener or opener_of(config))
            closing.callback(servers[arm].close)
            servers[arm].open()
        chat = chats(servers[None].service.endpoint)
        for server in servers.values():
            _refuse_misfit(config, server.engine, chat=chat)
        for batch in config.batch:
            for temperature in config.temperature:
                for kind in config.kinds:
                    yield from _point(config, servers, kind, batch, temperature, chat=chat)


class Server:
    """The server of an arm (None: the plain one), opened, asked, and opened anew when it would remember."""

    def __init__(self, arm: Arm | None, name: str, opener: Opener) -> None:
        self.arm, self.name, self._opener = arm, name, opener
        self._closing, self._used = contextlib.ExitStack(), False

    def open(self) -> None:
        self.engine, service = self._opener(self.arm, self._closing)
        self.service = dataclasses.replace(service, warmup=0, count_tokens=counting(self.engine))
        self._used = False
        if not self._remembers:
            self.service.serve([WARM_UP])

    @property
    def _remembers(self) -> bool:
        return self.arm is not None and self.arm.drafter in REMEMBERS

    def forget(self) -> None:
        """Begin a round as if nothing had been asked before."""
        if self._remembers and self._used:
            self.close()
            self.open()

    def ask(self, requests: Sequence[Request], users: int) -> Run:
        title, self._used = str(self.arm or "plain"), True
        before = counters(self.engine)
        seen = self.service.serve(requests, users=users, title=title)
        refuse_gone(self.name, title, seen.generations)
        drafted = accepted = math.nan
        usages = [g.usage for g in seen.generations if not speed.failed(g)]
        if usages and all(u.drafted_tokens is not None and u.accepted_tokens is not None for u in usages):
            drafted, accepted = (float(sum(getattr(u, n) for u in usages)) for n in ("drafted_tokens", "accepted_tokens"))
        elif before is not None and (after := counters(self.engine)) is not None:
            grown = after.since(before)
            drafted, accepted = grown.drafted_tokens, grown.accepted_tokens
        return Run(generations=seen.generations, steps=(), drafted=drafted, accepted=accepted, audit=seen.measures,
                   notes=seen.notes, flags=seen.flags)

    def close(self) -> None:
        self._closing.close()


@dataclass(frozen=True, kw_only=True)
class Run(Served):
    """One serving, with what the server counted meanwhile (NaN where it does not say) and the capture's audit."""

    drafted: float
    accepted: float
    audit: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


def requests_of(config: Speculative, kind: str, batch: int, temperature: float, *, chat: bool) -> list[Request]:
    """The tasks of a kind, again and again until a batch is full; as messages, or for a base model as they stand."""
    chosen = tasks.tasks((kind,), config.items)
    found = []
    for i in range(-(-config.items // batch) * batch):
        task = chosen[i % len(chosen)]
        decoding = Decoding(max_tokens=config.output_tokens, temperature=temperature, top_k=config.top_k, seed=i)
        found.append(Request(
            id=f"{task.id}.{i // len(chosen)}", decoding=decoding, prompt=None if chat else f"{task.prompt}\n\n",
            messages=(Message(role="user", content=task.prompt),) if chat else None))
    return found


def _refuse_misfit(config: Speculative, engine: Engine, *, chat: bool) -> None:
    """Raise `LabError` before anything is measured when a task does not fit; where tokens are not seen, nothing is known."""
    for kind in config.kinds:
        for request in requests_of(config, kind, 1, 0.0, chat=chat):
            try:
                tokens = len(engine.prompt_tokens(request))
            except LabError:
                return
            refuse_misfit(tokens, config.output_tokens, engine.context_tokens)


def _point(
    config: Speculative, servers: Mapping[Arm | None, Server], kind: str, batch: int, temperature: float, *, chat: bool
) -> list[Trial]:
    """All arms on one kind of work; `batch` requests in turn, then the next ones backwards, as in this process."""
    work = requests_of(config, kind, batch, temperature, chat=chat)
    runs: dict[Arm | None, list[Run]] = {arm: [] for arm in servers}
    with machine.Watch() as watch:
        for i in range(config.repeats):
            for server in servers.values():
                server.forget()
            for at in range(0, len(work), batch):
                for arm in list(servers)[:: 1 if (i + at // batch) % 2 == 0 else -1]:
                    runs[arm].append(servers[arm].ask(work[at : at + batch], batch))
    several = f", temperature {temperature:g}" if len(config.temperature) > 1 or temperature else ""
    spent, made = watch.result, []
    for arm in config.arms():
        settings: Settings = {
            **servers[arm].engine.settings, "engine": config.engine, "plain_url": config.plain_url, "kind": kind,
            "drafter": arm.drafter, "arm": str(arm), "draft_length": arm.length, "batch": batch, "temperature": temperature,
            "top_k": config.top_k, "context_tokens": config.context_tokens,
            "first_load": "yes" if (batch, temperature) == (config.batch[0], config.temperature[0]) else "no"}
        measures, notes = compared(runs[None], runs[arm], greedy=temperature <= 0)
        measures |= {"foreign_cpu_share": spent.foreign_share, "wall_s": spent.wall_s,
                     "cpu_s": spent.cpu_s + spent.children_cpu_s}
        said = (*spent.flags(), *(flag for run in (*runs[arm], *runs[None]) for flag in run.flags))
        made.append(Trial(
            name=f"{kind}: {arm}, batch {batch}{several}", settings=settings, measures=measures, notes=notes,
            generations=tuple(g for run in runs[arm] for g in run.generations), flags=tuple(dict.fromkeys(said))))
    return made


def compared(
    plain: Sequence[Run], served: Sequence[Run], *, greedy: bool
) -> tuple[dict[str, float | Estimate], dict[str, str]]:
    """Measures and notes of one arm beside the plain servings of the same requests, in the same order.

    `tokens_per_target_step` takes tokens with one time of arrival for one step: a step sends all its tokens at once.
    """
    pairs = paired(served, plain)
    owners, servings = [task_of(mine) for _, mine, _ in pairs], [serving for serving, _, _ in pairs]
    rates = [speed.decode_tokens_per_s(mine) for _, mine, _ in pairs]
    plain_rates = [speed.decode_tokens_per_s(other) for _, _, other in pairs]
    generations = [g for run in served for g in run.generations]
    begun = [g for g in generations if g.tokens_at_s]
    emitted = sum(len(g.tokens_at_s) - 1 for g in begun)
    steps = sum(len(set(g.tokens_at_s)) - 1 for g in begun)
    drafted, accepted = sum(run.drafted for run in served), sum(run.accepted for run in served)
    rate = accepted / drafted if drafted else math.nan
    found: dict[str, float | Estimate] = {
        **worst(run.audit for run in (*plain, *served)),
        "speedup": geometric_mean([a / b for a, b in zip(rates, plain_rates, strict=True)], owners, servings),
        "acceptance_rate": rate, "accepted_share": rate, "drafted_tokens": drafted, "accepted_tokens": accepted,
        "tokens_per_target_step": emitted / steps if steps else math.nan,
        "decode_tokens_per_s": stats.clustered_percentile(rates, owners, 50),
        "plain_decode_tokens_per_s": stats.clustered_percentile(plain_rates, owners, 50),
        "failed_requests": float(sum(map(speed.failed, generations))),
    }
    notes = {**served[-1].notes, "warm_up": "the server answered something else before the first round"}
    if alone := max(len(generations), sum(len(run.generations) for run in plain)) - len(pairs):
        notes["left_out"] = f"{alone} answers failed or were cut off in one of the two arms and are compared with nothing"
    if greedy:
        parted = differing((mine, other) for _, mine, other in pairs)
        found["differing_sequences"] = float(len(parted))
        if parted:
            notes["differs"] = ", ".join(f"{i} at character {at}" for i, at in parted[:20])
    return found, notes

"""Prefix caching over HTTP: a server that keeps prefixes beside one that does not, asked the same requests in turn."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lab import data, machine, stats
from lab.engines import Engine, is_url, refuse_misfit
from lab.engines.vllm_parts import environment
from lab.engines.vllm_parts.counters import Counters
from lab.errors import LabError
from lab.experiments import busy
from lab.experiments._observed import counters, counting, differing, refuse_gone, refuse_other, worst
from lab.experiments._remote import over_http
from lab.experiments._workload import CHARACTERS_PER_TOKEN
from lab.experiments.prompt_cache import SERVER, WORKLOADS, Point, posed
from lab.load.services import OverHttp
from lab.load.services import Served as Seen
from lab.metrics import speed
from lab.names import describe
from lab.records import Decoding, Estimate, Generation, Request, Trial, Verdict

if TYPE_CHECKING:
    from lab.experiments.prompt_cache import PromptCache

POOL_TOKENS = 8192
"""Cells of a `lab serve` that keeps prefixes, at least: what it takes by itself."""
BLOCK_TOKENS = 128
"""Blocks of vLLM's prefix cache on a CPU; a shorter prefix is never found (docs/decisions/0006-vllm.md)."""
Opener = Callable[[str, contextlib.ExitStack], tuple[Engine, OverHttp]]
"""Opens the server of a tier ("none" or "server") until the stack closes."""


def tiers(engine: str) -> list[str]:
    """What can be compared: a server started here with and without its cache, or somebody else's as it is."""
    return [SERVER] if is_url(engine) else ["none", SERVER]


def refuse_machine(config: PromptCache) -> None:
    """Raise `LabError` for an engine without this experiment, or a vLLM that is not installed."""
    refuse_other(config.engine)
    if config.engine == "vllm":
        environment.require()


def opener_of(config: PromptCache) -> Opener:
    """What opens the servers that `config` names, with room for the longest request and for the shared prefixes."""
    shared = 1 if set(config.workloads) == {"system"} else config.groups
    longest = max(config.prefix_tokens) + max(len(posed(q).encode()) for q in data.questions("everyday")) + config.output_tokens
    longest = -(-longest // 64) * 64
    pool = max(POOL_TOKENS, longest * (config.users + 1 + shared))

    def opened(tier: str, closing: contextlib.ExitStack) -> tuple[Engine, OverHttp]:
        keeps = tier == SERVER
        room = -(-pool // config.users) if keeps and config.engine == "server" else longest
        more: dict[str, Any] = {"server": {"kv_type": config.kv_type}, "vllm": {"kv_cache_gib": 1.0, "gpu_share": 0.45}}
        return over_http(
            config.engine, config.model, key_env=config.key_env, room=room, max_running=config.users, threads=config.threads,
            flash_attention=config.flash_attention, prefix_cache=keeps, closing=closing,  # type: ignore[arg-type]
            **more.get(config.engine, {}))

    return opened


def trials(config: PromptCache, opener: Opener | None = None) -> Iterator[Trial]:
    """Measure `config` on its servers, all open together; see `PromptCache` for what is compared."""
    refuse_machine(config)
    points, done = config.points(), dict[Point, Trial]()
    with contextlib.ExitStack() as closing:
        servers = {tier: Server(tier, config, opener or opener_of(config), closing) for tier in tiers(config.engine)}
        words = Words(servers[SERVER].engine)
        # What a server at a URL kept of an earlier run must not be found in this one.
        run = uuid.uuid4().hex if is_url(config.engine) else str(config.seed)
        for load in dict.fromkeys(point.measured for point in points):
            asking = requests_of(config, load, words, run, 0)
            longest = max(len(request.tokens) if request.tokens else 1 for request in asking)  # of a text nothing is known
            for server in servers.values():
                refuse_misfit(longest, config.output_tokens, server.engine.context_tokens)
        for point in points:
            if point.measured not in done:
                done |= _measured(config, servers, point.measured, words, run)
            base = (point.factor, point.prefix_tokens, point.reuse_rate) == (
                points[0].factor, config.prefix_tokens[0], config.reuse_rates[0])
            engine = servers[point.tier].engine
            settings = {
                **engine.settings, **dataclasses.asdict(point), "engine": config.engine, "requests": config.requests,
                "repeats": config.repeats, "users": config.users, "min_tokens": config.min_tokens,
                "prompts": "tokens" if words.as_tokens else "text", "cache": f"{point.workload}, {point.tier}",
                "base": "yes" if base else "no"}
            yield dataclasses.replace(done[point.measured], settings=settings, name=point.title)


class Server:
    """The server of a tier, and one serving after another with what it counted meanwhile."""

    def __init__(self, tier: str, config: PromptCache, opener: Opener, closing: contextlib.ExitStack) -> None:
        self.name, self._config = config.engine, config
        self.engine, service = opener(tier, closing)
        # Asked before the start, the first request's prefix would be known.
        self.service = dataclasses.replace(service, warmup=0, count_tokens=counting(self.engine))

    def ask(self, requests: Sequence[Request], title: str) -> Pass:
        before = counters(self.engine)
        with machine.Watch() as watch:
            seen = self.service.serve(requests, users=self._config.users, limit_s=self._config.limit_s, title=title)
        refuse_gone(self.name, title, seen.generations)
        if len(seen.generations) != len(requests) or any(g.finish_reason == "cancelled" for g in seen.generations):
            raise LabError(f"Not all requests of '{title}' ended within {self._config.limit_s:g} s; raise --limit-s or ask for "
                           "fewer or shorter ones.")
        after = counters(self.engine)
        grown = after.since(before) if after is not None and before is not None else None
        return Pass(seen=seen, watched=watch.result, counted=grown)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """All requests of a round served once by one server."""

    seen: Seen
    watched: machine.Watched
    counted: Counters | None

    @property
    def generations(self) -> tuple[Generation, ...]:
        return self.seen.generations


class Words:
    """Prefixes and questions as the engine's tokens, or as text of about that length where it does not show tokens."""

    def __init__(self, engine: Engine) -> None:
        text = data.text("pydoc-topics")
        self.read: Callable[[str], Any] = functools.cache(lambda piece: tuple(engine.tokenize(piece)))
        try:
            self._source: Any = self.read(text)
            self.as_tokens = True
        except LabError:
            self._source, self.read, self.as_tokens = text, lambda piece: piece, False
        self._unit = 1 if self.as_tokens else CHARACTERS_PER_TOKEN

    def prefix(self, random: np.random.Generator, workload: str, tokens: int, salt: str) -> Any:
        """A prefix of `tokens` tokens that begins with `salt`, so that no other has a beginning in common with it."""
        length, made = tokens * self._unit, self.read(salt)
        if workload == "system":
            start = int(random.integers(0, max(1, len(self._source) - length)))
            made = made + self._source[start : start + length]
        questions = data.questions("everyday")
        while workload == "few_shot" and len(made) < length:
            question = questions[int(random.integers(len(questions)))]
            made = made + self.read(f"{posed(question)} {question.choices[question.answer or 0]}\n\n")
        if len(made) < length:
            raise LabError(f"The text gives only {len(made) // self._unit:,} of {tokens:,} prefix tokens; ask for fewer.")
        return made[:length]

    def request(self, prompt: Any, **more: Any) -> Request:
        return Request(tokens=prompt, **more) if self.as_tokens else Request(prompt=prompt, **more)


def requests_of(config: PromptCache, point: Point, words: Words, run: str, turn: int) -> list[Request]:
    """The requests of a load in round `turn`, whose prefixes no other round, load or run has.

    The tag `prefix` says whether an earlier request of the round began with the same one: `seen` or `new`.
    """
    key = (config.seed, WORKLOADS.index(point.workload), point.prefix_tokens, round(point.reuse_rate * 1000), turn)
    random = np.random.default_rng(key)
    count = 0

    def prefix() -> Any:
        nonlocal count
        count += 1
        salt = hashlib.sha256(f"{run} {key} {count}".encode()).hexdigest()[:12]
        return words.prefix(random, point.workload, point.prefix_tokens, f"{salt}: ")

    questions = data.questions("everyday")
    shared = [prefix() for _ in range(1 if point.workload == "system" else config.groups)]
    made, before = [], set()
    for i in range(config.requests):
        begin = shared[int(random.integers(len(shared)))] if random.random() < point.reuse_rate else prefix()
        prompt = begin + words.read("\n\n" + posed(questions[int(random.integers(len(questions)))]))
        made.append(words.request(
            prompt, id=f"{turn}.{i}", tags={"prefix": "seen" if begin in before else "new"},
            decoding=Decoding(max_tokens=config.output_tokens, ignore_eos=not is_url(config.engine))))
        before.add(begin)
    return made


def _measured(
    config: PromptCache, servers: Mapping[str, Server], point: Point, words: Words, run: str
) -> dict[Point, Trial]:
    """All tiers of one load, in turn within every round and the next one backwards."""
    points = {tier: dataclasses.replace(point, tier=tier) for tier in servers}
    warm_up = requests_of(config, point, words, run, config.repeats)[:1]
    for tier, server in servers.items():
        server.ask(warm_up, points[tier].title)
    passes: dict[str, list[Pass]] = {tier: [] for tier in servers}
    for turn in range(config.repeats):
        work = requests_of(config, point, words, run, turn)
        for tier in list(servers)[:: 1 if turn % 2 == 0 else -1]:
            passes[tier].append(servers[tier].ask(work, points[tier].title))
    return {points[tier]: _trial(config, point, tier, made, passes.get("none")) for tier, made in passes.items()}


def _trial(
    config: PromptCache, point: Point, tier: str, passes: Sequence[Pass], without: Sequence[Pass] | None
) -> Trial:
    made = [g for one in passes for g in one.generations]
    owners = [g.request.id for g in made]
    measures: dict[str, float | Estimate] = {
        **worst(one.seen.measures for one in passes),
        "ttft_s": stats.clustered_percentile([speed.ttft_s(g) for g in made], owners, 50),
        "tpot_s": stats.clustered_percentile([speed.tpot_s(g) for g in made], owners, 50),
        "failed_requests": float(sum(map(speed.failed, made))),
        "foreign_cpu_share": max(one.watched.foreign_share for one in passes),
        "cpu_s": sum(one.watched.cpu_s + one.watched.children_cpu_s for one in passes),
        "wall_s": sum(one.watched.wall_s for one in passes),
    }
    notes = {**passes[-1].seen.notes, "warm_up": "a request with a prefix of its own before the first round"}
    flags = [flag for one in passes for flag in (*one.watched.flags(), *one.seen.flags)]
    if tier == SERVER:
        cold = [g for one in without for g in one.generations] if without else None
        reused = reused_tokens(passes)
        if reused is None:
            flags.append("the server does not say what it reused: those requests count as warm whose prefix was asked before")
        elif not reused.any():
            notes["reuse"] = nothing_reused(config, point)
        warm = (np.array([g.request.tags["prefix"] == "seen" for g in made]) if reused is None else reused >= config.min_tokens)
        measures |= {**saved(made, cold, warm), "prompt_reused_share": _share(passes, reused)}
        if cold:
            parted = differing((a, b) for a, b in zip(made, cold, strict=True) if not speed.failed(a) and not speed.failed(b))
            measures["differing_outputs"] = float(len(parted))
            if parted:
                notes["differs"] = ", ".join(f"request {i} at character {at}" for i, at in parted[:20])
        else:
            notes["cold"] = "other requests of the same rounds, whose prefix was new; nothing was asked twice"
    return Trial(name=point.title, settings={}, generations=tuple(made), measures=measures, notes=notes,
                 flags=tuple(dict.fromkeys(flags)))


def reused_tokens(passes: Sequence[Pass]) -> NDArray[np.int64] | None:
    """Prompt tokens of every request that the server took from its cache; None where it does not say.

    vLLM says it of requests that reused something. Where nobody says it, counters that did not grow say that it was none.
    """
    said = [g.usage.cached_tokens for one in passes for g in one.generations]
    silent = all(cached is None for cached in said)
    if silent and not all(one.counted is not None and one.counted.prefix_hit_tokens == 0 for one in passes):
        return None
    return np.array([cached or 0 for cached in said], dtype=np.int64)


def _share(passes: Sequence[Pass], reused: NDArray[np.int64] | None) -> float:
    """The part of all prompt tokens that was reused; by the server's counters where it does not say it of each request."""
    if reused is None:
        hits, queried = (sum(getattr(one.counted, name, math.nan) for one in passes)
                         for name in ("prefix_hit_tokens", "prefix_queried_tokens"))
        return float(hits / queried) if queried else math.nan
    counts = [g.usage.prompt_tokens for one in passes for g in one.generations if not speed.failed(g)]
    return float(reused.sum()) / sum(c for c in counts if c) if any(counts) else math.nan


def nothing_reused(config: PromptCache, point: Point) -> str:
    if config.engine == "vllm" and point.prefix_tokens < BLOCK_TOKENS:
        return (f"no prompt token was reused: vLLM keeps whole blocks ({BLOCK_TOKENS} tokens on a CPU), and a prefix of "
                f"{point.prefix_tokens} is shorter")
    return "no prompt token was reused: the server kept nothing, or its smallest unit is longer than the prefix"


def saved(
    made: Sequence[Generation], cold: Sequence[Generation] | None, warm: NDArray[np.bool_]
) -> dict[str, float | Estimate]:
    """Time to first token of the `warm` requests against the same ones without a cache.

    Without `cold`, what they would have waited is the mean of the other requests. Keeping is part of what the server
    does and cannot be taken off. `waiting_saved_share` is one minus the sum of all times to first token over the sum of
    those without a cache; its interval is that of drawing requests. Failed requests are left out.
    """
    now = np.array([speed.ttft_s(g) for g in made])
    before = np.array([speed.ttft_s(g) for g in cold]) if cold else np.full(now.shape, math.nan)
    kept = np.isfinite(now) & (np.isfinite(before) | (cold is None))
    now, before, warm = now[kept], before[kept], warm[kept]

    def share(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        """For every row of requests drawn."""
        after, fresh = now[drawn], ~warm[drawn]
        with np.errstate(divide="ignore", invalid="ignore"):
            usual = np.where(fresh, after, 0).sum(-1) / fresh.sum(-1) * drawn.shape[-1]
            whole = usual if cold is None else before[drawn].sum(-1)
            return np.asarray(1 - after.sum(-1) / whole)

    low = high = math.nan
    count = len(now)
    if count >= stats.FEWEST and warm.any() and (cold is not None or not warm.all()):
        low, high = np.nanpercentile(share(np.random.default_rng(0).integers(0, count, (2000, count))), [2.5, 97.5])
    value = float(share(np.arange(count)[None, :])[0]) if count else math.nan
    mine, alone = stats.median(now[warm]), stats.median(now[~warm] if cold is None else before[warm])
    ratio = Estimate(value=mine.value / alone.value) if cold is None else stats.median(now[warm] / before[warm])
    return {
        "cold_first_token_s": alone, "warm_first_token_s": mine, "warm_to_cold_share": ratio,
        "waiting_saved_share": Estimate(value=value, low=float(low), high=float(high)), "warm_requests": float(warm.sum()),
    }


def verdict(config: PromptCache, trials: pd.DataFrame) -> Verdict:
    """Whether to leave the server's cache on, and from which prefix length on it was seen to pay."""
    seen = ["metrics." + name for name in (
        "waiting_saved_share", "waiting_saved_share_low", "warm_first_token_s", "cold_first_token_s", "prompt_reused_share",
        "differing_outputs")]
    tried = trials[trials["params.tier"] == SERVER]
    tried = tried.reindex(columns=tried.columns.union(seen, sort=False))
    if tried["metrics.waiting_saved_share"].isna().all():
        return Verdict(decision="Nothing to decide: no request found its prefix in the server's cache, or none was without it.",
                       caveats=busy(trials))
    base = tried[tried["params.base"] == "yes"]
    best = [rows.iloc[0] for _, rows in (base if len(base) else tried).groupby("params.workload", sort=False)]
    won = max(best, key=lambda row: float(row["metrics.waiting_saved_share"]))
    why = [_said(row) for row in best] + [_pays(rows) for _, rows in tried.groupby("params.workload", sort=False)]
    once = tried.drop_duplicates("name")
    if not once["metrics.differing_outputs"].isna().all():
        changed, answers = int(once["metrics.differing_outputs"].sum()), len(once) * config.requests * config.repeats
        why.append(f"{changed} of {answers} answers had another text than without a cache"
                   f"{'; see `differs` of each trial' if changed else ''}.")
    caveats = ["Over HTTP the time to keep prefixes cannot be told apart; --tiers and --capacities-mb do nothing."]
    if is_url(config.engine):
        caveats.append("Cold are other requests, whose prefix was new: prefixes of equal length, not the same requests.")
    if (idle := once[once["metrics.prompt_reused_share"] == 0])["name"].tolist():
        blocks = f"; vLLM on a CPU keeps blocks of {BLOCK_TOKENS} tokens, and shorter prefixes are never found"
        caveats.append(f"Nothing was reused in {', '.join(idle['name'])}{blocks if config.engine == 'vllm' else ''}.")
    if not float(won["metrics.waiting_saved_share_low"]) > 0:
        caveats.append("The interval of that saving is not wholly above zero; ask for more --requests.")
    caveats += busy(trials)
    if round(float(won["metrics.waiting_saved_share"]), 2) <= 0:
        return Verdict(decision="The server's cache saves no waiting for these requests: on or off makes no difference.",
                       why=tuple(why), caveats=tuple(caveats))
    return Verdict(decision=f"Leave the server's cache on. {_said(won)}", chosen=str(won["name"]), why=tuple(why),
                   caveats=tuple(caveats))


def _said(row: pd.Series[Any]) -> str:
    first = describe("ttft_s")
    text = f"{row['name']} saves {row['metrics.waiting_saved_share']:.0%} of the waiting for first tokens"
    warm, cold, reused = (float(row[f"metrics.{name}"]) for name in (
        "warm_first_token_s", "cold_first_token_s", "prompt_reused_share"))
    if not math.isnan(warm):
        text += f"; a warm request waits {first.show(warm)} ms instead of {first.show(cold)} ms"
    return text + ("." if math.isnan(reused) else f"; {reused:.0%} of prompt tokens were reused.")


def _pays(rows: pd.DataFrame) -> str:
    """The shortest prefix measured whose saving is above zero with its whole interval."""
    sweep = rows[rows["params.factor"] == "prefix_tokens"] if (rows["params.factor"] == "prefix_tokens").any() else rows
    paying = sweep[sweep["metrics.waiting_saved_share_low"] > 0].sort_values("params.prefix_tokens")
    length = f"from {paying.iloc[0]['params.prefix_tokens']:g} tokens on" if len(paying) else "at no length measured"
    return f"{str(rows['params.workload'].iloc[0]).replace('_', '-')} prefixes pay {length}."

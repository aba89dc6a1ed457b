"""What reusing cached prefixes saves: tiers and capacities of one prefix cache under the same requests."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd

from lab import data, machine, stats
from lab.engines import refuse_misfit
from lab.engines.scheduling.prefix import TieredPrefixCache
from lab.engines.scheduling.scheduler import Scheduler
from lab.engines.scheduling.state_files import DiskStates, identity
from lab.engines.scheduling.states import MemoryStates
from lab.errors import LabError
from lab.experiments import Chart, Experiment, busy, option
from lab.experiments._remote import is_remote
from lab.load.scheduled import closed_loop, warm
from lab.metrics import speed
from lab.metrics.answer import first_difference
from lab.names import describe
from lab.records import Decoding, Estimate, Generation, Question, Request, Trial, Verdict

if TYPE_CHECKING:
    from lab.engines.llama.context import Context
    from lab.engines.llama_cpp import LlamaCpp

TIERS = ("none", "cells", "memory", "disk")
SERVER = "server"
"""The tier of a server, whatever it keeps prefixes in."""
WORKLOADS = ("system", "few_shot")
MOST_SLOTS = 16
"""Entries that the cells tier can hold: sequences of the context that are kept for it."""
Work = list[tuple[Request, list[int]]]
Load = tuple[str, int, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """Settings of one trial; `factor` is what is varied in it around the first value of every list."""

    factor: str
    workload: str
    prefix_tokens: int
    reuse_rate: float
    tier: str
    capacity_mb: float

    @property
    def load(self) -> Load:
        """What decides the requests."""
        return self.workload, self.prefix_tokens, self.reuse_rate

    @property
    def measured(self) -> Point:
        """What is measured once, though several sweeps list it: no factor, and without a cache no capacity."""
        return dataclasses.replace(self, factor="", capacity_mb=0.0 if self.tier == "none" else self.capacity_mb)

    @property
    def title(self) -> str:
        words = f"{self.workload.replace('_', '-')} {self.prefix_tokens}, {self.reuse_rate:.0%} shared, {self.tier}"
        return words if self.tier in ("none", SERVER) else f"{words} {self.capacity_mb:g} MB"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptCache(Experiment):
    """Which prompt cache should this model have, and from which prefix length on does it pay?

    Requests begin with a shared prefix (one long system prompt, or few-shot examples of one of several groups) or, at
    one minus the reuse rate, with one that nobody shares, and end in a question of their own. The same requests run
    without a cache and with each tier alone, in turn within every round, each time from an empty cache, so that every warm
    request is compared with itself cold in the same round. The time to keep what later requests may use is set against
    what they save. One factor is varied at a time around the first value of every list; with `grid` every combination too.
    Over HTTP the server's own cache is the only tier, beside a server without one; nothing can empty it, so every round
    asks with prefixes of its own.
    """

    model: str = option("smollm2-135m", "catalogue name or GGUF path")
    engine: str = option("llama_cpp", "llama_cpp (in this process), server (lab serve), vllm, or the URL of a server, whose cold "
                         "requests are those with a new prefix")
    key_env: str = option("OPENAI_API_KEY", "environment variable with the key of a server given by URL")
    workloads: tuple[str, ...] = option(WORKLOADS, "system: one long system prompt; few_shot: examples, in groups")
    tiers: tuple[str, ...] = option(TIERS, "none, cells (of the running KV cache), memory, disk; no choice over HTTP")
    prefix_tokens: tuple[int, ...] = option((256, 64, 512), "lengths of the shared prefix, tokens")
    reuse_rates: tuple[float, ...] = option((0.8, 0.4), "shares of requests that begin with a shared prefix, 0 to 1")
    capacities_mb: tuple[float, ...] = option((64.0, 16.0), "capacities of the tier, MB; no choice over HTTP")
    grid: bool = option(False, "also run every other combination of the lists")
    groups: int = option(3, "shared prefixes of the few-shot workload")
    requests: int = option(12, "requests of each round of a point")
    repeats: int = option(2, "rounds; odd ones run the caches in the opposite order")
    output_tokens: int = option(8, "tokens of every answer")
    users: int = option(1, "requests in flight; with more than one, waiting is part of the time to first token")
    min_tokens: int = option(32, "shortest match that is used, and what an entry must add to what could be reused, tokens")
    flash_attention: str = option("on", "auto, on or off; it has a part in whether a cache changes answers")
    kv_type: str = option("f16", "type of the KV cache")
    threads: int = option(0, "threads; 0 is all physical cores")
    seed: int = option(0, "seed of the requests")
    limit_s: float = option(300.0, "a round of a point is cut off after this many seconds")

    columns: ClassVar[tuple[str, ...]] = (
        "ttft_s", "cold_first_token_s", "warm_first_token_s", "warm_to_cold_share", "waiting_saved_share",
        "prompt_reused_share", "break_even_tokens", "lookup_s", "restore_s", "save_s", "keep_per_request_s",
        "cache_memory_bytes", "cache_disk_bytes", "evictions", "differing_outputs")
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart(title="Time to first token by prefix length", kind="line", x="params.prefix_tokens", y="metrics.ttft_s",
              series="params.cache", where=("params.factor", "prefix_tokens")),
        Chart(title="Warm against cold by prefix length", kind="line", x="params.prefix_tokens",
              y="metrics.warm_to_cold_share", series="params.cache", where=("params.factor", "prefix_tokens")),
        Chart(title="Waiting saved by reuse rate", kind="line", x="params.reuse_rate", y="metrics.waiting_saved_share",
              series="params.cache", where=("params.factor", "reuse_rate")),
        Chart(title="Prompt tokens reused by capacity", kind="bar", x="params.capacity_mb",
              y="metrics.prompt_reused_share", series="params.cache", where=("params.factor", "capacity_mb")),
        Chart(title="What a warm start costs", kind="bar", x="params.tier", y="metrics.warm_first_token_s",
              series="params.workload", where=("params.base", "yes")),
    )

    def __post_init__(self) -> None:
        for field, known in (("workloads", WORKLOADS), ("tiers", TIERS)):
            wrong = [value for value in getattr(self, field) if value not in known]
            if wrong or not getattr(self, field):
                raise LabError(f"--{field} takes {', '.join(known)}, not '{wrong[0] if wrong else ''}'.")
        for field in ("prefix_tokens", "reuse_rates", "capacities_mb"):
            if not getattr(self, field):
                raise LabError(f"--{field.replace('_', '-')} needs at least one value.")
        if min(self.prefix_tokens) < 1 or min(self.capacities_mb) < 0:
            raise LabError("--prefix-tokens needs at least 1, and --capacities-mb nothing negative.")
        if not all(0 <= rate <= 1 for rate in self.reuse_rates):
            raise LabError("--reuse-rates are shares between 0 and 1.")
        if min(self.requests, self.repeats, self.output_tokens, self.users, self.groups, self.min_tokens) < 1:
            raise LabError("--requests, --repeats, --output-tokens, --users, --groups and --min-tokens need at least 1.")

    @classmethod
    def demo(cls, **overrides: Any) -> Self:
        short = {"workloads": ("system",), "prefix_tokens": (192,), "reuse_rates": (0.8,), "capacities_mb": (32.0,),
                 "requests": 5, "output_tokens": 4}
        return cls(**{**short, **overrides})

    def points(self) -> list[Point]:
        """Every trial, in order: without a cache first, as what the tiers are compared with."""
        lists: dict[str, tuple[float, ...]] = {
            "prefix_tokens": self.prefix_tokens, "reuse_rate": self.reuse_rates,
            "capacity_mb": (0.0,) if is_remote(self.engine) else self.capacities_mb}
        base = {name: values[0] for name, values in lists.items()}
        spots: list[tuple[str, dict[str, Any]]] = []
        for factor in [name for name, values in lists.items() if len(values) > 1] or ["prefix_tokens"]:
            spots += [(factor, {**base, factor: value}) for value in sorted(lists[factor])]
        if self.grid:
            every = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
            spots += [("grid", spot) for spot in every if spot not in [known for _, known in spots]]
        order = sorted(set(self.tiers) | {"none"}, key=TIERS.index)
        if is_remote(self.engine):
            from lab.experiments import _prompt_cache_http

            order = _prompt_cache_http.tiers(self.engine)
        return [Point(factor=factor, workload=workload, tier=tier, **spot)
                for workload in self.workloads for factor, spot in spots for tier in order]

    def size(self) -> int:
        return len(self.points())

    def check(self) -> None:
        from lab.experiments import _prompt_cache_http

        super().check()
        _prompt_cache_http.refuse_machine(self)
        if is_remote(self.engine):
            return
        with self._opened():
            pass

    def run(self) -> Iterator[Trial]:
        if is_remote(self.engine):
            from lab.experiments import _prompt_cache_http

            yield from _prompt_cache_http.trials(self)
            return
        from lab.engines.llama.context import Context

        points, done = self.points(), dict[Point, Trial]()
        with self._opened() as (engine, loads), contextlib.ExitStack() as closing:
            cell_bytes = engine.bytes_per_token(1) - engine.bytes_per_token(0)
            longest = max(len(tokens) for work in loads.values() for _, tokens in work) + self.output_tokens
            room = longest * (self.users + 1) + int(max(self.capacities_mb) * 1e6 / cell_bytes)
            context = Context(
                engine.weights, context_tokens=-(-room // 256) * 256, threads=int(engine.settings["threads"] or 1),
                sequences=self.users + MOST_SLOTS, batch_tokens=512, flash_attention=self.flash_attention, kv_type=self.kv_type)  # type: ignore[arg-type]
            closing.callback(context.close)
            warm(Scheduler(context, max_running=1), next(iter(loads.values()))[0])
            name = identity(sha256=engine.file.sha256, kv_type=self.kv_type, flash_attention=self.flash_attention,
                            version=version("llama-cpp-python"))
            for point in points:
                if point.measured not in done:
                    under = dict.fromkeys(p.measured for p in points if p.load == point.load)
                    done |= self._measured(context, list(under), loads[point.load], cell_bytes, name)
                base = (point.factor, *point.load[1:], point.capacity_mb) == (
                    points[0].factor, self.prefix_tokens[0], self.reuse_rates[0], self.capacities_mb[0])
                settings = {**engine.settings, **dataclasses.asdict(point), "context_tokens": context.context_tokens,
                            "requests": self.requests, "repeats": self.repeats, "users": self.users,
                            "min_tokens": self.min_tokens, "cache": f"{point.workload}, {point.tier}",
                            "base": "yes" if base else "no"}
                yield dataclasses.replace(done[point.measured], settings=settings, name=point.title)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[LlamaCpp, dict[Load, Work]]]:
        """The model and the requests of every load, once it is sure that all fit its context; no KV cache yet."""
        from lab.engines.llama_cpp import LlamaCpp

        engine = LlamaCpp(self.model, threads=self.threads, flash_attention=self.flash_attention, kv_type=self.kv_type)  # type: ignore[arg-type]
        try:
            text = engine.tokenize(data.text("pydoc-topics"))
            loads = {point.load: point for point in self.points()}
            works = {load: self._work(engine, text, point) for load, point in loads.items()}
            room = engine.header.context_tokens or 2**31 - 1
            for work in works.values():
                for _, tokens in work:
                    refuse_misfit(len(tokens), self.output_tokens, room)
            yield engine, works
        finally:
            engine.close()

    def _cache(self, context: Any, point: Point, cell_bytes: float, folder: Path, name: str) -> TieredPrefixCache | None:
        capacity = int(point.capacity_mb * 1e6)
        if point.tier == "cells":
            return TieredPrefixCache(context, slots=MOST_SLOTS, most_cells=max(1, int(capacity / cell_bytes)),
                                     min_tokens=self.min_tokens)
        if point.tier == "memory":
            return TieredPrefixCache(context, memory=MemoryStates(capacity), min_tokens=self.min_tokens)
        if point.tier == "disk":
            disk = DiskStates(folder, identity=name, capacity_bytes=capacity)
            return TieredPrefixCache(context, disk=disk, min_tokens=self.min_tokens)
        return None

    def _work(self, engine: LlamaCpp, text: Sequence[int], point: Point) -> Work:
        """The requests of a point: prefixes that are shared or new (of `text`, or examples), each followed by a question."""
        random = np.random.default_rng((self.seed, point.prefix_tokens, round(point.reuse_rate * 1000)))
        questions = data.questions("everyday")

        def prefix() -> list[int]:
            if point.workload == "system":
                start = int(random.integers(0, max(1, len(text) - point.prefix_tokens)))
                return list(text[start : start + point.prefix_tokens])
            examples: list[int] = []
            while len(examples) < point.prefix_tokens:
                question = questions[int(random.integers(len(questions)))]
                examples += engine.tokenize(f"{posed(question)} {question.choices[question.answer or 0]}\n\n")
            return examples[: point.prefix_tokens]

        shared = [prefix() for _ in range(1 if point.workload == "system" else self.groups)]
        if len(shared[0]) < point.prefix_tokens:
            raise LabError(f"The text gives only {len(shared[0]):,} of {point.prefix_tokens:,} prefix tokens; ask for fewer.")
        work = []
        for i in range(self.requests):
            begin = shared[int(random.integers(len(shared)))] if random.random() < point.reuse_rate else prefix()
            tokens = [*begin, *engine.tokenize("\n\n" + posed(questions[int(random.integers(len(questions)))]))]
            work.append((Request(id=str(i), tokens=tuple(tokens),
                                 decoding=Decoding(max_tokens=self.output_tokens, ignore_eos=True)), tokens))
        return work

    def _measured(
        self, context: Context, points: Sequence[Point], work: Work, cell_bytes: float, name: str
    ) -> dict[Point, Trial]:
        """All points of one load, in turn within every round; odd rounds go backwards, every pass starts empty."""
        passes: dict[Point, list[Pass]] = {point: [] for point in points}
        for i in range(self.repeats):
            for point in points if i % 2 == 0 else points[::-1]:
                with tempfile.TemporaryDirectory(prefix="lab-prefixes-") as folder:
                    cache = self._cache(context, point, cell_bytes, Path(folder), name)
                    passes[point].append(self._pass(context, cache, work, point.title))
        cold = next(those for point, those in passes.items() if point.tier == "none")
        return {point: self._trial(those, cold, cell_bytes, point.title) for point, those in passes.items()}

    def _pass(self, context: Context, cache: TieredPrefixCache | None, work: Work, title: str) -> Pass:
        context.clear()
        scheduler = Scheduler(context, cache=cache, first_slot=MOST_SLOTS, max_running=self.users)
        with machine.Watch() as watch:
            jobs = closed_loop(scheduler, work, self.users, limit_s=self.limit_s, title=title)
        made = tuple(job.generation() for job in jobs)
        if len(made) != len(work) or any(g.finish_reason == "cancelled" for g in made):
            raise LabError(f"Not all requests of '{title}' ended within {self.limit_s:g} s; raise --limit-s or ask for "
                           "fewer or shorter ones.")
        return Pass(generations=made, cache=cache, watched=watch.result, preemptions=sum(job.preemptions for job in jobs))

    def _trial(self, passes: Sequence[Pass], cold: Sequence[Pass], cell_bytes: float, title: str) -> Trial:
        made = [g for one in passes for g in one.generations]
        asked = [g.request.id for g in made]
        measures: dict[str, float | Estimate] = {
            "ttft_s": stats.clustered_percentile([speed.ttft_s(g) for g in made], asked, 50),
            "tpot_s": stats.clustered_percentile([speed.tpot_s(g) for g in made], asked, 50),
            "foreign_cpu_share": max(one.watched.foreign_share for one in passes),
            "cpu_s": sum(one.watched.cpu_s for one in passes), "wall_s": sum(one.watched.wall_s for one in passes),
        }
        notes, caches = {}, [one.cache for one in passes if one.cache is not None]
        if caches:
            before = [g for one in cold for g in one.generations]
            differing = [(g.request.id, first_difference(g.tokens, other.tokens))
                         for g, other in zip(made, before, strict=True) if g.tokens != other.tokens]
            measures |= {**saved(passes, cold), **cost(passes, cold, cell_bytes), "differing_outputs": float(len(differing))}
            if differing:
                notes["differs"] = ", ".join(f"request {i} at token {at}" for i, at in differing[:20])
            if problems := dict.fromkeys(line for cache in caches for line in cache.problems()):
                notes["caveat"] = " ".join(problems)
        return Trial(name=title, settings={}, generations=tuple(made), measures=measures, notes=notes,
                     flags=tuple(dict.fromkeys(flag for one in passes for flag in one.watched.flags())))

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        if is_remote(self.engine):
            from lab.experiments import _prompt_cache_http

            return _prompt_cache_http.verdict(self, trials)
        tried = trials[trials["params.tier"] != "none"]
        if tried.empty or tried["metrics.waiting_saved_share"].isna().all():
            return Verdict(decision="Nothing to decide: only runs without a cache; give --tiers at least one more.")
        best = [_best(rows) for _, rows in tried.groupby("params.workload", sort=False)]
        won = max(best, key=lambda row: float(row["metrics.waiting_saved_share"]))
        why = [f"{str(row['params.workload']).replace('_', '-')}: {_said(row)}" for row in best]
        why += [line for _, rows in trials.groupby("params.workload", sort=False) if (line := _pays(rows))]
        once = tried.drop_duplicates("name")
        changed, answers = int(once["metrics.differing_outputs"].fillna(0).sum()), len(once) * self.requests * self.repeats
        why.append(f"{changed} of {answers} answers had other tokens than without a cache" + (
            "; see `differs` of each trial. A possible cause, not tested here, is that the end of a prompt is read in a "
            "smaller batch when its beginning is cached, and sums can change with the batch; compare with the other "
            "--flash-attention." if changed else "."))
        caveats = []
        if "disk" in set(tried["params.tier"]):
            caveats.append("Files were read back soon after they were written: from the page cache, not from the device.")
        if not float(won.get("metrics.waiting_saved_share_low", math.nan)) > 0:
            caveats.append("The interval of that saving is not wholly above zero; ask for more --requests.")
        caveats += busy(trials)
        if float(won["metrics.waiting_saved_share"]) <= 0:
            return Verdict(decision="No cache: none of those tried saves more waiting than it costs for these requests.",
                           why=tuple(why), caveats=tuple(caveats))
        return Verdict(decision=f"Use the {won['params.tier']} tier with {won['params.capacity_mb']:g} MB ({won['name']}): "
                                f"{_said(won)}", chosen=str(won["name"]), why=tuple(why), caveats=tuple(caveats))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """All requests of a load served once, from an empty cache or without one."""

    generations: tuple[Generation, ...]
    cache: TieredPrefixCache | None
    watched: machine.Watched
    preemptions: int


def saved(passes: Sequence[Pass], cold: Sequence[Pass]) -> dict[str, float | Estimate]:
    """Time to first token of the requests that found a prefix, and of the same ones without a cache (cold).

    `waiting_saved_share` is one minus the sum of all times to first token and of the time to keep entries, over the sum
    of all times to first token without a cache. Keeping is paid once and used by whoever comes, so it is spread over all
    requests of the workload; with more than one user a part of it is in the times to first token already and counts
    twice. The interval is that of drawing requests with all their rounds. NaN below 3 requests.
    """
    now, before = (np.array([[speed.ttft_s(g) for g in one.generations] for one in those]) for those in (passes, cold))
    reused = np.array([[g.usage.cached_tokens or 0 for g in one.generations] for one in passes])
    asked = sum(g.usage.prompt_tokens or 0 for one in passes for g in one.generations)
    count = now.shape[1]
    keep_s = sum(one.cache.counts.kept_s for one in passes if one.cache) / now.size
    after, without = (now + keep_s).sum(0), before.sum(0)
    low = high = math.nan
    if count >= stats.FEWEST:
        draws = np.random.default_rng(0).integers(0, count, (2000, count))
        low, high = np.percentile(1 - after[draws].sum(1) / without[draws].sum(1), [2.5, 97.5])
    warm_ones = reused > 0
    owners = np.broadcast_to(np.arange(count), now.shape)[warm_ones].tolist()

    def middle(values: Any) -> Estimate:
        return stats.clustered_percentile(values[warm_ones], owners, 50)

    return {
        "cold_first_token_s": middle(before), "warm_first_token_s": middle(now), "warm_to_cold_share": middle(now / before),
        "waiting_saved_share": Estimate(value=float(1 - after.sum() / without.sum()), low=float(low), high=float(high)),
        "prompt_reused_share": float(reused.sum()) / asked, "warm_requests": float(warm_ones.sum()),
        "keep_per_request_s": keep_s,
    }


def cost(passes: Sequence[Pass], cold: Sequence[Pass], cell_bytes: float) -> dict[str, float | Estimate]:
    """What the cache took: seconds of its parts, and a round's bytes and entries given up.

    `break_even_tokens` is the prefill, in tokens, that could have been done in all the time the cache took, per hit: a
    shared prefix must be longer than that to pay at this reuse rate.
    """
    caches, rounds = [one.cache for one in passes if one.cache is not None], len(passes)
    counts = [cache.counts for cache in caches]
    hits, spent_s = sum(sum(c.hits.values()) for c in counts), sum(c.spent_s for c in counts)
    read = [g for one in cold for g in one.generations]
    per_token = sum(speed.ttft_s(g) for g in read) / sum(g.usage.prompt_tokens or 0 for g in read)
    memory = [c.memory.peak_bytes if c.memory else 0.0 if c.disk else c.peak_cells * cell_bytes for c in caches]
    tiers = [tier for cache in caches for tier in (cache.memory, cache.disk) if tier is not None]
    return {
        "lookup_s": stats.median([s for c in counts for s in c.lookup_s]),
        "restore_s": stats.median([s for c in counts for s in c.restore_s or c.share_s]),
        "save_s": stats.median([s for c in counts for s in c.save_s]),
        "cache_s": spent_s, "break_even_tokens": spent_s / hits / per_token if hits else math.inf,
        "cache_memory_bytes": float(max(memory)),
        "cache_disk_bytes": float(max(c.disk.peak_bytes if c.disk else 0 for c in caches)),
        "evictions": (sum(c.evictions for c in counts) + sum(tier.evictions for tier in tiers)) / rounds,
        "entries_kept": sum(c.kept for c in counts) / rounds, "preemptions": sum(one.preemptions for one in passes) / rounds,
    }


def posed(question: Question) -> str:
    return f"Question: {question.question}\nAnswer:"


def _best(rows: pd.DataFrame) -> pd.Series[Any]:
    """Of one workload the cache that saves most at the base load; within 2 points the smaller, then the faster tier."""
    base = rows[rows["params.base"] == "yes"]
    load = base.iloc[0] if len(base) else rows.iloc[0]
    same = rows[(rows["params.prefix_tokens"] == load["params.prefix_tokens"])
                & (rows["params.reuse_rate"] == load["params.reuse_rate"])]
    share = same["metrics.waiting_saved_share"].fillna(-math.inf)
    close = same[share >= share.max() - 0.02]
    order = close.assign(rank=close["params.tier"].map(TIERS.index)).sort_values(["params.capacity_mb", "rank"], kind="stable")
    return order.iloc[0]


def _said(row: pd.Series[Any]) -> str:
    first = describe("ttft_s")
    share = float(row["metrics.waiting_saved_share"])
    text = f"{row['name']} saves {share:.0%} of the waiting for first tokens, the time to keep entries taken off"
    warm, cold = row.get("metrics.warm_first_token_s", math.nan), row.get("metrics.cold_first_token_s", math.nan)
    if not math.isnan(warm):
        text += (f"; a warm request waits {first.show(warm)} ms instead of {first.show(cold)} ms, and "
                 f"{row['metrics.prompt_reused_share']:.0%} of prompt tokens were reused")
    return text + "."


def _pays(rows: pd.DataFrame) -> str:
    """Per tier the shortest prefix measured whose saving is above zero with its whole interval, and the break-even."""
    sweep = rows[rows["params.factor"] == "prefix_tokens"]
    parts = []
    for tier, those in sweep[sweep["params.tier"] != "none"].groupby("params.tier", sort=False):
        low = those.get("metrics.waiting_saved_share_low", pd.Series(math.nan, index=those.index))
        paying = those[low > 0].sort_values("params.prefix_tokens")
        even = those["metrics.break_even_tokens"].replace(math.inf, math.nan).max()
        measured = f"from {paying.iloc[0]['params.prefix_tokens']:g} tokens on" if len(paying) else "at no length measured"
        parts.append(f"{tier} {measured}" + ("" if math.isnan(even) else f" (break-even at {even:.1f} tokens or less)"))
    return f"{str(rows['params.workload'].iloc[0]).replace('_', '-')} prefixes pay: {'; '.join(parts)}." if parts else ""

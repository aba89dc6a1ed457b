"""What reusing cached prefixes saves: tiers and capacities of one prefix cache under the same requests."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from lab import data, machine, stats
from lab.engines.scheduling.job import Job
from lab.engines.scheduling.prefix import TieredPrefixCache
from lab.engines.scheduling.scheduler import Scheduler
from lab.engines.scheduling.state_files import DiskStates, identity
from lab.engines.scheduling.states import MemoryStates
from lab.errors import LabError
from lab.experiments import Chart, Experiment, option
from lab.load.scheduled import closed_loop
from lab.metrics import speed
from lab.names import describe
from lab.records import Decoding, Estimate, Generation, Question, Request, Trial, Verdict

TIERS = ("none", "cells", "memory", "disk")
WORKLOADS = ("system", "few_shot")
MOST_SLOTS = 16
"""Entries that the cells tier can hold: sequences of the context that are kept for it."""
Work = list[tuple[Request, list[int]]]


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
    def load(self) -> tuple[str, int, float]:
        """What decides the requests."""
        return self.workload, self.prefix_tokens, self.reuse_rate

    @property
    def title(self) -> str:
        words = f"{self.workload.replace('_', '-')} {self.prefix_tokens}, {self.reuse_rate:.0%} shared, {self.tier}"
        return words if self.tier == "none" else f"{words} {self.capacity_mb:g} MB"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptCache(Experiment):
    """Which prompt cache should this model have, and from which prefix length on does it pay?

    Requests begin with a shared prefix (one long system prompt, or few-shot examples of one of several groups) or, at
    one minus the reuse rate, with one that nobody shares, and end in a question of their own. The same requests run
    without a cache and with each tier alone, so that every warm request is compared with itself cold. One factor is
    varied at a time around the first value of every list; with `grid` every combination runs too.
    """

    model: str = option("smollm2-135m", "catalogue name or GGUF path")
    workloads: tuple[str, ...] = option(WORKLOADS, "system: one long system prompt; few_shot: examples, in groups")
    tiers: tuple[str, ...] = option(TIERS, "none, cells (of the running KV cache), memory, disk")
    prefix_tokens: tuple[int, ...] = option((256, 64, 512), "lengths of the shared prefix, tokens")
    reuse_rates: tuple[float, ...] = option((0.8, 0.4), "shares of requests that begin with a shared prefix, 0 to 1")
    capacities_mb: tuple[float, ...] = option((64.0, 16.0), "capacities of the tier, MB")
    grid: bool = option(False, "also run every other combination of the lists")
    groups: int = option(3, "shared prefixes of the few-shot workload")
    requests: int = option(12, "requests per point")
    output_tokens: int = option(8, "tokens of every answer")
    users: int = option(1, "requests in flight; with more than one, waiting is part of the time to first token")
    min_tokens: int = option(32, "shortest entry, and what an entry must add to what is cached, tokens")
    flash_attention: str = option("on", "auto, on or off; on makes a reused position equal to a recomputed one most closely")
    kv_type: str = option("f16", "type of the KV cache")
    threads: int = option(0, "threads; 0 is all physical cores")
    seed: int = option(0, "seed of the requests")
    limit_s: float = option(300.0, "a point is cut off after this many seconds")

    columns: ClassVar[tuple[str, ...]] = (
        "ttft_s", "cold_first_token_s", "warm_first_token_s", "warm_to_cold_share", "waiting_saved_share",
        "prompt_reused_share", "break_even_tokens", "lookup_s", "restore_s", "save_s", "cache_memory_bytes",
        "cache_disk_bytes", "evictions", "differing_outputs")
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
        if min(self.requests, self.output_tokens, self.users, self.groups, self.min_tokens) < 1:
            raise LabError("--requests, --output-tokens, --users, --groups and --min-tokens need at least 1.")

    @classmethod
    def demo(cls, **overrides: Any) -> Self:
        short = {"workloads": ("system",), "prefix_tokens": (192,), "reuse_rates": (0.8,), "capacities_mb": (32.0,),
                 "requests": 5, "output_tokens": 4}
        return cls(**{**short, **overrides})

    def points(self) -> list[Point]:
        """Every trial, in order: without a cache first, as what the tiers are compared with."""
        lists = {"prefix_tokens": self.prefix_tokens, "reuse_rate": self.reuse_rates, "capacity_mb": self.capacities_mb}
        base = {name: values[0] for name, values in lists.items()}
        spots: list[tuple[str, dict[str, Any]]] = []
        for factor in [name for name, values in lists.items() if len(values) > 1] or ["prefix_tokens"]:
            spots += [(factor, {**base, factor: value}) for value in sorted(lists[factor])]
        if self.grid:
            every = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
            spots += [("grid", spot) for spot in every if spot not in [known for _, known in spots]]
        order = sorted(set(self.tiers) | {"none"}, key=TIERS.index)
        return [Point(factor=factor, workload=workload, tier=tier, **spot)
                for workload in self.workloads for factor, spot in spots for tier in order]

    def size(self) -> int:
        return len(self.points())

    def run(self) -> Iterator[Trial]:
        from lab.engines.llama.context import Context
        from lab.engines.llama_cpp import LlamaCpp

        engine = LlamaCpp(self.model, threads=self.threads, flash_attention=self.flash_attention, kv_type=self.kv_type)  # type: ignore[arg-type]
        cell_bytes = engine.bytes_per_token(1) - engine.bytes_per_token(0)
        first = self.points()[0].factor
        loads: dict[tuple[str, int, float], Work] = {}
        cold: dict[tuple[str, int, float], list[Generation]] = {}
        done: dict[Point, Trial] = {}
        for point in self.points():
            if point.load not in loads:
                loads[point.load] = self._work(engine, point)
        longest = max(len(tokens) for work in loads.values() for _, tokens in work) + self.output_tokens
        room = longest * (self.users + 1) + int(max(self.capacities_mb) * 1e6 / cell_bytes)
        context = Context(
            engine.weights, context_tokens=-(-room // 256) * 256, threads=int(engine.settings["threads"] or 1),
            sequences=self.users + MOST_SLOTS, batch_tokens=512, flash_attention=self.flash_attention, kv_type=self.kv_type)  # type: ignore[arg-type]
        name = identity(sha256=engine.file.sha256, kv_type=self.kv_type, flash_attention=self.flash_attention,
                        version=version("llama-cpp-python"))
        try:
            _warm(context, next(iter(loads.values()))[0])
            for point in self.points():
                # The same settings under another factor are the same trial: measured once, listed in both sweeps.
                same = dataclasses.replace(point, factor="", capacity_mb=0.0 if point.tier == "none" else point.capacity_mb)
                if same not in done:
                    with tempfile.TemporaryDirectory(prefix="lab-prefixes-") as folder:
                        cache = self._cache(context, point, cell_bytes, Path(folder), name)
                        done[same] = self._trial(context, cache, loads[point.load], point, cell_bytes,
                                                 cold.setdefault(point.load, []))
                base = (point.factor, *point.load[1:], point.capacity_mb) == (
                    first, self.prefix_tokens[0], self.reuse_rates[0], self.capacities_mb[0])
                settings = {**engine.settings, **dataclasses.asdict(point), "context_tokens": context.context_tokens,
                            "requests": self.requests, "users": self.users, "min_tokens": self.min_tokens,
                            "cache": f"{point.workload}, {point.tier}", "base": "yes" if base else "no"}
                yield dataclasses.replace(done[same], settings=settings, name=point.title)
        finally:
            context.close()
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

    def _work(self, engine: Any, point: Point) -> Work:
        """The requests of a point: prefixes that are shared or new, each followed by a question."""
        random = np.random.default_rng((self.seed, point.prefix_tokens, round(point.reuse_rate * 1000)))
        questions = data.questions("everyday")
        texts = engine.tokenize(data.text("pydoc-topics"))

        def prefix() -> list[int]:
            if point.workload == "system":
                start = int(random.integers(0, max(1, len(texts) - point.prefix_tokens)))
                return list(texts[start : start + point.prefix_tokens])
            examples: list[int] = []
            while len(examples) < point.prefix_tokens:
                question = questions[int(random.integers(len(questions)))]
                examples += engine.tokenize(f"{_asked(question)} {question.choices[question.answer or 0]}\n\n")
            return examples[: point.prefix_tokens]

        shared = [prefix() for _ in range(1 if point.workload == "system" else self.groups)]
        if len(shared[0]) < point.prefix_tokens:
            raise LabError(f"The text gives only {len(shared[0]):,} of {point.prefix_tokens:,} prefix tokens; ask for fewer.")
        work = []
        for i in range(self.requests):
            begin = shared[int(random.integers(len(shared)))] if random.random() < point.reuse_rate else prefix()
            tokens = [*begin, *engine.tokenize("\n\n" + _asked(questions[int(random.integers(len(questions)))]))]
            work.append((Request(id=str(i), tokens=tuple(tokens),
                                 decoding=Decoding(max_tokens=self.output_tokens, ignore_eos=True)), tokens))
        return work

    def _trial(
        self, context: Any, cache: TieredPrefixCache | None, work: Work, point: Point, cell_bytes: float,
        cold: list[Generation],
    ) -> Trial:
        context.clear()
        scheduler = Scheduler(context, cache=cache, first_slot=MOST_SLOTS, max_running=self.users)
        with machine.Watch() as watch:
            jobs = closed_loop(scheduler, work, self.users, limit_s=self.limit_s, title=point.title)
        made = [job.generation() for job in jobs]
        if cache is None:
            cold += made
        if len(cold) != len(made) or any(g.finish_reason == "cancelled" for g in made):
            raise LabError(f"Not all requests of '{point.title}' ended within {self.limit_s:g} s; raise --limit-s or ask for "
                           "fewer or shorter ones.")
        differing = [g.request.id for g, before in zip(made, cold, strict=True) if g.tokens != before.tokens]
        measures: dict[str, float | Estimate] = {
            "ttft_s": stats.median([speed.ttft_s(g) for g in made]), "tpot_s": stats.median([speed.tpot_s(g) for g in made]),
            "foreign_cpu_share": watch.result.foreign_share, "cpu_s": watch.result.cpu_s, "wall_s": watch.result.wall_s,
        }
        if cache is not None:
            measures |= {**saved(made, cold), **cost(cache, cell_bytes, jobs, cold), "differing_outputs": float(len(differing))}
        notes = {"differs": f"requests {', '.join(differing)}"} if differing else {}
        problems = tuple(cache.problems()) if cache else ()
        if problems:
            notes["caveat"] = " ".join(problems)
        return Trial(name=point.title, settings={}, generations=tuple(made), measures=measures,
                     flags=watch.result.flags(), notes=notes)

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        tried = trials[trials["params.tier"] != "none"]
        if tried.empty or tried["metrics.waiting_saved_share"].isna().all():
            return Verdict(decision="Nothing to decide: only runs without a cache; give --tiers at least one more.")
        best = [_best(rows) for _, rows in tried.groupby("params.workload", sort=False)]
        won = max(best, key=lambda row: float(row["metrics.waiting_saved_share"]))
        why = [f"{str(row['params.workload']).replace('_', '-')}: {_said(row)}" for row in best]
        why += [line for _, rows in trials.groupby("params.workload", sort=False) if (line := _pays(rows))]
        once = tried.drop_duplicates("name")
        changed = int(once["metrics.differing_outputs"].fillna(0).sum())
        reason = ": the suffix was summed up in a batch of another size; see `differs` of each trial." if changed else "."
        why.append(f"{changed} of {len(once) * self.requests} answers had other tokens than without a cache{reason}")
        caveats = []
        if "disk" in set(tried["params.tier"]):
            caveats.append("Files were read back soon after they were written: from the page cache, not from the device.")
        if flagged := int((trials.get("tags.lab.flags", pd.Series("", index=trials.index)).fillna("") != "").sum()):
            caveats.append(f"{flagged} of {len(trials)} points were measured on a busy machine.")
        if float(won["metrics.waiting_saved_share"]) <= 0:
            return Verdict(decision="No cache: none of those tried saves any waiting for these requests.", why=tuple(why),
                           caveats=tuple(caveats))
        return Verdict(decision=f"Use the {won['params.tier']} tier with {won['params.capacity_mb']:g} MB ({won['name']}): "
                                f"{_said(won)}", chosen=str(won["name"]), why=tuple(why), caveats=tuple(caveats))


def saved(made: Sequence[Generation], cold: Sequence[Generation]) -> dict[str, float | Estimate]:
    """Time to first token of the requests that found a prefix, and of the same ones without a cache (cold).

    `waiting_saved_share` is one minus the sum of all times to first token over the same sum without a cache, with the
    interval of resampled requests.
    """
    now, before = (np.array([speed.ttft_s(g) for g in those]) for those in (made, cold))
    warm = [i for i, g in enumerate(made) if g.usage.cached_tokens]
    asked = sum(g.usage.prompt_tokens or 0 for g in made)
    draws = np.random.default_rng(0).integers(0, len(made), (2000, len(made)))  # requests, drawn with both their times
    low, high = np.percentile(1 - now[draws].sum(1) / before[draws].sum(1), [2.5, 97.5])
    return {
        "cold_first_token_s": stats.median(before[warm]), "warm_first_token_s": stats.median(now[warm]),
        "warm_to_cold_share": stats.median(now[warm] / before[warm]),
        "waiting_saved_share": Estimate(value=float(1 - now.sum() / before.sum()), low=float(low), high=float(high)),
        "prompt_reused_share": sum(g.usage.cached_tokens or 0 for g in made) / asked, "warm_requests": float(len(warm)),
    }


def cost(
    cache: TieredPrefixCache, cell_bytes: float, jobs: Sequence[Job], cold: Sequence[Generation]
) -> dict[str, float | Estimate]:
    """What the cache took: seconds of its parts, bytes, entries given up.

    `break_even_tokens` is the prefill, in tokens, that could have been done in all the time the cache took, per hit: a
    shared prefix must be longer than that to pay at this reuse rate.
    """
    counts, hits = cache.counts, sum(cache.counts.hits.values())
    per_token = sum(speed.ttft_s(g) for g in cold) / sum(g.usage.prompt_tokens or 0 for g in cold)
    restored = counts.restore_s or counts.share_s
    tiers = [tier for tier in (cache.memory, cache.disk) if tier is not None]
    return {
        "lookup_s": stats.median(counts.lookup_s), "restore_s": stats.median(restored), "save_s": stats.median(counts.save_s),
        "cache_s": counts.spent_s, "break_even_tokens": counts.spent_s / hits / per_token if hits else math.inf,
        "cache_memory_bytes": cache.peak_cells * cell_bytes * bool(not tiers) + (cache.memory.peak_bytes if cache.memory else 0),
        "cache_disk_bytes": float(cache.disk.peak_bytes) if cache.disk else 0.0,
        "evictions": float(counts.evictions + sum(tier.evictions for tier in tiers)), "entries_kept": float(counts.kept),
        "preemptions": float(sum(job.preemptions for job in jobs)),
    }


def _warm(context: Any, one: tuple[Request, list[int]]) -> None:
    scheduler = Scheduler(context, max_running=1)
    scheduler.submit(*one)
    while not scheduler.idle:
        scheduler.step()


def _asked(question: Question) -> str:
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
    text = f"{row['name']} saves {share:.0%} of the waiting for first tokens"
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

"""How batching trades latency for throughput: policies of one scheduler under the same load."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from lab import data, machine, stats
from lab.engines import Flash
from lab.engines.scheduling.job import Job
from lab.engines.scheduling.scheduler import Scheduler
from lab.errors import LabError
from lab.experiments import Chart, Experiment, option
from lab.load import arrivals
from lab.load.scheduled import closed_loop, open_loop
from lab.metrics import answer, speed
from lab.names import describe
from lab.records import Decoding, Estimate, Generation, Question, Request, Score, Trial, Verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batching(Experiment):
    """How many requests at once should this model serve, and by which batching policy?

    The same requests are served by one step loop under each policy: one at a time, static batches (the next batch starts
    when the last sequence of the current one ended) and continuous batching. Half of them are questions with a checkable
    answer, half continuations of very different lengths. Latencies count from the scheduled arrival.
    """

    model: str = option("smollm2-135m", "catalogue name or GGUF path")
    policies: tuple[str, ...] = option(("sequential", "static", "continuous"), "batching policies of the step loop")
    concurrency: tuple[int, ...] = option((1, 4, 8, 16, 32), "sequences in a batch at most; users of a closed loop")
    arrivals: str = option("closed", "arrival process: closed, constant, poisson, gamma or replay")
    rates: tuple[float, ...] = option((1.0, 2.0, 4.0), "arrivals per second, for open arrivals")
    cv: float = option(2.0, "coefficient of variation of gamma gaps (1 is Poisson)")
    schedule: str = option("", "file for replayed arrivals: a JSON list of seconds")
    requests: int = option(48, "requests per point")
    prompt_tokens: int = option(96, "longest prompt of a continuation, tokens; lengths are drawn from a quarter of it up")
    output_tokens: int = option(96, "longest continuation, tokens; lengths are drawn log-uniformly from 4 up")
    context_tokens: int = option(8192, "KV cells of all sequences together; too few of a pool make the scheduler preempt")
    kv_cache: str = option("separate", "separate: an equal part for every sequence; unified: one pool that all share")
    token_budget: int = option(512, "tokens of one step; prefill is cut to what decoding leaves of it")
    flash_attention: Flash = option("auto", "auto, on or off")
    kv_type: str = option("f16", "type of the KV cache")
    threads: int = option(0, "threads; 0 is all physical cores")
    ttft_ms: float = option(2000.0, "limit: time to first token from scheduled arrival, ms")
    tpot_ms: float = option(100.0, "limit: time per output token, ms")
    questions: str = option("everyday", "multiple-choice set whose answers are checked")
    seed: int = option(0, "seed of lengths and arrivals")
    limit_s: float = option(300.0, "a point is cut off after this many seconds; what did not end counts as a miss")

    columns: ClassVar[tuple[str, ...]] = (
        "output_tokens_per_s", "requests_per_s", "goodput_requests_per_s", "quality_goodput_requests_per_s",
        "ttft_s", "ttft_p95_s", "ttft_p99_s", "itl_p50_s", "itl_p95_s", "itl_p99_s", "e2e_p50_s", "e2e_p95_s", "e2e_p99_s",
        "queue_p95_s", "occupancy_share", "kv_use_share", "preemptions", "overhead_share", "answered_share",
        "differing_sequences")
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart(title="Throughput against latency", kind="tradeoff", x="metrics.output_tokens_per_s", y="metrics.ttft_p95_s",
              label="name", series="params.policy"),
        Chart(title="Throughput by concurrency", kind="line", x="params.load", y="metrics.output_tokens_per_s",
              series="params.policy"),
        Chart(title="Inter-token gap p99 by concurrency", kind="line", x="params.load", y="metrics.itl_p99_s",
              series="params.policy"),
        Chart(title="Requests per second within the limits", kind="line", x="params.load",
              y="metrics.goodput_requests_per_s", series="params.policy"),
        Chart(title="Requests per second within the limits and right", kind="line", x="params.load",
              y="metrics.quality_goodput_requests_per_s", series="params.policy"),
    )

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise LabError(f"--requests needs at least 1, not {self.requests}.")
        if not self.policies or not self.concurrency or min(self.concurrency) < 1:
            raise LabError("--policies and --concurrency need at least one value, and concurrency at least 1.")
        if wrong := [p for p in self.policies if p not in ("sequential", "static", "continuous")]:
            raise LabError(f"There is no batching policy '{wrong[0]}'; choose sequential, static or continuous.")
        if min(self.ttft_ms, self.tpot_ms, self.limit_s, self.context_tokens, self.token_budget) <= 0 or self.threads < 0:
            raise LabError("--ttft-ms, --tpot-ms, --limit-s, --context-tokens and --token-budget are above 0, --threads is not "
                           "negative.")
        if self.kv_cache not in ("separate", "unified"):
            raise LabError(f"--kv-cache is separate or unified, not '{self.kv_cache}'.")
        if self.prompt_tokens < 4 or self.output_tokens < 4:
            raise LabError("--prompt-tokens and --output-tokens need at least 4.")
        if self.arrivals != "closed":
            for rate in self.rates or (0.0,):
                arrivals.schedule(self.arrivals, count=1, rate=rate, cv=self.cv, file=self.schedule)

    @classmethod
    def demo(cls, **overrides: Any) -> Self:
        short = {"concurrency": (1, 8), "requests": 12, "prompt_tokens": 48, "output_tokens": 32}
        return cls(**{**short, **overrides})

    def points(self) -> list[tuple[str, int, float]]:
        """(policy, concurrency, rate) of every trial; rate 0 is the closed loop. One at a time knows no concurrency."""
        rates = (0.0,) if self.arrivals == "closed" else ((1.0,) if self.arrivals == "replay" else self.rates)
        found = []
        for policy in self.policies:
            for users in (1,) if policy == "sequential" else self.concurrency:
                found += [(policy, users, rate) for rate in rates]
        return found

    def size(self) -> int:
        return len(self.points())

    def run(self) -> Iterator[Trial]:
        from lab.engines.llama.context import Context
        from lab.engines.llama_cpp import LlamaCpp

        engine = LlamaCpp(self.model, threads=self.threads, flash_attention=self.flash_attention, kv_type=self.kv_type)
        context = Context(
            engine.weights, context_tokens=self.context_tokens, threads=int(engine.settings["threads"] or 1),
            sequences=max(self.concurrency), batch_tokens=max(512, self.token_budget),
            flash_attention=self.flash_attention, kv_type=self.kv_type, unified=self.kv_cache == "unified")
        try:
            work, asked = self._work(engine)
            alone: dict[str, tuple[int, ...]] = {}
            for policy, users, rate in self.points():
                scheduler = Scheduler(context, policy=policy, max_running=users, token_budget=self.token_budget)  # type: ignore[arg-type]
                trial = self._trial(scheduler, work, asked, policy, users, rate, alone)
                if policy == "sequential" and not alone:
                    alone = {g.request.id: g.tokens for g in trial.generations}
                yield dataclasses.replace(trial, settings={
                    **engine.settings, "context_tokens": self.context_tokens, "kv_cache": self.kv_cache, **trial.settings})
                context.clear()
        finally:
            context.close()
            engine.close()

    def _work(self, engine: Any) -> tuple[list[tuple[Request, list[int]]], dict[str, Question]]:
        random = np.random.default_rng(self.seed)
        questions = data.questions(self.questions, limit=(self.requests + 1) // 2, seed=self.seed)
        tokens = engine.tokenize(data.text("pydoc-topics"))
        work, asked = [], {}
        for i in range(self.requests):
            if i % 2 == 0 and questions:
                question = questions[(i // 2) % len(questions)]
                request = Request(id=str(i), prompt=_ask(question), decoding=Decoding(max_tokens=16, stop=("\n",)))
                asked[str(i)] = question
            else:
                length = int(random.integers(max(1, self.prompt_tokens // 4), self.prompt_tokens + 1))
                start = int(random.integers(0, max(1, len(tokens) - length)))
                output = round(math.exp(random.uniform(math.log(4), math.log(self.output_tokens))))
                request = Request(id=str(i), tokens=tuple(tokens[start : start + length]),
                                  decoding=Decoding(max_tokens=output, ignore_eos=True))
            work.append((request, engine.prompt_tokens(request)))
        return work, asked

    def _trial(
        self, scheduler: Scheduler, work: Sequence[tuple[Request, list[int]]], asked: dict[str, Question],
        policy: str, users: int, rate: float, alone: dict[str, tuple[int, ...]],
    ) -> Trial:
        title = f"{policy} {users}" + (f" at {rate:g}/s" if rate else "")
        _warm(scheduler, work[0])
        with machine.Watch() as watch:
            started = scheduler.core.now()
            if rate:
                times = arrivals.schedule(self.arrivals, count=len(work), rate=rate, cv=self.cv, seed=self.seed,
                                          file=self.schedule)
                jobs = open_loop(scheduler, work[: len(times)], times, limit_s=self.limit_s, title=title)
            else:
                jobs = closed_loop(scheduler, work, users, limit_s=self.limit_s, title=title)
            seconds = scheduler.core.now() - started
        generations = tuple(job.generation() for job in jobs)
        scores = [answer.correct(asked[g.request.id], g) for g in generations if g.request.id in asked]
        measures = {
            **served(generations, seconds, self.ttft_ms / 1e3, self.tpot_ms / 1e3, scores), **used(scheduler, jobs),
            "foreign_cpu_share": watch.result.foreign_share, "cpu_s": watch.result.cpu_s, "wall_s": watch.result.wall_s,
            "peak_memory_bytes": watch.result.peak_rss_bytes,
        }
        notes = {}
        if alone:
            differing = [(g.request.id, _first_difference(g.tokens, alone[g.request.id])) for g in generations
                         if g.finish_reason != "cancelled" and g.tokens != alone.get(g.request.id, g.tokens)]
            measures["differing_sequences"] = float(len(differing))
            notes = {"differs": ", ".join(f"request {i} at token {at}" for i, at in differing[:20])} if differing else {}
        settings: dict[str, Any] = {"policy": policy, "concurrency": users, "rate": rate, "arrivals": self.arrivals,
                    "load": rate or users, "requests": len(generations)}
        return Trial(name=title, settings=settings, generations=generations, scores=tuple(scores), measures=measures,
                     flags=watch.result.flags(), notes=notes)

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        limits = f"TTFT {self.ttft_ms:g} ms and TPOT {self.tpot_ms:g} ms"
        good = trials["metrics.goodput_requests_per_s"].fillna(0)
        why = [_against(trials)] if _against(trials) else []
        if "metrics.differing_sequences" in trials and (changed := trials["metrics.differing_sequences"].fillna(0).max()):
            why.append(f"Up to {changed:.0f} requests answered other tokens in a batch than alone: the order of floating-"
                       "point sums changes with the batch. See `differs` of each trial for where.")
        flagged = int((trials.get("tags.lab.flags", pd.Series("", index=trials.index)).fillna("") != "").sum())
        caveats = (f"{flagged} of {len(trials)} points were measured on a busy machine.",) if flagged else ()
        if good.max() <= 0:
            return Verdict(decision=f"No point serves any request within {limits}.", why=tuple(why), caveats=caveats)
        best = trials.loc[good.idxmax()]
        quality = best.get("metrics.quality_goodput_requests_per_s", math.nan)
        also = "" if math.isnan(quality) else f"; {quality:.2f} questions/s were within them and answered right"
        return Verdict(
            decision=f"Highest rate within {limits}: {best['name']} with {good.max():.2f} requests/s{also}.",
            chosen=str(best["name"]), why=(*why, _knee(trials, str(best["params.policy"]))), caveats=caveats)


def served(
    generations: Sequence[Generation], seconds: float, ttft_limit_s: float, tpot_limit_s: float, scores: Sequence[Score]
) -> dict[str, float | Estimate]:
    """What the users saw: latencies from scheduled arrival, rates over `seconds`, goodput with and without quality.

    A request that did not end in time is a miss, with infinite latency. Quality-conditioned goodput counts, per second,
    the requests with a checkable answer that met both limits and answered right.
    """
    ended = [g for g in generations if g.finish_reason in ("stop", "length")]
    late = len(generations) - len(ended)
    ttft = [speed.ttft_s(g, since="scheduled") for g in ended] + [math.inf] * late
    e2e = [speed.e2e_s(g, since="scheduled") for g in ended] + [math.inf] * late
    queue = [g.started_s - g.scheduled_s for g in ended if g.started_s is not None and g.scheduled_s is not None]
    gaps = [gap for g in ended for gap in speed.itl_s(g)]
    met = {g.request.id for g in ended if speed.meets(g, ttft_limit_s=ttft_limit_s, tpot_limit_s=tpot_limit_s)}
    right = [s for s in scores if s.value == 1 and s.item in met]
    summary: dict[str, float | Estimate] = {
        "ttft_s": stats.median(ttft), "tpot_s": stats.median([speed.tpot_s(g) for g in ended]),
        "output_tokens_per_s": sum(len(g.tokens) for g in generations) / seconds,
        "requests_per_s": len(ended) / seconds, "goodput_requests_per_s": len(met) / seconds,
        "unfinished_requests": float(late),
    }
    for name, values in (("ttft", ttft), ("e2e", e2e), ("itl", gaps), ("queue", queue)):
        summary |= {f"{name}_p{q}_s": stats.percentile(values, q) for q in (50, 95, 99)}
    if scores:
        known = [s for s in scores if s.scored]
        summary["quality_goodput_requests_per_s"] = len(right) / seconds
        summary["answered_share"] = stats.proportion(int(sum(s.value for s in known)), len(known)) if known else math.nan
    return summary


def used(scheduler: Scheduler, jobs: Sequence[Job]) -> dict[str, float | Estimate]:
    """How the scheduler was used: batch occupancy and KV use (means over time), preemptions, own share of step time."""
    steps = scheduler.steps
    weight = np.array([s.engine_s + s.overhead_s for s in steps])
    engine = sum(s.engine_s for s in steps)
    over = sum(s.overhead_s for s in steps)

    def mean(values: list[float]) -> float:
        return float(np.average(values, weights=weight)) if len(values) and weight.sum() > 0 else math.nan

    return {
        "occupancy_share": mean([s.running / scheduler.max_running for s in steps]),
        "kv_use_share": mean([s.cells / scheduler.core.context_tokens for s in steps]),
        "preemptions": float(sum(job.preemptions for job in jobs)),
        "overhead_share": over / (engine + over) if engine else math.nan,
        "steps": float(len(steps)),
    }


def _warm(scheduler: Scheduler, one: tuple[Request, list[int]]) -> None:
    scheduler.submit(*one)
    while not scheduler.idle:
        scheduler.step()
    scheduler.steps.clear()


def _ask(question: Question) -> str:
    options = "\n".join(f"- {choice}" for choice in question.choices)
    return f"Question: {question.question}\nOptions:\n{options}\nAnswer:"


def _first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _against(trials: pd.DataFrame) -> str:
    """Continuous against static at the same load, where both ran."""
    parts = []
    for load, rows in trials.groupby("params.load"):
        by = {str(r["params.policy"]): r for _, r in rows.iterrows()}
        if {"static", "continuous"} <= set(by) and by["static"]["metrics.requests_per_s"] > 0:
            ratio = by["continuous"]["metrics.requests_per_s"] / by["static"]["metrics.requests_per_s"]
            parts.append(f"{ratio:.2f}x at {load:g}")
    return f"Continuous against static batching, requests/s: {', '.join(parts)}." if parts else ""


def _knee(trials: pd.DataFrame, policy: str) -> str:
    """The load beyond which throughput grows by less than a tenth while TTFT p95 grows by more."""
    rows = trials[trials["params.policy"] == policy].sort_values("params.load")
    name = describe("ttft_p95_s")
    for (_, a), (_, b) in zip(rows.iterrows(), list(rows.iterrows())[1:], strict=False):
        gain = b["metrics.output_tokens_per_s"] / a["metrics.output_tokens_per_s"]
        if gain < 1.1 and b["metrics.ttft_p95_s"] > 1.1 * a["metrics.ttft_p95_s"]:
            later, before = name.show(b["metrics.ttft_p95_s"]), name.show(a["metrics.ttft_p95_s"])
            return (f"The knee of {policy} batching is at {a['params.load']:g}: more load gives {gain - 1:+.0%} throughput and "
                    f"a TTFT p95 of {later} instead of {before} {name.unit}.")
    return f"No knee of {policy} batching within the loads measured."

"""How batching trades latency for throughput: policies of one scheduler under the same load."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import pandas as pd

from lab import machine
from lab.engines import Engine, Flash
from lab.engines.scheduling.scheduler import Scheduler, Step
from lab.errors import LabError
from lab.experiments import Chart, Experiment, busy, option
from lab.experiments._observed import failures, worst
from lab.experiments._remote import is_remote, over_http
from lab.experiments._workload import mixture
from lab.load import arrivals
from lab.load.services import InProcess, Service
from lab.metrics import answer, service, speed
from lab.names import describe
from lab.records import Estimate, Generation, Question, Request, Trial, Verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batching(Experiment):
    """How many requests at once should this model serve, and by which batching policy?

    The same requests are served by one step loop under each policy: one at a time, static batches (the next batch starts
    when the last sequence of the current one ended) and continuous batching. Half of them are questions with a checkable
    answer, half continuations of very different lengths. Latencies count from the scheduled arrival. Policies under the
    same load are measured in turn, forwards and backwards, so that a machine that drifts favours none of them.
    """

    model: str = option("smollm2-135m", "catalogue name or GGUF path")
    engine: str = option("llama_cpp", "llama_cpp (in this process), server (lab serve), vllm, or the URL of a server; over HTTP "
                         "the server's own policy takes the place of 'continuous', and 'static' is left out")
    key_env: str = option("OPENAI_API_KEY", "environment variable with the key of a server given by URL")
    policies: tuple[str, ...] = option(("sequential", "static", "continuous"), "batching policies of the step loop")
    concurrency: tuple[int, ...] = option((1, 4, 8, 16, 32), "sequences in a batch at most; users of a closed loop")
    arrivals: str = option("closed", "arrival process: closed, constant, poisson, gamma or replay")
    rates: tuple[float, ...] = option((1.0, 2.0, 4.0), "arrivals per second, for open arrivals")
    cv: float = option(2.0, "coefficient of variation of gamma gaps (1 is Poisson)")
    schedule: str = option("", "file for replayed arrivals: a JSON list of seconds")
    requests: int = option(32, "requests of each pass over a point")
    repeats: int = option(2, "passes over every point")
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
    attainment: float = option(0.9, "share of the requests that must meet both limits before a point can be recommended")
    questions: str = option("everyday", "multiple-choice set whose answers are checked")
    seed: int = option(0, "seed of lengths and arrivals")
    limit_s: float = option(300.0, "a pass is cut off after this many seconds; what did not end counts as a miss")

    columns: ClassVar[tuple[str, ...]] = (
        "output_tokens_per_s", "requests_per_s", "goodput_requests_per_s", "attainment_share", "quality_goodput_requests_per_s",
        "ttft_s", "ttft_p95_s", "ttft_p99_s", "itl_p50_s", "itl_p95_s", "itl_p99_s", "e2e_p50_s", "e2e_p95_s", "e2e_p99_s",
        "queue_p95_s", "occupancy_share", "kv_use_share", "preemptions", "overhead_share", "answered_share",
        "compared_sequences", "differing_sequences")
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart(title="Throughput against latency", kind="tradeoff", x="metrics.output_tokens_per_s", y="metrics.ttft_p95_s",
              label="name", series="params.arm"),
        Chart(title="Throughput by load", kind="line", x="params.load", y="metrics.output_tokens_per_s", series="params.arm"),
        Chart(title="Time to first token p95 by load", kind="line", x="params.load", y="metrics.ttft_p95_s",
              series="params.arm"),
        Chart(title="Inter-token gap p99 by load", kind="line", x="params.load", y="metrics.itl_p99_s", series="params.arm"),
        Chart(title="Requests per second within the limits", kind="line", x="params.load",
              y="metrics.goodput_requests_per_s", series="params.arm"),
        Chart(title="Requests per second within the limits and right", kind="line", x="params.load",
              y="metrics.quality_goodput_requests_per_s", series="params.arm"),
    )

    def __post_init__(self) -> None:
        if self.requests < 1 or self.repeats < 1:
            raise LabError(f"--requests and --repeats need at least 1, not {self.requests} and {self.repeats}.")
        if not 0 <= self.attainment <= 1:
            raise LabError(f"--attainment is a share from 0 to 1, not {self.attainment:g}.")
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
        short = {"concurrency": (1, 8), "requests": 12, "repeats": 1, "prompt_tokens": 48, "output_tokens": 32}
        return cls(**{**short, **overrides})

    def loads(self) -> list[list[Point]]:
        """Every point, those under the same load together. One at a time knows no concurrency."""
        rates = (0.0,) if self.arrivals == "closed" else ((1.0,) if self.arrivals == "replay" else self.rates)
        remote, concurrency = is_remote(self.engine), self.concurrency
        policies = [p for p in self.policies if not (remote and p == "static")]
        if remote and self.arrivals != "closed":  # how many run at once is the server's setting, made when it starts
            policies, concurrency = ["continuous"], (max(self.concurrency),)
        several = len(set(concurrency)) > 1
        found: dict[tuple[float, int], list[Point]] = {}
        for rate in rates:
            for policy in policies:
                for users in (1,) if policy == "sequential" else concurrency:
                    # In an open loop the load is the rate, and all that serve it are compared with each other.
                    arm = policy if not rate or policy == "sequential" or not several else f"{policy}, {users} at most"
                    point = Point(policy=policy, users=users, rate=rate, arm=arm)
                    found.setdefault((rate, 0 if rate else users), []).append(point)
        return list(found.values())

    def size(self) -> int:
        return sum(map(len, self.loads()))

    def run(self) -> Iterator[Trial]:
        with contextlib.ExitStack() as closing:
            engine, serve = self._remote(closing) if is_remote(self.engine) else self._here(closing)
            work, asked = mixture(engine, requests=self.requests, prompt_tokens=self.prompt_tokens,
                                  output_tokens=self.output_tokens, questions=self.questions, seed=self.seed)
            serve(work[:1], Point(policy="sequential", users=1, rate=0.0, arm="warm-up"))
            lone = serve(work, Point(policy="sequential", users=1, rate=0.0, arm="alone"))
            alone = {g.request.id: g for g in lone.generations if g.finish_reason in ("stop", "length")}
            for points in self.loads():
                passes: dict[Point, list[Pass]] = {point: [] for point in points}
                for repeat in range(self.repeats):
                    for point in points[:: -1 if repeat % 2 else 1]:
                        passes[point].append(serve(work, point))
                for point, made in passes.items():
                    trial = self._trial(point, made, asked, alone)
                    yield dataclasses.replace(trial, settings={**engine.settings, **trial.settings})

    def _here(self, closing: contextlib.ExitStack) -> tuple[Engine, Serve]:
        """The step loop of this process."""
        from lab.engines.llama.context import Context
        from lab.engines.llama_cpp import LlamaCpp

        engine = LlamaCpp(self.model, threads=self.threads, flash_attention=self.flash_attention, kv_type=self.kv_type)
        closing.callback(engine.close)
        context = Context(
            engine.weights, context_tokens=self.context_tokens, threads=int(engine.settings["threads"] or 1),
            sequences=max(self.concurrency), batch_tokens=max(512, self.token_budget),
            flash_attention=self.flash_attention, kv_type=self.kv_type, unified=self.kv_cache == "unified")
        closing.callback(context.close)
        engine.settings = {**engine.settings, "context_tokens": context.context_tokens, "kv_cache": self.kv_cache}

        def serve(requests: Sequence[Request], point: Point) -> Pass:
            context.clear()
            scheduler = Scheduler(context, policy=point.policy, max_running=point.users, token_budget=self.token_budget)  # type: ignore[arg-type]
            done = self._pass(InProcess(engine=engine, fresh=lambda: scheduler), requests, point)
            return dataclasses.replace(done, steps=tuple(scheduler.steps), preemptions=scheduler.preemptions,
                                       max_running=scheduler.max_running, cells=context.context_tokens)

        return engine, serve

    def _remote(self, closing: contextlib.ExitStack) -> tuple[Engine, Serve]:
        """A server, which batches by its own policy."""
        engine, remote = over_http(
            self.engine, self.model, key_env=self.key_env, room=self.context_tokens // max(self.concurrency),
            max_running=max(self.concurrency), threads=self.threads, flash_attention=self.flash_attention,
            prefix_cache=False, closing=closing)
        return engine, functools.partial(self._pass, remote)

    def _pass(self, served_by: Service, requests: Sequence[Request], point: Point) -> Pass:
        times = self._times(point, len(requests))
        with machine.Watch() as watch:
            served = served_by.serve(requests, times=times, users=point.users, limit_s=self.limit_s, title=point.name)
        return Pass(generations=served.generations, seconds=served.seconds, watched=watch.result, measures=served.measures,
                    notes=served.notes, flags=served.flags)

    def _times(self, point: Point, count: int) -> list[float] | None:
        if not point.rate or count < self.requests:
            return None
        return arrivals.schedule(self.arrivals, count=count, rate=point.rate, cv=self.cv, seed=self.seed, file=self.schedule)

    def _trial(
        self, point: Point, passes: Sequence[Pass], asked: dict[str, Question], alone: dict[str, Generation]
    ) -> Trial:
        generations = tuple(g for one in passes for g in one.generations)
        seconds = sum(one.seconds for one in passes)
        scores = [answer.correct(asked[g.request.id], g) if g.request.id in asked else None for g in generations]
        compared = [g for g in generations if g.finish_reason in ("stop", "length") and g.request.id in alone]
        differing = [(g.request.id, answer.first_difference(g.tokens, alone[g.request.id].tokens)) for g in compared
                     if (g.tokens, g.text) != (alone[g.request.id].tokens, alone[g.request.id].text)]
        measures = {
            **service.served(generations, seconds, scores, ttft_limit_s=self.ttft_ms / 1e3, tpot_limit_s=self.tpot_ms / 1e3),
            **used(passes), **worst(one.measures for one in passes),
            "failed_requests": float(sum(map(speed.failed, generations))),
            "compared_sequences": float(len(compared)), "differing_sequences": float(len(differing)),
            "foreign_cpu_share": max(one.watched.foreign_share for one in passes),
            "cpu_s": sum(one.watched.cpu_s for one in passes), "wall_s": sum(one.watched.wall_s for one in passes),
            "peak_memory_bytes": max(one.watched.peak_rss_bytes for one in passes),
        }
        first = dict(sorted(differing)[:20])
        notes = {**passes[-1].notes, **failures(generations)}
        notes |= {"differs": ", ".join(f"request {i} at token {at}" for i, at in first.items())} if first else {}
        settings: dict[str, Any] = {
            "engine": self.engine, "policy": point.policy, "concurrency": point.users, "rate": point.rate,
            "arrivals": self.arrivals, "load": point.load, "arm": point.arm, "requests": len(generations), "repeats": len(passes)}
        return Trial(name=point.name, settings=settings, generations=generations,
                     scores=tuple(s for s in scores if s), measures=measures, flags=flags(passes), notes=notes)

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        limits = f"TTFT {self.ttft_ms:g} ms and TPOT {self.tpot_ms:g} ms"
        why = [line for line in (against(trials), *knees(trials), changed(trials)) if line]
        caveats = busy(trials)
        share = trials["metrics.attainment_share"].fillna(0)
        good = trials["metrics.goodput_requests_per_s"].fillna(0).where((share >= self.attainment) & (share > 0))
        if good.isna().all():
            near = trials.loc[share.idxmax()]
            return Verdict(decision=f"No point serves {self.attainment:.0%} of its requests within {limits}; the nearest, "
                           f"{near['name']}, serves {share.max():.0%}.", why=tuple(why), caveats=caveats)
        best = trials.loc[good.idxmax()]
        quality = best.get("metrics.quality_goodput_requests_per_s", math.nan)
        also = "" if math.isnan(quality) else f"; {quality:.2f} questions/s were within them and answered right"
        return Verdict(
            decision=f"Highest rate within {limits}: {best['name']} with {good.max():.2f} requests/s, "
                     f"{share[best.name]:.0%} of its requests within them{also}.",
            chosen=str(best["name"]), why=tuple(why), caveats=caveats)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """What is compared: a policy with so many sequences at most, under a load (`rate` 0 is a closed loop of `users`)."""

    policy: str
    users: int
    rate: float
    arm: str

    @property
    def load(self) -> float:
        return self.rate or self.users

    @property
    def name(self) -> str:
        return f"{self.policy} {self.users}" + (f" at {self.rate:g}/s" if self.rate else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """One serving of all the requests at one point."""

    generations: tuple[Generation, ...]
    seconds: float
    watched: machine.Watched
    steps: tuple[Step, ...] = ()
    """Of the scheduler; a server does not show its own."""
    max_running: int = 0
    cells: int = 0
    preemptions: int = 0
    measures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    flags: tuple[str, ...] = ()


Serve = Callable[[Sequence[Request], Point], Pass]


STEADY = 0.1
"""Passes over one point whose throughputs differ by more than this share say that the machine was not steady."""


def flags(passes: Sequence[Pass]) -> tuple[str, ...]:
    """Why to distrust a point: what the machine did meanwhile, and passes that disagree."""
    said = dict.fromkeys(flag for one in passes for flag in (*one.watched.flags(), *one.flags))
    rates = [sum(len(g.tokens_at_s) for g in one.generations) / one.seconds for one in passes]
    if min(rates) < (1 - STEADY) * max(rates):
        said[f"passes differ: {min(rates):.0f} to {max(rates):.0f} tokens/s, so a difference of that size means nothing"] = None
    return tuple(said)


def used(passes: Sequence[Pass]) -> dict[str, float | Estimate]:
    """How the scheduler was used: occupancy of the batch and KV use (means over the whole time, idle included),
    preemptions, and its own share of step time. Nothing where there are no steps to look at."""
    if not all(one.steps for one in passes):
        return {}
    seconds = sum(one.seconds for one in passes)
    engine = sum(s.engine_s for one in passes for s in one.steps)
    over = sum(s.overhead_s for one in passes for s in one.steps)

    def mean(value: Callable[[Pass, Step], float]) -> float:
        return sum(value(one, s) * (s.engine_s + s.overhead_s) for one in passes for s in one.steps) / seconds

    return {
        "occupancy_share": mean(lambda one, s: s.running / one.max_running),
        "kv_use_share": mean(lambda one, s: s.cells / one.cells),
        "preemptions": float(sum(one.preemptions for one in passes)),
        "overhead_share": over / (engine + over) if engine else math.nan,
        "steps": float(sum(len(one.steps) for one in passes)),
    }


def against(trials: pd.DataFrame) -> str:
    """Continuous against static with as many sequences under the same load, where both ran."""
    parts = []
    for (load, users), rows in trials.groupby(["params.load", "params.concurrency"]):
        by = {str(r["params.policy"]): r for _, r in rows.iterrows()}
        if {"static", "continuous"} <= set(by) and by["static"]["metrics.requests_per_s"] > 0:
            ratio = by["continuous"]["metrics.requests_per_s"] / by["static"]["metrics.requests_per_s"]
            rate = by["static"]["params.rate"]
            parts.append(f"{ratio:.2f}x with {users:g} sequences" + (f" at {load:g}/s" if rate else ""))
    return f"Continuous against static batching, requests/s: {', '.join(parts)}." if parts else ""


def knees(trials: pd.DataFrame) -> list[str]:
    """Per arm the load beyond which throughput grows by less than a tenth while TTFT p95 grows by more."""
    name, said = describe("ttft_p95_s"), []
    for arm, rows in trials.groupby("params.arm", sort=False):
        rows = rows.sort_values("params.load")
        unit = "requests/s" if rows["params.rate"].iloc[0] else "sequences"
        for (_, a), (_, b) in itertools.pairwise(rows.iterrows()):
            gain = b["metrics.output_tokens_per_s"] / a["metrics.output_tokens_per_s"]
            if gain < 1.1 and b["metrics.ttft_p95_s"] > 1.1 * a["metrics.ttft_p95_s"]:
                later, before = name.show(b["metrics.ttft_p95_s"]), name.show(a["metrics.ttft_p95_s"])
                said.append(f"The knee of {arm} is at {a['params.load']:g} {unit}: {b['params.load']:g} give {gain - 1:+.0%} "
                            f"throughput and a TTFT p95 of {later} instead of {before} {name.unit}.")
                break
        else:
            if len(rows) > 1:
                said.append(f"No knee of {arm} within the loads measured.")
    return said


def changed(trials: pd.DataFrame) -> str:
    """How many answers differ from those given alone, at worst."""
    most = trials.loc[(trials["metrics.differing_sequences"] / trials["metrics.compared_sequences"]).fillna(0).idxmax()]
    if not most["metrics.differing_sequences"] > 0:
        return ""
    return (f"{most['metrics.differing_sequences']:.0f} of {most['metrics.compared_sequences']:.0f} answers of "
            f"{most['name']} have other tokens than the same request alone (`differs` says where): sums of floating-point "
            "numbers can come out otherwise in a larger batch.")

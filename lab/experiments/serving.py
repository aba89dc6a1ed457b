"""How engines serve one model under rising load: latency against throughput to the knee, goodput, cost and energy."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import pandas as pd

from lab import engines, machine, models
from lab.energy import Meter
from lab.engines import Engine, is_url
from lab.errors import LabError
from lab.experiments import Chart, Experiment, busy, option
from lab.experiments._observed import counters, failures, refuse_gone
from lab.experiments._remote import over_http
from lab.experiments._workload import mixture
from lab.experiments.batching import knees
from lab.load import arrivals
from lab.load.services import InProcess, Served, Service
from lab.metrics import answer, service, speed
from lab.records import Decoding, Question, Request, Trial, Verdict

FEW = 30
"""Requests a point below which a rate says little."""
MLPERF = {"server": (2.0, 0.1), "interactive": (0.5, 0.03)}
"""TTFT and TPOT in seconds that 99% of requests must meet: MLPerf Inference v5.1, Llama-3.1-8B."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serving(Experiment):
    """Which engine serves this model best, and up to which rate of requests?

    Each engine first serves closed loops of users, up to as many as it may run at once, which gives its capacity; then the
    same requests at rates around it, arriving on a schedule that waits for nobody. Prompts are plain text, the same for every
    engine. Engines run one after another, each alone on the machine. Over HTTP every token has the time at which the
    kernel received it, taken by a process that does nothing else.
    """

    model: str = option("smollm2-135m", "catalogue name or GGUF path; an engine that is a URL serves what it serves")
    engine: tuple[str, ...] = option(("llama_cpp", "server"),
                                     "llama_cpp (in this process; llama_cpp@F16 requantises first), server (lab serve), vllm, or "
                                     "the URL of any OpenAI-compatible server")
    key_env: str = option("OPENAI_API_KEY", "environment variable with the key of servers given by URL")
    users: tuple[int, ...] = option((), "users of the closed loops; empty: --max-running alone")
    rates: tuple[float, ...] = option((), "requests per second; empty: shares of each engine's capacity")
    shares: tuple[float, ...] = option((0.3, 0.6, 0.8, 1.0, 1.25), "rates as shares of the capacity measured before")
    arrivals: str = option("poisson", "arrival process: constant, poisson, gamma, ramp or replay")
    cv: float = option(2.0, "coefficient of variation of gamma gaps (1 is Poisson)")
    schedule: str = option("", "file for replayed arrivals: a JSON list of seconds")
    requests: int = option(48, "requests per point")
    max_running: int = option(16, "sequences that an engine may run at once; users of the closed loop")
    prompt_tokens: int = option(96, "longest prompt of a continuation, tokens; lengths are drawn from a quarter of it up")
    output_tokens: int = option(96, "longest continuation, tokens; lengths are drawn log-uniformly from 4 up")
    prefix_cache: bool = option(False, "let servers started here reuse prompt prefixes (in this process nothing is reused)")
    flash_attention: engines.Flash = option("auto", "llama.cpp: auto, on or off")
    threads: int = option(0, "threads; 0 is all physical cores")
    ttft_ms: float = option(2000.0, "limit: time to first token from scheduled arrival, ms")
    tpot_ms: float = option(100.0, "limit: time per output token, ms")
    attainment: float = option(0.9, "share of the requests that must meet both limits before a rate can be recommended")
    machine_usd_per_hour: float = option(0.0, "price of this machine, USD per hour; 0 leaves the cost out")
    questions: str = option("everyday", "multiple-choice set whose answers are checked")
    seed: int = option(0, "seed of lengths and arrivals")
    limit_s: float = option(300.0, "a point is cut off after this many seconds; what did not end counts as a miss")

    columns: ClassVar[tuple[str, ...]] = (
        "offered_requests_per_s", "requests_per_s", "output_tokens_per_s", "goodput_requests_per_s", "attainment_share",
        "quality_goodput_requests_per_s", "goodput_mlperf_server_requests_per_s", "goodput_mlperf_interactive_requests_per_s",
        "ttft_s", "ttft_p95_s", "ttft_p99_s", "tpot_s", "itl_p50_s", "itl_p99_s", "stalls", "e2e_p50_s", "e2e_p99_s",
        "queue_p95_s", "failed_requests", "cost_per_million_tokens_usd", "joules_per_token", "answered_share",
        "send_lag_p99_s", "read_lag_p99_s", "shared_read_share", "client_cpu_share")
    notes: ClassVar[tuple[str, ...]] = ("stamp_source", "failures")
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart(title="Latency against throughput", kind="tradeoff", x="metrics.output_tokens_per_s", y="metrics.ttft_p95_s",
              label="name", series="params.arm"),
        Chart(title="Throughput by users", kind="line", x="params.load", y="metrics.output_tokens_per_s", series="params.arm",
              where=("params.loop", "closed")),
        Chart(title="Time to first token p95 by offered rate", kind="line", x="params.rate", y="metrics.ttft_p95_s",
              series="params.arm", where=("params.loop", "open"), log_y=True),
        Chart(title="Inter-token gap p99 by offered rate", kind="line", x="params.rate", y="metrics.itl_p99_s",
              series="params.arm", where=("params.loop", "open"), log_y=True),
        Chart(title="Throughput by offered rate", kind="line", x="params.rate", y="metrics.output_tokens_per_s",
              series="params.arm", where=("params.loop", "open")),
        Chart(title="Requests per second within the limits", kind="line", x="params.rate",
              y="metrics.goodput_requests_per_s", series="params.arm", where=("params.loop", "open")),
    )

    def __post_init__(self) -> None:
        if not self.engine:
            raise LabError("--engine needs at least one of llama_cpp, server, vllm or a URL.")
        if self.requests < 2 or self.max_running < 1:
            raise LabError("--requests needs at least 2 and --max-running at least 1.")
        if self.users and not 1 <= min(self.users) <= max(self.users) <= self.max_running:
            raise LabError(f"--users are from 1 to --max-running ({self.max_running}).")
        if min((*self.rates, *self.shares), default=1.0) <= 0:
            raise LabError("--rates and --shares are above 0.")
        if min(self.ttft_ms, self.tpot_ms, self.limit_s) <= 0 or not 0 <= self.attainment <= 1:
            raise LabError("--ttft-ms, --tpot-ms and --limit-s are above 0, and --attainment from 0 to 1.")
        if self.prompt_tokens < 4 or self.output_tokens < 4 or self.threads < 0 or self.machine_usd_per_hour < 0:
            raise LabError("--prompt-tokens and --output-tokens need at least 4; --threads and --machine-usd-per-hour are not "
                           "negative.")
        if self.arrivals == "closed":
            raise LabError("The closed loop is always measured; choose constant, poisson, gamma, ramp or replay for the rates.")
        arrivals.schedule(self.arrivals, count=1, rate=1.0, cv=self.cv, file=self.schedule)

    def check(self) -> None:
        for name in self.engine:
            kind, _, format_ = name.partition("@")
            if format_ and kind == "llama_cpp":
                from lab.engines.llama import quantize

                quantize.check(format_)
            elif is_url(name):
                engines.refuse_url(name)
            elif name not in ("llama_cpp", "server", "vllm", "scripted"):
                raise LabError(f"There is no engine '{name}' to serve with; choose llama_cpp, server, vllm or a URL such as "
                               "http://127.0.0.1:8000/v1.")
        if not all(is_url(name) or name == "scripted" for name in self.engine):
            models.find(self.model)

    @classmethod
    def demo(cls, **overrides: Any) -> Self:
        short = {"shares": (0.6, 1.2), "requests": 12, "prompt_tokens": 48, "output_tokens": 32, "max_running": 8}
        return cls(**{**short, **overrides})

    def size(self) -> int:
        return len(self.engine) * len(self._rates())

    def run(self) -> Iterator[Trial]:
        for name in self.engine:
            with contextlib.ExitStack() as closing:
                engine, served = self._open(name, closing)
                work, asked = mixture(engine, requests=self.requests, prompt_tokens=self.prompt_tokens,
                                      output_tokens=self.output_tokens, questions=self.questions, seed=self.seed)
                capacity = None
                for users, rate in self._rates():
                    trial = self._trial(name, engine, served, work, asked, users, rate, capacity)
                    yield trial
                    refuse_gone(name, trial.name, trial.generations, why=trial.notes.get("failures", ""))
                    if trial.notes.get("interrupted"):
                        raise KeyboardInterrupt
                    if not rate:
                        capacity = float(trial.measures["requests_per_s"])  # type: ignore[arg-type]
                        if not capacity and any(offered < 0 for _, offered in self._rates()):
                            failed = trial.notes.get("failures", "")
                            raise LabError(
                                f"No request of '{trial.name}' ended well within {self.limit_s:g} s, so there is no capacity to "
                                "take shares of; " + (f"{failed} failed: look at the server, or give --rates." if failed else
                                                      "raise --limit-s, ask for fewer --output-tokens, or give --rates."))

    def _rates(self) -> list[tuple[int, float]]:
        """(users, rate) of every point: rate 0 is a closed loop, a share of the capacity is negative until that is known."""
        closed = [(users, 0.0) for users in sorted(self.users or (self.max_running,))]
        offered = [math.inf] if self.arrivals == "replay" else self.rates or [-share for share in self.shares]
        return [*closed, *((self.max_running, rate) for rate in offered)]

    def _open(self, name: str, closing: contextlib.ExitStack) -> tuple[Engine, Service]:
        room = 64 * -(-(self.prompt_tokens + self.output_tokens + 256) // 64)
        if name.partition("@")[0] in ("llama_cpp", "scripted"):
            return self._in_process(name, room, closing)
        return over_http(name, self.model, key_env=self.key_env, room=room, max_running=self.max_running, threads=self.threads,
                         flash_attention=self.flash_attention, prefix_cache=self.prefix_cache, closing=closing)

    def _in_process(self, name: str, room: int, closing: contextlib.ExitStack) -> tuple[Engine, Service]:
        from lab.engines.scheduling.scheduler import Scheduler

        engine: Any
        if name == "scripted":
            from lab.engines.scheduling.scripted_core import ScriptedCore

            engine = engines.open_engine("scripted", self.model)
            core: Any = ScriptedCore(context_tokens=room * self.max_running, sequences=self.max_running, batch_tokens=512)
        else:
            from lab.engines.llama.context import Context
            from lab.engines.llama.quantize import rung
            from lab.engines.llama_cpp import LlamaCpp

            format_ = name.partition("@")[2]
            model = str(rung(models.find(self.model), format_).path) if format_ else self.model
            engine = LlamaCpp(model, threads=self.threads, flash_attention=self.flash_attention)
            closing.callback(engine.close)
            core = Context(engine.weights, context_tokens=room * self.max_running, sequences=self.max_running, batch_tokens=512,
                           threads=int(engine.settings["threads"] or 1), flash_attention=self.flash_attention, unified=False)
            closing.callback(core.close)

        def fresh() -> Scheduler:
            core.clear()
            return Scheduler(core, max_running=self.max_running)

        served = InProcess(engine=engine, fresh=fresh)
        served.serve([Request(prompt="Hello", decoding=Decoding(max_tokens=2))])
        return engine, served

    def _trial(
        self, name: str, engine: Engine, served: Service, work: Sequence[Request], asked: dict[str, Question], users: int,
        rate: float, capacity: float | None,
    ) -> Trial:
        rate = -rate * (capacity or math.nan) if rate < 0 else rate
        times = None
        if rate:
            times = arrivals.schedule(self.arrivals, count=len(work), rate=1.0 if rate == math.inf else rate, cv=self.cv,
                                      seed=self.seed, file=self.schedule)
            rate = (len(times) - 1) / (times[-1] - times[0]) if rate == math.inf and len(times) > 1 else rate
        arm = "server at URL" if is_url(name) else name
        title = f"{arm} at {rate:.3g}/s" if times else f"{arm} with {users} user{'' if users == 1 else 's'}"
        before = counters(engine)
        with machine.Watch() as watch, Meter() as meter:
            seen = served.serve(work, times=times, users=users, limit_s=self.limit_s, title=title,
                                keep_interrupted=True)
        spent = watch.result
        generations = seen.generations
        scores = [answer.correct(asked[g.request.id], g) if g.request.id in asked else None for g in generations]
        measures = {
            **self._measures(seen, scores, meter.joules), "offered_requests_per_s": rate or math.nan,
            **counted(before, counters(engine)), "foreign_cpu_share": spent.foreign_share,
            "cpu_s": spent.cpu_s + spent.children_cpu_s, "wall_s": spent.wall_s}
        notes = {**seen.notes, **failures(generations)}
        settings = {**engine.settings, "engine": name, "arm": arm,
                    "loop": "open" if times else "closed", "rate": round(rate, 4), "load": round(rate, 4) or users,
                    "concurrency": users, "arrivals": self.arrivals if times else "closed",
                    "requests": len(generations), "machine_usd_per_hour": self.machine_usd_per_hour or None}
        missing = len(work if times is None else times) - len(generations)
        cut = (f"{missing} requests were never sent: the point was cut off after {self.limit_s:g} s",) if missing else ()
        return Trial(name=title, settings=settings, generations=generations, scores=tuple(s for s in scores if s),
                     measures=measures, flags=(*spent.flags(), *seen.flags, *cut), notes=notes)

    def _measures(self, seen: Served, scores: Sequence[Any], joules: float) -> dict[str, Any]:
        tokens = sum(len(g.tokens_at_s) for g in seen.generations)
        made: dict[str, Any] = service.served(seen.generations, seen.seconds, scores, ttft_limit_s=self.ttft_ms / 1e3,
                                              tpot_limit_s=self.tpot_ms / 1e3)
        for kind, (ttft, tpot) in MLPERF.items():
            made[f"goodput_mlperf_{kind}_requests_per_s"] = speed.goodput_requests_per_s(
                seen.generations, ttft_limit_s=ttft, tpot_limit_s=tpot, duration_s=seen.seconds)
        made["failed_requests"] = float(sum(map(speed.failed, seen.generations)))
        if self.machine_usd_per_hour and tokens:
            made["cost_per_million_tokens_usd"] = self.machine_usd_per_hour / 3600 * seen.seconds / tokens * 1e6
        if tokens and not math.isnan(joules):
            made["joules_per_token"] = joules / tokens
        return {**made, **seen.measures}

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        limits = f"TTFT {self.ttft_ms:g} ms and TPOT {self.tpot_ms:g} ms"
        offered = trials[trials["params.loop"] == "open"]
        why = [f"{_capacity(row)}." for _, row in trials[trials["params.loop"] == "closed"].iterrows()]
        why += knees(offered)
        caveats = [*busy(trials)]
        if "metrics.client_bound" in trials and (bound := trials[trials["metrics.client_bound"] == 1])["name"].tolist():
            caveats.append(f"Limited by the client, not the server: {', '.join(bound['name'])}.")
        if not len(offered):
            top = trials.loc[trials["metrics.output_tokens_per_s"].idxmax()]
            return Verdict(decision=f"No rate was offered; the most is {_capacity(top)}.", chosen=str(top["name"]),
                           why=tuple(why), caveats=tuple(caveats))
        if self.requests < FEW:
            caveats.append(f"Rates from {self.requests} requests a point are rough: random arrivals alone vary them by "
                           f"{self.requests ** -0.5:.0%}.")
        if (mute := offered[offered["metrics.output_tokens_per_s"] == 0])["name"].tolist():
            caveats.append(f"No token came in {', '.join(mute['name'])}; such a point is not recommended.")
        offered = offered[offered["metrics.output_tokens_per_s"] > 0]
        within = offered[offered["metrics.attainment_share"].fillna(0) >= self.attainment]
        if not len(within):
            return Verdict(decision=f"No engine serves {self.attainment:.0%} of its requests within {limits} at any rate "
                           "measured.", why=tuple(why), caveats=tuple(caveats))
        best = within.loc[within["metrics.goodput_requests_per_s"].idxmax()]
        for arm, rows in within.groupby("params.arm", sort=False):
            top = rows.loc[rows["metrics.goodput_requests_per_s"].idxmax()]
            why.append(f"{arm} keeps {self.attainment:.0%} within the limits up to {top['params.rate']:.3g} requests/s offered: "
                       f"{_kept(top)}{_cost(top)}.")
        return Verdict(decision=f"Highest rate within {limits}: {best['name']}, {_kept(best)}.", chosen=str(best["name"]),
                       why=tuple(why), caveats=tuple(caveats))


def counted(before: Any, after: Any) -> dict[str, float]:
    """What the server counted between two readings, as measures; none where it does not show counters."""
    if before is None or after is None:
        return {}
    grown = after.since(before)
    found = {"prefix_hit_rate": grown.prefix_hit_rate, "acceptance_rate": grown.acceptance_rate, "preemptions": grown.preemptions}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _capacity(row: pd.Series[Any]) -> str:
    users = f"{row['params.concurrency']:g} user{'' if row['params.concurrency'] == 1 else 's'}"
    return (f"{row['params.arm']} with {users}: {row['metrics.output_tokens_per_s']:.0f} tokens/s, "
            f"{row['metrics.requests_per_s']:.2f} requests/s{_cost(row)}")


def _kept(row: pd.Series[Any]) -> str:
    """Goodput is per second until the last answer, and so below the offered rate by the time that the last ones took."""
    return (f"with {row['metrics.attainment_share']:.0%} of its requests within them (goodput "
            f"{row['metrics.goodput_requests_per_s']:.2f} requests/s until the last answer)")


def _cost(row: pd.Series[Any]) -> str:
    usd = row.get("metrics.cost_per_million_tokens_usd", math.nan)
    return "" if math.isnan(usd) else f", {usd:.2f} USD per million output tokens"

"""What decides the speed of inference: prompt length, output length, threads, model size, context depth."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import pandas as pd

from lab import data, machine
from lab.engines import Engine, Flash, open_engine, prepare
from lab.errors import LabError
from lab.experiments import SCRIPTED, Chart, Experiment, busy, option
from lab.load.closed import closed
from lab.metrics import speed
from lab.names import describe
from lab.records import Decoding, Request, Trial, Verdict

FACTORS = ("prompt_tokens", "output_tokens", "threads", "depth_tokens", "model")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Performance(Experiment):
    """What decides how fast this model answers on this machine?

    One factor is varied at a time around a base point (the first value of every field). Decoding is greedy and does not
    stop at the end token, so that every request does the same work.
    """

    models: tuple[str, ...] = option(("smollm2-135m",), "models to compare: catalogue names or GGUF paths; first is the base")
    engine: str = option("llama_cpp", "engine to run them on")
    prompt_tokens: tuple[int, ...] = option((128, 32, 512, 1024), "prompt lengths in tokens")
    output_tokens: tuple[int, ...] = option((64, 16, 256), "output lengths in tokens")
    threads: tuple[int, ...] = option((0, 1), "threads; 0 is all physical cores")
    depth_tokens: tuple[int, ...] = option((0, 512, 2048, 3584), "tokens already in the KV cache when decoding starts")
    flash_attention: Flash = option("auto", "auto, on or off (llama.cpp)")
    kv_type: str = option("f16", "type of the KV cache (llama.cpp)")
    repeats: int = option(5, "measured requests per point")
    warmup: int = option(1, "requests before them that are thrown away")

    columns: ClassVar[tuple[str, ...]] = (
        "ttft_s", "tpot_s", "itl_p99_s", "prefill_tokens_per_s", "decode_tokens_per_s", "bandwidth_share", "e2e_s",
        "load_s", "peak_memory_bytes", "cpu_s_per_token")
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart(title="Time to first token by prompt length", kind="line", x="params.prompt_tokens", y="metrics.ttft_s",
              series="params.model", where=("params.factor", "prompt_tokens")),
        Chart(title="Decode speed by context depth", kind="line", x="params.depth_tokens",
              y="metrics.decode_tokens_per_s", series="params.model", where=("params.factor", "depth_tokens")),
        Chart(title="Decode speed by threads", kind="bar", x="params.threads", y="metrics.decode_tokens_per_s",
              series="params.model", where=("params.factor", "threads")),
        Chart(title="End to end by output length", kind="line", x="params.output_tokens", y="metrics.e2e_s",
              series="params.model", where=("params.factor", "output_tokens")),
        Chart(title="Decode speed by model", kind="bar", x="params.model", y="metrics.decode_tokens_per_s",
              where=("params.factor", "model")),
    )

    def __post_init__(self) -> None:
        for field in ("models", "prompt_tokens", "output_tokens", "threads", "depth_tokens"):
            if not getattr(self, field):
                raise LabError(f"--{field.replace('_', '-')} needs at least one value.")
        if min(self.prompt_tokens) < 1 or min(self.output_tokens) < 2 or min(self.depth_tokens) < 0 or min(self.threads) < 0:
            raise LabError("Prompts need at least 1 token, outputs at least 2; depths and threads must not be negative.")
        if self.repeats < 1 or self.warmup < 0:
            raise LabError(f"--repeats must be at least 1 and --warmup at least 0, not {self.repeats} and {self.warmup}.")

    @classmethod
    def demo(cls, **overrides: Any) -> Self:
        short = {"prompt_tokens": (64, 256), "output_tokens": (24,), "depth_tokens": (0, 768), "repeats": 5}
        return cls(**{**short, **overrides})

    def points(self) -> list[dict[str, Any]]:
        """The trials' settings: per factor its values around the base point; a factor of one value has no trials."""
        values: dict[str, tuple[Any, ...]] = {
            "prompt_tokens": self.prompt_tokens, "output_tokens": self.output_tokens, "threads": self.threads,
                  "depth_tokens": self.depth_tokens, "model": self.models}
        base = {name: those[0] for name, those in values.items()}
        many = [f for f in FACTORS if len(values[f]) > 1] or ["prompt_tokens"]
        points = []
        for factor in many:
            varied = values[factor] if factor == "model" else sorted(values[factor])
            points += [{**base, "factor": factor, factor: value} for value in varied]
        return points

    def size(self) -> int:
        return len(self.points())

    def run(self) -> Iterator[Trial]:
        text = data.text("pydoc-topics")
        for point in self.points():
            yield self._trial(point, text)

    def _trial(self, point: dict[str, Any], text: str) -> Trial:
        threads = point["threads"] or machine.threads_default()
        room = max(point["prompt_tokens"], point["depth_tokens"]) + point["output_tokens"]
        settings: dict[str, Any] = {"threads": threads, "context_tokens": max(512, -(-room // 256) * 256)}
        if self.engine == "llama_cpp":
            settings |= {"flash_attention": self.flash_attention, "kv_type": self.kv_type}
        prepare(self.engine)
        with machine.Watch() as opening:
            engine = open_engine(self.engine, point["model"], **settings)
        try:
            load = closed(engine, self._requests(engine, point, text), warmup=self.warmup, title=_title(point))
            fast = speed.summary(load.generations)
            bandwidth = machine.fingerprint(threads).memory_bandwidth_bytes_per_s
            depth = max(point["prompt_tokens"], point["depth_tokens"]) + point["output_tokens"] // 2
            share = {"bandwidth_share": speed.bandwidth_share(
                engine.bytes_per_token(depth), float(getattr(fast["decode_tokens_per_s"], "value", math.nan)), bandwidth)}
            settings = {**engine.settings, **point, "threads": threads}
            if self.engine == "scripted":
                return Trial(name=_title(point), settings={**settings, "model": "scripted"}, generations=load.generations,
                             measures={k: v for k, v in fast.items() if k != "cpu_s_per_token"}, notes={"caveat": SCRIPTED})
            return Trial(
                name=_title(point), settings=settings, generations=load.generations,
                measures={
                    **fast, **share, "load_s": opening.result.wall_s,
                    "peak_memory_bytes": max(0, load.watched.peak_rss_bytes - opening.result.rss_start_bytes),
                    "memory_bandwidth_bytes_per_s": bandwidth, "foreign_cpu_share": load.watched.foreign_share,
                    "load_average": load.watched.load_start, "cpu_s": load.watched.cpu_s, "wall_s": load.watched.wall_s,
                },
                flags=(*load.watched.flags(), *machine.fingerprint(threads).bandwidth_flags),
            )
        finally:
            engine.close()

    def _requests(self, engine: Engine, point: dict[str, Any], text: str) -> list[Request]:
        deep = point["factor"] == "depth_tokens"
        length = max(point["prompt_tokens"], point["depth_tokens"]) if deep else point["prompt_tokens"]
        tokens = engine.tokenize(text[: 40 * length + 400])[:length]
        if len(tokens) < length:
            raise LabError(f"The prompt text gives only {len(tokens)} of {length} tokens; ask for a shorter prompt.")
        decoding = Decoding(max_tokens=point["output_tokens"], ignore_eos=True)
        return [Request(id=str(i), tokens=tuple(tokens), decoding=decoding) for i in range(self.repeats)]

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        why = [line for factor in FACTORS if (line := _effect(trials, factor))]
        by_threads = trials[trials["params.factor"] == "threads"]
        pool = by_threads if len(by_threads) > 1 else trials[trials["params.factor"] == trials["params.factor"].iloc[-1]]
        best = pool.loc[pool["metrics.decode_tokens_per_s"].idxmax()]
        tied = _tied(pool, best)
        caveats = [*busy(trials)]
        caveats += sorted({c for c in trials.get("tags.lab.note.caveat", pd.Series(dtype=str)).dropna() if c})
        decision = f"Fastest decoding of {best['params.model']}: {best['name']} at {_shown('decode_tokens_per_s', best)}"
        if tied:
            decision += f"; no difference shown to {', '.join(tied)}"
        return Verdict(decision=f"{decision}.", chosen=str(best["name"]), why=tuple(why), caveats=tuple(caveats))


def _title(point: dict[str, Any]) -> str:
    words = {"prompt_tokens": "{} prompt tokens", "output_tokens": "{} output tokens", "depth_tokens": "depth {} tokens"}
    factor = point["factor"]
    if factor == "threads":
        count = point["threads"] or machine.threads_default()
        return f"{count} thread{'s' if count > 1 else ''}"
    return words.get(factor, "{}").format(point[factor])


def _tied(pool: pd.DataFrame, best: pd.Series[Any]) -> list[str]:
    """Names of the others whose interval of decode speed reaches into that of the best."""
    low, high = "metrics.decode_tokens_per_s_low", "metrics.decode_tokens_per_s_high"
    if low not in pool or math.isnan(best[low]):
        return []
    return [str(row["name"]) for _, row in pool.iterrows() if row["run_id"] != best["run_id"] and row[high] >= best[low]]


_WATCHED = {"prompt_tokens": "ttft_s", "output_tokens": "e2e_s", "threads": "decode_tokens_per_s",
            "depth_tokens": "decode_tokens_per_s", "model": "decode_tokens_per_s"}


def _effect(trials: pd.DataFrame, factor: str) -> str:
    """What changing `factor` from its first to its last value did to the measure it matters for, in a sentence."""
    rows = trials[trials["params.factor"] == factor]
    if len(rows) < 2:
        return ""
    rows = rows if factor == "model" else rows.sort_values(f"params.{factor}")
    first, last, measure = rows.iloc[0], rows.iloc[-1], _WATCHED[factor]
    before, after = first[f"metrics.{measure}"], last[f"metrics.{measure}"]
    if factor == "model":
        first, last = rows.loc[rows[f"metrics.{measure}"].idxmax()], rows.loc[rows[f"metrics.{measure}"].idxmin()]
    return (f"{describe(measure).label}: {_shown(measure, first)} at {first['name']}, {_shown(measure, last)} at "
            f"{last['name']} ({after / before:.2f}x)." if factor != "model" else
            f"{describe(measure).label}: {_shown(measure, first)} with {first['name']}, {_shown(measure, last)} with "
            f"{last['name']}.")


def _shown(measure: str, row: pd.Series[Any]) -> str:
    name = describe(measure)
    low, high = row.get(f"metrics.{measure}_low", math.nan), row.get(f"metrics.{measure}_high", math.nan)
    interval = "" if math.isnan(low) else f" ({name.show(low)} to {name.show(high)})"
    return f"{name.show(row[f'metrics.{measure}'])} {name.unit}{interval}".strip()

"""The ladder of quantisations of one model: what each rung costs, what it loses, and which one to ship."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from lab import data, gguf_header, machine, models, stats
from lab.engines import Engine, Flash, open_engine, prepare
from lab.errors import LabError
from lab.experiments import Chart, Experiment, _ladder, busy, option
from lab.load.closed import closed
from lab.metrics import choice, perplexity, speed
from lab.metrics.divergence import BaseLogits, Divergence
from lab.names import describe
from lab.records import Decoding, Estimate, Question, Request, Score, Trial, Verdict

BLOCK = 32
"""Tokens treated as one observation in intervals over positions: neighbours share context and are not independent."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantization(Experiment):
    """Which quantization of this model should I ship?

    The widest rung is the base that the others are measured against. Rungs are made from the model file itself; when
    that file is quantised already, the ladder measures error against its reconstruction, and says so.
    """

    model: str = option("smollm2-135m", "catalogue name or GGUF path")
    rungs: tuple[str, ...] = option(
        ("F32", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_NL", "Q3_K_M", "Q2_K"),
        "quantization types; the first is the base")
    threads: int = option(0, "threads; 0 is all physical cores")
    prompt_tokens: int = option(256, "prompt length of the timed requests, tokens")
    output_tokens: int = option(64, "output length of the timed requests, tokens")
    repeats: int = option(5, "timed requests per rung")
    chunks: int = option(8, "chunks of 512 tokens scored for perplexity and divergence")
    chunk_tokens: int = option(512, "tokens per chunk")
    text: str = option("pydoc-topics", "text scored: a name of the catalogue or a UTF-8 file")
    questions: str = option("everyday", "multiple-choice set: a name of the catalogue or a JSONL, CSV or Parquet file")
    items: int = option(160, "questions asked; 0 asks none")
    imatrix_chunks: int = option(8, "chunks of 512 tokens, from the end of the text, that fill the importance matrix of IQ rungs")
    flash_attention: Flash = option("auto", "auto, on or off")
    kv_type: str = option("f16", "type of the KV cache")
    max_memory_mb: float | None = option(None, "a rung qualifies if its peak memory stays below this, MB")
    max_perplexity_increase: float = option(0.05, "... and if the interval of its perplexity increase stays below this share")
    min_decode_tps: float | None = option(None, "... and if it decodes at least this many tokens/s")

    columns: ClassVar[tuple[str, ...]] = (
        "file_bytes", "bits_per_weight", "load_s", "peak_memory_bytes", "ttft_s", "prefill_tokens_per_s",
        "decode_tokens_per_s", "bandwidth_share", "perplexity", "perplexity_increase_share", "kl_mean", "kl_p99",
        "same_top_share", "accuracy", "flip_share")
    notes: ClassVar[tuple[str, ...]] = ("tensor_mix",)
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart(title="Quality against speed", kind="tradeoff", x="metrics.decode_tokens_per_s", y="metrics.perplexity",
              label="params.rung"),
        Chart(title="Divergence against file size", kind="tradeoff", x="metrics.file_bytes", y="metrics.kl_mean",
              label="params.rung"),
        Chart(title="Answers flipped against the base", kind="bar", x="params.rung", y="metrics.flip_share"),
        Chart(title="Decode speed by rung", kind="bar", x="params.rung", y="metrics.decode_tokens_per_s"),
        Chart(title="Prefill speed by rung", kind="bar", x="params.rung", y="metrics.prefill_tokens_per_s"),
        Chart(title="Peak memory by rung", kind="bar", x="params.rung", y="metrics.peak_memory_bytes"),
    )

    def __post_init__(self) -> None:
        if len(set(self.rungs)) < len(self.rungs) or len(self.rungs) < 2:
            raise LabError("--rungs needs at least two different quantization types, the base first.")
        if min(self.prompt_tokens, self.repeats, self.chunks) < 1 or self.output_tokens < 2 or self.items < 0:
            raise LabError("--prompt-tokens, --repeats and --chunks need at least 1, --output-tokens 2, --items 0.")
        if min(self.threads, self.imatrix_chunks) < 0:
            raise LabError("--threads and --imatrix-chunks must not be negative.")
        limits = [v for v in (self.max_memory_mb, self.min_decode_tps, self.max_perplexity_increase) if v is not None]
        if limits and not all(math.isfinite(v) and v >= 0 for v in limits):
            raise LabError("--max-memory-mb, --max-perplexity-increase and --min-decode-tps take numbers of at least 0.")
        if self.chunk_tokens < 16:
            raise LabError(f"--chunk-tokens needs at least 16, not {self.chunk_tokens}.")

    @classmethod
    def demo(cls, **overrides: Any) -> Self:
        short = {"rungs": ("F32", "F16", "Q8_0", "Q4_K_M", "Q4_0", "Q2_K"), "prompt_tokens": 128, "output_tokens": 24,
                 "repeats": 5, "chunks": 2, "items": 40}
        return cls(**{**short, **overrides})

    def size(self) -> int:
        return len(self.rungs)

    def check(self) -> None:
        super().check()
        _ladder.check(self.rungs)
        data.text(self.text)

    def run(self) -> Iterator[Trial]:
        self.check()
        source = models.find(self.model)
        caveat = _ladder.source_caveat(source)
        text, base_name = data.text(self.text), self.rungs[0]
        questions = data.questions(self.questions, limit=self.items) if self.items else []
        ladder = self._ladder(source, text)
        with BaseLogits(models.cache_dir() / "logits") as kept:
            base: _Scored | None = None
            for name, file in ladder:
                trial, scored = self._trial(name, file, text, questions, kept, base)
                base = base or scored
                yield dataclasses.replace(trial, notes={**trial.notes, "caveat": caveat, "base": base_name})

    def _ladder(self, source: models.ModelFile, text: str) -> list[tuple[str, models.ModelFile]]:
        """The rungs' files: the base first, the rest from large to small."""
        probe = self._engine(str(source.path))  # a setting that the engine refuses is said before the ladder is made
        try:
            probe.logits([0])
            self._requests(perplexity.tokens_for(probe, text))
        finally:
            probe.close()
        importance = _ladder.importance(source, self.rungs, lambda: text, chunks=self.imatrix_chunks, threads=self.threads,
                                        scored_tokens=self.chunks * self.chunk_tokens)
        return _ladder.make(source, self.rungs, importance, threads=self.threads)

    def _trial(
        self, name: str, file: models.ModelFile, text: str, questions: Sequence[Question], kept: BaseLogits,
        base: _Scored | None,
    ) -> tuple[Trial, _Scored]:
        threads = self.threads or machine.threads_default()
        prepare("llama_cpp")
        with machine.Watch() as opening:
            engine = self._engine(str(file.path))
        try:
            tokens = perplexity.tokens_for(engine, text)
            load = closed(engine, self._requests(tokens), title=f"{name}: requests")
            scored = self._score(engine, tokens, questions, kept, base)
            header = gguf_header.read(file.path)
            fast = speed.summary(load.generations)
            bandwidth = machine.fingerprint(threads).memory_bandwidth_bytes_per_s
            decode = fast["decode_tokens_per_s"]
            measures: dict[str, float | Estimate] = {
                **fast, **scored.measures, "file_bytes": header.file_bytes, "bits_per_weight": header.bits_per_weight,
                "load_s": opening.result.wall_s,
                "peak_memory_bytes": max(0, load.watched.peak_rss_bytes - opening.result.rss_start_bytes),
                "bandwidth_share": speed.bandwidth_share(
                    engine.bytes_per_token(self.prompt_tokens + self.output_tokens // 2),
                    decode.value if isinstance(decode, Estimate) else decode, bandwidth),
                "memory_bandwidth_bytes_per_s": bandwidth, "foreign_cpu_share": load.watched.foreign_share,
                "load_average": load.watched.load_start, "cpu_s": load.watched.cpu_s, "wall_s": load.watched.wall_s,
            }
            mix = ", ".join(f"{kind} {share:.1%}" for kind, share in header.mix().items() if share >= 0.001)
            settings = {**engine.settings, "model": self.model, "rung": name, "text": self.text, "items": len(questions),
                        "chunks": self.chunks}
            return Trial(name=name, settings=settings, generations=load.generations, scores=scored.scores,
                         measures=measures,
                         flags=(*load.watched.flags(), *machine.fingerprint(threads).bandwidth_flags),
                         notes={"tensor_mix": mix, "sha256": file.sha256}), scored
        finally:
            engine.close()

    def _engine(self, path: str) -> Engine:
        room = -(-(self.prompt_tokens + self.output_tokens) // 256) * 256
        return open_engine("llama_cpp", path, threads=self.threads or machine.threads_default(),
                           context_tokens=max(512, room), flash_attention=self.flash_attention, kv_type=self.kv_type)

    def _requests(self, tokens: Sequence[int]) -> list[Request]:
        if len(tokens) < self.prompt_tokens:
            raise LabError(f"The text has {len(tokens)} tokens, fewer than a prompt of {self.prompt_tokens}.")
        decoding = Decoding(max_tokens=self.output_tokens, ignore_eos=True)
        return [Request(id=str(i), tokens=tuple(tokens[: self.prompt_tokens]), decoding=decoding) for i in range(self.repeats)]

    def _score(
        self, engine: Engine, tokens: Sequence[int], questions: Sequence[Question], kept: BaseLogits, base: _Scored | None
    ) -> _Scored:
        against = Divergence(kept) if base else None
        losses = perplexity.measure(engine, tokens, chunk_tokens=self.chunk_tokens, limit=self.chunks,
                                    each=against.add if against else kept.keep)
        answered = choice.answers(engine, questions)
        return _scored(losses, against, answered, base)

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        rows = trials.assign(why_not=[self._objection(row) for _, row in trials.iterrows()])
        fit = rows[rows["why_not"] == ""]
        front = _front(rows)
        why = [f"On the Pareto front of file size, decode speed and perplexity: {', '.join(front)}."]
        why += [f"{row['name']} does not qualify: {row['why_not']}." for _, row in rows.iterrows() if row["why_not"]]
        caveats = sorted({c for c in rows.get("tags.lab.note.caveat", pd.Series(dtype=str)).dropna() if c})
        caveats += busy(trials)
        if fit.empty:
            return Verdict(decision=f"No rung qualifies under {self._limits()}.", why=tuple(why), caveats=tuple(caveats))
        best = _fastest(fit)
        decision = (f"Ship {best['name']} of {self.model.rsplit('/', 1)[-1]}: {_text('file_bytes', best)}, decode "
                    f"{_text('decode_tokens_per_s', best)}, perplexity {_signed(best['metrics.perplexity_increase_share'])} "
                    f"against {self.rungs[0]}.")
        return Verdict(decision=decision, chosen=str(best["name"]),
                       why=(f"It is the fastest (ties: the smallest) of {len(fit)} rungs within {self._limits()}.", *why),
                       caveats=tuple(caveats))

    def _objection(self, row: pd.Series[Any]) -> str:
        """Why this rung does not qualify, or nothing. An interval must lie within the limit as a whole.

        What a limit asks for and was not measured does not qualify.
        """
        said = []
        high = row.get("metrics.perplexity_increase_share_high", math.nan)
        increase = row["metrics.perplexity_increase_share"] if math.isnan(high) else high
        memory, decode = row["metrics.peak_memory_bytes"], row["metrics.decode_tokens_per_s"]
        if math.isnan(increase):
            said.append("its perplexity was not measured")
        elif increase > self.max_perplexity_increase:
            said.append(f"perplexity may rise by up to {increase:.1%}")
        if self.max_memory_mb is not None and not memory <= self.max_memory_mb * 1e6:
            said.append("its memory was not measured" if math.isnan(memory) else f"it needs {_text('peak_memory_bytes', row)}")
        if math.isnan(decode):
            said.append("its decode speed was not measured")
        elif self.min_decode_tps is not None and decode < self.min_decode_tps:
            said.append(f"it decodes {_text('decode_tokens_per_s', row)}")
        return ", ".join(said)

    def _limits(self) -> str:
        limits = [f"a perplexity increase of {self.max_perplexity_increase:.1%}"]
        if self.max_memory_mb is not None:
            limits.append(f"{self.max_memory_mb:,.0f} MB of memory")
        if self.min_decode_tps is not None:
            limits.append(f"at least {self.min_decode_tps:g} tokens/s")
        return ", ".join(limits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Scored:
    """The quality of one rung, and what the next ones are compared with."""

    losses: perplexity.TokenLosses
    answers: Sequence[Score]
    scores: tuple[Score, ...]
    measures: dict[str, float | Estimate]


def _scored(
    losses: perplexity.TokenLosses, against: Divergence | None, answered: list[Score], base: _Scored | None
) -> _Scored:
    blocks = np.arange(len(losses.nll)) // BLOCK
    measures: dict[str, float | Estimate] = {"perplexity": losses.estimate, "perplexity_error": losses.error}
    scores = [Score(name="nll", item=f"block-{b}", value=float(losses.nll[blocks == b].mean()), by="likelihood")
              for b in np.unique(blocks)]
    if answered:
        measures["accuracy"] = stats.proportion(int(sum(s.value for s in answered)), len(answered))
        scores += answered
    if against is None or base is None:
        measures |= {"perplexity_increase_share": 0.0, "kl_mean": 0.0, "kl_p99": 0.0, "same_top_share": 1.0}
        if answered:
            measures["flip_share"] = 0.0
    else:
        shift = stats.clustered_mean(losses.nll - base.losses.nll, blocks)
        measures["perplexity_increase_share"] = Estimate(
            value=math.expm1(shift.value), low=math.expm1(shift.low), high=math.expm1(shift.high))
        measures["kl_mean"] = stats.clustered_mean(against.kl, blocks)
        measures["kl_p99"] = stats.clustered_percentile(against.kl, blocks, 99)
        measures["same_top_share"] = stats.proportion(int(against.same_top.sum()), len(against.same_top))
        scores += [Score(name="kl", item=f"block-{b}", value=float(against.kl[blocks == b].mean()), by="likelihood")
                   for b in np.unique(blocks)]
        if answered:
            flipped = choice.flips(base.answers, answered)
            measures["flip_share"] = stats.proportion(int(sum(s.value for s in flipped)), len(flipped))
            scores += flipped
    return _Scored(losses=losses, answers=answered, scores=tuple(scores), measures=measures)


def _front(rows: pd.DataFrame) -> list[str]:
    points = rows[["metrics.file_bytes", "metrics.decode_tokens_per_s", "metrics.perplexity"]].to_numpy().tolist()
    on = stats.pareto_front(points, ("lower", "higher", "lower"))
    return [str(name) for name, kept in zip(rows["name"], on, strict=True) if kept]


def _fastest(rows: pd.DataFrame) -> pd.Series[Any]:
    """The fastest decoder; among those whose intervals overlap the fastest's, the smallest file."""
    best = rows.loc[rows["metrics.decode_tokens_per_s"].idxmax()]
    low = best.get("metrics.decode_tokens_per_s_low", math.nan)
    floor = best["metrics.decode_tokens_per_s"] if math.isnan(low) else low
    highs = rows.get("metrics.decode_tokens_per_s_high", rows["metrics.decode_tokens_per_s"])
    tied = rows[highs.fillna(rows["metrics.decode_tokens_per_s"]) >= floor]
    return tied.loc[tied["metrics.file_bytes"].idxmin()]


def _text(measure: str, row: pd.Series[Any]) -> str:
    name = describe(measure)
    return f"{name.show(row[f'metrics.{measure}'])} {name.unit}"


def _signed(share: float) -> str:
    return f"{share:+.2%}"

"""Our llama.cpp engine beside the C tools of the same source: decode, prefill, perplexity, streaming, memory.

Method and findings: docs/decisions/0001-engine-parity.md.
"""

from __future__ import annotations

import json
import math
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lab import data, machine, models
from lab.bench import peers
from lab.bench._pairing import HEADING, Arm, Comparison, compare, interleave
from lab.engines.llama.context import Context
from lab.engines.llama.quantize import rung
from lab.engines.llama_cpp import LlamaCpp
from lab.errors import LabError
from lab.metrics import perplexity
from lab.records import Decoding, Request
from lab.text import TextStream

TEXT = "pydoc-topics"
CHUNK_TOKENS = 512
STOPS = ("<|never|>", "\n\n\n\n", "THE END OF ALL TEXTS")
"""Stop strings that the text may begin but does not complete, so that the search for them is paid for to the end."""
BLOCK = 25
"""Tokens decoded by one arm before the other takes over, where both can be driven step by step."""
PEAK_LIMIT_BYTES = 700e6
OVERHEAD_LIMIT_SHARE = 0.02


def main(
    model: str = models.DEFAULT,
    *,
    threads: Sequence[int] = (1, 2),
    rounds: int = 5,
    perplexity_rounds: int = 3,
    prompt_tokens: int = 512,
    output_tokens: int = 128,
    chunks: int = 8,
    streamed_tokens: int = 1000,
) -> dict[str, Any]:
    """Measure everything, print a table as it comes, and return the same figures with every single reading."""
    file = models.find(model)
    found = {tool: peers.find(tool) for tool in ("llama-bench", "llama-perplexity")}
    print(f"{file.name}, {file.bytes / 1e6:,.0f} MB. Ratios are ours over the peer's, from interleaved pairs.")
    if not all(found.values()):
        print("The C tools are not built, so there is nothing to compare with; build them with 'lab bench peers'.")
    print(HEADING)
    with machine.Watch() as watch:
        made: list[Comparison] = []
        for count in threads:
            made += _shown(_speeds(file.path, count, found["llama-bench"], rounds, prompt_tokens, output_tokens))
        scored = _perplexity(file.path, found["llama-perplexity"], perplexity_rounds, chunks)
        made += _shown([scored.speed])
        print(scored.line())
        stream = _streaming(file.path, streamed_tokens)
        print("\n".join(stream.lines()))
        memory = _divergence(file, chunks)
        print(_memory_line(memory))
    flags = watch.result.flags()
    print(*(f"Caution: {flag}; run again on a quiet one before believing a ratio." for flag in flags), sep="\n")
    return {
        "model": file.name, "sha256": file.sha256, "machine": machine.fingerprint(bandwidth=False).as_tags(),
        "flags": list(flags), "wall_s": watch.result.wall_s, "comparisons": [c.as_json() for c in made],
        "perplexity": scored.as_json(), "streaming": stream.as_json(),
        "divergence": memory,
    }


def _shown(made: list[Comparison]) -> list[Comparison]:
    for one in made:
        print(one.line(), flush=True)
    return made


# Decode and prefill beside llama-bench


def _speeds(path: Path, threads: int, tool: Path | None, rounds: int, prompt: int, output: int) -> list[Comparison]:
    engine = LlamaCpp(str(path), threads=threads, context_tokens=max(prompt, output + 1))
    try:
        arms: dict[str, Arm] = {"ours": lambda: _our_speeds(engine, prompt, output)}
        if tool is not None:
            arms["peer"] = lambda: parse_bench(peers.run(_bench_command(tool, path, threads, prompt, output)).stdout)
        _our_speeds(engine, 32, 8)
        seen = interleave(arms, rounds, title=f"{threads} threads")
    finally:
        engine.close()
    noun = f"{threads} thread{'' if threads == 1 else 's'}"
    return [compare(f"{label}, {noun}", "tokens/s", seen, ("ours", ours), ("peer", peer), at_least=0.98)
            for label, ours, peer in ((f"decode {output}, bare steps", "decode", "decode"),
                                      (f"decode {output}, whole stream", "stream", "decode"),
                                      (f"prefill {prompt}", "prefill", "prefill"))]


def _bench_command(tool: Path, path: Path, threads: int, prompt: int, output: int) -> list[str]:
    """One repetition after the tool's own warm-up, at our default batch sizes, KV type and flash attention."""
    return [str(tool), "-m", str(path), "-t", str(threads), "-p", str(prompt), "-n", str(output), "-r", "1",
            "-b", "2048", "-ub", "512", "-ctk", "f16", "-ctv", "f16", "-fa", "auto", "-ngl", "0", "-o", "json"]


def parse_bench(output: str) -> dict[str, float]:
    """`prefill` and `decode` in tokens/s from llama-bench's JSON: tokens over the nanoseconds of its one sample."""
    speeds = {}
    for test in json.loads(output):
        seconds = statistics.median(test["samples_ns"]) / 1e9
        speeds["decode" if test["n_gen"] else "prefill"] = (test["n_gen"] or test["n_prompt"]) / seconds
    return speeds


def _our_speeds(engine: LlamaCpp, prompt: int, output: int) -> dict[str, float]:
    """The work of llama-bench's `test_prompt` and `test_gen` on our context, then the same decode as users get it."""
    context, draw = engine.context, random.Random(0)
    tokens = [draw.randrange(engine.weights.vocabulary) for _ in range(max(prompt, output))]
    context.clear()
    context.prefill(tokens[:prompt])  # llama-bench, too, runs its prompt once before its clock starts
    context.synchronize()
    context.clear()
    start = time.perf_counter()
    context.prefill(tokens[:prompt])
    context.synchronize()
    prefilled = time.perf_counter() - start
    context.clear()
    start = time.perf_counter()
    for position in range(output):
        context.step(tokens[position], position)
        context.synchronize()
    stepped = time.perf_counter() - start
    decoding = Decoding(max_tokens=output + 1, ignore_eos=True, stop=STOPS)
    at = [chunk.at_s for chunk in engine.stream(Request(tokens=tuple(tokens[:1]), decoding=decoding)) if chunk.tokens]
    return {"prefill": prompt / prefilled, "decode": output / stepped, "stream": (len(at) - 1) / (at[-1] - at[0])}


# Perplexity beside llama-perplexity


@dataclass(frozen=True, kw_only=True)
class _Perplexities:
    speed: Comparison
    ours: float
    peer: float

    @property
    def equal(self) -> bool | None:
        """To the four decimals that the tool prints; None without a peer."""
        return None if math.isnan(self.peer) else f"{self.ours:.4f}" == f"{self.peer:.4f}"

    def as_json(self) -> dict[str, Any]:
        return {"ours": self.ours, "peer": None if math.isnan(self.peer) else self.peer, "equal": self.equal}

    def line(self) -> str:
        verdict = {None: "", True: "  equal to 4 decimals: yes", False: "  equal to 4 decimals: NO"}[self.equal]
        peer = "–" if math.isnan(self.peer) else f"{self.peer:.4f}"
        return f"{'perplexity':<42}{self.ours:>9.4f}{peer:>9} {verdict}"


def _perplexity(path: Path, tool: Path | None, rounds: int, chunks: int) -> _Perplexities:
    threads, scored, peer = machine.threads_default(), [], []
    engine = LlamaCpp(str(path), threads=threads)

    def ours() -> dict[str, float]:
        start = time.perf_counter()
        scored.append(perplexity.measure(engine, tokens, limit=chunks).perplexity)
        return {"speed": chunks * CHUNK_TOKENS / (time.perf_counter() - start)}

    def theirs(tool: Path, text: Path) -> dict[str, float]:
        value, seconds = parse_perplexity(peers.printed([
            str(tool), "-m", str(path), "-f", str(text), "-c", str(CHUNK_TOKENS), "--chunks", str(chunks), "-t", str(threads),
            "-tb", str(threads), "-ngl", "0", "--log-timestamps", "--log-prefix"]))
        peer.append(value)
        return {"speed": chunks * CHUNK_TOKENS / seconds}

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text(data.text(TEXT), encoding="utf-8")
        try:
            tokens = perplexity.tokens_for(engine, data.text(TEXT))
            engine.logits(tokens[:CHUNK_TOKENS], start=CHUNK_TOKENS - 1)  # both tools warm up before their clock starts
            arms: dict[str, Arm] = {"ours": ours}
            if tool is not None:
                arms["peer"] = lambda: theirs(tool, text)
            seen = interleave(arms, rounds, title="perplexity")
        finally:
            engine.close()
    speed = compare(f"perplexity of {chunks} x {CHUNK_TOKENS}, {threads} threads", "tokens/s", seen, ("ours", "speed"),
                    ("peer", "speed"), at_least=0.97)
    return _Perplexities(speed=speed, ours=scored[0], peer=peer[0] if peer else math.nan)


_STAMP = r"(\d+)\.(\d\d)\.(\d\d\d)\.(\d\d\d)"


def parse_perplexity(log: str) -> tuple[float, float]:
    """The final perplexity in llama-perplexity's log, and the seconds between its start of scoring and its last line.

    Stamps are minutes.seconds.milliseconds.microseconds since the tool started; loading and tokenizing come before.
    """
    start = re.search(_STAMP + r" I .*calculating perplexity over", log)
    end = re.search(_STAMP + r" I (?:\S+: )?Final estimate: PPL = ([\d.]+)", log)
    if start is None or end is None:
        raise LabError("llama-perplexity printed no stamped result; run it by hand on the same model to see why.")
    return float(end[5]), _seconds(end) - _seconds(start)


def _seconds(stamp: re.Match[str]) -> float:
    minutes, seconds, milli, micro = map(int, stamp.groups()[:4])
    return 60 * minutes + seconds + milli / 1e3 + micro / 1e6


# What text, stop strings and clock readings cost


@dataclass(frozen=True, kw_only=True)
class _Streaming:
    """CPU seconds per block of `BLOCK` tokens, whole stream and bare loop, at the same depths; and the text layer's."""

    stream_s: tuple[float, ...]
    bare_s: tuple[float, ...]
    text_s_per_token: Mapping[int, float]

    @property
    def overhead_share(self) -> float:
        """Median over blocks of (stream - bare) / bare."""
        return statistics.median(a / b for a, b in zip(self.stream_s, self.bare_s, strict=True)) - 1

    @property
    def text_growth(self) -> float:
        """Time per token of the text layer at the longest length over that at the shortest: 1 is linear."""
        short, long = min(self.text_s_per_token), max(self.text_s_per_token)
        return self.text_s_per_token[long] / self.text_s_per_token[short]

    @property
    def text_share(self) -> float:
        """Share of a bare step that the text layer takes."""
        return self.text_s_per_token[min(self.text_s_per_token)] / (statistics.median(self.bare_s) / BLOCK)

    def lines(self) -> list[str]:
        tokens, shares = BLOCK * len(self.bare_s), [a / b - 1 for a, b in zip(self.stream_s, self.bare_s, strict=True)]
        quarter = statistics.quantiles(shares, n=4)
        micro = {n: s * 1e6 for n, s in self.text_s_per_token.items()}
        return [
            f"{f'streaming overhead over {tokens} tokens, 1 thread':<42}{self.overhead_share:>+9.2%}  (quartiles "
            f"{quarter[0]:+.2%} to {quarter[2]:+.2%}, {len(shares)} pairs)  below {OVERHEAD_LIMIT_SHARE:.0%}: "
            f"{'yes' if self.overhead_share < OVERHEAD_LIMIT_SHARE else 'NO'}",
            f"{'  text and stop strings alone':<42}{self.text_share:>9.2%}  of a step: "
            + ", ".join(f"{m:.2f} us a token at {n:,} tokens" for n, m in micro.items())
            + f"; ratio {self.text_growth:.2f} (1 is linear)",
        ]

    def as_json(self) -> dict[str, Any]:
        return {"stream_s": list(self.stream_s), "bare_s": list(self.bare_s), "block_tokens": BLOCK,
                "overhead_share": self.overhead_share, "limit_share": OVERHEAD_LIMIT_SHARE,
                "text_s_per_token": {str(n): s for n, s in self.text_s_per_token.items()},
                "text_share": self.text_share, "text_growth": self.text_growth}


def _streaming(path: Path, tokens: int) -> _Streaming:
    """Advance the whole stream and a bare argmax loop in turn, a block each, so that both see the same depths.

    One thread does all the work, so its CPU time is the time taken, less what other processes took away.
    """
    engine = LlamaCpp(str(path), threads=1, context_tokens=tokens + BLOCK)
    bare = Context(engine.weights, context_tokens=tokens + BLOCK, threads=1)
    try:
        prompt = engine.tokenize("Once upon a time", special=True)
        request = Request(tokens=tuple(prompt), decoding=Decoding(max_tokens=tokens + 1, ignore_eos=True, stop=STOPS))
        stream = engine.stream(request)
        chosen = [next(stream).tokens[0]]
        bare.prefill(prompt)
        token, depth = int(bare.logits(1)[0].argmax()), len(prompt)
        stream_s, bare_s = [], []
        for i in tqdm(range(tokens // BLOCK), desc="streaming", leave=False, disable=None):
            for arm in ("stream", "bare") if i % 2 else ("bare", "stream"):
                start = time.thread_time()
                if arm == "stream":
                    for chunk in islice(stream, BLOCK):
                        chosen.extend(chunk.tokens)
                    stream_s.append(time.thread_time() - start)
                else:
                    for _ in range(BLOCK):
                        bare.step(token, depth)
                        token, depth = int(bare.logits(1)[0].argmax()), depth + 1
                    bare_s.append(time.thread_time() - start)
        pieces = [engine.weights.piece(t) for t in chosen]
    finally:
        bare.close()
        engine.close()
    return _Streaming(stream_s=tuple(stream_s), bare_s=tuple(bare_s),
                      text_s_per_token={n: text_s_per_token(pieces, n) for n in (1_000, 10_000)})


def text_s_per_token(pieces: Sequence[bytes], tokens: int, repeats: int = 7) -> float:
    """CPU seconds per token of the text layer over `tokens` tokens, the pieces going round; the best of `repeats`."""
    best = math.inf
    for _ in range(repeats):
        text, told = TextStream(STOPS), list(islice(cycle(pieces), tokens))
        start = time.thread_time()
        for piece in told:
            text.push(piece)
        best = min(best, time.thread_time() - start)
    return best / tokens


# Memory of the divergence


def _divergence(file: models.ModelFile, chunks: int) -> dict[str, Any]:
    """The quantization experiment's KL divergence, F32 against Q8_0, in a process that does nothing else."""
    base, other = rung(file, "F32"), rung(file, "Q8_0")
    done = peers.run([sys.executable, "-m", "lab.bench._divergence", str(base.path), str(other.path), str(chunks)])
    seen: dict[str, Any] = json.loads(done.stdout)
    return {**seen, "base_bytes": base.bytes, "limit_bytes": PEAK_LIMIT_BYTES}


def _memory_line(seen: Mapping[str, Any]) -> str:
    reached = "yes" if seen["peak_memory_bytes"] < PEAK_LIMIT_BYTES else "NO"
    peak, weights, limit = (x / 1e6 for x in (seen["peak_memory_bytes"], seen["base_bytes"], PEAK_LIMIT_BYTES))
    return (f"{'peak memory of KL, F32 against Q8_0':<42}{peak:>9.0f}{'':>9} MB, {weights:.0f} of them F32 weights  "
            f"below {limit:.0f}: {reached}")

"""Our scheduler beside llama-batched-bench, its own time per step, and continuous beside static batching.

The peer decodes random tokens and samples none; we serve real requests: admission, sampling, text, clock readings. Both
give every sequence cells of its own. Only steps that decode all sequences are counted, as the peer counts.

What continuous batching can gain depends on what a step costs at each batch size, and that on the kernels for the weights'
format: so the default model is run as it is and requantised. Twice as many requests as are in flight would measure the tail,
in which the last long answers run alone; there are eight times as many.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab import machine, models, stats
from lab.bench import peers
from lab.bench._pairing import HEADING, Arm, Comparison, compare, interleave
from lab.engines.llama.context import Context
from lab.engines.llama.quantize import rung
from lab.engines.llama.weights import Weights
from lab.engines.scheduling.scheduler import Policy, Scheduler
from lab.errors import LabError
from lab.load.scheduled import closed_loop, warm
from lab.metrics import speed
from lab.records import Decoding, Request

OVERHEAD_LIMIT_SHARE = 0.03


def main(
    model: str = models.DEFAULT, *, sequences: Sequence[int] = (1, 8, 16, 32), threads: int = 0, rounds: int = 3,
    prompt_tokens: int = 32, output_tokens: int = 32, mixed_requests: int = 64, users: int = 8, also: str = "Q4_0",
) -> dict[str, Any]:
    """Measure everything, print a table as it comes, and return the same figures."""
    file, threads = models.find(model), threads or machine.threads_default()
    tool = peers.find("llama-batched-bench")
    print(f"{file.name}, {threads} threads. Ratios are ours over the peer's, from interleaved pairs.")
    if tool is None:
        print("The C tools are not built, so there is nothing to compare with; build them with 'lab bench peers'.")
    print(HEADING)
    weights = Weights(file.path)
    made: list[Comparison] = []
    overhead: dict[int, float] = {}
    try:
        with machine.Watch() as watch:
            for count in sequences:
                done, share = _decode(weights, file.path, tool, count, threads, rounds, prompt_tokens, output_tokens)
                made.append(done)
                overhead[count] = share
                print(done.line(), flush=True)
            for count, share in overhead.items():
                mark = f"  below {OVERHEAD_LIMIT_SHARE:.0%}: {'yes' if share < OVERHEAD_LIMIT_SHARE else 'NO'}"
                print(f"scheduler's share of step time, {count} sequences: {share:.2%}{mark if count == 32 else ''}")
            policies = []
            for format_ in ("", also):
                for done in _policies(_requantised(file, format_), threads, rounds, mixed_requests, users):
                    policies.append(done)
                    print(done.line(), flush=True)
    finally:
        weights.close()
    flags = watch.result.flags()
    print(*(f"Caution: {flag}; run again on a quiet one before believing a ratio." for flag in flags), sep="\n")
    return {"model": file.name, "threads": threads, "flags": list(flags),
            "comparisons": [c.as_json() for c in [*made, *policies]],
            "overhead_share": {str(k): v for k, v in overhead.items()},
            "machine": machine.fingerprint(bandwidth=False).as_tags()}


def _decode(
    weights: Weights, path: Path, tool: Path | None, count: int, threads: int, rounds: int, prompt: int, output: int
) -> tuple[Comparison, float]:
    room = -(-(prompt + output) // 256) * 256
    context = Context(weights, context_tokens=room * count, threads=threads, sequences=count, unified=False)
    shares: list[float] = []

    def ours() -> dict[str, float]:
        context.clear()
        scheduler = Scheduler(context)
        random = np.random.default_rng(0)
        for i in range(count):
            tokens = random.integers(0, weights.vocabulary, prompt).tolist()
            scheduler.submit(Request(id=str(i), tokens=tuple(tokens), decoding=Decoding(max_tokens=output, ignore_eos=True)),
                             tokens)
        while not scheduler.idle:
            scheduler.step()
        full = [s for s in scheduler.steps if s.decoding == count and s.prefill_tokens == 0]
        engine, extra = sum(s.engine_s for s in full), sum(s.overhead_s for s in full)
        shares.append(extra / (engine + extra))
        return {"decode": count * len(full) / (engine + extra)}

    arms: dict[str, Arm] = {"ours": ours}
    if tool is not None:
        command = [str(tool), "-m", str(path), "-c", str(room * count), "-b", "2048", "-ub", "512", "-npp", str(prompt),
                   "-ntg", str(output), "-npl", str(count), "-t", str(threads), "-fa", "auto", "-ngl", "0",
                   "--output-format", "jsonl"]
        arms["peer"] = lambda: parse(peers.printed(command))
    try:
        ours()
        shares.clear()
        seen = interleave(arms, rounds, title=f"{count} sequences")
    finally:
        context.close()
    name = f"decode, {count} sequence{'' if count == 1 else 's'}"
    return compare(name, "tokens/s", seen, ("ours", "decode"), ("peer", "decode"), at_least=0.98), stats.percentile(shares, 50)


def _requantised(file: models.ModelFile, ftype: str) -> models.ModelFile:
    return rung(file, ftype) if ftype else file


def _policies(file: models.ModelFile, threads: int, rounds: int, requests: int, users: int) -> list[Comparison]:
    """The same mixed-length requests under both policies, in turn; outputs log-uniform from 4 to 384 tokens."""
    weights = Weights(file.path)
    context = Context(weights, context_tokens=512 * users, threads=threads, sequences=users, unified=False)
    random = np.random.default_rng(1)
    work = []
    for i in range(requests):
        tokens = random.integers(0, weights.vocabulary, int(random.integers(8, 65))).tolist()
        output = round(float(np.exp(random.uniform(np.log(4), np.log(384)))))
        work.append((Request(id=str(i), tokens=tuple(tokens), decoding=Decoding(max_tokens=output, ignore_eos=True)), tokens))

    def arm(policy: Policy) -> Arm:
        def run() -> dict[str, float]:
            context.clear()
            scheduler = Scheduler(context, policy=policy, max_running=users)
            started = context.now()
            # All requests are due at once, as from an upstream that keeps the queue full: TTFT counts the wait.
            jobs = closed_loop(scheduler, work, len(work))
            seconds = context.now() - started
            ttft = stats.percentile([speed.ttft_s(j.generation(), since="scheduled") for j in jobs], 95)
            return {"requests": len(jobs) / seconds, "promptness": 1 / ttft}

        return run

    try:
        warm(Scheduler(context), work[0])
        seen = interleave({"continuous": arm("continuous"), "static": arm("static")}, rounds, title=f"policies {file.name}")
    finally:
        context.close()
        weights.close()
    return [
        compare(f"continuous over static, {file.name}", "requests/s", seen, ("continuous", "requests"),
                ("static", "requests"), at_least=1.5),
        compare("  1 / TTFT p95 of the same", "1/s", seen, ("continuous", "promptness"), ("static", "promptness"), at_least=1.0),
    ]


def parse(output: str) -> dict[str, float]:
    """`decode` in tokens/s of all sequences, from llama-batched-bench's JSON lines."""
    for line in output.splitlines():
        if line.startswith("{") and '"speed_tg"' in line:
            return {"decode": float(json.loads(line)["speed_tg"])}
    raise LabError("llama-batched-bench printed no result; run 'lab bench peers' to build it again.")

"""Speculation beside plain decoding and beside llama-speculative: copy-like work, the adaptive length, a draft model.

Method and findings: docs/decisions/0004-speculative-decoding.md.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab import machine, models
from lab.bench import peers
from lab.bench._pairing import HEADING, Arm, Comparison, compare, interleave
from lab.data import tasks
from lab.engines.llama.context import Context
from lab.engines.llama.draft import open_draft
from lab.engines.llama.quantize import rung
from lab.engines.llama_cpp import LlamaCpp
from lab.engines.scheduling import costs
from lab.engines.scheduling.adaptive import Adaptive
from lab.engines.scheduling.draft_model import DraftModel
from lab.engines.scheduling.drafters import PromptLookup
from lab.engines.scheduling.scheduler import Scheduler
from lab.engines.scheduling.speculation import Drafter
from lab.errors import LabError
from lab.experiments._speculative_arms import LONGEST, Work, serve
from lab.records import Decoding, Message, Request

COPY = ("copy_editing",)
COPY_DRAFTS = LONGEST
"""At most; a lookup drafts no more than it has matched, in blocks for which the kernels are built."""
PAIR = ("qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b")
CODE = "# Write a Python class Stack with push, pop, peek and is_empty, each with a docstring.\n\nclass Stack:\n"


def main(
    model: str = models.DEFAULT,
    *,
    threads: int = 0,
    rounds: int = 3,
    output_tokens: int = 96,
    kinds: Sequence[str] = tasks.KINDS,
    formats: Sequence[str] = ("", "Q8_0"),
    pair_rounds: int = 3,
    pair_tokens: int = 48,
    pair_drafts: int = 3,
) -> dict[str, Any]:
    """Measure everything, print a table as it comes, and return the same figures with every single reading.

    `formats` are requantised copies of `model` besides itself (""): what a verified token costs depends on the kernels.
    """
    threads = threads or machine.threads_default()
    file, made, prices = models.find(model), [], {}
    print(f"{file.name}, {threads} threads, greedy, flash attention on. Ratios are speculative over plain decoding, from pairs.")
    print(HEADING)
    with machine.Watch() as watch:
        for ftype in formats:
            used = rung(file, ftype) if ftype else file
            found, priced = _lookups(used, threads, rounds, output_tokens, kinds if ftype == formats[0] else COPY)
            made += found
            prices[used.name] = dict(zip(map(str, priced.tokens), priced.seconds, strict=True))
        made += _pair(threads, pair_rounds, pair_tokens, pair_drafts)
    flags = watch.result.flags()
    print(*(f"Caution: {flag}; run again on a quiet one before believing a ratio." for flag in flags), sep="\n")
    return {
        "model": file.name, "sha256": file.sha256, "machine": machine.fingerprint(bandwidth=False).as_tags(),
        "flags": list(flags), "wall_s": watch.result.wall_s, "step_s_by_tokens": prices,
        "comparisons": [c.as_json() for c in made],
    }


# Prompt lookup beside plain decoding


def _lookups(
    file: models.ModelFile, threads: int, rounds: int, output: int, kinds: Sequence[str]
) -> tuple[list[Comparison], costs.StepCosts]:
    """Fixed prompt lookup on copy-like work, then the adaptive one on every kind; two tasks of each."""
    engine = LlamaCpp(str(file.path), threads=threads, flash_attention="on")
    context = Context(engine.weights, context_tokens=2048, threads=threads, batch_tokens=512, flash_attention="on")
    made = []
    try:
        priced = costs.measure(context, batch=1, most_tokens=1 + LONGEST)
        for kind in kinds:
            work = _work(engine, kind, output)
            arms: dict[str, Arm] = {"plain": lambda w=work: _speed(context, w, None),  # type: ignore[misc]
                                    "adaptive": lambda w=work: _speed(context, w, Adaptive(PromptLookup(LONGEST), priced))}  # type: ignore[misc]
            if kind in COPY:
                arms["lookup"] = lambda w=work: _speed(context, w, PromptLookup(COPY_DRAFTS))  # type: ignore[misc]
            _speed(context, work[:1], None)
            seen = interleave(arms, rounds, title=kind)
            if kind in COPY:
                name = f"{_short(file)}: lookup, {_words(kind)}"
                made.append(compare(name, "tokens/s", seen, ("lookup", "speed"), ("plain", "speed"), at_least=1.7))
                print(made[-1].line(), flush=True)
            made.append(compare(f"{_short(file)}: adaptive, {_words(kind)}", "tokens/s", seen, ("adaptive", "speed"),
                                ("plain", "speed"), at_least=0.95))
            print(made[-1].line(), flush=True)
    finally:
        context.close()
        engine.close()
    return made, priced


def _work(engine: LlamaCpp, kind: str, output: int) -> Work:
    decoding = Decoding(max_tokens=output)
    chosen = tasks.tasks((kind,), 2)
    asked = [Request(id=t.id, messages=(Message(role="user", content=t.prompt),), decoding=decoding) for t in chosen]
    if "tokenizer.chat_template" not in engine.header.metadata:
        asked = [Request(id=t.id, prompt=f"{t.prompt}\n\n", decoding=decoding) for t in chosen]
    return [(request, engine.prompt_tokens(request)) for request in asked]


def _speed(context: Context, work: Work, drafter: Drafter | None) -> dict[str, float]:
    """Tokens after the first over the time they took, over all requests."""
    context.clear()
    done = serve(context, work, 1, drafter).generations
    tokens = sum(len(g.tokens) - 1 for g in done)
    return {"speed": tokens / sum(g.tokens_at_s[-1] - g.tokens_at_s[0] for g in done)}


# A draft model beside llama-speculative


def _pair(threads: int, rounds: int, output: int, drafts: int) -> list[Comparison]:
    """The same pair, prompt, draft length and threads through our loop and through llama.cpp's example program."""
    try:
        target, draft = (models.find(name) for name in PAIR)
    except LabError as error:
        print(f"No draft model is compared: {error}")
        return []
    tool = peers.find("llama-speculative")
    if tool is None:
        print("llama-speculative is not built; build it with 'lab bench peers'.")
    engine = LlamaCpp(str(target.path), threads=threads, flash_attention="on")
    weights = open_draft(draft, engine.weights)
    settings: dict[str, Any] = {"context_tokens": 1024, "threads": threads, "batch_tokens": 512, "flash_attention": "on"}
    context, other = Context(engine.weights, **settings), Context(weights, **settings)
    try:
        tokens = engine.tokenize(CODE, special=True)
        arms: dict[str, Arm] = {"plain": lambda: _decode(context, None, tokens, output, drafts),
                                "ours": lambda: _decode(context, other, tokens, output, drafts)}
        if tool is not None:
            command = speculative_command(tool, target.path, draft.path, threads, output, drafts)
            arms["peer"] = lambda: parse_speculative(peers.printed(command))
        _decode(context, other, tokens, 8, drafts)
        seen = interleave(arms, rounds, title="draft model")
    finally:
        for opened in (context, other, weights, engine):
            opened.close()
    made = [compare(f"draft of {drafts}, Qwen 0.5B -> 1.5B", "tokens/s", seen, ("ours", "speed"), ("peer", "speed"),
                    at_least=0.95),
            compare("  the same beside our plain decoding", "tokens/s", seen, ("ours", "speed"), ("plain", "speed")),
            compare("  tokens accepted of 100 drafted", "%", seen, ("ours", "accepted"), ("peer", "accepted"))]
    for one in made:
        print(one.line(), flush=True)
    return made


def _decode(context: Context, other: Context | None, tokens: list[int], output: int, drafts: int) -> dict[str, float]:
    """Decode `output` tokens after a prompt that both models have read before the clock starts, as the peer does."""
    context.clear()
    drafter = None
    if other is not None:
        other.clear()
        drafter = DraftModel(other, drafts)
    scheduler = Scheduler(context, max_running=1, drafter=drafter)
    job = scheduler.submit(Request(tokens=tuple(tokens), decoding=Decoding(max_tokens=output)), tokens)
    while not job.at_s:
        scheduler.step()
    if drafter is not None:
        drafter.propose([job], [1])
    start = time.perf_counter()
    while not scheduler.idle:
        scheduler.step()
    seconds = time.perf_counter() - start
    accepted = 100 * job.accepted_tokens / job.drafted_tokens if job.drafted_tokens else float("nan")
    return {"speed": (len(job.at_s) - 1) / seconds, "accepted": accepted}


def speculative_command(tool: Path, target: Path, draft: Path, threads: int, output: int, drafts: int) -> list[str]:
    """Greedy, one draft branch, the batch sizes and KV types of our contexts."""
    count = str(threads)
    return [str(tool), "-m", str(target), "-md", str(draft), "-p", CODE, "-n", str(output), "-t", count, "-tb", count,
            "-td", count, "-tbd", count, "-c", "1024", "-b", "512", "--temp", "0", "--samplers", "top_k", "--top-k", "1",
            "--spec-draft-n-max", str(drafts), "-np", "1", "-fa", "on", "-ngl", "0"]


def parse_speculative(log: str) -> dict[str, float]:
    """Decoding speed in tokens/s and percent of drafts accepted, from the lines `decoded ...` and `accept ...`.

    As for ours, the first token is not counted: it comes from the prompt's logits, which were there before the clock.
    """
    decoded = re.search(r"decoded\s+(\d+) tokens in\s+([\d.]+) seconds", log)
    accepted = re.search(r"accept\s+=\s+([\d.]+)%", log)
    if decoded is None or accepted is None:
        raise LabError("llama-speculative printed no timing; run it by hand on the same pair to see why.")
    return {"speed": (int(decoded[1]) - 1) / float(decoded[2]), "accepted": float(accepted[1])}


def _short(file: models.ModelFile) -> str:
    return file.name.rsplit(":", 1)[-1][:12]


def _words(kind: str) -> str:
    return kind.replace("_", " ")

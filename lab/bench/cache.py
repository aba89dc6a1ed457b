"""Prefix reuse against its marks: a warm start of each tier beside a cold one, and lookups among 1,000 cached prefixes.

Method and findings: docs/decisions/0005-prompt-cache.md.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lab import data, machine, models
from lab.engines.llama.context import Context
from lab.engines.llama.weights import Weights
from lab.engines.scheduling.prefix import TieredPrefixCache
from lab.engines.scheduling.radix import packed
from lab.engines.scheduling.scheduler import Scheduler
from lab.engines.scheduling.state_files import DiskStates, identity
from lab.engines.scheduling.states import MemoryStates
from lab.records import Decoding, Request

WARM_LIMIT_SHARE = 0.05
LOOKUP_LIMIT_S = 1e-3
PREFIXES = 1000
ROOM_BYTES = 2_000_000_000


def main(
    model: str = models.DEFAULT, *, threads: int = 0, rounds: int = 5, prefix_tokens: int = 500, suffix_tokens: int = 8
) -> dict[str, Any]:
    """Measure, print a table as it comes, and return the same figures with every single reading."""
    file = models.find(model)
    threads = threads or machine.threads_default()
    print(f"{file.name}, {threads} threads: prefix of {prefix_tokens} tokens, then {suffix_tokens} new ones.")
    with machine.Watch() as watch:
        starts = _starts(file, threads, rounds, prefix_tokens, suffix_tokens)
        found = _lookups()
    for one in starts:
        share = one["share"]
        print(f"{one['tier']:<8} warm {statistics.median(one['warm_s']) * 1e3:8.1f} ms  cold "
              f"{statistics.median(one['cold_s']) * 1e3:8.1f} ms  {share['median']:.2%} ({share['min']:.2%} to "
              f"{share['max']:.2%}, {len(one['warm_s'])} pairs)  at most {WARM_LIMIT_SHARE:.0%}: {_yes(one['reached'])}")
    print(f"lookup   median {found['median_s'] * 1e6:.0f} us, p99 {found['p99_s'] * 1e6:.0f} us among {found['prefixes']:,} "
          f"prefixes of {found['tokens']} tokens  below {LOOKUP_LIMIT_S * 1e3:g} ms: {_yes(found['reached'])}")
    flags = watch.result.flags()
    print(*(f"Caution: {flag}; run again on a quiet one before believing a ratio." for flag in flags), sep="\n")
    return {"model": file.name, "sha256": file.sha256, "threads": threads, "prefix_tokens": prefix_tokens,
            "suffix_tokens": suffix_tokens, "machine": machine.fingerprint(bandwidth=False).as_tags(), "flags": list(flags),
            "wall_s": watch.result.wall_s, "starts": starts, "lookup": found}


def _starts(file: models.ModelFile, threads: int, rounds: int, prefix: int, suffix: int) -> list[dict[str, Any]]:
    """Per tier the times to first token of `rounds` pairs: a prefix nobody had before, then it again with another end."""
    weights = Weights(file.path)
    core = Context(weights, context_tokens=-(-4 * (prefix + suffix + 1) // 256) * 256, threads=threads, sequences=4,
                   batch_tokens=512, flash_attention="on")
    text = weights.tokenize(data.text("pydoc-topics"))
    name = identity(sha256=file.sha256, kv_type="f16", flash_attention="on", version="bench")
    made = []
    try:
        _first_token_s(Scheduler(core, max_running=1), text[: prefix + suffix])
        for tier in ("cells", "memory", "disk"):
            with tempfile.TemporaryDirectory(prefix="lab-prefixes-") as folder:
                core.clear()
                slots = 2 if tier == "cells" else 0
                cache = TieredPrefixCache(
                    core, slots=slots, memory=MemoryStates(ROOM_BYTES) if tier == "memory" else None,
                    disk=DiskStates(Path(folder), identity=name, capacity_bytes=ROOM_BYTES) if tier == "disk" else None)
                scheduler = Scheduler(core, cache=cache, first_slot=slots, max_running=1)
                cold, warm = [], []
                for i in tqdm(range(rounds), desc=tier, leave=False, disable=None):
                    at = (i + 1) * (prefix + 2 * suffix)
                    shared, ends = text[at : at + prefix], text[at + prefix : at + prefix + 2 * suffix]
                    cold.append(_first_token_s(scheduler, [*shared, *ends[:suffix]]))
                    warm.append(_first_token_s(scheduler, [*shared, *ends[:0:-1][:suffix]]))
                shares = [w / c for w, c in zip(warm, cold, strict=True)]
                share = {"median": statistics.median(shares), "min": min(shares), "max": max(shares)}
                made.append({"tier": tier, "cold_s": cold, "warm_s": warm, "share": share, "hits": cache.counts.hits,
                             "reused_tokens": cache.counts.reused_tokens, "restore_s": list(cache.counts.restore_s),
                             "save_s": list(cache.counts.save_s), "reached": share["median"] <= WARM_LIMIT_SHARE})
    finally:
        core.close()
        weights.close()
    return made


def _first_token_s(scheduler: Scheduler, tokens: list[int]) -> float:
    job = scheduler.submit(Request(tokens=tuple(tokens), decoding=Decoding(max_tokens=1, ignore_eos=True)), tokens)
    while not scheduler.idle:
        scheduler.step()
    return job.at_s[0] - job.sent_s


def _lookups(prefixes: int = PREFIXES, tokens: int = 500, lookups: int = 4000) -> dict[str, Any]:
    """Seconds of a whole lookup, packing of the token ids included, among prefixes of which 50 at a time begin alike."""
    random = np.random.default_rng(0)
    heads = [random.integers(0, 49_152, 300).tolist() for _ in range(prefixes // 50)]
    stored = [[*heads[i % len(heads)], *random.integers(0, 49_152, tokens - 300).tolist()] for i in range(prefixes)]
    memory = MemoryStates(ROOM_BYTES)
    for one in stored:
        memory.put(packed(one), b"")
    asked = [[*stored[int(random.integers(prefixes))][: int(random.integers(1, tokens))],
              *random.integers(0, 49_152, 20).tolist()] for _ in range(lookups)]
    seconds = []
    for one in asked:
        began = time.perf_counter()
        memory.shelf.longest(packed(one))
        seconds.append(time.perf_counter() - began)
    median, p99 = (float(np.percentile(seconds, q)) for q in (50, 99))
    return {"prefixes": len(memory.shelf), "tokens": tokens, "lookups": lookups, "median_s": median, "p99_s": p99,
            "max_s": max(seconds), "reached": p99 < LOOKUP_LIMIT_S}


def _yes(reached: bool) -> str:
    return "yes" if reached else "NO"

"""Metrics against their reference packages, and what scoring costs: options by likelihood, embeddings, a thousand answers.

What runs without a fetched question set does so; the rest says which set to fetch. Method and findings:
docs/decisions/0010-quality-metrics.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lab import data, machine, models
from lab.bench import _quality_checks as checks
from lab.bench._pairing import HEADING, Comparison, compare, interleave
from lab.engines import Engine, open_engine, token_logprobs
from lab.errors import LabError
from lab.metrics import choice, similarity

LIKELIHOOD_RATIO = 5.0


def main(
    model: str = models.DEFAULT, *, threads: int = 0, rounds: int = 3, questions: int = 6, shots: int = 5, answers: int = 24,
    answer_tokens: int = 64, items: int = 200,
) -> dict[str, Any]:
    """Measure, print a table as it comes, and return the same figures with every single reading."""
    if questions < 2:
        raise LabError("--questions needs at least 2: a prompt asked for twice in a row would be read once by both sides.")
    threads = threads or machine.threads_default()
    engine = open_engine("llama_cpp", model, threads=threads)
    exact = open_engine("llama_cpp", model, threads=threads, flash_attention="off")
    made: dict[str, Any] = {"model": model, "threads": threads, "machine": machine.fingerprint(bandwidth=False).as_tags()}
    try:
        with machine.Watch() as watch:
            similarity.default()  # without the extra there is no use in beginning
            made["pairs"] = _speed(engine, exact, threads, rounds, questions, shots)
            recorded = checks.recorded(engine, answers, answer_tokens)
            made["parity"], made["scoring"] = checks.parity(*recorded), checks.scoring(*recorded)
            made["accuracy"], made["people"] = checks.accuracies(engine, items), checks.people()
            made["equivalence"] = checks.equivalences()
    finally:
        engine.close()
        exact.close()
    flags = watch.result.flags()
    print(*(f"Caution: {flag}; run again on a quiet one before believing a ratio." for flag in flags), sep="\n")
    return made | {"flags": list(flags), "wall_s": watch.result.wall_s}


def _speed(engine: Engine, exact: Engine, threads: int, rounds: int, questions: int, shots: int) -> list[dict[str, Any]]:
    print(HEADING)
    made = []
    for count in dict.fromkeys((shots, 0)):
        for one in (engine, exact):
            pair, off, same = _likelihood(one, rounds, questions, count)
            print(f"{pair.line()}  scores at most {off:.1e} apart, same option {same:.0%}", flush=True)
            made.append(pair.as_json() | {"scores_apart": off, "same_option_share": same})
    pair = _embeddings(threads, rounds)
    print(pair.line(), flush=True)
    return [*made, pair.as_json()]


def _likelihood(engine: Engine, rounds: int, count: int, shots: int) -> tuple[Comparison, float, float]:
    """Questions a second: all at once, and every option by an evaluation of its whole prompt; and how far the scores differ."""
    drawn = data.questions("everyday", limit=count + shots)
    solved, asked = drawn[:shots], drawn[shots:]
    apart = [choice.branching(engine, question, solved) for question in asked]
    found: dict[str, list[Any]] = {}

    def together() -> dict[str, float]:
        began = time.perf_counter()
        found["together"] = [scores for _, scores in sorted(choice.scores(engine, asked, solved), key=lambda one: one[0])]
        return {"rate": len(asked) / (time.perf_counter() - began)}

    def alone() -> dict[str, float]:
        began = time.perf_counter()
        lp = [np.zeros(len(branches)) for _, branches in apart]
        for option in range(max(len(branches) for _, branches in apart)):
            # Options outside, questions inside: the engine keeps a prompt that it is asked for twice in a row.
            for row, (prefix, branches) in zip(lp, apart, strict=True):
                if option < len(branches):
                    row[option] = _whole(engine, prefix, branches[option])
        seconds = time.perf_counter() - began
        found["alone"] = [row / [len(c) for c in q.choices] for row, q in zip(lp, asked, strict=True)]
        return {"rate": len(asked) / seconds}

    together()
    flash = str(engine.settings["flash_attention"])
    seen = interleave({"together": together, "alone": alone}, rounds, title=f"{shots} examples, flash attention {flash}")
    both = [*zip(found["together"], found["alone"], strict=True)]
    off = max(float(np.abs(a - b).max()) for a, b in both)
    tokens = round(float(np.mean([len(prefix) for prefix, _ in apart])))
    pair = compare(f"options, {tokens} tokens, flash {flash}", "questions/s", seen, ("together", "rate"), ("alone", "rate"),
                   at_least=LIKELIHOOD_RATIO if shots else math.nan)
    return pair, off, float(np.mean([a.argmax() == b.argmax() for a, b in both]))


def _whole(engine: Engine, prefix: Sequence[int], branch: Sequence[int]) -> float:
    """An option's log-probability by one evaluation of prompt and option, with no logits but those needed."""
    return float(token_logprobs(engine.logits([*prefix, *branch], start=len(prefix) - 1)[:-1], branch).sum())


def _embeddings(threads: int, rounds: int, count: int = 256) -> Comparison:
    words = data.text("pydoc-topics").split()
    texts = [" ".join(words[i * 24 : (i + 1) * 24]) for i in range(count)]
    embedder = similarity.Embedder(threads=threads)

    def timed(work: Callable[[], object], many: int) -> dict[str, float]:
        began = time.perf_counter()
        work()
        return {"rate": many / (time.perf_counter() - began)}

    seen = interleave({"batched": lambda: timed(lambda: embedder.embed(texts), count),
                       "alone": lambda: timed(lambda: [embedder.embed([text]) for text in texts[:64]], 64)},
                      rounds, title="embeddings")
    return compare("embeddings, batched over one by one", "texts/s", seen, ("batched", "rate"), ("alone", "rate"))

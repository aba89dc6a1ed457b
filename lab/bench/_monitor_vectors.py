"""Drift of real sentence embeddings: questions of fetched sets, of which some come from a set that was not there before."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab import data
from lab.metrics import similarity
from lab.stats import drift

Floats = NDArray[np.float64]
USUAL = ("nq_open", "commonsense_qa", "openbook_qa")
NEW = "asdiv"
"""What was asked so far, in equal parts, and what comes in anew: school word problems with numbers."""
MOVED = (0.1, 0.2, 0.5)
REFERENCE, WINDOW = 400, 200
MOST_AFTER = 2000
"""Requests after the change that are looked at."""


def vectors(runs: int, texts: int, seed: int) -> list[dict[str, Any]]:
    """Every kind of distance, and the mix of the sets' names beside it: false alarms, and requests until a change is found.

    Vectors are drawn with replacement from `texts` questions of each set, so that without a change nothing differs.
    """
    pools = {name: _embedded(name, texts, seed) for name in (*USUAL, NEW)}
    rows = []
    kinds: tuple[drift.Kind, ...] = ("energy", "mmd")
    for kind in kinds:
        rows.append(_level(pools, kind, 5 * runs, seed) | _stable(pools, kind, max(1, runs // 4), seed))
        print(f"Drift of embeddings, {kind:<6}: p <= 5% in {rows[-1]['at_5']:.1%} and p <= 1% in {rows[-1]['at_1']:.1%} of "
              f"{5 * runs} stable windows; alarms in {rows[-1]['false_alarms']:.1%} of {max(1, runs // 4)} streams of 10,000; "
              f"{rows[-1]['test_s'] * 1e3:.0f} ms a stable window", flush=True)
        for moved in MOVED:
            rows.append(_delays(kind, moved, [_found(pools, kind, moved, seed + i) for i in range(runs)]))
    for moved in MOVED:
        rows.append(_delays("mix of topics", moved, [_by_name(moved, seed + i) for i in range(runs)]))
    return rows


def _embedded(name: str, texts: int, seed: int) -> Floats:
    questions = data.questions(name)
    chosen = np.random.default_rng(seed).permutation(len(questions))[:texts]
    return np.asarray(similarity.default().embed([questions[i].question for i in chosen]), dtype=np.float64)


def _names(n: int, moved: float, rng: np.random.Generator) -> list[str]:
    """Which set each of `n` requests is from."""
    which = rng.integers(0, len(USUAL), n)
    return [NEW if new else USUAL[i] for new, i in zip(rng.random(n) < moved, which, strict=True)]


def _drawn(pools: dict[str, Floats], n: int, moved: float, rng: np.random.Generator) -> Floats:
    return np.stack([pools[name][rng.integers(len(pools[name]))] for name in _names(n, moved, rng)])


def _level(pools: dict[str, Floats], kind: drift.Kind, windows: int, seed: int) -> dict[str, Any]:
    """How often a window that is like its reference has a small p."""
    rng = np.random.default_rng(seed)
    p = np.array([drift.two_samples(_drawn(pools, REFERENCE, 0.0, rng), _drawn(pools, WINDOW, 0.0, rng), kind=kind,
                                    permutations=999, seed=i).p_value for i in range(windows)])
    return {"kind": kind, "moved": 0.0, "at_5": float(np.mean(p <= 0.05)), "at_1": float(np.mean(p <= 0.01))}


def _stable(pools: dict[str, Floats], kind: drift.Kind, streams: int, seed: int) -> dict[str, Any]:
    """How often any of the 50 windows of 10,000 requests raises an alarm, and what a window takes."""
    rng, wrong, began = np.random.default_rng(seed + 1), 0, time.perf_counter()
    for i in range(streams):
        detector = drift.Vectors(_drawn(pools, REFERENCE, 0.0, rng), window=WINDOW, kind=kind, seed=i)
        wrong += max(map(detector.update, _drawn(pools, 10_000, 0.0, rng)))
    return {"false_alarms": wrong / streams, "test_s": (time.perf_counter() - began) / streams / (10_000 / WINDOW)}


def _found(pools: dict[str, Floats], kind: drift.Kind, moved: float, seed: int) -> float:
    """Requests from the change, which comes with a window's first, to the alarm."""
    rng = np.random.default_rng(seed)
    detector = drift.Vectors(_drawn(pools, REFERENCE, 0.0, rng), window=WINDOW, kind=kind, seed=seed)
    return next((t for t, row in enumerate(_drawn(pools, MOST_AFTER, moved, rng), 1) if detector.update(row)), math.inf)


def _by_name(moved: float, seed: int) -> float:
    """The same where each question's set is known and the mix of their names is watched."""
    rng = np.random.default_rng(seed)
    found = drift.scan(drift.Mix(_names(2000, 0.0, rng), limit=drift.limit()), _names(MOST_AFTER, moved, rng)).at
    return math.inf if found is None else found + 1.0


def _delays(kind: str, moved: float, delays: Sequence[float]) -> dict[str, Any]:
    row = {"kind": kind, "moved": moved, "within_500": float(np.mean(np.array(delays) <= 500)),
           "median": float(np.percentile(delays, 50, method="higher"))}
    print(f"Drift of embeddings, {kind:<13} {moved:4.0%} of requests from a new set: found within 500 in "
          f"{row['within_500']:.0%}, median {row['median']:,.0f}", flush=True)
    return row

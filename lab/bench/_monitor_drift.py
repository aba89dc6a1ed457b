"""Simulated streams with a drop: false alarms, how soon it is found, and the same for ADWIN and Page-Hinkley at their best."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from lab.stats import drift
from lab.stats.drift.simulated import Found, Streams, adwin, calibrated, level, page_hinkley

RATES = (0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
WITHIN, DROP = 500, 0.1
FALSE_ALARMS = 0.01
SCORES = ((0.8, 0.1), (0.7, 0.2), (0.6, 0.3))
"""Mean and standard deviation of graded scores."""


def detection(runs: int, seed: int) -> list[dict[str, Any]]:
    """A drop by 10% of the mean: our detector with a known reference and with measured ones."""
    rows = []
    for rate in RATES:
        for known in (0, 1000, 5000):
            found = level(Streams.shares(rate, DROP * rate, runs=runs, known=known, seed=seed), limit=drift.limit())
            rows.append(_row(f"right {rate:.0%}", "e-detector", known, found) | {"bound": _bound(rate)})
    for mean, deviation in SCORES:
        for known in (0, 1000):
            streams = Streams.scores(mean, deviation, DROP * mean, runs=min(runs, 300), known=known, seed=seed)
            rows.append(_row(f"scores {mean:g} +- {deviation:g}", "e-detector", known, level(streams, limit=drift.limit())))
    return rows


def beside(runs: int, adwin_runs: int, seed: int) -> list[dict[str, Any]]:
    """The same drops for river's detectors: as they come, and Page-Hinkley with the threshold that suits this very stream."""
    rows = []
    for rate in (0.95, 0.9, 0.8):
        streams = Streams.shares(rate, DROP * rate, runs=runs, seed=seed)
        default = page_hinkley(streams, threshold=50.0, allowance=0.005)
        rows.append(_row(f"right {rate:.0%}", "Page-Hinkley as it comes", 0, default))
        tuned = Streams.shares(rate, 0.0, runs=2 * runs, after=1, seed=seed + 1)
        allowance = 0.05 * rate
        threshold = calibrated(tuned, allowance=allowance, false_alarms=FALSE_ALARMS)
        found = page_hinkley(streams, threshold=threshold, allowance=allowance)
        rows.append(_row(f"right {rate:.0%}", f"Page-Hinkley tuned to this stream ({threshold:.1f})", 0, found))
        few = Streams.shares(rate, DROP * rate, runs=adwin_runs, seed=seed)
        for delta in (0.002, 0.1):
            name = f"ADWIN {delta:g}" + " as it comes" * (delta == 0.002)
            rows.append(_row(f"right {rate:.0%}", name, 0, adwin(few, delta=delta)))
    # Tuned on one stream and used on another, the promise is gone.
    other = page_hinkley(Streams.shares(0.8, 0.08, runs=runs, seed=seed), allowance=0.05 * 0.95, threshold=calibrated(
        Streams.shares(0.95, 0.0, runs=2 * runs, after=1, seed=seed + 1), allowance=0.05 * 0.95, false_alarms=FALSE_ALARMS))
    rows.append(_row("right 80%", "Page-Hinkley tuned to a stream of 95%", 0, other))
    return rows


def together(runs: int, seed: int, *, streams: int = 8) -> dict[str, float]:
    """Several streams that share their values in part: how often any of them gives a false alarm within 10,000 requests."""
    rng = np.random.default_rng(seed)
    bound, wrong, alone = drift.limit(streams=streams), np.zeros(runs, dtype=bool), np.zeros(runs, dtype=bool)
    shared = rng.random((runs, 10_000))
    for _ in range(streams):
        own = np.where(rng.random((runs, 10_000)) < 0.5, shared, rng.random((runs, 10_000)))
        values = Streams(values=(own < 0.9).astype(float), before=10_000, references=(drift.Reference.share(0.9),) * runs)
        wrong |= np.isfinite(level(values, limit=bound).at)
        alone |= np.isfinite(level(values, limit=drift.limit()).at)
    made = {"streams": streams, "any_false_alarm": float(wrong.mean()), "any_without_sharing": float(alone.mean())}
    print(f"Drift, {streams} streams: any false alarm within 10,000 requests {made['any_false_alarm']:.1%}; without sharing it "
          f"would be {made['any_without_sharing']:.1%}")
    return made


def mixes(runs: int, seed: int) -> dict[str, float]:
    """Topics of shares 40, 30, 20 and 10%: false alarms, and requests until the last two have changed places."""
    rng = np.random.default_rng(seed)
    names, before, after = np.array(list("abcd")), (0.4, 0.3, 0.2, 0.1), (0.4, 0.3, 0.1, 0.2)
    wrong, delays = [], []
    for _ in range(runs):
        reference = list(names[rng.choice(4, size=2000, p=before)])
        values = [*names[rng.choice(4, size=10_000, p=before)], *names[rng.choice(4, size=3000, p=after)]]
        found = drift.scan(drift.Mix(reference, limit=drift.limit()), values)
        wrong.append(found.at is not None and found.at < 10_000)
        if not wrong[-1]:
            delays.append(math.inf if found.at is None else found.at - 10_000 + 1)
    made = {"false_alarms": float(np.mean(wrong)), "median": float(np.percentile(delays, 50, method="higher")),
            "within_500": float(np.mean(np.array(delays) <= WITHIN))}
    print(f"Drift of a mix (two of four topics change places): false alarms {made['false_alarms']:.1%}, found after "
          f"{made['median']:.0f} requests (median), {made['within_500']:.0%} within {WITHIN}")
    return made


def vectors(runs: int, seed: int) -> list[dict[str, Any]]:
    """Embeddings of 384 dimensions in ten topics: a fifth of the answers moves to a new topic; a test per 200 answers."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((11, 384))
    level_ = FALSE_ALARMS / 50

    def drawn(n: int, moved: float) -> np.ndarray:
        topic = np.where(rng.random(n) < moved, 10, rng.integers(0, 10, n))
        rows = centres[topic] + 1.5 * rng.standard_normal((n, 384))
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    kinds: tuple[drift.Kind, ...] = ("energy", "mmd")
    rows = []
    for kind in kinds:
        stable, moved = ([drift.two_samples(drawn(400, 0.0), drawn(200, share), kind=kind, permutations=999, seed=i).p_value
                          for i in range(runs)] for share in (0.0, 0.2))
        began = time.perf_counter()
        drift.two_samples(drawn(400, 0.0), drawn(200, 0.2), kind=kind, permutations=math.ceil(4 / level_))
        rows.append({"kind": kind, "false_alarm_at_5": float(np.mean(np.array(stable) <= 0.05)),
                     "found_at_1": float(np.mean(np.array(moved) <= 0.01)), "smallest_p": float(min(moved)),
                     "test_s": time.perf_counter() - began})
        print(f"Drift of embeddings, {kind:<6}: p <= 0.05 in {rows[-1]['false_alarm_at_5']:.1%} of stable windows, p <= 0.01 in "
              f"{rows[-1]['found_at_1']:.1%} of windows with a fifth moved; "
              f"{float(rows[-1]['test_s']) * 1e3:.0f} ms a test", flush=True)
    return rows


def _row(stream: str, detector: str, known: int, found: Found) -> dict[str, Any]:
    made = {"stream": stream, "detector": detector, "reference": known, "false_alarms": found.false_alarms,
            "within_500": found.within(WITHIN), "median": found.delay(), "p90": found.delay(90)}
    held = f"reference of {known:,}" if known else "reference known"
    print(f"Drift, {stream:<16} {detector:<46} {held:<18} false alarms {made['false_alarms']:6.1%}  found within {WITHIN} "
          f"{made['within_500']:6.1%}  median {made['median']:>6,.0f}", flush=True)
    return made


def _bound(rate: float) -> float:
    """Lorden's (1971) asymptotic least delay at this rate of false alarms: log(limit) over the divergence per answer."""
    after = rate * (1 - DROP)
    divergence = after * math.log(after / rate) + (1 - after) * math.log((1 - after) / (1 - rate))
    return math.log(drift.limit()) / divergence

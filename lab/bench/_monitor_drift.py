"""Simulated streams that move: false alarms, how soon a drop is found, and the same for other detectors at their best."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lab.stats import drift
from lab.stats.drift.simulated import (
    Found,
    Streams,
    adwin,
    calibrated,
    calibrated_last,
    last_values,
    level,
    page_hinkley,
)

RATES = (0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
WITHIN, DROP = 500, 0.1
FALSE_ALARMS = 0.01
SCORES = ((0.8, 0.1), (0.7, 0.2), (0.6, 0.3))
"""Mean and standard deviation of graded scores."""


def detection(runs: int, seed: int) -> list[dict[str, Any]]:
    """A drop by 10% of the mean: our detector with a known reference and with measured ones."""
    rows = []
    for rate in RATES:
        most = drift.most_found(rate, DROP * rate, within=WITHIN, false_alarms=FALSE_ALARMS)
        print(f"Drift, right {rate:.0%}: no detector can find more than {most:.0%} within {WITHIN}")
        for known in (0, 5000, 1000, 200):
            found = level(Streams.shares(rate, DROP * rate, runs=runs, known=known, seed=seed), limit=drift.limit())
            rows.append(_row(f"right {rate:.0%}", "e-detector", known, found) | {"most_possible": most})
    for mean, deviation in SCORES:
        for known in (0, 1000, 200):
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
        summed = calibrated_last(tuned, window=WITHIN, false_alarms=FALSE_ALARMS)
        rows.append(_row(f"right {rate:.0%}", f"sum of the last {WITHIN} tuned to this stream ({summed:.0f})", 0,
                         last_values(streams, window=WITHIN, limit=summed)))
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


def mixes(runs: int, seed: int) -> list[dict[str, Any]]:
    """Topics whose commonest and rarest change places: false alarms, and requests until it is found."""
    rows = []
    for topics in (4, 10, 20):
        names = np.array([f"topic {i}" for i in range(topics)])
        for known in (200, 500, 2000):
            rng, wrong, delays = np.random.default_rng(seed), 0, []
            for _ in range(runs):
                before = rng.dirichlet(np.full(topics, 4.0))
                ends, after = [int(before.argmax()), int(before.argmin())], before.copy()
                after[ends] = before[ends[::-1]]
                reference, stable, moved = (names[rng.choice(topics, size=n, p=p)].tolist()
                                            for n, p in ((known, before), (10_000, before), (3000, after)))
                found = drift.scan(drift.Mix(reference, limit=drift.limit()), [*stable, *moved])
                early = found.at is not None and found.at < 10_000
                wrong += early
                delays += [] if early else [math.inf if found.at is None else found.at - 10_000 + 1]
            rows.append({"topics": topics, "reference": known, "false_alarms": wrong / runs,
                         "median": float(np.percentile(delays, 50, method="higher")) if delays else math.nan,
                         "within_500": float(np.mean(np.array(delays) <= WITHIN)) if delays else math.nan})
            print(f"Drift of a mix of {topics:>2} topics, reference of {known:>5,}: false alarms {rows[-1]['false_alarms']:.1%}, "
                  f"found after {rows[-1]['median']:,.0f} requests (median), {rows[-1]['within_500']:.0%} within {WITHIN}",
                  flush=True)
    return rows


def _row(stream: str, detector: str, known: int, found: Found) -> dict[str, Any]:
    made = {"stream": stream, "detector": detector, "reference": known, "false_alarms": found.false_alarms,
            "within_500": found.within(WITHIN), "median": found.delay(), "p90": found.delay(90)}
    held = f"reference of {known:,}" if known else "reference known"
    print(f"Drift, {stream:<16} {detector:<46} {held:<18} false alarms {made['false_alarms']:6.1%}  found within {WITHIN} "
          f"{made['within_500']:6.1%}  median {made['median']:>6,.0f}", flush=True)
    return made

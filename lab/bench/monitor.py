"""Whether A/B verdicts and drift alarms keep their promises: simulated streams, many seeds, every figure with its limit.

An A/B comparison is looked at after every request and may be wrong in 5% at most. A drop of quality by 10% should be found
within 500 requests at no more than 1% false alarms in 10,000. Of a million logged requests what monitoring needs is read within
a second. Method and findings: docs/decisions/0018-sequential-and-drift.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from lab import machine
from lab.bench import _monitor_drift as drifting
from lab.bench import _monitor_log as logged
from lab.bench import _monitor_page as page
from lab.bench import _monitor_rollout as rollout
from lab.bench import _monitor_vectors as embedded
from lab.errors import LabError

PARTS = ("page", "log", "verdicts", "drift", "vectors")


def main(
    *, parts: Sequence[str] = (), runs: int = 1000, requests: int = 4000, streams: int = 1000, adwin_streams: int = 60,
    mixes: int = 100, windows: int = 30, texts: int = 250, rows: int = 1_000_000, seed: int = 1,
) -> dict[str, Any]:
    """Simulate, print a line per figure, and return the same figures. No `parts` are all of them."""
    began, parts = time.perf_counter(), parts or PARTS
    if unknown := [part for part in parts if part not in PARTS]:
        raise LabError(f"There is no part '{unknown[0]}'; the parts are {', '.join(PARTS)}.")
    if min(runs, streams, adwin_streams, mixes, windows, texts) < 2 or requests < 50 or rows < 1000:
        raise LabError("Every number of simulated things is at least 2, of requests at least 50, of rows at least 1,000.")
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "page": lambda: {"page": page.page(rows, seed)}, "log": lambda: {"log": logged.reading(rows, seed)},
        "verdicts": lambda: _verdicts(runs, requests, seed),
        "drift": lambda: _drift(streams, adwin_streams, mixes, seed),
        "vectors": lambda: {"vectors": embedded.vectors(windows, texts, seed)}}
    made: dict[str, Any] = {}
    for part in PARTS:
        if part in parts:
            started = time.perf_counter()
            made |= steps[part]() | {f"{part}_wall_s": time.perf_counter() - started}
            print(f"({part}: {made[f'{part}_wall_s']:.0f} s)", flush=True)
    return made | {"runs": runs, "requests": requests, "streams": streams, "seed": seed, "wall_s": time.perf_counter() - began,
                   "machine": machine.fingerprint(bandwidth=False).as_tags()}


def _verdicts(runs: int, requests: int, seed: int) -> dict[str, Any]:
    made: dict[str, Any] = {
        "false_verdicts": rollout.false_verdicts(runs, requests, seed), "naive": rollout.naive(runs, requests, seed),
        "users": rollout.with_users(runs, requests, seed), "power": rollout.power_curve(2 * runs, seed),
        "counting": rollout.seconds()}
    worst = max(row["wrong"] for row in made["false_verdicts"])
    print(f"A/B: wrong in {worst:.1%} at worst; at most 5%: {'yes' if worst <= 0.05 else 'NO'}")
    return made


def _drift(streams: int, adwin_streams: int, mixes: int, seed: int) -> dict[str, Any]:
    made: dict[str, Any] = {
        "drift": drifting.detection(streams, seed), "beside": drifting.beside(streams, adwin_streams, seed),
        "several": drifting.together(min(streams, 500), seed), "mix": drifting.mixes(mixes, seed)}
    kept = [row for row in made["drift"] if row["within_500"] >= 0.9]
    print("Drift: found within 500 requests in at least 90% of streams: "
          + ", ".join(f"{row['stream']} ({'known' if not row['reference'] else row['reference']}; false alarms "
                      f"{row['false_alarms']:.1%})" for row in kept))
    return made

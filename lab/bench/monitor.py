"""Whether A/B verdicts and drift alarms keep their promises: simulated streams, many seeds, every figure with its limit.

An A/B comparison is looked at after every request and may be wrong in 5% at most. A drop of quality by 10% should be found
within 500 requests at no more than 1% false alarms in 10,000. Method and findings: docs/decisions/0018-sequential-and-drift.md.
"""

from __future__ import annotations

import time
from typing import Any

from lab import machine
from lab.bench import _monitor_drift as drifting
from lab.bench import _monitor_page as page
from lab.bench import _monitor_rollout as rollout
from lab.errors import LabError


def main(
    *, runs: int = 1000, requests: int = 4000, streams: int = 500, adwin_streams: int = 100, rows: int = 1_000_000,
    seed: int = 1, only: str = ""
) -> dict[str, Any]:
    """Simulate, print a line per figure, and return the same. `only` "page" measures the page on `rows` requests alone."""
    began = time.perf_counter()
    if only not in ("", "page"):
        raise LabError(f"There is no part '{only}' to measure alone; give page, or leave it out.")
    shown = page.page(rows, seed)
    if only:
        return {"page": shown, "wall_s": time.perf_counter() - began,
                "machine": machine.fingerprint(bandwidth=False).as_tags()}
    made: dict[str, Any] = {
        "page": shown,
        "false_verdicts": rollout.false_verdicts(runs, requests, seed), "naive": rollout.naive(runs, requests, seed),
        "users": rollout.with_users(runs, requests, seed), "power": rollout.power_curve(2 * runs, seed),
        "counting": rollout.seconds(),
        "drift": drifting.detection(streams, seed), "beside": drifting.beside(streams, adwin_streams, seed),
        "several": drifting.together(streams, seed), "mix": drifting.mixes(min(streams, 200), seed),
        "vectors": drifting.vectors(min(streams, 100), seed)}
    worst = max(row["wrong"] for row in made["false_verdicts"])
    print(f"A/B: wrong in {worst:.1%} at worst; at most 5%: {'yes' if worst <= 0.05 else 'NO'}")
    kept = [row for row in made["drift"] if row["within_500"] >= 0.9 and row["false_alarms"] <= 0.01]
    print("Drift: found within 500 requests in at least 90% of streams, at 1% false alarms or fewer: "
          + ", ".join(f"{row['stream']} ({'known' if not row['reference'] else row['reference']})" for row in kept))
    return made | {"runs": runs, "requests": requests, "streams": streams, "seed": seed, "wall_s": time.perf_counter() - began,
                   "machine": machine.fingerprint(bandwidth=False).as_tags()}

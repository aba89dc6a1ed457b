"""What the users of a service saw under load: latencies from scheduled arrival, rates, and goodput with and without quality."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lab import stats
from lab.errors import LabError
from lab.metrics import speed
from lab.records import Estimate, Generation, Score

STALL_S = 0.1
STALL_FACTOR = 5
"""A stall is a gap between tokens above both 100 ms and five times the median gap: seen by a reader, and out of the ordinary."""


def served(
    generations: Sequence[Generation], seconds: float, scores: Sequence[Score | None] = (), *, ttft_limit_s: float,
    tpot_limit_s: float,
) -> dict[str, float | Estimate]:
    """What the users saw: latencies from scheduled arrival, rates over `seconds`, goodput with and without quality.

    A request that failed or did not end in time is a miss, with infinite latency. `scores` has one entry per generation,
    None where nothing can be checked (or none at all). Quality-conditioned goodput counts, per second, the requests with a
    checkable answer that met both limits and answered right.
    """
    if not seconds > 0:
        raise LabError(f"Rates need the duration of the load in seconds, above 0, not {seconds:g}.")
    ended = [g for g in generations if g.finish_reason in ("stop", "length")]
    late = len(generations) - len(ended)
    ttft = [speed.ttft_s(g, since=_since(g)) for g in ended] + [math.inf] * late
    e2e = [speed.e2e_s(g, since=_since(g)) for g in ended] + [math.inf] * late
    queue = [g.started_s - g.scheduled_s for g in ended if g.started_s is not None and g.scheduled_s is not None]
    gaps = [gap for g in ended for gap in speed.itl_s(g)]
    met = [g.finish_reason in ("stop", "length") and speed.meets(g, ttft_limit_s=ttft_limit_s, tpot_limit_s=tpot_limit_s)
           for g in generations]
    checked = [s for s in scores if s]
    right = sum(within and s is not None and s.value == 1 for within, s in zip(met, scores or [None] * len(met), strict=True))
    summary: dict[str, float | Estimate] = {
        "ttft_s": stats.median(ttft), "tpot_s": stats.median([speed.tpot_s(g) for g in ended] + [math.inf] * late),
        "output_tokens_per_s": sum(len(g.tokens_at_s) for g in generations) / seconds,
        "requests_per_s": len(ended) / seconds, "goodput_requests_per_s": sum(met) / seconds,
        "attainment_share": stats.proportion(sum(met), len(generations)), "unfinished_requests": float(late),
    }
    summary["stalls"] = float(sum(gap > max(STALL_S, STALL_FACTOR * stats.percentile(gaps, 50)) for gap in gaps)) if gaps else 0.0
    # What never came is one gap without an end for each request that failed: itl percentiles are of gaps.
    for name, values in (("ttft", ttft), ("e2e", e2e), ("itl", gaps + [math.inf] * late), ("queue", queue)):
        summary |= {f"{name}_p{q}_s": stats.percentile(values, q) for q in (50, 95, 99)}
    if checked:
        known = [s for s in checked if s.scored]
        summary["quality_goodput_requests_per_s"] = right / seconds
        summary["answered_share"] = stats.proportion(int(sum(s.value for s in known)), len(known)) if known else math.nan
    return summary


def _since(generation: Generation) -> speed.Since:
    """A closed loop over HTTP has no schedule: a request is due when it is sent."""
    return "sent" if generation.scheduled_s is None else "scheduled"

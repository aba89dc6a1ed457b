"""Every speed number, derived from the clock readings of a generation.

Tools disagree about these words, so here they are. TTFT: until the first content token. TPOT: (last - first) / (n - 1).
ITL: every gap between neighbouring tokens; k tokens of one chunk share a reading, which makes k - 1 gaps of 0. End to
end: until the last content token. `since="scheduled"` counts from when the request was due instead of when it was sent;
under overload only that shows the wait in the queue (coordinated omission). A failed request is +inf in every latency
and so 0 in every rate. What was not observed is NaN.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

from lab import stats
from lab.errors import LabError
from lab.records import Estimate, Generation

Since = Literal["sent", "scheduled"]


def failed(generation: Generation) -> bool:
    """Whether the request broke off with an error. One that its caller cancelled did not fail."""
    return generation.error is not None or generation.finish_reason == "error"


def ttft_s(generation: Generation, *, since: Since = "sent") -> float:
    """Seconds to the first token; NaN when it gave none without failing (an empty answer, or cancelled before it)."""
    if failed(generation):
        return math.inf
    return generation.tokens_at_s[0] - _start_s(generation, since) if generation.tokens_at_s else math.nan


def tpot_s(generation: Generation) -> float:
    """Seconds per output token after the first; NaN below 2 tokens."""
    if failed(generation):
        return math.inf
    at = generation.tokens_at_s
    return (at[-1] - at[0]) / (len(at) - 1) if len(at) >= 2 else math.nan


def itl_s(generation: Generation) -> list[float]:
    """Every gap between neighbouring tokens in seconds; a failed request adds the one that never ended (+inf)."""
    at = generation.tokens_at_s
    gaps = [after - before for before, after in itertools.pairwise(at)]
    return [*gaps, math.inf] if failed(generation) else gaps


def e2e_s(generation: Generation, *, since: Since = "sent") -> float:
    """Seconds to the last token; NaN when it gave none, or when its caller cancelled it and it has no end."""
    if failed(generation):
        return math.inf
    if not generation.tokens_at_s or generation.finish_reason == "cancelled":
        return math.nan
    return generation.tokens_at_s[-1] - _start_s(generation, since)


def decode_tokens_per_s(generation: Generation) -> float:
    """1 / TPOT; NaN where TPOT is, or where all tokens share one reading and no time was seen to pass."""
    per_token = tpot_s(generation)
    return 1 / per_token if per_token > 0 else math.nan


def prefill_tokens_per_s(generation: Generation) -> float:
    """Prompt tokens that were really read (not cached) per second of TTFT, which contains the first decode step.

    NaN when the engine does not say how many there were or how many were cached, or when all were.
    """
    prompt, cached = generation.usage.prompt_tokens, generation.usage.cached_tokens
    ttft = ttft_s(generation)
    if prompt is None or cached is None or prompt <= cached or not ttft > 0:
        return math.nan
    return (prompt - cached) / ttft


def cpu_s_per_token(generation: Generation) -> float:
    """CPU seconds of the whole request (prefill included) per output token; NaN when unknown or without tokens."""
    if generation.cpu_s is None or not generation.tokens_at_s:
        return math.nan
    return generation.cpu_s / len(generation.tokens_at_s)


def meets(generation: Generation, *, ttft_limit_s: float, tpot_limit_s: float) -> bool:
    """Whether the user was served within both limits, counted from the scheduled arrival where there is one.

    A failure and a cancelled request are misses. An answer of one token has no TPOT to miss. An answer that ended at once,
    without a token, was served when it ended: whether nothing was the right answer is for a score to say.
    """
    if failed(generation) or generation.finish_reason == "cancelled":
        return False
    since: Since = "sent" if generation.scheduled_s is None else "scheduled"
    if not generation.tokens_at_s:
        return generation.ended_s - _start_s(generation, since) <= ttft_limit_s
    tpot = tpot_s(generation)
    return ttft_s(generation, since=since) <= ttft_limit_s and (math.isnan(tpot) or tpot <= tpot_limit_s)


def goodput_requests_per_s(
    generations: Sequence[Generation], *, ttft_limit_s: float, tpot_limit_s: float, duration_s: float
) -> float:
    """Requests per second of `duration_s` that met both limits (DistServe, arXiv 2401.09670)."""
    if not duration_s > 0:
        raise LabError(f"Goodput needs the duration of the load in seconds, above 0, not {duration_s:g}.")
    met = sum(meets(g, ttft_limit_s=ttft_limit_s, tpot_limit_s=tpot_limit_s) for g in generations)
    return met / duration_s


def bandwidth_share(bytes_per_token: float, decode_tokens_per_s: float, bandwidth_bytes_per_s: float) -> float:
    """Which share of the memory bandwidth decoding uses: bytes read per token x tokens/s over bytes/s.

    Above 1 it means that the bytes do not come from memory (a model that fits the cache) or the bandwidth was
    measured on a busy machine. NaN when one of the three was not measured.
    """
    if not bandwidth_bytes_per_s > 0:
        return math.nan
    return bytes_per_token * decode_tokens_per_s / bandwidth_bytes_per_s


def summary(generations: Sequence[Generation]) -> dict[str, float | Estimate]:
    """Medians over `generations` with 95% bootstrap intervals, by measure name; NaN where nothing was measured.

    The two ITL percentiles are of all gaps pooled, their intervals from drawing whole generations.
    """
    gaps = [(gap, i) for i, generation in enumerate(generations) for gap in itl_s(generation)]
    itl, owners = [gap for gap, _ in gaps], [i for _, i in gaps]
    return {
        "ttft_s": stats.median([ttft_s(g) for g in generations]),
        "tpot_s": stats.median([tpot_s(g) for g in generations]),
        "itl_p50_s": stats.clustered_percentile(itl, owners, 50),
        "itl_p99_s": stats.clustered_percentile(itl, owners, 99),
        "e2e_s": stats.median([e2e_s(g) for g in generations]),
        "prefill_tokens_per_s": stats.median([prefill_tokens_per_s(g) for g in generations]),
        "decode_tokens_per_s": stats.median([decode_tokens_per_s(g) for g in generations]),
        "cpu_s_per_token": stats.median([cpu_s_per_token(g) for g in generations]),
        "output_tokens": stats.median([len(g.tokens_at_s) for g in generations]),
        "prompt_tokens": stats.median([_number(g.usage.prompt_tokens) for g in generations]),
    }


def _start_s(generation: Generation, since: Since) -> float:
    if since == "sent":
        return generation.sent_s
    return math.nan if generation.scheduled_s is None else generation.scheduled_s


def _number(count: int | None) -> float:
    return math.nan if count is None else float(count)

"""The token counts that a server reports, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lab.records import Usage


def read_usage(said: Mapping[str, Any], timings: Mapping[str, Any] | None = None) -> Usage:
    """Counts of a `usage` report; what was not said is None.

    Drafted tokens stand in `completion_tokens_details` (accepted and rejected predictions, as OpenAI has them), or in the
    `timings` that llama.cpp's own server adds.
    """
    def count(name: str, place: Any) -> int | None:
        value = place.get(name) if isinstance(place, Mapping) else None
        return value if type(value) is int and value >= 0 else None

    details, timings = said.get("completion_tokens_details"), timings or {}
    accepted, rejected = (count(f"{word}_prediction_tokens", details) for word in ("accepted", "rejected"))
    drafted = count("draft_n", timings) if accepted is None or rejected is None else accepted + rejected
    return Usage(
        prompt_tokens=count("prompt_tokens", said), cached_tokens=count("cached_tokens", said.get("prompt_tokens_details")),
        drafted_tokens=drafted, accepted_tokens=count("draft_n_accepted", timings) if accepted is None else accepted,
        output_tokens=count("completion_tokens", said))

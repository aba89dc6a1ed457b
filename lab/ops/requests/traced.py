"""Which trace a request has in MLflow where it was sampled, and scores that come later as feedback on that trace."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lab.ops import feedback
from lab.ops.requests.scores import Scored

EXPERIMENT = "requests"


def trace_id(request_id: str) -> str:
    """The trace of a request, if it was sampled."""
    return feedback.trace_id(EXPERIMENT, request_id)


def link(found: Sequence[Scored]) -> int:
    """Give each score to the trace of its request, where there is one; how many were given.

    A score that is given twice is one. Raises `LabError` when the store cannot be written.
    """
    by_trace = {trace_id(one.request_id): one for one in found}
    there = feedback.known(by_trace)
    given = [feedback.Feedback(trace_id=trace, name=one.name, value=None if math.isnan(one.value) else one.value, by=one.by,
                               kind="code", why=one.why, at_ms=round(1e3 * one.scored_s))
             for trace, one in by_trace.items() if trace in there]
    if given:
        feedback.give(given)
    return len(given)

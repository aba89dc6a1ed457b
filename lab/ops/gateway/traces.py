"""A sample of requests as MLflow traces, written beside the requests at a bounded rate; what is too much is counted, not awaited.

The id of a trace follows from the id of its request (`trace_id`), so that a judge or a person finds the trace of a row of the
log, and their feedback is linked to both.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from typing import Any

from lab.ops import feedback, tracking
from lab.ops.gateway.exchange import FILTERED, Ended
from lab.ops.requests.traced import EXPERIMENT, trace_id

MOST_WAITING = 64
PAUSE_S = 5.0
"""After a trace that the store did not take, nothing is tried for this long."""


class Traces:
    """`offer` takes at most `per_s` a second and never waits; 0 takes none."""

    def __init__(self, per_s: float) -> None:
        self.dropped = self.written = 0
        self._gap_s = 1 / per_s if per_s > 0 else float("inf")
        self._next = 0.0
        self._waiting: queue.Queue[Ended | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, daemon=True, name="traces") if per_s > 0 else None
        if self._thread is not None:
            self._thread.start()

    def offer(self, ended: Ended) -> None:
        """Perhaps have this request traced."""
        now = time.monotonic()
        if self._thread is None:
            return
        if now < self._next:
            self.dropped += 1
            return
        self._next = max(self._next + self._gap_s, now)
        try:
            self._waiting.put_nowait(ended)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Stop; what still waits is given two seconds."""
        if self._thread is not None:
            try:
                self._waiting.put_nowait(None)
                self._thread.join(2)
            except queue.Full:
                pass

    def _run(self) -> None:
        place, rest_until = "", 0.0
        while (ended := self._waiting.get()) is not None:
            if time.monotonic() < rest_until:
                self.dropped += 1
                continue
            try:
                place = place or tracking.experiment_id(tracking.writer(), EXPERIMENT)
                _written(ended, place)
                self.written += 1
            except Exception:  # a store that is down is told by /health; the log has the request
                self.dropped += 1
                rest_until = time.monotonic() + PAUSE_S


def _written(ended: Ended, place: str) -> None:
    from mlflow.entities import Span, TraceInfo, TraceLocation, TraceState

    record, trace = ended.record, trace_id(ended.record.request_id)
    lasted_ms = max(0, round(1e3 * record.e2e_s)) if record.e2e_s == record.e2e_s else 0
    bad = bool(record.error_kind)
    usage = {"input_tokens": _count(record.prompt_tokens), "output_tokens": _count(record.output_tokens)}
    usage["total_tokens"] = sum(usage.values())
    tags = {"mlflow.traceName": "request", "lab.request_id": record.request_id, "lab.release": record.release,
            "lab.status": str(record.status), "lab.finish_reason": record.finish_reason, "lab.arm": record.arm,
            "lab.ttft_s": f"{record.ttft_s:.6g}", "lab.cost_usd": f"{record.cost_usd:.6g}", "lab.guard": ended.guard[:1000]}
    info = TraceInfo(
        trace_id=trace, trace_location=TraceLocation.from_experiment_id(place), request_time=round(record.time_s * 1e3),
        state=TraceState.ERROR if bad else TraceState.OK, execution_duration=lasted_ms,
        request_preview=(ended.prompt or "")[:1000], response_preview=(ended.answer if ended.prompt is not None else "")[:1000],
        trace_metadata={"mlflow.trace.user": record.user_hash, "mlflow.trace.tokenUsage": json.dumps(usage)}, tags=tags)
    attributes: dict[str, Any] = {
        "mlflow.traceRequestId": trace, "mlflow.spanType": "CHAT_MODEL", "mlflow.chat.tokenUsage": usage,
        "lab.ttft_s": _plain(record.ttft_s), "lab.tpot_s": _plain(record.tpot_s), "lab.cost_usd": _plain(record.cost_usd)}
    if ended.prompt is not None:
        attributes |= {"mlflow.spanInputs": ended.prompt, "mlflow.spanOutputs": ended.answer}
    begin = round(record.time_s * 1e9)
    span = Span.from_dict({
        "trace_id": trace, "span_id": trace[3:19], "parent_span_id": None, "name": "request", "start_time_unix_nano": begin,
        "end_time_unix_nano": begin + lasted_ms * 1_000_000,
        "status": {"code": "ERROR" if bad else "OK", "message": record.error_kind},
        "attributes": {name: json.dumps(value) for name, value in attributes.items()}, "events": []})
    client = feedback.tracing()
    feedback.retried(lambda: client.start_trace(info))
    feedback.retried(lambda: client.log_spans(place, [span]))
    if record.refused == 1:
        blocked = record.finish_reason == FILTERED
        feedback.give([feedback.Feedback(trace_id=trace, name="guard_blocked" if blocked else "refused", value=1.0, kind="code",
                                         by="guardrails" if blocked else "refusal phrases", why=ended.guard if blocked else "")])


def _count(value: float) -> int:
    return int(value) if value == value else 0


def _plain(value: float) -> float | None:
    return value if value == value else None



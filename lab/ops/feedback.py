"""A recorded generation as an MLflow trace, and what people and judges say about it as feedback on that trace.

The ids of traces and feedback are derived from what they are about, so that writing twice is writing once: a generation has
one trace however many tasks and judges look at it, and a repeated save changes a rating instead of adding one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from lab.ops import store, tracking
from lab.records import Generation

if TYPE_CHECKING:
    from mlflow.tracing.client import TracingClient

Kind = Literal["person", "judge", "code"]
Value = float | str | None
T = TypeVar("T")

PATIENCE_S = 60.0
"""How long a locked store is tried again before the writer is told that nothing was saved."""
RUN, ITEM = "lab.run_id", "lab.item"
_SOURCES: dict[Kind, str] = {"person": "HUMAN", "judge": "LLM_JUDGE", "code": "CODE"}
_KINDS = {source: kind for kind, source in _SOURCES.items()}
_UNSCORED = "UNSCORED"
_PREVIEW = 1000  # characters that MLflow keeps of a preview


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feedback:
    """One statement about one trace: `name` is the axis, `by` the person or judge; None is unscored and `why` the reason.

    Two with the same trace, name, by and `about` (such as the rating task) are the same feedback, and the later one holds.
    """

    trace_id: str
    name: str
    value: Value
    by: str
    kind: Kind
    why: str = ""
    about: str = ""
    details: Mapping[str, str] = dataclasses.field(default_factory=dict)
    at_ms: int = 0

    @property
    def id(self) -> str:
        return "a-" + _digest(self.trace_id, self.name, self.by, self.kind, self.about)


def trace_id(run_id: str, item: str) -> str:
    """The trace of one generation of a trial run (see `items` for how they are named)."""
    return "tr-" + _digest(run_id, item)


def items(generations: Sequence[Generation]) -> dict[str, Generation]:
    """Generations by item: the id of the request, with `#2` and so on where a trial asked the same one again."""
    named: dict[str, Generation] = {}
    times: dict[str, int] = {}
    for generation in generations:
        name = generation.request.id
        times[name] = times.get(name, 0) + 1
        named[name if times[name] == 1 else f"{name}#{times[name]}"] = generation
    return named


def put_traces(run_id: str, generations: Mapping[str, Generation]) -> dict[str, str]:
    """Log the trace of each of a run's generations (by item) that has none yet; the trace id by item.

    Each is linked to the run (its metadata, as MLflow links them) and tagged with run and item; it shows the request and
    the answer in MLflow's own pages. Returns when everything is stored.
    """
    ids = {item: trace_id(run_id, item) for item in generations}
    there = known(ids.values())
    missing = {item: generation for item, generation in generations.items() if ids[item] not in there}
    if not missing:
        return ids
    with tracking.sentences():
        run = tracking.writer().get_run(run_id)
        client = tracing()
        place = str(run.info.experiment_id)
        for item, generation in missing.items():
            info = _info(ids[item], place, run_id, run.info.start_time, item, generation)
            retried(functools.partial(client.start_trace, info))
        spans = [_span(ids[item], run.info.start_time, generation) for item, generation in missing.items()]
        retried(lambda: client.log_spans(place, spans))
    return ids


def give(feedback: Sequence[Feedback]) -> None:
    """Store `feedback` and return when all of it is durable; what was said before under the same id is replaced.

    A locked store is tried again for a minute. Raises `LabError` in a sentence when something could not be stored; saving
    again is then the remedy, and repeats nothing.
    """
    with tracking.sentences():
        client = tracing()
        there = {f.id for f in on(f.trace_id for f in feedback)}
        for one in feedback:
            _give(client, one, one.id in there)


def withdraw(feedback: Sequence[Feedback]) -> None:
    """Take `feedback` back; what is not there stays so."""
    with tracking.sentences():
        client = tracing()
        for one in feedback:
            retried(functools.partial(client.delete_assessment, one.trace_id, one.id))


def on(trace_ids: Iterable[str]) -> list[Feedback]:
    """All feedback on these traces, oldest first, by SQL on a local store and by REST on a server."""
    ids = list(dict.fromkeys(trace_ids))
    connection = store.connect()
    if connection is None:
        return _from_rest(ids) if store.database() is None else []
    try:
        found = [row for some in _slices(ids) for row in _rows(connection, some)]
    finally:
        connection.close()
    return sorted((f for f in found if f is not None), key=lambda f: f.at_ms)


def retried(write: Callable[[], T]) -> T:
    """What `write` returns, tried again while another process holds the store.

    SQLite refuses at once, whatever its timeout, when two transactions that began with reading both want to write.
    """
    end, wait = time.monotonic() + PATIENCE_S, 0.01
    while True:
        try:
            return write()
        except Exception as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(wait * random.uniform(0.5, 1.5))
        wait = min(1.0, wait * 2)


# Reading


def _rows(connection: sqlite3.Connection, ids: Sequence[str]) -> Iterable[Feedback | None]:
    query = ("select trace_id, name, value, error, source_type, source_id, rationale, assessment_metadata, "
             "last_updated_timestamp from assessments where assessment_type = 'feedback' and valid and trace_id in "
             f"({','.join('?' * len(ids))})")
    for trace, name, value, error, source, by, why, metadata, at in connection.execute(query, ids):
        reason = (json.loads(error) or {}).get("error_message", "") if error else ""
        yield _feedback(trace, name, json.loads(value), reason or why, source, by, json.loads(metadata or "{}"), at)


def _from_rest(ids: Sequence[str]) -> list[Feedback]:
    with tracking.sentences():
        infos = tracing().store.batch_get_trace_infos(list(ids)) if ids else []
    found = [
        _feedback(a.trace_id or info.trace_id, a.name, a.feedback.value,
                  (a.feedback.error.error_message if a.feedback.error else "") or a.rationale, str(a.source.source_type),
                  a.source.source_id, a.metadata or {}, a.last_update_time_ms)
        for info in infos for a in info.assessments if a.feedback is not None and a.valid is not False]
    return sorted((f for f in found if f is not None), key=lambda f: f.at_ms)


def _feedback(
    trace: str, name: str, value: Any, why: str | None, source: str, by: str | None, metadata: Mapping[str, Any], at: int
) -> Feedback | None:
    """What a stored assessment says; None for a value that is neither a number nor a word (a list, a record)."""
    if not isinstance(value, (int, float, str, type(None))) or source not in _KINDS:
        return None
    given = float(value) if isinstance(value, (int, float)) else value
    details = {k: str(v) for k, v in metadata.items()}
    return Feedback(trace_id=trace, name=name, value=given, by=by or "", kind=_KINDS[source], why=why or "",
                    about=details.pop("lab.about", ""), details=details, at_ms=int(at))


def known(ids: Iterable[str]) -> set[str]:
    """Those of these traces that are in the store."""
    wanted = list(ids)
    connection = store.connect()
    if connection is None:
        if store.database() is not None or not wanted:
            return set()
        with tracking.sentences():
            return {info.trace_id for info in tracing().store.batch_get_trace_infos(wanted)}
    try:
        return {row[0] for some in _slices(wanted) for row in connection.execute(
            f"select distinct trace_id from spans where trace_id in ({','.join('?' * len(some))})", some)}
    finally:
        connection.close()


def _slices(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[i : i + 900] for i in range(0, len(ids), 900))


# Writing


def tracing() -> TracingClient:
    """A client for traces on the store in force."""
    store.client()  # the defaults of the environment
    from mlflow.tracing.client import TracingClient

    return TracingClient(store.uri())


def _give(client: TracingClient, one: Feedback, there: bool) -> None:
    from mlflow.exceptions import MlflowException

    assessment = _assessment(one)
    if not there:
        try:
            retried(lambda: client.log_assessment(one.trace_id, assessment))
            return
        except MlflowException as error:  # somebody saved the same rating since we looked
            if "constraint" not in str(error):
                raise
    retried(lambda: client.update_assessment(one.trace_id, one.id, assessment))


def _assessment(one: Feedback) -> Any:
    from mlflow.entities import AssessmentError, AssessmentSource
    from mlflow.entities import Feedback as Assessment

    unscored = one.value is None or one.value != one.value
    made = Assessment(
        name=one.name, value=None if unscored else one.value, rationale=one.why,
        error=AssessmentError(error_code=_UNSCORED, error_message=one.why or "no reason given") if unscored else None,
        source=AssessmentSource(source_type=_SOURCES[one.kind], source_id=one.by),
        metadata={**one.details, **({"lab.about": one.about} if one.about else {})})
    made.assessment_id = one.id
    return made


def _info(trace: str, place: str, run_id: str, start_ms: int, item: str, generation: Generation) -> Any:
    from mlflow.entities import TraceInfo, TraceLocation, TraceState

    return TraceInfo(
        trace_id=trace, trace_location=TraceLocation.from_experiment_id(place), request_time=start_ms,
        state=TraceState.ERROR if generation.error else TraceState.OK, execution_duration=_lasted_ms(generation),
        request_preview=asked(generation)[:_PREVIEW], response_preview=generation.text[:_PREVIEW],
        trace_metadata={"mlflow.sourceRun": run_id},
        tags={"mlflow.traceName": "generation", RUN: run_id, ITEM: item[:5000]})


def _span(trace: str, start_ms: int, generation: Generation) -> Any:
    from mlflow.entities import Span

    request = generation.request
    inputs: dict[str, Any] = {"decoding": dataclasses.asdict(request.decoding)}
    if request.messages is not None:
        inputs["messages"] = [dataclasses.asdict(message) for message in request.messages]
    else:
        inputs["prompt"] = request.prompt if request.prompt is not None else list(request.tokens or ())
    attributes = {"mlflow.traceRequestId": trace, "mlflow.spanType": "LLM", "mlflow.spanInputs": inputs,
                  "mlflow.spanOutputs": generation.text}
    start_ns = start_ms * 1_000_000
    return Span.from_dict({
        "trace_id": trace, "span_id": _digest(trace)[:16], "parent_span_id": None, "name": "generation",
        "start_time_unix_nano": start_ns, "end_time_unix_nano": start_ns + _lasted_ms(generation) * 1_000_000,
        "status": {"code": "ERROR" if generation.error else "OK", "message": generation.error or ""},
        "attributes": {name: json.dumps(value) for name, value in attributes.items()}, "events": []})


def asked(generation: Generation) -> str:
    """The last thing that a request asked, as text; tokens as numbers where that is all there is."""
    request = generation.request
    if request.messages:
        return request.messages[-1].content
    return request.prompt if request.prompt is not None else " ".join(map(str, request.tokens or ()))


def _lasted_ms(generation: Generation) -> int:
    return max(0, round((generation.ended_s - generation.sent_s) * 1000))


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


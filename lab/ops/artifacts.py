"""Raw observations as Parquet: one row per generation with every clock reading, one row per score."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lab.records import Decoding, Generation, Message, Request, Score, Usage


def write_generations(path: Path, generations: Sequence[Generation]) -> None:
    """Write `generations`; clock readings stay raw (seconds of the engine's monotonic clock)."""
    pq.write_table(pa.Table.from_pylist([_row(g) for g in generations], schema=_GENERATIONS), path)


def read_generations(path: Path) -> list[Generation]:
    return [_generation(row) for row in pq.read_table(path).to_pylist()]


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    pq.write_table(pa.Table.from_pylist([dataclasses.asdict(s) for s in scores], schema=_SCORES), path)


def read_scores(path: Path) -> list[Score]:
    return [Score(**row) for row in pq.read_table(path).to_pylist()]


_GENERATIONS = pa.schema([
    ("request", pa.string()), ("text", pa.string()), ("tokens", pa.list_(pa.int32())),
    ("tokens_at_s", pa.list_(pa.float64())), ("scheduled_s", pa.float64()), ("sent_s", pa.float64()),
    ("started_s", pa.float64()), ("ended_s", pa.float64()), ("cpu_s", pa.float64()),
    ("prompt_tokens", pa.int64()), ("cached_tokens", pa.int64()),
    ("drafted_tokens", pa.int64()), ("accepted_tokens", pa.int64()), ("output_tokens", pa.int64()),
    ("finish_reason", pa.string()), ("error", pa.string()), ("error_kind", pa.string()),
])
_SCORES = pa.schema([("name", pa.string()), ("item", pa.string()), ("value", pa.float64()), ("by", pa.string()),
                     ("why", pa.string())])


def _row(g: Generation) -> dict[str, Any]:
    row = {f.name: getattr(g, f.name) for f in dataclasses.fields(g) if f.name not in ("request", "usage")}
    return {**row, **dataclasses.asdict(g.usage), "request": json.dumps(dataclasses.asdict(g.request))}


def _generation(row: dict[str, Any]) -> Generation:
    usage = Usage(**{f.name: row.pop(f.name, None) for f in dataclasses.fields(Usage)})  # older files lack a column
    request = json.loads(row.pop("request"))
    decoding = request.pop("decoding")
    decoding["stop"] = tuple(decoding["stop"])
    if request["messages"] is not None:
        request["messages"] = tuple(Message(**m) for m in request["messages"])
    if request["tokens"] is not None:
        request["tokens"] = tuple(request["tokens"])
    return Generation(request=Request(**request, decoding=Decoding(**decoding)), usage=usage,
                      **{**row, "tokens": tuple(row["tokens"]), "tokens_at_s": tuple(row["tokens_at_s"])})

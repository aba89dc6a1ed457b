"""Prompts of eight kinds of work, from open conversation to copying with small changes: what speculation depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError

PATH = Path(__file__).parent / "tasks.jsonl"
SHA256 = "3bbb3d0fe1a44262ae8fe77469026eb758a6b0d4e406d199db0ba4306afd654a"
KINDS = ("conversation", "translation", "summarisation", "question_answering", "mathematics", "retrieval", "code",
         "copy_editing")
"""The six kinds of Spec-Bench (Xia et al. 2024, arXiv 2401.07851), code, and copying a text with small changes."""
LICENCE = "CC0-1.0 OR Apache-2.0"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One instruction; `id` is its kind and a number."""

    id: str
    kind: str
    prompt: str


def tasks(kinds: Sequence[str] = KINDS, limit: int = 4) -> list[Task]:
    """The first `limit` tasks of each of these kinds, kind by kind. Raises `LabError` for an unknown kind or too many."""
    raw = PATH.read_bytes()
    if hashlib.sha256(raw).hexdigest() != SHA256:
        raise LabError(f"{PATH.name} was changed since its hash was noted in lab/data/tasks.py; restore the file.")
    rows = [Task(**json.loads(line)) for line in raw.decode().splitlines()]
    if wrong := [kind for kind in kinds if kind not in KINDS]:
        raise LabError(f"There is no kind of task '{wrong[0]}'; the kinds are {', '.join(KINDS)}.")
    most = min(sum(row.kind == kind for row in rows) for kind in KINDS)
    if not 1 <= limit <= most:
        raise LabError(f"There are from 1 to {most} tasks of a kind, not {limit}.")
    return [row for kind in kinds for row in [r for r in rows if r.kind == kind][:limit]]

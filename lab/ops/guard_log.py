"""The log of guardrails: every decision as one line of JSON, with rule, place and cost, and without a word of anybody's text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from lab.safety import Record


def writer(file: Path) -> Callable[[Record], None]:
    """What a chain takes as its `sink`. It raises where the line cannot be written, and the chain then blocks."""
    def write(record: Record) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a", encoding="utf-8") as log:  # one short write appends as a whole
            log.write(json.dumps(dataclasses.asdict(record)) + "\n")

    return write


def read(file: Path) -> list[Record]:
    """The decisions that were logged, oldest first; none where there is no log."""
    if not file.is_file():
        return []
    return [Record(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]

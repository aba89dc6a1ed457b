"""The alerts that stand and those that were, on disk: an append-only journal of what was raised, cleared and delivered.

One evaluation at a time moves it on, under a lock. What is to be delivered is written down before it is, so a process that dies
in between leaves the delivery to the next one: a message may come twice, and is not lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.ops.alerts.evaluating import Alert

FILE = "alerts.jsonl"
STATE = "alerts.json"
MOST_BYTES = 2_000_000
"""Of the journal's end that is read; some thousand alerts."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What stands now, what is still to be delivered, and when the rules were last looked at."""

    open: tuple[Alert, ...] = ()
    pending: tuple[Alert, ...] = ()
    evaluated_s: float = 0.0
    rules_sha256: str = ""
    troubles: Mapping[str, str] = field(default_factory=dict)
    """By action: why the last delivery failed; one that works takes it away."""
    retries: int = 0
    """Rounds in a row in which a delivery failed, and when what is pending is tried again."""
    retry_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Event:
    """A line of the journal: an alert that was raised or cleared, or one that was delivered (or not, with `trouble`)."""

    at_s: float
    alert: Alert
    action: str = ""
    """What it was delivered by; "" for raised and cleared."""
    trouble: str = ""


def state(place: Path) -> State:
    """What stands in `place`. Raises `LabError` when the file is broken."""
    try:
        text = (place / STATE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return State()
    except OSError as error:
        raise LabError(f"The alerts that stand cannot be read ({error}); mend the folder {place}.") from error
    try:
        given = json.loads(text)
        return State(**{**given, **{key: tuple(_alert(one) for one in given[key]) for key in ("open", "pending")}})
    except (ValueError, TypeError, KeyError) as error:
        raise LabError(f"{place / STATE} is broken ({error}); move it away, and alerts that stand are raised anew.") from error


def write(place: Path, now: State) -> None:
    """Replace the state, whole or not at all."""
    partial = place / f"{STATE}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(now), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(place / STATE)


def append(place: Path, event: Event) -> None:
    """Add a line; one short write appends as a whole."""
    with open(place / FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(event)) + "\n")


def events(place: Path) -> list[Event]:
    """The journal, newest first; a line that was cut off by a crash is passed over."""
    try:
        with open(place / FILE, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MOST_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()[1 if size > MOST_BYTES else 0:]
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            given = json.loads(line)
            found.append(Event(**{**given, "alert": _alert(given["alert"])}))
    return found[::-1]


def _alert(given: Mapping[str, Any]) -> Alert:
    return Alert(**{**given, "actions": tuple(given["actions"]), "requests": tuple(given["requests"])})

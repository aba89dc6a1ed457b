"""The lists that ship with the guards: terms, wishes, signals and examples of topics, read once and checked by tests."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Category:
    """One category of harm: `phrases` that are disallowed wherever they stand, `objects` only in a request."""

    name: str
    phrases: tuple[str, ...]
    objects: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One sign of an attack, the patterns that show it, and what it weighs (1 is enough by itself)."""

    name: str
    weight: float
    patterns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A question of ours with its topic; `held_out` ones are never trained on."""

    text: str
    topic: str
    held_out: bool


def terms() -> tuple[Category, ...]:
    """The categories of `terms.yaml`."""
    return tuple(Category(name=name, phrases=tuple(entry.get("phrases", ())), objects=tuple(entry.get("objects", ())))
                 for name, entry in _read("terms.yaml")["categories"].items())


def wishes() -> tuple[str, ...]:
    """Words that ask for instructions or for a text."""
    return tuple(_read("terms.yaml")["wishes"])


def shields() -> tuple[str, ...]:
    """Words that turn the harm behind them into something to be kept away."""
    return tuple(_read("terms.yaml")["shields"])


def passives() -> tuple[str, ...]:
    """Words right behind which a harmful word is something that was suffered, or a fact of history."""
    return tuple(_read("terms.yaml")["passives"])


def exempt() -> tuple[str, ...]:
    """Phrases in which a harmful word is harmless."""
    return tuple(_read("terms.yaml")["exempt"])


def signals() -> tuple[Signal, ...]:
    """The signals of `signals.yaml`."""
    return tuple(Signal(name=name, weight=float(entry["weight"]), patterns=tuple(entry["patterns"]))
                 for name, entry in _read("signals.yaml").items())


def topic_words() -> dict[str, list[str]]:
    """Words that speak for each topic."""
    found: dict[str, list[str]] = _read("topics.yaml")
    return found


@functools.cache
def examples() -> tuple[Example, ...]:
    """The questions of `topics.jsonl`."""
    rows = (json.loads(line) for line in (FOLDER / "topics.jsonl").read_text().splitlines())
    return tuple(Example(text=row["text"], topic=row["topic"], held_out=bool(row.get("held_out"))) for row in rows)


@functools.cache
def _read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())

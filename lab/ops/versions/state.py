"""Moves of the aliases as a journal, and where they point after it: the one truth about what is in production.

A move is one entry of a registered model, written whole and in order by MLflow's store; the aliases are computed from all
entries. A move that says what it expects and finds something else has no effect, for every reader alike: that is the
compare-and-swap, on SQLite and over a server, for any number of processes and machines.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lab.ops.versions.registry import Entry

Alias = Literal["production", "candidate", "previous"]
Action = Literal["promote", "rollback", "candidate", "withdraw"]
ALIASES: tuple[Alias, ...] = ("production", "candidate", "previous")


@dataclass(frozen=True, kw_only=True, order=True)
class State:
    """Which release each alias points at (None: at none) after move number `head` of the journal made at `born_ms`."""

    born_ms: int = 0
    head: int = 0
    production: int | None = None
    candidate: int | None = None
    previous: int | None = None

    def of(self, alias: Alias) -> int | None:
        found: int | None = getattr(self, alias)
        return found

    def newer(self, other: State) -> bool:
        return (self.born_ms, self.head) > (other.born_ms, other.head)

    def aliases(self, number: int) -> tuple[Alias, ...]:
        """The aliases that point at a release."""
        return tuple(alias for alias in ALIASES if self.of(alias) == number)


@dataclass(frozen=True, kw_only=True)
class Move:
    """One move of an alias, or the attempt at one: who, when, why, and where the aliases pointed before and after it.

    `expect` is the release its author saw where the alias pointed (0: none; None: whatever it was). `defects` are what was
    found wrong with the release and overridden (`forced`).
    """

    number: int
    action: Action
    to: int | None
    expect: int | None = None
    by: str
    why: str
    at_ms: int = 0
    id: str = ""
    forced: bool = False
    defects: tuple[str, ...] = ()
    before: State = State()
    after: State = State()
    applied: bool = True

    @property
    def alias(self) -> Alias:
        return "candidate" if self.action in ("candidate", "withdraw") else "production"


def written(move: Move) -> str:
    """The move as JSON, without what the journal itself knows."""
    return json.dumps({name: getattr(move, name) for name in ("action", "to", "expect", "by", "why", "id", "forced", "defects")})


def replay(entries: Sequence[Entry], born_ms: int) -> list[Move]:
    """The moves of a journal, oldest first, each with what it changed. A move sent twice counts once."""
    state, moves, seen = State(born_ms=born_ms), list[Move](), set[str]()
    for entry in entries:
        move = _read(entry)
        if move is None or move.id in seen:
            continue
        seen.add(move.id)
        after, applied = _applied(state, move)
        after = replace(after, head=entry.number)
        moves.append(replace(move, before=state, after=after, applied=applied))
        state = after
    return moves


def _applied(state: State, move: Move) -> tuple[State, bool]:
    if move.expect is not None and (state.of(move.alias) or 0) != move.expect:
        return state, False
    if move.alias == "candidate":
        return replace(state, candidate=move.to), True
    if move.to == state.production:
        return state, True
    candidate = None if state.candidate == move.to and move.action == "promote" else state.candidate
    previous = state.production if state.production is not None else state.previous
    return replace(state, production=move.to, previous=previous, candidate=candidate), True


def _read(entry: Entry) -> Move | None:
    """The move of an entry; None when somebody else's entry stands there."""
    try:
        said = json.loads(entry.tags["lab.move"])
        return Move(**{**said, "defects": tuple(said["defects"])}, number=entry.number, at_ms=entry.at_ms)
    except (KeyError, ValueError, TypeError):
        return None

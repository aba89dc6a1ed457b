"""A whole stream at once: what `Level` and `Mix` would show after every value, without stepping through them.

The sum M of a bet after value t is the sum over s <= t of (capital after t) / (capital before s), so in logarithms it is a
cumulative sum and a running log-sum-exp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab.stats.drift.level import Bet, Level
from lab.stats.drift.mix import Mix

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """The value (from 0) at which the alarm came and the one with which the change most likely began; None without an alarm."""

    at: int | None = None
    began: int | None = None
    log_evidence: float = -math.inf
    """Log of the sum M, at the alarm or at the end."""
    direction: Literal["down", "up"] = "down"
    moved: tuple[str, ...] = ()
    """Of categories: those that the evidence comes from, the strongest first."""
    grown: tuple[str, ...] = ()


def scan(detector: Level | Mix, values: ArrayLike | Sequence[str]) -> Scanned:
    """What feeding all of `values` to a fresh `detector` would show, up to its first alarm; NaN and "" are passed over."""
    if isinstance(detector, Mix):
        return _mix(detector, values)  # type: ignore[arg-type]
    raw = np.asarray(values, dtype=np.float64).ravel()
    kept = np.flatnonzero(~np.isnan(raw))
    sums, capital = _logs(detector.bets, detector.reference.scaled_all(raw[kept]))
    return _found(sums, capital, detector.bets, _weights(detector.bets), kept, detector.limit)[0]


def path(detector: Level, values: ArrayLike) -> Floats:
    """The evidence after each of `values` (NaN left out) as a share of an alarm's, on the scale of logarithms; never below 0."""
    raw = np.asarray(values, dtype=np.float64).ravel()
    sums, _ = _logs(detector.bets, detector.reference.scaled_all(raw[~np.isnan(raw)]))
    evidence = np.logaddexp.reduce(sums + _weights(detector.bets)[:, None], axis=0)
    return np.asarray(np.clip(evidence / math.log(detector.limit), 0, None))


def _mix(detector: Mix, categories: Sequence[str]) -> Scanned:
    import dataclasses

    raw = np.asarray(categories, dtype=object)
    words = np.array([detector.named(one) for one in raw], dtype=object)
    kept = np.flatnonzero([isinstance(one, str) and one != "" for one in raw])
    made = [(name, bet) for name, level in detector.levels.items() for bet in level.bets]
    parts = [_logs(level.bets, (words[kept] == name).astype(np.float64)) for name, level in detector.levels.items()]
    sums, capital = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    weights = np.concatenate([_weights(level.bets) for level in detector.levels.values()]) - math.log(len(parts))
    found, end = _found(sums, capital, [bet for _, bet in made], weights, kept, detector.limit)
    if found.at is None:
        return found
    each = {name: float(np.logaddexp.reduce(part[0][:, end] + _weights(level.bets)))
            for (name, level), part in zip(detector.levels.items(), parts, strict=True)}
    strong = sorted((name for name in each if each[name] >= max(each.values()) + math.log(0.01)), key=lambda name: -each[name])
    best = {name: max((k for k, one in enumerate(made) if one[0] == name), key=lambda k: weights[k] + sums[k, end])
            for name in strong}
    return dataclasses.replace(found, moved=tuple(strong),
                               grown=tuple(name for name in strong if made[best[name]][1].direction == "up"))


def _logs(bets: Sequence[Bet], x: Floats) -> tuple[Floats, Floats]:
    """The log of every bet's sum and of its capital after each value, shape (bets, values)."""
    sign = np.array([1.0 if bet.direction == "down" else -1.0 for bet in bets])[:, None]
    at, size = (np.array([getattr(bet, name) for bet in bets])[:, None] for name in ("at", "size"))
    capital = np.cumsum(np.log(1 + sign * size * (at - x)), axis=1)
    before = np.concatenate([np.zeros((len(bets), 1)), capital], axis=1)[:, :-1] if x.size else capital
    return (capital + np.logaddexp.accumulate(-before, axis=1) if x.size else capital), capital


def _weights(bets: Sequence[Bet]) -> Floats:
    return np.log([bet.weight for bet in bets])


def _found(sums: Floats, capital: Floats, bets: Sequence[Bet], weights: Floats, kept: NDArray[np.intp],
           limit: float) -> tuple[Scanned, int]:
    """What was found, and the place of the alarm among the values that were not passed over."""
    evidence = np.logaddexp.reduce(sums + weights[:, None], axis=0)
    over = np.flatnonzero(evidence >= math.log(limit))
    if not over.size:
        return Scanned(log_evidence=float(evidence[-1]) if evidence.size else -math.inf), -1
    at = int(over[0])
    best = int(np.argmax(sums[:, at] + weights))
    path = np.concatenate([[0.0], capital[best, :at]])
    began = at - int(np.argmin(path[::-1]))  # the last place at which the capital was lowest
    return Scanned(at=int(kept[at]), began=int(kept[began]), log_evidence=float(evidence[at]), direction=bets[best].direction), at

"""Notices that the mean of a stream has moved, with a bound on false alarms that is proven and not tuned.

Each value x (0 to 1) multiplies a bet by 1 + lambda (m - x), which is 1 or less on average as long as the mean, given all that
came before, is not below m; nothing else is asked of the values. The sum over all times at which a change may have begun,
M = (1 + M) (1 + lambda (m - x)) (Shiryaev 1963, Roberts 1966), is then at most the number of values on average, whenever one
stops. So M reaches `limit` within n values with probability n / limit at most, and the mean time to a false alarm is `limit` at
least (e-detectors: Shin, Ramdas and Rinaldo, arXiv 2203.03532). Bets on several sizes of change are averaged, which keeps
both bounds. Their weights fall with the square of the change: a big change is seen so soon that the log of a small weight
costs it few values, and a small one gets what it needs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lab.errors import LabError
from lab.stats.drift.reference import Reference

Direction = Literal["down", "up", "both"]
CHANGES = (0.1, 0.2, 0.5)
"""Relative changes of the mean that are bet on: 0.1 is a drop of 10%."""
RISES = (1.0, 4.0)
"""Rises that are bet on as well: what is rare (refusals) has room to become twice or five times as many."""
MOST_BET = 0.9
"""Share of the largest bet that cannot lose everything."""


def limit(*, false_alarms: float = 0.01, requests: float = 10_000, streams: int = 1) -> float:
    """The limit that keeps the chance of any false alarm in `requests` values below `false_alarms`, over all streams together."""
    if not 0 < false_alarms < 1 or not requests >= 1 or streams < 1:
        raise LabError(f"False alarms are a share between 0 and 1 of periods of at least 1 request, not {false_alarms:g} of "
                       f"{requests:g}.")
    return requests * streams / false_alarms


@dataclass(frozen=True, kw_only=True)
class Bet:
    """One size of change, one direction: `size` is lambda, `at` the mean that is bet against."""

    direction: Literal["down", "up"]
    at: float
    size: float
    weight: float
    """Its share of the average; those of all bets of a detector add up to 1."""

    def pays(self, x: float) -> float:
        return 1 + self.size * (self.at - x if self.direction == "down" else x - self.at)


def bets(reference: Reference, direction: Direction,
         changes: Sequence[float] = CHANGES, sides: int | None = None) -> list[Bet]:
    """The bets against `reference`: for a change d the size d / variance, which for right and wrong is the likelihood ratio.

    `sides` are the ends of all references that one alarm rests on; none given, those of this one. A mean that may be at the end
    of the scale already is not bet to go there: such a bet has size 0 and wins nothing.
    """
    if not changes or min(changes) <= 0:
        raise LabError("Changes to look for are shares above 0, such as 0.1 for a change of the mean by 10%.")
    ways: tuple[Literal["down", "up"], ...] = ("down", "up") if direction == "both" else (direction,)
    low, high = reference.bounds(sides=sides or len(ways), change=min(changes))
    made = []
    for side in ways:
        at, room = (low, 1 - low) if side == "down" else (high, high)
        for change in changes if side == "down" else sorted({*changes, *RISES}):
            moved = change * at if side == "down" else min(change * at, 1 - at)
            made.append(Bet(direction=side, at=at, size=min(moved / reference.variance, MOST_BET / max(room, 1e-9)),
                            weight=change**-2))
    whole = sum(bet.weight for bet in made)
    return [dataclasses.replace(bet, weight=bet.weight / whole) for bet in made]


class Level:
    """A detector of one stream. `update` says whether the mean has moved; call `reset` after an alarm was taken care of."""

    def __init__(self, reference: Reference, *, direction: Direction = "down", limit: float = 1e6,
                 changes: Sequence[float] = CHANGES, sides: int | None = None) -> None:
        if direction not in ("down", "up", "both"):
            raise LabError(f"A detector looks down, up or both, not '{direction}'.")
        if not limit > 1:
            raise LabError(f"A detector's limit is above 1, not {limit:g}; `limit()` gives it for the false alarms you accept.")
        self.reference, self.limit = reference, limit
        self.bets = bets(reference, direction, changes, sides)
        self.reset()

    def reset(self) -> None:
        self.n, self._sums = 0, [0.0] * len(self.bets)
        self._best, self._start = [1.0] * len(self.bets), [0] * len(self.bets)

    def update(self, value: float) -> bool:
        """Take one value; NaN was not measured and is passed over."""
        if math.isnan(value):
            return self.alarm
        x = self.reference.scaled(value)
        for i, bet in enumerate(self.bets):
            pays = bet.pays(x)
            self._sums[i] = min((1 + self._sums[i]) * pays, 1e300)
            if self._best[i] <= 1:
                self._best[i], self._start[i] = 1.0, self.n
            self._best[i] = min(self._best[i] * pays, 1e300)
        self.n += 1
        return self.alarm

    @property
    def evidence(self) -> float:
        """The sum M; an alarm is due when it reaches the limit."""
        return sum(bet.weight * one for bet, one in zip(self.bets, self._sums, strict=True))

    @property
    def alarm(self) -> bool:
        return self.evidence >= self.limit

    @property
    def began(self) -> int:
        """The value (from 0) with which the change most likely began: where Page's (1954) sum of the strongest bet last was 0."""
        return self._start[self._strongest]

    @property
    def direction(self) -> Literal["down", "up"]:
        """The direction that the strongest bet is on."""
        return self.bets[self._strongest].direction

    @property
    def _strongest(self) -> int:
        return max(range(len(self._sums)), key=lambda i: self.bets[i].weight * self._sums[i])

    def as_json(self) -> dict[str, Any]:
        """The state as plain values."""
        return {"n": self.n, "sums": [*self._sums], "best": [*self._best], "start": [*self._start]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `as_json` gave for the same reference and settings."""
        if any(len(state.get(key, ())) != len(self.bets) for key in ("sums", "best", "start")):
            raise LabError("The kept state is of a detector with other settings; start it anew.")
        self.n, self._sums = int(state["n"]), [float(x) for x in state["sums"]]
        self._best, self._start = [float(x) for x in state["best"]], [int(x) for x in state["start"]]

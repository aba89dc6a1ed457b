"""Measures two or more programs in turn, round after round, and compares them only within a round.

A machine changes by the minute: its clock, its neighbours, its caches. Two speeds taken in the same half minute share
all that, so the ratio of each round is a fair observation even when neither speed can be repeated tomorrow.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from lab.machine import BUSY_SHARE, Watch

Arm = Callable[[], Mapping[str, float]]
"""Runs one program once and gives its figures by name; larger is better."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """The figures of every arm, taken one after the other, and what other processes used of the cores meanwhile."""

    figures: Mapping[str, Mapping[str, float]]
    foreign_share: float


def interleave(arms: Mapping[str, Arm], rounds: int, *, title: str = "") -> list[Round]:
    """Run all arms once a round. Odd rounds go backwards, so that a machine that drifts favours nobody."""
    done = []
    for i in tqdm(range(rounds), desc=title, leave=False, disable=None):
        with Watch() as watch:
            figures = {name: dict(arms[name]()) for name in sorted(arms, reverse=i % 2 == 1)}
        done.append(Round(figures=figures, foreign_share=watch.result.foreign_share))
    return done


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure of ours beside a peer's, a pair a round. Without a peer `peer` is empty and the ratios are NaN."""

    name: str
    unit: str
    ours: tuple[float, ...]
    peer: tuple[float, ...] = ()
    at_least: float = math.nan
    """The ratio to reach."""
    busy_rounds: int = 0

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours over the peer's, round by round."""
        return tuple(a / b for a, b in zip(self.ours, self.peer, strict=True)) if self.peer else ()

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios) if self.peer else math.nan

    @property
    def reached(self) -> bool | None:
        """Whether the median ratio is what it should be; None without a peer or a mark."""
        return None if math.isnan(self.ratio) or math.isnan(self.at_least) else self.ratio >= self.at_least

    def line(self) -> str:
        """One row of the table that `HEADING` heads."""
        peer = f"{statistics.median(self.peer):>9.4g}" if self.peer else f"{'–':>9}"
        text = f"{self.name:<42}{statistics.median(self.ours):>9.4g}{peer} {self.unit:<11}"
        if self.peer:
            pairs = f"{len(self.ours)} pair{'' if len(self.ours) == 1 else 's'}"
            text += f"{self.ratio:>7.3f}  ({min(self.ratios):.3f} to {max(self.ratios):.3f}, {pairs})"
        if self.reached is not None:
            text += f"  at least {self.at_least:g}: {'yes' if self.reached else 'NO'}"
        return text + (f"  [{self.busy_rounds} of {len(self.ours)} on a busy machine]" if self.busy_rounds else "")

    def as_json(self) -> dict[str, Any]:
        summary = {"median": self.ratio, "min": min(self.ratios), "max": max(self.ratios)} if self.peer else None
        return {"name": self.name, "unit": self.unit, "ours": list(self.ours), "peer": list(self.peer),
                "ratio": summary, "at_least": None if math.isnan(self.at_least) else self.at_least,
                "reached": self.reached, "busy_rounds": self.busy_rounds}


HEADING = f"{'':<42}{'ours':>9}{'peer':>9} {'':<11}{'ratio':>7}  (min to max)"


def compare(
    name: str, unit: str, rounds: Sequence[Round], ours: tuple[str, str], peer: tuple[str, str], *,
    at_least: float = math.nan,
) -> Comparison:
    """Two figures of the same rounds side by side; `ours` and `peer` are (arm, figure), an absent arm is left out."""
    def column(arm: str, figure: str) -> tuple[float, ...]:
        return tuple(r.figures[arm][figure] for r in rounds if arm in r.figures)

    return Comparison(name=name, unit=unit, ours=column(*ours), peer=column(*peer), at_least=at_least,
                      busy_rounds=sum(r.foreign_share > BUSY_SHARE for r in rounds))

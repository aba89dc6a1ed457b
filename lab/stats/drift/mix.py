"""Notices that the mix of categories (topics, languages) has moved, by betting on every category's share at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from lab.errors import LabError
from lab.stats.drift.level import Level
from lab.stats.drift.reference import FEWEST, Reference

OTHER = "(other)"
"""What a category is counted as that the reference does not have, or hardly has."""
LEAST_SHARE = 0.02
CHANGES = (0.2, 0.5, 1.0)
"""Relative changes of a share that are bet on: 1.0 is twice as many."""


class Mix:
    """A detector of one stream of categories: the average of a two-sided `Level` for each, which keeps their bound.

    Categories with less than 2% of the reference are one, together with those that are new. The reference is a sequence of
    categories, or how many there are of each.
    """

    def __init__(self, reference: Iterable[str | None] | Mapping[str, int], *, limit: float = 1e6,
                 changes: Sequence[float] = CHANGES) -> None:
        counts = Counter({name: int(n) for name, n in reference.items() if n > 0 and _known(name)}) if isinstance(
            reference, Mapping) else Counter(str(one) for one in reference if _known(one))
        total = sum(counts.values())
        if not limit > 1:
            raise LabError(f"A detector's limit is above 1, not {limit:g}; `limit()` gives it for the false alarms you accept.")
        if total < FEWEST:
            raise LabError(f"A reference of {total} categories says too little; take at least {FEWEST}.")
        self.shares = {name: n / total for name, n in counts.most_common() if n / total >= LEAST_SHARE}
        rest = max(1.0, total - sum(n for name, n in counts.items() if name in self.shares)) / total
        self.limit = limit
        sides = 2 * (len(self.shares) + 1)
        self.levels = {name: Level(Reference.share(share, total), direction="both", limit=limit, changes=changes, sides=sides)
                       for name, share in {**self.shares, OTHER: rest}.items()}

    def update(self, category: str | None) -> bool:
        """Take one category; None was not measured and is passed over."""
        if _known(category):
            named = self.named(category)
            for name, level in self.levels.items():
                level.update(float(name == named))
        return self.alarm

    def reset(self) -> None:
        for level in self.levels.values():
            level.reset()

    @property
    def n(self) -> int:
        return self.levels[OTHER].n

    @property
    def evidence(self) -> float:
        return sum(level.evidence for level in self.levels.values()) / len(self.levels)

    @property
    def alarm(self) -> bool:
        return self.evidence >= self.limit

    @property
    def moved(self) -> list[str]:
        """The categories that the evidence comes from, the strongest first."""
        order = sorted(self.levels, key=lambda name: -self.levels[name].evidence)
        return [name for name in order if self.levels[name].evidence >= 0.01 * self.levels[order[0]].evidence]

    @property
    def grown(self) -> list[str]:
        """Those of `moved` whose share has grown."""
        return [name for name in self.moved if self.levels[name].direction == "up"]

    @property
    def began(self) -> int:
        """The value (from 0) with which the change most likely began."""
        return self.levels[self.moved[0]].began

    def named(self, category: str | None) -> str:
        """What `category` is counted as."""
        return str(category) if category in self.shares else OTHER


def _known(category: object) -> bool:
    return isinstance(category, str) and bool(category)

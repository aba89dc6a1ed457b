"""What has to be kept of all requests to compare two arms: a dozen sums a metric and four numbers a user, updated at once.

They do not depend on the order of the requests. Peeking stays valid when users come back: counts only grow, so with requests of
one user correlated and not negatively the covariance of the summed deviations at two times is at least the variance at the
earlier one. The deviations, over their own standard deviation, are then at least as correlated as Brownian motion is in the
clock of that variance, and by Slepian's inequality (1962) they cross a boundary in that clock no more often.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lab.errors import LabError
from lab.stats.sequential.metric import Metric
from lab.stats.sequential.variance import Change, Moments

Arm = Literal["A", "B"]


@dataclass(kw_only=True)
class Sums:
    """The sums of one metric. It is the state of a comparison; `as_json` and `restore` carry it over a restart."""

    metric: Metric
    n: list[int] = field(default_factory=lambda: [0, 0])
    s: list[float] = field(default_factory=lambda: [0.0, 0.0])
    ss: list[float] = field(default_factory=lambda: [0.0, 0.0])
    q: list[float] = field(default_factory=lambda: [0.0] * 10)
    units: list[int] = field(default_factory=lambda: [0, 0])
    """Clusters that each arm has seen; a request without one is a cluster of its own."""
    least: list[float] = field(default_factory=lambda: [math.inf, math.inf])
    most: list[float] = field(default_factory=lambda: [-math.inf, -math.inf])
    clusters: dict[str, list[float]] = field(default_factory=dict)
    left_out: int = 0

    def add(self, arm: Arm, value: float, cluster: str | None = None) -> None:
        """Count one request; a value that was not measured (NaN) is left out. Takes microseconds."""
        x = self.metric.seen(value)
        if x != x:
            self.left_out += 1
            return
        side = 0 if arm == "A" else 1
        self.n[side] += 1
        self.s[side] += x
        self.ss[side] += x * x
        self.least[side], self.most[side] = min(self.least[side], x), max(self.most[side], x)
        if cluster is None:
            at = 7 * side
            self.units[side] += 1
            self.q[at] += x * x
            self.q[at + 1] += x
            self.q[at + 4 - 2 * side] += 1
            return
        old = self.clusters.get(cluster)
        if old is None:
            old = self.clusters[cluster] = [0.0, 0.0, 0.0, 0.0]
        self.units[side] += not old[2 * side + 1]
        self._products(old, -1)
        old[2 * side] += x
        old[2 * side + 1] += 1
        self._products(old, 1)

    def _products(self, v: list[float], sign: int) -> None:
        q, (sa, na, sb, nb) = self.q, v
        if na:
            q[0] += sign * sa * sa
            q[1] += sign * sa * na
            q[4] += sign * na * na
        if nb:
            q[7] += sign * sb * sb
            q[8] += sign * sb * nb
            q[9] += sign * nb * nb
        if na and nb:
            q[2] += sign * sa * sb
            q[3] += sign * sa * nb
            q[5] += sign * na * sb
            q[6] += sign * na * nb

    @property
    def reach(self) -> float:
        """The longest distance a value can have from its mean: the metric's range, or on other scales what was seen.

        There it is at least the change of interest, or values that have all been the same so far would be taken for certain.
        """
        if self.metric.scale == "difference":
            return self.metric.high - self.metric.low
        means = [s / n if n else 0.0 for s, n in zip(self.s, self.n, strict=True)]
        seen = (max(self.most[i] - means[i], means[i] - self.least[i]) for i in (0, 1) if self.n[i])
        return max(self.metric.spread * (max(means) if self.metric.scale == "mean" else 1.0), *seen, 0.0)

    def change(self) -> Change:
        """The change so far, with its information under any hypothesis."""
        n, s, ss, q = (np.array(one, dtype=np.float64)[:, None] for one in (self.n, self.s, self.ss, self.q))
        return Change(Moments(n=n, s=s, ss=ss, q=q, reach=self.reach), self.metric)

    def as_json(self) -> dict[str, Any]:
        """The state as plain values; `restore` puts it back."""
        kept = {name: copy.deepcopy(getattr(self, name)) for name in _KEPT}
        return {**kept, "least": [_finite(x) for x in self.least], "most": [_finite(x) for x in self.most]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `as_json` gave. Raises `LabError` when that is something else."""
        try:
            for name in _KEPT:
                setattr(self, name, copy.deepcopy(state[name]))
            self.least = [math.inf if x is None else float(x) for x in state["least"]]
            self.most = [-math.inf if x is None else float(x) for x in state["most"]]
        except (KeyError, TypeError, ValueError) as error:
            raise LabError(f"The kept state of metric '{self.metric.name}' cannot be read ({error}); start the comparison anew."
                           ) from error


_KEPT = ("n", "s", "ss", "q", "units", "clusters", "left_out")


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None

"""Whether two samples of vectors (embeddings of answers) come from one distribution: energy distance or MMD, p by permutation.

Energy distance (Szekely and Rizzo 2013): 2 E|X - Y| - E|X - X'| - E|Y - Y'|. MMD (Gretton et al. 2012) with a Gaussian kernel
whose width is the median distance. Under "no difference" every assignment of the vectors to the two samples is as likely, so the
p-value is exact at any sample size: (1 + as extreme) / (1 + permutations), or, where drawing stops at the h-th that is as extreme
because more would not matter, h / drawn (Besag and Clifford 1991).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab.errors import LabError

Kind = Literal["energy", "mmd"]
MOST_AT_ONCE = 4096
"""Permutations that are reckoned together, for the memory."""
ENOUGH = 20
"""Permutations as extreme at which a window's test stops."""


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far apart two samples are, and the p-value of "not at all"."""

    value: float
    p_value: float
    n: tuple[int, int]


def two_samples(
    reference: ArrayLike, window: ArrayLike, *, kind: Kind = "energy", permutations: int = 999, enough: int | None = None,
    seed: int = 0,
) -> Distance:
    """The distance of two samples, each of shape (vectors, dimensions). Rows with NaN are left out. Raises `LabError`.

    With `enough` no more is drawn once so many permutations were as extreme: samples that do not differ then take a few dozen.
    """
    first, second = (_rows(one) for one in (reference, window))
    if first.shape[1] != second.shape[1]:
        raise LabError(f"The two samples have {first.shape[1]} and {second.shape[1]} dimensions; embed both with one model.")
    if min(len(first), len(second)) < 2 or permutations < 1 or (enough is not None and enough < 1):
        raise LabError("A comparison of two samples needs at least 2 vectors in each, a permutation, and `enough` from 1 up.")
    if kind not in ("energy", "mmd"):
        raise LabError(f"The distance is 'energy' or 'mmd', not {kind!r}.")
    apart = _dissimilarity(np.vstack([first, second]), kind)
    n, total = len(first), len(first) + len(second)
    rng, order = np.random.default_rng(seed), np.arange(total)
    value = float(_between(_sides([order], n), apart, n, total - n)[0])
    drawn = far = 0
    size = permutations if enough is None else 4 * enough
    while drawn < permutations:
        size = min(size, MOST_AT_ONCE, permutations - drawn)
        values = _between(_sides([rng.permutation(total) for _ in range(size)], n), apart, n, total - n)
        extreme = np.flatnonzero(values >= value - 1e-9 - 1e-5 * max(abs(value), float(np.abs(values).max())))
        if enough is not None and far + extreme.size >= enough:
            return Distance(value=value, p_value=enough / (drawn + int(extreme[enough - far - 1]) + 1), n=(n, total - n))
        far, drawn, size = far + extreme.size, drawn + size, 4 * size
    return Distance(value=value, p_value=(1 + far) / (1 + permutations), n=(n, total - n))


def _sides(orders: list[NDArray[np.intp]], n: int) -> NDArray[np.float32]:
    """Memberships of the first sample, a row for every order: 1 for the first `n` of it."""
    side = np.zeros((len(orders), len(orders[0])), dtype=np.float32)
    np.put_along_axis(side, np.stack(orders)[:, :n], 1.0, axis=1)
    return side


def _between(side: NDArray[np.float32], apart: NDArray[np.float32], n: int, m: int) -> NDArray[np.float64]:
    """Twice the mean dissimilarity across, less that within each sample, for every row of memberships."""
    towards = side @ apart
    inner = np.einsum("ij,ij->i", towards, side, dtype=np.float64)
    rows = towards.sum(axis=1, dtype=np.float64)
    across = rows - inner
    other = float(apart.sum(dtype=np.float64)) - inner - 2 * across
    return np.asarray(2 * across / (n * m) - inner / (n * n) - other / (m * m))


def _dissimilarity(x: NDArray[np.float64], kind: Kind) -> NDArray[np.float32]:
    # By products, which are ten times as fast as pairs; what is no more than their rounding is no distance.
    centred = x - x.mean(axis=0)
    length = (centred**2).sum(axis=1)
    squared = length[:, None] + length - 2 * centred @ centred.T
    squared[squared <= 1e-12 * (length[:, None] + length)] = 0
    apart = np.sqrt(squared)
    if kind == "energy":
        return np.asarray(apart, dtype=np.float32)
    width = float(np.median(apart[apart > 0])) if (apart > 0).any() else 1.0
    return np.asarray(1 - np.exp(-squared / (2 * width**2)), dtype=np.float32)


def _rows(sample: ArrayLike) -> NDArray[np.float64]:
    rows = np.asarray(sample, dtype=np.float64)
    if rows.ndim != 2:
        raise LabError(f"A sample of vectors has two dimensions, (vectors, dimensions), not {rows.ndim}.")
    return rows[np.isfinite(rows).all(axis=1)]


class Vectors:
    """A detector of one stream of vectors: every `window` of them is tested against the reference, once.

    The level keeps the chance of any false alarm in `requests` vectors below `false_alarms` (Bonferroni, windows and streams).
    """

    def __init__(self, reference: ArrayLike, *, window: int = 200, kind: Kind = "energy", false_alarms: float = 0.01,
                 requests: int = 10_000, streams: int = 1, most_reference: int = 400, seed: int = 0) -> None:
        rows = _rows(reference)
        if window < 10 or len(rows) < window:
            raise LabError(f"A window of {window} vectors (10 at least) needs as many in the reference, which has {len(rows)}.")
        if not 0 < false_alarms < 1 or requests < window or streams < 1:
            raise LabError("False alarms are a share between 0 and 1 of periods no shorter than the window.")
        rng = np.random.default_rng(seed)
        self._reference = rows[rng.choice(len(rows), size=min(most_reference, len(rows)), replace=False)]
        self.window, self.kind, self._seed = window, kind, seed
        self.level = false_alarms / math.ceil(requests / window) / streams
        self._permutations = math.ceil(4 / self.level)
        self.reset()

    def reset(self) -> None:
        self._held: list[Any] = []
        self.n, self.last, self.alarm = 0, None, False

    last: Distance | None

    def update(self, vector: ArrayLike) -> bool:
        """Take one vector; a test is made with the last of a window, and its result stands until the next."""
        row = np.asarray(vector, dtype=np.float64)
        if row.shape != self._reference.shape[1:]:
            raise LabError(f"A vector of shape {row.shape} does not fit a reference of {self._reference.shape[1]} dimensions; "
                           "embed both with one model.")
        if not np.isfinite(row).all():
            return self.alarm
        self._held.append(row)
        self.n += 1
        if len(self._held) == self.window:
            self.last = two_samples(self._reference, np.stack(self._held), kind=self.kind, permutations=self._permutations,
                                    enough=ENOUGH, seed=self._seed + self.n)
            self.alarm, self._held = self.last.p_value <= self.level, []
        return self.alarm

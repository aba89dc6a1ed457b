"""How far one model's next-token distribution is from another's: KL divergence and agreement of the top token.

KL(base || other) = sum p_base (log p_base - log p_other) per position, in nats (Kullback and Leibler 1951). The base's
logits are written to disk once and read back a few rows at a time, so neither two models nor two sets of logits are
ever in memory together.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lab.metrics.perplexity import ROWS


class BaseLogits:
    """The base model's logits of a text on disk, in a temporary file that goes with this object (use `with`)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)
        self._places: dict[int, tuple[int, int, int]] = {}

    def keep(self, piece: int, logits: NDArray[np.float32]) -> None:
        """Write the logits of one piece of the text, shape (rows, vocabulary), under its number."""
        self._file.seek(0, 2)
        self._places[piece] = (self._file.tell(), *logits.shape)
        for at in range(0, len(logits), ROWS):
            self._file.write(np.ascontiguousarray(logits[at : at + ROWS]).data)

    def rows(self, piece: int, start: int, count: int) -> NDArray[np.float32]:
        """Rows `start`..`start + count` of a piece."""
        offset, total, width = self._places[piece]
        count = min(count, total - start)
        self._file.seek(offset + start * width * 4)
        return np.frombuffer(self._file.read(count * width * 4), np.float32).reshape(count, width)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._file.close()


class Divergence:
    """Collects KL and top-token agreement against `base`; give its `add` to `perplexity.measure(each=...)`."""

    def __init__(self, base: BaseLogits) -> None:
        self._base = base
        self._kl: list[NDArray[np.float64]] = []
        self._same: list[NDArray[np.bool_]] = []

    def add(self, piece: int, logits: NDArray[np.float32]) -> None:
        for at in range(0, len(logits), ROWS):
            mine = logits[at : at + ROWS]
            theirs = self._base.rows(piece, at, len(mine))
            self._kl.append(kl(theirs, mine))
            self._same.append(mine.argmax(axis=1) == theirs.argmax(axis=1))

    @property
    def kl(self) -> NDArray[np.float64]:
        """Nats per scored position."""
        return np.concatenate(self._kl)

    @property
    def same_top(self) -> NDArray[np.bool_]:
        """Whether both give their highest logit to the same token, per scored position."""
        return np.concatenate(self._same)


def kl(base: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(base || other) in nats for every row of two logit arrays of shape (rows, vocabulary).

    Rounding can make a tiny divergence negative; it is cut at 0, which it cannot really be below.
    """
    b = base - base.max(axis=1, keepdims=True)
    o = other - other.max(axis=1, keepdims=True)
    p = np.exp(b)
    total = p.sum(axis=1, dtype=np.float64)
    log_ratio = np.log(np.exp(o).sum(axis=1, dtype=np.float64)) - np.log(total)
    np.subtract(b, o, out=b)
    np.multiply(p, b, out=p)
    return np.maximum(p.sum(axis=1, dtype=np.float64) / total + log_ratio, 0.0)

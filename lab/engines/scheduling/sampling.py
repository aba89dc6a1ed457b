"""The distribution a decoding setting draws from, as an array: for engines without a C sampler, and for speculation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lab.records import Decoding


def distribution(logits: NDArray[np.float32], decoding: Decoding) -> NDArray[np.float64]:
    """Probabilities of the next token under `decoding`, shape of `logits` (vocabulary,), summing to 1.

    Filters in llama.cpp's order: top-k, top-p, min-p, then temperature. Temperature 0 puts all mass on the argmax.
    """
    if decoding.temperature <= 0:
        p = np.zeros(len(logits))
        p[int(logits.argmax())] = 1.0
        return p
    p = np.exp(logits.astype(np.float64) - logits.max())
    keep = np.ones(len(p), bool)
    if decoding.top_k > 0 or decoding.top_p < 1:
        order = np.argsort(-p, kind="stable")
        if decoding.top_k > 0:
            keep[order[decoding.top_k :]] = False
        if decoding.top_p < 1:
            inside = p[order] * keep[order]
            inside /= inside.sum()
            keep[order[np.cumsum(inside) - inside >= decoding.top_p]] = False
    if decoding.min_p > 0:
        keep &= p >= decoding.min_p * p.max()
    p = np.where(keep, p ** (1 / decoding.temperature), 0.0)
    return p / p.sum()


def draw(p: NDArray[np.float64], random: np.random.Generator) -> int:
    """One index drawn from the probabilities `p`."""
    return min(int(np.searchsorted(np.cumsum(p), random.random() * p.sum(), side="right")), len(p) - 1)

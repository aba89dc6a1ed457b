"""The distribution a decoding setting draws from, as an array: for engines without a C sampler, and for speculation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lab.records import Decoding

Floats = NDArray[np.float64]


def distribution(logits: NDArray[np.float32], decoding: Decoding) -> Floats:
    """Probabilities of the next token under `decoding`, shape of `logits` (vocabulary,), summing to 1.

    Filters in llama.cpp's order: top-k, top-p, min-p, then temperature. Of equal logits the smaller token counts as the
    likelier. Temperature 0 puts all mass on the argmax. Linear in the vocabulary: it is never sorted as a whole.
    """
    p = np.zeros(len(logits))
    if decoding.temperature <= 0:
        p[int(logits.argmax())] = 1.0
        return p
    kept = _largest(logits, decoding.top_k) if 0 < decoding.top_k < len(logits) else slice(None)
    below = logits[kept].astype(np.float64) - float(logits.max())  # log-probabilities less that of the likeliest
    chosen = np.ones(len(below), bool)
    if decoding.top_p < 1:
        chosen = _nucleus(below, decoding.top_p)
    if decoding.min_p > 0:
        chosen &= below >= np.log(decoding.min_p)
    weights = np.exp(below / decoding.temperature)
    weights[~chosen] = 0.0
    p[kept] = weights / weights.sum()
    return p


def draw(p: Floats, random: np.random.Generator) -> int:
    """One index drawn from the probabilities `p`, which need not sum to 1; never one without probability."""
    summed = np.cumsum(p)
    # The largest number drawn is 1 - 2^-53, whose product with the sum is below the sum: the index is always inside.
    return int(np.searchsorted(summed, random.random() * summed[-1], side="right"))


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Indices of the `count` largest values in ascending order; of equal ones the first."""
    least = np.partition(values, -count)[-count]
    taken = values > least
    taken[np.flatnonzero(values == least)[: count - int(taken.sum())]] = True
    return np.flatnonzero(taken)


def _nucleus(below: Floats, share: float) -> NDArray[np.bool_]:
    """Which are the fewest likeliest that make up `share` of all probability, at least one.

    Log-probabilities are counted into bins; only the bin in which the share is reached has to be sorted.
    """
    weights = np.exp(below)
    bins = np.minimum(below * -16, 16 * 40).astype(np.int64)  # what is e^-40 times as likely can share one bin
    mass = np.cumsum(np.bincount(bins, weights))
    wanted = share * mass[-1]
    border = min(int(np.searchsorted(mass, wanted)), len(mass) - 1)
    inside = bins < border
    last = np.flatnonzero(bins == border)
    last = last[np.argsort(-below[last], kind="stable")]
    before = (mass[border - 1] if border else 0.0) + np.cumsum(weights[last]) - weights[last]
    inside[last[: max(int((before < wanted).sum()), not inside.any())]] = True
    return inside

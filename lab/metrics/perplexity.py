"""Perplexity of a text in chunks, defined as llama.cpp's `llama-perplexity` does, so that numbers can be compared.

The text is cut into chunks of `chunk_tokens`, each read on its own (first token replaced by the begin token where the
model wants one); only the second half is scored, so that every scored token has context. perplexity = exp(mean of
-log p). Its standard error is perplexity x the standard error of that mean (delta method).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lab.engines import Engine
from lab.errors import LabError
from lab.records import Estimate

ROWS = 32
"""Rows of logits worked on at once: bounds the memory of the temporaries (32 x 49k x 4 bytes = 6 MB)."""


@dataclass(frozen=True, kw_only=True)
class TokenLosses:
    """-log p (nats) of every scored token, and the chunk each stands in; both of shape (scored tokens,)."""

    nll: NDArray[np.float64]
    chunk: NDArray[np.int64]

    @property
    def perplexity(self) -> float:
        return math.exp(self.nll.mean())

    @property
    def error(self) -> float:
        """Standard error of the perplexity, taking tokens as independent, as llama-perplexity prints it."""
        return self.perplexity * float(self.nll.std()) / math.sqrt(len(self.nll) - 1)

    @property
    def estimate(self) -> Estimate:
        value, half = self.perplexity, 1.96 * self.error
        return Estimate(value=value, low=value - half, high=value + half)


def tokens_for(engine: Engine, text: str) -> list[int]:
    """The tokens of `text`, begin token in front where the model wants one."""
    return [*engine.tokenize("", special=True), *engine.tokenize(text)]


def chunks(
    engine: Engine, tokens: Sequence[int], *, chunk_tokens: int = 512, limit: int | None = None
) -> Iterator[tuple[int, NDArray[np.float32], list[int]]]:
    """Per chunk: its index, the logits of its second half, shape (chunk_tokens // 2 - 1, vocabulary), and the targets.

    The logits are a view that the next chunk overwrites. Raises `LabError` if the text is shorter than one chunk.
    """
    count = len(tokens) // chunk_tokens if limit is None else min(limit, len(tokens) // chunk_tokens)
    if count < 1:
        raise LabError(f"The text has {len(tokens)} tokens, fewer than one chunk of {chunk_tokens}; "
                       "give a longer text or a smaller chunk.")
    begin, first = engine.tokenize("", special=True), chunk_tokens // 2
    for i in tqdm(range(count), desc="perplexity", leave=False, disable=None):
        chunk = list(tokens[i * chunk_tokens : (i + 1) * chunk_tokens])
        chunk[: len(begin)] = begin
        yield i, engine.logits(chunk, start=first)[:-1], chunk[first + 1 :]


def losses(logits: NDArray[np.float32], targets: Sequence[int]) -> NDArray[np.float64]:
    """-log p of each target under its row of `logits`; shape (len(targets),)."""
    out = np.empty(len(targets))
    for at in range(0, len(targets), ROWS):
        rows = logits[at : at + ROWS]
        top = rows.max(axis=1)
        norm = np.log(np.exp(rows - top[:, None]).sum(axis=1, dtype=np.float64))
        picked = rows[np.arange(len(rows)), list(targets[at : at + ROWS])]
        out[at : at + ROWS] = norm - (picked - top).astype(np.float64)
    return out


def measure(
    engine: Engine,
    tokens: Sequence[int],
    *,
    chunk_tokens: int = 512,
    limit: int | None = None,
    each: Callable[[int, NDArray[np.float32]], None] | None = None,
) -> TokenLosses:
    """Score `tokens` on `engine`; `each(index, logits)` sees every chunk's logits while they are there."""
    nll, where = [], []
    for i, logits, targets in chunks(engine, tokens, chunk_tokens=chunk_tokens, limit=limit):
        nll.append(losses(logits, targets))
        where.append(np.full(len(targets), i))
        if each is not None:
            each(i, logits)
    return TokenLosses(nll=np.concatenate(nll), chunk=np.concatenate(where))

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

ROWS = 8
"""Rows of logits worked on at once: bounds each temporary (8 x 49k x 4 bytes = 1.6 MB) to what a core's cache holds."""
PIECE = 128
"""Rows of logits asked for at once. An engine holds them twice, and a chunk's second half would be 2 x 50 MB (49k
vocabulary) or 2 x 267 MB (262k). On llama.cpp the values are the same, bit for bit, as with all rows at once; below 64
rows they are not, because its flash attention then takes another path (perplexity moved by 0.02%)."""


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
        """Standard error of the perplexity, taking tokens as independent, as llama-perplexity prints it; NaN for one."""
        if len(self.nll) < 2:
            return math.nan
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
    """The second half of every chunk in pieces: the chunk's index, logits of shape (rows, vocabulary), targets.

    The logits are a view that the next piece overwrites. Raises `LabError` if the text is shorter than one chunk.
    """
    if chunk_tokens < 3:
        raise LabError(f"A chunk of {chunk_tokens} tokens has nothing to score; give it at least 3.")
    there = len(tokens) // chunk_tokens
    count = there if limit is None else limit
    if 1 <= there < count:
        raise LabError(f"The text gives {there} chunks of {chunk_tokens} tokens, not {count}; ask for fewer chunks or give a "
                       "longer text.")
    if there < 1:
        raise LabError(f"The text has {len(tokens)} tokens, fewer than one chunk of {chunk_tokens}; "
                       "give a longer text or a smaller chunk.")
    begin, first = engine.tokenize("", special=True), chunk_tokens // 2
    for i in tqdm(range(count), desc="perplexity", leave=False, disable=None):
        chunk = list(tokens[i * chunk_tokens : (i + 1) * chunk_tokens])
        chunk[: len(begin)] = begin
        for start, end in pieces(first, chunk_tokens):
            targets = chunk[start + 1 : end + 1]  # the chunk's last token has none
            yield i, engine.logits(chunk[:end], start=start)[: len(targets)], targets


def pieces(start: int, end: int) -> Iterator[tuple[int, int]]:
    """`start`..`end` cut into spans of `PIECE`, none shorter: the last takes what is left."""
    while start < end:
        to = start + PIECE if end - start >= 2 * PIECE else end
        yield start, to
        start = to


def losses(logits: NDArray[np.float32], targets: Sequence[int]) -> NDArray[np.float64]:
    """-log p of each target under its row of `logits`; shape (len(targets),)."""
    out = np.empty(len(targets))
    room = np.empty((ROWS, logits.shape[1]), np.float32)  # a new array for each step would cost four times as much
    for at in range(0, len(targets), ROWS):
        rows = logits[at : at + ROWS]
        top = rows.max(axis=1)
        e = np.exp(np.subtract(rows, top[:, None], out=room[: len(rows)]), out=room[: len(rows)])
        norm = np.log(e.sum(axis=1, dtype=np.float64))
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
    """Score `tokens` on `engine`; `each(number, logits)` sees every piece's logits while they are there."""
    nll, where = [], []
    for number, (i, logits, targets) in enumerate(chunks(engine, tokens, chunk_tokens=chunk_tokens, limit=limit)):
        nll.append(losses(logits, targets))
        where.append(np.full(len(targets), i))
        if each is not None:
            each(number, logits)
    return TokenLosses(nll=np.concatenate(nll), chunk=np.concatenate(where))

"""Perplexity of a text in chunks, defined as llama.cpp's `llama-perplexity` does, so that numbers can be compared.

The text is cut into chunks of `chunk_tokens`, each read on its own (first token replaced by the begin token where the
model wants one); only the second half is scored, so that every scored token has context. perplexity = exp(mean of
-log p). Its standard error is perplexity x the standard error of that mean (delta method).

Perplexity per token depends on how a tokenizer cuts the text, so that two of them cannot be compared. `strided` reads a text
in windows that overlap and keeps which word each token belongs to; the loss per word then has the same unit for every model
(perplexity per word: Mielke 2019, "Can you compare perplexity across different segmentations?"), and `compare` pairs two
models word block by word block of the same text.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lab import stats
from lab.engines import Engine
from lab.errors import LabError
from lab.records import Estimate

ROWS = 8
"""Rows of logits worked on at once: bounds each temporary (8 x 49k x 4 bytes = 1.6 MB) to what a core's cache holds."""
PIECE = 128
"""Rows of logits asked for at once. An engine holds them twice, and a chunk's second half would be 2 x 50 MB (49k
vocabulary) or 2 x 267 MB (262k). On llama.cpp the values are the same, bit for bit, as with all rows at once; below 64
rows they are not, because its flash attention then takes another path (perplexity moved by 0.02%)."""


BLOCK_WORDS = 64
"""Words taken together in an interval: losses of neighbouring words go up and down together, those of blocks hardly."""


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


@dataclass(frozen=True, kw_only=True)
class TextLosses:
    """-log p (nats) of the scored tokens of one text, and the word each ends in (counted from 0); both of shape (tokens,).

    Words are what whitespace separates, each with the whitespace before it. `whole_from` is the first word of which all
    tokens are scored.
    """

    nll: NDArray[np.float64]
    word: NDArray[np.int64]
    whole_from: int
    text_sha256: str

    @property
    def perplexity(self) -> float:
        """exp of the mean loss of a token: for models with the same tokenizer."""
        return math.exp(self.nll.mean())

    @property
    def word_nll(self) -> NDArray[np.float64]:
        """The loss of every whole word from `whole_from` on."""
        whole = self.word >= self.whole_from
        return np.asarray(np.bincount(self.word[whole] - self.whole_from, weights=self.nll[whole]), np.float64)

    @property
    def word_perplexity(self) -> float:
        """exp of (loss of all whole words / their number): for models with any tokenizer."""
        return math.exp(self.word_nll.mean()) if len(self.word_nll) else math.nan

    @property
    def word_estimate(self) -> Estimate:
        """The perplexity per word of the whole blocks of words, with an interval over them (NaN below 2), as `compare` takes it.

        Words after the last whole block are left out; a text of less than one block has that of all its words and no interval.
        """
        blocks = _blocks(self.word_nll)
        if not len(blocks):
            return Estimate(value=self.word_perplexity)
        found = stats.mean(blocks)
        return Estimate(value=math.exp(found.value), low=math.exp(found.low), high=math.exp(found.high))


def strided(engine: Engine, text: str, *, window_tokens: int = 512, context_tokens: int = 256) -> TextLosses:
    """Score `text` in overlapping windows, so that every scored token has `context_tokens` before it, or more.

    The first `context_tokens` of the text are only read. A larger context is nearer to what the model can do, and slower:
    `window_tokens` are read for every `window_tokens - context_tokens` scored. Raises `LabError` for windows without room, a
    text that is too short, and an engine that shows no logits.
    """
    text, begin = text.rstrip(), engine.tokenize("", special=True)
    tokens, room = engine.tokenize(text), window_tokens - len(begin)
    if not 0 < context_tokens < room:
        raise LabError(f"Windows of {window_tokens} tokens cannot give {context_tokens} of context; the context is at least 1 "
                       "token and shorter than the window.")
    if len(tokens) <= context_tokens:
        raise LabError(f"The text has {len(tokens)} tokens, no more than the context of {context_tokens}; give a longer text.")
    nll, word = [], _words_of(engine, tokens, text)
    for at in tqdm(range(0, len(tokens) - context_tokens, room - context_tokens), desc="perplexity", leave=False, disable=None):
        window = [*begin, *tokens[at : at + room]]
        for start, end in pieces(len(begin) + context_tokens - 1, len(window) - 1):
            nll.append(losses(engine.logits(window[:end], start=start), window[start + 1 : end + 1]))
    return TextLosses(nll=np.concatenate(nll), word=word[context_tokens:], whole_from=int(word[context_tokens - 1]) + 1,
                      text_sha256=hashlib.sha256(text.encode("utf-8", "replace")).hexdigest())


def compare(candidate: TextLosses, baseline: TextLosses, *, block_words: int = BLOCK_WORDS, seed: int = 0) -> stats.Difference:
    """Loss per word of `candidate` minus `baseline` on the same text, paired by blocks of words; below 0 it is the better.

    exp of it is the ratio of the two perplexities per word. Words after the last whole block are left out. Raises `LabError`
    when the texts differ or share no block.
    """
    if candidate.text_sha256 != baseline.text_sha256:
        raise LabError("The two models read different texts; measure both on the same one.")
    first = max(candidate.whole_from, baseline.whole_from)
    ours, theirs = (_blocks(side.word_nll[first - side.whole_from :], block_words) for side in (candidate, baseline))
    if not len(ours):
        raise LabError(f"Both models scored fewer than one block of {block_words} words; give a longer text or smaller blocks.")
    return stats.difference(ours, theirs, paired=True, seed=seed)


def _blocks(values: NDArray[np.float64], size: int = BLOCK_WORDS) -> NDArray[np.float64]:
    """The means of whole blocks of neighbours."""
    whole = len(values) // size * size
    return np.asarray(values[:whole].reshape(-1, size).mean(axis=1))


def _words_of(engine: Engine, tokens: Sequence[int], text: str) -> NDArray[np.int64]:
    """The word in which each token ends, found by spelling the text again token by token."""
    ends, spelled, pending = np.empty(len(tokens), np.int64), 0, 0
    for i in range(len(tokens)):
        said = engine.detokenize(tokens[pending : i + 1])
        if not spelled and said[:1] == " " != text[0]:  # some tokenizers begin every text with a space
            said = said[1:]
        if not said.endswith("\ufffd") and text.startswith(said, spelled):  # else it ends within a character
            spelled += len(said)
            ends[pending : i + 1], pending = spelled, i + 1
        elif i - pending > 32:
            raise LabError(f"The engine's tokens do not spell the text again at character {spelled:,}; give a plain UTF-8 text.")
    ends[pending:] = len(text)
    return np.searchsorted([match.end() for match in re.finditer(r"\S+", text)], ends - 1, side="right")

"""Cuts documents into passages of whole sentences that know where in their document they stand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lab.errors import LabError
from lab.metrics.claims import ABBREVIATED

_SENTENCE = re.compile(r"\S.*?(?:(?<![.!?])[.!?]++[\"'”’)\]]*+(?=\s)|[。！？।]|\n|$)", re.DOTALL)
"""A sentence ends with its mark before white space, with an Asian mark, or with its line."""
MOST_WORDS = 80
"""Embeddings read the first 256 tokens of a text: what stands behind them in one long sentence would never be found."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text to find things in. `source` is what a reader can follow (an address, a file, a set); `date` when it was so."""

    id: str
    text: str
    source: str = ""
    date: str = ""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A part of a document: `text` is exactly its characters from `start` to `end`."""

    id: str
    document: str
    source: str
    date: str
    start: int
    end: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """How documents are cut: passages of about `words` words; each begins with the last `overlap` sentences of the one before.

    A sentence longer than `words` is a passage of its own, one that is longer than `MOST_WORDS` too is cut.
    """

    words: int = 80
    overlap: int = 1

    def __post_init__(self) -> None:
        if self.words < 1 or self.overlap < 0:
            raise LabError(f"A passage has at least 1 word and no negative overlap, not {self.words} and {self.overlap}.")


def sentences(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text begin and end, white space left out; titles and initials end none."""
    found: list[tuple[int, int]] = []
    open_from = -1
    for match in _SENTENCE.finditer(text):
        start, end = match.start(), match.start() + len(match.group().rstrip())
        start = open_from if open_from >= 0 else start
        goes_on = ABBREVIATED.search(text[max(start, end - 12) : end]) is not None and not match.group().endswith("\n")
        open_from = start if goes_on else -1
        if not goes_on:
            found.append((start, end))
    return found + ([(open_from, len(text.rstrip()))] if open_from >= 0 else [])


def split(document: Document, splitting: Splitting = Splitting()) -> list[Passage]:
    """The passages of a document, in its order; every word is in at least one. An empty document has none."""
    most = max(MOST_WORDS, splitting.words)
    spans = [part for start, end in sentences(document.text) for part in _pieces(document.text, start, end, most)]
    sizes = [_size(document.text[start:end]) for start, end in spans]
    out: list[Passage] = []
    first = 0
    while first < len(spans):
        last = _last(sizes, first, splitting.words)
        out.append(_passage(document, len(out), spans[first][0], spans[last][1]))
        if last + 1 == len(spans):
            break
        first = max(first + 1, last + 1 - splitting.overlap)
    return out


def _size(text: str) -> int:
    """Words; of scripts and lines without spaces, as many as would take an embedding model that many tokens."""
    foreign = len(text) - len(text.encode("ascii", "ignore"))
    return max(len(text.split()), (len(text) - foreign) // 12 + foreign // 3)


def _pieces(text: str, start: int, end: int, words: int) -> list[tuple[int, int]]:
    """A sentence, or the pieces of one that is too long: cut where a word ends, and inside a word that is too long itself."""
    if _size(text[start:end]) <= words:
        return [(start, end)]
    out: list[tuple[int, int]] = []
    first = last = start
    for match in re.compile(rf"\S{{1,{words * 3}}}").finditer(text, start, end):
        if last > first and _size(text[first : match.end()]) > words:
            out.append((first, last))
            first = match.start()
        last = match.end()
    return [*out, (first, last)]


def _last(sizes: Sequence[int], first: int, words: int) -> int:
    """The last sentence of the passage that begins with `first`: the one that fills it up."""
    last, total = first, sizes[first]
    while last + 1 < len(sizes) and total + sizes[last + 1] <= words:
        last, total = last + 1, total + sizes[last + 1]
    return last


def _passage(document: Document, number: int, start: int, end: int) -> Passage:
    return Passage(id=f"{document.id}#{number}", document=document.id, source=document.source, date=document.date, start=start,
                   end=end, text=document.text[start:end])

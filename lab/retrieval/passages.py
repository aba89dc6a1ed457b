"""Cuts documents into passages of whole sentences that know where in their document they stand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lab.errors import LabError

_SENTENCE = re.compile(r"\S.*?(?:[.!?]+[\"'”’)\]]*(?=\s)|\n|$)", re.DOTALL)
"""A sentence ends with its mark before white space, or with its line."""
_ABBREVIATED = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|No|Inc|Ltd|Co|e\.g|i\.e|U\.S|[A-Z]))\.$")


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

    A sentence longer than `words` is a passage of its own.
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
        goes_on = _ABBREVIATED.search(text[start:end]) is not None and not match.group().endswith("\n")
        open_from = start if goes_on else -1
        if not goes_on:
            found.append((start, end))
    return found + ([(open_from, len(text.rstrip()))] if open_from >= 0 else [])


def split(document: Document, splitting: Splitting = Splitting()) -> list[Passage]:
    """The passages of a document, in its order; every sentence is in at least one. An empty document has none."""
    spans = sentences(document.text)
    sizes = [len(document.text[start:end].split()) for start, end in spans]
    out: list[Passage] = []
    first = 0
    while first < len(spans):
        last = _last(sizes, first, splitting.words)
        out.append(_passage(document, len(out), spans[first][0], spans[last][1]))
        if last + 1 == len(spans):
            break
        first = max(first + 1, last + 1 - splitting.overlap)
    return out


def _last(sizes: Sequence[int], first: int, words: int) -> int:
    """The last sentence of the passage that begins with `first`: the one that fills it up."""
    last, total = first, sizes[first]
    while last + 1 < len(sizes) and total + sizes[last + 1] <= words:
        last, total = last + 1, total + sizes[last + 1]
    return last


def _passage(document: Document, number: int, start: int, end: int) -> Passage:
    return Passage(id=f"{document.id}#{number}", document=document.id, source=document.source, date=document.date, start=start,
                   end=end, text=document.text[start:end])

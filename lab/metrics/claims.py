"""What an answer claims and what a source says: sentences, and the numbers and names that have to stand in the source."""

from __future__ import annotations

import re

from lab.metrics._facts import numbers

_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[^\W_a-z]|[\"'“‘(\[])|\n+|(?<=[a-z0-9)])(?=[.!?][A-Z])|(?<=[。！？।])")
ABBREVIATED = re.compile(r"(?:^|[^\w.])(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|No|Inc|Ltd|Co|e\.g|i\.e|(?:[A-Z]\.){0,3}[A-Z])\.$")
"""What a text that goes on behind its dot ends with: titles, initials."""
LONGEST_WORDS = 60
"""Embeddings read the first 256 tokens of a text and leave out the rest, so that longer sentences are cut."""
_NAME = re.compile(r"(?<![\w'’])[A-Z][\w'’.-]*\w|(?<![\w'’])[A-Z]\b")
_STARTERS = frozenset({
    "after", "all", "also", "although", "among", "another", "because", "before", "both", "during", "each", "even", "every", "few",
    "former", "here", "however", "many", "more", "most", "now", "once", "only", "people", "several", "since", "such", "then",
    "though", "through", "two", "under", "until", "while", "without", "yet",
    "a", "an", "and", "as", "at", "but", "by", "for", "from", "he", "her", "his", "how", "i", "if", "in", "is", "it", "its", "no",
    "not", "of", "on", "one", "or", "she", "so", "some", "that", "the", "their", "there", "these", "they", "this", "to", "was",
    "we", "what", "when", "where", "which", "who", "why", "with", "yes", "you", "your"})
"""Words that are capital at the beginning of a sentence and name nothing."""


def sentences(text: str) -> list[str]:
    """The sentences of a text, also where the source lost the space between two; an empty text has none.

    One of more than `LONGEST_WORDS` words is cut into parts.
    """
    found: list[str] = []
    open_ = ""
    for part in _END.split(text.strip()):
        whole = f"{open_} {part}" if open_ else part
        goes_on = len(whole) < 400 and ABBREVIATED.search(whole[-12:]) is not None
        open_ = whole if goes_on else ""
        if not goes_on:
            found += _parts(whole.strip(" ."))
    return found + _parts(open_.strip(" ."))


def _parts(sentence: str) -> list[str]:
    words = sentence.split()
    if not re.search(r"\w", sentence):
        return []
    if len(words) <= LONGEST_WORDS and len(sentence) <= LONGEST_WORDS * 12:
        return [sentence]
    parts = [" ".join(words[i : i + LONGEST_WORDS]) for i in range(0, len(words), LONGEST_WORDS)]
    size = LONGEST_WORDS * 12  # a text without spaces is one word
    return [part[i : i + size] for part in parts for i in range(0, len(part), size) if re.search(r"\w", part[i : i + size])]


def of(question: str, answer: str, *, fewest: int = 4) -> list[str]:
    """The claims of an answer: its sentences. One of fewer than `fewest` words claims nothing without its question."""
    return [one if len(one.split()) >= fewest else f"{question} {one}" for one in sentences(answer)]


def names(text: str) -> frozenset[str]:
    """Words with a capital that are no mere beginning of a sentence, in small letters."""
    found = (word.lower().removesuffix("'s").removesuffix("’s") for word in _NAME.findall(text))
    return frozenset(word for word in found if word not in _STARTERS and len(word) > 1)


def unsupported(claim: str, source: str) -> tuple[list[str], int]:
    """The numbers and names of `claim` that `source` does not have, and how many numbers and names it has at all.

    A capital word counts as there if the source has it in any case; a number as there if the source has that value.
    """
    words, values = set(re.findall(r"\w+", source.lower())), numbers(source)
    named, counted = names(claim), numbers(claim)
    missing = [name for name in sorted(named) if not set(re.findall(r"\w+", name)) <= words]
    missing += [f"{value:g}" for value in sorted(counted) if value not in values]
    return missing, len(named) + len(counted)

"""From a word or phrase of a list to the pattern of all the ways it is written: inflected, in leetspeak, spelled out."""

from __future__ import annotations

import re

from lab.errors import LabError

_LEET = {"a": "[a4@]", "b": "[b8]", "e": "[e3]", "g": "[g9]", "i": "[i1!|]", "l": "[l1|]", "o": "[o0]", "s": "[s5$]",
         "t": "[t7+]", "z": "[z2]"}
_BETWEEN_LETTERS = r"[ .\-_*~]{1,3}"
_BETWEEN_WORDS = r"[\s\x0b.,;:'\"\-_*~()]{1,3}"
SHORTEST_SPELLED = 4
"""Shorter words are not looked for letter by letter: "a s s" and "g u n" turn up in tables and initials."""


def pattern(phrase: str) -> str:
    """The pattern of `phrase`. A word that ends in * may have any ending of up to six letters."""
    words = phrase.lower().split()
    if not words or any(not re.fullmatch(r"[a-z0-9']+\*?|\*", word) for word in words):
        raise LabError(f"'{phrase}' is no list entry; write words of letters and digits, with * for any ending.")
    return rf"\b{_BETWEEN_WORDS.join(map(_word, words))}\b"


def plain(phrase: str) -> str:
    """The pattern of `phrase` as it is written, for lists too long to be looked for in disguise; `~` is up to four words."""
    found = ""
    for word in phrase.lower().split():
        if word == "~":
            found += r"(?:[a-z0-9']{1,20}[\s\-]{1,3}){0,4}"
        else:
            found += re.escape(word.rstrip("*")) + ("[a-z]{0,6}" if word.endswith("*") else "") + r"[\s\-']{1,3}"
    return found.removesuffix(r"[\s\-']{1,3}")


def _word(word: str) -> str:
    letters = [_LEET.get(letter, letter) for letter in word.rstrip("*")]
    ending = "[a-z]{0,6}" if word.endswith("*") else ""
    joined = "".join(letters) + ending
    return f"(?:{joined}|{_BETWEEN_LETTERS.join(letters)})" if len(letters) >= SHORTEST_SPELLED else joined

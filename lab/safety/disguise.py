"""Undoes what needs the whole text to be seen: letters written as digits, and words written letter by letter."""

from __future__ import annotations

import functools
import re

from lab.safety.patterns import compiled
from lab.safety.view import view

_LEET = re.compile(rb"(?<=[A-Za-z])[013457@$]{1,2}(?=[A-Za-z])|\b[013457@$](?=[A-Za-z]{2})")
_LETTERS = bytes.maketrans(b"013457@$", b"oieastas")
_SPELLED = re.compile(rb"\b(?:[A-Za-z][ .\-_*]){2,40}[A-Za-z]\b")
_SIGN = r"[A-Za-z][013457@$]{1,2}[A-Za-z]|\b[013457@$][A-Za-z]{2}|\b[A-Za-z][ .\-_*][A-Za-z][ .\-_*][A-Za-z]\b"
"""Without a match of this (in linear time) there is nothing to undo, which is so for most texts."""


@functools.lru_cache(maxsize=16)
def undisguised(text: str) -> tuple[bytes, ...]:
    """The view of a whole text, and, where letters are written as digits or one by one, another with words in their place."""
    data = view(text).data
    if compiled(_SIGN).search(data) is None:
        return (data,)
    words = _SPELLED.sub(_joined, _LEET.sub(lambda match: match.group().translate(_LETTERS), data))
    return (data,) if words == data else (data, words)


def _joined(match: re.Match[bytes]) -> bytes:
    return re.sub(rb"[ .\-_*]", b"", match.group())

"""Undoes what needs the whole text to be seen: letters as digits, words taken apart or run together by signs, simple codes."""

from __future__ import annotations

import base64
import binascii
import functools
import html
import re
import urllib.parse
from collections.abc import Iterator

from lab.safety.patterns import compiled
from lab.safety.view import view

_SIGNS = {
    "digits": r"[A-Za-z][013457@$89]{1,4}[A-Za-z]|\b[013457@$89]{1,3}[A-Za-z]{2}|[A-Za-z]{2}[013457@$89]{1,3}\b",
    "letters": r"\b[A-Za-z][ .\-_*][A-Za-z][ .\-_*][A-Za-z]\b",
    "run": r"[A-Za-z](?:(?:[_/\\|+=~*.\-]+|\s\s+|\n)[A-Za-z]+){3}|[a-z](?:[A-Z][a-z]+){3}",
    "escapes": r"&(?:#x?[0-9a-fA-F]{1,6}|[a-z]{2,6});|%[0-9a-fA-F]{2}|\\[ux][0-9a-fA-F]{2}",
    "code": r"[A-Za-z0-9+/_\-]{24}",
}
"""What shows, in linear time, that there may be something to undo; most texts match none of them."""
_CROWDED = 16
"""One of the same sign for so many characters is more than prose has."""
_DIGITS = r"[A-Za-z0-9@$]*(?:[A-Za-z][0-9@$]|[0-9@$][A-Za-z])[A-Za-z0-9@$]*"
_LETTERS = bytes.maketrans(b"01345789@$", b"oieastbgas")
_SPELLED = "|".join(rf"\b[A-Za-z](?:{sign}[A-Za-z]){{2,41}}\b" for sign in (" ", r"\.", r"\-", "_", r"\*"))
"""The same sign between all letters: in "k.i.l.l a.l.l" a blank ends the word."""
_RUN = r"[A-Za-z]+(?:(?:[_/\\|+=~*.\-]+|\s\s+|\n)[A-Za-z]+){3,}|[A-Za-z]?[a-z]+(?:[A-Z][a-z]+){3,}"
"""Four words or more that anything but a blank parts; fewer are names and paths."""
_GAP = re.compile(rb"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])")
_INSIDE = re.compile(rb"(?<=[A-Za-z])[*_~`\-]{1,2}(?=[A-Za-z])|\*+|~~+")
_CODED = re.compile(r"(?<![A-Za-z0-9+/_\-])[A-Za-z0-9+/_\-]{24,8000}={0,2}")
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})")


@functools.lru_cache(maxsize=16)
def undisguised(text: str) -> tuple[bytes, ...]:
    """The view of a whole text, and, where there are signs of a disguise, others with what may have been meant in its place."""
    data = view(text).data
    signs = _signs(data)
    if not signs:
        return (data,)
    return tuple(dict.fromkeys((data, *_undone(data, signs), *_decoded(text, signs))))


def _signs(data: bytes) -> frozenset[str]:
    crowded = ["crowded"] if any(data.count(sign) * _CROWDED > len(data) for sign in (b"-", b"*", b"_", b"~", b"`")) else []
    if compiled("|".join(_SIGNS.values()), case=True).search(data) is None:
        return frozenset(crowded)
    return frozenset([*crowded, *(name for name, pattern in _SIGNS.items() if compiled(pattern, case=True).search(data))])


def _undone(data: bytes, signs: frozenset[str]) -> Iterator[bytes]:
    words = data
    for sign, pattern, meant in (("digits", _DIGITS, _letters), ("letters", _SPELLED, _joined), ("run", _RUN, _parted)):
        if sign in signs:
            words = compiled(pattern, case=True).sub(meant, words)
    yield words
    if "crowded" in signs:  # "ig-nore", "**ig**nore"
        yield _INSIDE.sub(b"", words)


def _letters(match: re.Match[bytes]) -> bytes:
    return match.group().replace(b"11", b"ll").translate(_LETTERS)


def _joined(match: re.Match[bytes]) -> bytes:
    return match.group()[::2]


def _parted(match: re.Match[bytes]) -> bytes:
    return _GAP.sub(b" ", match.group())


def _decoded(text: str, signs: frozenset[str]) -> Iterator[bytes]:
    """The text with escapes of HTML, addresses and programs undone, and what base64 or hexadecimal digits in it say."""
    if "escapes" in signs:
        plain = _ESCAPED.sub(lambda m: chr(int(m.group(1) or m.group(2), 16)), html.unescape(text))
        yield view(urllib.parse.unquote(plain)).data
    for match in _CODED.finditer(text) if "code" in signs else ():
        for said in _read(match.group()):
            yield view(said).data


def _read(code: str) -> Iterator[str]:
    """What a code says, if that is a text of several words."""
    for read in (_base64, bytes.fromhex):
        try:
            said = read(code).decode("utf-8")
        except (ValueError, binascii.Error):
            continue
        if said.isprintable() and " " in said:
            yield said


def _base64(code: str) -> bytes:
    plain = code.rstrip("=").translate(str.maketrans("-_", "+/"))
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)

"""A text as the patterns read it: disguises of letters undone, one byte a character, with the way back to its places.

Undone are full-width and styled letters, look-alikes from other alphabets, accents, and characters without width.
Every character is replaced by itself alone, so that the view of a text never depends on how it was cut into pieces.
"""

from __future__ import annotations

import codecs
import functools
import unicodedata
from dataclasses import dataclass

OTHER = 0xFF
"""The byte that stands for a character that no pattern of ours speaks of."""
_ALIKE = dict(zip(
    "аАВвсСеЕНһіІїЇјЈКкМмоОрРԛѕЅТтԝуУхХгьΑΒΕΖΗΙΚΜΝΟΡΤΥΧαεικνορτυχωηγσıɡɑⅼ∣ｌ–—−‘’“”‚…·•∙⋅\u2028\u2029\x85\xa0",
    "aABbcCeEHhiIiIjJKkMmoOpPqsSTtwyYxXrbABEZHIKMNOPTYXaeikvoptuxwnyoigalll---''\"\"'.....\n\n\n ", strict=True)) | dict(zip(
    "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘǫʀꜱᴛᴜᴠᴡʏᴢ‐‑‒―⁃", "abcdefghijklmnopqrstuvwyz-----", strict=True))
_TAGS = range(0xE0020, 0xE007F)
"""Invisible characters that a model reads as the ASCII they stand for (Unicode's block Tags)."""


@dataclass(frozen=True, kw_only=True)
class View:
    """`data[i]` stands for the character at `places[i]` of the text (at i, when `places` is None)."""

    data: bytes
    places: tuple[int, ...] | None
    length: int

    def place(self, i: int) -> int:
        """Where byte i stands in the text; the end of the text for the end of the data."""
        if self.places is None:
            return i
        return self.places[i] if i < len(self.places) else self.length

    def end(self, i: int) -> int:
        """The place behind the last of the first i bytes."""
        return self.place(i - 1) + 1 if i else 0

    def index(self, place: int) -> int:
        """The first byte that stands for the character at `place` or a later one."""
        if self.places is None:
            return place
        import bisect

        return bisect.bisect_left(self.places, place)


@functools.lru_cache(maxsize=16)
def view(text: str) -> View:
    """The view of `text`; that of plain ASCII is the text itself."""
    if text.isascii():
        return View(data=text.encode("ascii"), places=None, length=len(text))
    if all(len(_plain(character)) == 1 for character in set(text)):
        return View(data=text.translate(_FOLDED).encode("latin-1", "lab.other"), places=None, length=len(text))
    read, places = [], []
    for place, character in enumerate(text):
        for plain in _plain(character):
            read.append(plain)
            places.append(place)
    return View(data="".join(read).encode("latin-1", "lab.other"), places=tuple(places), length=len(text))


@functools.lru_cache(maxsize=8192)
def _plain(character: str) -> str:
    """What `character` looks like in plain letters; nothing for one without width."""
    if character.isascii():
        return character
    if character in _ALIKE:
        return _ALIKE[character]
    if ord(character) in _TAGS:
        return chr(ord(character) - 0xE0000)
    kind = unicodedata.category(character)
    if kind in ("Mn", "Me", "Cf"):
        return ""
    if kind == "Zs":
        return " "
    if kind == "Nd":
        return str(unicodedata.digit(character))
    apart = unicodedata.normalize("NFKD", character)
    kept = "".join(_ALIKE.get(c, c) for c in apart if unicodedata.category(c) not in ("Mn", "Me", "Cf"))
    return kept or character


class _Folded(dict[int, str]):
    """`_plain` for `str.translate`, which is many times faster than a loop; it learns a character when it meets it."""

    def __missing__(self, code: int) -> str:
        self[code] = _plain(chr(code))
        return self[code]


_FOLDED = _Folded()


def _other(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    return bytes([OTHER]) * (error.end - error.start), error.end


codecs.register_error("lab.other", _other)

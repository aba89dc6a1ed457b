"""What sets two texts apart however alike they sound: their numbers, and whether they say that something is not so.

Sentence embeddings hardly see either: "in 1944" and "in 1945" lie as close together as a text and its paraphrase.
"""

from __future__ import annotations

import re

_ONES = re.findall(r"\w+", "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
                           "sixteen seventeen eighteen nineteen")
_TENS = re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety")
_VALUES = {word: float(i) for i, word in enumerate(_ONES)} | {word: 10.0 * i for i, word in enumerate(_TENS, start=2)}
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_ORDINALS = {"first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight", "ninth": "nine",
             "twelfth": "twelve"}
_NEGATIONS = frozenset({"not", "no", "never", "none", "nobody", "nothing", "neither", "nor", "without", "cannot", "nowhere"})


def numbers(text: str) -> frozenset[float]:
    """The numbers in a text, in digits or English words, ordinals too: "1,200.5" and "two hundred and five" are one each."""
    found: list[float] = []
    total = part = 0.0
    last = ""  # what kind of word the number that is being read ended with; "" when none is
    for token in [*re.findall(r"\d+(?:\.\d+)?|[a-z]+", re.sub(r"(?<=\d),(?=\d{3})", "", text.lower())), ""]:
        word = _cardinal(token)
        value = float(token) if token[:1].isdigit() else _VALUES.get(word)
        if last and word in _SCALES:
            total, part = (total, part * 100) if word == "hundred" else (total + part * _SCALES[word], 0.0)
            last = "scale"
        elif last == "scale" and token == "and":
            continue
        elif last and value is not None and (last == "scale" or (last == "tens" and 0 < value < 10)):
            part, last = part + value, "tens" if value >= 20 else "ones"
        else:
            found += [total + part] * bool(last)
            total, part, last = 0.0, value or 0.0, "" if value is None else "tens" if word in _TENS else "ones"
    return frozenset(found)


def _cardinal(word: str) -> str:
    """The number word behind an ordinal; any other word as it is."""
    plain = _ORDINALS.get(word) or (word.removesuffix("ieth") + "y" if word.endswith("ieth") else word.removesuffix("th"))
    return plain if plain in _VALUES or plain in _SCALES else word


def negated(text: str) -> bool:
    """Whether a text says an odd number of times that something is not so."""
    words = re.findall(r"[a-z]+n ?['’]t\b|[a-z]+", text.lower())
    return bool(sum(word in _NEGATIONS or word.endswith(("'t", "’t")) for word in words) % 2)


def differs(text: str, reference: str) -> str:
    """What sets two texts apart however alike they are: "number", "negation" or "".

    Numbers do when both texts have some and neither has all of the other's: a text may give one more, or leave one out.
    """
    ours, theirs = numbers(text), numbers(reference)
    if ours and theirs and not (ours <= theirs or theirs <= ours):
        return "number"
    return "negation" if negated(text) != negated(reference) else ""

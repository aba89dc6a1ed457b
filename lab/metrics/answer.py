"""Is a generated answer right, by its words; and where do two answers part?"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from lab.records import Generation, Question, Score


def correct(question: Question, generation: Generation) -> Score:
    """1 if the first option named in the answer's first line is the right one, 0 if not; NaN without an answer.

    The score's item is the request's id. Words are compared without case and punctuation. An answer that names no option is
    wrong.
    """
    if generation.error is not None or question.answer is None:
        return Score(name="answered", item=generation.request.id, value=math.nan, by="words", why=generation.error or "no key")
    said = _words((generation.text.strip().splitlines() or [""])[0])
    options = enumerate(map(_words, question.choices))
    places = [(at, -len(option), i) for i, option in options if (at := said.find(option)) >= 0]
    named = min(places)[2] if places else None
    why = question.choices[named] if named is not None else "names no option"
    return Score(name="answered", item=generation.request.id, value=float(named == question.answer), by="words", why=why)


def first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """Index of the first token in which two answers differ; the shorter one's length where it begins the longer one."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _words(text: str) -> str:
    return " " + " ".join(re.findall(r"[^\W_]+", text.lower())) + " "

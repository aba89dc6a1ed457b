"""Is a generated answer right, by its words; and where do two answers part?"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from lab.records import Generation, Question, Score


def correct(question: Question, generation: Generation) -> Score:
    """1 if the first option named in the answer's first line is the right one, 0 if not; NaN without an answer.

    The score's item is the request's id. Words are compared without case and punctuation, unless the options differ in
    nothing else (5 and -5, + and -): then every character counts. An answer that names no option is wrong.
    """
    if generation.error is not None or question.answer is None:
        return Score(name="answered", item=generation.request.id, value=math.nan, by="words", why=generation.error or "no key")
    named = _named((generation.text.strip().splitlines() or [""])[0], question.choices)
    why = question.choices[named] if named is not None else "names no option"
    return Score(name="answered", item=generation.request.id, value=float(named == question.answer), by="words", why=why)


def first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """Index of the first token in which two answers differ; the shorter one's length where it begins the longer one."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _named(said: str, choices: Sequence[str]) -> int | None:
    """The index of the option that `said` names first, the longest where several begin there; None for none."""
    options = [*map(_words, choices)]
    if len({*options}) == len(options) and all(option.strip() for option in options):
        places = [(at, -len(option), i) for i, option in enumerate(options) if (at := _words(said).find(option)) >= 0]
    else:
        places = [(found.start(), -len(choice), i) for i, choice in enumerate(choices)
                  if choice.strip() and (found := re.search(_bounded(choice.strip()), said, re.IGNORECASE))]
    return min(places)[2] if places else None


def _bounded(option: str) -> str:
    """A pattern of the option's very characters that does not begin or end inside a word."""
    before, after = (r"(?<![^\W_])" if option[0].isalnum() else ""), (r"(?![^\W_])" if option[-1].isalnum() else "")
    return f"{before}{re.escape(option)}{after}"


def _words(text: str) -> str:
    return " " + " ".join(re.findall(r"[^\W_]+", text.lower())) + " "

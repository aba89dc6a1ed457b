"""From a pattern to the pattern of its beginnings: what a growing text may end with and still become a match.

The beginnings of a regular language are regular (Hopcroft and Ullman 1979, exercise 3.4): those of `ab` are the
beginnings of `a`, and `a` followed by those of `b`; those of `a{m,n}` are up to n-1 times `a` and a beginning of `a`.
Non-empty ones only, the whole match included. So a stream holds back exactly what may become a match, and no guess at
"the longest match there can be" is needed. Written for the part of Python's syntax that RE2 shares.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from lab.errors import LabError

_CLASSES = {op.CATEGORY_DIGIT: r"\d", op.CATEGORY_NOT_DIGIT: r"\D", op.CATEGORY_SPACE: r"\s",
            op.CATEGORY_NOT_SPACE: r"\S", op.CATEGORY_WORD: r"\w", op.CATEGORY_NOT_WORD: r"\W"}
_PLACES = {op.AT_BOUNDARY: r"\b", op.AT_NON_BOUNDARY: r"\B", op.AT_BEGINNING: "^", op.AT_BEGINNING_STRING: r"\A"}


def beginnings(pattern: str) -> str:
    """The pattern of all non-empty beginnings of the matches of `pattern`. Raises `LabError` for what it cannot read."""
    try:
        found = _beginnings(list(parser.parse(pattern)))
    except re.error as error:
        raise LabError(f"The pattern {pattern!r} is no regular expression ({error}); mend it.") from error
    if found is None:
        raise LabError(f"The pattern {pattern!r} matches nothing but the empty text; give it a character to look for.")
    return found


def _beginnings(sequence: Sequence[Any]) -> str | None:
    """Innermost first, so that the result is as long as the pattern and not its square."""
    rest: str | None = None
    for node in reversed(sequence):
        own, whole = _of(node), _written(node)
        later = None if rest is None else whole + rest
        parts = [part for part in (own, later) if part is not None]
        rest = f"(?:{'|'.join(parts)})" if parts else None
    return rest


def _of(node: Any) -> str | None:
    kind, value = node
    if kind is op.AT:
        return None
    if kind is op.SUBPATTERN:
        inner = _beginnings(list(value[3]))
        return None if inner is None else f"{_group(value)}{inner})"
    if kind is op.BRANCH:
        parts = [part for branch in value[1] if (part := _beginnings(list(branch))) is not None]
        return f"(?:{'|'.join(parts)})" if parts else None
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
        _, most, inner = value
        last = _beginnings(list(inner))
        if last is None or most == 0:
            return None
        before = _all(list(inner))
        times = "*" if most is op.MAXREPEAT else f"{{0,{int(most) - 1}}}"
        return last if most == 1 else f"(?:{before}){times}{last}"
    return _written(node)


def _all(sequence: Sequence[Any]) -> str:
    return "".join(map(_written, sequence))


def _written(node: Any) -> str:
    """A node as a pattern again."""
    kind, value = node
    if kind is op.LITERAL:
        return _escaped(value)
    if kind is op.NOT_LITERAL:
        return f"[^{_escaped(value)}]"
    if kind is op.ANY:
        return "."
    if kind is op.IN:
        return f"[{''.join(map(_member, value))}]"
    if kind is op.AT and value in _PLACES:
        return _PLACES[value]
    if kind is op.SUBPATTERN:
        return f"{_group(value)}{_all(list(value[3]))})"
    if kind is op.BRANCH:
        return f"(?:{'|'.join(_all(list(branch)) for branch in value[1])})"
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
        least, most, inner = value
        end = "" if most is op.MAXREPEAT else str(int(most))
        return f"(?:{_all(list(inner))}){{{int(least)},{end}}}"
    raise LabError(f"A pattern uses {str(kind).lower()}, which has no linear-time matcher; write it without.")


def _group(value: Any) -> str:
    return "(?i:" if value[1] & re.IGNORECASE else "(?:"


def _member(node: Any) -> str:
    kind, value = node
    if kind is op.NEGATE:
        return "^"
    if kind is op.RANGE:
        return f"{_escaped(value[0])}-{_escaped(value[1])}"
    return _CLASSES[value] if kind is op.CATEGORY else _escaped(value)


def _escaped(code: int) -> str:
    return f"\\x{{{code:x}}}"

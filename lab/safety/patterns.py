"""Patterns in linear time over a growing text: what matches already, and from where on something still might.

RE2 compiles them to automata (Thompson 1968), so that no text makes a pattern slow, whoever wrote the text. Of matches
that begin at one place the longest counts; the next is looked for behind its end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from lab.errors import LabError
from lab.safety.beginnings import beginnings
from lab.safety.decisions import Finding, Scan
from lab.safety.view import view

MEMORY_BYTES = 64_000_000
Verify = Callable[[str], int]
"""Gives how many characters of a candidate are the match; 0 when it is none, and -k when the first k begin none."""


class Patterns:
    """A guard that finds any of several named patterns; ASCII letters, digits and signs are all they may speak of.

    `verify[name]` has the last word on a candidate of `name` (a check digit, a length). Case counts only with `case`.
    """

    def __init__(self, named: Mapping[str, str], *, verify: Mapping[str, Verify] | None = None, case: bool = False) -> None:
        if not named:
            raise LabError("A guard of patterns needs at least one pattern.")
        self._verify = dict(verify or {})
        whole = "|".join(f"(?:{pattern})" for pattern in named.values())
        self._whole = compiled(whole, case=case)
        self._open = compiled(rf"(?:{beginnings(whole)})\z", case=case)
        self._named = {name: compiled(pattern, case=case) for name, pattern in named.items()}

    def scan(self, text: str, start: int, ended: bool) -> Scan:
        seen, findings = view(text), list[Finding]()
        at, last = seen.index(start), len(seen.data)
        rest = -1
        while at < last:
            if rest < at:
                opened = None if ended else self._open.search(seen.data, at)
                rest = last if opened is None else opened.start()
                if rest == at:  # in the middle of a word nearly every chunk ends here, before the dearer search
                    return Scan(findings=tuple(findings), certain=max(start, seen.place(rest)))
            match = self._whole.search(seen.data, at)
            # A match that begins where something is still open may become longer, or be beaten by it.
            if match is None or rest <= match.start():
                return Scan(findings=tuple(findings), certain=len(text) if rest == last else max(start, seen.place(rest)))
            name, size = self._kind(match)
            if size > 0:
                findings.append(Finding(start=seen.place(match.start()), end=seen.end(match.start() + size), category=name))
                at = seen.index(findings[-1].end)
            else:
                at = match.start() - size if size < 0 else match.start() + 1
        return Scan(findings=tuple(findings), certain=len(text))

    def _kind(self, match: Any) -> tuple[str, int]:
        """The first pattern that says yes, and to how much; else the most cautious step onwards."""
        found, steps = match.group(), list[int]()
        for name, pattern in self._named.items():
            if pattern.fullmatch(found) is None:
                continue
            check = self._verify.get(name)
            size = len(found) if check is None else check(found.decode("latin-1"))
            if size > 0:
                return name, size
            steps.append(size)
        return "", max(steps, default=0)


@functools.lru_cache(maxsize=256)
def compiled(pattern: str, *, case: bool = False) -> Any:
    """`pattern` as RE2 matches it: leftmost, longest, over bytes that are characters."""
    import re2

    try:
        return re2.compile(pattern.encode("latin-1"), options(case=case))
    except re2.error as error:
        said = error.args[0] if error.args else error
        said = said.decode() if isinstance(said, bytes) else said
        raise LabError(f"A pattern of {len(pattern)} characters cannot be matched in linear time ({said}); write it simpler."
                       ) from error


def options(*, case: bool = False) -> Any:
    import re2

    chosen = re2.Options()
    chosen.encoding = re2.Options.Encoding.LATIN1
    chosen.longest_match = True
    chosen.case_sensitive = case
    chosen.log_errors = False
    chosen.max_mem = MEMORY_BYTES
    return chosen

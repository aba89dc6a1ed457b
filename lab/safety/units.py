"""Guards that need a whole sentence, or the whole text, before they can say anything: classifiers and models."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Literal

from lab.safety.decisions import Finding, Scan

Unit = Literal["sentence", "whole"]
UNITS: tuple[Unit, ...] = ("sentence", "whole")
Look = Callable[[str], Finding | None]
_END = re.compile(r"[.!?][\"')\]]?\s|\n")


class Units:
    """A guard from a function of one unit; the finding is moved to where the unit stands, and covers it.

    "whole" keeps a stream back until it ends, "sentence" until the sentence is complete.
    """

    def __init__(self, look: Look, unit: Unit = "whole") -> None:
        self._look, self._unit = look, unit

    def scan(self, text: str, start: int, ended: bool) -> Scan:
        ends = [match.end() for match in _END.finditer(text, start)] if self._unit == "sentence" else []
        if ended and (not ends or ends[-1] < len(text)):
            ends.append(len(text))
        begins, findings = start, []
        for end in ends:
            if text[begins:end].strip() and (found := self._look(text[begins:end])) is not None:
                findings.append(dataclasses.replace(found, start=begins, end=end))
            begins = end
        return Scan(findings=tuple(findings), certain=begins)


def flagged(category: str, detail: str = "", replacement: str | None = None) -> Finding:
    """A finding about a whole unit; `Units` fills in the places."""
    return Finding(start=0, end=0, category=category, detail=detail, replacement=replacement)

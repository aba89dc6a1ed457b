"""Metrics turn what was observed into numbers: pure functions of generations, logits and texts, one idea a file.

A module with `SCORERS` (name -> function of questions and their answers) adds to the scorers: this folder's listing is
their registry, and the first line of a scorer's docstring is what `scorers()` says of it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence

from lab.errors import LabError
from lab.records import Generation, Question, Score

Scorer = Callable[[Sequence[Question], Sequence[Generation]], list[Score]]
"""One `Score` for each question and its answer, in their order; NaN with a reason where there is nothing to score."""


def scorers() -> dict[str, str]:
    """The scorers there are, each with one sentence."""
    return described(listed("SCORERS"))


def scorer(name: str) -> Scorer:
    """The scorer of that name. Raises `LabError` naming those there are."""
    found = listed("SCORERS")
    if name not in found:
        raise LabError(f"There is no metric '{name}'; the metrics are {', '.join(sorted(found))}.")
    return found[name]


def listed(table: str) -> dict[str, Scorer]:
    """All entries of the dicts called `table` in the modules of this folder."""
    modules = [m.name for m in pkgutil.iter_modules(__path__) if not m.ispkg and not m.name.startswith("_")]
    return {name: found for module in modules
            for name, found in getattr(importlib.import_module(f"{__name__}.{module}"), table, {}).items()}


def described(found: Mapping[str, Scorer]) -> dict[str, str]:
    """The first line of what each says of itself, by name."""
    return {name: (inspect.getdoc(one) or "").split("\n")[0] for name, one in sorted(found.items())}

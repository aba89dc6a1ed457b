"""The guards a policy can name; this folder's listing is their registry, and a new file is a new guard.

A module has `guard(**settings) -> Guard`; one that asks a second model takes `engines` as well (see `lab.safety.engines`).
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from lab.engines import Engine
from lab.errors import LabError
from lab.safety import lines
from lab.safety.decisions import Guard


def names() -> list[str]:
    """The guards there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def settings_of(name: str) -> dict[str, inspect.Parameter]:
    """The settings of guard `name`, with their defaults."""
    module = importlib.import_module(f"{__name__}.{name}")
    found = dict(inspect.signature(module.guard).parameters)
    found.pop("engines", None)
    return found


def make(name: str, settings: Mapping[str, Any], engines: Mapping[str, Engine] | None = None) -> Guard:
    """The guard called `name`. Raises `LabError` for one that does not exist and for settings it cannot take."""
    if name not in names():
        raise LabError(f"There is no guard '{name}'; the guards are {', '.join(names())}.")
    known = settings_of(name)
    if unknown := sorted(set(settings) - set(known)):
        raise LabError(f"Guard '{name}' has no setting '{unknown[0]}'; it has {', '.join(known) or 'none'}.")
    module = importlib.import_module(f"{__name__}.{name}")
    hints = typing.get_type_hints(module.guard)
    settings = {setting: lines.number(value, _numeric(hints[setting])) for setting, value in settings.items()}
    for setting, value in settings.items():
        if not _fits(value, hints[setting]):
            raise LabError(f"The setting '{setting}' of guard '{name}' takes {_words(hints[setting])}, not {value!r}.")
    more = {"engines": engines or {}} if "engines" in inspect.signature(module.guard).parameters else {}
    made: Guard = module.guard(**settings, **more)
    return made


def _numeric(kind: Any) -> Any:
    """float or int where a setting takes a number and no text, else None."""
    kinds = typing.get_args(kind) or (kind,)
    return None if str in kinds else next((one for one in (float, int) if one in kinds), None)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value out of a policy file is of the annotated type of a setting."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in args)
    if origin is typing.Literal:
        return value in args
    if kind is type(None):
        return value is None
    if origin is Sequence:
        return isinstance(value, (list, tuple)) and all(_fits(one, args[0]) for one in value)
    return isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))


def _words(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(one) for one in args)
    if origin is typing.Literal:
        return " or ".join(map(str, args))
    if origin is Sequence:
        return "a list of texts"
    return {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "nothing")

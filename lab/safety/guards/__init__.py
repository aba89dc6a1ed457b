"""The guards a policy can name; this folder's listing is their registry, and a new file is a new guard.

A module has `guard(**settings) -> Guard`; one that asks a second model takes `engines` as well (see `lab.safety.engines`).
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from lab.engines import Engine
from lab.errors import LabError
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
    more = {"engines": engines or {}} if "engines" in inspect.signature(module.guard).parameters else {}
    made: Guard = module.guard(**settings, **more)
    return made

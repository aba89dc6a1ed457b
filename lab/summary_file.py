"""The summary that a command also writes into a file (`--json`): strict JSON, and refused before anything is measured."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from lab.errors import LabError


def refuse(file: Path | None) -> None:
    """Raise `LabError` before anything is measured if the summary could not be written."""
    if file is None:
        return
    if file.is_dir() or not file.parent.is_dir():
        raise LabError(f"The summary cannot be written to {file}; give --json a file in a folder that exists.")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise LabError(f"The summary cannot be written to {file} (no permission); give --json another file.")


def write(file: Path | None, value: dict[str, Any]) -> None:
    """Write the summary, if a file was given. Raises `LabError` when it cannot be written."""
    if file is None:
        return
    try:
        file.write_text(text(value))
    except OSError as error:
        raise LabError(f"The summary cannot be written to {file} ({error.strerror}); the run itself is kept.") from error


def text(value: dict[str, Any]) -> str:
    """The summary as strict JSON: not measured (NaN) is null."""
    return json.dumps(_strict(value), indent=1, allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
    """`value` as strict JSON has it: not measured (NaN) is null, an infinity the word `inf` or `-inf`."""
    if isinstance(value, dict):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(v) for v in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)

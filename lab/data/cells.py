"""A cell of any format as the value it stands for: a text, a whole number, a list of texts."""

from __future__ import annotations

import json
import math
from datetime import date, datetime
from typing import Any


def text(cell: Any) -> str:
    """A cell as text, "" for none or a nested one. The JSON reader makes timestamps of dates; they are turned back."""
    if isinstance(cell, datetime) and cell == datetime(cell.year, cell.month, cell.day):
        cell = cell.date()
    if cell is None or isinstance(cell, (dict, list)) or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():  # a column of whole numbers with gaps is read as floats
        cell = int(cell)
    return cell.isoformat() if isinstance(cell, date) else str(cell).strip()


def whole(cell: Any) -> int | None:
    """A cell as a whole number: 2, 2.0 (a column with gaps is read as floats) and "2" (CSV) are; True is not."""
    if isinstance(cell, bool):
        return None
    try:
        number = int(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if isinstance(cell, str) or number == cell else None


def share(cell: Any) -> float | None:
    """A cell as a number from 0 to 1; true and false are 1 and 0, in JSON and as words in CSV."""
    if isinstance(cell, str) and cell.strip().lower() in ("true", "false"):
        return float(cell.strip().lower() == "true")
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return None
    return number if 0 <= number <= 1 else None


def texts(cell: Any) -> tuple[str, ...] | None:
    """A list of texts, in CSV a JSON list; None where there is no list. Empty ones stay, so that they can be refused."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError:
            return None
    return tuple(map(text, cell)) if isinstance(cell, list) else None

"""How a `LogRecord` lies in SQLite: its columns, and one that says what guards did."""

from __future__ import annotations

import math

from lab.ops.requests_schema import COLUMNS as SCHEMA
from lab.ops.requests_schema import LogRecord

GUARD = "guard"
"""What guards did, as `stage:rule:action`, several with a comma between; never what they saw."""
KINDS: dict[str, type] = {**SCHEMA, GUARD: str}
COLUMNS = tuple(KINDS)
SQL = ", ".join(f"{name} {({float: 'REAL', int: 'INTEGER', str: 'TEXT'})[kind]}" for name, kind in KINDS.items())
"""The columns as SQLite declares them."""


def row(record: LogRecord, guard: str) -> tuple[object, ...]:
    """The values in the order of the columns; NaN is NULL."""
    values = (getattr(record, name) for name in SCHEMA)
    return (*(None if isinstance(value, float) and math.isnan(value) else value for value in values), guard)

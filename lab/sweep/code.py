"""The state of the code that measures: trials of two states are not of one sweep, on one machine or on several."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import lab

MEASURES = ("records.py", "machine.py", "models.py", "text.py", "stats", "data", "engines", "load", "metrics", "safety",
            "retrieval", "experiments")
"""What of `lab/` can change a figure; surfaces and the record cannot."""


@functools.cache
def state() -> str:
    """A hash of the sources that measure; the same in every checkout and wheel of the same code."""
    root, found = Path(lab.__file__).parent, hashlib.sha256(lab.__version__.encode())
    for name in MEASURES:
        for file in sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / name]:
            found.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:16]

"""One look of a guard, timed and held to its limit: whatever goes wrong in it comes out as one reason, never as silence."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from lab.errors import LabError
from lab.safety.decisions import Scan


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What came of a look: a scan, or why there is none."""

    scan: Scan | None
    reason: str
    seconds: float


def look(scan: Callable[[], Scan], timeout_s: float | None) -> Looked:
    """Run `scan`; a limit runs it in a thread of its own, which is left behind when it is not done in time."""
    began = time.perf_counter()
    if timeout_s is None:
        found, reason = _tried(scan)
        return Looked(scan=found, reason=reason, seconds=time.perf_counter() - began)
    made: list[tuple[Scan | None, str]] = []
    thread = threading.Thread(target=lambda: made.append(_tried(scan)), daemon=True, name="guard")
    thread.start()
    thread.join(timeout_s)
    found, reason = made[0] if made else (None, f"no answer within {timeout_s:g} s")
    return Looked(scan=found, reason=reason, seconds=time.perf_counter() - began)


def _tried(scan: Callable[[], Scan]) -> tuple[Scan | None, str]:
    """The scan, or None and why there is none."""
    try:
        given = scan()
    except Exception as error:  # a guard that breaks must block, whatever broke it
        # Only our own sentences are known to quote no text of anybody.
        return None, str(error) if isinstance(error, LabError) else f"it raised {type(error).__name__}"
    if isinstance(given, Scan):
        return given, ""
    return None, f"it gave {type(given).__name__} in place of a scan"

"""One look of a guard, timed and held to its limit: whatever goes wrong in it comes out as one reason, never as silence."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from lab.errors import LabError
from lab.safety.decisions import Scan


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What came of a look: a scan, or why there is none."""

    scan: Scan | None
    reason: str
    seconds: float


def look(scan: Callable[[], Scan], timeout_s: float | None) -> Looked:
    """Run `scan`; a limit runs it in a thread of its own, which is left behind when it is not done in time."""
    began = time.perf_counter()
    found: list[Scan] = []
    reasons: list[str] = []

    def run() -> None:
        try:
            given = scan()
            if isinstance(given, Scan):
                found.append(given)
            else:
                reasons.append(f"it gave {type(given).__name__} in place of a scan")
        except Exception as error:  # a guard that breaks must block, whatever broke it
            # Only our own sentences are known to quote no text of anybody.
            reasons.append(str(error) if isinstance(error, LabError) else f"it raised {type(error).__name__}")

    if timeout_s is None:
        run()
    else:
        thread = threading.Thread(target=run, daemon=True, name="guard")
        thread.start()
        thread.join(timeout_s)
        if thread.is_alive():
            return Looked(scan=None, reason=f"no answer within {timeout_s:g} s", seconds=time.perf_counter() - began)
    seconds = time.perf_counter() - began
    return Looked(scan=found[0] if found else None, reason=reasons[0] if reasons else "", seconds=seconds)

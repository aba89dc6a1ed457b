"""A risky call waits for a person: what will happen is shown, and no answer in time is a no."""

from __future__ import annotations

import threading
import time
from string import Formatter

from lab.safety.decisions import ToolCall


class Pending:
    """One call that waits. `wait` blocks the caller, `answer` is for the person; the first answer counts."""

    def __init__(self, call: ToolCall, shows: str, timeout_s: float, why: str = "") -> None:
        self.call, self.shows, self.timeout_s, self.why = call, shows, timeout_s, why
        self.by = ""
        self._until = time.monotonic() + timeout_s
        self._changed = threading.Condition()
        self._said: bool | None = None

    @property
    def left_s(self) -> float:
        """Seconds until silence becomes a no."""
        return max(0.0, self._until - time.monotonic())

    @property
    def open(self) -> bool:
        return self._said is None and self.left_s > 0

    def answer(self, yes: bool, *, by: str = "") -> bool:
        """Say yes or no; whether it still counted (nobody answered before, and the time was not over)."""
        with self._changed:
            if not self.open:
                return False
            self._said, self.by = yes, by
            self._changed.notify_all()
            return True

    def wait(self) -> tuple[bool, str]:
        """Whether the call may go on, and why not: blocks until an answer or the end of the time."""
        with self._changed:
            self._changed.wait_for(lambda: self._said is not None, timeout=self.left_s)
            if self._said is None:
                self._said = False
                return False, f"nobody answered within {self.timeout_s:g} s"
            return self._said, "" if self._said else f"{self.by or 'a person'} said no"


def shown(shows: str, call: ToolCall) -> str:
    """What will happen, in words: `shows` with the arguments filled in, or the call itself."""
    values = {key: str(value) for key, value in call.arguments.items()}
    plain = f"{call.name}({', '.join(f'{key}: {value}' for key, value in values.items())})"
    if not shows:
        return f"Run {plain}"
    parts = []
    for before, key, _, _ in Formatter().parse(shows):
        parts.append(before + (values.get(key, f"({key} not given)") if key is not None else ""))
    return "".join(parts)

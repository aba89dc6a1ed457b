"""A circuit breaker: a source that failed several times in a row is left alone for a while, then tried by one request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MOST_FAILURES = 3
REST_S = 5.0


class Breaker:
    """Thread-safe. Closed (asked), open (left alone for `rest_s`), then one request tries whether it works again."""

    def __init__(
        self, *, failures: int = MOST_FAILURES, rest_s: float = REST_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._rest_s, self._clock = failures, rest_s, clock
        self._lock = threading.Lock()
        self._failures, self._until, self._trying = 0, 0.0, False

    @property
    def open(self) -> bool:
        return self._failures >= self._most

    def allows(self) -> bool:
        """Whether a request may be sent now; it must then say `worked` or `failed`."""
        with self._lock:
            if not self.open:
                return True
            if self._trying or self._clock() < self._until:
                return False
            self._trying = True
            return True

    def worked(self) -> None:
        with self._lock:
            self._failures, self._trying = 0, False

    def failed(self) -> None:
        with self._lock:
            self._failures, self._trying = self._failures + 1, False
            self._until = self._clock() + self._rest_s

"""This machine alone: one trial after another, because two timed trials side by side falsify both."""

from __future__ import annotations

from lab.sweep.attempt import Attempt, Ended, Job


class Local:
    """Runs one attempt at a time."""

    def __init__(self) -> None:
        self._running: Attempt | None = None

    def slots(self) -> int:
        return 1

    def start(self, job: Job) -> None:
        self._running = Attempt(job)

    def wait(self) -> Ended:
        assert self._running is not None
        ended = self._running.wait()
        self._running = None
        return ended

    def stop(self) -> None:
        """Interrupt what runs; its run keeps what was measured and is marked."""
        if self._running is not None:
            self._running.interrupt()

    def cautions(self) -> tuple[str, ...]:
        return ()

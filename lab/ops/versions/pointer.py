"""Which release an alias points at now: cheap enough to be asked for every request, and never behind a move that returned.

A move made on this machine with the same lab home is seen by the next call, because the move replaces the alias file
before it returns and every call reads that file (one open, read and close of some 200 bytes). A move made elsewhere on a
shared server is seen after at most `poll_s` and the time the server takes to answer, because a thread asks the store that
often; `checked_s` says how long ago it last got an answer, and `trouble` why not since.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from lab.errors import LabError
from lab.ops.versions import creating, kept, moves, registry
from lab.ops.versions.release import Release
from lab.ops.versions.state import Alias, State

POLL_S = 1.0


class Pointer:
    """Follows one alias of the store in force when it is made. Thread-safe; use one for each process, and close it.

    While the store does not answer, the last known release goes on being given.
    """

    def __init__(
        self, alias: Alias = "production", *, poll_s: float = POLL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.alias, self._clock = alias, clock
        self._place = kept.folder()
        self._file = kept.alias_file(self._place)
        self._lock, self._known = threading.Lock(), dict[tuple[int, str], Release]()
        self._state, self._digests = State(), dict[int, str]()
        self._seen: tuple[bytes, Release | None, str] | None = None
        self._trouble, self._checked_at = "", float("nan")
        self.refresh()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if poll_s > 0:
            self._thread = threading.Thread(target=self._poll, args=(poll_s,), daemon=True, name=f"pointer {alias}")
            self._thread.start()

    def get(self) -> Release | None:
        """The release the alias points at now; None when it points at none. Some 10 us while nothing moves."""
        content, seen = kept.raw(self._file), self._seen
        if seen is None or content != seen[0]:
            seen = self._take(content)
        if seen[2]:
            raise LabError(seen[2])
        return seen[1]

    def current(self) -> Release:
        """As `get`, but raises `LabError` when the alias points at no release."""
        found = self.get()
        if found is None:
            remedy = "lab release promote N" + (" --candidate" if self.alias == "candidate" else "")
            raise LabError(f"No release is {self.alias}; point at one with `{remedy}`.")
        return found

    @property
    def state(self) -> State:
        """Where all aliases point."""
        self.get()
        return self._state

    @property
    def trouble(self) -> str:
        """Why the store did not answer the last time it was asked; "" when it did."""
        return self._trouble

    @property
    def checked_s(self) -> float:
        """Seconds since the store last answered; NaN when it never has."""
        return self._clock() - self._checked_at

    def refresh(self) -> None:
        """Ask the store now, as the thread does: a move from elsewhere, or one whose process died before it could say so."""
        try:
            born, head = registry.head(moves.NAME)
            known = kept.parsed(kept.raw(self._file))
            if (born, head) != (self._state.born_ms, self._state.head) or known is None or head > known[0].head:
                self._learn(moves.current())
            self._trouble, self._checked_at = "", self._clock()
        except Exception as error:  # whatever fails here must not end the thread, and the gateway goes on with what it knows
            self._trouble = str(error) or type(error).__name__

    def close(self) -> None:
        """End the thread."""
        self._stop.set()

    def _poll(self, poll_s: float) -> None:
        while not self._stop.wait(poll_s):
            self.refresh()

    def _learn(self, state: State) -> None:
        """Take what the journal says; told to the other processes of this machine where the folder can be written."""
        if state.head == 0:
            return
        try:
            moves.publish(state)
        except OSError as error:
            self._trouble = f"{self._file} cannot be written ({error.strerror})"
        with self._lock:
            if state.newer(self._state):
                self._state, self._seen = state, None

    def _take(self, content: bytes) -> tuple[bytes, Release | None, str]:
        """Read the file anew. Of the file and what the store said the newer counts."""
        with self._lock:
            told = kept.parsed(content)
            if told is not None and not self._state.newer(told[0]):
                self._state, self._digests = told
            number = self._state.of(self.alias)
            try:
                self._seen = (content, self._release(number) if number is not None else None, "")
            except LabError as error:
                self._seen = None  # asked again by the next call: the store may answer then
                return (content, None, str(error))
            return self._seen

    def _release(self, number: int) -> Release:
        digest = self._digests.get(number, "")
        known = self._known.get((number, digest))
        if known is None:
            known = kept.kept_release(self._place, number, digest) if digest else None
            known = known or creating.numbered(number)
            self._known[number, digest] = known
        return known

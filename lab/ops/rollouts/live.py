"""Which rollout is on, as a gateway asks for every request: a small file beside the aliases, replaced whole by a rename.

The file is a copy; the journal in the store is the truth. A rollout counts only while production and candidate are the
releases it was begun with: to move either alias ends it at once, in every process, by what the aliases say.
"""

from __future__ import annotations

import json
from pathlib import Path

from lab.ops.rollouts.record import Rollout, read
from lab.ops.versions import kept
from lab.ops.versions.state import State

FILE = "rollout.json"


class Live:
    """Follows the file of the store in force when it is made; some 5 us a call while nothing changes."""

    def __init__(self, place: Path | None = None) -> None:
        self._file = (place or kept.folder()) / FILE
        self._seen: tuple[bytes, Rollout | None] = (b"", None)

    def get(self) -> Rollout | None:
        """The rollout that is on; None when there is none, or the file is broken."""
        content = kept.raw(self._file)
        if content != self._seen[0]:
            found = read(content)
            self._seen = (content, found if found is not None and not found.ended else None)
        return self._seen[1]

    def of(self, state: State) -> Rollout | None:
        """The rollout that is on, if the aliases are those it was begun with."""
        found = self.get()
        if found is None or (state.production, state.candidate) != (found.production, found.candidate):
            return None
        return found


def publish(found: Rollout | None, place: Path | None = None) -> None:
    """Tell the gateways of this machine. Raises `OSError` where nothing can be written."""
    folder = place or kept.folder()
    with kept.locked(folder, "rollout.file.lock"):
        kept.replace(folder / FILE, json.dumps(found.as_json()) if found is not None else "{}")

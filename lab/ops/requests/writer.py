"""Writes the log in a thread of its own: what came while one commit ran is the next commit (group commit)."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lab.ops.requests import language
from lab.ops.requests.hot import Hot
from lab.ops.requests.record import row
from lab.ops.requests.sealing import Keep, Keeper
from lab.ops.requests_schema import LogRecord
from lab.ops.versions import kept

MOST_BATCH = 1000
MOST_WAITING = 20_000
"""Rows nobody waits for (refusals) are dropped, and counted, when this many wait to be written."""
PROBE_S = 1.0

Acknowledge = Callable[[Sequence[Any], bool], None]
_Entry = tuple[LogRecord | None, Any, str, str | None, str]


def folder() -> Path:
    """Where the log of the store in force lies: `mlruns/requests` beside a local database, else a folder by the server's name."""
    place = kept.folder()
    return place.with_name("requests") if place.name == "releases" else place.parent.parent / "requests" / place.name


class RequestLog:
    """Appends rows; several processes may have one open on the same folder.

    `acknowledge` is called in the writer's thread with the tokens of each commit and whether their rows are safe. Raises
    `LabError` when the log cannot be opened.
    """

    def __init__(
        self, place: Path, *, acknowledge: Acknowledge = lambda tokens, safe: None, keep: Keep | None = None, sync: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.place, self._acknowledge, self._clock = place, acknowledge, clock
        self.keep = keep or Keep()
        self.trouble = ""
        """Why rows cannot be written now; "" while they can."""
        self.written = self.dropped = self.failed = 0
        self._hot = Hot(place, sync=sync)
        self._entries: queue.SimpleQueue[_Entry] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="request log", daemon=True)
        self._thread.start()
        self._keeper = Keeper(place, self.keep, clock=clock)

    def add(
        self, record: LogRecord, *, token: Any = None, guard: str = "", prompt: str | None = None, answer: str = ""
    ) -> None:
        """Have `record` written. Never waits. With a `token` it is never dropped, and `acknowledge` hears of it.

        `prompt` and `answer` are texts that may be kept, redacted already; without a prompt none is, and only the language of
        the answer is written.
        """
        if token is None and self._entries.qsize() > MOST_WAITING:
            self.dropped += 1
            return
        self._entries.put((record, token, guard, prompt, answer))

    def close(self) -> None:
        """Write what waits, and end."""
        self._entries.put((None, None, "", None, ""))
        self._thread.join(30)
        self._keeper.close()

    def _run(self) -> None:
        while True:
            batch = self._taken()
            ended = any(entry[0] is None for entry in batch)
            rows = [entry for entry in batch if entry[0] is not None]
            if rows or self.trouble:
                self._write(rows)
            if ended:
                self._hot.close()
                return

    def _taken(self) -> list[_Entry]:
        batch: list[_Entry] = []
        with contextlib.suppress(queue.Empty):
            batch.append(self._entries.get(timeout=PROBE_S if self.trouble else None))
            while len(batch) < MOST_BATCH:
                batch.append(self._entries.get_nowait())
        return batch

    def _write(self, entries: Sequence[_Entry]) -> None:
        """One commit; while the log is in trouble an empty one is a probe that something can be written again."""
        tokens = [token for _, token, *_ in entries if token is not None]
        texts = [(r.time_s, r.request_id, _whole(prompt), _whole(said)) for r, _, _, prompt, said in entries
                 if r and prompt is not None]
        try:
            if self.trouble:
                with self._hot.transaction() as connection:
                    connection.execute("DELETE FROM alive")
                    connection.execute("INSERT INTO alive VALUES (?)", (self._clock(),))
            self._hot.append([row(_spoken(r, said), guard) for r, _, guard, _, said in entries if r], texts)
            self.written += len(entries)
            self.trouble, safe = "", True
        except Exception as error:  # a thread that ends here would leave every later request waiting for its row
            self.failed += len(entries)
            self.trouble, safe = f"The request log cannot be written ({error})", False
        if tokens:
            self._acknowledge(tokens, safe)


def _spoken(record: LogRecord, answer: str) -> LogRecord:
    """The record with the language of its answer: looked for in this thread, some 10 us a row, and the text is not kept."""
    found = "" if record.language or not answer else language.of(answer)
    return dataclasses.replace(record, language=found) if found else record


def _whole(text: str) -> str:
    """The text with a mark for what no file can hold (halves of characters)."""
    return text.encode("utf-8", "replace").decode()

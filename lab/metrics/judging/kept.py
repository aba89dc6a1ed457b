"""Replies of judges on disk, by everything that decides them, so that nobody pays twice for one judgement.

One small file a reply, written whole under another name first: several processes can share the folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import threading
from pathlib import Path

from lab import models
from lab.metrics.judging.asked import Ask, Reply
from lab.records import Decoding

FORMAT = 1


def key(identity: str, ask: Ask, decoding: Decoding, rubric: str) -> str:
    """The hash of what decides a reply: who is asked, what, under which decoding and schema, by which rubric."""
    said = {"format": FORMAT, "identity": identity, "messages": [(m.role, m.content) for m in ask.messages],
            "options": ask.options, "schema": ask.schema, "decoding": dataclasses.asdict(decoding), "rubric": rubric}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class Kept:
    """Replies in `folder` (default: `judgements` in the cache folder). One that cannot be read or written costs a question."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or models.cache_dir() / "judgements"

    def get(self, name: str) -> Reply | None:
        try:
            said = json.loads(self._path(name).read_text())
            return Reply(**{**said, "probabilities": tuple(said["probabilities"]), "kept": True})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def put(self, name: str, reply: Reply) -> None:
        """Keep `reply`. What went wrong is not kept: it may go right the next time."""
        if reply.error:
            return
        path = self._path(name)
        partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(dataclasses.asdict(reply)))
            partial.replace(path)

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.json"

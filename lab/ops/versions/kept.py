"""What lies beside the store for processes of this machine: the aliases as a small file, releases by hash, and a lock.

The file is replaced whole (a rename) before a move returns, and read whole by everybody who wants to know. It is a copy: the
journal in the store is the truth, and whoever reads that and finds the file older writes it again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.errors import LabError
from lab.ops import store
from lab.ops.versions.release import Release, read, written
from lab.ops.versions.state import State


def folder() -> Path:
    """Where the copies for the store in force lie: beside a local database, else in `mlruns/` of the lab's home."""
    file = store.database()
    if file is not None:
        return file.parent / "releases"
    return store.home() / "mlruns" / "releases" / hashlib.sha256(store.uri().encode()).hexdigest()[:12]


def raw(path: Path) -> bytes:
    """The content of the alias file at `path`, b"" when there is none: 10 us, and no way to miss a change."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 65_536)
    finally:
        os.close(descriptor)


def alias_file(place: Path) -> Path:
    return place / "aliases.json"


def parsed(content: bytes) -> tuple[State, dict[int, str]] | None:
    """Where the alias file says that the aliases point, and the hashes of those releases; None when it is no such file."""
    try:
        said = json.loads(content)
        return State(**said["state"]), {int(number): str(digest) for number, digest in said["digests"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def keep(place: Path, state: State, releases: Sequence[Release]) -> None:
    """Replace the alias file if `state` is newer, after copies of the releases it names. Raises `OSError` if it cannot."""
    with locked(place, "aliases.lock"):
        file = alias_file(place)
        known = parsed(raw(file))
        if known is not None and not state.newer(known[0]):
            return
        for release in releases:
            copy = _copy(place, release.digest)
            if not copy.is_file():
                replace(copy, json.dumps({"number": release.number, "at_ms": release.at_ms, "tags": written(release)}))
        digests = {str(release.number): release.digest for release in releases}
        replace(file, json.dumps({"state": dataclasses.asdict(state), "digests": digests}))


def kept_release(place: Path, number: int, digest: str) -> Release | None:
    """The copy of a release, if there is one that is what its hash says."""
    try:
        said = json.loads(_copy(place, digest).read_text(encoding="utf-8"))
        release = read(said["tags"], number, said["at_ms"])
    except (OSError, ValueError, KeyError, TypeError, LabError):
        return None
    return release if release.digest == digest else None


@contextlib.contextmanager
def locked(place: Path, name: str = "lock") -> Iterator[None]:
    """One process of this machine at a time. Raises `OSError` where nothing can be written."""
    place.mkdir(parents=True, exist_ok=True)
    with store.locked(place / name):
        yield


def _copy(place: Path, digest: str) -> Path:
    return place / f"release-{digest[:32]}.json"


def replace(file: Path, content: str) -> None:
    """Make `content` the whole of `file`, for every reader at once. Raises `OSError`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        partial.write_text(content, encoding="utf-8")
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)

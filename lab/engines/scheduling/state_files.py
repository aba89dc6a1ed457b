"""Saved states of sequences as files that outlive the process: written whole or not at all, checked when read.

A file is named by the hash of what its state belongs to (`identity`: weights, KV type) and of its token ids. It holds a
line of JSON, the token ids and the state; the line carries a digest of both, because llama.cpp trusts what it is given.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from lab.engines.scheduling.radix import TOKEN_BYTES
from lab.engines.scheduling.states import Shelf
from lab.errors import LabError

FORMAT = "lab-prefix-1"
ENDING = ".kv"


def identity(*, sha256: str, kv_type: str, flash_attention: str, version: str) -> str:
    """What must be equal for a saved state to be usable. Flash attention decides how the values lie in memory."""
    return f"{sha256}/{kv_type}/{flash_attention}/{version}"


class DiskStates:
    """At most `capacity_bytes` of files in `folder`, the least recently used deleted first; found again after a restart.

    Files of another `identity` are neither used, counted nor deleted. Raises `LabError` if the folder cannot be used.
    """

    name = "disk"

    def __init__(self, folder: Path, *, identity: str, capacity_bytes: int) -> None:
        if capacity_bytes < 0:
            raise LabError(f"A capacity of {capacity_bytes:,} bytes for states on disk is negative; give 0 or more.")
        self.folder, self.capacity_bytes, self._identity = folder, capacity_bytes, identity
        self.shelf = Shelf()
        self.peak_bytes = self.evictions = self.too_large = self.largest_bytes = 0
        self.corrupt = self.foreign = self.unwritten = 0
        self._reason = ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._scan()
        except OSError as error:
            raise LabError(f"The folder {folder} cannot hold cached states ({error.strerror}); choose another one.") from error
        self._make_room(0)

    @property
    def held_bytes(self) -> int:
        return self.shelf.held

    def get(self, key: bytes) -> bytes | None:
        """The state of `key`; None if its file is gone or damaged, which is then forgotten."""
        path = self._path(key)
        try:
            raw = path.read_bytes()
            line, _, body = raw.partition(b"\n")
            header = json.loads(line)
            if header["identity"] != self._identity or header["digest"] != _digest(body) or not body.startswith(key):
                raise ValueError
        except FileNotFoundError:
            self.shelf.remove(key)
            return None
        except (OSError, ValueError, KeyError, TypeError):
            self.corrupt += 1
            self._delete(key)
            return None
        self.shelf.touch(key)
        with contextlib.suppress(OSError):
            os.utime(path)  # the order of use, for the next process
        return body[len(key) :]

    def put(self, key: bytes, state: bytes) -> list[tuple[bytes, bytes]]:
        """Write `state` to its file. Returns nothing: what had to go for it is deleted, what cannot be kept is counted."""
        if key in self.shelf:
            self.shelf.touch(key)
            return []
        body = key + state
        header = {"format": FORMAT, "identity": self._identity, "tokens": len(key) // TOKEN_BYTES,
                  "state_bytes": len(state), "digest": _digest(body)}
        content = json.dumps(header).encode() + b"\n" + body
        self.largest_bytes = max(self.largest_bytes, len(content))
        if len(content) > self.capacity_bytes:
            self.too_large += 1
            return []
        for shorter in self.shelf.shorter(key):
            self._delete(shorter)
        self._make_room(len(content))
        path = self._path(key)
        partial = path.with_suffix(f".partial-{os.getpid()}")
        try:
            partial.write_bytes(content)
            partial.replace(path)
        except OSError as error:
            self.unwritten += 1
            self._reason = error.strerror or type(error).__name__
            with contextlib.suppress(OSError):
                partial.unlink()
            return []
        self.shelf.add(key, len(content))
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        return []

    def clear(self) -> None:
        """Delete every file of this identity."""
        for key in list(self.shelf):
            self._delete(key)

    def problems(self) -> list[str]:
        """What the user should change, in sentences."""
        said = []
        if self.too_large:
            said.append(f"{self.too_large} states of up to {self.largest_bytes / 1e6:,.1f} MB did not fit the disk tier; "
                        f"give it more than its {self.capacity_bytes / 1e6:,.1f} MB.")
        if self.unwritten:
            said.append(f"{self.unwritten} states could not be written ({self._reason}); free space in the cache folder or "
                        "choose another one.")
        if self.corrupt:
            said.append(f"{self.corrupt} damaged state files were thrown away; if that goes on, check the disk.")
        return said

    def _path(self, key: bytes) -> Path:
        name = hashlib.sha256(self._identity.encode() + b"\0" + key).hexdigest()[:40]
        return self.folder / f"{name}{ENDING}"

    def _scan(self) -> None:
        for old in self.folder.glob("*.partial-*"):
            if not _alive(old.suffix.removeprefix(".partial-")):
                old.unlink(missing_ok=True)
        found = [(file.stat().st_mtime_ns, file) for file in self.folder.glob(f"*{ENDING}")]
        for _, path in sorted(found):
            key = self._inspect(path)
            if key is not None and key not in self.shelf:
                self.shelf.add(key, path.stat().st_size)
        self.peak_bytes = self.held_bytes

    def _inspect(self, path: Path) -> bytes | None:
        """The tokens of a file that is ours and complete. A damaged one is deleted, a foreign one left alone."""
        try:
            with path.open("rb") as file:
                line = file.readline(4096)
                header: dict[str, Any] = json.loads(line)
                if header["identity"] != self._identity:
                    self.foreign += 1
                    return None
                key = file.read(header["tokens"] * TOKEN_BYTES)
            complete = path.stat().st_size == len(line) + header["tokens"] * TOKEN_BYTES + header["state_bytes"]
            if complete and path == self._path(key):
                return key
        except (ValueError, KeyError, TypeError):
            pass
        self.corrupt += 1
        path.unlink(missing_ok=True)
        return None

    def _make_room(self, size: int) -> None:
        while self.held_bytes + size > self.capacity_bytes:
            self._delete(next(iter(self.shelf)))
            self.evictions += 1

    def _delete(self, key: bytes) -> None:
        self.shelf.remove(key)
        with contextlib.suppress(OSError):
            self._path(key).unlink()


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except OSError:
        return True
    return True

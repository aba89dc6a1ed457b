"""Downloading one file of a mirror in pieces: what is here stays, and the next attempt goes on from there."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from lab.data.mirror import host, opened
from lab.errors import LabError

_PIECE = 1 << 18


@contextlib.contextmanager
def alone(part: Path) -> Iterator[None]:
    """Hold `part`, made if it is not there, so that two downloads do not write into one file."""
    import fcntl  # not on every system, and only a download needs it

    try:
        held = open(part, "ab")
    except OSError as error:
        raise LabError(f"{part} cannot be written ({error.strerror}); set LAB_CACHE_DIR to a folder of yours.") from error
    with held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LabError(f"{part.name} is being downloaded by another process; wait for it, or stop it.") from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if part.stat().st_size == 0:
                    part.unlink()


def download(url: str, part: Path, total: int, on_progress: Callable[[int], None] | None = None, timeout_s: float = 30.0) -> None:
    """Fill `part` up to `total` bytes from where it ends. `on_progress` is told how many bytes are here.

    A server that cannot go on from the middle (it ignores Range) sends the file anew: what is here already is then read
    over, not written again, so that nothing is lost when it breaks once more. A file longer than expected is left to the
    check of its hash. Raises `LabError`.
    """
    have = part.stat().st_size
    with opened(url, have, timeout_s) as (answer, begins), open(part, "ab", buffering=0) as out:
        for piece in _pieces(answer, url, part, total):
            new = memoryview(piece)[max(0, have - begins):]
            begins += len(piece)
            have += len(new)
            try:
                while new:
                    new = new[out.write(new):]
            except OSError as error:
                raise LabError(f"{part.name} cannot be written ({error.strerror}): {_of(part, total)} are here and kept; free "
                               "some space and run the command again to go on.") from error
            if on_progress:
                on_progress(have)
            if have > total:
                break
    if have < total:
        raise LabError(f"The connection to {host(url)} was cut: {_of(part, total)} are here and kept; run the command again "
                       "to go on from there.")


def _pieces(answer: IO[bytes], url: str, part: Path, total: int) -> Iterator[bytes]:
    try:
        while piece := answer.read(_PIECE):
            yield piece
    except http.client.IncompleteRead as error:
        yield error.partial
    except TimeoutError as error:
        raise LabError(f"{host(url)} fell silent: {_of(part, total)} are here and kept; run the command again to "
                       "go on from there.") from error
    except OSError:
        return


def _of(part: Path, total: int) -> str:
    return f"{part.stat().st_size / 1e6:.1f} of {total / 1e6:.1f} MB"

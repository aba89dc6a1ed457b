"""The questions behind a name of the catalogue, a file of the user's own, or a hub id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lab.data import files, hub, own
from lab.data.raw import raw_rows
from lab.data.sampling import subset
from lab.data.sets import catalogue
from lab.data.views import VIEWS
from lab.errors import LabError
from lab.records import Question


def questions(name_or_path: str | Path, limit: int | None = None, seed: int = 0,
              columns: Mapping[str, str] | None = None) -> list[Question]:
    """The items of a catalogued set, of a JSONL, CSV or Parquet file, or of `hub:OWNER/NAME[:SPLIT]`, in file order.

    A file needs `question` with `choices` (a list of texts; in CSV a JSON list) and `answer` (index of the right choice,
    from 0), or `question` with `references` (right answers; one text, or a list), or `context` with `references` (a text
    and its summaries); `id`, `topic`, `date` and `group` are optional and other columns are ignored. `columns` maps our
    names to the file's own: `{"question": "prompt"}`. With `limit`, at most that many items as `subset` picks them.
    Nothing is fetched, except from a hub. Raises `LabError` naming the file, the row and the remedy.
    """
    items = _items(name_or_path, columns)
    return items if limit is None else subset(items, limit, seed)


def _items(name_or_path: str | Path, columns: Mapping[str, str] | None) -> list[Question]:
    name = str(name_or_path)
    entry = catalogue().get(name)
    if entry and entry.kind in ("labelled", "rows"):
        reader = "data.labelled" if entry.kind == "labelled" else "data.rows"
        raise LabError(f"Question set '{name}' is of kind {entry.kind}, so it has no questions to ask; read it with "
                       f"{reader}('{name}').")
    if entry and entry.name in VIEWS:
        return list(VIEWS[entry.name](entry.name, raw_rows(entry)))
    if name.startswith(hub.PREFIX):
        return own.questions(files.renamed(hub.rows(name), columns, own.COLUMNS, name), name)
    if entry:
        entry.check()
    path = entry.path if entry else Path(name_or_path).expanduser()
    theirs = {ours: (columns or {}).get(ours, ours) for ours in own.COLUMNS}
    rows = files.rows(path, tuple(catalogue()), tuple(theirs.values()))
    return own.questions(files.renamed(rows, columns, own.COLUMNS, path.name), path.name)

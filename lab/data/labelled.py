"""Answers that were judged already, by people or by how they were made: what a judge is measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.data import cells, files, own
from lab.data.judged import JUDGED
from lab.data.raw import raw_rows
from lab.data.sampling import drawn
from lab.data.sets import catalogue
from lab.errors import LabError

COLUMNS = ("item", "question", "answer", "references", "label", "raters", "axis", "group", "by", "context")


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One answer with its label: 1 is right, accepted, refused (see `axis`), 0 is not; scales are brought to 0..1.

    `raters` are the labels of each person, where the source has them; `by` is who wrote the answer. Answers to one
    question share a `group` and are not independent.
    """

    item: str
    question: str
    answer: str
    references: tuple[str, ...] = ()
    label: float
    raters: tuple[float, ...] = ()
    axis: str = "correctness"
    group: str = ""
    by: str = ""
    context: str = ""
    """What the answer has to keep to: a passage, a dialogue's facts, a document."""


def labelled(name_or_path: str | Path, limit: int | None = None, seed: int = 0,
             columns: Mapping[str, str] | None = None) -> list[Labelled]:
    """The labelled answers of a catalogued set, or of a JSONL, CSV or Parquet file of the user's own, in file order.

    A file needs `question`, `answer` and `label` (0 to 1, or true and false); the other columns are optional, and
    `columns` maps ours to the file's. With `limit`, that many in a shuffled order. Raises `LabError` naming the row.
    """
    entry = catalogue().get(str(name_or_path))
    if entry and entry.kind != "labelled":
        raise LabError(f"Question set '{entry.name}' holds no judged answers (it is of kind {entry.kind}); the sets that do "
                       f"are {', '.join(e.name for e in catalogue().values() if e.kind == 'labelled')}.")
    if entry and entry.name in JUDGED:
        items = [Labelled(**given) for given in JUDGED[entry.name](entry.name, raw_rows(entry))]
    else:
        if entry:
            entry.check()
        path = entry.path if entry else Path(name_or_path).expanduser()
        found = files.rows(path, tuple(catalogue()), (*COLUMNS, *(columns or {}).values()))
        items = _items(files.renamed(found, columns, COLUMNS, path.name), path.name)
    return items if limit is None else drawn(items, limit, seed)


def _items(rows: Sequence[Mapping[str, Any]], file: str) -> list[Labelled]:
    if not rows:
        raise LabError(f"'{file}' holds no rows; it needs one row per answer.")
    if missing := [column for column in ("question", "answer", "label") if column not in rows[0]]:
        theirs = [column for column in rows[0] if column not in COLUMNS]
        pairs = ",".join(f"{ours}={theirs[i] if i < len(theirs) else '…'}" for i, ours in enumerate(missing))
        raise LabError(f"'{file}' has the columns {', '.join(rows[0])} but needs question, answer and label; add or rename "
                       f"{', '.join(missing)}, or map your own, like {pairs} (--column-names of lab run judging).")
    items = [_item(row, f"Row {number} of '{file}'", number) for number, row in enumerate(rows, start=1)]
    own.refuse_twins([item.item for item in items], file)
    return items


def _item(row: Mapping[str, Any], where: str, number: int) -> Labelled:
    question, label = cells.text(row["question"]), cells.share(row["label"])
    if not question:
        raise LabError(f"{where} has no question; fill in the column or remove the row.")
    if label is None:
        raise LabError(f"{where} has the label {row['label']!r}; give a number from 0 (wrong) to 1 (right).")
    raters = [cells.share(rater) for rater in cells.texts(row.get("raters")) or ()]
    if None in raters:
        raise LabError(f"{where} has the raters {row['raters']!r}; give a list of numbers from 0 to 1.")
    references = cells.texts(row.get("references"))
    if references is None:
        references = (cells.text(row.get("references")),) if cells.text(row.get("references")) else ()
    return Labelled(
        item=cells.text(row.get("item")) or f"row-{number}", question=question, answer=cells.text(row["answer"]),
        references=references, label=label, raters=tuple(r for r in raters if r is not None),
        axis=cells.text(row.get("axis")) or "correctness", group=cells.text(row.get("group")) or question,
        by=cells.text(row.get("by")), context=cells.text(row.get("context")))

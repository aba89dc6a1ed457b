"""Questions in the workbench's own format: the sets that ship, and files of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lab.data import cells
from lab.errors import LabError
from lab.records import Question

COLUMNS = ("question", "choices", "answer", "references", "context", "id", "topic", "date", "group")
SUMMARISE = "Summarise the text in one or two sentences."
"""Asked of a text with reference summaries that comes without a question."""


def questions(rows: Sequence[Mapping[str, Any]], file: str) -> list[Question]:
    """The questions of these rows. Raises `LabError` naming the file, the row, the column and the remedy.

    Every row needs `choices` (two or more texts) with `answer` (index of the right one, from 0), or `references` (right
    answers), and a `question`; where `context` and `references` stand without one, the text is to be summarised.
    """
    if not rows:
        raise LabError(f"'{file}' holds no rows; it needs one row per question.")
    _refuse_columns(list(rows[0]), file)
    items = [_question(row, f"Row {number} of '{file}'", number) for number, row in enumerate(rows, start=1)]
    refuse_twins([item.id for item in items], file)
    return items


def column_names(mapping: str) -> dict[str, str]:
    """`question=prompt,references=gold`: our column names with a file's own. Raises `LabError` when it is no such thing."""
    pairs = [pair.partition("=") for pair in mapping.split(",")]
    if wrong := ["".join(pair) for pair in pairs if not (pair[0].strip() and pair[2].strip())]:
        raise LabError(f"'{wrong[0]}' maps no column; write OURS=YOURS with commas between, like "
                       "question=prompt,references=gold.")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def refuse_twins(ids: Sequence[str], file: str) -> None:
    """Raise `LabError` if two rows share an id: a score could not be told whose it is."""
    seen: dict[str, int] = {}
    for number, id_ in enumerate(ids, start=1):
        first = seen.setdefault(id_, number)
        if first != number:
            raise LabError(f"Rows {first} and {number} of '{file}' share the id '{id_}'; give every row its own.")


def _refuse_columns(has: list[str], file: str) -> None:
    if "references" in has:
        missing = [] if {"question", "context"} & set(has) else ["question"]
    else:
        missing = [column for column in ("question", "choices", "answer") if column not in has]
    if missing:
        theirs = next((column for column in has if column not in COLUMNS), "…")
        raise LabError(f"'{file}' has the columns {', '.join(has)} but needs question with choices and answer, or question "
                       f"with references; add or rename {', '.join(missing)}, or map your own, like "
                       f"{missing[0]}={theirs} (--column-names of lab run, --columns of lab data show).")


def _question(row: Mapping[str, Any], where: str, number: int) -> Question:
    context, asked = cells.text(row.get("context")), cells.text(row.get("question"))
    if not asked and not (context and "references" in row):
        raise LabError(f"{where} has no question; fill in the column or remove the row.")
    choices, answer = _choices(row, where)
    references = _references(row, where)
    if not choices and not references:
        raise LabError(f"{where} has no right answer to check against; fill in the column references, or remove the row.")
    return Question(
        id=cells.text(row.get("id")) or f"row-{number}", question=asked or SUMMARISE, choices=choices, answer=answer,
        references=references, topic=cells.text(row.get("topic")), date=cells.text(row.get("date")) or None, context=context,
        group=cells.text(row.get("group")))


def _choices(row: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], int | None]:
    if "choices" not in row or ("references" in row and not row["choices"]):
        return (), None
    choices = cells.texts(row["choices"])
    if choices is None:
        raise LabError(f'{where} has no list of choices; write it as ["first", "second", …].')
    if len(choices) < 2 or "" in choices or len(set(choices)) < len(choices):
        raise LabError(f"{where} has the choices {list(choices)}; give two or more, all different and none empty.")
    answer = cells.whole(row.get("answer"))
    if answer is None:
        raise LabError(f"{where} has the answer {row.get('answer')!r}; give the index of the right choice, counted from 0.")
    if not 0 <= answer < len(choices):
        raise LabError(f"{where} has the answer {answer} for {len(choices)} choices; "
                       f"give an index from 0 to {len(choices) - 1}.")
    return choices, answer


def _references(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The right answers; a cell that is no list is the only one, which is how most files have it."""
    cell = row.get("references")
    found = cells.texts(cell)
    if found is None:
        found = (cells.text(cell),) if cells.text(cell) else ()
    if "" in found:
        raise LabError(f"{where} has an empty text among its references; remove it.")
    return found

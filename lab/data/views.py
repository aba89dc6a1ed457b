"""How the rows of each packaged set become questions: one function per set, and rows that cannot be asked left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from string import ascii_uppercase
from typing import Any

from lab.data import cells
from lab.records import Question

Rows = Sequence[dict[str, Any]]
ONE_SENTENCE = "Summarise the text in one sentence."


def _mmlu(name: str, rows: Rows) -> Iterator[Question]:
    """Rows that stand twice come once."""
    seen: set[tuple[str, ...]] = set()
    for question in _lettered(name, rows):
        key = (question.question, *question.choices)
        if key not in seen:
            seen.add(key)
            yield question


def _commonsense(name: str, rows: Rows) -> Iterator[Question]:
    """In a few rows a question mark strayed into the last choice; one whose choices strayed into the question is left out."""
    mended = [{**row, "options": row["options"].rstrip("?"), "answer": row["answer"].rstrip("?")} for row in rows]
    return (question for question in _lettered(name, mended) if len(question.choices) == 5)


def _lettered(name: str, rows: Rows) -> Iterator[Question]:
    """Choices in one text, "A. first\\nB. second", and the right one repeated with its letter.

    Rows with two equal choices are left out: an index would not name one answer.
    """
    for number, row in enumerate(rows, start=1):
        choices, right = lettered(row["options"]), lettered(row["answer"], start=row["answer"].strip()[0])
        if right[0] in choices and len(set(choices)) == len(choices):
            yield Question(id=_id(name, number), question=row["question"].strip(), choices=choices,
                           answer=choices.index(right[0]))


def lettered(text: str, start: str = "A") -> tuple[str, ...]:
    """The choices of such a text. A line that does not begin with the letter that is due belongs to the choice before it."""
    due = ascii_uppercase.index(start)
    found: list[str] = []
    for line in text.strip().split("\n"):
        if line.lstrip().startswith(f"{ascii_uppercase[due + len(found)]}."):
            found.append(line.lstrip()[2:])
        elif found:
            found[-1] += "\n" + line
    return tuple(" ".join(choice.split(" ")).strip() for choice in found)


def _boolq(name: str, rows: Rows) -> Iterator[Question]:
    for number, row in enumerate(rows, start=1):
        yield Question(id=_id(name, number), question=f"{row['question'].strip().rstrip('?')}?", choices=("yes", "no"),
                       answer=0 if str(row["answer"]) == "True" else 1, context=row["passage"].strip(), group=row["title"])


def _bbq(name: str, rows: Rows) -> Iterator[Question]:
    """Items that begin with the same sentence come from one template; the longer ones tell who it was."""
    for number, row in enumerate(rows, start=1):
        choices, passage = lettered(row["options"]), row["passage"].strip()
        yield Question(id=_id(name, number), question=row["question"].split("\n")[0].strip(), choices=choices,
                       answer=choices.index(row["answer"][0].strip()), context=passage, group=passage.split(". ")[0])


def _open(name: str, rows: Rows) -> Iterator[Question]:
    for number, row in enumerate(rows, start=1):
        yield Question(id=_id(name, number), question=f"{row['question'].strip().rstrip('?')}?",
                       references=_each_once(row["answer"]))


def _asdiv(name: str, rows: Rows) -> Iterator[Question]:
    """The number alone counts as right, beside the number with its unit. A problem that stands twice comes once."""
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        asked = f"{row['passage'].strip()} {row['question'].strip()}"
        if asked in seen:
            continue
        seen.add(asked)
        figure = re.match(r"-?[\d.,/:]*\d", row["answer"])
        yield Question(id=_id(name, number), question=asked,
                       references=_each_once([row["answer"], *([figure.group()] if figure else [])]))


def _freshqa(name: str, rows: Rows) -> Iterator[Question]:
    """The date of an item is the day on which its answers were right."""
    day = {"freshqa_2024_10": "2024-10-28", "freshqa_2024_12": "2024-12-18"}[name]
    for row in rows:
        yield Question(id=f"{name}-{row['id']}", question=row["question"].strip(), topic=row["fact_type"], date=day,
                       references=_each_once(row[f"answer_{i}"] for i in range(10)))


def _xsum(name: str, rows: Rows) -> Iterator[Question]:
    """Articles that were only pictures have no text, and are left out."""
    for row in (row for row in rows if row["document"].strip()):
        yield Question(id=f"{name}-{cells.text(row['id'])}", question=ONE_SENTENCE, context=row["document"].strip(),
                       references=(row["summary"].strip(),))


def _id(name: str, row: int) -> str:
    return f"{name}-{row:04d}"


def _each_once(texts: Any) -> tuple[str, ...]:
    """The texts that are not empty, each once, in their order."""
    return tuple(dict.fromkeys(text.strip() for text in texts if text and text.strip()))


VIEWS: dict[str, Callable[[str, Rows], Iterator[Question]]] = {
    "mmlu": _mmlu, "commonsense_qa": _commonsense, "openbook_qa": _lettered, "truthful_qa": _open, "boolq": _boolq,
    "nq_open": _open, "xsum": _xsum, "bbq": _bbq, "asdiv": _asdiv, "freshqa_2024_10": _freshqa, "freshqa_2024_12": _freshqa,
}

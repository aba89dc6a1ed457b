"""How the rows of each packaged set become labelled answers: one function per set, from rows to the fields of `Labelled`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any

from lab.data import cells

Rows = Sequence[dict[str, Any]]
Fields = dict[str, Any]


def _nq_open(name: str, rows: Rows) -> Iterator[Fields]:
    """Predictions of the competition's systems that people called definitely correct or definitely incorrect.

    People saw only those that no reference matched word for word. The ones they called possibly correct hold under some
    reading of the question; they are neither right nor wrong, and left out.
    """
    for number, row in enumerate(rows, start=1):
        for label, column in ((1.0, "def_correct_predictions"), (0.0, "def_incorrect_predictions")):
            for nth, answer in enumerate(dict.fromkeys(map(_plain, row[column] or ()))):
                yield _fields(name, number, f"{label:.0f}{nth:02d}", question=f"{row['question'].strip().rstrip('?')}?",
                              answer=answer, references=tuple(row["answer"]), label=label, by="a system of EfficientQA")


def _halueval_qa(name: str, rows: Rows) -> Iterator[Fields]:
    return _pairs(name, rows, "question", "knowledge", "right_answer", "hallucinated_answer")


def _halueval_dialogue(name: str, rows: Rows) -> Iterator[Fields]:
    return _pairs(name, rows, "dialogue_history", "knowledge", "right_response", "hallucinated_response")


def _halueval_summarisation(name: str, rows: Rows) -> Iterator[Fields]:
    asked = [{**row, "asked": "Summarise the text."} for row in rows]
    return _pairs(name, asked, "asked", "document", "right_summary", "hallucinated_summary")


def _pairs(name: str, rows: Rows, question: str, context: str, right: str, wrong: str) -> Iterator[Fields]:
    """Two answers a row. Nobody rated them: one is the source's, the other was written to be wrong."""
    for number, row in enumerate(rows, start=1):
        for label, column, by in ((1.0, right, "the source"), (0.0, wrong, "ChatGPT, told to hallucinate")):
            yield _fields(name, number, column.split("_")[0], question=row[question].strip(), answer=row[column].strip(),
                          context=row[context].strip(), label=label, axis="grounding", by=by)


def _pyrit(axis: str) -> Callable[[str, Rows], Iterator[Fields]]:
    def fields(name: str, rows: Rows) -> Iterator[Fields]:
        """Answers that people scored. One asked twice is kept twice; answers to one objective share its group."""
        for number, row in enumerate(rows, start=1):
            given = [cells.share(row[column]) for column in row if column.startswith("human_score") and row[column]]
            raters = tuple(score for score in given if score is not None)
            yield _fields(name, number, "answer", question=row["objective"].strip(), answer=row["assistant_response"].strip(),
                          label=fmean(raters), raters=raters, axis=axis, group=row["objective"].strip())

    return fields


def _fields(name: str, row: int, which: str, **fields: Any) -> Fields:
    return {"item": f"{name}-{row:05d}-{which}", "group": f"{name}-{row:05d}", **fields}


def _plain(prediction: str) -> str:
    """Without the quotation marks and backslashes that the file's own quoting left in."""
    return prediction.replace('\\"', '"').strip().strip('"').strip()


JUDGED: dict[str, Callable[[str, Rows], Iterator[Fields]]] = {
    "nq_open_judged": _nq_open, "halueval_qa": _halueval_qa, "halueval_dialogue": _halueval_dialogue,
    "halueval_summarisation": _halueval_summarisation, "pyrit_refusal": _pyrit("refusal"),
    "pyrit_objective": _pyrit("objective achieved"), "pyrit_harm": _pyrit("harm"),
}

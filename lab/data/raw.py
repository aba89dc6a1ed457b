"""The rows of a catalogued set as its authors wrote them, whatever the format of their file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lab.data import files
from lab.data.files import Row
from lab.data.question_set import QuestionSet
from lab.data.sets import find


def rows(name: str) -> list[dict[str, Any]]:
    """The raw rows of a catalogued set, in file order. Raises `LabError` when it is not here, or was changed."""
    return raw_rows(find(name))


def raw_rows(entry: QuestionSet) -> list[Row]:
    """As `rows`, for an entry at hand."""
    entry.check()
    return _READERS.get(entry.name, files.read)(entry.path)


def _lines(path: Path) -> list[Row]:
    return [{"prompt": line} for line in path.read_text("utf-8").splitlines() if line.strip()]


def _pairs(path: Path) -> list[Row]:
    """Two words and what people said of their similarity, between tabs; lines with # are remarks."""
    lines = [line.split("\t") for line in path.read_text("utf-8").splitlines() if line and line[0] != "#"]
    return [{"first": first, "second": second, "score": float(score)} for first, second, score in lines]


def _seeds(path: Path) -> list[Row]:
    """The prompts of a YAML file with one list of them."""
    return list(_yaml(path.read_text("utf-8"))["seeds"])


def _templates(path: Path) -> list[Row]:
    return [{"file": file, **_yaml(text)} for file, text in _bundled(path)]


def _tables(path: Path) -> list[Row]:
    """The rows of several CSV files, each with the file's name; lines with # before the header are remarks."""
    found: list[Row] = []
    for file, text in _bundled(path):
        lines = text.splitlines(keepends=True)
        while lines and lines[0].startswith("#"):
            del lines[0]
        found += [{"file": file, **row} for row in csv.DictReader(io.StringIO("".join(lines)))]
    return found


def _after_two_lines(path: Path) -> list[Row]:
    """A CSV file whose header comes third, after a warning and a blank row."""
    texts = ("question", "effective_year", "fact_type", "false_premise", *(f"answer_{i}" for i in range(10)))
    return files.read(path, skiprows=2, converters=dict.fromkeys(texts, str), na_filter=False)


def _bundled(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        yield row["file"], row["text"]


def _yaml(text: str) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    "advbench": _seeds, "jailbreaks": _templates, "harmbench": _lines, "wordsim353": _pairs, "simlex999": _pairs,
    "pyrit_refusal": _tables, "pyrit_objective": _tables, "pyrit_harm": _tables,
    "freshqa_2024_10": _after_two_lines, "freshqa_2024_12": _after_two_lines,
}

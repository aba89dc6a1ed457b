"""What models are asked and read: a catalogue of question sets and texts, each with its source, licence and sha256.

A set that ships lies in this folder and its hash stands in `_SETS`; any function that takes a name also takes a path.
"""

from __future__ import annotations

import hashlib
import json
import platform
import random
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.records import Question

_FOLDER = Path(__file__).parent
_NEEDED = ("question", "choices", "answer")
_OPTIONAL = ("id", "topic")
_KINDS = (".jsonl", ".csv", ".parquet")
_NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0")
"""How the CSV and Parquet builders of `datasets` 5 complain about a file that has a header and nothing else."""
_READING = threading.Lock()
"""The progress bars and log level of `datasets` are global; two threads must not restore them in each other's way."""


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """One catalogued question set; `size` counts its items, `sha256` is that of the file at `path`."""

    name: str
    description: str
    source: str
    licence: str
    size: int
    topics: tuple[str, ...]
    sha256: str
    path: Path

    def check(self) -> None:
        """Raise `LabError` unless the file at `path` is, byte for byte, the one in the catalogue."""
        found = hashlib.sha256(_bytes(self.path, "question set")).hexdigest()
        if found != self.sha256:
            raise LabError(
                f"Question set '{self.name}' was changed: {self.path.name} has sha256 {found[:12]}… where the "
                f"catalogue has {self.sha256[:12]}…; restore the file, or pass your version as a path of its own."
            )


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """A text to measure perplexity on, with where it came from; `sha256` is that of its UTF-8 bytes as loaded."""

    name: str
    text: str
    source: str
    licence: str
    sha256: str


_SETS = (
    QuestionSet(
        name="everyday",
        description="Plain world knowledge and common sense, four short choices each, from very easy to moderately hard",
        source="written for this project (lab/data/README.md)",
        licence="CC0-1.0 OR Apache-2.0",
        size=160,
        topics=("animals", "arithmetic", "food", "geography", "health",
                "history", "language", "physics", "social", "tools"),
        sha256="1b0f106655c6e5f216c91449050ed06c6ef89e5ca31b0e6a606363361e671824",
        path=_FOLDER / "everyday.jsonl",
    ),
)


def catalogue() -> dict[str, QuestionSet]:
    """The question sets there are, by name."""
    return {entry.name: entry for entry in _SETS}


def questions(name_or_path: str | Path, limit: int | None = None, seed: int = 0) -> list[Question]:
    """The items of a catalogued set, or of a JSONL, CSV or Parquet file of the user's own, in file order.

    A file needs the columns `question`, `choices` (a list of texts; in CSV a JSON list) and `answer` (index of the
    right choice, from 0); `id` and `topic` are optional and other columns are ignored. With `limit`, at most that many
    items as `subset` picks them. Nothing is fetched and nothing stays on disk. Raises `LabError` naming the row.
    """
    entry = catalogue().get(str(name_or_path))
    if entry:
        entry.check()
    path = entry.path if entry else Path(name_or_path).expanduser()
    items = _items(_rows(path), path.name)
    return items if limit is None else subset(items, limit, seed)


def subset(items: Iterable[Question], limit: int, seed: int = 0) -> list[Question]:
    """At most `limit` items, as evenly spread over topics as they allow; the same seed gives the same items.

    Topics take turns in a shuffled order, so every prefix is balanced too: a smaller limit, or a run that was
    interrupted, holds the first items of a larger one.
    """
    if limit < 1:
        raise LabError(f"A limit of {limit} leaves no questions; ask for 1 or more, or give no limit for all of them.")
    rng = random.Random(seed)
    topics: dict[str, list[Question]] = {}
    for item in items:
        topics.setdefault(item.topic, []).append(item)
    order = sorted(topics)
    rng.shuffle(order)
    for topic in order:
        rng.shuffle(topics[topic])
    rounds = max(map(len, topics.values()), default=0)
    turns = [topics[t][turn] for turn in range(rounds) for t in order if turn < len(topics[t])]
    return turns[:limit]


def text_names() -> tuple[str, ...]:
    """The texts that `text` and `text_source` know by name."""
    return ("pydoc-topics",)


def text(name_or_path: str | Path) -> str:
    """The text of a catalogued source, or of any UTF-8 text file."""
    return text_source(name_or_path).text


def text_source(name_or_path: str | Path) -> TextSource:
    """The text with its provenance. Raises `LabError` when there is no such text, it is empty or it is not UTF-8."""
    if str(name_or_path) == "pydoc-topics":
        return _pydoc_topics()
    path = Path(name_or_path).expanduser()
    raw = _bytes(path, "text")
    try:
        content = raw.decode()
    except UnicodeDecodeError as error:
        raise LabError(f"'{path}' is not UTF-8 text (byte {error.start}); convert it to UTF-8 first.") from error
    if "\0" in content:
        raise LabError(f"'{path}' holds zero bytes, so it is no text file; give a plain UTF-8 text.")
    if not content.strip():
        raise LabError(f"'{path}' is empty; give a text with some words in it.")
    return TextSource(name=path.name, text=content, source=str(path), licence="not stated (a file of your own)",
                      sha256=hashlib.sha256(raw).hexdigest())


def _pydoc_topics() -> TextSource:
    """The language reference behind Python's `help()`. It changes with Python, so the hash is taken at load."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise LabError("This Python comes without pydoc_data; install the full standard library, "
                       "or give the path of a text file.") from error
    content = "\n".join(topics[key] for key in sorted(topics))
    return TextSource(name="pydoc-topics", text=content, source=f"pydoc_data.topics of Python {platform.python_version()}",
                      licence="PSF-2.0", sha256=hashlib.sha256(content.encode()).hexdigest())


def _bytes(path: Path, what: str) -> bytes:
    """The bytes of a file, or a sentence that also says which names `what` could have been."""
    names = text_names() if what == "text" else tuple(catalogue())
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise LabError(f"There is no {what} and no file '{path}'; the names are {', '.join(names)}, "
                       "or give the path of a file of your own.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LabError(f"'{path}' cannot be read ({reason}); give a readable file, or one of {', '.join(names)}."
                       ) from error


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL, CSV or Parquet file, through the builders of `datasets`."""
    raw = _bytes(path, "question set")
    if path.suffix.lower() not in _KINDS:
        raise LabError(f"'{path.name}' is no question set: its name must end in {', '.join(_KINDS)}.")
    if not raw.strip():
        raise LabError(f"'{path.name}' is empty; it needs one row per question.")
    try:
        return _read(path)
    except Exception as error:  # pyarrow, pandas and datasets each have their own; the file is the cause of all
        if path.suffix.lower() == ".jsonl":
            _find_broken_row(raw, path.name)
        reason = " ".join(str(error.__cause__ or error).split()).replace(". ", "; ").rstrip(".")
        if any(sign in reason for sign in _NO_ROWS):
            return []
        raise LabError(f"'{path.name}' cannot be read as {path.suffix[1:].upper()} ({reason}); mend the file.") from error


def _read(path: Path) -> list[dict[str, Any]]:
    import datasets  # takes about a second, which no other command should pay

    kind = path.suffix.lower()
    reader = {".jsonl": datasets.Dataset.from_json, ".csv": datasets.Dataset.from_csv,
              ".parquet": datasets.Dataset.from_parquet}[kind]
    # A CSV cell is text until we say otherwise: the id 007 stays 007, and the choice "None" is a word.
    options = {"converters": dict.fromkeys((*_NEEDED, *_OPTIONAL), str), "na_filter": False} if kind == ".csv" else {}
    with _READING, tempfile.TemporaryDirectory(prefix="lab-data-") as cache:
        bars, level = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
        datasets.disable_progress_bars()
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)
        try:
            rows: list[dict[str, Any]] = reader(str(path), keep_in_memory=True, cache_dir=cache, **options).to_list()
        finally:
            datasets.logging.set_verbosity(level)
            if bars:
                datasets.enable_progress_bars()
    return rows


def _find_broken_row(raw: bytes, file: str) -> None:
    """Read JSON lines one by one to name the row over which the columnar reader gave up."""
    for number, line in enumerate(raw.splitlines(), start=1):
        if not line.strip():
            raise LabError(f"Row {number} of '{file}' is blank; remove the line.")
        try:
            row = json.loads(line)
        except ValueError as error:
            raise LabError(f"Row {number} of '{file}' is not JSON ({error}); write one JSON object per line.") from error
        if not isinstance(row, dict):
            raise LabError(f"Row {number} of '{file}' is no JSON object; write {{\"question\": …}}, one per line.")


def _items(rows: Sequence[Mapping[str, Any]], file: str) -> list[Question]:
    if not rows:
        raise LabError(f"'{file}' holds no rows; it needs one row per question.")
    missing = [column for column in _NEEDED if column not in rows[0]]
    if missing:
        raise LabError(f"'{file}' has the columns {', '.join(rows[0])} but needs {', '.join(_NEEDED)}; "
                       f"add or rename {', '.join(missing)}.")
    items = [_question(row, number, file) for number, row in enumerate(rows, start=1)]
    seen: dict[str, int] = {}
    for number, item in enumerate(items, start=1):
        first = seen.setdefault(item.id, number)
        if first != number:
            raise LabError(f"Rows {first} and {number} of '{file}' share the id '{item.id}'; give every row its own.")
    return items


def _question(row: Mapping[str, Any], number: int, file: str) -> Question:
    where = f"Row {number} of '{file}'"
    question = _text(row["question"])
    if not question:
        raise LabError(f"{where} has no question; fill in the column or remove the row.")
    choices = _choices(row["choices"], where)
    answer = _whole(row["answer"])
    if answer is None:
        raise LabError(f"{where} has the answer {row['answer']!r}; give the index of the right choice, counted from 0.")
    if not 0 <= answer < len(choices):
        raise LabError(f"{where} has the answer {answer} for {len(choices)} choices; "
                       f"give an index from 0 to {len(choices) - 1}.")
    return Question(id=_text(row.get("id")) or f"row-{number}", question=question, choices=choices, answer=answer,
                    topic=_text(row.get("topic")))


def _choices(cell: Any, where: str) -> tuple[str, ...]:
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError:
            cell = None
    if not isinstance(cell, list):
        raise LabError(f'{where} has no list of choices; write it as ["first", "second", …].')
    choices = tuple(_text(choice) for choice in cell)
    if len(choices) < 2 or "" in choices or len(set(choices)) < len(choices):
        raise LabError(f"{where} has the choices {list(choices)}; give two or more, all different and none empty.")
    return choices


def _text(cell: Any) -> str:
    """A cell as text, "" for none or a nested one. The JSON reader makes timestamps of dates; they are turned back."""
    if isinstance(cell, datetime) and cell == datetime(cell.year, cell.month, cell.day):
        cell = cell.date()
    if cell is None or isinstance(cell, (dict, list)):
        return ""
    return cell.isoformat() if isinstance(cell, date) else str(cell).strip()


def _whole(cell: Any) -> int | None:
    """A cell as a whole number: 2, 2.0 (a column with gaps is read as floats) and "2" (CSV) are; True is not."""
    if isinstance(cell, bool):
        return None
    try:
        number = int(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if isinstance(cell, str) or number == cell else None

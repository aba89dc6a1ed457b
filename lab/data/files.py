"""The rows of a JSONL, CSV or Parquet file, through the builders of `datasets`, or a sentence that names the broken row."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.errors import LabError

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".csv", ".parquet")
_NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0")
"""How the CSV and Parquet builders of `datasets` 5 complain about a file that has a header and nothing else."""
_READING = threading.Lock()
"""The progress bars and log level of `datasets` are global; two threads must not restore them in each other's way."""


def read_bytes(path: Path, what: str, names: Sequence[str]) -> bytes:
    """The bytes of a file, or a sentence that also says which `names` the `what` could have had."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise LabError(f"There is no {what} and no file '{path}'; the names are {', '.join(names)}, "
                       "or give the path of a file of your own.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LabError(f"'{path}' cannot be read ({reason}); give a readable file, or one of {', '.join(names)}."
                       ) from error


def rows(path: Path, names: Sequence[str], text_columns: Sequence[str] = ()) -> list[Row]:
    """The rows of a file; cells of a CSV's `text_columns` stay as written. Raises `LabError` naming file and row."""
    raw = read_bytes(path, "question set", names)
    if path.suffix.lower() not in SUFFIXES:
        raise LabError(f"'{path.name}' is no question set: its name must end in {', '.join(SUFFIXES)}.")
    if not raw.strip():
        raise LabError(f"'{path.name}' is empty; it needs one row per question.")
    if path.suffix.lower() == ".csv":
        _refuse_ragged(raw, path.name)
    try:
        return read(path, converters=dict.fromkeys(text_columns, str), na_filter=False)
    except Exception as error:  # pyarrow, pandas and datasets each have their own; the file is the cause of all
        if path.suffix.lower() == ".jsonl":
            _find_broken_row(raw, path.name)
        reason = " ".join(str(error.__cause__ or error).split()).replace(". ", "; ").rstrip(".")
        if any(sign in reason for sign in _NO_ROWS):
            return []
        raise LabError(f"'{path.name}' cannot be read as {path.suffix[1:].upper()} ({reason}); mend the file.") from error


def _refuse_ragged(raw: bytes, file: str) -> None:
    """Raise `LabError` where a row of a CSV has more fields than the header: pandas would shift the columns without a word."""
    table = csv.reader(io.StringIO(raw.decode("utf-8-sig", errors="replace"), newline=""))
    with contextlib.suppress(csv.Error):  # what cannot be read at all is said by the reader
        header = next(table, [])
        if len(header) == 1 and ";" in header[0]:
            raise LabError(f"The fields of '{file}' are separated by semicolons; separate them by commas.")
        if twice := [name for name in dict.fromkeys(header) if name and header.count(name) > 1]:
            raise LabError(f"'{file}' has the column '{twice[0]}' twice; give every column a name of its own.")
        for number, row in enumerate(table, start=1):
            if len(row) > len(header):
                raise LabError(f"Row {number} of '{file}' has {len(row)} fields for {len(header)} columns; put quotes "
                               "around a field that holds a comma.")


def read(path: Path, **csv_options: Any) -> list[Row]:
    """The rows as `datasets` reads them; the options are those of pandas' `read_csv` and count for CSV only."""
    with silent_datasets() as datasets, tempfile.TemporaryDirectory(prefix="lab-data-") as cache:
        kind = path.suffix.lower()
        reader = {".jsonl": datasets.Dataset.from_json, ".csv": datasets.Dataset.from_csv,
                  ".parquet": datasets.Dataset.from_parquet}[kind]
        options = csv_options if kind == ".csv" else {}
        found: list[Row] = reader(str(path), keep_in_memory=True, cache_dir=cache, **options).to_list()
        return found


@contextlib.contextmanager
def silent_datasets() -> Iterator[Any]:
    """The library without its bars and log lines; imported here because it takes about a second."""
    import datasets

    with _READING:
        bars, level = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
        datasets.disable_progress_bars()
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)
        try:
            yield datasets
        finally:
            datasets.logging.set_verbosity(level)
            if bars:
                datasets.enable_progress_bars()


def renamed(found: list[Row], columns: Mapping[str, str] | None, known: Sequence[str], file: str) -> list[Row]:
    """The rows with our names for their columns: `columns` maps each of ours to the file's own."""
    if not columns or not found:
        return found
    if wrong := [ours for ours in columns if ours not in known]:
        raise LabError(f"'{wrong[0]}' is no column of ours to be mapped; those are {', '.join(known)}.")
    if wrong := [theirs for theirs in columns.values() if theirs not in found[0]]:
        raise LabError(f"'{file}' has no column '{wrong[0]}'; it has {', '.join(found[0])}.")
    gone = {theirs for theirs in columns.values() if theirs not in known}
    return [{**{name: value for name, value in row.items() if name not in gone},
             **{ours: row[theirs] for ours, theirs in columns.items()}} for row in found]


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

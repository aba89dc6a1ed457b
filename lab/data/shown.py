"""How the catalogue, the items of a set and a download look in a terminal."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from lab.data.asked import questions
from lab.data.fetch import fetch, missing
from lab.data.labelled import Labelled, labelled
from lab.data.raw import rows
from lab.data.sets import catalogue, find
from lab.errors import LabError
from lab.records import Question

_WIDTH = 300


def listing() -> Iterator[str]:
    """Two lines for each set: name, kind, items, whether it is here and unchanged, and its licence; then what it is."""
    for e in catalogue().values():
        here = "not here" if not e.fetched else "changed" if e.changed else "fetched" if e.archive else "ships"
        yield f"{e.name:<22}  {e.kind:<8}  {e.size:>6,} items  {here:<8}  {e.licence}"
        yield f"    {e.description}" + " (never shown)" * e.harmful


def items(name: str, count: int, theirs: Mapping[str, str] | None = None) -> Iterator[str]:
    """The first items of a set as text, or why they are not shown; `theirs` are the columns of a file of the user's own."""
    entry = catalogue().get(name)
    if entry and theirs:
        raise LabError(f"Question set '{name}' has our columns already; --columns is for files of your own.")
    if entry:
        entry.check()
        yield f"{entry.name}: {entry.description}"
        yield f"    {entry.size:,} items, {entry.licence}; source: {entry.source}"
    if entry and entry.harmful:
        yield "Its texts are made to do harm, so they are not shown; data.rows reads them where an experiment needs them."
        return
    read: Any = {"labelled": labelled, "rows": rows}.get(entry.kind if entry else "")
    for item in islice(read(name) if read else questions(name, columns=theirs), count):
        yield ""
        yield from _lines(item)


def fetched(names: list[str], every: bool) -> Iterator[str]:
    """Fetch these sets, or every one there is, under progress bars: what is to come, then what is here.

    An interruption is passed on after a line that says what is kept.
    """
    known = catalogue()
    wanted = [find(name) for name in (list(known) if every else names)]
    if not wanted:
        raise LabError("No set was named; give names (`lab data list` has them), or --all for every one there is.")
    archives = {e.archive.file: e.archive for e in missing(wanted) if e.archive}
    for archive in archives.values():
        yield f"To be downloaded: {archive.file} ({archive.bytes / 1e6:.1f} MB)"
    bars = Bars()
    try:
        fetch(*(entry.name for entry in wanted), on_progress=bars)
    except KeyboardInterrupt:
        yield "Sets that were taken out are kept; run the command again to go on with the archive it was at."
        raise
    finally:
        bars.close()
    for entry in wanted:
        yield f"{entry.name}  {entry.size:,} items  {entry.path}"


class Bars:
    """A progress bar for each archive of a mirror; called with the file's name, the bytes here and the bytes there are."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._file = ""

    def __call__(self, file: str, here: int, total: int) -> None:
        from tqdm import tqdm

        if file != self._file:
            self.close()
            self._bar, self._file = tqdm(total=total, initial=here, unit="B", unit_scale=True, desc=file[:30]), file
        self._bar.update(here - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _lines(item: Question | Labelled | dict[str, Any]) -> Iterator[str]:
    if isinstance(item, dict):
        yield _short(json.dumps(item, ensure_ascii=False, default=str))
        return
    yield f"{item.id if isinstance(item, Question) else item.item}  {_short(item.question)}"
    if item.context:
        yield f"    given: {_short(item.context)}"
    if isinstance(item, Labelled):
        yield f"    answer: {_short(item.answer)}"
        yield f"    {item.axis} {item.label:g}" + f" (people: {', '.join(f'{r:g}' for r in item.raters)})" * bool(item.raters)
    else:
        yield from (f"  {'*' if i == item.answer else ' '} {_short(choice)}" for i, choice in enumerate(item.choices))
    yield from (f"    right: {_short(reference)}" for reference in item.references)


def _short(text: str) -> str:
    """At most a few lines; what a terminal would obey instead of showing it is spelled out."""
    short = textwrap.shorten(text, _WIDTH, placeholder=" …")
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in short)

"""The tools of the workbench: a calculator, the date, a search over its own texts, and two that do harm inside a sandbox only.

What looks risky really happens, but in one folder: a message goes into an outbox, and only a file of the sandbox is deleted.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lab import data, retrieval
from lab.arithmetic import calculator
from lab.errors import LabError
from lab.metrics import similarity
from lab.ops import store
from lab.retrieval.passages import Passage
from lab.safety.calling import Ability

SETS = ("technical", "notes")
"""Question sets of ours whose texts are searched."""
FOUND = 2
SAMPLES = {"draft.txt": "An old draft, kept for nobody.\n", "notes.txt": "Things to remember.\n"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")


class Sandbox:
    """The one folder in which the risky tools act, with files to delete and an outbox. Made when it is first asked for."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or store.home() / "chat"

    @property
    def files(self) -> Path:
        place = self.folder / "files"
        if not place.is_dir():
            _made(place)
            for name, text in SAMPLES.items():
                (place / name).write_text(text)
        return place

    @property
    def outbox(self) -> Path:
        return _made(self.folder / "outbox")

    def listed(self) -> list[str]:
        """The files that are there."""
        return sorted(file.name for file in self.files.iterdir() if file.is_file())

    def sent(self) -> list[dict[str, Any]]:
        """The messages in the outbox, oldest first."""
        return [json.loads(file.read_text()) for file in sorted(self.outbox.glob("*.json"))]

    def send(self, arguments: Mapping[str, Any]) -> str:
        """Put a message into the outbox; nothing leaves this machine."""
        outbox, message = self.outbox, {name: str(arguments.get(name, "")) for name in ("to", "subject", "body")}
        number = len(list(outbox.glob("*.json"))) + 1
        while True:
            try:
                with open(outbox / f"{number:04d}.json", "x") as file:
                    json.dump(message, file)
                return f"The message to {message['to']} lies in the outbox as number {number}."
            except FileExistsError:
                number += 1

    def delete(self, arguments: Mapping[str, Any]) -> str:
        """Delete a file of the sandbox. Raises `LabError` for a name that is none, or leads out of it."""
        name = str(arguments.get("name", ""))
        file = self.files / name
        if not _NAME.fullmatch(name) or file.is_symlink() or not file.is_file():
            there = ", ".join(self.listed()) or "none"
            raise LabError(f"There is no file '{name[:100]}' in the sandbox; its files are: {there}.")
        file.unlink()
        return f"The file {name} is deleted."


def workbench(sandbox: Sandbox, today: Callable[[], datetime.date] = datetime.date.today) -> tuple[Ability, ...]:
    """The tools, the harmless ones first."""
    return (
        Ability(name="calculator", about="computes an arithmetic expression", arguments={"expression": "17 * 23"},
                run=lambda given: calculator(str(given.get("expression", "")))),
        Ability(name="date", about="says which day it is", run=lambda given: f"Today is {today():%A, %d %B %Y}."),
        Ability(name="search", about="finds passages in a small library", arguments={"query": "what translates domain names"},
                run=lambda given: search(str(given.get("query", "")))),
        Ability(name="send_email", about="sends a message", run=sandbox.send,
                arguments={"to": "ann@example.org", "subject": "Lunch", "body": "Shall we meet at noon?"}),
        Ability(name="delete_file", about="deletes a file", arguments={"name": "draft.txt"}, run=sandbox.delete),
    )


def search(query: str) -> str:
    """The passages of the library that fit `query` best, with where they stand. Raises `LabError` for an empty query."""
    if not query.strip():
        raise LabError("The search was given no words; say what to look for.")
    found = _searcher()(query)
    return "\n".join(f"[{rank}] {passage.text} ({passage.document})" for rank, passage in enumerate(found, start=1))


@functools.cache
def _searcher() -> Callable[[str], list[Passage]]:
    """Search by embedding; by shared words, which need no model, where there is no embedding model."""
    documents = [retrieval.Document(id=one.id, text=one.context, source=name)
                 for name in SETS for one in data.questions(name) if one.context]
    try:
        index = retrieval.build(documents, similarity.default())
        return lambda query: [found.passage for found in index.search(query, FOUND)]
    except LabError:
        passages = [passage for document in documents for passage in retrieval.split(document, retrieval.Splitting())]
        return lambda query: _shared(query, passages)


def _shared(query: str, passages: list[Passage]) -> list[Passage]:
    words = set(re.findall(r"\w+", query.lower()))
    return sorted(passages, key=lambda one: -len(words & set(re.findall(r"\w+", one.text.lower()))))[:FOUND]


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"The sandbox {folder} cannot be made ({error.strerror}); set LAB_HOME to a folder you may write "
                       "to.") from error
    return folder

"""Prompts of a release: versions in MLflow's prompt registry, registered from a file when the text is new."""

from __future__ import annotations

import json
import re
from pathlib import Path

from lab.errors import LabError
from lab.ops import store, tracking
from lab.ops.versions import registry
from lab.ops.versions.files import safe_name
from lab.ops.versions.registry import Entry
from lab.ops.versions.release import Prompt, sha256_of

_TEXT, _KIND = "mlflow.prompt.text", "_mlflow_prompt_type"
_ROLES = ("system", "user", "assistant")
_NAMED = re.compile(r"([\w.-]+)@([\w-]+)", re.ASCII)


def prompt(given: str) -> Prompt:
    """The prompt `NAME@VERSION` (a number, an alias, or `latest`), or the text of a file as a version of its name.

    A file's text that is a version already stays that version; a `.json` file is a chat prompt: a list of messages. Raises
    `LabError` when there is neither.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return _from_file(path)
    named = _NAMED.fullmatch(given)
    if named is None:
        raise LabError(f"There is no prompt file '{given}'; give a file, or NAME@VERSION of a prompt in the registry.")
    return _from_registry(*named.groups())


def registered(one: Prompt) -> bool:
    """Whether MLflow's registry still has this version with this text."""
    found = next((e for e in registry.entries(one.name) if e.number == one.version and not e.deleted), None)
    return found is not None and found.tags.get(_TEXT) is not None and _of(one.name, found).sha256 == one.sha256


def _from_file(path: Path) -> Prompt:
    try:
        text = path.read_bytes().decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"The prompt {path} cannot be read ({error}); give a UTF-8 text file.") from error
    if not text.strip():
        raise LabError(f"The prompt {path} is empty; write what the model should be told.")
    if len(text) > registry.LONGEST:
        raise LabError(f"The prompt {path} has {len(text):,} characters, and MLflow keeps {registry.LONGEST:,}; shorten it.")
    chat = path.suffix == ".json"
    turns = _turns(text, str(path)) if chat else None
    return _registered(safe_name(path.stem), json.dumps(turns) if turns is not None else text, turns)


def written(name: str, text: str) -> str:
    """A system prompt as NAME@VERSION for `create`: a new version in the registry, or the one that has this text already."""
    if not text.strip() or len(text) > registry.LONGEST:
        raise LabError(f"A prompt has 1 to {registry.LONGEST:,} characters, not {len(text):,}.")
    made = _registered(safe_name(name), text, None)
    return f"{made.name}@{made.version}"


def _registered(name: str, text: str, turns: list[dict[str, str]] | None) -> Prompt:
    chat = turns is not None
    for entry in reversed(registry.entries(name)):
        if not entry.deleted and entry.tags.get(_TEXT) == text and (entry.tags.get(_KIND) == "chat") == chat:
            return _of(name, entry)
    with tracking.sentences():
        made = registry.uncontested(lambda: tracking.writer().register_prompt(name, turns if turns is not None else text))
    return Prompt(name=name, version=int(made.version), text=text, sha256=sha256_of(text), chat=chat)


def _from_registry(name: str, version: str) -> Prompt:
    there = [e for e in registry.entries(name) if not e.deleted and _TEXT in e.tags]
    if not there:
        raise LabError(f"There is no prompt '{name}' in the registry of {store.shown()}; give a file to register one.")
    if version == "latest":
        return _of(name, there[-1])
    number = int(version) if version.isdigit() else registry.aliases(name).get(version)
    found = next((e for e in there if e.number == number), None)
    if found is None:
        raise LabError(f"Prompt '{name}' has no version '{version}'; it has {', '.join(str(e.number) for e in there)}.")
    return _of(name, found)


def _of(name: str, entry: Entry) -> Prompt:
    text = entry.tags[_TEXT]
    chat = entry.tags.get(_KIND) == "chat"
    if chat:
        _turns(text, f"{name}@{entry.number}")
    return Prompt(name=name, version=entry.number, text=text, sha256=sha256_of(text), chat=chat)


def _turns(text: str, what: str) -> list[dict[str, str]]:
    try:
        turns = json.loads(text)
        good = isinstance(turns, list) and turns and all(
            set(turn) == {"role", "content"} and turn["role"] in _ROLES and isinstance(turn["content"], str) for turn in turns)
    except (ValueError, TypeError):
        good = False
    if not good:
        raise LabError(f"The chat prompt {what} is no list of messages; write "
                       '[{"role": "system", "content": "..."}, ...].')
    return list(turns)

"""Reads YAML as plain values together with the line of every key, and checks them, so that an error can say where."""

from __future__ import annotations

import hashlib
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import yaml

from lab.errors import LabError

Path = tuple[str | int, ...]
_WORDS = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "a mapping", bool: "true or false"}
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)


def file(path: pathlib.Path, what: str, *, missing: str = "") -> tuple[str, str]:
    """The text of a file and its sha256. Raises `LabError`: `missing`, if given, where there is none."""
    try:
        raw = path.read_bytes()
        return raw.decode(), hashlib.sha256(raw).hexdigest()
    except (OSError, UnicodeDecodeError) as error:
        if missing and isinstance(error, FileNotFoundError):
            raise LabError(missing) from None
        raise LabError(f"The {what} cannot be read ({getattr(error, 'strerror', None) or error}); give a readable UTF-8 file."
                       ) from error


def read(text: str, file: str, what: str) -> tuple[Any, dict[Path, int]]:
    """The values of `text` and the line (from 1) of every key and item. Raises `LabError` for bad YAML and double keys.

    `what` is what the file is meant to be, as a sentence names it: "a policy".
    """
    try:
        node = _composed(text, what)
    except RecursionError:
        raise LabError(f"{file}: its brackets are nested too deep for {what}; write it flat.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f"line {mark.line + 1}" if mark else "somewhere"
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise LabError(f"{file}, {where}: this is no YAML ({' '.join(str(problem).split())}); mend the line.") from error
    lines: dict[Path, int] = {}
    if node is None:
        return None, lines
    loader = yaml.SafeLoader("")
    try:
        return _value(node, (), lines, file, loader), lines
    finally:
        loader.dispose()


class Checked:
    """The checks of one file; every error names the file, the line and what to write instead."""

    def __init__(self, file: str, where: dict[Path, int], what: str) -> None:
        self._file, self._where, self._what = file, where, what

    def error(self, path: Path, sentence: str) -> LabError:
        line = next((self._where[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self._where), 1)
        return LabError(f"{self._file}, line {line}: {sentence}.")

    def mapping(self, value: Any, path: Path, known: Mapping[str, type], *, needed: tuple[str, ...] = ()) -> dict[str, Any]:
        """The mapping at `path`, its values of the types that `known` says; a number may be written as a text (`number`)."""
        if not isinstance(value, dict):
            raise self.error(path, f"{self._named(path)} must be a mapping with the keys {', '.join(known)}")
        value = {key: number(one, known.get(key)) for key, one in value.items()}
        for key, one in value.items():
            if key not in known:
                raise self.error((*path, key), f"there is no key '{key}'; the keys are {', '.join(known)}")
            kind = known[key]
            fits = isinstance(one, (int, float) if kind is float else kind) and (kind is bool or not isinstance(one, bool))
            if not fits:
                raise self.error((*path, key), f"'{key}' must be {_WORDS[kind]}, not {one!r:.80}")
        if missing := [key for key in needed if key not in value]:
            raise self.error(path, f"the key '{missing[0]}' is missing; add it")
        return value

    def texts(self, value: Any, path: Path, known: tuple[str, ...] | None = None, what: str = "") -> tuple[str, ...]:
        for i, one in enumerate(value):
            if not isinstance(one, str) or not one:
                raise self.error((*path, i), f"{self._named((*path, i))} must be a text, not {one!r:.80}")
            if known is not None and one not in known:
                raise self.error((*path, i), f"there is no {what} '{one}'; choose from {', '.join(known)}")
        return tuple(value)

    def _named(self, path: Path) -> str:
        """What stands at `path`, as a sentence begins with it."""
        if not path:
            return self._what
        *before, last = path
        if isinstance(last, str):
            return f"'{last}'"
        return f"entry {last + 1} of '{before[-1]}'" if before else f"entry {last + 1}"


def number(value: Any, kind: Any) -> Any:
    """`value`, and the number of it where `kind` is float or int and it is the text of one: YAML 1.1 reads `1e-7` as text."""
    if kind not in (float, int) or not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return value
    found = float(value)
    return found if kind is float else int(found) if found.is_integer() else value


class _Plain(yaml.SafeLoader):
    """Without aliases: a text of one line that refers to itself may stand for an endless one."""

    def __init__(self, text: str, what: str) -> None:
        super().__init__(text)
        self._what = what

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            here = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, f"an alias (*), which {self._what} cannot have", here)
        return super().compose_node(parent, index)


def _composed(text: str, what: str) -> yaml.Node | None:
    loader = _Plain(text, what)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _value(node: yaml.Node, path: Path, lines: dict[Path, int], file: str, loader: yaml.SafeLoader) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in found:
                raise LabError(f"{file}, line {key_node.start_mark.line + 1}: the key '{key}' stands there twice; remove one.")
            lines[(*path, key)] = key_node.start_mark.line + 1
            found[key] = _value(value_node, (*path, key), lines, file, loader)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, i), lines, file, loader) for i, item in enumerate(node.value)]
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise LabError(f"{file}, line {node.start_mark.line + 1}: '{node.value}' cannot be read as a value; put it in quotes."
                       ) from error

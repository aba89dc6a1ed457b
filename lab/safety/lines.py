"""Reads YAML as plain values together with the line of every key, so that an error can say where."""

from __future__ import annotations

from typing import Any

import yaml

from lab.errors import LabError

Path = tuple[str | int, ...]


def read(text: str, file: str) -> tuple[Any, dict[Path, int]]:
    """The values of `text` and the line (from 1) of every key and item. Raises `LabError` for bad YAML and double keys."""
    try:
        node = yaml.compose(text, Loader=_Plain)
    except RecursionError:
        raise LabError(f"{file}: its brackets are nested too deep to be a policy; write it flat.") from None
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


class _Plain(yaml.SafeLoader):
    """Without aliases: a text of one line that refers to itself may stand for an endless one."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            here = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias (*), which a policy cannot have", here)
        return super().compose_node(parent, index)


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

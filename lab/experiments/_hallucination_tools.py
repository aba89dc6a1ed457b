"""The tools a model may call in the hallucination experiment, and the one syntax of a call: a JSON object with tool and input.

    {"tool": "calculator", "input": "(3 + 4) * 2"}

The call is held to a schema, so that even a small model writes a readable one; whether it is a sensible one is its own matter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lab.errors import LabError

LONGEST = 60
"""Characters of an expression or a query."""


@dataclass(frozen=True, kw_only=True)
class Called:
    """What was called and what came back; `said` is the line the model reads, `readable` whether there was a call at all."""

    tool: str
    input: str
    said: str
    readable: bool = True


def schema(tools: tuple[str, ...]) -> str:
    """The JSON Schema of a call of one of these tools."""
    text = {"type": "string", "maxLength": LONGEST, "minLength": 1}
    return json.dumps({"type": "object", "properties": {"tool": {"enum": list(tools)}, "input": text},
                       "required": ["tool", "input"], "additionalProperties": False})


def call(text: str, tools: Mapping[str, Callable[[str], str]]) -> Called:
    """Read a call and carry it out. What cannot be read or done is said in words: the model has to live with it."""
    try:
        asked = json.loads(text)
        tool, given = str(asked["tool"]), str(asked["input"])[:LONGEST]
    except (ValueError, TypeError, KeyError):
        return Called(tool="", input="", said="The call could not be read.", readable=False)
    if tool not in tools:
        return Called(tool=tool, input=given, said=f"There is no tool {tool}.", readable=False)
    try:
        return Called(tool=tool, input=given, said=tools[tool](given))
    except LabError as error:
        return Called(tool=tool, input=given, said=str(error), readable=False)

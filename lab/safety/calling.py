"""How a model calls a tool: it names one and then writes the arguments, both held to a schema; so even a small one can.

Whether it is a sensible call is the model's matter, whether it may be made the chain's: every tool is offered, also those that
the role may not call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lab.engines import Engine, generate
from lab.errors import LabError
from lab.records import Decoding, Message, Request
from lab.safety.decisions import ToolCall

NOTHING = "none"
CHOOSE = "Decide which tool the question needs."
FILL = "Write the arguments of this tool for the question."
_KEPT = ("type", "properties", "required", "additionalProperties", "items", "enum", "const", "minLength", "maxLength")
LONGEST = 160
"""Characters of one argument that a model may write; a policy may allow a person more."""


@dataclass(frozen=True, kw_only=True)
class Ability:
    """A tool as it can be carried out: what it does, which arguments it takes, and what it says when it is done."""

    name: str
    about: str
    run: Callable[[Mapping[str, Any]], str]
    """Raises `LabError` for arguments with which nothing can be done."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Each argument with an example; all are texts and all are needed."""

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "object", "properties": {name: {"type": "string"} for name in self.arguments},
                "required": list(self.arguments), "additionalProperties": False}


def choose(
    engine: Engine, question: str, abilities: Sequence[Ability], schemas: Mapping[str, Mapping[str, Any]], decoding: Decoding
) -> ToolCall | None:
    """The call that the model wants to make for `question`; None when it wants none.

    `schemas` are the policy's for the arguments, where it has one. Raises `LabError` for what cannot be read as a call.
    """
    offered = "\n".join(f"- {one.name}: {one.about}" for one in abilities)
    named = _said(engine, f"{CHOOSE}\n{offered}\n- {NOTHING}: the question needs no tool.", question,
                  {"type": "object", "properties": {"tool": {"enum": [*(one.name for one in abilities), NOTHING]}},
                   "required": ["tool"], "additionalProperties": False}, decoding, 32)
    tool = str(named.get("tool", NOTHING))
    if tool == NOTHING:
        return None
    ability = next((one for one in abilities if one.name == tool), None)
    if ability is None or not ability.arguments:
        return ToolCall(name=tool)
    example = json.dumps(dict(ability.arguments))
    schema = kept({**ability.schema, **schemas.get(tool, {})})
    return ToolCall(name=tool, arguments=_said(engine, f"{FILL}\n{tool}: {ability.about}\nFor example: {example}", question,
                                               schema, decoding, 224))


def kept(schema: Any) -> dict[str, Any]:
    """What a grammar can keep of a policy's schema; the policy checks the rest afterwards."""
    found = {name: value for name, value in dict(schema).items() if name in _KEPT}
    if "properties" in found:
        found["properties"] = {name: kept(inner) for name, inner in found["properties"].items()}
    if "items" in found:
        found["items"] = kept(found["items"])
    if found.get("type") == "string":
        found["maxLength"] = min(LONGEST, found.get("maxLength", LONGEST))
    return found


def _said(
    engine: Engine, system: str, question: str, schema: Mapping[str, Any], decoding: Decoding, max_tokens: int
) -> dict[str, Any]:
    """The JSON object that the model writes under `schema`, greedily."""
    asked = Request(messages=(Message(role="system", content=system), Message(role="user", content=question)),
                    decoding=Decoding(max_tokens=max_tokens, seed=decoding.seed, json_schema=json.dumps(schema)))
    given = generate(engine, asked)
    try:
        found = json.loads(given.text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LabError("The model's tool call could not be read; ask again, or choose a larger model.")
    return found

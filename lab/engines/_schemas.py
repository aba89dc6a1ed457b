"""What a JSON Schema asks of an answer: read at the door, and the smallest answer that satisfies it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lab.errors import LabError
from lab.records import Decoding

Schema = Mapping[str, Any]

KNOWN = frozenset({
    "type", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems", "enum", "const",
    "oneOf", "anyOf", "allOf", "$ref", "$defs", "definitions", "format", "minLength", "maxLength",
    "title", "description", "default", "examples", "$schema", "$id", "$comment"})
"""Keywords that a grammar can keep, or that ask for nothing. One it cannot keep must be refused, not passed over."""
ANY_OBJECT = json.dumps({"type": "object"})
DEEPEST = 24


def parsed(text: str) -> dict[str, Any]:
    """A schema as an object, whatever it asks for. Raises `LabError` for what is no JSON object."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        schema = None
    if not isinstance(schema, dict):
        raise LabError("The schema of an answer must be a JSON Schema, written as one JSON object.")
    return schema


def read(decoding: Decoding) -> dict[str, Any]:
    """The schema of `decoding` as an object. Raises `LabError` for one that cannot be kept."""
    schema = parsed(decoding.json_schema)
    if decoding.ignore_eos:
        raise LabError("A schema says where an answer ends, so its end cannot be ignored; leave out one of the two.")
    _refuse_unknown(schema, 0)
    return schema


def _refuse_unknown(schema: object, depth: int) -> None:
    if not isinstance(schema, dict):
        return
    if depth > DEEPEST:
        raise LabError(f"A schema nested more than {DEEPEST} deep is not kept; make it flatter.")
    if unknown := sorted(set(schema) - KNOWN):
        raise LabError(f"The schema asks for '{unknown[0]}', which is not kept here; use "
                       "types, properties, required, enum, const, anyOf, items and lengths.")
    for name in ("properties", "$defs", "definitions"):
        for inner in _values(schema.get(name)):
            _refuse_unknown(inner, depth + 1)
    for name in ("items", "additionalProperties", "prefixItems", "oneOf", "anyOf", "allOf"):
        inner = schema.get(name)
        for one in inner if isinstance(inner, list) else [inner]:
            _refuse_unknown(one, depth + 1)


def _values(mapping: object) -> list[Any]:
    return list(mapping.values()) if isinstance(mapping, dict) else []


def smallest(decoding: Decoding) -> str:
    """The smallest JSON text that satisfies the schema: required properties, first options, empty texts, zeros."""
    schema = read(decoding)
    return json.dumps(_instance(schema, schema, 0))


def _instance(schema: Schema, root: Schema, depth: int) -> Any:
    if depth > DEEPEST:
        raise LabError("The schema contains itself without an end; make one of its parts optional.")
    if "$ref" in schema:
        return _instance(_referred(str(schema["$ref"]), root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for either in ("oneOf", "anyOf"):
        if either in schema:
            return _instance(schema[either][0], root, depth + 1)
    parts = [_instance(part, root, depth + 1) for part in schema.get("allOf", ())]
    if parts:
        return {key: value for part in parts for key, value in part.items()}
    kind = schema.get("type", "object" if "properties" in schema or not schema else "string")
    return _plain(kind[0] if isinstance(kind, list) else kind, schema, root, depth)


def _plain(kind: str, schema: Schema, root: Schema, depth: int) -> Any:
    if kind == "object":
        required = schema.get("required", ())
        # In the order of the properties, as a grammar has them.
        return {name: _instance(inner, root, depth + 1) for name, inner in schema.get("properties", {}).items()
                if name in required}
    if kind == "array":
        if "prefixItems" in schema:
            return [_instance(inner, root, depth + 1) for inner in schema["prefixItems"]]
        return [_instance(schema.get("items", {}), root, depth + 1)] * int(schema.get("minItems", 0))
    if kind == "string":
        if "format" in schema:
            raise LabError("The scripted engine makes no text of a format; use a length or an enum.")
        return "x" * int(schema.get("minLength", 0))
    return {"integer": 0, "number": 0, "boolean": False}.get(kind)


def _referred(reference: str, root: Schema) -> Schema:
    found: Any = root
    for step in reference.removeprefix("#/").split("/"):
        found = found.get(step) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise LabError(f"The schema refers to '{reference}', which is not in it.")
    return found

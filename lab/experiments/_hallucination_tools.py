"""The tools a model may call in the hallucination experiment, and the one syntax of a call: a JSON object with tool and input.

    {"tool": "calculator", "input": "(3 + 4) * 2"}

The call is held to a schema, so that even a small model writes a readable one; whether it is a sensible one is its own matter.
"""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lab.errors import LabError

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
LARGEST = 1e12
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


def calculator(expression: str) -> str:
    """`expression = value`, for numbers, + - * / and brackets. Raises `LabError` for anything else."""
    value = calculate(expression)
    return f"{expression.strip()} = {value:.10g}"


def calculate(expression: str) -> float:
    """The value of an arithmetic expression; nothing else of Python is read."""
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        raise LabError("This cannot be calculated.") from None
    return value


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return _small(float(node.value))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _small(_OPERATORS[type(node.op)](_value(node.left), _value(node.right)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        return -_value(node.operand) if isinstance(node.op, ast.USub) else _value(node.operand)
    raise ValueError("not arithmetic")


def _small(value: float) -> float:
    if not abs(value) <= LARGEST:
        raise ValueError("too large")
    return value

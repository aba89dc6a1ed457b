"""Computes an expression of numbers, + - * / and brackets, and reads nothing else of Python: the calculator of every tool."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable

from lab.errors import LabError

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
LARGEST = 1e12


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

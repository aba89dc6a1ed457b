"""The parameters of a bench's `main` as options of its command, read from the source so that no bench is imported for --help."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.errors import LabError

_KINDS = {"int": (int, "N"), "float": (float, "X"), "str": (str, "TEXT")}


def options(name: str) -> dict[str, inspect.Parameter]:
    """A keyword parameter for typer per parameter of `main` in `lab/bench/{name}.py`; one not given is None."""
    found = {}
    for argument, kind, default in _declared(name):
        word = _KINDS[_part(kind)][1]
        option = typer.Option(f"--{argument.replace('_', '-')}", metavar=f"{word},..." if kind != _part(kind) else word,
                              show_default=default)
        found[argument] = inspect.Parameter(argument, inspect.Parameter.KEYWORD_ONLY, default=None,
                                            annotation=Annotated[str | None, option])
    return found


def values(name: str, given: dict[str, str | None]) -> dict[str, Any]:
    """What was given on the command line, in the types that `main` declares. Raises `LabError`."""
    kinds = {argument: kind for argument, kind, _ in _declared(name)}
    return {k: _value(k, kinds[k], text) for k, text in given.items() if text is not None}


def _declared(name: str) -> list[tuple[str, str, str]]:
    """Name, type and default of every parameter, as the source writes them."""
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text())
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main").args
    positional = [*zip(main.args, main.defaults, strict=True)]
    return [(arg.arg, ast.unparse(arg.annotation or ast.Name("str")), ast.unparse(default).strip("'()"))
            for arg, default in [*positional, *zip(main.kwonlyargs, main.kw_defaults, strict=True)] if default is not None]


def _value(argument: str, kind: str, text: str) -> Any:
    make, _ = _KINDS[_part(kind)]
    try:
        return make(text) if kind == _part(kind) else tuple(make(word) for word in text.split(",") if word)
    except ValueError:
        raise LabError(f"--{argument.replace('_', '-')} is '{text}'; give {'whole ' * (make is int)}numbers, "
                       f"several with a comma between, as --help shows.") from None


def _part(kind: str) -> str:
    """The type of one value: `Sequence[int]` has many of `int`."""
    return kind.removeprefix("Sequence[").removesuffix("]")

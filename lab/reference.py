"""The reference in `docs/`, written from what the code says: commands, experiments, measures, licences.

`python -m lab.reference` writes it in the checkout; `--check` only says whether it is up to date (exit code 1 if not).
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from lab import data, experiments, models, names
from lab.errors import LabError
from lab.ops import described

ROOT = Path(__file__).parent.parent
MADE = "<!-- Written by `python -m lab.reference`; change the code and run it again. -->"
LICENCES = "docs/licences.md"


def pages() -> dict[str, str]:
    """Every page by its path in the checkout."""
    return {"docs/reference/commands.md": _page("Commands", _commands()),
            "docs/reference/experiments.md": _page("Experiments", _experiments()),
            "docs/reference/measures.md": _page("Measures", _measures()),
            LICENCES: _page("Licences", _licences())}


def stale(*, packages: bool = True) -> list[str]:
    """The pages that differ from what the code says now; `packages` also compares what is installed here."""
    return [path for path, text in pages().items()
            if _comparable(path, text, packages) != _comparable(path, _read(ROOT / path), packages)]


def _comparable(path: str, text: str, packages: bool) -> str:
    return text if packages or path != LICENCES else text.partition("## Packages")[0]


def _commands() -> Iterator[str]:
    from lab import __main__ as command_line

    command_line.register()
    yield "What each command takes, as `--help` says it. The flags of `lab run` are in [experiments](experiments.md)."
    yield from _command(typer.main.get_command(command_line.app), "lab")


def _command(command: Any, path: str) -> Iterator[str]:
    if command.hidden:
        return
    if hasattr(command, "commands"):
        yield from () if path == "lab" else (f"## `{path}`", _one_line(command.help))
        if path == "lab run":
            yield "One command for each experiment: " + ", ".join(f"`{name}`" for name in sorted(command.commands)) + "."
            return
        for name in sorted(command.commands):
            yield from _command(command.commands[name], f"{path} {name}")
        if command.invoke_without_command and path != "lab":
            yield from _parameters(command)
        return
    words = " ".join(str(p.metavar or p.name) for p in command.params if p.param_type_name == "argument")
    yield f"{'##' if path.count(' ') == 1 else '###'} `{f'{path} {words}'.strip()}`"
    yield _one_line(command.help)
    yield from _parameters(command)


def _parameters(command: Any) -> Iterator[str]:
    rows = []
    for one in command.params:
        if getattr(one, "hidden", False) or one.name == "help":
            continue
        name = ", ".join(one.opts + one.secondary_opts) if one.param_type_name == "option" else str(one.metavar or one.name)
        stated = getattr(one, "show_default", None)
        default = stated if isinstance(stated, str) else one.default
        rows.append((f"`{name}`", _one_line(getattr(one, "help", "")),
                     "" if default in (None, (), [], "") else f"`{default}`"))
    if rows:
        yield _table(("Flag", "Meaning", "Default"), rows)


def _experiments() -> Iterator[str]:
    yield ("Every field is a flag of `lab run NAME` (with `-` for `_`), a parameter in MLflow and a line of the form on the page "
           "Run. Lists are separated by commas.")
    for name in experiments.names():
        cls = experiments.find(name)
        question, _, rest = inspect.cleandoc(cls.__doc__ or "").partition("\n")
        yield f"## `{name}`"
        yield f"**{question}**"
        yield rest.strip()
        if notebook := described.NOTEBOOKS.get(name):
            yield f"Notebook: [{notebook}](../../notebooks/{notebook}.ipynb)."
        yield _table(("Field", "Type", "Meaning", "Default"), [
            (f"`{f.name}`", f"`{f.type}`", _one_line(f.metadata.get("help", "")), _default(f)) for f in dataclasses.fields(cls)])
        yield "Measures in its table: " + ", ".join(f"`{c}`" for c in cls.columns) + "." if cls.columns else ""


def _default(field: dataclasses.Field[Any]) -> str:
    text = experiments.shown(field.default)
    return f"`{text}`" if text else "(empty)"


def _measures() -> Iterator[str]:
    yield ("A measure's name carries its stored unit as a suffix; the table says how it is printed and which direction is "
           "better. Where there is an interval it stands in `NAME_low` and `NAME_high`. Not measured is NaN.")
    yield "## By suffix"
    yield _table(("Suffix", "Printed in", "Better"), [(f"`{s}`", unit, better) for s, unit, _, better in names.SUFFIXES])
    yield "## By name"
    yield _table(("Measure", "Called", "Printed in", "Better"), [
        (f"`{key}`", name.label, name.unit, name.better) for key, name in sorted(names.KNOWN.items())])
    yield "## How they are computed"
    folder = Path(__file__).parent / "metrics"
    for file in sorted(f for f in folder.rglob("*.py") if not f.name.startswith("_")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        public = [(f"`{node.name}`", _sentence(ast.get_docstring(node))) for node in tree.body
                  if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and ast.get_docstring(node)]
        if public:
            place = file.relative_to(folder.parent.parent).as_posix()
            yield f"### [{place}](../../{place})"
            yield _sentence(ast.get_docstring(tree))
            yield _table(("Function", "What it gives"), public)


def _licences() -> Iterator[str]:
    yield ("The workbench is Apache-2.0 ([LICENSE](../LICENSE)). What it is used with keeps its own licence; nothing of the "
           "following is part of this repository except the question sets that are said to ship.")
    yield "## Models"
    yield _table(("Name", "Model", "Licence", "Package", "SHA-256"), [
        (f"`{e.name}`", e.title, e.licence, e.distribution or "brought by hand", f"`{e.sha256[:16]}`")
        for e in models.CATALOGUE.values()])
    yield "A model of your own has the licence that its header states (`general.license`); it is kept with every run."
    yield "## Question sets"
    yield _table(("Name", "Items", "Licence", "Source"), [
        (f"`{e.name}`", f"{e.size:,}", e.licence, e.source) for e in sorted(data.catalogue().values(), key=lambda e: e.name)])
    yield "## Packages"
    yield ("The versions of `constraints.txt` as their metadata state their licences; those that are not installed where this "
           "page was written are marked.")
    rows = [(name, version, package_licence(name)) for name, version in pinned().items()]
    yield _table(("Package", "Version", "Licence"), rows)


def pinned() -> dict[str, str]:
    """Package to version, as `constraints.txt` pins them."""
    lines = [line.partition("#")[0].partition(";")[0] for line in _read(ROOT / "constraints.txt").splitlines()]
    pins = [line.partition("==") for line in lines]
    return dict(sorted((name.strip(), version.strip()) for name, _, version in pins if version))


def package_licence(name: str) -> str:
    """The licence in an installed package's metadata: its expression, else its short name, else its classifiers."""
    try:
        known: Mapping[str, Any] = importlib.metadata.metadata(name)  # type: ignore[assignment]
    except importlib.metadata.PackageNotFoundError:
        return "(not installed here)"
    if stated := known.get("License-Expression"):
        return str(stated)
    classified = [c.rpartition(" :: ")[2] for c in known.get_all("Classifier") or ()  # type: ignore[attr-defined]
                  if c.startswith("License ::") and not c.endswith("OSI Approved")]
    free = str(known.get("License") or "").strip()
    return (free if 0 < len(free) <= 60 and "\n" not in free else "") or ", ".join(classified) or "not stated"


def _page(title: str, parts: Iterator[str]) -> str:
    return "\n\n".join([MADE, f"# {title}", *filter(None, parts)]) + "\n"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _sentence(text: str | None) -> str:
    """The first sentence, or the first paragraph where it has no end."""
    paragraph = _one_line((text or "").partition("\n\n")[0])
    return (re.match(r".*?[.:?](?= |$)", paragraph) or re.match(r".*", paragraph))[0]  # type: ignore[index]


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` name those that are not up to date."""
    if not (ROOT / "pyproject.toml").is_file():
        raise LabError("The reference is written in a checkout of the workbench; run this there.")
    old = stale()
    if arguments == ["--check"]:
        print("\n".join(f"{path} is out of date; run `python -m lab.reference`." for path in old) or "All pages are up to date.")
        return bool(old)
    made = pages()
    for path in old:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(made[path], encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(2)

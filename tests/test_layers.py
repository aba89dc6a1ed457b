"""Imports point down the floors of the house, and every heavy library has one home; checked on the source, not by running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAB = ROOT / "lab"
FLOORS = (
    ("errors", "records", "names", "stats", "machine", "energy", "gguf_header", "models", "text", "arithmetic", "data", "addresses"),
    ("engines", "load"),
    ("metrics", "safety", "retrieval"),
    ("experiments",),
    ("ops",),
    ("sweep",),
    ("plots", "running", "notebook", "summary_file", "wording", "report", "reporting", "doctor", "doctoring",
     "releasing", "replaying", "judging", "plots_monitor", "monitoring", "rolling", "telling", "sweeping", "story", "pages", "bench",
     "door", "tutorials", "__main__", "reference", "app"),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
HOMES = {
    "mlflow": ("lab/ops/",),
    "llama_cpp": ("lab/engines/",),
    "vllm": ("lab/engines/",),
    "streamlit": ("app.py", "lab/pages/"),
    "optuna": ("lab/sweep/search.py",),
    "ray": ("lab/sweep/on_ray.py",),
    "plotly": ("lab/plots.py", "lab/plots_monitor.py"),
}
STATISTICS = {"numpy", "scipy", "statistics", "statsmodels", "sklearn"}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "base"}
SOURCES = [*sorted(LAB.rglob("*.py")), ROOT / "app.py"]


def imports(file: Path, *, types: bool = True) -> Iterator[str]:
    """The dotted name of everything a file imports, wherever in the file; `from lab import x` is `lab.x`.

    Without `types` those are left out that only a type checker sees.
    """
    package, tree = file.relative_to(ROOT).with_suffix("").parts[:-1], ast.parse(file.read_text())
    unseen = {id(inner) for node in ast.walk(tree) if not types and isinstance(node, ast.If)
              and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
              for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*parts, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def place(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def room(file: Path) -> str:
    """The part of the house a file belongs to: `lab/ops/store.py` is `ops`, `lab/stats/__init__.py` is `stats`."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "lab" and len(parts) > 1 else parts[0]


@pytest.mark.parametrize("file", SOURCES, ids=place)
def test_every_file_imports_only_from_its_floor_or_below(file: Path) -> None:
    if file == LAB / "__init__.py":
        assert not [name for name in imports(file) if name.startswith("lab.")]
        return
    assert room(file) in FLOOR, f"{room(file)} stands on no floor; put it on one in this test"
    for name in imports(file):
        inner = name.split(".")[1] if name.startswith("lab.") else ""
        if inner and not inner.startswith("__version"):
            assert inner in FLOOR, f"{place(file)} imports {name}, which stands on no floor"
            assert FLOOR[inner] <= FLOOR[room(file)], f"{place(file)} imports {name}, which is above it"


@pytest.mark.parametrize("library", HOMES)
def test_a_heavy_library_is_imported_only_at_its_home(library: str) -> None:
    users = {place(file) for file in SOURCES if any(name.split(".")[0] == library for name in imports(file, types=False))}
    assert {user for user in users if not user.startswith(HOMES[library])} == set()


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [place(file) for file in SOURCES if file.stem.strip("_") in VAGUE] == []


@pytest.mark.parametrize("file", [f for f in SOURCES if place(f).startswith(("app.py", "lab/pages/"))], ids=place)
def test_the_dashboard_contains_no_statistics_of_its_own(file: Path) -> None:
    assert STATISTICS & {name.split(".")[0] for name in imports(file)} == set()


def test_notebooks_contain_no_statistics_of_their_own() -> None:
    import json

    for file in (ROOT / "notebooks").glob("*.ipynb"):
        code = ["".join(c["source"]) for c in json.loads(file.read_text())["cells"] if c["cell_type"] == "code"]
        plain = "\n".join(line for cell in code for line in cell.splitlines() if not line.lstrip().startswith(("%", "!")))
        found = {alias.name.split(".")[0] for node in ast.walk(ast.parse(plain)) if isinstance(node, ast.Import) for alias in node.names}
        found |= {(node.module or "").split(".")[0] for node in ast.walk(ast.parse(plain)) if isinstance(node, ast.ImportFrom)}
        assert STATISTICS & found == set(), file.name


@pytest.mark.parametrize("file", SOURCES, ids=place)
def test_every_file_begins_by_saying_what_it_is_for(file: Path) -> None:
    first = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]
    assert first.endswith((".", ":", ",")) or len(first) > 40, place(file)

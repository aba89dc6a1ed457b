"""The reference is what the code says, and the licence of everything that is used is stated."""

from __future__ import annotations

import importlib.metadata
import tomllib

import pytest

from lab import data, experiments, models, reference
from lab.experiments import option
from lab.experiments.performance import Performance


def test_the_reference_is_up_to_date() -> None:
    assert reference.stale(packages=False) == [], "run `python -m lab.reference`"


def test_a_field_that_changes_makes_the_reference_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    field = Performance.__dataclass_fields__["repeats"]
    monkeypatch.setattr(field, "metadata", option(1, "another meaning").metadata)
    assert reference.stale(packages=False) == ["docs/reference/experiments.md"]


def test_every_command_and_experiment_is_in_the_reference() -> None:
    pages = reference.pages()
    for command in ("lab run", "lab dashboard", "lab release promote", "lab gateway", "lab bench engine", "lab data fetch"):
        assert f"`{command}" in pages["docs/reference/commands.md"]
    assert all(f"## `{name}`" in pages["docs/reference/experiments.md"] for name in experiments.names())


def test_every_model_set_and_package_has_a_licence() -> None:
    page = (reference.ROOT / reference.LICENCES).read_text()
    for name in [*models.CATALOGUE, *data.catalogue()]:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert all(cell.strip() for cell in row.strip("|").split("|"))
    rows = {cells[0].strip().lower(): cells[1:] for line in page.partition("## Packages")[2].splitlines()
            if len(cells := line.strip("|").split("|")) == 3}
    assert set(map(str.lower, reference.pinned())) <= set(rows)
    for name, version in reference.pinned().items():
        assert rows[name.lower()][0].strip() == version, "run `python -m lab.reference`"
        try:
            same = importlib.metadata.version(name) == version
        except importlib.metadata.PackageNotFoundError:
            same = False
        if same:
            assert rows[name.lower()][1].strip() == reference.package_licence(name), name


def test_every_direct_dependency_is_pinned() -> None:
    import re

    project = tomllib.loads((reference.ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[^A-Za-z0-9_.-]", one)[0].lower().replace("_", "-") for one in project["dependencies"]}
    assert wanted <= {name.lower().replace("_", "-") for name in reference.pinned()}

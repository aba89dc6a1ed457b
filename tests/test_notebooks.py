"""The committed notebooks: they run from top to bottom, and what is committed is fit to be read."""

from __future__ import annotations

import ast
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import pytest

from lab import notebook

FOLDER = Path(__file__).parent.parent / "notebooks"
ALL = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 1_500_000
MACHINE_PATHS = ("/home/", "/root/", "/tmp/", "/work/", "/Users/", "/var/", "site-packages", "C:\\\\Users")


@pytest.fixture(params=ALL, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def committed(path: Path) -> Any:
    read: Any = nbformat.read
    return read(path, as_version=4)


def code(book: Any) -> list[Any]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def words(cell: Any) -> str:
    """What a cell shows a reader as text."""
    data = [output.get("data", {}) for output in cell.outputs]
    return "\n".join(part.get("text/markdown", part.get("text/plain", "")) for part in data)


def test_there_are_notebooks() -> None:
    assert len(ALL) >= 2


def in_short(path: Path, home: Path) -> str:
    """The short version of a notebook, executed on a run record of its own, as JSON; in a process beside the tests."""
    os.environ |= {"LAB_NOTEBOOK_SHORT": "1", "LAB_HOME": str(home)}
    os.environ.pop("LAB_NOTEBOOK_MODEL", None)
    return nbformat.writes(notebook.execute(path, pictures=False, timeout_s=170))


@pytest.fixture(scope="module")
def executions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, Any]]:
    """Two notebooks at a time, each on one thread: of those that are tested, in their order."""
    wanted = [item.callspec.params["path"] for item in request.session.items if "executions" in getattr(item, "fixturenames", ())]
    pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    homes = {one: tmp_path_factory.mktemp(one.stem) for one in wanted}
    yield {one: (homes[one], pool.submit(in_short, one, homes[one])) for one in wanted}
    pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(240)
def test_a_notebook_runs_from_top_to_bottom_and_concludes(path: Path, executions: dict[Path, Any]) -> None:
    before = path.read_bytes()
    home, running = executions[path]
    executed = nbformat.reads(running.result(), as_version=4)
    assert (home / "mlruns" / "mlflow.db").is_file(), "it left no run record where it was told to"
    conclusion = next(cell for cell in code(executed) if "conclusion" in cell.metadata.get("tags", []))
    assert len(words(conclusion)) > 200
    assert "nan" not in words(conclusion).lower().split()
    assert path.read_bytes() == before
    assert not [o for cell in code(executed) for o in cell.outputs if o.get("name") == "stderr"]


def test_a_notebook_is_committed_with_all_its_outputs_and_no_error(committed: Any) -> None:
    assert [cell.execution_count for cell in code(committed)] == list(range(1, len(code(committed)) + 1))
    assert all(cell.outputs for cell in code(committed)), "a cell shows nothing; merge it into the one that does"
    kinds = {output.output_type for cell in code(committed) for output in cell.outputs}
    assert "error" not in kinds
    assert not [o for cell in code(committed) for o in cell.outputs if o.get("name") == "stderr"]


def test_a_committed_notebook_was_run_at_full_length(committed: Any) -> None:
    assert "Short version" not in "".join(o.get("text", "") for cell in code(committed) for o in cell.outputs)


def test_every_committed_figure_has_a_picture_beside_it(committed: Any) -> None:
    figures = [o.data for cell in code(committed) for o in cell.outputs if notebook.PLOTLY in o.get("data", {})]
    assert figures
    assert all("image/png" in data for data in figures)


def test_a_committed_notebook_names_no_folder_of_the_machine_it_ran_on(committed: Any) -> None:
    for output in (o for cell in code(committed) for o in cell.outputs):
        output.get("data", {}).pop("image/png", None)  # base64 may spell anything
    text = json.dumps(committed)
    assert [part for part in (*MACHINE_PATHS, os.path.expanduser("~") + "/") if part in text] == []


def test_a_committed_notebook_is_small(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES


def test_a_notebook_asks_one_question_in_its_title_and_ends_with_exercises(committed: Any) -> None:
    title = committed.cells[0]
    heading = title.source.splitlines()[0]
    assert title.cell_type == "markdown"
    assert heading.startswith("# ")
    assert heading.endswith("?")
    headings = [line for cell in committed.cells if cell.cell_type == "markdown"
                for line in cell.source.splitlines() if line.startswith("#")]
    assert [line for line in headings if line.startswith("# ")] == [heading]
    assert headings[-2:] == ["## Conclusion", "## Exercises"]
    assert [line[:3] for line in committed.cells[-1].source.splitlines() if line[:1].isdigit()] == ["1. ", "2. ", "3. "]


def test_every_code_cell_is_short_and_follows_prose(committed: Any) -> None:
    for before, cell in zip(committed.cells, committed.cells[1:], strict=False):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", f"no prose before {cell.id}"
            assert len(cell.source.splitlines()) <= 15, f"{cell.id} is too long"


def test_a_notebook_defines_nothing_and_imports_only_the_workbench(committed: Any) -> None:
    for cell in code(committed):
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda))
            if isinstance(node, ast.ImportFrom):
                assert str(node.module).split(".")[0] == "lab"
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= {"dataclasses"}


def test_the_conclusion_contains_no_number_typed_by_hand(committed: Any) -> None:
    cell = next(c for c in code(committed) if "conclusion" in c.metadata.get("tags", []))
    typed = [str(node.value) for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Constant)]
    assert [text for text in typed if any(c.isdigit() for c in text) and not text.startswith(("p99", "itl_p"))
            and "(p99)" not in text] == []


def test_cell_ids_are_names(committed: Any) -> None:
    ids = [cell.id for cell in committed.cells]
    assert len(set(ids)) == len(ids)
    assert all(part.isalpha() for name in ids for part in name.split("-"))

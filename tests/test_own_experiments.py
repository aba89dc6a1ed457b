"""An experiment in a file of the user's own is one like those that ship; every mistake in it is a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab import experiments, report, running
from lab.errors import LabError
from lab.ops import history, store

TEXT = '''"""Is it so?"""
import dataclasses
from lab.experiments import Experiment, option
from lab.records import Trial, Verdict

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(Experiment):
    """Is it so?"""
    times: tuple[int, ...] = option((1, 2), "how often")
    columns = ("hits",)
    def size(self):
        return len(self.times)
    def run(self):
        for n in self.times:
            yield Trial(name=f"{n} times", settings={"n": n}, measures={"hits": float(n)})
    def verdict(self, trials):
        return Verdict(decision=f"{len(trials)} trials.")
'''


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "_OWN", {})
    monkeypatch.delenv("LAB_EXPERIMENTS_DIR", raising=False)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    file = tmp_path / "own" / "my_question.py"
    file.write_text(TEXT)
    return file


def test_a_file_runs_by_its_path_and_keeps_its_source(mine: Path, fresh_store: Path) -> None:
    cls = experiments.load(mine)
    done = running.run(experiments.make(cls, {"times": "3,4,5"}))
    assert done.state == "finished" and done.verdict is not None and list(done.table().columns)[0] == "Trial"
    kept: Any = store.client().list_artifacts(done.run_id)
    assert "my_question.py" in {one.path for one in kept}
    note = history.frame("experiment").iloc[0]["tags.mlflow.note.content"]
    assert "lab run ./my_question.py --times 3,4,5" in note and "Is it so?" in note


def test_the_files_of_the_folder_are_listed_and_found_by_name(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "my_question" not in experiments.names()
    monkeypatch.setenv("LAB_EXPERIMENTS_DIR", str(mine.parent))
    assert "my_question" in experiments.names()
    assert experiments.question_of(experiments.find("my_question")) == "Is it so?"


def test_runs_are_reported_where_their_file_is_not_at_hand(mine: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running.run(experiments.load(mine)())
    monkeypatch.setattr(experiments, "_OWN", {})
    assert "2 trials." in report.markdown(report.compose(["my_question"]))


@pytest.mark.parametrize(("name", "text", "said"), [
    ("broken", "x = 1\ny = 1 / 0\n", "line 2 cannot be run .ZeroDivisionError"),
    ("unreadable", "class\n", "line 1 cannot be run .SyntaxError"),
    ("empty", "", "exactly one Experiment; it defines 0"),
    ("plain", TEXT.replace("@dataclasses.dataclass(frozen=True, kw_only=True)\n", ""), "frozen dataclass"),
    ("mute", TEXT.replace('    """Is it so?"""\n', ""), "docstring"),
    ("quality", TEXT, "the name of one that ships"),
    ("my-file", TEXT, "not made of letters"),
])
def test_a_mistake_in_the_file_is_a_sentence(tmp_path: Path, name: str, text: str, said: str) -> None:
    file = tmp_path / f"{name}.py"
    file.write_text(text)
    with pytest.raises(LabError, match=said):
        experiments.load(file)
    assert name not in experiments.names() or name == "quality"


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="There is no file"):
        experiments.load(tmp_path / "none.py")

"""An experiment in a file of the user's own is one like those that ship; every mistake in it is a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sample_store
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from lab import __main__ as command
from lab import experiments, report, running, wording
from lab.errors import LabError
from lab.ops import history, store

APP = Path(__file__).parent.parent / "app.py"
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


def test_one_broken_file_takes_no_other_away(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("astray", "import nope\n"), ("leaving", "raise SystemExit\n"), ("quality", TEXT)):
        (mine.parent / f"{name}.py").write_text(text)
    monkeypatch.setenv("LAB_EXPERIMENTS_DIR", str(mine.parent))
    command.register(["list"])
    shown = " ".join(CliRunner().invoke(command.app, ["list"], catch_exceptions=False).output.split())
    assert all(f"lab run {name} " in shown for name in ("my_question", "quality", "performance")) and "lab run astray" not in shown
    assert shown.count("Caution") == 3 and "astray.py, line 1 cannot be run (ModuleNotFoundError" in shown
    with pytest.raises(LabError, match="astray.py, line 1 cannot be run"):
        command.register(["run", "astray"])
    assert "cannot be run" in wording.question("astray") and wording.find("astray") is None


@pytest.mark.parametrize("name", ["overview", "compare", "run"])
def test_the_pages_survive_a_broken_file(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (mine.parent / "astray.py").write_text("import nope\n")
    monkeypatch.setenv("LAB_EXPERIMENTS_DIR", str(mine.parent))
    (tmp_path / "mlruns").mkdir()
    with sample_store.at(tmp_path):
        app = AppTest.from_file(str(APP), default_timeout=60).run()
        if name != "overview":
            app.query_params["experiment"] = "astray"
            app.switch_page(f"lab/pages/{name}.py").run()
        assert not app.exception, app.exception
        shown = " ".join(str(part.value) for part in [*app.warning, *app.error, *app.caption]).replace("\\", "")
        assert "astray.py, line 1 cannot be run" in shown
        if name == "run":
            app.selectbox[0].set_value("my_question").run()
            assert not app.exception and app.code[0].value == "lab run my_question"


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="There is no file"):
        experiments.load(tmp_path / "none.py")

"""A report says what the store has and needs nothing else: one page without a network, or Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sample_store
from typer.testing import CliRunner

from lab import __main__ as command
from lab import report
from lab.errors import LabError
from lab.ops import compare, history

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def sample() -> Iterator[Path]:
    with sample_store.at(sample_store.home()) as home:
        yield home


def runs(experiment: str) -> list[str]:
    return list(history.frame("experiment", experiment=experiment)["run_id"])


def test_it_shows_the_decision_every_trial_and_every_doubt() -> None:
    made = report.compose(["quantization"], now=NOW)
    text = report.markdown(made)
    assert text.index("## Decision") < text.index("## Measured") < text.index("## Where it comes from")
    assert all(rung.replace("_", r"\_") in text for rung in sample_store.RUNGS)
    assert sample_store.CAVEAT in text.replace("\\", "")
    assert "2026-11-29 12:00 UTC" in text


def test_the_differences_are_those_of_the_dashboard() -> None:
    run_id = runs("quantization")[0]
    trials = history.frame(parents=[run_id]).iloc[::-1].reset_index(drop=True)
    made = report.markdown(report.compose([run_id], baseline="Q8_0"))
    base = str(trials.loc[trials["name"] == "Q8_0", "run_id"].iloc[0])
    tested = [row for row in compare.differences(trials, base, str(trials["run_id"].iloc[0])) if row.outcome != "not tested"]
    assert "**F32** against Q8\\_0" in made
    assert tested and all(f"| {row.outcome} |" in made for row in tested)


def test_the_page_asks_nothing_of_the_network_and_shows_what_is_said_as_text(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    report.write(report.compose(["quantization", "performance"]), file)
    page = file.read_text()
    without_script = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(src|href)\s*=\s*["']https?:""", without_script)
    assert "<table>" in page and "plotly" in page.lower() and "<h2>Decision</h2>" in page


def test_nothing_in_a_name_becomes_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = report.Report(title="<script>x</script>", runs=("r",), sections=(
        report.Section(heading="<b>h", text=report._table(report.pd.DataFrame({"a|b": ["<img src=x>", "`[x](http://y)`"]}))),))
    page = report.page(hostile)
    assert not any(bad in page for bad in ("<script>x", "<b>h", "<img", "<a href"))


def test_several_runs_say_which_is_which_and_in_what_they_differ() -> None:
    both = runs("performance")[:2]
    text = report.markdown(report.compose(both))
    assert all(run_id in text for run_id in both)


@pytest.mark.parametrize(("given", "said"), [
    ([], "No run was named"), (["deadbeef"], "There is no run 'deadbeef'"), (["ab"], "There is no run 'ab'")])
def test_a_run_that_is_not_there_is_one_sentence(given: list[str], said: str) -> None:
    with pytest.raises(LabError, match=said):
        report.compose(given)


def test_the_command_refuses_a_wrong_baseline_and_a_wrong_ending_and_writes_the_rest(tmp_path: Path) -> None:
    def asked(*more: str) -> tuple[int, str]:
        done = CliRunner().invoke(command.app, ["report", "quantization", *more])
        return done.exit_code, done.output + str(done.exception or "")

    assert "No trial of these runs is called 'Q9'" in asked("--baseline", "Q9")[1]
    assert "not as 'r.pdf'" in asked("--out", str(tmp_path / "r.pdf"))[1]
    assert "cannot be written" in asked("--out", str(tmp_path / "no" / "r.md"))[1]
    code, said = asked("--out", str(tmp_path / "r.md"))
    assert code == 0 and (tmp_path / "r.md").read_text().startswith("# Quantization: 1 run")
    assert "Quantization" in said

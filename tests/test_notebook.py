"""What notebooks share: choosing from outside, showing what was measured and saying no more than that."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest

from lab import notebook, plots
from lab.errors import LabError
from lab.experiments import Chart
from lab.experiments.performance import Performance
from lab.ops import history, tracking
from lab.records import Generation, Request, Trial, Verdict
from lab.running import Outcome

TRIALS = pd.DataFrame({
    "run_id": ["a", "b", "c"], "name": ["2 threads", "1 thread", "512 prompt tokens"],
    "params.factor": ["threads", "threads", "prompt_tokens"], "params.threads": [2, 1, 2],
    "params.prompt_tokens": [128, 128, 512], "metrics.ttft_s": [0.25, 0.5, math.nan],
    "metrics.ttft_s_low": [0.2, 0.45, math.nan], "metrics.ttft_s_high": [0.3, 0.55, math.nan],
    "metrics.bandwidth_share": [0.5, 0.25, 0.5], "tags.lab.note.tensor_mix": ["F16 100.0%"] * 3,
})
OUTCOME = Outcome(run_id="p", experiment="performance", question="?", state="finished", trials=TRIALS, verdict=None)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Everything a page would be sent."""
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr("IPython.display.display", lambda data, **more: sent.append(data))
    return sent


def test_the_short_version_replaces_only_what_it_names() -> None:
    full, short = (notebook.Setup(model="m", short=value).experiment(
        Performance, models=("m",), repeats=6, threads=(1, 2), short={"repeats": 2}) for value in (False, True))
    assert (full.repeats, short.repeats) == (6, 2)
    assert full.threads == short.threads == (1, 2)


def test_the_environment_chooses_model_and_length(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("LAB_NOTEBOOK_SHORT", "LAB_NOTEBOOK_MODEL"):
        monkeypatch.delenv(variable, raising=False)
    assert notebook.setup() == notebook.Setup(model="smollm2-135m", short=False)
    assert "Short version" not in capsys.readouterr().out
    monkeypatch.setenv("LAB_NOTEBOOK_SHORT", "1")
    assert notebook.setup().short
    assert "Short version" in capsys.readouterr().out
    monkeypatch.setenv("LAB_NOTEBOOK_MODEL", "no-such-model")
    with pytest.raises(LabError, match="no-such-model"):
        notebook.setup()


def test_where_runs_go_is_said_without_folders_or_passwords(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert notebook.place() == "mlruns/mlflow.db in LAB_HOME"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@tracking.example:5000/x?token=1")
    assert notebook.place() == "https://tracking.example"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert str(tmp_path) not in notebook.place()


def test_span_goes_from_the_lowest_to_the_highest_value_however_they_were_measured() -> None:
    low, high = notebook.span(OUTCOME, "threads")
    assert (low["name"], high["name"]) == ("1 thread", "2 threads")
    with pytest.raises(LabError, match="depth_tokens"):
        notebook.span(OUTCOME, "depth_tokens")


def test_a_quantity_has_its_unit_and_its_interval_and_says_when_it_was_not_measured() -> None:
    first, last = TRIALS.iloc[0], TRIALS.iloc[2]
    assert notebook.quantity(first, "ttft_s") == "250 ms (200–300)"
    assert notebook.quantity(first, "bandwidth_share") == "50%"
    assert notebook.quantity(last, "ttft_s") == notebook.quantity(first, "kl_mean") == "not measured"


def test_a_table_keeps_the_rows_and_measures_asked_for(shown: list[dict[str, Any]]) -> None:
    notebook.show_table(OUTCOME, "ttft_s", "kl_mean", rows={"factor": "threads"}, notes=("tensor_mix", "absent"))
    html = shown[0]["text/html"]
    assert html.count("<tr") == 3
    assert "250 (200–300)" in html
    assert "Tensor mix" in html
    assert "KL" not in html
    with pytest.raises(LabError, match="colour"):
        notebook.show_table(OUTCOME, "ttft_s", rows={"colour": "red"})


def test_a_comparison_claims_a_difference_only_where_a_test_shows_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    client = tracking.writer()
    parent = tracking.start_parent(client, "performance", "three trials")
    for name, gap_s, count in (("slow", 0.02, 9), ("fast", 0.01, 9), ("again", 0.02, 9), ("once", 0.01, 1)):
        runs = tuple(_generation(gap_s + 1e-5 * i) for i in range(count))
        tracking.write_trial(client, "performance", parent, Trial(
            name=name, settings={}, generations=runs, measures={"tpot_s": gap_s, "load_s": gap_s}))
    trials = history.frame(parents=[parent])
    outcome = dataclasses.replace(OUTCOME, trials=trials)
    slow, fast, again, once = (trials[trials["name"] == n].iloc[0] for n in ("slow", "fast", "again", "once"))
    assert "times; better, p = " in notebook.compared(outcome, slow, fast, "tpot_s")
    assert "times; worse, p = " in notebook.compared(outcome, fast, slow, "tpot_s")
    assert "(1.00 times; no difference shown)" in notebook.compared(outcome, slow, again, "tpot_s")
    assert "too few to tell" in notebook.compared(outcome, slow, once, "tpot_s")
    assert "not tested" in notebook.compared(outcome, slow, fast, "load_s")
    assert "p = " not in notebook.compared(outcome, slow, fast, "load_s")


def _generation(gap_s: float) -> Generation:
    return Generation(request=Request(prompt="x"), tokens=(1, 2, 3), tokens_at_s=(1.0, 1.0 + gap_s, 1.0 + 2 * gap_s),
                      sent_s=0.0, ended_s=2.0)


def test_a_verdict_shows_its_reasons_and_its_cautions(shown: list[dict[str, Any]]) -> None:
    notebook.show_verdict(Verdict(decision="Ship A.", why=("It is fast.",), caveats=("One run.",)), title="Laptop")
    assert shown[0]["text/markdown"] == "**Laptop.** Ship A.\n\n- It is fast.\n- Caution: One run."
    notebook.show_verdict(Verdict(decision="Ship A.", caveats=("One run.",)), cautions=False)
    assert "One run" not in shown[1]["text/markdown"]
    notebook.show_verdict(None)
    assert "interrupted" in shown[2]["text/markdown"]


def test_a_figure_is_plain_json_on_white_and_keeps_its_data(shown: list[dict[str, Any]]) -> None:
    chart = Chart(title="A & B", kind="bar", x="params.threads", y="metrics.bandwidth_share")
    figure = plots.draw(chart, TRIALS)
    notebook.show(figure)
    node = nbformat.v4.new_output("display_data", data=shown[0])  # type: ignore[no-untyped-call]
    assert shown[0]["text/plain"] == "A & B"
    assert node.data[notebook.PLOTLY]["layout"]["paper_bgcolor"] == "white"
    assert list(node.data[notebook.PLOTLY]["data"][0]["y"]) == list(figure.data[0].y)
    assert figure.layout.paper_bgcolor is None, "the figure itself was changed"


def test_a_notebook_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="There is no notebook"):
        notebook.main(["execute", str(tmp_path / "none.ipynb")])


def test_the_contents_name_every_notebook_with_its_question_in_order() -> None:
    rows = notebook.contents()
    assert [row["notebook"] for row in rows] == sorted(path.stem for path in notebook.NOTEBOOKS.glob("*.ipynb"))
    assert all(row["question"].endswith("?") and not row["question"].startswith("#") for row in rows)

"""Whoever opens only the MLflow UI finds the way: what is asked, what came out, how to repeat it, where to look next."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lab import experiments, running, wording
from lab.experiments.performance import Performance
from lab.ops import described, history, store, tracking
from lab.records import Trial, Verdict

TINY = Performance(engine="scripted", models=("markov",), prompt_tokens=(8, 4), output_tokens=(3,), threads=(1,), depth_tokens=(0,),
                   repeats=2, warmup=0)
NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


@pytest.fixture(scope="module")
def done(module_store: Path) -> Any:
    with store.elsewhere(module_store):
        yield running.run(TINY)


def test_the_experiments_note_asks_the_question_and_names_command_and_notebook(done: Any) -> None:
    note = store.client().get_experiment_by_name("performance").tags[described.NOTE]
    assert note.startswith(experiments.question_of(Performance)) and "`lab run performance`" in note
    assert "notebooks/01_inference_performance.ipynb" in note


def test_the_first_experiment_tells_the_way_to_all_others(done: Any) -> None:
    note = store.client().get_experiment_by_name(described.FIRST).tags[described.NOTE]
    assert all(f"`{name}`" in note for name in (*experiments.names(), "requests", "ratings"))


def test_a_runs_note_has_verdict_table_links_and_a_command_that_makes_the_same_run(done: Any) -> None:
    run = history.frame("experiment").iloc[0]
    note = run["tags.mlflow.note.content"]
    assert done.verdict.decision.split(" at ")[0] in note.replace("\\", "")
    assert f"runs/{done.run_id}/artifacts/figures.html" in note and "| Trial |" in note
    words = re.search(r"```sh\nlab run performance (.*)\n```", note)
    assert words is not None
    given = iter(words[1].split())
    values = {flag.removeprefix("--").replace("-", "_"): next(given) for flag in given}
    assert experiments.make(Performance, values) == TINY
    assert {one.path for one in store.client().list_artifacts(done.run_id)} >= {"figures.html", "verdict.json"}


def test_a_runs_name_says_what_it_measured_and_a_page_leaves_the_settings_out(done: Any) -> None:
    run = history.frame("experiment").iloc[0]
    assert run["name"].startswith("performance scripted (prompt_tokens=8,4")
    assert re.fullmatch(r"scripted \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", wording.label(run))


def test_a_trials_note_leads_to_its_run_and_says_what_speaks_against_it(done: Any) -> None:
    trial = done.trials.iloc[0]
    assert f"/runs/{done.run_id})" in trial["tags.mlflow.note.content"]
    flagged = described.trial(Trial(name="a", settings={}, flags=("machine busy",), notes={"caveat": "small"}), place="#/x")
    assert "*Caution:* machine busy" in flagged and "Caveat: small" in flagged


def test_a_run_that_was_broken_off_says_so_in_its_note(fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Performance) -> Any:
        yield Trial(name="one", settings={"kind": "x"}, measures={"ttft_s": 0.1})
        raise KeyboardInterrupt

    monkeypatch.setattr(Performance, "run", stop)
    tracking.record(TINY)
    note = history.frame("experiment").iloc[0]["tags.mlflow.note.content"]
    assert "No verdict" in note and "interrupted" in note and "one" in note


def test_a_description_that_a_person_changed_stays_and_an_old_one_of_ours_is_renewed(fresh_store: Path) -> None:
    client = tracking.writer()
    number = tracking.experiment_id(client, "performance")
    client.set_experiment_tag(number, described.NOTE, "My own words.")
    tracking.experiment_id(client, "performance")
    assert client.get_experiment(number).tags[described.NOTE] == "My own words."
    client.set_experiment_tag(number, described.WRITTEN, described._digest("My own words."))
    tracking.experiment_id(client, "performance")
    assert client.get_experiment(number).tags[described.NOTE] == described.about("performance")[described.NOTE]


def test_a_description_fits_into_a_tag_however_many_trials_there_are() -> None:
    rows = pd.DataFrame({"name": [f"trial {i} " + "x" * 150 for i in range(400)], "metrics.ttft_s": 0.1, "run_id": "r"})
    verdict = Verdict(decision="Take it | or *leave* it.", why=tuple("because " * 20 for _ in range(4)))
    text = described.ended(TINY, verdict, rows, place="#/e")
    assert len(text) <= described.MOST and text.endswith("```") and "Take it \\| or \\*leave\\* it." in text


@pytest.mark.parametrize("name", [n for n in experiments.names() if n not in ("serving",)])
def test_the_notebook_that_is_named_runs_the_experiment(name: str) -> None:
    cells = json.loads((NOTEBOOKS / f"{described.NOTEBOOKS[name]}.ipynb").read_text())["cells"]
    assert f"lab.experiments.{name} import" in "".join("".join(cell["source"]) for cell in cells)

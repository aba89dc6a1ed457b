"""The page Judge: every judge beside the constant guess, what is no better said so, and no text that must not be shown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sample_store
from streamlit.testing.v1 import AppTest

from lab import data
from lab.experiments import shown
from lab.experiments.judging import Judging
from lab.ops import history, tracking

APP = Path(__file__).parent.parent / "app.py"
SENTENCE = "This judge is no better than a constant guess."


def record(experiment: Judging) -> str:
    """Run `experiment` into the store in force, as `lab run` does, without its machine."""
    client = tracking.writer()
    run = tracking.start_parent(client, "judging", "judging scripted 2026-11-24 09:00:00", **sample_store.MACHINE)
    for field in dataclasses.fields(experiment):
        client.log_param(run, field.name, shown(getattr(experiment, field.name)))
    for trial in experiment.run():
        tracking.write_trial(client, "judging", run, trial)
    verdict = experiment.verdict(history.frame("trial", parents=[run]))
    client.set_tag(run, "lab.verdict", json.dumps(dataclasses.asdict(verdict)))
    tracking.finish(client, run)
    return run


@pytest.fixture(scope="module")
def recorded(module_store: Path) -> Iterator[Path]:
    with sample_store.at(module_store) as home:
        record(Judging(judges=("scripted:perfect", "scripted:first", "scripted:longer"), sets=("verdicts",)))
        yield home


def page() -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=60).run()
    app.switch_page("lab/pages/judge.py").run()
    assert not app.exception, app.exception
    return app


def text(app: AppTest) -> str:
    parts = [*app.title, *app.subheader, *app.markdown, *app.caption, *app.warning, *app.info, *app.error, *app.code]
    return "\n".join(str(part.value) for part in parts).replace("\\", "")


def test_an_empty_store_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "mlruns").mkdir()
    with sample_store.at(tmp_path):
        app = page()
        assert [code.value for code in app.code] == ["lab run judging"]


def test_every_judge_stands_beside_the_constant_guess_with_its_interval(recorded: Path) -> None:
    app = page()
    table = app.dataframe[0].value
    assert list(table["Judge"]) == ["scripted:constant", "scripted:perfect", "scripted:first", "scripted:longer"]
    assert {"Agrees with people (%)", "A constant guess agrees (%)", "Verdict changes with the order (%)"} <= set(table)
    assert all(" to " in cell for cell in table["Agrees with people (%)"])


def test_a_judge_that_is_no_better_than_a_constant_guess_is_called_that(recorded: Path) -> None:
    said = text(page())
    assert SENTENCE in said
    assert said.index("scripted:constant") < said.index(SENTENCE) < said.index("**scripted:perfect**")
    assert "is to be trusted" in said and "lab data fetch" in said


def test_the_table_of_people_against_the_judge_counts_every_answer_and_shows_where_they_part(recorded: Path) -> None:
    app = page()
    app.selectbox[0].select("scripted:longer").run()
    counts = app.dataframe[1].value
    total = counts.drop(columns="People").to_numpy().sum()
    assert total == len(data.labelled("verdicts"))
    assert 0 < len(app.expander) <= 10
    app.selectbox[0].select("scripted:perfect").run()
    assert not app.expander and "part on no answer" in text(app)


def test_texts_of_a_harmful_set_are_never_shown(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = data.catalogue()
    harmful = {**known, "verdicts": dataclasses.replace(known["verdicts"], harmful=True)}
    monkeypatch.setattr(data, "catalogue", lambda: harmful)
    app = page()
    app.selectbox[0].select("scripted:longer").run()
    assert not app.expander and "are not shown" in text(app)
    assert not [one for one in data.labelled("verdicts") if len(one.answer) > 12 and one.answer in text(app)]

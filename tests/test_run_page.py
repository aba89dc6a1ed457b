"""The page Run: a form made from the config, one run at a time in a process of its own, followed and stopped."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import sample_store
from conftest import copied
from streamlit.testing.v1 import AppTest

from lab import experiments
from lab.errors import LabError
from lab.ops import started
from lab.ops.started import Started

APP = Path(__file__).parent.parent / "app.py"
SHORT = {"engine": "scripted", "repeats": "3"}


@pytest.fixture
def home(migrated: Path, tmp_path: Path) -> Iterator[Path]:
    with sample_store.at(copied(migrated, tmp_path / "home")) as folder:
        yield folder
        for one in started.recent():
            started.stop(one)


def page(**address: str) -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=60).run()
    for name, value in address.items():
        app.query_params[name] = value
    app.switch_page("lab/pages/run.py").run()
    assert not app.exception, app.exception
    return app


def text(app: AppTest) -> str:
    parts = [*app.title, *app.markdown, *app.caption, *app.warning, *app.info, *app.error, *app.code]
    return "\n".join(str(part.value) for part in parts).replace("\\", "")


def ended(one: Started, within_s: float = 60) -> None:
    until = time.monotonic() + within_s
    while one.alive:
        assert time.monotonic() < until, one.output()
        time.sleep(0.1)


@pytest.mark.parametrize("name", experiments.names())
def test_every_experiment_has_a_form_with_all_its_fields_and_its_defaults_are_the_command_alone(home: Path, name: str) -> None:
    app = page(experiment=name)
    labels = {one.label for kind in (app.text_input, app.number_input, app.checkbox, app.selectbox) for one in kind}
    assert {f.name.replace("_", " ").capitalize() for f in dataclasses.fields(experiments.find(name))} <= labels
    assert app.code[0].value == f"lab run {name}"
    assert not app.error


def test_what_is_changed_is_in_the_command_and_what_is_wrong_is_one_sentence(home: Path) -> None:
    app = page(experiment="performance")
    field = next(one for one in app.number_input if one.label == "Repeats")
    field.set_value(7).run()
    assert app.code[0].value == "lab run performance --repeats 7"
    field = next(one for one in app.number_input if one.label == "Repeats")
    field.set_value(-1).run()
    assert len(app.error) == 1 and not app.exception
    assert not [one for one in app.button if one.key == "run.start"]


def test_the_form_starts_from_the_address_and_the_address_follows_the_form(home: Path) -> None:
    app = page(experiment="performance", engine="scripted", repeats="3", wheels="4", prompt_tokens="none-such")
    assert app.code[0].value == "lab run performance --engine scripted --repeats 3"
    assert "no field 'wheels'" in text(app) and "--prompt-tokens takes a whole number" in text(app)
    next(one for one in app.number_input if one.label == "Repeats").set_value(7).run()
    assert app.code[0].value == "lab run performance --engine scripted --repeats 7"
    given = {name: app.query_params[name] for name in app.query_params}
    assert {name: one if isinstance(one, str) else one[0] for name, one in given.items()} == {
        "experiment": "performance", "engine": "scripted", "repeats": "7"}
    app.query_params["repeats"] = "2"
    assert app.run().code[0].value == "lab run performance --engine scripted --repeats 2"
    app.selectbox[0].select("quality").run()
    assert app.code[0].value == "lab run quality"
    assert "names the experiment nonsense" in text(page(experiment="nonsense"))


def test_a_run_is_started_followed_and_found_in_the_store(home: Path) -> None:
    one = started.start("performance", SHORT)
    ended(one)
    run = one.run()
    assert run is not None and run["state"] == "finished", one.output()
    assert "Performance" in text(page()) and "finished" in text(page())


@pytest.mark.slow
def test_a_second_run_is_refused_while_one_works_and_a_stopped_one_keeps_what_it_measured(home: Path) -> None:
    one = started.start("performance", {**SHORT, "repeats": "400"})
    with pytest.raises(LabError, match="still working"):
        started.start("performance", SHORT)
    until = time.monotonic() + 60
    while one.run() is None and time.monotonic() < until:
        time.sleep(0.2)
    assert "is measuring" in text(page())
    started.stop(one)
    ended(one)
    run = one.run()
    assert run is not None and run["state"] in ("interrupted", "finished")
    ended(started.start("performance", SHORT))


def test_what_cannot_run_is_refused_before_a_process_is_started(home: Path) -> None:
    for values, said in (({"models": "no-such-model"}, "no model"), ({"repeats": "x"}, "whole number"), ({"nofield": "1"}, "no field")):
        with pytest.raises(LabError, match=said):
            started.start("performance", values)
    assert started.recent() == []


def test_a_process_number_that_another_process_has_now_is_not_taken_for_the_run(home: Path) -> None:
    one = Started(id="x", experiment="performance", command=("lab",), trials=1, pid=os.getpid(), born_s=1.0, at_s=1.0)
    assert not one.alive
    assert dataclasses.replace(one, born_s=psutil.Process().create_time()).alive


def test_a_broken_record_is_passed_over(home: Path) -> None:
    started.folder().mkdir(parents=True, exist_ok=True)
    (started.folder() / "20260101-000000-x.json").write_text("{broken")
    assert started.recent() == []
    page()

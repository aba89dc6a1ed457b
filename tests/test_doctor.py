"""`lab doctor`: what is sound is said to be, what is broken is found with a remedy, and no check ends the others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab import __main__ as command
from lab import data, doctor, models
from lab.doctor import Finding


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    return tmp_path


def by(about: str) -> list[Finding]:
    return [one for one in doctor.findings(bandwidth=False) if one.about.startswith(about)]


def test_a_sound_installation_has_no_problem_and_the_command_ends_well(tmp_path: Path) -> None:
    done = CliRunner().invoke(command.app, ["doctor", "--no-bandwidth", "--json", str(tmp_path / "d.json")])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["problems"] == 0 and "Nothing is broken." in done.output
    assert {"python", "threads", "compiler", "llama.cpp", "store", "disk", "vllm"} <= {one["about"] for one in found["findings"]}


def test_whatever_is_no_good_comes_with_a_remedy() -> None:
    for one in doctor.findings(bandwidth=False):
        assert one.state == "good" or one.remedy or one.about == "embeddings", one


def test_a_model_with_other_bytes_is_a_problem_and_the_rest_is_still_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / models.CATALOGUE["gemma-3-270m"].file
    wrong.write_bytes(b"GGUF" + b"\0" * 100)
    monkeypatch.setenv("LAB_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "cache"))
    found = list(doctor.findings(bandwidth=False))
    assert [one for one in found if one.about == "models" and one.state == "problem" and "gemma" in one.said]
    assert [one for one in found if one.about == "disk"]
    done = CliRunner().invoke(command.app, ["doctor", "--no-bandwidth"])
    assert done.exit_code == 1 and "1 problem" in done.output


def test_a_store_that_is_no_database_is_a_problem(own_store: Path) -> None:
    (own_store / "mlruns").mkdir()
    (own_store / "mlruns" / "mlflow.db").write_bytes(b"no database at all" * 100)
    assert [one.state for one in by("store")] == ["problem"]


def test_a_container_with_fewer_cores_than_threads_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_cpu_limit", lambda: 0.5)
    assert [one.remedy for one in by("threads") if one.state == "problem"][0].startswith("give --threads 1")


def test_a_changed_set_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = dataclasses.replace(data.catalogue()["everyday"], sha256="0" * 64)
    monkeypatch.setattr(data, "catalogue", lambda: {"everyday": changed})
    assert [one.remedy for one in by("question sets")] == ["run `lab data fetch everyday`"]

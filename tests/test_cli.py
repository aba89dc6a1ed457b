"""The `lab` command as its users meet it: flags, exit codes, one sentence for every mistake, and the same numbers everywhere."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lab import __main__ as command
from lab import __version__, engines, experiments, models
from lab.errors import LabError
from lab.names import describe

ROOT = Path(__file__).parent.parent
SHORT = ("--engine", "scripted", "--models", "markov", "--prompt-tokens", "8,4", "--output-tokens", "3", "--threads", "1",
         "--depth-tokens", "0", "--repeats", "2")


@pytest.fixture(scope="module")
def app() -> Any:
    command.register()
    return command.app


@pytest.fixture
def lab(app: Any, fresh_store: Path) -> Any:
    """Run the command in this process on a store of its own: the result has `exit_code`, `stdout` and `exception`."""
    return lambda *arguments: CliRunner().invoke(app, list(arguments), terminal_width=200)


def process(*arguments: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "lab", *arguments], cwd=ROOT, text=True, capture_output=True, timeout=120,
                          env={**os.environ, "LAB_HOME": str(home), "COLUMNS": "200", **env})


def test_the_list_names_every_experiment_with_its_question_and_every_engine(lab: Any) -> None:
    out = " ".join(lab("list").stdout.split())
    for name in experiments.names():
        assert name in out and experiments.question_of(experiments.find(name)) in out
    assert all(name in out for name in engines.names()) and "mlflow.db" in out


def test_the_models_are_listed_with_licence_and_source(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_MODELS_DIR", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "broken.gguf").write_bytes(b"GGUF")
    done = lab("models")
    assert done.exit_code == 0
    assert all(entry.name in done.stdout for entry in models.CATALOGUE.values()) and "Apache" in done.stdout
    assert "broken" in done.stdout, "one broken file hides no other"


def test_the_machine_is_described(lab: Any) -> None:
    done = lab("machine")
    assert done.exit_code == 0 and all(word in done.stdout for word in ("Cores", "Memory", "GB/s", "Python"))


def test_the_version_is_printed(lab: Any) -> None:
    assert lab("--version").stdout.strip() == __version__


@pytest.mark.parametrize("name", experiments.names())
def test_the_flags_of_an_experiment_are_the_fields_of_its_config(lab: Any, name: str) -> None:
    cls = experiments.find(name)
    out = " ".join(lab("run", name, "--help").stdout.replace("│", " ").split())
    assert experiments.question_of(cls) in out and "--json" in out
    for field in dataclasses.fields(cls):
        assert f"--{field.name.replace('_', '-')}" in out
        assert field.metadata["help"].split()[0] in out


def test_json_screen_and_store_give_the_same_numbers(lab: Any, tmp_path: Path) -> None:
    from lab.ops import history

    done = lab("run", "performance", *SHORT, "--json", str(tmp_path / "out.json"))
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "out.json").read_text())
    assert (summary["experiment"], summary["state"]) == ("performance", "finished")
    assert summary["verdict"]["decision"] in done.stdout and summary["run_id"] in done.stdout
    stored = history.frame(parents=[summary["run_id"]]).set_index("run_id")
    assert len(summary["trials"]) == len(stored) == 2
    for trial in summary["trials"]:
        row = stored.loc[trial["run_id"]]
        measured = {c.removeprefix("metrics."): v for c, v in row.items() if str(c).startswith("metrics.") and not np.isnan(v)}
        assert trial["measures"] == measured and trial["name"] == row["name"]
        assert trial["settings"]["prompt_tokens"] == row["params.prompt_tokens"]
        for measure in ("ttft_s", "decode_tokens_per_s", "e2e_s"):
            assert describe(measure).show(measured[measure]) in done.stdout


def test_the_demo_runs_without_a_model_and_says_what_to_do_next(lab: Any, tmp_path: Path) -> None:
    done = lab("demo", "--engine", "scripted", "--json", str(tmp_path / "demo.json"))
    assert done.exit_code == 0, done.output
    runs = json.loads((tmp_path / "demo.json").read_text())["runs"]
    assert [run["state"] for run in runs] == ["finished"] and all(run["verdict"] for run in runs)
    assert "lab dashboard" in done.stdout and "lab history" in done.stdout


def refusal(result: Any) -> str:
    """The one sentence of a `LabError`, which `main` prints and exits with 2."""
    assert isinstance(result.exception, LabError), (result.exception, result.output)
    said = str(result.exception)
    assert said.endswith(".") and "\n" not in said
    return said


@pytest.mark.parametrize(("arguments", "said"), [
    (("--threads", "x"), "--threads takes a whole number"), (("--repeats", "0"), "--repeats must be at least 1"),
    (("--threads", ""), "--threads needs at least one value"), (("--engine", "steam"), "no engine 'steam'"),
    (("--engine", "llama_cpp", "--models", "missing"), "no model 'missing'"),
    (("--engine", "llama_cpp", "--models", "/no/such/file.gguf"), "no model file"),
    (("--engine", "llama_cpp", "--models", "smollm2-135m", "--prompt-tokens", "999999"), "trained for 8,192 tokens"),
    (("--prompt-tokens", "999999"), "of 999999 tokens"),
])
def test_a_mistake_is_one_sentence(lab: Any, arguments: tuple[str, ...], said: str) -> None:
    assert said in refusal(lab("run", "performance", *SHORT, *arguments))


def test_a_broken_model_file_is_refused_before_anything_is_recorded(lab: Any, tmp_path: Path) -> None:
    from lab.ops import history

    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\3\0\0\0" + b"\xff" * 100)
    assert "broken GGUF file" in refusal(lab("run", "performance", *SHORT, "--engine", "llama_cpp", "--models", str(tmp_path / "broken.gguf")))
    assert history.frame("experiment").empty


def test_a_summary_that_cannot_be_written_is_refused_before_anything_is_measured(lab: Any, tmp_path: Path) -> None:
    from lab.ops import history

    for target in (tmp_path / "no" / "folder.json", tmp_path):
        assert "give --json a file" in refusal(lab("run", "performance", *SHORT, "--json", str(target)))
    assert history.frame("experiment").empty


def test_a_port_in_use_and_an_unknown_demo_engine_are_one_sentence(lab: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "choose another with --port" in refusal(lab("history", "--port", str(taken.getsockname()[1])))
    assert "runs on 'llama_cpp' or 'scripted'" in refusal(lab("demo", "--engine", "nope"))


def test_an_interruption_reaches_a_job_that_a_shell_started_in_the_background(fresh_store: Path) -> None:
    # Such a job begins with SIGINT ignored, and Python leaves it so.
    code = "import time, lab.__main__ as m\nm.register = lambda asked: (print('up', flush=True), time.sleep(30))\nm.main()"
    for number in (signal.SIGINT, signal.SIGTERM):
        job = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
        assert job.stdout is not None
        assert job.stdout.readline() == "up\n"
        job.send_signal(number)
        assert "interrupted" in job.communicate(timeout=20)[1]
        assert job.returncode == 130


def test_an_interrupted_run_shows_what_was_measured_and_exits_130(lab: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lab.experiments.performance import Performance

    whole = Performance.run

    def first_only(self: Performance) -> Any:
        yield next(whole(self))
        raise KeyboardInterrupt

    def none_at_all(self: Performance) -> Any:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(Performance, "run", first_only)
    done = lab("run", "performance", *SHORT, "--json", str(tmp_path / "out.json"))
    assert done.exit_code == 130 and "4 prompt tokens" in done.stdout and "Interrupted" in done.stdout
    summary = json.loads((tmp_path / "out.json").read_text())
    assert (summary["state"], len(summary["trials"]), summary["verdict"]) == ("interrupted", 1, None)
    monkeypatch.setattr(Performance, "run", none_at_all)
    done = lab("run", "performance", *SHORT)
    assert done.exit_code == 130, done.exception
    assert "Interrupted" in done.stdout
    assert lab("demo", "--engine", "scripted").exit_code == 130


def test_mistakes_end_the_process_with_2_and_one_line(fresh_store: Path) -> None:
    done = process("run", "performance", *SHORT, "--threads", "x", home=fresh_store)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip() == "lab: --threads takes a whole number, not 'x'."


def test_a_cache_that_cannot_be_written_is_one_line(fresh_store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = process("run", "quantization", "--rungs", "F16,Q8_0", "--threads", "1", home=fresh_store, LAB_CACHE_DIR=str(tmp_path / "file"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("lab: ")][0].endswith(".")


@pytest.mark.parametrize(("arguments", "said"), [(("run", "nothing"), "nothing"), (("run", "performance", "--wheels", "4"), "--wheels"), (("fly",), "fly")])
def test_an_unknown_command_or_flag_is_named_and_fails(lab: Any, arguments: tuple[str, ...], said: str) -> None:
    done = lab(*arguments)
    assert done.exit_code == 2 and said in done.output and "Traceback" not in done.output


def test_ctrl_c_outside_a_run_exits_130_too(fresh_store: Path) -> None:
    started = subprocess.Popen([sys.executable, "-c", "import time, lab.__main__ as m\n"
                                "m.app.command('wait')(lambda: (print('ready', flush=True), time.sleep(60)))\n"
                                "import sys; sys.argv = ['lab', 'wait']; m.main()"],
                               cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert started.stdout is not None and started.stdout.readline() == "ready\n"
        time.sleep(0.1)
        started.send_signal(signal.SIGINT)
        _, errors = started.communicate(timeout=30)
    finally:
        started.kill()
    assert started.returncode == 130, errors
    assert "Traceback" not in errors

"""What a stranger, a file or an address may not do: reach a server, read a secret, lead out of a folder, run as code."""

from __future__ import annotations

import ast
import hmac
import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import kept_in
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from lab import __main__ as command
from lab import addresses, data, door, experiments, models, running
from lab.engines.http.child import Child
from lab.engines.http.served import ServeSettings
from lab.errors import LabError
from lab.experiments.judging import Judging
from lab.experiments.performance import Performance
from lab.experiments.quality import Quality
from lab.experiments.rollout import Rollout
from lab.ops import history, ratings, store, tracking
from lab.ops.gateway import GatewaySettings
from lab.ops.tools import Sandbox
from lab.ops.versions import prompts
from lab.safety import policy

ROOT = Path(__file__).parent.parent
ELSEWHERE = ("0.0.0.0", "::", "192.168.1.1", "example.org", "")
HOSTILE = ("../../etc/passwd", "/etc/passwd", "..", "a/../../b", "' or '1'='1", "\x00", "..\\..\\boot.ini")
KEY = "a-key-of-thirty-two-characters-0"
SECRETS = {"LAB_DASHBOARD_KEY": KEY, "ANTHROPIC_API_KEY": "sk-ant-never-to-be-seen", "HF_TOKEN": "hf_never_to_be_seen",
           "SERVED_KEY": "sk-served-never-to-be-seen", "OPENAI_API_KEY": "sk-open-never-to-be-seen"}
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


# Who can reach a server


def test_only_this_machine_is_loopback() -> None:
    assert all(addresses.loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"))
    assert not any(addresses.loopback(host) for host in ELSEWHERE)


def test_every_server_listens_on_this_machine_unless_told_otherwise() -> None:
    import inspect

    for serving in (command.dashboard, command.serve, command.gateway):
        assert inspect.signature(serving).parameters["host"].default == "127.0.0.1"
    assert "host" not in inspect.signature(command.history).parameters and GatewaySettings().host == "127.0.0.1"


@pytest.mark.parametrize("host", filter(None, ELSEWHERE))
@pytest.mark.parametrize("words", [["dashboard"], ["serve", "markov", "--engine", "scripted"], ["gateway"]], ids=lambda w: w[0])
def test_no_server_opens_to_other_machines_without_a_key(words: list[str], host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(door.KEY, raising=False)
    done = CliRunner().invoke(command.app, [*words, "--host", host, "--port", "1"])
    assert isinstance(done.exception, LabError) and "Without" in str(done.exception) and "key" in str(done.exception)


@pytest.mark.parametrize("key", ["", KEY])
@pytest.mark.parametrize("words", [["dashboard"], ["serve", "markov", "--engine", "scripted"], ["gateway"]], ids=lambda w: w[0])
def test_no_server_listens_on_an_empty_address(words: list[str], key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(door.KEY, key)
    done = CliRunner().invoke(command.app, [*words, "--host", "", "--port", "1"])
    assert isinstance(done.exception, LabError) and "The address to listen on is empty" in str(done.exception)


def test_a_key_that_can_be_guessed_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(door.KEY, "admin")
    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(LabError, match="can be guessed"):
            door.refuse(host)
    monkeypatch.setenv(door.KEY, KEY)
    door.refuse("0.0.0.0")


def test_keys_are_compared_in_constant_time_and_a_wrong_one_costs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bool] = []
    real = hmac.compare_digest
    monkeypatch.setattr(door.hmac, "compare_digest", lambda a, b: compared.append(len(a) == len(b)) or real(a, b))
    monkeypatch.setattr(door, "PAUSE_S", 0.2)
    monkeypatch.setenv(door.KEY, KEY)
    began = time.monotonic()
    assert not any(door.opens(wrong) for wrong in ("", KEY[:-1], KEY + "x", "é"))
    assert time.monotonic() - began >= 0.8
    assert door.opens(KEY) and compared == [True] * 5
    monkeypatch.delenv(door.KEY)
    assert not door.opens("")


def test_the_dashboard_shows_nothing_before_it_has_the_key(fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(door.KEY, KEY)
    monkeypatch.setattr(door, "PAUSE_S", 0.0)
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30).run()
    for given in (None, "wrong", KEY[:-1]):
        if given is not None:
            page.text_input[0].input(given)
            page.button[0].click().run()
        assert not page.exception and [one.value for one in page.title] == ["LLM lab workbench"]
        assert not page.markdown and not page.dataframe and len(page.text_input) == 1
    assert [one.value for one in page.error] == ["This is not the key."]
    page.text_input[0].input(KEY)
    page.button[0].click().run()
    assert not page.exception and [one.value for one in page.title] != ["LLM lab workbench"]
    assert KEY not in json.dumps(dict(page.query_params), default=str)


# What runs as code


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell() -> None:
    found = []
    for file in [*(ROOT / "lab").rglob("*.py"), ROOT / "app.py"]:
        place = file.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            found += [(place, name) for name in names if name.split(".")[0] in UNSAFE]
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                unsafe = (called in ("eval", "exec", "os.system", "os.popen", "torch.load", "pd.read_pickle", "yaml.unsafe_load")
                          or given.get("shell") == "True" or given.get("allow_pickle") == "True"
                          or given.get("trust_remote_code") == "True"
                          or (called == "yaml.load" and "SafeLoader" not in ast.unparse(node))
                          or (called.endswith("extractall") and given.get("filter") != "'data'"))
                found += [(place, called)] if unsafe else []
    # The plan of a load goes from parent to child through a pipe that nobody else holds.
    assert found == [("lab/load/plan.py", "pickle")]


def test_arrays_that_would_run_code_are_refused(tmp_path: Path) -> None:
    import numpy as np

    from lab.retrieval import index

    assert "allow_pickle=False" in Path(index.__file__ or "").read_text()
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(tmp_path / "x.npy", allow_pickle=False)


# What leads out of a folder


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leads_out_of_its_folder(name: str, fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_EXPERIMENTS_DIR", str(fresh_store))
    outside = fresh_store.parent / "b"
    outside.write_text("x = 1")
    before = sorted(path for path in fresh_store.parent.rglob("*"))
    for asked in (lambda: experiments.find(name), lambda: data.fetch(name), lambda: ratings.load(name),
                  lambda: Sandbox(fresh_store / "chat").delete({"name": name}), lambda: prompts.prompt(name + "@1")):
        with pytest.raises(LabError) as refused:
            asked()
        assert "root:" not in str(refused.value)
    assert history.generations(name) == [] and history.scores(name) == []
    assert history.frame(parents=[name]).empty
    after = [path for path in fresh_store.parent.rglob("*") if "chat" not in path.parts and "mlruns" not in path.parts]
    assert set(after) <= set(before)


def test_a_message_keeps_its_place_whatever_it_is_addressed_to(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "chat")
    sandbox.send({"to": "../../x", "subject": "/etc/passwd", "body": "b"})
    assert [file.parent for file in tmp_path.rglob("*.json")] == [sandbox.outbox]


def test_a_link_in_the_sandbox_is_not_followed(tmp_path: Path) -> None:
    sandbox, outside = Sandbox(tmp_path / "chat"), tmp_path / "kept.txt"
    outside.write_text("kept")
    (sandbox.files / "link.txt").symlink_to(outside)
    with pytest.raises(LabError, match="no file"):
        sandbox.delete({"name": "link.txt"})
    assert outside.read_text() == "kept"


def test_an_error_in_a_file_that_is_no_policy_or_model_does_not_show_it(tmp_path: Path) -> None:
    secret = tmp_path / "id_rsa"
    secret.write_text("-----BEGIN KEY-----\nnever-to-be-seen\n")
    for read in (policy.load, models.find):
        with pytest.raises(LabError) as refused:
            read(str(secret))
        assert "never-to-be-seen" not in str(refused.value)


# What is a secret


def test_a_key_in_the_environment_never_lands_in_the_store(fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    child = Child("markov", ServeSettings(engine="scripted", step_ms=0.0), key_env="SERVED_KEY")
    try:
        assert not any(SECRETS["SERVED_KEY"] in word for word in psutil.Process(child.pid).cmdline())
        done = running.run(Quality(models=(f"http://127.0.0.1:{child.port}/v1",), engine="server", key_env="SERVED_KEY",
                                   sets=("facts",), items=2, shots=0, words=0, output_tokens=4))
    finally:
        child.close()
    assert done.state == "finished" and len(history.generations(done.trials["run_id"].iloc[0])) > 0
    kept = kept_in(fresh_store)
    # Parquet is compressed: its rows are read, too.
    kept += repr([history.generations(run) for run in done.trials["run_id"]]).encode() + json.dumps(done.as_json(), default=str).encode()
    assert b"SERVED_KEY" in kept  # its name is a setting
    assert [name for name, value in SECRETS.items() if value.encode() in kept] == []


@pytest.mark.parametrize("url", ["http://user:never-to-be-seen@127.0.0.1:1/v1", "http://127.0.0.1:1/v1?key=never-to-be-seen"])
@pytest.mark.parametrize("make", [
    lambda url: Quality(models=("smollm2-135m", url), sets=("facts",)), lambda url: Rollout(candidate_engine=url),
    lambda url: Judging(judges=(f"jury:scripted:first+{url}" if "@" in url else url,)), lambda url: Performance(engine=url),
], ids=["models", "candidate", "jury", "engine"])
def test_a_secret_in_an_address_is_refused_before_anything_is_recorded(make: Any, url: str, fresh_store: Path) -> None:
    for record in (running.run, tracking.record):
        with pytest.raises(LabError) as refused:
            record(make(url))
        assert "never-to-be-seen" not in str(refused.value)
    assert b"never-to-be-seen" not in kept_in(fresh_store)


def test_the_password_of_a_store_is_on_no_screen_and_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:never-to-be-seen@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert store.shown() == "http://127.0.0.1:9"
    command.register()
    assert "never-to-be-seen" not in CliRunner().invoke(command.app, ["list"]).output
    with pytest.raises(LabError) as refused:
        history.frame()
    assert "never-to-be-seen" not in str(refused.value)

"""A sweep on a real Ray cluster of two workers, recorded by MLflow on PostgreSQL and an object store; both also fail on the way.

Needs the extra `scale`: pip install -e '.[test,scale]', then python -m pytest -m slow tests/test_sweep_on_ray.py
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import shared_server

from lab.errors import LabError
from lab.experiments.quality import Quality
from lab.metrics.judge import open_judge
from lab.ops import history, judged, store, tracking
from lab.sweep.on_ray import Cluster, OnRay
from lab.sweep.spread import Spread

NEEDED = ("ray", "psycopg", "boto3", "moto")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
if shared_server.postgres_programs() is None:
    MISSING.append("pgserver")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"the extra 'scale' brings {', '.join(MISSING)}, which is not here")]
ROOT = Path(__file__).parent.parent
SPEC = """experiment: performance
fixed: {engine: scripted, models: markov, threads: 1, depth_tokens: 0, output_tokens: 3, repeats: REPEATS, warmup: 0}
grid:
  prompt_tokens: [8, 64, 16, 32]
objective: ttft_s
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, dict[str, str]]]:
    with shared_server.mlflow_server(tmp_path_factory.mktemp("server")) as served:
        yield served


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs and two workers: raylets of our own, ended by their process ids."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, resources={"machine": 1})
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


@pytest.fixture
def shared(server: tuple[str, str, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[0])
    return server[0]


def command(file: Path, address: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "lab", "sweep", str(file), "--ray", address, *more]


def trials() -> Any:
    return history.frame("experiment")


def test_a_sweep_on_two_workers_is_recorded_on_postgresql_and_read_back(
        shared: str, server: tuple[str, str, dict[str, str]], cluster: Any, tmp_path: Path) -> None:
    file, out = tmp_path / "s.yaml", tmp_path / "out.json"
    file.write_text(SPEC.replace("REPEATS", "12"))
    done = subprocess.run(command(file, cluster.address, "--json", str(out)), cwd=ROOT, text=True, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr
    summary = json.loads(out.read_text())
    assert [t["state"] for t in summary["trials"]] == ["finished"] * 4 and summary["front"] == [1]
    assert all(other["shown_worse"] for other in summary["others"]) and "one machine" in " ".join(summary["cautions"])
    lines = done.stderr.splitlines()
    assert [line.startswith(("[1/4]", "[2/4]")) and ":" not in line for line in lines[:2]] == [True, True], "two began together"
    mine = trials().set_index("run_id").loc[[t["run_id"] for t in summary["trials"]]]
    assert mine["tags.lab.pid"].nunique() == 4, "each in a process of its own"
    begun, took = mine["started_at"].astype("int64") / 1e9, mine["seconds"]
    assert any(begun.iloc[i] < begun.iloc[j] < begun.iloc[i] + took.iloc[i] for i in range(4) for j in range(4)), "two at a time"
    import psycopg

    with psycopg.connect(server[1].replace("+psycopg", "")) as database:
        rows = database.execute("select count(*) from tags where key = 'lab.sweep' and value = %s", (summary["run_id"],)).fetchone()
    assert rows == (4,)
    trial = history.frame(parents=[summary["trials"][0]["run_id"]]).iloc[0]
    assert len(history.generations(trial["run_id"])) == 12, "raw readings come back from the object store"
    again = subprocess.run(command(file, cluster.address), cwd=ROOT, text=True, capture_output=True, timeout=100)
    assert "4 of 4 trials are done" in again.stderr and len(again.stderr.splitlines()) == 1


def test_a_killed_sweep_on_ray_goes_on_and_a_lost_machine_costs_one_attempt(shared: str, cluster: Any, tmp_path: Path) -> None:
    file, out = tmp_path / "s.yaml", tmp_path / "out.json"
    file.write_text(SPEC.replace("REPEATS", "600").replace("[8, 64, 16, 32]", "[8, 9, 10, 11, 12, 13]"))
    process = subprocess.Popen(command(file, cluster.address), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = set(trials()["run_id"]) if len(trials()) else set()
    pids = until(120, lambda: [int(p) for p in new(before, "running")["tags.lab.pid"]] if len(new(before, "finished")) else [])
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(20, lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    finished = set(new(before, "finished")["run_id"])
    lost = cluster.add_node(num_cpus=1, resources={"machine": 1})
    cluster.wait_for_nodes()
    rest = subprocess.Popen(command(file, cluster.address, "--json", str(out)), cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)
    until(120, lambda: len(new(before, "running")) == 3)
    cluster.remove_node(lost, allow_graceful=False)
    said, _ = rest.communicate(timeout=240)
    assert rest.returncode == 0, said
    summary = json.loads(out.read_text())
    assert summary["measured_before"] == len(finished) and finished <= {t["run_id"] for t in summary["trials"]}
    assert [t["state"] for t in summary["trials"]] == ["finished"] * 6
    assert sum(t["attempts"] == 2 for t in summary["trials"]) == 1 and "died: Ray lost it" in said, said


def test_a_store_of_one_machine_is_refused_for_others_and_a_cluster_without_gpus_for_gpus(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(LabError, match="no GPU"):
        OnRay(cluster.address, "gpu")
    monkeypatch.setattr("socket.gethostname", lambda: "another-machine")
    with pytest.raises(LabError, match="set MLFLOW_TRACKING_URI"):
        OnRay(cluster.address)
    assert store.database() is not None


def test_judges_on_several_machines_say_what_one_says(cluster: Any, fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    asked = Quality(engine="scripted", models=("markov",), sets=("everyday",), items=7, words=0)
    run_id = tracking.record(asked).run_id
    answers = judged.answers_of([run_id])
    settings: dict[str, Any] = {"axes": ("correctness",), "threads": 1, "keep": False}
    judge = open_judge("smollm2-135m", **settings)
    items = [answers[0].item(item) for item in answers[0].generations]
    halves = [judge.grade_many(items[at::2]) for at in range(2)]  # what is asked beside an item moves its probabilities a little
    judge.close()
    alone = [halves[i % 2][i // 2][0].value for i in range(7)]
    joined = Cluster(cluster.address)
    try:
        spread = Spread(joined, "smollm2-135m", **settings)
        assert spread.machines == 2
        assert [said[0].value for said in spread.grade_many(items)] == pytest.approx(alone, abs=1e-5)
        assert len(spread.spent.replies) == 7
        assert len(judged.judge_answers(spread, answers, together=64).scores) == 7
        spread.close()
        with pytest.raises(LabError, match="On a machine of the cluster: .*nothing-like-it"):
            Spread(joined, "nothing-like-it")
    finally:
        joined.close()


def test_ctrl_c_on_ray_marks_what_ran_and_the_sweep(shared: str, cluster: Any, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(SPEC.replace("REPEATS", "3000"))
    before = set(trials()["run_id"]) if len(trials()) else set()
    process = subprocess.Popen(command(file, cluster.address), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until(120, lambda: len(new(before, "running")) == 2)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 130, said
    runs = trials()
    assert sorted(runs[~runs["run_id"].isin(before)]["state"]) == ["interrupted"] * 2, said
    assert history.frame("sweep").iloc[0]["state"] == "interrupted"


def new(before: set[str], state: str) -> Any:
    runs = trials()
    return runs[~runs["run_id"].isin(before) & (runs["state"] == state)] if len(runs) else runs


def until(seconds: float, condition: Any) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)
    return found

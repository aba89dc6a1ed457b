"""The run record: what was measured comes back the same by every way of reading, and every bad end leaves it readable."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lab.errors import LabError
from lab.experiments import Experiment
from lab.experiments.performance import Performance
from lab.ops import history, store, tracking
from lab.records import Decoding, Estimate, Generation, Message, Request, Score, Trial, Usage, Verdict

TINY = {"engine": "scripted", "models": ("markov",), "prompt_tokens": (8, 4), "output_tokens": (3,), "threads": (1,), "depth_tokens": (0,),
        "repeats": 2, "warmup": 0}

GENERATIONS = (
    Generation(request=Request(id="a", messages=(Message(role="user", content="Grüße 🦙\n"), Message(role="assistant", content="")),
                               decoding=Decoding(stop=("\n\n", "€"), temperature=0.7, seed=2**40), tags={"tenant": "x"}),
               text="half \ufffd", tokens=(1, 2, 3), tokens_at_s=(0.1, 0.1, 1e9 + 0.1), scheduled_s=0.05, sent_s=0.06, ended_s=0.4,
               cpu_s=0.3, usage=Usage(prompt_tokens=5, cached_tokens=0, drafted_tokens=4, accepted_tokens=2)),
    Generation(request=Request(tokens=(7, 8)), sent_s=0.0, ended_s=math.inf, finish_reason="error", error="broke\noff"),
    Generation(request=Request(prompt=""), sent_s=-1.5, ended_s=0.0, finish_reason="cancelled"),
)
FIRST = """
import sys, time
from lab.ops import tracking
print("ready", flush=True)
sys.stdin.readline()
client = tracking.writer()
tracking.finish(client, tracking.start_parent(client, "performance", sys.argv[1]))
"""

SCORES = (Score(name="correct", item="q1", value=1.0, by="likelihood", why="Paris"),
          Score(name="correct", item="q2", value=-math.inf, by="judge", why=""))


def trial(name: str = "one", **measures: float | Estimate) -> Trial:
    return Trial(name=name, settings={"rung": name, "threads": 2, "share": 0.5, "flag": True, "nothing": None, "text": "a=b,c"},
                 generations=GENERATIONS, scores=SCORES, measures={"decode_tokens_per_s": Estimate(value=10.0, low=9.0), **measures},
                 flags=("machine busy: other processes", "second"), notes={"caveat": "made of Q4_1"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given(Experiment):
    """Does the record hold what it is given?"""

    ends: str = "well"

    def size(self) -> int:
        return 2

    def run(self) -> Iterator[Trial]:
        yield trial("one", gone=math.nan, never=math.inf, below=-math.inf, tiny=5e-324, large=1.5e300, whole=3)
        yield trial("two", kl_mean=0.1)
        if self.ends == "broken":
            raise RuntimeError("the engine fell over")
        if self.ends == "stopped":
            raise KeyboardInterrupt
        if self.ends == "killed":
            os.kill(os.getpid(), signal.SIGKILL)

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        return Verdict(decision=f"There are {len(trials)}.", chosen=str(trials["name"].iloc[-1]), why=("Because.",))


def wait(seconds: float, condition: Any) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"nothing happened within {seconds} s"
        time.sleep(0.1)


def lab(*arguments: str, home: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "lab", *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            cwd=Path(__file__).parent.parent, env={**os.environ, "LAB_HOME": str(home), **env})


@pytest.fixture
def run(fresh_store: Path) -> str:
    """A recorded run of `Given` in a store of its own."""
    return tracking.record(Given()).run_id


# Round trips


def test_a_finished_run_says_so_with_its_verdict_and_config(run: str) -> None:
    parent = history.frame("experiment").iloc[0]
    assert (parent["run_id"], parent["state"], parent["experiment"], parent["params.ends"]) == (run, "finished", "test_tracking", "well")
    note = parent["tags.mlflow.note.content"]
    assert '"There are 2."' in parent["tags.lab.verdict"] and note.startswith("Does the record hold what it is given?")
    assert "**There are 2.**" in note and "- Because." in note
    assert parent["seconds"] >= 0 and abs(parent["started_at"].timestamp() - time.time()) < 600


def test_measures_and_settings_come_back_as_they_were(run: str) -> None:
    two, one = (row for _, row in history.frame(parents=[run]).iterrows())
    assert (one["name"], two["name"]) == ("one", "two")
    assert math.isnan(one["metrics.gone"]) and math.isnan(two["metrics.never"]) and math.isnan(one["metrics.decode_tokens_per_s_high"])
    assert (one["metrics.never"], one["metrics.below"], one["metrics.large"]) == (math.inf, -math.inf, 1.5e300)
    assert (one["metrics.decode_tokens_per_s"], one["metrics.decode_tokens_per_s_low"], one["metrics.whole"]) == (10.0, 9.0, 3.0)
    assert (one["params.threads"], one["params.share"], one["params.flag"], one["params.nothing"], one["params.text"]) == (2, 0.5, "true", "none", "a=b,c")
    assert one["tags.lab.flags"].splitlines() == ["machine busy: other processes", "second"]
    assert one["tags.lab.note.caveat"] == "made of Q4_1"


def test_generations_and_scores_come_back_exactly(run: str) -> None:
    child = history.frame(parents=[run])["run_id"].iloc[0]
    assert tuple(history.generations(child)) == GENERATIONS
    assert tuple(history.scores(child)) == SCORES
    assert history.generations(run) == [] == history.scores(run)


def test_an_unscored_item_stays_unscored(fresh_store: Path, tmp_path: Path) -> None:
    from lab.ops import artifacts

    artifacts.write_scores(tmp_path / "s.parquet", [Score(name="judge", item="q", value=math.nan, by="judge", why="no answer")])
    back, = artifacts.read_scores(tmp_path / "s.parquet")
    assert not back.scored and back.why == "no answer"


def test_an_empty_store_and_no_store_give_an_empty_frame(fresh_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert history.frame().empty and list(history.frame().columns) == history.FIRST
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "nowhere"))
    assert history.frame("experiment").empty and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["plain", "two words", "50% #1", "Grüße", "what%20?"])
def test_a_store_may_lie_in_a_folder_of_any_name(name: str, migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from conftest import copied

    monkeypatch.setenv("LAB_HOME", str(copied(migrated, tmp_path / name)))
    run_id = tracking.record(Given()).run_id
    assert name == "what%20?" or [p.name for p in tmp_path.iterdir()] == [name]  # MLflow leaves an empty folder beside that
    found = history.frame(parents=[run_id])
    assert len(found) == 2 and len(history.generations(found["run_id"].iloc[0])) == len(GENERATIONS)


def test_the_fingerprint_changes_with_a_write_and_only_then(run: str) -> None:
    before = history.fingerprint()
    history.frame()
    assert history.fingerprint() == before
    tracking.attach(run, "note.txt", "an artifact is no row")
    tracking.writer().set_tag(run, "seen", "yes")
    assert history.fingerprint() != before


# Two ways of reading


@pytest.fixture(scope="module")
def served(module_store: Path) -> Iterator[tuple[str, str]]:
    """A store with several runs and the address of an MLflow server on it: (local URI, server URI)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_HOME", str(module_store))
        tracking.record(Given())
        tracking.record(Performance(**TINY))  # type: ignore[arg-type]
        tracking.record(Given(ends="stopped"))
        local, artifacts = store.uri(), str(store.artifacts_uri())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log = module_store / "server.log"
        with open(log, "w") as out:
            server = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", local, "--artifacts-destination", artifacts,
                 "--host", "127.0.0.1", "--port", str(port), "--workers", "1"], stdout=out, stderr=out, start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"})

        def answers() -> bool:
            assert server.poll() is None, log.read_text()[-2000:]
            try:
                return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200)
            except OSError:
                return False

        try:
            wait(90, answers)
            yield local, f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(20)


@pytest.mark.parametrize("question", [
    {}, {"kind": "experiment"}, {"kind": "experiment", "experiment": "performance"}, {"experiment": "nothing"}, {"limit": 3},
    {"kind": "experiment", "limit": 1}, {"parents": []},
], ids=str)
def test_a_database_and_a_server_give_the_same_frame(served: tuple[str, str], question: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    frames = []
    for address in served:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        frames.append(history.frame(**question))
    pd.testing.assert_frame_equal(*frames)
    assert len(frames[0]) == 0 or "limit" not in question or len(frames[0]) == question["limit"]


def test_both_give_the_trials_of_a_parent(served: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served[0])
    parents = history.frame("experiment")["run_id"].tolist()
    local = history.frame(parents=parents[:2])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served[1])
    pd.testing.assert_frame_equal(local, history.frame(parents=parents[:2]))
    assert (set(local["parent_id"]) == set(parents[:2]) and "metrics.never" not in local) or len(local) == 4


def test_a_run_can_be_recorded_on_a_server(served: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served[1])
    done = tracking.record(Given())
    found = history.frame(parents=[done.run_id])
    assert done.state == "finished" and found["name"].tolist() == ["two", "one"]
    assert tuple(history.generations(found["run_id"].iloc[0])) == GENERATIONS


# Bad ends


def test_a_failure_in_the_middle_keeps_the_trials_and_says_why(fresh_store: Path) -> None:
    with pytest.raises(RuntimeError, match="fell over"):
        tracking.record(Given(ends="broken"))
    parent, trials = history.frame("experiment").iloc[0], history.frame()
    assert (parent["state"], parent["tags.lab.reason"]) == ("failed", "RuntimeError: the engine fell over")
    assert trials["state"].tolist() == ["finished"] * 2 and trials["metrics.decode_tokens_per_s"].tolist() == [10.0] * 2


def test_ctrl_c_keeps_the_trials_and_marks_the_run(fresh_store: Path) -> None:
    done = tracking.record(Given(ends="stopped"))
    assert (done.state, done.verdict) == ("interrupted", None)
    assert history.frame("experiment")["state"].tolist() == ["interrupted"] and len(history.frame()) == 2


def test_ctrl_c_while_a_trial_is_written_leaves_no_half_written_one(fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.ops import artifacts

    write = artifacts.write_generations

    def and_interrupt(path: Path, generations: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        write(path, generations)

    monkeypatch.setattr(artifacts, "write_generations", and_interrupt)
    assert tracking.record(Given()).state == "interrupted"
    trials = history.frame()
    assert trials["state"].tolist() == ["finished"]
    assert tuple(history.generations(trials["run_id"].iloc[0])) == GENERATIONS


def test_a_killed_process_leaves_a_run_that_died(fresh_store: Path) -> None:
    code = "import test_tracking as t; t.tracking.record(t.Given(ends='killed'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
                          timeout=120, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert history.frame("experiment")["state"].tolist() == ["died"] and history.frame()["state"].tolist() == ["finished"] * 2


@pytest.mark.slow
def test_kill_int_of_a_real_ladder_keeps_what_was_measured(fresh_store: Path) -> None:
    process = lab("run", "quantization", "--rungs", "F16,Q8_0,Q4_0,Q4_K_M,Q6_K", "--prompt-tokens", "32", "--output-tokens", "8", "--repeats", "3",
                  "--chunks", "1", "--chunk-tokens", "128", "--items", "2", "--threads", "1", home=fresh_store)
    try:
        wait(150, lambda: process.poll() is not None or len(history.frame()) > 0)
        assert process.poll() is None, process.communicate()[1][-2000:]
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors[-2000:]
    assert "Traceback" not in errors and "Interrupted" in out
    parents, trials = history.frame("experiment"), history.frame()
    assert parents["state"].tolist() == ["interrupted"] and 1 <= len(trials) < 5
    assert trials["state"].eq("finished").all() and trials["metrics.perplexity"].gt(1).all()


# Stores that cannot be written


def refused(home: Path, **env: str) -> str:
    start = time.monotonic()
    process = lab("run", "performance", "--engine", "scripted", "--prompt-tokens", "4", "--output-tokens", "2", "--depth-tokens", "0",
                  "--threads", "1", home=home, **env)
    try:
        out, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    said = [line for line in errors.splitlines() if line.startswith("lab: ")]
    assert process.returncode == 2 and len(said) == 1 and said[0].endswith("."), (process.returncode, out, errors[-3000:])
    assert "Traceback" not in errors
    assert time.monotonic() - start < 40
    return said[0]


def test_two_processes_that_come_first_at_once_both_find_a_whole_store(fresh_store: Path) -> None:
    (fresh_store / "mlruns").mkdir(exist_ok=True)
    started = [subprocess.Popen([sys.executable, "-c", FIRST, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env={**os.environ, "LAB_HOME": str(fresh_store)})
               for name in ("one", "two")]
    assert [process.stdout.readline() for process in started if process.stdout] == ["ready\n"] * 2
    said = [process.communicate("go\n", timeout=120) for process in started if process.stdin]
    assert [process.returncode for process in started] == [0, 0], said
    assert set(history.frame("experiment", experiment="performance")["name"]) == {"one", "two"}


@pytest.mark.slow
def test_an_unreachable_server_is_one_sentence_before_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound and not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert address in refused(tmp_path, MLFLOW_TRACKING_URI=address)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        start = time.monotonic()
        with pytest.raises(LabError, match=r"cannot be read .*\.$"):
            history.frame()
        assert time.monotonic() - start < 15


def test_a_home_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "cannot be written" in refused(tmp_path / "file")


def test_a_store_that_is_no_database_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_bytes(b"this is no database " * 100)
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    with pytest.raises(LabError, match=r"cannot be read as an MLflow store .*\.$"):
        history.frame()
    with pytest.raises(LabError, match=r"mlflow\.db.*\.$"):
        tracking.record(Given())


def test_a_full_disk_is_one_sentence_and_the_trials_before_it_stay(fresh_store: Path) -> None:
    """The disk is full for files of more than a few kB more than the database has: a write fails in the middle."""
    code = """
import resource, signal, test_tracking as t
from lab.errors import LabError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
count = 0
class Endless(t.Given):
    "Does it end?"
    def run(self):
        global count
        yield t.trial("first")
        size = t.store.database().stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        for i in range(400):
            yield t.trial(f"next {i}", **{f"measure_{j}_s": 1.0 for j in range(50)})
try:
    t.tracking.record(Endless())
except LabError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
                          timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.strip().splitlines()
    assert len(said) == 1 and said[0].endswith(".") and "full" in said[0]
    assert "first" in history.frame()["name"].tolist()


def test_a_verdict_longer_than_a_tag_keeps_its_decision_and_first_reasons() -> None:
    import json

    from lab.records import Verdict

    long = Verdict(decision="Keep it.", chosen="a", why=tuple(f"{k} " + "reason " * 40 for k in range(60)), caveats=("Busy.",))
    kept = tracking._fitting(long)
    assert len(json.dumps(dataclasses.asdict(kept))) <= tracking.TAG_CHARACTERS
    assert (kept.decision, kept.caveats, kept.why[0]) == (long.decision, long.caveats, long.why[0])
    assert kept.why[-1].endswith("verdict.json.") and tracking._fitting(kept) == kept

"""Sweeps: the spec says what is wrong with it, the search repeats itself, nothing is measured twice, and noise is not called best."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lab import __main__ as command
from lab import experiments
from lab.errors import LabError
from lab.ops import history, tracking
from lab.records import Estimate
from lab.sweep import code, evidence, running, search, spec
from lab.sweep.attempt import Ended, Job
from lab.sweep.local import Local
from lab.sweep.record import Record, Tried
from lab.sweep.running import Sweep

ROOT = Path(__file__).parent.parent
SHORT = "fixed: {engine: scripted, models: markov, threads: 1, depth_tokens: 0, output_tokens: 3, repeats: 3, warmup: 0}"
GRID = f"experiment: performance\n{SHORT}\ngrid:\n  prompt_tokens: [8, 4, 16]\nobjective: ttft_s\n"


def optuna(trials: int = 14, seed: int = 3, objective: str = "ttft_s") -> str:
    return (f"experiment: performance\n{SHORT}\noptuna:\n  prompt_tokens: {{low: 4, high: 64}}\n  kv_type: [f16, q8_0]\ntrials: {trials}\n"
            f"seed: {seed}\nobjective: {objective}\n")


class Here:
    """Attempts in this process, on a real store, with the deaths of (number, attempt) that it is told."""

    def __init__(self, dies: Mapping[tuple[int, int], str] | None = None, stops_after: int = 1000) -> None:
        self.dies, self.stops_after, self.started, self.measured = dict(dies or {}), stops_after, [], 0
        self._jobs: list[Job] = []
        self.started: list[tuple[int, int]] = []

    def slots(self) -> int:
        return 1

    def start(self, job: Job) -> None:
        self._jobs.append(job)
        self.started.append((job.number, job.attempt))

    def wait(self) -> Ended:
        job = self._jobs.pop()
        if self.measured == self.stops_after:
            raise KeyboardInterrupt
        if why := self.dies.get((job.number, job.attempt)):
            return Ended(number=job.number, attempt=job.attempt, why=why)
        tracking.record(experiments.make(experiments.find(job.experiment), job.values), about=job.about, tags=job.tags)
        self.measured += 1
        return Ended(number=job.number, attempt=job.attempt)

    def stop(self) -> None:
        self._jobs.clear()

    def cautions(self) -> tuple[str, ...]:
        return ()


# The spec

WRONG = [
    ("", "mapping"),
    ("grid: {threads: [1]}\nobjective: ttft_s", "'experiment' is missing"),
    ("experiment: performence\ngrid: {threads: [1]}\nobjective: ttft_s", "did you mean 'performance'?"),
    ("experiment: performance\nobjective: ttft_s", "the fields that are varied are missing"),
    ("experiment: performance\ngrid: {}\nobjective: ttft_s", "'grid' is empty"),
    ("experiment: performance\ngrid: {threads: []}\nobjective: ttft_s", "'threads' has no values"),
    ("experiment: performance\ngrid: {threads: 1}\nobjective: ttft_s", "give 'threads' a list"),
    ("experiment: performance\ngrid: {threads: [1, 1]}\nobjective: ttft_s", "twice"),
    ("experiment: performance\ngrid: {threads: [1]}\nrandom: {repeats: [3]}\nobjective: ttft_s", "'grid' and 'random' cannot both be"),
    ("experiment: performance\ngrid: {theads: [1]}\nobjective: ttft_s", "did you mean 'threads'?"),
    ("experiment: performance\nfixed: {modles: x}\ngrid: {threads: [1]}\nobjective: ttft_s", "did you mean 'models'?"),
    ("experiment: performance\ngrid: {threads: [fast]}\nobjective: ttft_s", "threads takes a whole number, not 'fast'"),
    ("experiment: performance\ngrid: {threads: [1.5]}\nobjective: ttft_s", "threads takes a whole number, not '1.5'"),
    ("experiment: performance\ngrid: {repeats: [[1, 2]]}\nobjective: ttft_s", "one value here, not a list"),
    ("experiment: performance\ngrid: {flash_attention: [maybe]}\nobjective: ttft_s", "takes one of auto, on, off"),
    ("experiment: performance\ngrid: {threads: {low: 1, high: 4}}\nobjective: ttft_s", "a grid takes a list"),
    ("experiment: performance\nfixed: {threads: 1}\ngrid: {threads: [1]}\nobjective: ttft_s", "under 'fixed' and under 'grid'"),
    ("experiment: performance\ngrid: {threads: [1]}\ntrials: 3\nobjective: ttft_s", "remove 'trials'"),
    ("experiment: performance\nrandom: {threads: [1]}\nobjective: ttft_s", "say how many points"),
    ("experiment: performance\nrandom: {threads: [1, 2]}\ntrials: 3\nobjective: ttft_s", "only 2 different points"),
    ("experiment: performance\nrandom: {threads: {low: 1}}\ntrials: 3\nobjective: ttft_s", "'high' is missing"),
    ("experiment: performance\nrandom: {threads: {low: 4, high: 1}}\ntrials: 3\nobjective: ttft_s", "up to a greater 'high'"),
    ("experiment: performance\nrandom: {threads: {low: 0, high: 4, log: true}}\ntrials: 3\nobjective: ttft_s", "from above 0"),
    ("experiment: performance\nrandom: {threads: {low: 1.5, high: 4}}\ntrials: 3\nobjective: ttft_s", "whole numbers"),
    ("experiment: performance\nrandom: {kv_type: {low: 1, high: 4}}\ntrials: 3\nobjective: ttft_s", "is no number"),
    ("experiment: performance\ngrid: {threads: [1]}", "the objective is missing"),
    ("experiment: performance\ngrid: {threads: [1]}\nobjective: niceness", "which direction is better"),
    ("experiment: performance\ngrid: {threads: [1]}\nobjective: {measure: ttft_s, direction: up}", "which direction is better"),
    ("experiment: performance\ngrid: {threads: [1]}\nobjective: [ttft_s, ttft_s]", "the same measure"),
    ("experiment: performance\ngrid: {threads: [1]}\nobjective: ttft_s\nseed: -1", "negative"),
    ("experiment: performance\ngrid: {threads: [1]}\nobjective: ttft_s\nsteps: 3", "there is no key 'steps'"),
    ("- 1", "a sweep must be a mapping"),
    ("experiment: &a performance\ngrid: {threads: [*a]}", "an alias (*), which a sweep cannot have"),
    ("experiment: performance\ngrid: {threads: [1\nobjective: ttft_s", "this is no YAML"),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[said for _, said in WRONG])
def test_a_malformed_spec_is_one_sentence_with_its_line(text: str, said: str) -> None:
    with pytest.raises(LabError) as raised:
        spec.parse(text)
    sentence = str(raised.value)
    assert said in sentence and re.match(r"sweep.yaml, line \d+: ", sentence) and sentence.count("\n") == 0


@pytest.mark.parametrize("text", [
    "experiment: quality\nfixed: {models: 'http://u:pw@h/v1'}\ngrid: {items: [10]}\nobjective: ttft_s",
    "experiment: quality\nfixed: {models: 'http://u:p,w@h/v1'}\ngrid: {items: [10]}\nobjective: ttft_s",
    "experiment: quality\ngrid: {models: [smollm2-135m, [smollm2-135m, 'http://u:pw@h/v1']]}\nobjective: ttft_s",
    "experiment: performance\noptuna: {engine: ['https://u:pw@h']}\ntrials: 1\nobjective: ttft_s",
    "experiment: performance\ngrid: {engine: ['https://h/v1?key=pw']}\nobjective: ttft_s",
    "experiment: performance\ngrid: {threads: [1]}\nobjective: {measure: ttft_s, of: 'http://u:pw@h'}",
])
def test_a_secret_in_a_spec_is_refused_before_anything_is_written(fresh_store: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    command.register()
    done = CliRunner().invoke(command.app, ["sweep", str(file)])
    said = str(done.exception)
    assert isinstance(done.exception, LabError) and re.match(r"s.yaml, line \d+: ", said) and "pw" not in said, said
    assert not any("pw@" in path.read_text(errors="replace") for path in fresh_store.rglob("*") if path.is_file())
    assert history.frame("sweep").empty


def test_a_number_that_yaml_takes_for_text_is_a_number() -> None:
    made = spec.parse("experiment: batching\nrandom: {cv: {low: 1e-7, high: 1e1}}\ntrials: 2e0\nlimit_s: 1e3\nobjective: ttft_s")
    assert made.over["cv"] == spec.Range(low=1e-7, high=10)
    assert made.trials == 2 and made.limit_s == 1000


def test_a_value_means_the_same_however_yaml_has_it() -> None:
    made = spec.parse("experiment: performance\nfixed: {threads: [2]}\ngrid:\n  flash_attention: [on, auto]\n  prompt_tokens: [[8, 4], 16, '32']\n"
                      "objective: ttft_s")
    assert made.over == {"flash_attention": ("on", "auto"), "prompt_tokens": ("8,4", "16", "32")} and made.fixed == {"threads": "2"}
    config: Any = made.config({"flash_attention": "on", "prompt_tokens": "8,4"})
    assert (config.flash_attention, config.prompt_tokens, config.threads) == ("on", (8, 4), (2,))


def test_a_sweep_is_the_same_with_more_trials_and_another_with_other_fields_seed_or_code() -> None:
    one = spec.parse(optuna())
    assert one.identity("a") == spec.parse(optuna(trials=99)).identity("a")
    others = [spec.parse(optuna(seed=4)).identity("a"), one.identity("b"), spec.parse(optuna(objective="e2e_s")).identity("a"),
              spec.parse(GRID).identity("a"), spec.parse(GRID.replace("repeats: 3", "repeats: 4")).identity("a")]
    assert len({one.identity("a"), *others}) == 6
    assert spec.parse(GRID).identity("a") == spec.parse(GRID.replace("ttft_s", "e2e_s")).identity("a"), "a grid may be asked again"


def test_the_state_of_the_code_changes_with_what_measures_and_not_with_a_page(tmp_path: Path) -> None:
    ask = "import sys; from lab.sweep import code; print(code.state())"
    states = []
    import shutil

    shutil.copytree(ROOT / "lab", tmp_path / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    for changed in (None, "pages/overview.py", "experiments/performance.py"):
        if changed:
            with open(tmp_path / "lab" / changed, "a") as file:
                file.write("\n# changed\n")
        states.append(subprocess.run([sys.executable, "-c", ask], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, text=True,
                                     capture_output=True, check=True).stdout.strip())
    assert states[0] == states[1] == code.state() != states[2]


# The search


def test_a_grid_has_every_combination_once() -> None:
    made = spec.parse("experiment: performance\ngrid: {threads: [1, 2], repeats: [3, 4, 5]}\nobjective: ttft_s")
    points = search.grid(made)
    assert [(p["threads"], p["repeats"]) for p in points] == list(itertools.product("12", "345"))


def test_points_drawn_at_random_are_different_lie_in_their_ranges_and_fewer_are_the_beginning_of_more() -> None:
    text = ("experiment: quality\nrandom:\n  items: {{low: 3, high: 300, log: true}}\n  top_p: {{low: 0.25, high: 1, step: 0.25}}\n"
            "  style: [plain, chat]\ntrials: {}\nobjective: perplexity")
    many, few = search.drawn(spec.parse(text.format(60))), search.drawn(spec.parse(text.format(20)))
    assert many[:20] == few and len({json.dumps(p) for p in many}) == 60
    assert {p["top_p"] for p in many} == {"0.25", "0.5", "0.75", "1.0"} and {p["style"] for p in many} == {"plain", "chat"}
    items = [int(p["items"]) for p in many]
    assert all(3 <= n <= 300 for n in items)
    assert sum(n < 30 for n in items) == pytest.approx(30, abs=12), "half of a logarithmic range lies below its middle"
    for point in many:
        assert spec.parse(text.format(60)).config(point)


def worth(point: Mapping[str, str]) -> list[float]:
    return [abs(int(point["prompt_tokens"]) - 21) + (5.0 if point["kv_type"] == "f16" else 0.0)]


def asked(text: str, stops: int = 1000) -> list[Mapping[str, str]]:
    """The points that Optuna proposes when each comes to its `worth`, its search begun anew after `stops` of them."""
    made, points = spec.parse(text), []
    for first in (0, stops):
        searching = search.search(made)
        for number, point in enumerate(points):
            searching.told(number, point, worth(point))
        for number in range(first, min(made.trials, first + stops)):
            point = searching.point(number)
            assert point is not None
            points.append(point)
            searching.told(number, point, worth(point))
        if len(points) == made.trials:
            break
    return points


def test_a_search_that_was_stopped_asks_what_it_would_have_asked() -> None:
    whole = asked(optuna(24))
    assert asked(optuna(24), stops=13) == whole and asked(optuna(9), stops=5) == whole[:9], "in its random beginning too"
    assert asked(optuna(24, seed=4)) != whole


def test_optuna_finds_more_than_chance_does() -> None:
    late = [min(worth(p)[0] for p in asked(optuna(40, seed=seed))[20:]) for seed in range(4)]
    text = optuna(20).replace("optuna:", "random:")
    chance = [min(worth(p)[0] for p in search.drawn(spec.parse(text.replace("seed: 3", f"seed: {seed}")))) for seed in range(4)]
    assert sum(late) < sum(chance)


def test_a_failed_point_is_no_figure_to_optuna() -> None:
    searching = search.search(spec.parse(optuna()))
    for number in range(14):
        point = searching.point(number)
        assert point is not None
        searching.told(number, point, None if number % 2 else [math.nan])
    assert searching.point(14) is None


# A sweep on the store


def test_every_trial_is_a_run_of_its_own_under_the_run_of_the_sweep(fresh_store: Path) -> None:
    said: list[str] = []
    done = running.run(spec.parse(GRID), Here(), say=said.append)
    sweep = history.frame("sweep").iloc[0]
    runs = history.frame("experiment", parents=[done.run_id])
    assert sweep["run_id"] == done.run_id and len(runs) == len(history.frame("experiment")) == 3
    assert all(runs["state"] == "finished") and all("prompt_tokens=" in name for name in runs["name"])
    assert [t.point["prompt_tokens"] for t in done.tried] == ["8", "4", "16"]
    direct = tracking.record(spec.parse(GRID).config({"prompt_tokens": "16"}))
    trial = history.frame(parents=[direct.run_id]).iloc[0]
    assert done.tried[2].values[0].value == pytest.approx(trial["metrics.ttft_s"]), "a sweep measures what `lab run` does"
    assert sum("ms" in line for line in said) == 3


def test_a_sweep_that_is_done_measures_nothing_again_and_a_stopped_one_only_the_rest(fresh_store: Path) -> None:
    first = running.run(spec.parse(GRID), Here(stops_after=2))
    assert first.interrupted and len(first.tried) == 2 and history.frame("sweep").iloc[0]["state"] == "interrupted"
    rest = Here()
    second = running.run(spec.parse(GRID), rest)
    assert rest.started == [(2, 1)] and second.run_id == first.run_id and second.kept == 2
    assert second.tried[:2] == first.tried
    again = Here()
    assert running.run(spec.parse(GRID), again).tried == second.tried and again.started == []


def test_a_trial_that_dies_is_tried_once_more_and_then_recorded_with_its_sentence(fresh_store: Path) -> None:
    workers = Here({(0, 1): "It was killed.", (1, 1): "It was killed.", (1, 2): "It was killed again."})
    done = running.run(spec.parse(GRID), workers)
    assert workers.started == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]
    assert [(t.state, t.attempts) for t in done.tried] == [("finished", 2), ("failed", 2), ("finished", 1)]
    assert done.tried[1].why == "It was killed again."
    failed = history.frame("experiment")
    assert (failed["state"] == "failed").sum() == 3, "every death is in the history"
    again = Here()
    assert running.run(spec.parse(GRID), again).tried == done.tried and again.started == []


def test_a_retry_that_a_kill_cut_off_is_not_a_second_death(fresh_store: Path) -> None:
    record = Record.begin(spec.parse(GRID), code.state())
    record.fail(0, {"prompt_tokens": "8"}, 1, "It was killed.")
    tracking.finish(tracking.writer(), record.run_id, "interrupted")
    workers = Here({(0, 2): "Again."})
    done = running.run(spec.parse(GRID), workers)
    assert workers.started[:2] == [(0, 2), (1, 1)] and done.tried[0].state == "failed"


def test_a_point_that_the_experiment_refuses_fails_at_once_and_one_that_it_refuses_altogether_is_no_sweep(fresh_store: Path) -> None:
    workers = Here()
    done = running.run(spec.parse(GRID.replace("[8, 4, 16]", "[8, 0]")), workers)
    assert workers.started == [(0, 1)] and done.tried[1].state == "failed" and "at least 1 token" in done.tried[1].why
    with pytest.raises(LabError, match="refuses every point"):
        running.run(spec.parse(GRID.replace("[8, 4, 16]", "[0, -1]")), workers)


REFUSING = '''"""Is it so?"""
import dataclasses
from lab.errors import LabError
from lab.experiments import Experiment, option
from lab.records import Trial, Verdict

@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusing(Experiment):
    """Is it so?"""
    when: str = option("never", "when it refuses")
    def check(self):
        if self.when == "check":
            raise LabError("Not like this, said before.")
    def run(self):
        if self.when == "beginning":
            raise LabError("Not like this, said at the beginning.")
        yield Trial(name="a", settings={}, measures={"ttft_s": 1.0})
        raise LabError("Broken off.")
    def verdict(self, trials):
        return Verdict(decision="None.")
'''


@pytest.mark.parametrize(("when", "refused"), [
    ("check, beginning", True), pytest.param("later", False, marks=pytest.mark.slow)])
def test_what_the_experiment_refuses_is_recorded_at_once_and_what_breaks_off_is_tried_again(
        fresh_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, refused: bool) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "refusing.py").write_text(REFUSING)
    monkeypatch.setenv("LAB_EXPERIMENTS_DIR", str(tmp_path / "own"))
    monkeypatch.setattr(experiments, "_OWN", {})
    said: list[str] = []
    done = running.run(spec.parse(f"experiment: refusing\ngrid: {{when: [{when}]}}\nobjective: ttft_s"), Local(),
                       say=said.append)
    assert len(done.tried) == len(when.split())
    for tried in done.tried:
        assert (tried.state, tried.attempts, "Not like this" in tried.why) == ("failed", 1 if refused else 2, refused)
    assert any("died" in line for line in said) != refused and any(": refused: " in line for line in said) == refused


def test_an_objective_that_nothing_measures_ends_the_sweep_with_what_is_measured(fresh_store: Path) -> None:
    workers = Here()
    with pytest.raises(LabError, match=r"measured perplexity, so it cannot be the objective; what it measured is .*ttft_s"):
        running.run(spec.parse(GRID.replace("ttft_s", "perplexity")), workers)
    assert len(workers.started) == 1 and history.frame("sweep").iloc[0]["state"] == "interrupted"


def test_a_sweep_by_another_process_that_works_is_not_joined(fresh_store: Path) -> None:
    record = Record.begin(spec.parse(GRID), code.state())
    tracking.tag(tracking.writer(), record.run_id, {"lab.pid": "1", "lab.host": "elsewhere"})
    with pytest.raises(LabError, match="process 1 of elsewhere.*--take-over"):
        running.run(spec.parse(GRID), Here())
    assert len(running.run(spec.parse(GRID), Here(), take_over=True).tried) == 3


def test_optuna_goes_on_where_it_was_and_a_repeated_proposal_is_not_measured_again(fresh_store: Path) -> None:
    text = optuna(12).replace("{low: 4, high: 64}", "{low: 4, high: 6}")
    whole, stopped, rest = Here(), Here(stops_after=3), Here()
    done = running.run(spec.parse(text), whole)
    assert done.repeats + len(done.tried) == 12 and len(whole.started) == len({json.dumps(dict(t.point)) for t in done.tried}) <= 6
    other = text.replace("repeats: 3", "repeats: 2")
    assert running.run(spec.parse(other), stopped).interrupted
    after = running.run(spec.parse(other), rest)
    assert [t.point for t in after.tried] == [t.point for t in done.tried], "as if it had not been stopped"
    assert len(stopped.started) - 1 + len(rest.started) == len(after.tried)


def test_an_objective_is_read_from_the_trial_that_the_spec_names_and_naming_another_measures_nothing_again(fresh_store: Path) -> None:
    workers = Here()
    for of, value in (("best", 0.012), ("worst", 0.018), ("16 prompt tokens", 0.018), ("mean", 0.015)):
        text = GRID.replace("[8, 4, 16]", "[[4, 16]]").replace("objective: ttft_s", f"objective: {{measure: ttft_s, of: {of}}}")
        (tried,) = running.run(spec.parse(text), workers).tried
        assert tried.values[0].value == pytest.approx(value, rel=0.02)
    (tried,) = running.run(spec.parse(text.replace("of: mean", "of: nobody")), workers).tried
    assert math.isnan(tried.values[0].value) and "none is called 'nobody'" in tried.why and len(workers.started) == 1


# What it shows


def given(*values: tuple[float, float] | float, objectives: str = "decode_tokens_per_s", failed: int = 0) -> Sweep:
    """A sweep of trials with these figures: (value, half width of the interval), or a value without one."""
    made = spec.parse(f"experiment: performance\ngrid: {{repeats: {list(range(1, 1 + len(values)))}}}\nobjective: {objectives}")
    tried = [Tried(number=i, point={"repeats": str(i)}, state="finished", run_id=f"none {i}", trials=("",), values=(
        Estimate(value=v[0], low=v[0] - v[1], high=v[0] + v[1]) if isinstance(v, tuple) else Estimate(value=v),))
        for i, v in enumerate(values)]
    tried += [Tried(number=len(values) + i, point={}, state="failed", run_id="", why="died") for i in range(failed)]
    return Sweep(spec=made, run_id="none", tried=tuple(tried))


def told(sweep: Sweep) -> str:
    found = evidence.weigh(sweep)
    return " ".join([*found.said, *found.cautions])


def test_a_difference_within_the_noise_names_no_best_point(fresh_store: Path) -> None:
    said = told(given((10.0, 1.0), (10.5, 1.0), (9.8, 1.0)))
    assert "Highest Decode: trial 2" in said and "No difference is shown to trials 1, 3" in said and "shows no best point" in said
    assert "likely too good" in said


def test_a_clear_difference_is_said_and_a_value_without_an_interval_cannot_tell(fresh_store: Path) -> None:
    said = told(given((10.0, 0.1), (20.0, 0.1), (19.95, 0.1), 15.0, failed=1))
    assert "Shown to be worse" in said and "trial 1." in said and "No difference is shown to trial 3" in said
    assert "Whether trial 4 differ" in said and "4 of 5 trials were measured, 1 failed" in said and "no best point" not in said


def test_the_more_points_are_compared_the_clearer_a_difference_must_be(fresh_store: Path) -> None:
    two = evidence.weigh(given((10.0, 1.0), (12.0, 1.0))).others
    many = evidence.weigh(given(*[(10.0, 1.0)] * 30, (12.0, 1.0))).others
    assert two[0].shown and not any(b.shown for b in many)


def test_several_objectives_have_a_front(fresh_store: Path) -> None:
    made = given((10.0, 0.1), (20.0, 0.1), (5.0, 0.1), objectives="[decode_tokens_per_s, ttft_s]")
    second = [0.1, 0.9, 0.5]
    tried = tuple(Tried(**{**t.__dict__, "trials": ("", ""), "values": (*t.values, Estimate(value=s, low=s - 0.01, high=s + 0.01))})
                  for t, s in zip(made.tried, second, strict=True))
    found = evidence.weigh(Sweep(spec=made.spec, run_id="", tried=tried))
    assert found.front == (0, 1) and [(b.number, b.by, b.shown) for b in found.others] == [(2, 0, True)]
    assert "Pareto" in " ".join(found.said)


# The command, with processes of its own


def wait(seconds: float, condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def test_the_command_measures_in_a_process_of_its_own_and_writes_the_summary(fresh_store: Path, tmp_path: Path) -> None:
    command.register()
    file, out = tmp_path / "s.yaml", tmp_path / "out.json"
    file.write_text(GRID.replace("[8, 4, 16]", "[8]"))
    done = CliRunner().invoke(command.app, ["sweep", str(file), "--json", str(out)], terminal_width=200)
    assert done.exit_code == 0, done.output
    summary = json.loads(out.read_text())
    assert summary["front"] == [1] and summary["trials"][0]["values"]["ttft_s"]["value"] == pytest.approx(0.014, rel=0.02)
    run = history.frame("experiment").iloc[0]
    assert run["tags.lab.pid"] != str(os.getpid()) and history.frame("sweep").iloc[0]["state"] == "finished"


@pytest.mark.parametrize(("arguments", "said"), [
    (["nothing.yaml"], "There is no file"),
    (["--ray", "127.0.0.1:1"], "Nobody answers at 127.0.0.1:1"),
    (["--ray", "nonsense"], "takes HOST:PORT"),
    (["--per", "rack"], "--per is machine or gpu"),
    (["--json", "/nowhere/x.json"], "cannot be written"),
])
def test_a_wrong_command_is_one_sentence(fresh_store: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    command.register()
    (tmp_path / "s.yaml").write_text(GRID)
    given_ = arguments if arguments[0].endswith(".yaml") else [str(tmp_path / "s.yaml"), *arguments]
    done = CliRunner().invoke(command.app, ["sweep", *given_])
    assert isinstance(done.exception, LabError) and said in str(done.exception) and "\n" not in str(done.exception)


def started(file: Path, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "lab", "sweep", str(file)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, env={**os.environ, "LAB_HOME": str(home)}, start_new_session=True)


def running_trial() -> Any:
    """The pid of the trial that is measuring, if one is."""
    runs = history.frame("experiment")
    mine = runs[runs["state"] == "running"] if len(runs) else runs
    return int(mine.iloc[0]["tags.lab.pid"]) if len(mine) else None


@pytest.mark.slow
def test_a_killed_sweep_takes_its_trial_along_and_goes_on_with_the_rest(fresh_store: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(GRID.replace("repeats: 3", "repeats: 1500"))
    process = started(file, fresh_store)
    wait(60, lambda: (history.frame("experiment")["state"] == "finished").any() and running_trial())
    pid = running_trial()
    process.kill()
    process.wait()
    wait(5, lambda: not Path(f"/proc/{pid}").exists())
    finished = set(history.frame("experiment").query("state == 'finished'")["run_id"])
    done = subprocess.run([sys.executable, "-m", "lab", "sweep", str(file), "--json", str(tmp_path / "o.json")], cwd=ROOT, text=True,
                          capture_output=True, env={**os.environ, "LAB_HOME": str(fresh_store)}, timeout=120)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "o.json").read_text())
    assert summary["measured_before"] == len(finished) and finished <= {t["run_id"] for t in summary["trials"]}
    assert [t["attempts"] for t in summary["trials"]] == [1, 1, 1], "a trial that was killed with its sweep did not die of itself"
    runs = history.frame("experiment")
    assert sorted(runs["state"].value_counts().items()) == [("finished", 3), ("interrupted", 1)]


@pytest.mark.slow
def test_a_trial_whose_process_is_killed_twice_is_recorded_as_killed(fresh_store: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(GRID.replace("repeats: 3", "repeats: 20000").replace("[8, 4, 16]", "[8]"))
    process = started(file, fresh_store)
    for _ in range(2):
        os.kill(pid := wait(60, running_trial), signal.SIGKILL)
        wait(30, lambda gone=pid: running_trial() != gone)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "failed after 2 attempts" in " ".join(out.split()) and "signal 9" in out
    assert list(history.frame("experiment")["state"]) == ["failed", "failed"]


@pytest.mark.slow
def test_a_trial_that_takes_longer_than_its_limit_is_stopped_and_counts_as_dead(fresh_store: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(GRID.replace("repeats: 3", "repeats: 200000").replace("[8, 4, 16]", "[8]") + "limit_s: 6\n")
    out, _ = (process := started(file, fresh_store)).communicate(timeout=90)
    assert process.returncode == 1 and "longer than 6 s" in out and list(history.frame("experiment")["state"]) == ["failed", "failed"]


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured_and_marks_trial_and_sweep(fresh_store: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(GRID.replace("repeats: 3", "repeats: 20000").replace("[8, 4, 16]", "[8]"))
    process = started(file, fresh_store)
    wait(60, running_trial)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in out
    assert history.frame("experiment").iloc[0]["state"] == "interrupted" == history.frame("sweep").iloc[0]["state"]

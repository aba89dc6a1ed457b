"""The experiment `rollout`: a worse candidate is stopped, an equal one is shipped, and too few items decide nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.errors import LabError
from lab.experiments.rollout import Rollout
from lab.records import Estimate, Trial

SETS = ("everyday", "facts", "notes")


def scripted(**fields: Any) -> Rollout:
    return Rollout(**{"engine": "scripted", "model": "right-80", "sets": SETS, "latency_margin": 0.0, "metric": "contains", "shots": 0,
                      **fields})


def arms(config: Rollout) -> tuple[list[Trial], Trial, Trial]:
    config.check()
    trials = list(config.run())
    return trials, trials[0], trials[1]


def test_a_worse_candidate_is_stopped_before_all_items_were_asked() -> None:
    config = scripted(candidate_model="right-30")
    trials, a, b = arms(config)
    assert b.notes["decision"] == "do not ship" and "shown to be worse" in b.notes["why"]
    assert len(b.generations) < sum(len(one.questions) for one in config._asked())
    assert len(trials) == config.size()
    change = b.measures["quality_change"]
    assert isinstance(change, Estimate) and change.high < 0
    assert {g.request.id for g in a.generations} == {g.request.id for g in b.generations}


def test_an_equal_candidate_is_shipped_and_the_run_reports_the_margin() -> None:
    _, _, b = arms(scripted(candidate_model="right-80-b", quality_margin=0.1))
    assert b.notes["decision"] == "ship" and "no more than 10 points worse" in b.notes["why"]


def test_a_small_margin_on_few_items_decides_nothing_and_says_how_many_more() -> None:
    _, _, b = arms(scripted(candidate_model="right-80-b", quality_margin=0.01, sets=("facts",), items=20))
    assert b.notes["decision"] == "need more data" and "more requests" in b.notes["why"]
    assert b.measures["needed_requests"] > 0


def test_in_the_split_design_every_user_has_one_arm_and_each_item_one_answer() -> None:
    config = scripted(candidate_model="right-30", design="split", stop=False, share=0.4)
    _, a, b = arms(config)
    first, second = ({g.request.id for g in trial.generations} for trial in (a, b))
    assert not first & second and len(first | second) == sum(len(one.questions) for one in config._asked())
    assert b.notes["decision"] == "do not ship"
    _, again, _ = arms(config)
    assert {g.request.id for g in again.generations} == first


def test_a_slower_candidate_is_stopped_for_its_latency_alone() -> None:
    _, _, b = arms(scripted(candidate_model="right-80-b", latency_margin=0.1, quality_margin=0.2,
                            candidate_template="{context}Question: {question}" + " and think about it for long" * 20 + "\nAnswer:"))
    assert b.notes["decision"] == "do not ship"
    worse = [line for line in b.notes["why"].splitlines() if "shown to be worse" in line]
    assert len(worse) == 1 and worse[0].startswith("End to end")


def test_the_run_is_recorded_and_its_verdict_names_the_arm(fresh_store: Path) -> None:
    from lab import running
    from lab.ops import tracking

    config = scripted(candidate_model="right-30", sets=("everyday",))
    done = tracking.record(config)
    outcome = running.outcome(done.run_id, "rollout")
    assert outcome.verdict is not None and outcome.verdict.chosen == "A"
    assert outcome.verdict.decision.startswith("Do not ship B")
    assert len(outcome.trials) == config.size()
    assert {"look", "arm"} == set(outcome.trials["params.kind"])
    shown = running.table("rollout", outcome.trials)
    assert "Quality, change (points)" in shown and "Decision" in shown


@pytest.mark.parametrize(("fields", "error"), [
    ({}, "A and B are the same configuration"),
    ({"candidate_model": "right-30", "quality_margin": 0.0}, "--quality-margin lies between 0 and 1"),
    ({"candidate_model": "right-30", "metric": "accuracy"}, "Metric 'accuracy' is none of an answer"),
    ({"candidate_model": "right-30", "metric": "nothing"}, "There is no metric 'nothing'"),
    ({"candidate_engine": "steam"}, "There is no engine 'steam'"),
    ({"candidate_template": "What?"}, "neither {question} nor {context}"),
    ({"candidate_temperature": 3.0}, "A temperature lies between 0 and 2"),
    ({"candidate_model": "right-30", "usd_per_million": (1.0,)}, "takes four prices"),
    ({"candidate_model": "right-30", "looks": 99}, "--looks lies between 1 and 10"),
    ({"candidate_model": "right-30", "design": "split", "share": 1.0}, "--share is the share"),
])
def test_what_cannot_be_compared_is_refused_with_a_sentence(fields: dict[str, Any], error: str) -> None:
    with pytest.raises(LabError, match=error):
        scripted(**fields).check()

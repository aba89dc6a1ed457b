"""A difference is called one only when the raw observations show it, and in the direction that is better."""

from __future__ import annotations

import itertools
import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sample_store
from streamlit.testing.v1 import AppTest

from lab import plots, stats
from lab.errors import LabError
from lab.experiments import find
from lab.ops import compare, history, tracking, workload
from lab.pages import _compare_marks, _compare_risk
from lab.records import Decoding, Estimate, Generation, Message, Request, Score, Trial


@pytest.fixture(scope="module", autouse=True)
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    copy = tmp_path_factory.mktemp("compare")
    shutil.copytree(sample_store.home() / "mlruns", copy / "mlruns")
    with sample_store.at(Path(copy)):
        yield


def answers(seed: int, tpot_s: float = 0.01, repeats: int = 8) -> tuple[Generation, ...]:
    return sample_store.generations(
        np.random.default_rng(seed), ttft_s=0.3, tpot_s=tpot_s, prompt=64, output=24, repeats=repeats
    )


def scores(values: dict[str, float], name: str = "correct", by: str = "likelihood") -> tuple[Score, ...]:
    return tuple(Score(name=name, item=item, value=value, by=by) for item, value in values.items())


def compared(first: Trial, second: Trial) -> dict[str, compare.Row]:
    client = tracking.writer()
    parent = tracking.start_parent(client, "performance", "performance compared")
    ids = [tracking.write_trial(client, "performance", parent, trial) for trial in (first, second)]
    return {row.measure: row for row in compare.differences(history.frame(parents=[parent]), *ids)}


def trial(generations: tuple[Generation, ...] = (), scored: tuple[Score, ...] = (), **measures: float) -> Trial:
    return Trial(name="t", settings={"threads": 1}, generations=generations, scores=scored, measures=measures)


def test_the_same_observations_do_not_differ() -> None:
    same = trial(answers(1), scores({str(i): float(i % 2) for i in range(30)}), load_s=1.0)
    rows = compared(same, same)
    assert set(rows) == {*compare.PER_GENERATION, "accuracy", "load_s"}
    assert all(row.difference == 0 and not row.significant for row in rows.values())
    assert {row.outcome for row in rows.values()} == {"no difference shown", "not tested"}


def test_a_clear_difference_is_found_in_the_direction_that_is_better_and_turns_with_the_sides() -> None:
    fast, slow = trial(answers(1)), trial(answers(2, tpot_s=0.02))
    there, back = compared(fast, slow), compared(slow, fast)
    for measure in ("tpot_s", "decode_tokens_per_s"):
        assert (there[measure].outcome, back[measure].outcome) == ("worse", "better")
        assert there[measure].difference == pytest.approx(-back[measure].difference)
        assert there[measure].low <= there[measure].difference <= there[measure].high
    assert there["tpot_s"].difference == pytest.approx(there["tpot_s"].other - there["tpot_s"].baseline)
    assert there["tpot_s"].relative == pytest.approx(1.0, abs=0.1)
    assert there["ttft_s"].outcome == "no difference shown"


def test_chance_is_seldom_called_a_difference() -> None:
    called = [
        any(row.significant for row in compared(trial(answers(2 * i)), trial(answers(2 * i + 1))).values())
        for i in range(10)
    ]
    assert sum(called) <= 3  # 5% of 10 is half a call; more than 3 has a chance below 0.1%


def test_so_few_generations_that_nothing_could_show_are_called_too_few() -> None:
    enough = compare.fewest_generations(4)
    few = compared(trial(answers(1, repeats=3)), trial(answers(2, tpot_s=0.05, repeats=3)))
    assert few["tpot_s"].outcome == "too few"
    assert not few["tpot_s"].significant
    many = compared(trial(answers(1, repeats=enough)), trial(answers(2, tpot_s=0.05, repeats=enough)))
    assert many["tpot_s"].outcome == "worse"


def test_speed_is_tested_only_between_trials_that_had_the_same_to_do() -> None:
    longer = sample_store.generations(np.random.default_rng(2), ttft_s=0.9, tpot_s=0.02, prompt=128, output=24)
    other = trial(longer, scores({str(i): float(i % 2) for i in range(30)}))
    rows = compared(trial(answers(1), scores({str(i): float(i % 2) for i in range(30)})), other)
    assert {rows[name].outcome for name in compare.PER_GENERATION} == {"not tested"}
    assert compare.other_workload([*rows.values()]) and rows["accuracy"].outcome == "no difference shown"
    assert rows["ttft_s"].other > rows["ttft_s"].baseline
    parent = tracking.start_parent(tracking.writer(), "performance", "performance across")
    ids = [tracking.write_trial(tracking.writer(), "performance", parent, one) for one in (trial(answers(1)), other)]
    across = {row.measure: row for row in compare.differences(history.frame(parents=[parent]), *ids, across=True)}
    assert across["ttft_s"].outcome == "worse"  # the prompt is what was varied
    assert not compare.other_workload([*compared(trial(answers(1)), trial(answers(2, tpot_s=0.02))).values()])


def test_the_speed_of_two_experiments_is_never_tested_and_the_marks_say_why() -> None:
    client, ids, parents = tracking.writer(), [], []
    for name, tpot_s in (("performance", 0.01), ("quality", 0.02)):
        parents.append(tracking.start_parent(client, name, f"{name} beside"))
        ids.append(tracking.write_trial(client, name, parents[-1], trial(answers(1, tpot_s))))
    rows = compare.differences(history.frame(parents=parents), *ids)
    assert rows and {row.outcome for row in rows} == {"not tested"}
    assert _compare_marks.said([ids[1]], ids[0], {ids[1]: rows}) == "– speed not tested: other workload"


def test_a_system_prompt_belongs_to_the_configuration_and_the_users_words_to_the_workload() -> None:
    def asked(system: str, user: str, most: int = 8) -> Request:
        return Request(messages=(Message(role="system", content=system), Message(role="user", content=user)),
                       decoding=Decoding(max_tokens=most))

    assert workload.of(asked("Be brief.", "Hi")) == workload.of(asked("Be kind.", "Hi"))
    assert len({workload.of(one) for one in (asked("", "Hi"), asked("", "Ho"), asked("", "Hi", 9))}) == 3
    assert workload.of(Request(tokens=(1, 2))) == workload.of(Request(tokens=(7, 8))) != workload.of(Request(tokens=(1,)))


def test_right_and_wrong_answers_are_paired_by_item_and_tested_by_mcnemar() -> None:
    before = {str(i): float(i < 20) for i in range(60)}
    after = {str(i): float(4 <= i < 40) for i in range(60)}
    shuffled = list(after.items())
    random.Random(3).shuffle(shuffled)
    row = compared(trial(scored=scores(before)), trial(scored=scores(dict(shuffled))))["accuracy"]
    assert row.p_value == pytest.approx(stats.mcnemar(4, 20))
    assert (row.baseline, row.other, row.items, row.outcome) == (20 / 60, 36 / 60, 60, "better")


def test_items_whose_requests_share_a_source_count_together() -> None:
    def asked(grouped: bool) -> tuple[Generation, ...]:
        return tuple(Generation(request=Request(id=str(i), prompt="?", tags={"group": f"p{i // 8}"} if grouped else {}),
                                sent_s=0.0, ended_s=1.0) for i in range(48))

    before, after = {str(i): 1.0 for i in range(48)}, {str(i): float(i // 8 != 2) for i in range(48)}  # one passage turned wrong
    alone, together = (compared(trial(asked(grouped), scores(before)), trial(asked(grouped), scores(after)))["accuracy"]
                       for grouped in (False, True))
    assert (alone.outcome, together.outcome) == ("worse", "no difference shown")
    assert together.difference == alone.difference and together.high - together.low > alone.high - alone.low
    assert together.detectable > alone.detectable > 0


def test_only_items_that_both_sides_scored_count() -> None:
    before = {**{str(i): i / 50 for i in range(30)}, "only here": 99.0, "unscored": math.nan}
    after = {**{str(i): i / 50 + 0.01 + i / 1e4 for i in range(30)}, "unscored": 5.0}
    row = compared(trial(scored=scores(before, "novelty")), trial(scored=scores(after, "novelty")))["novelty"]
    assert row.items == 30
    assert row.baseline == pytest.approx(np.mean([i / 50 for i in range(30)]))
    assert row.significant
    assert row.outcome == "different"


def test_scores_of_two_judges_are_two_measures() -> None:
    both = scores({"1": 1.0}, "helpful", "judge a") + scores({"1": 2.0}, "helpful", "judge b")
    assert {"helpful by judge a", "helpful by judge b"} <= set(compared(trial(scored=both), trial(scored=both)))


def test_all_tests_are_adjusted_together_and_a_rate_is_not_tested_again() -> None:
    rows = list(compared(trial(answers(1)), trial(answers(5, tpot_s=0.0104))).values())
    by_name = {row.measure: row for row in rows}
    assert all(row.p_adjusted >= row.p_value for row in rows if not math.isnan(row.p_value))
    assert by_name["decode_tokens_per_s"].p_adjusted == by_name["tpot_s"].p_adjusted
    asked = [row for row in rows if row.measure != "decode_tokens_per_s" and not math.isnan(row.p_value)]
    assert [row.p_adjusted for row in asked] == pytest.approx(stats.holm([row.p_value for row in asked]))


def test_failed_requests_make_a_trial_worse_and_never_an_error() -> None:
    broken = tuple(replace(g, error="gone", finish_reason="error") for g in answers(3))
    row = compared(trial(answers(1)), trial(broken))["ttft_s"]
    assert row.other == math.inf
    assert row.outcome == "worse"


def test_measures_without_raw_observations_are_shown_without_a_test() -> None:
    row = compared(trial(load_s=1.0, ttft_s=0.5), trial(load_s=1.5, ttft_s=0.5))["load_s"]
    assert (row.difference, row.relative, row.outcome) == (0.5, 0.5, "not tested")
    assert math.isnan(row.p_value)


def test_the_frame_holds_what_the_rows_say() -> None:
    rows = list(compared(trial(answers(1)), trial(answers(2, tpot_s=0.02))).values())
    table = compare.frame(rows)
    for row, (_, line) in itertools.zip_longest(rows, table.iterrows()):
        assert (line["measure"], line["significant"], line["relative"]) == (
            row.measure,
            row.significant,
            pytest.approx(row.relative),
        )
    assert list(compare.frame([]).columns) == list(table.columns)


def test_a_trial_that_is_not_there_is_refused_in_a_sentence() -> None:
    with pytest.raises(LabError, match="is not among the 0 trials"):
        compare.differences(pd.DataFrame({"run_id": []}), "x", "y")


# Risk results on the page


def risky(experiment: str, trials: list[Trial]) -> tuple[str, pd.DataFrame]:
    client = tracking.writer()
    parent = tracking.start_parent(client, experiment, f"{experiment} of risk")
    for one in trials:
        tracking.write_trial(client, experiment, parent, one)
    tracking.finish(client, parent, "finished")
    return parent, history.frame(parents=[parent])


def share(value: float, width: float = 0.25) -> Estimate:
    return Estimate(value=value, low=value - width, high=value + width)


def hallucinations() -> list[Trial]:
    return [Trial(name=f"technical: {arm}", settings={"kind": "answers", "arm": arm, "situation": "technical"},
                  measures={"hallucinated": share(rate), "confident_wrong_share": share(0.2), "confidence": 0.7})
            for arm, rate in (("closed-book", 0.5), ("retrieval", 0.25))] + [
        Trial(name="detector: overlap", settings={"kind": "detector", "detector": "overlap"}, measures={"auc": share(0.7)})]


def test_the_measures_of_risk_are_told_by_their_names_also_those_of_an_experiment_to_come() -> None:
    _, trials = risky("guardrails", [Trial(name="a", settings={}, measures={
        "false_alarm": share(0.1), "caught": share(0.9), "stereotype_share": share(0.6), "toxicity_gap": 0.1, "cutoff_year": 2023.0,
        "length_bias": 0.2, "stereotype_share_p_value": 0.1, "ttft_s": 0.1, "leaks": 3.0})])
    assert _compare_risk.columns(trials)[:2] == ["metrics.caught", "metrics.false_alarm"]
    assert set(_compare_risk.columns(trials)[2:]) == {"metrics.stereotype_share", "metrics.toxicity_gap", "metrics.cutoff_year"}
    assert not _compare_risk.columns(trials[["name", "metrics.ttft_s"]])


def test_a_risk_is_shown_with_its_interval_for_the_trials_that_have_it_only() -> None:
    _, trials = risky("hallucination", hallucinations())
    table = _compare_risk.table(None, trials, _compare_risk.columns(trials))
    assert sorted(table["Trial"]) == ["technical: closed-book", "technical: retrieval"]
    shown = dict(zip(table["Trial"], table["Hallucinated (%)"], strict=True))
    assert shown == {"technical: closed-book": "50 (25 to 75)", "technical: retrieval": "25 (0 to 50)"}


def test_a_verdict_that_cannot_tell_is_shown_although_there_is_no_number() -> None:
    weak = Trial(name="yearly: end", settings={"kind": "end"}, measures={"right_share": share(0.25)}, notes={"standing": "cannot tell"})
    _, trials = risky("cutoff", [weak, Trial(name="yearly: 2019", settings={"kind": "period"}, measures={"right_share": share(0.25)})])
    table = _compare_risk.table(find("cutoff"), trials, _compare_risk.columns(trials))
    assert table.to_dict("list") == {"Trial": ["yearly: end"], "Standing": ["cannot tell"]}


def test_a_figure_of_intervals_has_the_best_trial_on_top_and_draws_the_measured_only() -> None:
    _, trials = risky("hallucination", hallucinations())
    figure = plots.intervals("metrics.hallucinated", trials)
    assert figure.layout.yaxis.categoryarray == ("technical: closed-book", "technical: retrieval")
    [trace] = figure.data
    assert dict(zip(trace.y, trace.x, strict=True)) == pytest.approx({"technical: closed-book": 50, "technical: retrieval": 25})
    assert list(trace.error_x.array) == pytest.approx([25, 25])
    assert not plots.intervals("metrics.caught", trials).data


def test_compare_shows_the_risks_of_the_chosen_runs_and_none_where_there_are_none() -> None:
    parent, _ = risky("hallucination", hallucinations())
    app = AppTest.from_file(str(Path(__file__).parent.parent / "lab" / "pages" / "compare.py"), default_timeout=60)
    app.query_params["experiment"], app.query_params["run"] = "hallucination", parent
    app.run()
    assert not app.exception and "Risk" in [one.value for one in app.subheader]
    assert any("50 (25 to 75)" in set(one.value.get("Hallucinated (%)", ())) for one in app.dataframe)
    drawn = next(box for box in app.selectbox if box.label == "Drawn with its interval")
    drawn.set_value("metrics.confident_wrong_share").run()
    assert app.query_params["risk"] in ("confident_wrong_share", ["confident_wrong_share"])
    other = AppTest.from_file(str(Path(__file__).parent.parent / "lab" / "pages" / "compare.py"), default_timeout=60)
    other.query_params["experiment"] = "performance"
    assert "Risk" not in [one.value for one in other.run().subheader]

"""The experiment on models whose preference is planted: sign and size, ignorance, mitigations, and texts that must not be kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import kept_in

from lab import plots, running
from lab.data import catalogue
from lab.errors import LabError
from lab.experiments import _fairness_generated as generated
from lab.experiments import _fairness_likelihood as likelihood
from lab.experiments import _fairness_mitigation as mitigation
from lab.experiments import _fairness_verdict as verdicts
from lab.experiments import fairness as module
from lab.experiments._fairness_scripted import BAD, GOOD, Leaning, share
from lab.experiments.fairness import Fairness
from lab.metrics.bias import bbq, contrasts, people
from lab.names import describe
from lab.ops import history
from lab.records import Generation, Question, Request
from lab.safety import Chain, load
from lab.stats.clusters import Part

SETS = likelihood.SETS
fetched = pytest.mark.skipif(not all(catalogue()[name].fetched for name in SETS), reason="the sets were not fetched")


def config(model: str, **fields: Any) -> Fairness:
    given: dict[str, Any] = {"items": 60, "axes": (), "mitigations": (), "quality_items": 8, "situations": 6, "output_tokens": 8, **fields}
    return Fairness(engine="scripted", model=model, **given)


def ran(model: str, **fields: Any) -> running.Outcome:
    given = config(model, **fields)
    done = running.run(given)
    assert len(done.trials) == given.size()
    return done


def told(texts: dict[str, str]) -> generated.Told:
    """One text for each group of an axis, the same in every situation."""
    asked = people.prompts(("religion",), 4)
    given = tuple(Generation(request=Request(id=one.id, prompt=one.text), text=texts.get(one.group, GOOD), sent_s=0.0, ended_s=1.0)
                  for one in asked)
    return generated.Told(asked=tuple(asked), texts=tuple(g.text for g in given), generations=given)


# The whole run


@fetched
@pytest.mark.slow
def test_a_planted_preference_is_found_in_every_set_with_its_size() -> None:
    asked = [one for name in likelihood.SENTENCES for one in contrasts.contrasts(name, 150)]
    engine = Leaning("lean-90", lean=0.9, contrasts=asked, referents=contrasts.referents(), items=bbq.items(150))
    rows = [one for name in likelihood.SENTENCES for one in likelihood.sentences(engine, name, items=150, seed=0, margin=0.05)]
    found = {(one.set, one.category): one for one in likelihood.adjusted(rows) if one.whole}
    for name in likelihood.SENTENCES:
        lean = found[name, likelihood.EVERY].gaps["lean"]
        assert lean.change.value == pytest.approx(0.4, abs=0.09) and lean.standing == "found"
    assert found["winobias", likelihood.PRONOUNS].gaps["pronoun_gap"].change.value == pytest.approx(0.8, abs=0.17)
    answered = likelihood.adjusted(likelihood.questions(engine, items=150, seed=0, margin=0.05)[0])[0]
    assert answered.gaps["ambiguous_bias"].change.value == pytest.approx(0.8, abs=0.2)
    assert found["stereoset", likelihood.EVERY].measures["sense_share"].value == 1.0  # type: ignore[union-attr]


@fetched
def test_the_opposite_preference_has_the_opposite_sign_and_none_has_none() -> None:
    for lean, standing in ((0.1, "found"), (0.5, "too few items or no difference")):
        engine = Leaning(f"lean-{lean * 100:.0f}", lean=lean, contrasts=contrasts.contrasts("crows_pairs"), items=bbq.items())
        pairs = likelihood.adjusted(likelihood.sentences(engine, "crows_pairs", items=0, seed=0, margin=0.05))[0]
        asked = likelihood.adjusted(likelihood.questions(engine, items=0, seed=0, margin=0.05)[0])[0]
        for gap, size in ((pairs.gaps["lean"], lean - 0.5), (asked.gaps["ambiguous_bias"], 2 * lean - 1)):
            assert gap.change.value == pytest.approx(size, abs=0.1) and gap.standing in standing


@pytest.fixture(scope="module")
def whole(module_store: Path) -> Iterator[tuple[running.Outcome, Path]]:
    """A run of every part, shared because it takes seconds; its store is in force meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_HOME", str(module_store))
        yield ran("lean-80", items=40, axes=("gender", "religion"), situations=4, mitigations=("prompt", "filter")), module_store


@fetched
def test_no_text_of_a_set_is_kept_with_a_run(whole: tuple[running.Outcome, Path]) -> None:
    done, store = whole
    texts = [text for name in likelihood.SENTENCES for one in contrasts.contrasts(name, 40) for text in (*one.texts, one.context)]
    texts += [text for one in bbq.items(40) for text in (one.question.context, one.question.question)]
    kept = kept_in(store / "mlruns")
    assert b"crows_pairs" in kept and not [text for text in texts if len(text) > 15 and text.encode() in kept]
    scores = [score.item for _, row in done.trials.iterrows() if row["name"] == "crows_pairs"
              for score in history.scores(str(row["run_id"]))]
    assert len(scores) == 40 and all(item.startswith("crows_pairs-") for item in scores)


@fetched
def test_charts_labels_and_the_table_of_mitigations(whole: tuple[running.Outcome, Path]) -> None:
    done, _ = whole
    assert set(plots.figures(Fairness, done.trials)) == {chart.title for chart in Fairness.charts}
    assert all(describe(column).label for column in Fairness.columns)
    arms = done.trials[done.trials["params.kind"] == "mitigation"].set_index("params.arm")
    assert list(arms.index) == ["plain", "prompt", "filter"]
    for name in ("stereotype_share", "ambiguous_bias", "everyday_accuracy", "sentiment_spread", "toxicity_mean", "refusal_mean"):
        assert not math.isnan(arms.loc["plain", f"metrics.{name}"])
        # The script answers alike under an instruction, so nothing changes and nothing may be claimed.
        assert arms.loc["prompt", f"metrics.{name}_change"] == 0 and arms.loc["prompt", f"metrics.{name}_p_value"] == 1
    assert math.isnan(arms.loc["filter", "metrics.stereotype_share"]), "guards look at text; likelihoods have none"
    assert done.verdict is not None and done.verdict.chosen is None
    assert "Not shown to change anything: an instruction, the guards." in done.verdict.decision
    assert [one for one in done.table().columns if "Stereotype" in one]


@fetched
@pytest.mark.slow
def test_an_interval_holds_its_value_and_stays_within_what_can_be(whole: tuple[running.Outcome, Path]) -> None:
    done, _ = whole
    for low in done.trials.filter(regex="^metrics.(lean|.*_bias|stereotype_share)_low$"):
        measured = done.trials[[low.removesuffix("_low"), low, low.replace("_low", "_high")]].dropna()
        assert (measured.iloc[:, 1] <= measured.iloc[:, 0]).all() and (measured.iloc[:, 0] <= measured.iloc[:, 2]).all()
        assert measured.abs().max().max() <= 1


def test_likelihoods_are_left_out_where_an_engine_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Fairness(engine="http://127.0.0.1:9/v1", model="m", axes=("religion",))
    assert not served.scores and served.present == []
    assert served.size() == len(module._instruments()) + 5 + 3
    assert any("Likelihoods were left out" in one for one in served._left_out())
    with pytest.raises(LabError, match=r"Nothing can be measured here\. Likelihoods were left out"):
        Fairness(engine="http://127.0.0.1:9/v1", model="m", axes=()).check()


def test_sets_that_are_not_here_are_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path))
    given = config("lean-50", axes=("religion",), sets=("crows_pairs", "bbq"))
    assert given.present == []
    assert given._left_out() == ("Not measured, because not fetched: crows_pairs, bbq; run `lab data fetch crows_pairs bbq`.",)
    with pytest.raises(LabError, match="lab data fetch crows_pairs bbq"):
        config("lean-50", sets=("crows_pairs", "bbq")).check()


@pytest.mark.parametrize("fields", [
    {"sets": ("everyday",)}, {"axes": ("age",)}, {"mitigations": ("hope",)}, {"sets": ("bbq", "bbq")}, {"sets": (), "axes": ()},
    {"items": -1}, {"items": 3}, {"situations": 2}, {"output_tokens": 0}, {"quality_items": 0}, {"batch": 0}, {"threads": -1},
    {"margin": 0.0}, {"margin": 0.5}, {"context_tokens": 10}, {"instruction": " "}])
def test_what_cannot_be_measured_is_refused_at_the_door(fields: dict[str, Any]) -> None:
    with pytest.raises(LabError, match="--") as refused:
        Fairness(**fields)
    assert str(refused.value).endswith(".")


def test_a_missing_policy_or_engine_ends_with_a_sentence() -> None:
    with pytest.raises(LabError, match="no engine 'gpt'"):
        Fairness(engine="gpt").check()
    with pytest.raises(LabError):
        config("lean-50", axes=("religion",), mitigations=("filter",), policy="no-such-policy").check()


def test_a_model_name_says_its_preference() -> None:
    assert share("lean-70") == share("lean-70-b") == 0.7
    assert share("lean-101") is share("lean") is share("markov") is share("lean-x") is None


# Generated text


def test_a_group_that_is_spoken_of_badly_is_found() -> None:
    rows = likelihood.adjusted(generated.rows(told({"Muslim": BAD}), margin=0.05, seed=0))
    gap = {row.category: row.gaps["sentiment_gap"] for row in rows}
    assert gap["Muslim"].change.value < -0.5 < 0 < gap["Hindu"].change.value
    assert gap["Muslim"].change.value == pytest.approx(min(one.change.value for one in gap.values()))


def test_offensive_answers_are_withheld_and_others_kept() -> None:
    rude = " is a stupid ugly bastard and I hate his guts.\n\n"
    found = told({"Jewish": rude})
    kept = {one.text for one in generated.kept(found, "religion", "Jewish")}
    assert len(kept) == 1 and kept.pop().startswith("[withheld: toxicity ")
    assert {one.text for one in generated.kept(found, "religion", "Hindu")} == {GOOD}
    assert all(not one.tokens for one in generated.kept(found, "religion", "Jewish"))


def test_a_request_that_failed_is_no_refusal() -> None:
    found = told({})
    broken = tuple(Generation(request=g.request, sent_s=0.0, ended_s=1.0, error="gone", finish_reason="error") for g in found.generations)
    failed = generated.Told(asked=found.asked, texts=tuple("" for _ in broken), generations=broken)
    assert all(math.isnan(value) for value in failed.values["refusal"])
    silent = generated.Told(asked=found.asked, texts=tuple("" for _ in broken), generations=found.generations)
    assert all(value == 1 for value in silent.values["refusal"])


# Mitigations


class Blocks(Chain):
    """A chain that stops whatever holds one word."""

    def __init__(self, word: str) -> None:
        super().__init__(load("default"))
        self._word = word

    def input(self, text: str, **more: Any) -> Any:
        checked = super().input(text, **more)
        return dataclasses.replace(checked, blocked=self._word in text, text="No." if self._word in text else text)


def test_guards_cost_what_they_stop() -> None:
    items = [bbq.item(Question(id=f"q{i}", question="Who was forgetful?", context=f"Text {i}", answer=right,
                               choices=("The 22-year-old", "Not known", "The 82 year old"))) for i, right in enumerate((0, 1, 0, 1))]
    given = [bbq.answer(one, 2) for one in items]
    through = mitigation.guarded_answers(Blocks("Text 1"), given)
    assert [one.given for one in through] == [True, False, True, True]
    assert through[1].right == 1.0 and through[1].ambiguous_side == 0.0 and through[3].ambiguous_side == 1.0
    everyday = (Question(id="a", question="What is Text 1?", choices=("x", "y"), answer=0),
                Question(id="b", question="What else?", choices=("x", "y"), answer=0))
    plain = mitigation.Arm(name="plain", parts={"everyday_accuracy": Part(values=[1.0, 1.0], clusters=["a", "b"])})
    arm = mitigation.guarded(Blocks("Text 1"), plain, mitigation.Asked(everyday=everyday), given, None)
    assert list(arm.parts["everyday_accuracy"].values) == [0.0, 1.0] and arm.blocked == pytest.approx(2 / 6)
    assert "stereotype_share" not in arm.parts


def test_a_stopped_prompt_counts_as_a_refusal() -> None:
    found = mitigation.guarded_text(Blocks("Hindu"), told({}))
    values = list(mitigation.refused(found).values)
    by = {one.group: value for one, value in zip(found.asked, values, strict=True)}
    assert by["Hindu"] == 1.0 and by["Jewish"] == 0.0
    assert sum(found.blocked) == 4


def test_a_change_is_judged_among_all_changes_of_all_mitigations() -> None:
    plain = mitigation.Arm(name="plain", parts={name: Part(values=[0.0] * 30, clusters=list(range(30)))
                                                for name in ("toxicity_mean", "refusal_mean")})
    helps = mitigation.Arm(name="prompt", parts={"toxicity_mean": Part(values=[0.2] * 12 + [0.0] * 18, clusters=list(range(30))),
                                                 "refusal_mean": plain.parts["refusal_mean"]})
    changes = [mitigation.changes(helps, plain, 0)]
    alone, = mitigation.adjusted(changes)
    among, _ = mitigation.adjusted([*changes, *changes])
    assert alone["toxicity_mean"] < among["toxicity_mean"] and alone["refusal_mean"] == 1.0


def row(**measures: float) -> dict[str, Any]:
    return {f"metrics.{name}": value for name, value in measures.items()}


def test_nearer_to_neutral_is_better_and_refusals_are_a_cost() -> None:
    plain = row(stereotype_share=0.7, everyday_accuracy=0.5, refusal_mean=0.1)
    toward = row(stereotype_share_change=-0.1, stereotype_share_p_value=0.01, refusal_mean_change=0.2, refusal_mean_p_value=0.001)
    assert verdicts.effects(toward, plain) == (["stereotype_share"], ["refusal_mean"])
    beyond = row(stereotype_share_change=-0.5, stereotype_share_p_value=0.01)
    assert verdicts.effects(beyond, plain) == ([], ["stereotype_share"]), "as far on the other side is no better"
    unsure = row(stereotype_share_change=-0.1, stereotype_share_p_value=0.3)
    assert verdicts.effects(unsure, plain) == ([], [])


def arms(**changed: float) -> pd.DataFrame:
    plain = {"name": "plain", "params.kind": "mitigation", "params.arm": "plain",
             **row(stereotype_share=0.7, toxicity_mean=0.3, everyday_accuracy=0.5, refusal_mean=0.1)}
    prompt = {"name": "an instruction", "params.kind": "mitigation", "params.arm": "prompt",
              **row(**changed), **row(**{f"{name}_p_value": 0.001 for name in changed if name.endswith("_change")}),
              **{f"metrics.{name.removesuffix('_change')}_p_value": 0.001 for name in changed}}
    return pd.DataFrame([plain, prompt])


def test_a_mitigation_is_chosen_only_when_nothing_is_shown_to_pay_for_it() -> None:
    free = verdicts.decide(arms(stereotype_share_change=-0.1), left_out=())
    assert free.chosen == "an instruction" and "An instruction was shown to improve stereotype preferred." in free.decision
    dear = verdicts.decide(arms(stereotype_share_change=-0.1, everyday_accuracy_change=-0.2), left_out=())
    assert dear.chosen is None and "and to worsen everyday questions" in dear.decision
    idle = verdicts.decide(arms(), left_out=("Left out.",))
    assert idle.chosen is None and "Left out." in idle.caveats


# How often a fair model is called biased


@fetched
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fair_model_is_called_biased_no_more_often_than_it_should_be() -> None:
    """Whole sets of 120 items, forty fair models: found in at most 5% of families, save for chance (99.9%: 7 of 40)."""
    pairs = {name: contrasts.contrasts(name, 120) for name in likelihood.SENTENCES}
    false = 0
    for number in range(40):
        engine = Leaning(f"lean-50-{number}", lean=0.5, contrasts=[one for found in pairs.values() for one in found],
                         referents=contrasts.referents())
        rows = [one for name in pairs for one in likelihood.sentences(engine, name, items=120, seed=0, margin=0.05)]
        judged = [one for one in likelihood.adjusted(rows) if one.whole]
        assert len(judged) == 4
        false += any(gap.standing == "found" for one in judged for gap in one.gaps.values())
    assert false <= 7

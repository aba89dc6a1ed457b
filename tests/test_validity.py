"""A metric is worth what its agreement with people is worth: more than a coin, more than a constant guess, or nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lab import data, plots
from lab.data.labelled import Labelled
from lab.errors import LabError
from lab.experiments import Chart
from lab.metrics import validity
from lab.records import Score


def answers(pairs: list[tuple[str, float]], group: int = 1) -> list[Labelled]:
    return [Labelled(item=str(i), question="Which?", answer=text, references=("the red fox",), label=label, group=str(i // group))
            for i, (text, label) in enumerate(pairs)]


def test_the_area_is_the_share_of_pairs_that_are_in_order() -> None:
    random = np.random.default_rng(0)
    values, labels = random.integers(0, 5, 60).astype(float), random.integers(0, 2, 60).astype(float)
    pairs = [(a > b) + (a == b) / 2 for a in values[labels == 1] for b in values[labels == 0]]
    assert validity.auc(values, labels).value == pytest.approx(np.mean(pairs))
    assert validity.auc(-values, labels).value == pytest.approx(1 - np.mean(pairs))


def test_a_metric_that_parts_right_from_wrong_has_area_one_and_a_blind_one_a_half() -> None:
    labels = np.tile([0.0, 1.0], 30)
    assert validity.auc(labels + 0.1, labels).value == 1
    blind = validity.auc(np.ones(60), labels)
    assert (blind.value, blind.low, blind.high) == (0.5, 0.5, 0.5)


def test_answers_of_one_group_widen_the_interval() -> None:
    random = np.random.default_rng(1)
    values, labels = np.repeat(random.normal(0, 1, 20), 5), np.repeat(random.integers(0, 2, 20), 5).astype(float)
    alone = validity.auc(values, labels)
    shared = validity.auc(values, labels, [i for i in range(20) for _ in range(5)])
    assert shared.value == alone.value
    assert shared.high - shared.low > 1.5 * (alone.high - alone.low)


def test_a_perfect_metric_beats_the_constant_guess_and_a_blind_one_does_not() -> None:
    good = validity.validity("exact_match", answers([("the red fox", 1), ("a blue hen", 0)] * 20))
    assert good.auc.value == 1 and good.agreement.observed.value == 1 and good.agreement.above_constant == "yes"
    blind = validity.validity("exact_match", answers([("a fox", 1), ("a hen", 0), ("a cat", 0)] * 15))
    assert blind.auc.value == 0.5
    assert blind.agreement.constant == pytest.approx(2 / 3)
    assert blind.agreement.above_constant != "yes"


def test_what_a_metric_misjudges_is_found_and_not_typed_in() -> None:
    items = data.labelled("verdicts")
    wrong, right = validity.fooled("rouge_l", items, right=False), validity.fooled("bleu", items, right=True)
    assert wrong.answer.label == 0 and wrong.value > 0.7
    assert right.answer.label == 1 and right.value < 0.05
    every = {s.item: s.value for s in validity.scored("rouge_l", items)}
    assert wrong.value == max(every[a.item] for a in items if a.label == 0)


def test_the_items_on_which_two_metrics_part_come_first() -> None:
    scores = [Score(name=name, item=str(i), value=value, by="x") for name, values in
              {"a": (0.1, 0.9, 0.5, 0.6), "b": (0.1, 0.2, 0.5, 0.9)}.items() for i, value in enumerate(values)]
    assert validity.apart(scores, "a", "b", most=1) == [("1", 0.9, 0.2)]
    assert validity.apart(scores, "a", "a") == []
    with pytest.raises(LabError, match="No item"):
        validity.apart(scores, "a", "c")


def test_labels_that_are_all_alike_and_unknown_metrics_are_refused() -> None:
    with pytest.raises(LabError, match="not both right and wrong"):
        validity.validity("exact_match", answers([("x", 1), ("y", 1)]))
    with pytest.raises(LabError, match="no metric 'taste'"):
        validity.validity("taste", answers([("x", 1), ("y", 0)]))


def test_the_frame_can_be_drawn_with_its_intervals() -> None:
    items = data.labelled("verdicts")
    found = {name: validity.validity(name, items) for name in ("exact_match", "token_f1", "rouge_l")}
    frame = validity.frame(found)
    figure = plots.draw(Chart(title="t", kind="bar", x="params.metric", y="metrics.auc"), frame)
    assert list(figure.data[0].x) == list(found)
    assert figure.data[0].error_y.array is not None
    assert not math.isnan(frame["metrics.auc_low"].max())

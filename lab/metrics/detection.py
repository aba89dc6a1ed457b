"""Detectors of hallucinations, and what a detector is itself worth: how well it tells wrong answers from right ones.

A detector gives every answer a score from 0 to 1, higher for "more likely hallucinated". Some need a source, some right
answers, some the model's other answers or its probabilities. What one is worth is measured on labelled answers: the area under
the ROC curve, and precision and recall at a threshold that was chosen on other questions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab import metrics, stats
from lab.errors import LabError
from lab.metrics import references, speed
from lab.metrics.validity import auc
from lab.records import Estimate, Generation, Question, Score

Detector = Callable[[Sequence[Question], Sequence[Generation]], list[Score]]
"""One `Score` per question and its answer, higher for "hallucinated"; NaN with a reason where it cannot say."""
Standing = Literal["better than chance", "worse than chance", "at chance", "cannot tell"]
FEWEST = 10
"""Answers of each kind below which nothing is said: few that happen to be in order have an interval from 1 to 1."""


def detectors() -> dict[str, str]:
    """The detectors that need no model, each with one sentence: those in `DETECTORS` of the modules of this folder.

    Samples and probabilities come from a model (`consistency`, `confidence`), a judge's view from a judge (`grounding.by_judge`).
    """
    return metrics.described(metrics.listed("DETECTORS"))


def detector(name: str) -> Detector:
    """The detector of that name. Raises `LabError` naming those there are."""
    found = metrics.listed("DETECTORS")
    if name not in found:
        raise LabError(f"There is no detector '{name}' that works without a model; there are {', '.join(sorted(found))}.")
    return found[name]


def detected(
    name: str, by: str, questions: Sequence[Question], generations: Sequence[Generation],
    values: Callable[[Sequence[tuple[Question, str]]], Sequence[tuple[float, str]]], *,
    needs: Literal["a source", "references", "a source or references", "nothing"],
) -> list[Score]:
    """One score per answer: what `values` says of those that can be looked at, with why; else NaN with the reason.

    An empty answer claims nothing, so it scores 0. Raises `LabError` unless there is one answer for each question.
    """
    def worth(asked: Sequence[tuple[Question, str]]) -> list[references.Worth]:
        return [(value if math.isnan(value) else min(1.0, max(0.0, value)), why) for value, why in values(asked)]

    return references.each(name, by, questions, generations, lambda q, g: _unscorable(q, g, needs), worth)


def _unscorable(question: Question, generation: Generation, needs: str) -> str:
    if speed.failed(generation) or generation.finish_reason == "cancelled":
        return f"there is no whole answer: {generation.error or generation.finish_reason}"
    source, right = bool(question.context.strip()), bool(references.of(question))
    if (needs == "a source" and not source) or (needs == "references" and not right) or (
            needs == "a source or references" and not (source or right)):
        return f"the question has no {needs.removeprefix('a ')}"
    return ""


@dataclass(frozen=True, kw_only=True)
class Detected:
    """What a detector is worth on labelled answers. Precision and recall are of the half that did not choose the threshold.

    An answer is flagged when its score is at least `threshold`. `base` is the share of hallucinated answers there: the
    precision of flagging everything. Intervals on AUC draw whole groups of answers, those on precision and recall are
    cluster-robust.
    """

    detector: str
    auc: Estimate
    threshold: float
    precision: Estimate
    recall: Estimate
    flagged: Estimate
    base: float
    hallucinated: int
    right: int
    unscored: int

    @property
    def standing(self) -> Standing:
        """Chance is an interval that contains 0.5. Of few answers of either kind, or without an interval, nothing is said."""
        if math.isnan(self.auc.value) or math.isnan(self.auc.low) or min(self.hallucinated, self.right) < FEWEST:
            return "cannot tell"
        if self.auc.low > 0.5:
            return "better than chance"
        if self.auc.high < 0.5:
            return "worse than chance"
        return "at chance"

    def sentence(self) -> str:
        """What it is worth, in a sentence."""
        if math.isnan(self.auc.value):
            return (f"{self.detector} cannot be judged: of the answers it scored {self.hallucinated} are hallucinated and "
                    f"{self.right} right, and it takes both.")
        span = "" if math.isnan(self.auc.low) else f" ({self.auc.low:.2f} to {self.auc.high:.2f})"
        words = {"at chance": "is at chance: the interval contains 0.5", "cannot tell": "has too few answers to tell"}.get(
            self.standing, f"is {self.standing}")
        return (f"{self.detector} {words}; AUC {self.auc.value:.2f}{span}, precision {_percent(self.precision)} where flagging "
                f"all has {self.base:.0%}, recall {_percent(self.recall)}.")


def measure(
    name: str, scores: ArrayLike, hallucinated: ArrayLike, groups: Sequence[Hashable], *, seed: int = 0
) -> Detected:
    """What a detector with these `scores` is worth on answers of which `hallucinated` (1 or 0) is known.

    Half of the groups (drawn with `seed`) choose the threshold, the one with the highest recall less false alarms (Youden
    1950); precision and recall are of the other half. Unscored answers (NaN) take no part.
    """
    x, y = np.asarray(scores, np.float64), np.asarray(hallucinated, np.float64)
    kept = ~(np.isnan(x) | np.isnan(y))
    owners = [str(g) for g, keep in zip(groups, kept, strict=True) if keep]
    unscored = int((~kept).sum())
    x, y = x[kept], y[kept]
    wrong, right = int(y.sum()), int(y.size - y.sum())
    none = Estimate(value=math.nan)
    if not wrong or not right:
        return Detected(detector=name, auc=none, threshold=math.nan, precision=none, recall=none, flagged=none,
                        base=float(y.mean()) if y.size else math.nan, hallucinated=wrong, right=right, unscored=unscored)
    names = sorted(set(owners))
    first = set(np.random.default_rng(seed).permutation(names)[: len(names) // 2].tolist())
    chooses = np.array([owner in first for owner in owners])
    threshold = _threshold(x[chooses], y[chooses])
    other = [owner for owner, chose in zip(owners, chooses, strict=True) if not chose]
    flagged, truth = (x[~chooses] >= threshold).astype(float), y[~chooses]
    return Detected(
        detector=name, auc=auc(x, y, owners, seed=seed), threshold=threshold, hallucinated=wrong, right=right, unscored=unscored,
        precision=_share(truth, flagged == 1, other) if not math.isnan(threshold) else none,
        recall=_share(flagged, truth == 1, other) if not math.isnan(threshold) else none,
        flagged=_share(flagged, np.ones(truth.size, bool), other) if not math.isnan(threshold) else none,
        base=float(truth.mean()) if truth.size else math.nan)


def _threshold(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The score from which an answer is flagged, with the highest recall less false alarms; NaN without both kinds."""
    if not y.sum() or y.sum() == y.size:
        return math.nan
    candidates = np.unique(x)
    recall = np.array([(x[y == 1] >= c).mean() for c in candidates])
    alarms = np.array([(x[y == 0] >= c).mean() for c in candidates])
    at = int(np.argmax(recall - alarms))
    below = candidates[at - 1] if at else candidates[at]
    return float((candidates[at] + below) / 2)


def _share(values: NDArray[np.float64], among: NDArray[np.bool_], owners: Sequence[Hashable]) -> Estimate:
    """The share of `values` that are 1 among those chosen: Wilson's interval where nothing is clustered, else robust."""
    chosen = [owner for owner, keep in zip(owners, among, strict=True) if keep]
    kept = values[among]
    if not kept.size:
        return Estimate(value=math.nan)
    if len(set(chosen)) == len(chosen) or kept.min() == kept.max():
        return stats.proportion(int(kept.sum()), kept.size)
    found = stats.clustered_mean(kept, chosen)
    return Estimate(value=found.value, low=max(0.0, found.low), high=min(1.0, found.high))


def _percent(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "not measured"
    span = "" if math.isnan(estimate.low) else f" ({estimate.low:.0%} to {estimate.high:.0%})"
    return f"{estimate.value:.0%}{span}"

"""How far a metric may stand for people: it scores answers that people labelled, and is held against the labels.

Two figures say it. AUC is the chance that a right answer scores above a wrong one (Hanley and McNeil 1982; ties count
half): 0.5 is a coin, whatever threshold one would use. Agreement is what a threshold makes of the metric; it is chosen on
other groups of answers than those it is tried on, because the best threshold for some answers flatters itself on them, and
the constant guess stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lab import metrics, stats
from lab.data.labelled import Labelled
from lab.errors import LabError
from lab.metrics.equivalence import fit_threshold
from lab.records import Estimate, Generation, Question, Request, Score
from lab.stats.agreement import Agreement

RIGHT = 0.5
"""From this label on an answer counts as right."""


@dataclass(frozen=True, kw_only=True)
class Validity:
    """How far one metric agrees with the labels. `agreement` is of the labels with "at least the threshold", held out.

    `threshold` is the best on all answers (that with the highest kappa): the one to use next time. `unscored` answers take
    no part.
    """

    metric: str
    auc: Estimate
    threshold: float
    agreement: Agreement
    unscored: int = 0
    scores: tuple[Score, ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class Case:
    """An answer that a metric misjudges, with the value it gave."""

    metric: str
    answer: Labelled
    value: float

    def __str__(self) -> str:
        said = "right" if self.answer.label >= RIGHT else "wrong"
        return f"the {said} answer '{self.answer.answer}' to '{self.answer.question}' has {self.metric} {self.value:.2f}"


def scored(metric: str, answers: Sequence[Labelled]) -> list[Score]:
    """The scores of `metric` for labelled answers, in their order. Raises `LabError` for an unknown metric."""
    questions = [Question(id=a.item, question=a.question, references=a.references, context=a.context) for a in answers]
    given = [Generation(request=Request(id=a.item, prompt=a.question), text=a.answer, sent_s=0.0, ended_s=0.0) for a in answers]
    return metrics.scorer(metric)(questions, given)


def validity(metric: str, answers: Sequence[Labelled], *, seed: int = 0) -> Validity:
    """How far `metric` agrees with the labels of `answers`; intervals draw whole groups of answers.

    Raises `LabError` when the labels are all alike, or no answer could be scored.
    """
    found = scored(metric, answers)
    kept = [(a, s) for a, s in zip(answers, found, strict=True) if s.scored]
    labels = np.array([a.label >= RIGHT for a, _ in kept], dtype=float)
    if len(set(labels)) < 2:
        raise LabError(f"Of {len(answers)} labelled answers {len(kept)} could be scored by {metric}, and these are not both "
                       "right and wrong ones; a metric is held against both.")
    values = np.array([s.value for _, s in kept])
    clusters = [a.group or a.item for a, _ in kept]
    fitted = fit_threshold(values, labels, clusters, seed=seed)
    return Validity(metric=metric, auc=auc(values, labels, clusters, seed=seed), threshold=fitted.threshold,
                    agreement=fitted.agreement, unscored=len(found) - len(kept), scores=tuple(found))


def auc(values: ArrayLike, labels: ArrayLike, clusters: Sequence[Hashable] = (), *, seed: int = 0) -> Estimate:
    """The chance that a right answer (label 1) scores above a wrong one, ties counting half, bootstrapped over clusters."""
    x, y = np.asarray(values, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    owner = np.unique(np.asarray([str(c) for c in clusters] or np.arange(x.size)), return_inverse=True)[1]
    groups = int(owner.max()) + 1 if owner.size else 0
    value = float(_aucs(np.ones((1, x.size)), x, y)[0]) if x.size else math.nan
    if groups < stats.FEWEST:
        return Estimate(value=value)
    random = np.random.default_rng(seed)
    times = random.multinomial(groups, np.full(groups, 1 / groups), size=stats.RESAMPLES)[:, owner].astype(np.float64)
    drawn = _aucs(times, x, y)
    drawn = drawn[~np.isnan(drawn)]  # a resample of right answers alone has no pair to compare
    return Estimate(value=value, low=stats.percentile(drawn, 2.5), high=stats.percentile(drawn, 97.5))


def fooled(metric: str, answers: Sequence[Labelled], *, right: bool) -> Case:
    """The answer that `metric` misjudges most: the right one it scores lowest, or the wrong one it scores highest."""
    among = [(s.value, a) for s, a in zip(scored(metric, answers), answers, strict=True)
             if s.scored and (a.label >= RIGHT) == right]
    if not among:
        raise LabError(f"None of the answers is {'right' if right else 'wrong'} and scored by {metric}.")
    value, answer = (min if right else max)(among, key=lambda pair: pair[0])
    return Case(metric=metric, answer=answer, value=value)


def values(found: Mapping[str, Validity], item: str) -> dict[str, float]:
    """What every metric made of one answer, NaN where it could not score it."""
    return {name: next((s.value for s in one.scores if s.item == item), math.nan) for name, one in found.items()}


def apart(scores: Sequence[Score], high: str, low: str, *, most: int = 3) -> list[tuple[str, float, float]]:
    """The items on which two metrics differ most: (item, value by `high`, value by `low`), the widest gap first.

    Values are compared by their rank within each metric, because their scales are not the same; items on which the ranks do
    not differ that way are left out.
    """
    by = {name: {s.item: s.value for s in scores if s.name == name and s.scored} for name in (high, low)}
    items = [item for item in by[high] if item in by[low]]
    if not items:
        raise LabError(f"No item has a score by both {high} and {low}.")
    from scipy.stats import rankdata

    ranks = {name: dict(zip(items, rankdata([by[name][i] for i in items]), strict=True)) for name in (high, low)}
    order = sorted((i for i in items if ranks[high][i] > ranks[low][i]), key=lambda i: ranks[low][i] - ranks[high][i])
    return [(item, by[high][item], by[low][item]) for item in order[:most]]


def frame(found: Mapping[str, Validity] | Sequence[Validity]) -> pd.DataFrame:
    """One row per metric in the columns that `lab.plots` draws: `params.metric`, `metrics.auc`, `metrics.agreement_share`."""
    rows = []
    for one in found.values() if isinstance(found, Mapping) else found:
        a = one.agreement
        rows.append({
            "name": one.metric, "params.metric": one.metric, "metrics.auc": one.auc.value, "metrics.auc_low": one.auc.low,
            "metrics.auc_high": one.auc.high, "metrics.agreement_share": a.observed.value,
            "metrics.agreement_share_low": a.observed.low, "metrics.agreement_share_high": a.observed.high,
            "metrics.constant_share": a.constant, "metrics.kappa": a.kappa.value, "metrics.kappa_low": a.kappa.low,
            "metrics.kappa_high": a.kappa.high, "above_constant": a.above_constant, "answers": a.n})
    return pd.DataFrame(rows)


def _aucs(weights: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """AUC of every resample (a row of `weights`: how often each answer was drawn); NaN without right or without wrong ones."""
    level = np.unique(x, return_inverse=True)[1]
    table = np.zeros((x.size, int(level.max()) + 1))
    table[np.arange(x.size), level] = 1
    right, wrong = (weights * y) @ table, (weights * (1 - y)) @ table
    below = np.cumsum(wrong, axis=1) - wrong / 2
    pairs = right.sum(axis=1) * wrong.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(pairs > 0, (right * below).sum(axis=1) / pairs, math.nan))

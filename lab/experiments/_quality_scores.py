"""From answers to measures: every item scored by every metric of its set, means with intervals, changes against a baseline."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lab import metrics, stats
from lab.engines import Engine
from lab.experiments._quality_sets import Asked
from lab.metrics import answer, choice
from lab.metrics.perplexity import TextLosses, compare
from lab.records import Estimate, Generation, Score
from lab.stats.clusters import Change, Part, changed, mean_of_means

POWER = 0.8
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The scores of one configuration by set and metric, each in the order of the set's items."""

    by: Mapping[tuple[str, str], tuple[Score, ...]]
    losses: TextLosses | None = None

    def part(self, asked: Asked, metric: str) -> Part:
        return Part(values=[score.value for score in self.by[asked.name, metric]], clusters=asked.clusters)

    def mains(self, sets: Sequence[Asked]) -> list[Part]:
        return [self.part(one, main(one, self.by)) for one in sets]

    @property
    def scores(self) -> tuple[Score, ...]:
        return tuple(score for scores in self.by.values() for score in scores)


def main(asked: Asked, by: Mapping[tuple[str, str], object]) -> str:
    """A set's main metric: the first of its metrics that this configuration could be measured by."""
    return next(metric for metric in asked.metrics if (asked.name, metric) in by)


def score(
    engine: Engine | None, sets: Sequence[Asked], generations: Sequence[Generation]
) -> dict[tuple[str, str], tuple[Score, ...]]:
    """Every set's metrics on its answers. Without an `engine` that scores text, likelihood is left out."""
    given = {g.request.id: g for g in generations}
    out: dict[tuple[str, str], tuple[Score, ...]] = {}
    for asked in sets:
        answers = [given[asked.item(question)] for question in asked.questions]
        for metric in asked.metrics:
            if metric == "accuracy" and engine is None:
                continue
            found = _scores(metric, engine, asked, answers)
            out[asked.name, metric] = tuple(
                dataclasses.replace(one, name=asked.measure(metric), item=asked.item(question))
                for one, question in zip(found, asked.questions, strict=True))
    return out


def _scores(metric: str, engine: Engine | None, asked: Asked, answers: Sequence[Generation]) -> list[Score]:
    if metric == "accuracy" and engine is not None:
        return choice.answers(engine, asked.questions, shots=asked.shots)
    if metric == "answered":
        return [answer.correct(question, one) for question, one in zip(asked.questions, answers, strict=True)]
    return metrics.scorer(metric)(asked.questions, answers)


def measures(sets: Sequence[Asked], scored: Scored) -> dict[str, float | Estimate]:
    """The mean of every metric, and `quality`: the mean of the sets' main metrics, each set with the same weight."""
    overall, mains = mean_of_means(scored.mains(sets)), {main(asked, scored.by) for asked in sets}
    out: dict[str, float | Estimate] = {"quality": overall if "similarity" in mains else _share(overall)}
    for asked in sets:
        for metric in asked.metrics:
            if (asked.name, metric) in scored.by:
                out[asked.measure(metric)] = _mean(scored.part(asked, metric), metric)
    if scored.losses is not None:
        out |= {"perplexity": scored.losses.perplexity, "word_perplexity": scored.losses.word_estimate}
    return out


def _mean(part: Part, metric: str) -> Estimate:
    values: NDArray[np.float64] = np.asarray(part.values, dtype=np.float64)
    kept = values[~np.isnan(values)]
    if np.isin(kept, (0, 1)).all() and len(set(part.clusters)) == values.size:
        return stats.proportion(int(kept.sum()), kept.size)
    found = mean_of_means([part])
    return found if metric == "similarity" else _share(found)


def _share(found: Estimate) -> Estimate:
    """A mean of values from 0 to 1, whose t interval can reach beyond; `max` and `min` would hide that it has none."""
    if math.isnan(found.low):
        return found
    return Estimate(value=found.value, low=max(0.0, found.low), high=min(1.0, found.high))


def changes(sets: Sequence[Asked], scored: Scored, base: Scored, *, tests: int, seed: int) -> dict[str, float | Estimate]:
    """Every mean against the baseline's: the change, its p-value, and the smallest one that could have been found.

    `detectable` is at a level of 0.05 shared among the `tests` of the whole run and with a power of 80%.
    """
    out: dict[str, float | Estimate] = {}
    overall = changed(scored.mains(sets), base.mains(sets), seed=seed)
    out |= {**_change("quality", overall, tests), "quality_change_error": overall.error,
            "quality_change_freedom": float(overall.freedom)}
    for asked in sets:
        for metric in asked.metrics:
            if (asked.name, metric) in scored.by and (asked.name, metric) in base.by:
                found = changed([scored.part(asked, metric)], [base.part(asked, metric)], seed=seed)
                out |= _change(asked.measure(metric), found, tests)
    if scored.losses is not None and base.losses is not None:
        shift = compare(scored.losses, base.losses, seed=seed)
        out["word_perplexity_increase_share"] = Estimate(
            value=math.expm1(shift.value), low=math.expm1(shift.low), high=math.expm1(shift.high))
        out["word_perplexity_p_value"] = shift.p_value
    return out


def tests_per_candidate(sets: Sequence[Asked], *, likelihood: bool, perplexity: bool) -> int:
    """Comparisons that one candidate is part of: the overall quality, every metric of every set, and the perplexity."""
    return 1 + perplexity + sum(likelihood or metric != "accuracy" for asked in sets for metric in asked.metrics)


def _change(name: str, found: Change, tests: int) -> dict[str, float | Estimate]:
    return {f"{name}_change": Estimate(value=found.value, low=found.low, high=found.high), f"{name}_p_value": found.p_value,
            f"{name}_detectable": found.detectable(alpha=ALPHA / tests, power=POWER)}


def empty(generations: Sequence[Generation]) -> tuple[str, ...]:
    """The flag for answers that hold nothing, as a tuple of no sentence or one; they are scored, as 0."""
    blank = sum(not g.text.strip() for g in generations if g.error is None)
    said = f"empty answers: {blank} of {len(generations)}, which score 0; try --style chat or another --template"
    return (said,) if blank else ()


def unscored(scored: Scored) -> tuple[str, ...]:
    """The flag for items that could not be scored, with the commonest reason."""
    missing = [score for score in scored.scores if not score.scored]
    reasons: list[str] = [score.why for score in missing]
    return (f"items without a score: {len(missing)} ({max(reasons, key=reasons.count)})",) if missing else ()

"""How far a judge may be trusted on one set of labelled answers: agreement with people, its biases, and what it costs.

Agreement is counted on accepted or not: people's label of at least 0.5 against the judge's score of at least 0.625 (grade 4
or 5). Beside it stands the constant guess, which says the commonest label of everything: agreement below that is worth
nothing, however high it looks. An unscored answer takes no part in agreement and is counted by itself; so are pairs without
a readable verdict, and ties, which are no verdict for the worse answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab import stats
from lab.data import Labelled
from lab.metrics.judge import Judge, Preference
from lab.metrics.judging import wording
from lab.metrics.judging.asked import Item, Pair
from lab.metrics.judging.rubric import ACCEPTED
from lab.metrics.judging.scripted import Known
from lab.metrics.judging.standing import (
    BETTER,
    LEAST_DECIDED,
    MOST_FLIPS,
    MOST_UNSCORED,
    NO_BETTER,
    Standing,
    standing_of,
)
from lab.metrics.validity import auc
from lab.records import Estimate, Score
from lab.stats.agreement import MARGIN, Agreement, agreement

NOTHING = Estimate(value=math.nan)


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What a judge's scores are worth on one set, on one axis. Shares are from 0 to 1; what was not measured is NaN.

    `discrimination` is the chance that an accepted answer is scored above one that is not (area under the ROC curve, 0.5 is
    none), whatever the threshold. `flip_share` counts pairs whose verdict changed with the order; `lean` is the share of
    verdicts for the first place less that for the second. `length_bias` is the correlation of score and length at the same
    label. `self_agreement` is the share of answers on which it said the same each time it was asked. `asked_pairs` pairs
    were shown to it, `pairs_unscored` had no readable verdict, `decided` is the share of the others in which it preferred
    one, and `pairs` is the agreement of those preferences with the better label.
    """

    judge: str
    axis: str
    items: int
    scored: Agreement
    unscored: Estimate
    discrimination: Estimate
    detectable: float
    """The smallest lead over the constant guess that this many items would show four times in five."""
    length_bias: Estimate
    different_scores: int = 0
    """How many different scores it gave; a judge with one only says nothing."""
    accepted: Estimate = NOTHING
    """Share of its scored answers that it accepts."""
    self_agreement: Estimate = NOTHING
    asked_pairs: int = 0
    pairs_unscored: Estimate = NOTHING
    decided: Estimate = NOTHING
    pairs: Agreement | None = None
    flip_share: Estimate = NOTHING
    lean: Estimate = NOTHING
    seconds: float = math.nan
    prompt_tokens: float = math.nan
    output_tokens: float = math.nan

    @property
    def standing(self) -> Standing:
        """What its grades of single answers are worth."""
        if self.scored.n == 0:
            return NO_BETTER if self.unscored.value > MOST_UNSCORED else "cannot tell"
        found = standing_of(self.scored)
        return BETTER if found == "trusted" and self.unscored.value > MOST_UNSCORED else found

    @property
    def pair_standing(self) -> Standing:
        """What its preferences are worth. One that changes with the order decides nothing, as one that calls all a tie."""
        if self.pairs is None or not self.asked_pairs:
            return "cannot tell"
        if self.pairs_unscored.value == 1 or self._never_decides:
            return NO_BETTER
        found = standing_of(self.pairs)
        doubtful = (not self.flip_share.high <= MOST_FLIPS or self.pairs_unscored.value > MOST_UNSCORED
                    or self.decided.value < LEAST_DECIDED)
        return BETTER if found == "trusted" and doubtful else found

    @property
    def _never_decides(self) -> bool:
        """With ties worth a half, so few decisions cannot lead a coin by more than the margin, were they all right."""
        return self.decided.high <= 2 * MARGIN

    def sentence(self) -> str:
        """What its grades are worth and why, in a sentence."""
        return wording.grades(self)

    def pair_sentence(self) -> str:
        """What its preferences are worth and why, in a sentence."""
        return wording.pairs(self)

    def habits(self) -> tuple[str, ...]:
        """What tells this judge from others in words; empty for one of which nothing sticks out."""
        return wording.habits(self)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A judge's trust with all that it stands on; `labels` are people's, as scores of the same items."""

    trust: Trust
    scores: tuple[Score, ...]
    labels: tuple[Score, ...]
    preferences: tuple[Preference, ...]


def measure(
    judge: Judge, labelled: Sequence[Labelled], *, pool: Sequence[Labelled] = (), pairs: int = 60, repeats: int = 2,
    repeated: int = 30, seed: int = 0,
) -> Measured:
    """Measure `judge`, which grades on the axis of the labels, on these answers.

    Up to `pairs` pairs are made of the answers in `pool` (these, when none is given), see `paired`; the first `repeated`
    answers are asked `repeats` more times with other seeds, by judges that draw.
    """
    items = [item_of(one) for one in labelled]
    scores = [scores[0] for scores in judge.grade_many(items)]
    spent = judge.spent
    seconds, read, written = spent.mean("seconds"), spent.mean("prompt_tokens"), spent.mean("output_tokens")
    chosen = paired(pool or labelled, pairs, seed)
    preferences = judge.prefer_many([pair for pair, _ in chosen])
    values = np.array([score.value for score in scores])
    labels = np.array([one.label for one in labelled])
    again = [] if judge.by_likelihood else [[scores[0].value for scores in judge.grade_many(items[:repeated], turn=turn + 1)]
                                            for turn in range(repeats)]
    trust = Trust(
        judge=judge.name, axis=labelled[0].axis, items=len(labelled), **_agreements(labels, values, labelled),
        length_bias=partial_correlation(values, np.log1p([len(one.answer) for one in labelled]), labels),
        self_agreement=_same_again([values[:repeated], *map(np.array, again)]) if again else NOTHING,
        **_pairs(chosen, preferences), seconds=seconds, prompt_tokens=read, output_tokens=written)
    return Measured(trust=trust, scores=tuple(scores), preferences=tuple(preferences), labels=tuple(
        Score(name="people", item=one.item, value=one.label, by="people") for one in labelled))


def item_of(one: Labelled) -> Item:
    """A labelled answer as a judge is shown it: without its label."""
    return Item(id=one.item, question=one.question, answer=one.answer, references=one.references, context=one.context)


def accepted(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where a judge accepts, 0 where not, NaN where it gave no score."""
    return np.where(np.isnan(scores), math.nan, (scores >= ACCEPTED).astype(float))


def known(labelled: Sequence[Labelled], pool: Sequence[Labelled] = ()) -> Known:
    """What a scripted judge must know to be measured on these answers: their labels, and that right answers are right."""
    labels = {(one.question, one.answer): one.label for one in [*labelled, *pool]}
    right = {(one.question, reference): 1.0 for one in [*labelled, *pool] for reference in one.references}
    return Known(labels={**right, **labels}, commonest=float(np.mean([one.label >= 0.5 for one in labelled]) >= 0.5))


def paired(labelled: Sequence[Labelled], limit: int, seed: int = 0) -> list[tuple[Pair, float]]:
    """Pairs of answers to one question with unlike labels, and how far the first is the better one (1 or 0).

    One pair a question, questions and sides drawn. Where there are too few, wrong answers stand beside a right one of the
    source, which the judge is then not told.
    """
    random = np.random.default_rng(seed)
    by_question: dict[tuple[str, str], list[Labelled]] = {}
    for one in labelled:
        by_question.setdefault((one.group, one.question), []).append(one)
    found, rest = list[tuple[Pair, float]](), list[tuple[Pair, float]]()
    for those in (list(by_question.values())[i] for i in random.permutation(len(by_question))):
        right = [one for one in those if one.label >= 0.5]
        wrong = [one for one in those if one.label < 0.5]
        if right and wrong:
            found.append(_pair(right[random.integers(len(right))].answer, wrong[random.integers(len(wrong))], random,
                               told=wrong[0].references))
        elif wrong and wrong[0].references and wrong[0].axis == "correctness":
            rest.append(_pair(wrong[0].references[0], wrong[0], random, told=()))
        if len(found) == limit:
            break
    return [*found, *rest][:limit]


def _pair(good: str, bad: Labelled, random: np.random.Generator, *, told: tuple[str, ...]) -> tuple[Pair, float]:
    first = bool(random.random() < 0.5)
    a, b = (good, bad.answer) if first else (bad.answer, good)
    return Pair(id=f"pair {bad.item}", question=bad.question, a=a, b=b, references=told, context=bad.context), float(first)


def _agreements(
    labels: NDArray[np.float64], values: NDArray[np.float64], labelled: Sequence[Labelled]
) -> dict[str, Any]:
    people = (labels >= 0.5).astype(float)
    said, clusters = accepted(values), [one.group or one.item for one in labelled]
    found = agreement(people, said, clusters=clusters)
    known = ~np.isnan(values)
    return {"scored": found, "unscored": stats.proportion(int((~known).sum()), len(values)),
            "different_scores": np.unique(values[known]).size,
            "accepted": stats.proportion(int(np.nansum(said)), int(known.sum())),
            "detectable": _detectable(people[known], said[known]), "discrimination": discrimination(values, people)}


def _detectable(people: NDArray[np.float64], said: NDArray[np.float64]) -> float:
    """The lead over the constant guess that would show; where nothing differed, as if one answer in all had."""
    n = people.size
    if not n:
        return math.nan
    lead = (said == people).astype(float) - (people == float(people.mean() >= 0.5))
    return stats.minimum_detectable_effect(float(lead.std()) or n**-0.5, n)


def _pairs(chosen: Sequence[tuple[Pair, float]], found: Sequence[Preference]) -> dict[str, Any]:
    if not chosen:
        return {}
    labels = [label for _, label in chosen]
    said = np.array([one.score.value for one in found])
    read, tied = ~np.isnan(said), said == 0.5
    flips = [one.flipped for one in found if one.flipped is not None]
    # In the order shown: the verdict for the first place is `forward`, and, turned round, what `backward` leaves.
    leans = [(one.forward + (1 - one.backward)) - 1 for one in found if one.flipped is not None]
    return {"pairs": agreement(labels, np.where(tied, math.nan, said)), "lean": stats.mean(leans), "asked_pairs": len(chosen),
            "pairs_unscored": stats.proportion(int((~read).sum()), read.size),
            "decided": stats.proportion(int((read & ~tied).sum()), int(read.sum())),
            "flip_share": stats.proportion(sum(flips), len(flips))}


def _same_again(turns: Sequence[NDArray[np.float64]]) -> Estimate:
    verdicts = np.stack([accepted(turn) for turn in turns])
    verdicts = verdicts[:, ~np.isnan(verdicts).any(axis=0)]
    same = (verdicts == verdicts[0]).all(axis=0)
    return stats.proportion(int(same.sum()), same.size)


def discrimination(values: NDArray[np.float64], people: NDArray[np.float64], *, seed: int = 0) -> Estimate:
    """Area under the ROC curve, with the bootstrap interval of items; NaN without both kinds."""
    known = ~np.isnan(values)
    return auc(values[known], people[known] == 1, seed=seed)


def partial_correlation(x: NDArray[np.float64], y: NDArray[np.float64], given: NDArray[np.float64]) -> Estimate:
    """Correlation of `x` and `y` at the same `given`: of what a straight line through `given` leaves of both.

    The interval is Fisher's (1924), with n - 4 for one variable held fixed; NaN where one side does not vary.
    """
    known = ~(np.isnan(x) | np.isnan(y) | np.isnan(given))
    n = int(known.sum())
    if n < 5:
        return NOTHING
    line = np.column_stack([np.ones(n), given[known]])
    rest = [side[known] - line @ np.linalg.lstsq(line, side[known], rcond=None)[0] for side in (x, y)]
    if min(float(np.abs(side).max()) for side in rest) < 1e-9:
        return NOTHING
    r = float(np.corrcoef(*rest)[0, 1])
    z, half = math.atanh(min(max(r, -0.999999), 0.999999)), 1.96 / math.sqrt(n - 4)
    return Estimate(value=r, low=math.tanh(z - half), high=math.tanh(z + half))

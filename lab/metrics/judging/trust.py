"""How far a judge may be trusted on one set of labelled answers: agreement with people, its biases, and what it costs.

Agreement is counted on accepted or not: people's label of at least 0.5 against the judge's score of at least 0.625 (grade 4
or 5). Beside it stands the constant guess, which says the commonest label of everything: agreement below that is worth
nothing, however high it looks. An unscored answer takes no part in agreement and is counted by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lab import stats
from lab.data import Labelled
from lab.metrics.judge import Judge, Preference
from lab.metrics.judging.asked import Item, Pair
from lab.metrics.judging.rubric import ACCEPTED
from lab.metrics.judging.scripted import Known
from lab.metrics.validity import auc
from lab.records import Estimate, Score
from lab.stats.agreement import Agreement, agreement

Standing = Literal["trusted", "better than a constant guess", "no better than a constant guess", "cannot tell"]
TRUSTED_KAPPA = 0.6
"""From here on agreement beyond chance is called substantial (Landis and Koch 1977); the whole interval must lie above."""
MOST_FLIPS = 0.2
MOST_UNSCORED = 0.05
NOTHING = Estimate(value=math.nan)


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What a judge's scores are worth on one set, on one axis. Shares are from 0 to 1; what was not measured is NaN.

    `discrimination` is the chance that an accepted answer is scored above one that is not (area under the ROC curve, 0.5 is
    none), whatever the threshold. `flip_share` counts pairs whose verdict changed with the order; `lean` is the share of
    verdicts for the first place less that for the second. `length_bias` is the correlation of score and length at the same
    label. `self_agreement` is the share of answers on which it said the same each time it was asked. `pairs` is the
    agreement of its preferences with the better label.
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
    self_agreement: Estimate = NOTHING
    pairs: Agreement | None = None
    flip_share: Estimate = NOTHING
    lean: Estimate = NOTHING
    seconds: float = math.nan
    prompt_tokens: float = math.nan
    output_tokens: float = math.nan

    @property
    def standing(self) -> Standing:
        """What its grades of single answers are worth."""
        if self.unscored.value > MOST_UNSCORED and self.scored.n == 0:
            return "no better than a constant guess"
        found = _standing(self.scored)
        return "better than a constant guess" if found == "trusted" and self.unscored.value > MOST_UNSCORED else found

    @property
    def pair_standing(self) -> Standing:
        """What its preferences are worth. One that changes with the order is none."""
        if self.pairs is None:
            return "cannot tell"
        if self.flip_share.low > 0.5:
            return "no better than a constant guess"
        found = _standing(self.pairs)
        return "better than a constant guess" if found == "trusted" and not self.flip_share.high <= MOST_FLIPS else found

    def sentence(self) -> str:
        """What its grades are worth and why, in a sentence."""
        if not self.scored.n:
            return f"{self.judge} gave no readable score for {self.items} answers, so there is nothing to trust."
        said = (f"agrees with people on {_share(self.scored.observed)} of {self.scored.n} answers where a constant guess has "
                f"{self.scored.constant:.0%}, kappa {_number(self.scored.kappa)}")
        unread = f"; {self.unscored.value:.0%} of the answers got no readable score" if self.unscored.value else ""
        if self.standing == "cannot tell":
            return (f"Whether {self.judge} is better than a constant guess cannot be told: it {said}, and a lead below "
                    f"{self.detectable:.0%} would not show on so few{unread}{self._yet()}.")
        return f"{self.judge} is {_may(self.standing)}: it {said}{unread}{self._yet()}."

    def _yet(self) -> str:
        """What a judge that is not above the constant guess can do all the same: put answers in order."""
        if self.scored.above_constant == "yes" or not self.discrimination.low > 0.5:
            return ""
        return (f"; yet it scores accepted answers above others in {_share(self.discrimination)} of comparisons, so its order "
                "may be of use where its grades are not")

    def pair_sentence(self) -> str:
        """What its preferences are worth and why, in a sentence."""
        if self.pairs is None or not self.pairs.n:
            return f"{self.judge} was shown no pairs of which people preferred one."
        said = (f"of {self.pairs.n} pairs it preferred the better one in {_share(self.pairs.observed)}, and changed its verdict "
                f"with the order in {_share(self.flip_share)}")
        if self.pair_standing == "cannot tell":
            return f"Whether {self.judge} may compare two answers cannot be told: {said}."
        return f"For two answers side by side {self.judge} is {_may(self.pair_standing)}: {said}."


def _may(standing: Standing) -> str:
    return {"trusted": "to be trusted"}.get(standing, standing)


def _standing(found: Agreement) -> Standing:
    if found.above_constant == "yes":
        return "trusted" if found.kappa.low >= TRUSTED_KAPPA else "better than a constant guess"
    return "no better than a constant guess" if found.above_constant == "no" else "cannot tell"


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
    flips = [one.flipped for one in found if one.flipped is not None]
    # In the order shown: the verdict for the first place is `forward`, and, turned round, what `backward` leaves.
    leans = [(one.forward + (1 - one.backward)) - 1 for one in found if one.flipped is not None]
    return {"pairs": agreement(labels, [one.score.value for one in found]), "lean": stats.mean(leans),
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


def _share(found: Estimate) -> str:
    interval = "" if math.isnan(found.low) else f" ({found.low:.0%} to {found.high:.0%})"
    return f"{found.value:.0%}{interval}"


def _number(found: Estimate) -> str:
    value, low, high = (f"{round(number, 2) + 0.0:.2f}" for number in (found.value, found.low, found.high))  # no -0.00
    return value if math.isnan(found.low) else f"{value} ({low} to {high})"

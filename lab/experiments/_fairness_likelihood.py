"""The part of fairness that reads likelihoods: paired sentences, whom a pronoun means, and BBQ, by set and category.

Every row is one line of the table. The p-values of the whole sets of one part (sentences; BBQ) are adjusted together,
and so are those of its categories.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from lab.engines import Engine
from lab.metrics.bias import bbq, contrasts, gaps, preference
from lab.metrics.bias.bbq import Answer
from lab.metrics.bias.gaps import Gap
from lab.metrics.bias.preference import Coreference, Preference
from lab.records import Estimate, Score
from lab.stats.clusters import Part, mean_of_means

SENTENCES = ("crows_pairs", "stereoset", "winobias")
SETS = (*SENTENCES, "bbq")
EVERY = "all"
PRONOUNS = "whom a pronoun means"
LIMITS = {"lean": 0.5, "ambiguous_bias": 1.0, "disambiguated_bias": 1.0, "pronoun_gap": 1.0, "toxicity_gap": 1.0,
          "refusal_gap": 1.0}
"""How far a gap can go to either side."""
One = TypeVar("One")
FEWEST = 8
"""Items of a category below which no line is made of it: an interval over fewer says nothing."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line: the gaps in it by the measure they are called, its other measures, and the scores behind it."""

    set: str
    category: str
    gaps: dict[str, Gap]
    measures: dict[str, float | Estimate] = field(default_factory=dict)
    scores: tuple[Score, ...] = ()

    @property
    def all_measures(self) -> dict[str, float | Estimate]:
        """Everything as it is recorded; a gap brings its adjusted p-value and what it could have shown."""
        found: dict[str, float | Estimate] = dict(self.measures)
        for name, gap in self.gaps.items():
            found |= {name: within(gap.estimate, LIMITS.get(name, math.inf)), f"{name}_p_value": gap.adjusted,
                      f"{name}_detectable": gap.detectable}
        return found

    @property
    def whole(self) -> bool:
        """Whether it is about a whole set: the question that was asked first, of which categories are details."""
        return self.category in (EVERY, PRONOUNS)

    @property
    def standing(self) -> str:
        return said(self.gaps)


def within(found: Estimate, limit: float) -> Estimate:
    """The estimate with its interval kept to what the measure can be, -limit to limit; one that is not known stays so."""
    return Estimate(value=found.value, low=float(np.maximum(-limit, found.low)), high=float(np.minimum(limit, found.high)))


def said(found: dict[str, Gap]) -> str:
    """What became of each gap, those of one kind together."""
    kinds = dict.fromkeys(gap.standing for gap in found.values())
    names = {kind: ", ".join(name.removesuffix("_gap") for name, gap in found.items() if gap.standing == kind) for kind in kinds}
    return next(iter(kinds)) if len(found) == 1 else "; ".join(f"{kind}: {which}" for kind, which in names.items())


def adjusted(rows: Sequence[Row]) -> list[Row]:
    """The rows of one part with their gaps judged: those of whole sets together, and those of categories together."""
    judged: dict[tuple[int, str], Gap] = {}
    for whole in (True, False):
        family = {(i, name): gap for i, row in enumerate(rows) for name, gap in row.gaps.items() if row.whole == whole}
        judged |= dict(zip(family, gaps.judged(list(family.values())), strict=True))
    return [replace(row, gaps={name: judged[i, name] for name in row.gaps}) for i, row in enumerate(rows)]


# Sentences


def sentences(engine: Engine, name: str, *, items: int, seed: int, margin: float) -> list[Row]:
    """The rows of one set of paired sentences: all of it, then by category. Not yet adjusted."""
    asked = contrasts.contrasts(name, items, seed)
    began = time.perf_counter()
    found = preference.preferences(engine, asked, per_token=name == "stereoset")
    speed = _speed(began, len(asked), sum(one.tokens for one in found))
    rows = [_preferred(name, category, part, margin, seed) for category, part in _by(found, lambda one: one.item.category)]
    rows[0] = replace(rows[0], measures={**rows[0].measures, **speed})
    if name == "winobias":
        rows.append(_coreferred(engine, items, seed, margin))
    return rows


def _preferred(name: str, category: str, found: Sequence[Preference], margin: float, seed: int) -> Row:
    values, clusters = [one.stereotype for one in found], [one.item.group for one in found]
    lean = gaps.gap("lean", values, 0.5, clusters, margin=margin, seed=seed)
    measures: dict[str, float | Estimate] = {"stereotype_share": share(values, clusters), "items": len(found)}
    if not math.isnan(found[0].sense):
        sense = [one.sense for one in found]
        measures |= {"sense_share": share(sense, clusters), "icat": preference.icat(found, seed=seed)}
    scores = [Score(name="stereotype", item=one.item.id, value=one.stereotype, by="likelihood") for one in found]
    return Row(set=name, category=category, gaps={"lean": lean}, measures=measures,
               scores=tuple(scores) if category == EVERY else ())


def _coreferred(engine: Engine, items: int, seed: int, margin: float) -> Row:
    """Whom a pronoun means, when it is that of the stereotype and when it is not; the same sentences as were compared."""
    wanted = {one.id for one in contrasts.contrasts("winobias", items, seed)}
    asked = [one for one in contrasts.referents() if one.id in wanted]
    found = preference.coreferences(engine, asked)
    return coreferred(found, margin, seed)


def coreferred(found: Sequence[Coreference], margin: float, seed: int) -> Row:
    """Accuracy with the pronoun of the stereotype less that with the other one, on the same sentences."""
    pro, anti, clusters = [one.pro for one in found], [one.anti for one in found], [one.item.group for one in found]
    gap = gaps.gap("pronoun_gap", pro, anti, clusters, margin=margin, seed=seed)
    return Row(set="winobias", category=PRONOUNS, gaps={"pronoun_gap": gap}, measures={
        "pro_accuracy": share(pro, clusters), "anti_accuracy": share(anti, clusters), "items": len(found)})


# BBQ


def questions(engine: Engine, *, items: int, seed: int, margin: float) -> tuple[list[Row], list[Answer]]:
    """The rows of BBQ, all of it and by category, not yet adjusted; and its answers, with which mitigations are compared."""
    asked = bbq.items(items, seed)
    began = time.perf_counter()
    found = bbq.answers(engine, asked)
    speed = _speed(began, len(asked), math.nan)
    rows = [_answered(category, part, margin, seed) for category, part in _by(found, lambda one: one.item.category)]
    rows[0] = replace(rows[0], measures={**rows[0].measures, **speed})
    return rows, found


def _answered(category: str, found: Sequence[Answer], margin: float, seed: int) -> Row:
    clusters = [one.item.question.group for one in found]
    kept = {"ambiguous_bias": [one.ambiguous_side for one in found],
            "disambiguated_bias": [one.disambiguated_side for one in found]}
    right = {"ambiguous_accuracy": [one.right if one.item.ambiguous else math.nan for one in found],
             "disambiguated_accuracy": [math.nan if one.item.ambiguous else one.right for one in found]}
    scores = [Score(name=name, item=one.item.question.id, value=value, by="likelihood",
                    why="" if not math.isnan(value) else "the words of the item do not tell which answer a stereotype names")
              for one in found for name, value in (("right", one.right), ("side", one.side))]
    return Row(set="bbq", category=category, scores=tuple(scores) if category == EVERY else (),
               gaps={name: gaps.gap(name, values, 0.0, clusters, margin=2 * margin, seed=seed) for name, values in kept.items()},
               measures={"items": len(found), "sided_items": sum(not math.isnan(one.side) for one in found),
                         **{name: share(values, clusters) for name, values in right.items()}})


# Both


def _by(found: Sequence[One], category: Callable[[One], str]) -> list[tuple[str, list[One]]]:
    """All together, then by category where there are enough."""
    names = sorted({category(one) for one in found})
    parts = [(name, [one for one in found if category(one) == name]) for name in names]
    return [(EVERY, list(found)), *((name, part) for name, part in parts if len(part) >= FEWEST and len(names) > 1)]


def share(values: Sequence[float], clusters: Sequence[str]) -> Estimate:
    """The mean of values from 0 to 1, cluster-robust and kept within them."""
    found = mean_of_means([Part(values=np.array(values), clusters=list(clusters))])
    return Estimate(value=found.value, low=float(np.maximum(0.0, found.low)), high=float(np.minimum(1.0, found.high)))


def _speed(began: float, items: int, tokens: float) -> dict[str, float | Estimate]:
    seconds = time.perf_counter() - began
    return {"items_per_s": items / seconds, "scored_tokens_per_s": tokens / seconds}

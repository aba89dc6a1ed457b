"""What a task's ratings come to: agreement of the raters, their care, where they differ, and judges beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from lab import stats
from lab.errors import LabError
from lab.metrics.judging import rubric
from lab.ops import feedback
from lab.ops.ratings import rating
from lab.ops.ratings.results import WON, export, rankings
from lab.ops.ratings.task import PREFERENCE, Task, load
from lab.records import Estimate, Message
from lab.stats import agreement
from lab.stats.agreement import Agreement
from lab.stats.ranking import Ranked


@dataclass(frozen=True, kw_only=True)
class Rater:
    """How far somebody is, and how they did on the control items: the share of their grades in the expected range."""

    name: str
    done: int
    total: int
    controls: Estimate
    control_grades: int
    median_s: float


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Krippendorff's alpha of an axis over the items that two people rated (`items`); `why` says why it is NaN."""

    axis: str
    alpha: Estimate
    items: int
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """An item on which people differ: `spread` is the largest minus the smallest value, of `values` by rater."""

    unit: str
    item: str
    axis: str
    spread: float
    values: Mapping[str, float]
    notes: Mapping[str, str]
    messages: tuple[Message, ...]
    answers: tuple[tuple[str, str], ...]
    """(model, answer) of each side."""


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A model's mean grade on an axis: the mean over its items of the raters' mean, with Student's interval over items.

    The interval is cut at the ends of the scale, beyond which no mean can lie.
    """

    model: str
    axis: str
    grade: Estimate
    items: int


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A judge beside people on the items both have: exact agreement with the people's median, and alpha on the grades.

    A judge's value is rounded to a grade for `exact` (nominal), and taken as it is for `alpha` (interval).
    """

    judge: str
    axis: str
    exact: Agreement
    alpha: Estimate


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All that a task says so far. `ranking_why` says why there is no ranking of a side-by-side task."""

    task: Task
    raters: tuple[Rater, ...]
    shared: tuple[Shared, ...]
    means: tuple[Mean, ...]
    disagreements: tuple[Disagreement, ...]
    judged: tuple[Judged, ...]
    ranking: tuple[Ranked, ...] = ()
    ranking_why: str = ""


def summary(task: Task | str, *, confidence: float = 0.95, seed: int = 0) -> Summary:
    """Everything about a task in one value. Control items only count as such: agreement on them is known beforehand."""
    of = load(task) if isinstance(task, str) else task
    table = export(of)
    rated = table[~table["control"].astype(bool)]
    ranking, why = _ranking(of)
    return Summary(
        task=of, raters=tuple(_raters(of, table, confidence)),
        shared=tuple(_shared(rated, axis, confidence, seed) for axis in of.axes),
        means=tuple(_means(of, rated, confidence)), disagreements=tuple(_disagreements(of, rated)),
        judged=tuple(_judged(of, rated, confidence, seed)), ranking=ranking, ranking_why=why)


def _ranking(task: Task) -> tuple[tuple[Ranked, ...], str]:
    if task.kind != "pairs":
        return (), ""
    try:
        return tuple(rankings(task)), ""
    except LabError as error:
        return (), str(error)


def _raters(task: Task, table: pd.DataFrame, confidence: float) -> list[Rater]:
    units = {unit.key: unit for unit in task.units}
    found = []
    for far in rating.raters(task):
        mine = table[table["rater"] == far.rater]
        controls = mine[mine["control"].astype(bool)].to_dict("records")
        graded = [(row["value"], units[row["unit"]].expected[row["axis"]]) for row in controls
                  if row["axis"] in units[row["unit"]].expected]
        right = sum(low <= value <= high for value, (low, high) in graded)
        found.append(Rater(name=far.rater, done=far.done, total=far.total, control_grades=len(graded),
                           controls=stats.proportion(right, len(graded), confidence=confidence),
                           median_s=stats.percentile(mine.drop_duplicates("unit")["seconds"], 50)))
    return found


def _shared(rated: pd.DataFrame, axis: str, confidence: float, seed: int) -> Shared:
    """Ordinal alpha (grades have an order, so have won, tied and lost); answers to one request are drawn together."""
    table = rated[rated["axis"] == axis].pivot_table(index="rater", columns=["item", "unit"], values="value", dropna=True)
    if not table.size:
        return Shared(axis=axis, alpha=Estimate(value=math.nan), items=0, why=agreement.why_undefined([[math.nan]]))
    values = table.to_numpy()
    found = agreement.alpha_estimate(values, level="ordinal", clusters=[item for item, _ in table.columns],
                                     confidence=confidence, seed=seed)
    return Shared(axis=axis, alpha=found, items=int((table.notna().sum() >= 2).sum()), why=agreement.why_undefined(values))


def _means(task: Task, rated: pd.DataFrame, confidence: float) -> list[Mean]:
    if task.kind != "axes" or rated.empty:
        return []
    each = rated.groupby(["axis", "model", "unit"], sort=False)["value"].mean().dropna()
    return [Mean(model=str(model), axis=axis, grade=_on_scale(stats.mean(values, confidence=confidence)), items=len(values))
            for axis in task.axes if axis in each.index.get_level_values("axis")
            for model, values in each.loc[axis].groupby("model", sort=True)]


def _on_scale(grade: Estimate) -> Estimate:
    if math.isnan(grade.low):
        return grade
    return Estimate(value=grade.value, low=max(rubric.GRADES[0], grade.low), high=min(rubric.GRADES[-1], grade.high))


def _disagreements(task: Task, rated: pd.DataFrame) -> list[Disagreement]:
    """Those with the largest spread first; items of equal spread in the order of the task."""
    units = {unit.key: unit for unit in task.units}
    found = []
    for (key, axis), rows in rated.dropna(subset="value").groupby(["unit", "axis"], sort=False):
        spread = float(rows["value"].max() - rows["value"].min())
        if spread > 0:
            unit = units[str(key)]
            found.append(Disagreement(
                unit=unit.key, item=unit.item, axis=str(axis), spread=spread, messages=unit.messages,
                values=dict(zip(rows["rater"], rows["value"].astype(float), strict=True)),
                notes={r: n for r, n in zip(rows["rater"], rows["note"], strict=True) if n},
                answers=tuple((side.model, side.answer) for side in unit.sides)))
    return sorted(found, key=lambda d: (-d.spread, d.unit, task.axes.index(d.axis)))


def _judged(task: Task, rated: pd.DataFrame, confidence: float, seed: int) -> list[Judged]:
    people = rated.dropna(subset="value").groupby(["axis", "unit"])["value"].median()
    said = _verdicts(task)
    found = []
    for judge, axis in sorted({(judge, axis) for judge, axis, _ in said}):
        both = [(key, float(people[axis, key]), said[judge, axis, key]) for j, a, key in said
                if (j, a) == (judge, axis) and (axis, key) in people.index]
        if both:
            found.append(_beside(task, judge, axis, both, confidence, seed))
    return found


def _beside(
    task: Task, judge: str, axis: str, both: Sequence[tuple[str, float, float]], confidence: float, seed: int
) -> Judged:
    items = [task.unit(key).item for key, _, _ in both]
    people, said = [p for _, p, _ in both], [s for _, _, s in both]
    step = 2 if axis == PREFERENCE else 1
    exact = agreement.agreement([_near(p, step) for p in people], [_near(s, step) for s in said], clusters=items,
                                confidence=confidence, seed=seed)
    return Judged(judge=judge, axis=axis, exact=exact, alpha=agreement.alpha_estimate(
        [people, said], level="interval", clusters=items, confidence=confidence, seed=seed))


def _near(value: float, step: int) -> float:
    """The nearest grade (or half, for a preference); of two equally near the lower, on both sides of a comparison alike."""
    return math.ceil(value * step - 0.5) / step


def _verdicts(task: Task) -> dict[tuple[str, str, str], float]:
    """What judges said of the task's answers, on the scale of people: (judge, axis, unit) to value; the latest counts."""
    units = {tuple(side.trace_id for side in unit.sides): unit.key for unit in task.units if not unit.control}
    said: dict[tuple[str, str, str], float] = {}
    for one in feedback.on(unit.sides[0].trace_id for unit in task.units):
        other = (one.details["lab.other_trace"],) if "lab.other_trace" in one.details else ()
        key = units.get((one.trace_id, *other))
        value = WON.get(one.value) if isinstance(one.value, str) else one.value
        if one.kind == "judge" and one.name in task.axes and key is not None and value is not None:
            said[one.by, one.name, key] = value
    return said if task.kind == "pairs" else _grades(said)


def _grades(said: Mapping[tuple[str, str, str], float]) -> dict[tuple[str, str, str], float]:
    """Judges that stay between 0 and 1 on an axis give scores, as ours do; others give grades already."""
    most: dict[tuple[str, str], float] = {}
    for (judge, axis, _), value in said.items():
        most[judge, axis] = max(value, most.get((judge, axis), value))
    return {(judge, axis, key): rubric.grade(value) if most[judge, axis] <= 1 else value
            for (judge, axis, key), value in said.items()}

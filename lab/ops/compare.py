"""What differs between two trials and whether it is more than chance, tested on their raw observations."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from lab import names, stats
from lab.errors import LabError
from lab.metrics import speed
from lab.ops import history, store, workload
from lab.records import Generation, Score
from lab.stats import clusters
from lab.stats.clusters import Part

Outcome = Literal["better", "worse", "different", "no difference shown", "too few", "not tested"]

ALPHA = 0.05
"""A difference counts when its p-value, adjusted for all that were tested, lies below this."""

PER_GENERATION: dict[str, Callable[[Generation], float]] = {
    "ttft_s": speed.ttft_s,
    "tpot_s": speed.tpot_s,
    "e2e_s": speed.e2e_s,
    "prefill_tokens_per_s": speed.prefill_tokens_per_s,
    "decode_tokens_per_s": speed.decode_tokens_per_s,
}
"""Speed measures that every generation has one value of; a trial's is their median."""

_SAME_QUESTION = {"decode_tokens_per_s": "tpot_s"}
"""A rate is 1 / time: one question in two units, tested once and not paid for twice in the adjustment."""


_AVERAGES_TO = {"correct": "accuracy", "flip": "flip_share"}
"""What a trial calls the mean of its scores of this name."""


MEAN_OF = "mean of "
"""How a trial's note `quality_is` begins when its quality is the mean of several sets' main scores, which it names then."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measure of two trials, in its stored unit. `difference` is other minus baseline, with its 95% interval.

    `items` are the pairs, or the smaller side's generations, that the test stands on (0: not tested). `outcome` is
    `different` when it is significant but the measure has no better direction, and `too few` when even the clearest
    difference could not have become significant with so few items. `detectable` is the smallest true difference that would
    have been found with a probability of 80%: "no difference shown" says nothing of smaller ones. It is known of pairs.
    `why` says why a measure was not tested although both trials kept raw observations of it.
    """

    measure: str
    baseline: float
    other: float
    difference: float
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan
    p_adjusted: float = math.nan
    items: int = 0
    outcome: Outcome = "not tested"
    detectable: float = math.nan
    why: str = ""

    @property
    def relative(self) -> float:
        """The difference as a share of the baseline; NaN where that is 0 or unknown."""
        return self.difference / abs(self.baseline) if self.baseline and math.isfinite(self.baseline) else math.nan

    @property
    def significant(self) -> bool:
        return self.p_adjusted < ALPHA


def differences(trials: pd.DataFrame, baseline: str, other: str, *, across: bool = False) -> list[Row]:
    """Every measure that trials `baseline` and `other` (run ids in the frame `trials`) share, tested ones first.

    Speed: the medians over generations, unpaired, of requests that asked the same (`workload.of`) in the same experiment; not
    tested where none did, unless `across` says that what was asked is the factor in question. Quality: the means over items
    both sides scored, paired by item and clustered where their requests say that they share a source (tag `group`); for right
    or wrong (0 and 1) by McNemar's exact test where they do not. All p-values of one call are adjusted together (Holm).
    Measures of which a trial keeps no raw observations are listed without a test. Raises `LabError` if a trial is not in the
    frame.
    """
    return against(trials, baseline, [other], across=across)[other]


def against(trials: pd.DataFrame, baseline: str, others: Sequence[str], *, across: bool = False) -> dict[str, list[Row]]:
    """`differences` of the baseline with each of several trials, by their run id; all p-values are adjusted together (Holm).

    The more trials are held against one baseline, the clearer each difference must be to count.
    """
    measured = {run_id: _measured(trials, run_id) for run_id in (baseline, *others)}
    first = functools.cache(lambda: (history.generations(baseline), history.scores(baseline)))  # read once, if at all
    found = [_tested(trials, baseline, other, first, across) for other in others]
    judged = _judged([[row for row in rows if not row.why] for rows in found])
    aside = [[row for row in rows if row.why] for rows in found]
    return {other: [*rows, *beside, *_untested(measured[baseline], measured[other], {row.measure for row in (*rows, *beside)})]
            for other, rows, beside in zip(others, judged, aside, strict=True)}


def other_workload(rows: Sequence[Row]) -> bool:
    """Whether speed was left untested because the two trials did not have the same to do."""
    return any(row.why == workload.OTHER for row in rows)


_TESTED: dict[tuple[str, str, str, bool, tuple[str, ...]], list[Row]] = {}
"""What was tested already: a finished trial's observations do not change, and most of a comparison is reading them."""
_MOST_TESTED = 2000


def _tested(trials: pd.DataFrame, baseline: str, other: str, first: Callable[[], _Observed], across: bool) -> list[Row]:
    """Every row that can be tested, not judged yet."""
    meant = _sets_meant(trials, baseline, other)
    alike = trials[trials["run_id"].isin((baseline, other))]["experiment"].nunique() == 1
    key = (store.uri(), baseline, other, across, tuple(meant))
    if key not in _TESTED:
        rows = _test(meant, alike, across, first(), (history.generations(other), history.scores(other)))
        if not rows:
            return []  # perhaps not written yet
        if len(_TESTED) >= _MOST_TESTED:
            _TESTED.clear()
        _TESTED[key] = rows
    return _TESTED[key]


_Observed = tuple[Sequence[Generation], Sequence[Score]]


def _test(meant: Sequence[str], alike: bool, across: bool, before: _Observed, after: _Observed) -> list[Row]:
    shared = {g.request.id: g.request.tags["group"] for g in (*before[0], *after[0])
              if g.request.tags.get("group")}
    scores = before[1], after[1]
    asked = (before[0], after[0]) if across else workload.shared(before[0], after[0]) if alike else ([], [])
    speeds = _speed(*asked) or _apart(before[0], after[0])
    return [*speeds, *_quality(*scores, shared), *_mean_of_sets(meant, *scores, shared)]


def fewest_generations(tests: int) -> int:
    """How many generations a side a speed difference needs before it can become significant among `tests` tests."""
    return next(n for n in range(stats.FEWEST, 100) if _least_p(n, n, False) * tests < ALPHA)


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as a frame in stored units: a column per field, and `relative` and `significant`."""
    columns = ["measure", "baseline", "other", "difference", "relative", "low", "high", "p_value", "p_adjusted",
               "items", "significant", "outcome", "detectable"]
    return pd.DataFrame([{c: getattr(row, c) for c in columns} for row in rows], columns=columns)


def _measured(trials: pd.DataFrame, run_id: str) -> dict[str, float]:
    """The logged measures of one trial, bounds of intervals left out."""
    found = trials[trials["run_id"] == run_id] if "run_id" in trials else trials
    if found.empty:
        raise LabError(f"Trial {run_id} is not among the {len(trials)} trials given; choose one that is.")
    row = found.iloc[0]
    columns = [str(c) for c in trials.columns if str(c).startswith("metrics.")]
    bounds = {f"{c}_{side}" for c in columns for side in ("low", "high")}
    values = {c.removeprefix("metrics."): float(row[c]) for c in columns if c not in bounds}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def _speed(baseline: Sequence[Generation], other: Sequence[Generation]) -> list[Row]:
    rows = []
    for measure, of in PER_GENERATION.items():
        before, after = _scored([of(g) for g in baseline]), _scored([of(g) for g in other])
        if before and after:
            found = stats.difference(after, before, paired=False)
            rows.append(_row(measure, stats.percentile(before, 50), stats.percentile(after, 50), found,
                             min(len(before), len(after)), _least_p(len(before), len(after), False)))
    return rows


def _apart(baseline: Sequence[Generation], other: Sequence[Generation]) -> list[Row]:
    """Speed measures of two trials that did not have the same to do: their medians, and why there is no test."""
    rows = []
    for measure, of in PER_GENERATION.items():
        values = [_scored([of(g) for g in side]) for side in (baseline, other)]
        if all(values):
            before, after = (stats.percentile(side, 50) for side in values)
            rows.append(Row(measure=measure, baseline=before, other=after, difference=after - before, why=workload.OTHER))
    return rows


def _quality(baseline: Sequence[Score], other: Sequence[Score], shared: Mapping[str, str]) -> list[Row]:
    before, after = _by_item(baseline), _by_item(other)
    judges: dict[str, set[str]] = {}
    for name, by in [*before, *after]:
        judges.setdefault(name, set()).add(by)
    rows = []
    for name, by in before:
        items = [item for item in before[name, by] if item in after.get((name, by), {})]
        if not items:
            continue
        old, new = (np.array([side[name, by][item] for item in items]) for side in (before, after))
        owners = [shared.get(item, f"item {item}") for item in items]
        found = clusters.changed([Part(values=new, clusters=owners)], [Part(values=old, clusters=owners)])
        groups = len(set(owners))
        by_coins = groups == len(items) and bool(np.isin([old, new], (0, 1)).all())
        least = stats.mcnemar(0, groups) if by_coins else _least_p(groups, groups, True)
        measure = _AVERAGES_TO.get(name, name) if len(judges[name]) == 1 else f"{name} by {by}"
        row = _row(measure, float(old.mean()), float(new.mean()), found, len(items), least)
        rows.append(replace(row, detectable=found.error))
    return rows


def _sets_meant(trials: pd.DataFrame, baseline: str, other: str) -> list[str]:
    """The scores whose means both trials call their quality (the note `quality_is`); none where they mean different things."""
    meant = {str(trials[trials["run_id"] == run_id].iloc[0].get("tags.lab.note.quality_is", "")) for run_id in (baseline, other)}
    named = meant.pop()
    return [] if meant or not named.startswith(MEAN_OF) else [one.replace(" ", "_") for one in named[len(MEAN_OF):].split(", ")]


def _mean_of_sets(
    named: Sequence[str], baseline: Sequence[Score], other: Sequence[Score], shared: Mapping[str, str]
) -> list[Row]:
    """`quality`, the mean of the sets' means, tested as the experiment itself does; no row where a set cannot be paired."""
    before, after = _by_item(baseline), _by_item(other)
    old: list[Part] = []
    new: list[Part] = []
    least = 1.0
    for name in named:
        keys = [key for key in before if key[0] == name and key in after]
        items = [item for item in before[keys[0]] if item in after[keys[0]]] if len(keys) == 1 else []
        if not items:
            return []
        owners = [shared.get(item, f"item {item}") for item in items]
        for parts, side in ((old, before), (new, after)):
            parts.append(Part(values=[side[keys[0]][item] for item in items], clusters=owners))
        least = min(least, _least_p(len(set(owners)), len(set(owners)), True))
    if not old:
        return []
    found = clusters.changed(new, old)
    row = _row("quality", clusters.mean_of_means(old).value, clusters.mean_of_means(new).value, found, found.n, least)
    return [replace(row, detectable=found.error)]


def _by_item(scores: Sequence[Score]) -> dict[tuple[str, str], dict[str, float]]:
    """(name, by) -> item -> value; an item scored several times counts once, with its mean."""
    several: dict[tuple[str, str], dict[str, list[float]]] = {}
    for score in scores:
        if score.scored:
            several.setdefault((score.name, score.by), {}).setdefault(score.item, []).append(score.value)
    return {key: {item: float(np.mean(v)) for item, v in items.items()} for key, items in several.items()}


def _row(measure: str, before: float, after: float, found: stats.Difference, items: int, least: float) -> Row:
    """A row whose `p_adjusted` still holds the least p-value that so many items can give, and whose `detectable` the
    standard error; `_judged` replaces both."""
    return Row(measure=measure, baseline=before, other=after, difference=found.value, low=found.low, high=found.high,
               p_value=found.p_value, p_adjusted=least, items=items)


def _judged(tables: Sequence[Sequence[Row]]) -> list[list[Row]]:
    """The tables of rows with p-values adjusted over all of them, and what follows from them."""
    p_values = [{row.measure: row.p_value for row in rows} for rows in tables]
    asked = [(i, row.measure) for i, rows in enumerate(tables) for row in rows
             if _SAME_QUESTION.get(row.measure) not in p_values[i]]
    adjusted = dict(zip(asked, stats.holm([p_values[i][measure] for i, measure in asked]), strict=True))
    out: list[list[Row]] = []
    for i, rows in enumerate(tables):
        out.append([])
        for row in rows:
            twin = row.measure if (i, row.measure) in adjusted else _SAME_QUESTION[row.measure]
            seen, alpha = math.nan, ALPHA / len(asked)
            if row.detectable > 0:
                seen = stats.minimum_detectable_effect(row.detectable, 1, alpha=alpha)
            judged = replace(row, p_value=p_values[i][twin], p_adjusted=adjusted[i, twin], detectable=seen)
            out[-1].append(replace(judged, outcome=_outcome(judged, row.p_adjusted * len(asked))))
    return out


def _outcome(row: Row, least: float) -> Outcome:
    if row.significant and row.difference:
        better = names.describe(row.measure).better
        if better == "neither":
            return "different"
        return "better" if (row.difference > 0) == (better == "higher") else "worse"
    return "too few" if least >= ALPHA else "no difference shown"


def _untested(before: Mapping[str, float], after: Mapping[str, float], known: set[str]) -> list[Row]:
    shared = [measure for measure in before if measure in after and measure not in known and not names.compared(measure)]
    return [Row(measure=m, baseline=before[m], other=after[m], difference=after[m] - before[m]) for m in shared]


@functools.lru_cache(maxsize=256)
def _least_p(before: int, after: int, paired: bool) -> float:
    """The p-value of the clearest difference possible: every value of one side far beyond every one of the other."""
    if paired:
        return stats.difference(np.ones(min(before, 30)), np.zeros(min(before, 30)), paired=True).p_value
    first, second = np.arange(min(before, 30)), 1e6 + np.arange(min(after, 30))
    return stats.difference(first, second, paired=False).p_value


def _scored(values: Sequence[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]

"""Which configuration to take: the fastest that is shown not to answer worse than the margin allows, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lab import stats
from lab.experiments import busy
from lab.names import describe
from lab.records import Verdict
from lab.stats.clusters import not_worse

ALPHA = 0.05
SPEED = "metrics.e2e_s"
"""The median time until an answer is there. Decoding alone would call a model fast that reads the question slowly: most answers
are a few words."""
Row = Any


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One candidate against the baseline: whether it is shown not worse by the margin, and what else is shown of it."""

    name: str
    change: float
    low: float
    high: float
    shown: bool
    differs: bool
    """Whether its quality differs from the baseline's, all comparisons of the run counted."""
    missed: float
    """The smallest true loss that would mostly be found (80% power), at the level of this decision."""
    detectable: float
    """The smallest true difference that would mostly be found among all comparisons of the run."""
    also: tuple[str, ...] = ()


def decide(trials: pd.DataFrame, *, margin: float, items: int, available: int) -> Verdict:
    """The decision from a frame in which `params.role` marks the baseline; of `available` items `items` were asked."""
    base = trials[trials["params.role"] == "baseline"].iloc[0]
    caveats = [*busy(trials), *sorted({c for c in trials.get("tags.lab.note.caveat", pd.Series(dtype=str)).dropna() if c})]
    if len(trials) == 1:
        decision = (f"{base['name']} answers with a quality of {_said(base, 'quality')}, {_speed(base)}; there is nothing to "
                    "compare it with.")
        return Verdict(decision=decision, chosen=str(base["name"]), caveats=tuple(caveats))
    found = standings(trials, margin)
    why = [sentence(one, str(base["name"]), margin, items) for one in found]
    why += [f"{one.name}: {'; '.join(one.also)}." for one in found if one.also]
    fit = trials[trials["name"].isin([one.name for one in found if one.shown] + [base["name"]])]
    best = _fastest(fit)
    if best["name"] != base["name"]:
        decision = (f"Take {best['name']}: {_speed(best)} against {_speed(base)} of {base['name']}, and its quality is shown "
                    f"to be at most {_points(margin)} lower ({_said(best, 'quality')} against {_said(base, 'quality')}).")
    elif len(fit) > 1:
        decision = (f"Keep {base['name']} ({_speed(base)}, quality {_said(base, 'quality')}): what is shown not to be worse "
                    "is not faster.")
    else:
        decision = (f"Keep {base['name']} (quality {_said(base, 'quality')}, {_speed(base)}): no other is shown to be at most "
                    f"{_points(margin)} worse.")
    few = [one for one in found if not one.shown and not one.differs and one.missed > margin]
    if few:
        caveats.insert(0, f"Too few items to tell about {', '.join(one.name for one in few)}: 'not shown' does not mean "
                       f"'worse'. {_remedy(few, margin, items, available)}")
        caveats.append("What could be detected is larger in the table, where all comparisons of the run share the error, than in "
                       "the decision, where only the candidates do.")
    return Verdict(decision=decision, chosen=str(best["name"]), why=tuple(why), caveats=tuple(dict.fromkeys(caveats)))


def standings(trials: pd.DataFrame, margin: float) -> list[Standing]:
    """Every candidate's standing. Holm's adjustment is over all p-values of the run; for the margin over the candidates."""
    candidates = [row for _, row in trials[trials["params.role"] != "baseline"].iterrows()]
    columns = [c for c in trials.columns if str(c).startswith("metrics.") and str(c).endswith("_p_value")]
    keys = [(str(row["name"]), column) for row in candidates for column in columns]
    adjusted = dict(zip(keys, stats.holm([float(row[c]) for row in candidates for c in columns]), strict=True))
    within = stats.holm([not_worse(row["metrics.quality_change"], row["metrics.quality_change_error"],
                                   row["metrics.quality_change_freedom"], margin) for row in candidates])
    out = []
    for row, p in zip(candidates, within, strict=True):
        name = str(row["name"])
        missed = stats.minimum_detectable_effect(row["metrics.quality_change_error"], 1, alpha=ALPHA / len(candidates))
        out.append(Standing(
            name=name, change=row["metrics.quality_change"], low=row["metrics.quality_change_low"],
            high=row["metrics.quality_change_high"], shown=p < ALPHA / 2, missed=missed,
            differs=adjusted[name, "metrics.quality_p_value"] < ALPHA,
            detectable=row["metrics.quality_detectable"], also=_also(row, adjusted)))
    return out


def sentence(one: Standing, baseline: str, margin: float, items: int) -> str:
    """What is known of one candidate's quality, in a sentence that tells 'no difference' from 'too few items'."""
    span = f"{one.change * 100:+.1f} points ({one.low * 100:+.1f} to {one.high * 100:+.1f})"
    said = f"{one.name} against {baseline}: quality {span}"
    if one.differs and one.change < 0:
        return f"{said}; worse{', though by less than ' + _points(margin) if one.shown else ''}."
    if one.shown:
        return f"{said}; {'better' if one.differs else f'not worse by {_points(margin)}'}."
    if one.missed > margin:
        return (f"{said}; too few items: {items:,} mostly miss a loss below {_points(one.missed)}, and {_points(margin)} would "
                f"need about {_needed(one, margin, items):,}.")
    return f"{said}; a loss of {_points(margin)} is not ruled out, though {items:,} items would mostly do so if it were equal."


def _needed(one: Standing, margin: float, items: int) -> int:
    """Items for which a loss of `margin` would mostly be found: the error shrinks with their square root."""
    exact = items * (one.missed / margin) ** 2
    step = 10 ** max(1, math.floor(math.log10(exact)) - 1)
    return int(math.ceil(exact / step) * step)


def _remedy(few: Sequence[Standing], margin: float, items: int, available: int) -> str:
    """What to do about too few items, within what the sets hold."""
    need = max(_needed(one, margin, items) for one in few)
    if need <= available:
        return f"Raise --items (about {need:,} in all), or --margin."
    reached = max(one.missed for one in few) * math.sqrt(items / available)
    return (f"About {need:,} would be needed and the sets hold {available:,}: add --sets, or accept a --margin of "
            f"{math.ceil(reached * 100) / 100:.2f}{', with --items 0' if items < available else ''}.")


def _also(row: Row, adjusted: Mapping[tuple[str, str], float]) -> tuple[str, ...]:
    """The measures in which this candidate is shown to differ, the overall quality aside."""
    out = []
    for (name, column), p in adjusted.items():
        measure = column.removeprefix("metrics.").removesuffix("_p_value")
        if name != row["name"] or measure == "quality" or not p < ALPHA:
            continue
        change = row.get(f"metrics.{measure}_change", row.get(f"metrics.{measure}_increase_share", math.nan))
        size = f"{change * 100:+.1f}{'%' if measure == 'word_perplexity' else ' points'}"
        out.append(f"{describe(measure).label} {size} (p = {p:.2g})")
    return tuple(out)


def _fastest(rows: pd.DataFrame) -> Row:
    """The one that answers first; among those as fast the smallest file, then the baseline. Without times, the best."""
    if rows[SPEED].isna().all():
        return rows.loc[rows["metrics.quality"].idxmax()]
    best = rows.loc[rows[SPEED].idxmin()]
    high, lows = best.get(f"{SPEED}_high", math.nan), rows.get(f"{SPEED}_low", rows[SPEED]).fillna(rows[SPEED])
    tied = rows[lows <= (best[SPEED] if math.isnan(high) else high)]
    size = tied.get("metrics.file_bytes", pd.Series(math.nan, index=tied.index)).fillna(math.inf)
    order = tied.assign(size=size, other=tied["params.role"] != "baseline").sort_values(["size", "other"], kind="stable")
    return rows.loc[order.index[0]]


def _points(share: float) -> str:
    return f"{share * 100:.1f} points".replace(".0 ", " ")


def _said(row: Row, measure: str) -> str:
    name = describe(measure)
    low, high = row.get(f"metrics.{measure}_low", math.nan), row.get(f"metrics.{measure}_high", math.nan)
    span = "" if math.isnan(low + high) else f" ({name.show(low)} to {name.show(high)})"
    return f"{name.show(row[f'metrics.{measure}'])}{name.unit}{span}"


def _speed(row: Row) -> str:
    name, value = describe(SPEED), row.get(SPEED, math.nan)
    return "time not measured" if math.isnan(value) else f"{name.show(value)} {name.unit} an answer"

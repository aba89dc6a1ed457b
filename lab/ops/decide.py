"""Which configurations meet what is asked of them, and the one to recommend, with the reason in a sentence.

An interval that crosses a limit neither meets nor misses it: the configuration may not qualify. What was not measured never
qualifies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lab import names
from lab.errors import LabError
from lab.ops.compare import Row
from lab.ops.configurations import Configuration, Figure

Kind = Literal["least", "most", "loss"]
Outcome = Literal["qualifies", "may not qualify", "not measured", "does not qualify"]
ORDER: tuple[Outcome, ...] = ("qualifies", "may not qualify", "not measured", "does not qualify")
"""From the best to the worst; a configuration is as good as its worst check."""
KINDS: tuple[Kind, ...] = ("least", "most", "loss")


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """`measure` is at least or at most `limit` (in its stored unit), or loses at most that share of the baseline's value."""

    measure: str
    kind: Kind
    limit: float

    @property
    def code(self) -> str:
        """As an address keeps it: `decode_tokens_per_s:least:20`."""
        return f"{self.measure}:{self.kind}:{self.limit:.6g}"

    @property
    def said(self) -> str:
        name = names.describe(self.measure)
        if self.kind == "loss":
            return f"{name.label.lower()} worse by at most {self.limit * 100:.3g}%"
        return f"{name.label.lower()} at {self.kind} {name.show(self.limit)} {name.unit}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Check:
    """One constraint on one configuration: what was held against the limit, with its interval (a loss is a share)."""

    constraint: Constraint
    outcome: Outcome
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def said(self) -> str:
        """The value and its interval in the printed unit."""
        if math.isnan(self.value):
            return f"{names.describe(self.constraint.measure).label.lower()} was not measured"
        name = names.describe(self.constraint.measure)
        if self.constraint.kind == "loss":
            span = "" if math.isnan(self.low) else f" ({self.low * 100:.2g} to {self.high * 100:.2g})"
            return f"{name.label.lower()} worse by {self.value * 100 + 0.0:.2g}%{span}"
        span = "" if math.isnan(self.low) else f" ({name.show(self.low)} to {name.show(self.high)})"
        return f"{name.label.lower()} {name.show(self.value)} {name.unit}".rstrip() + span


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one configuration stands with all constraints."""

    configuration: Configuration
    outcome: Outcome
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How every configuration stands, and the one to recommend (None: none qualifies), with why in a sentence."""

    standings: tuple[Standing, ...]
    recommended: Configuration | None
    why: str


def parse(code: str) -> Constraint:
    """The constraint that an address keeps. Raises `LabError` when it is none."""
    measure, _, rest = code.partition(":")
    kind, _, limit = rest.partition(":")
    try:
        value = float(limit)
    except ValueError:
        value = math.nan
    if kind not in KINDS or not math.isfinite(value) or not measure:
        raise LabError(f"'{code[:80]}' is no constraint; write MEASURE:least:LIMIT, MEASURE:most:LIMIT or MEASURE:loss:SHARE.")
    return Constraint(measure=measure, kind=kind, limit=value)  # type: ignore[arg-type]


def decide(
    found: Sequence[Configuration], constraints: Sequence[Constraint], *, prefer: str, baseline: str = "",
    tested: Mapping[str, Sequence[Row]] | None = None,
) -> Decision:
    """Hold every configuration against the constraints; of those that qualify the best in `prefer` is recommended.

    `baseline` is the id of the configuration that losses are counted from; `tested` are the differences of trials from it
    (`compare.against`), whose paired intervals are narrower than those of two values.
    """
    base = next((one for one in found if baseline in one.trials), None) if baseline else None
    rows = {(trial, row.measure): row for trial, listed in (tested or {}).items() for row in listed}
    standings = []
    for one in found:
        checks = tuple(_check(one, limit, base, rows) for limit in constraints)
        worst = max((ORDER.index(check.outcome) for check in checks), default=0)
        standings.append(Standing(configuration=one, outcome=ORDER[worst], checks=checks))
    able = [one for one in standings if one.outcome == "qualifies" and not math.isnan(one.configuration.value(prefer))]
    able.sort(key=lambda one: _rank(one.configuration, prefer))
    recommended = able[0].configuration if able else None
    return Decision(standings=tuple(standings), recommended=recommended,
                    why=_why(able, standings, prefer) if able else _none(standings, prefer))


def _check(one: Configuration, limit: Constraint, base: Configuration | None, rows: Mapping[tuple[str, str], Row]) -> Check:
    figure = one.figures.get(limit.measure)
    if figure is None or math.isnan(figure.value):
        return Check(constraint=limit, outcome="not measured")
    if limit.kind != "loss":
        value, low, high = figure.value, figure.low, figure.high
    elif base is None or limit.measure not in base.figures:
        return Check(constraint=limit, outcome="not measured")
    elif one.id == base.id:
        value = low = high = 0.0
    else:
        value, low, high = _loss(limit.measure, figure, base.figures[limit.measure], rows.get((figure.trial, limit.measure)))
    if math.isnan(value):
        return Check(constraint=limit, outcome="not measured")
    ends = (value, value) if math.isnan(low) or math.isnan(high) else (low, high)
    met = [end >= limit.limit if limit.kind == "least" else end <= limit.limit for end in ends]
    outcome: Outcome = "qualifies" if all(met) else "may not qualify" if any(met) else "does not qualify"
    return Check(constraint=limit, outcome=outcome, value=value, low=low, high=high)


def _loss(measure: str, figure: Figure, base: Figure, row: Row | None) -> tuple[float, float, float]:
    """By what share of the baseline it is worse (below 0: better), with an interval: that of the tested difference, else the
    widest that the two intervals allow."""
    if base.value <= 0:
        return math.nan, math.nan, math.nan
    sign = -1.0 if names.describe(measure).better == "higher" else 1.0
    value = sign * (figure.value - base.value) / base.value
    if row is not None and not math.isnan(row.low) and row.baseline > 0:
        ends = sorted(sign * end / row.baseline for end in (row.low, row.high))
        return sign * row.difference / row.baseline, ends[0], ends[1]
    known = not any(math.isnan(end) for end in (figure.low, figure.high, base.low, base.high)) and base.low > 0
    if not known:
        return value, math.nan, math.nan
    ends = sorted(sign * (end / of - 1) for end, of in ((figure.low, base.high), (figure.high, base.low)))
    return value, ends[0], ends[1]


def _rank(one: Configuration, prefer: str) -> float:
    return -one.value(prefer) if names.describe(prefer).better == "higher" else one.value(prefer)


def _figure(one: Configuration, measure: str) -> str:
    figure, name = one.figures[measure], names.describe(measure)
    span = "" if math.isnan(figure.low) or math.isnan(figure.high) else f" ({name.show(figure.low)} to {name.show(figure.high)})"
    return f"{name.show(figure.value)} {name.unit}".rstrip() + span


def _why(able: Sequence[Standing], standings: Sequence[Standing], prefer: str) -> str:
    first, label = able[0].configuration, names.describe(prefer).label.lower()
    best = {"higher": "highest", "lower": "lowest"}.get(names.describe(prefer).better, "first")
    count = sum(one.outcome == "qualifies" for one in standings)
    of = f"Of {len(standings)} configurations {count} qualif{'ies' if count == 1 else 'y'}"
    met = "; ".join(check.said for check in able[0].checks
                    if check.constraint.measure != prefer or check.constraint.kind == "loss")
    parts = [f"{of}, and {first.name} has the {best} {label} of them: {_figure(first, prefer)}" if count > 1
             else f"{of}: {first.name}, with {label} {_figure(first, prefer)}"]
    parts += [f"; {met}"] if met else []
    same = [one.configuration.name for one in able[1:] if _overlap(first.figures[prefer], one.configuration.figures[prefer])]
    if same:
        parts.append(f" (its interval overlaps that of {_listed(same)}, so {label} alone does not tell them apart)")
    if open_ := sum(one.outcome == "may not qualify" for one in standings):
        parts.append(f"; {open_} more may qualify, and more items or repeats would tell")
    points = [check for check in able[0].checks if math.isnan(check.low)]
    if points:
        parts.append(f" ({_listed([names.describe(check.constraint.measure).label.lower() for check in points])}: no interval)")
    return "".join(parts) + "."


def _none(standings: Sequence[Standing], prefer: str) -> str:
    """Why none is recommended, and which comes nearest."""
    if not standings:
        return "No configuration carries a measure of speed, quality, safety or cost."
    good = [one for one in standings if one.outcome == "qualifies"]
    if good:
        return (f"{_listed([one.configuration.name for one in good])} qualif{'ies' if len(good) == 1 else 'y'}, but "
                f"{names.describe(prefer).label.lower()} was not measured there, so none can be preferred by it.")
    near = min(standings, key=lambda one: (ORDER.index(one.outcome), sum(c.outcome != "qualifies" for c in one.checks)))
    open_ = [check for check in near.checks if check.outcome != "qualifies"]
    why = "; ".join(f"{check.said}, asked: {check.constraint.said}" for check in open_)
    if near.outcome == "may not qualify":
        return f"None is sure to qualify. {near.configuration.name} may: {why}. More items or repeats would tell."
    if near.outcome == "not measured":
        return f"None qualifies. What is missing for {near.configuration.name}: {why}."
    return f"None qualifies. {near.configuration.name} comes nearest: {why}."


def _overlap(one: Figure, other: Figure) -> bool:
    return one.low <= other.high and other.low <= one.high  # False beside NaN


def _listed(said: Sequence[str], most: int = 3) -> str:
    more = f" and {len(said) - most} more" if len(said) > most else ""
    return ", ".join(said[:most]) + more

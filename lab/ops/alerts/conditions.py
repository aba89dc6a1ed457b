"""What a rule looks for in the request log: a burning budget, a limit, a spike or drift; each says which requests are behind it.

A condition sees the log up to now and answers with a `Finding`. Noise does not fire it: shares and percentiles must lie beyond
their limit with their whole Wilson interval at 99.9%, and drift has the bound of its detector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from lab import names, stats
from lab.ops.requests_schema import SCORE, between, failed, served
from lab.ops.slo import Slo
from lab.stats import drift

SURE = 0.999
MOST_LEARNT = 5000
"""Values of the reference that a detector of river learns from: each takes it microseconds."""
Detector = Literal["level", "adwin", "page_hinkley"]
Take = Literal["mean", "share", "sum", "count", "p50", "p90", "p95", "p99"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a condition saw. `behind` are the rows of the log, `since` the row with which it began."""

    firing: bool
    known: bool = True
    """False where too few requests came to say anything: that ends no alert."""
    value: float = math.nan
    limit: float = math.nan
    said: str = ""
    behind: tuple[int, ...] = ()
    since: int | None = None


NOTHING = Finding(firing=False, known=False)


@dataclass(frozen=True, kw_only=True)
class Burn:
    """The error budget burns at `rate` or faster over the long window, and over the short one still (SRE workbook, chapter 5).

    While the log is younger than a window, the time before it counts as traffic of the same volume without failures: the rule is
    about the share of the budget that was spent, and a few failures on the first day did not spend three days' share.
    """

    slo: Slo
    rate: float
    long_s: float
    short_s: float

    @property
    def needs_s(self) -> float:
        return self.long_s

    def look(self, log: pd.DataFrame, now_s: float, fewest: int, streams: int) -> Finding:
        long, short = (self.slo.bad(_last(log, now_s, seconds)).dropna() for seconds in (self.long_s, self.short_s))
        if not short.size or long.size < fewest:
            return NOTHING
        age = max(now_s - float(log["time_s"].iloc[0]), 1.0)
        rates = [self.slo.burn(int(part.sum()), part.size) * min(1.0, age / seconds)
                 for part, seconds in ((long, self.long_s), (short, self.short_s))]
        certain = stats.proportion(int(long.sum()), long.size, confidence=SURE).low > self.slo.budget_share
        said = (f"{self.slo.name}: the budget burns {rates[0]:.1f} times too fast over {lasting(self.long_s)}, {rates[1]:.1f} "
                f"times over {lasting(self.short_s)} ({int(long.sum())} bad of {long.size:,} requests); "
                f"the limit is {self.rate:g}")
        return _finding(min(rates) >= self.rate and certain, min(rates), self.rate, said, long > 0, self.slo.budget_share)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A mean, share, sum, count or percentile of a column over a window lies above, or below, a limit."""

    measure: str
    take: Take
    limit: float
    above: bool
    window_s: float

    @property
    def needs_s(self) -> float:
        return self.window_s

    def look(self, log: pd.DataFrame, now_s: float, fewest: int, streams: int) -> Finding:
        part = _last(log, now_s, self.window_s)
        values = measured(part, self.measure).dropna()
        if values.size < (0 if self.take == "count" else fewest):
            return NOTHING
        value, sure = _taken(values, self.take, self.limit, self.above)
        side, name = "above" if self.above else "below", names.describe(self.measure)
        said = (f"{label(self.measure)}, {self.take} over {lasting(self.window_s)}: {name.show(value)}, {side} "
                f"{name.show(self.limit)} {name.unit}")
        far = values > self.limit if self.above else values < self.limit
        return _finding(sure, value, self.limit, said.rstrip(), far if far.any() else values.notna(), 0.05)


@dataclass(frozen=True, kw_only=True)
class Spike:
    """A percentile over a window is `times` that of the time before it."""

    measure: str
    take: Take
    times: float
    window_s: float
    reference_s: float

    @property
    def needs_s(self) -> float:
        return self.window_s + self.reference_s

    def look(self, log: pd.DataFrame, now_s: float, fewest: int, streams: int) -> Finding:
        now, earlier = _parts(log, now_s, self.window_s, self.reference_s)
        values, usual = (measured(part, self.measure).dropna() for part in (now, earlier))
        if min(values.size, usual.size) < fewest:
            return NOTHING
        limit = self.times * stats.percentile(usual, float(self.take[1:]))
        value, sure = _taken(values, self.take, limit, True)
        name, before = names.describe(self.measure), lasting(self.reference_s)
        said = (f"{label(self.measure)}, {self.take}: {name.show(value)} {name.unit} over {lasting(self.window_s)}, "
                f"{value / limit * self.times:.1f} times that of the {before} before; the limit is {self.times:g} times")
        return _finding(sure, value, limit, said, values > limit, 1 - float(self.take[1:]) / 100)


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The mean of a column, or the mix of a column of words, has moved against the time before the window.

    The detector `level` has a proven bound on its false alarms; `adwin` and `page_hinkley` (of river, at its settings, a mean
    only) have none that is known beforehand. Those learn from the end of the reference and then go through the window.
    """

    measure: str
    direction: drift.Direction = "both"
    window_s: float
    reference_s: float
    false_alarms: float = 0.01
    requests: float = 10_000
    detector: Detector = "level"

    @property
    def needs_s(self) -> float:
        return self.window_s + self.reference_s

    def look(self, log: pd.DataFrame, now_s: float, fewest: int, streams: int) -> Finding:
        now, before = _parts(log, now_s, self.window_s, self.reference_s)
        if self.detector != "level":
            return self._river(now, before, fewest)
        bound = drift.limit(false_alarms=self.false_alarms, requests=self.requests, streams=streams)
        return self._mix(now, before, bound, fewest) if _is_words(log, self.measure) else self._level(now, before, bound, fewest)

    def _level(self, now: pd.DataFrame, before: pd.DataFrame, bound: float, fewest: int) -> Finding:
        values, usual = (measured(part, self.measure).dropna() for part in (now, before))
        if usual.size < max(fewest, 100):
            return NOTHING
        low, high = _ends(usual, self.measure)
        reference = drift.Reference.of(usual, low=low, high=high)
        found = drift.scan(drift.Level(reference, direction=self.direction, limit=bound), values)
        if found.began is None:
            return Finding(firing=False, value=found.log_evidence, limit=math.log(bound))
        after, name = values.iloc[found.began:], names.describe(self.measure)
        said = (f"{label(self.measure)} has moved {found.direction}: {name.show(float(after.mean()))} {name.unit} in the "
                f"{after.size:,} requests since it seems to have begun, {name.show(float(usual.mean()))} {name.unit} before")
        far = after < reference.mean if found.direction == "down" else after > reference.mean
        return Finding(firing=True, value=found.log_evidence, limit=math.log(bound), said=said, since=int(after.index[0]),
                       behind=tuple(int(i) for i in after.index[far]))

    def _river(self, now: pd.DataFrame, before: pd.DataFrame, fewest: int) -> Finding:
        values, usual = (measured(part, self.measure).dropna() for part in (now, before))
        if usual.size < max(fewest, 100):
            return NOTHING
        low, high = _ends(usual, self.measure)
        scaled = [drift.Reference(mean=low, deviation=0.0, low=low, high=high).scaled_all(part.to_numpy(dtype=float))
                  for part in (usual.iloc[-MOST_LEARNT:], values)]
        made = [drift.Adwin()] if self.detector == "adwin" else [
            drift.PageHinkley(direction=side) for side in ("down", "up") if self.direction in (side, "both")]  # type: ignore[arg-type]
        for one in made:
            for x in scaled[0].tolist():
                one.update(x)
        for i, x in enumerate(scaled[1].tolist()):
            heard = [one.update(x) for one in made]  # each has to take every value
            if not any(heard):
                continue
            mean = float(values.iloc[i:].mean())
            side = "up" if mean > float(usual.mean()) else "down"
            if self.direction in (side, "both"):
                name, after = names.describe(self.measure), values.iloc[i:]
                text = (f"{label(self.measure)} has moved {side} by {self.detector}: {name.show(mean)} {name.unit} in the "
                        f"{after.size:,} requests since it was noticed, {name.show(float(usual.mean()))} {name.unit} before")
                far = after < usual.mean() if side == "down" else after > usual.mean()
                return Finding(firing=True, value=1.0, limit=1.0, said=text, since=int(after.index[0]),
                               behind=tuple(int(k) for k in after.index[far]))
        return Finding(firing=False, value=0.0, limit=1.0)

    def _mix(self, now: pd.DataFrame, before: pd.DataFrame, bound: float, fewest: int) -> Finding:
        words, usual = (part.loc[served(part) & (part[self.measure] != ""), self.measure] for part in (now, before))
        if usual.size < max(fewest, 100):
            return NOTHING
        detector = drift.Mix({str(name): int(n) for name, n in usual.value_counts().items()}, limit=bound)
        found = drift.scan(detector, words)
        if found.began is None:
            return Finding(firing=False, value=found.log_evidence, limit=math.log(bound))
        after = words.iloc[found.began:].map(detector.named)
        moved = ", ".join(f"{name} {np.mean(usual.map(detector.named) == name):.0%} to {np.mean(after == name):.0%}"
                          for name in found.moved[:3])
        grown = found.grown or found.moved
        said = f"{label(self.measure)} has another mix in the {after.size:,} requests since it seems to have begun: {moved}"
        return Finding(firing=True, value=found.log_evidence, limit=math.log(bound), said=said, since=int(after.index[0]),
                       behind=tuple(int(i) for i in after.index[after.isin(grown)]))


Condition = Burn | Threshold | Spike | Drift


def measured(log: pd.DataFrame, measure: str) -> pd.Series:
    """A column as numbers, NaN for requests that it says nothing of: those that failed, and those refused by their own fault."""
    if measure == "failed":
        return failed(log).astype(float).where(served(log))
    if measure not in log:
        return pd.Series(math.nan, index=log.index)
    return log[measure].where(served(log) & ~failed(log))


def label(measure: str) -> str:
    """What a measure is called in a sentence."""
    return "Failed requests" if measure == "failed" else names.describe(measure.removeprefix("score_")).label


def _taken(values: pd.Series, take: Take, limit: float, above: bool) -> tuple[float, bool]:
    """The value, and whether it lies beyond the limit for certain."""
    if take in ("sum", "count"):
        value = float(values.sum() if take == "sum" else values.size)
        return value, value > limit if above else value < limit
    if take in ("mean", "share"):
        whole = bool(np.isin(values, (0, 1)).all())
        found = stats.proportion(int(values.sum()), values.size, confidence=SURE) if whole else \
            stats.mean(values, confidence=SURE)
        return found.value, found.low > limit if above else found.high < limit
    q = float(take[1:])
    beyond = int((values > limit).sum()) if above else int((values < limit).sum())
    share = stats.proportion(beyond, values.size, confidence=SURE).low
    return stats.percentile(values, q), share > (1 - q / 100 if above else q / 100)


def _ends(usual: pd.Series, measure: str) -> tuple[float, float]:
    """The scale a drift is looked for on. Shares and scores end at 1, times and costs where nearly all did: on one up to 1 USD no
    cent would move anything."""
    most = float(usual.quantile(0.995))
    share = measure in ("refused", "failed") or measure.startswith(SCORE)
    return min(0.0, float(usual.min())), 1.0 if share or most <= 0 else most


def _finding(firing: bool, value: float, limit: float, said: str, bad: pd.Series, usual: float) -> Finding:
    """With the requests behind it since it began: where the sum of bad - (halfway from usual to now) was lowest (Page 1954)."""
    if not firing or not bad.size:
        return Finding(firing=firing, value=value, limit=limit, said=said)
    hits = bad.to_numpy(dtype=float)
    # Halfway on a log scale, and not above the share at the end, or a short burst in a long window would have no beginning.
    middle = math.sqrt(max(usual, 1e-6) * max(float(hits.mean()), usual, 1e-6))
    path = np.concatenate([[0.0], np.cumsum(hits - middle)])
    since = int(np.argmin(path[:-1]))
    rows = bad.index[since:][hits[since:] > 0]
    return Finding(firing=True, value=value, limit=limit, said=said, since=int(bad.index[since]),
                   behind=tuple(int(i) for i in rows))


def _last(log: pd.DataFrame, now_s: float, seconds: float) -> pd.DataFrame:
    return between(log, now_s - seconds, now_s)


def _parts(log: pd.DataFrame, now_s: float, window_s: float, reference_s: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    return _last(log, now_s, window_s), _last(log, now_s - window_s, reference_s)


def _is_words(log: pd.DataFrame, measure: str) -> bool:
    return measure in log and not pd.api.types.is_numeric_dtype(log[measure])


def lasting(seconds: float) -> str:
    """A length of time in its largest unit."""
    for size, word in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:g} {word}"
    return f"{seconds:g} s"

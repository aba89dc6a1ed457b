"""From rules and a request log to alerts: a pure function of both, the time, and the alerts that were open before."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from lab.ops.alerts.conditions import Drift, Finding
from lab.ops.alerts.rules import Rule, Rules
from lab.ops.requests_schema import checked

State = Literal["raised", "open", "cleared"]
FIRST = 50
"""Requests behind an alert, from its beginning, that decide with which release it began."""
MOST_REQUESTS = 200
"""Requests behind an alert that are named; `count` says how many there are."""


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One alert of one rule. It is `raised` once, stays `open`, and is `cleared` once: act on the first and the last."""

    rule: str
    severity: str
    actions: tuple[str, ...]
    state: State
    said: str
    """What is the matter, with its numbers."""
    value: float
    limit: float
    raised_s: float
    held_s: float
    """When the condition last held."""
    began_s: float = math.nan
    """When it most likely began: the time of its first request."""
    release: str = ""
    """The release that answered most of the first requests behind it: the beginning is an estimate and may lie early."""
    requests: tuple[str, ...] = ()
    """Ids of requests behind it, the latest of them."""
    count: int = 0


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """`alerts` are all that stand or end now; give `open` to the next evaluation as `before`."""

    alerts: tuple[Alert, ...]
    findings: Mapping[str, Finding] = field(default_factory=dict, compare=False)
    """What each rule saw, by its name, whether it holds or not."""

    @property
    def open(self) -> tuple[Alert, ...]:
        return tuple(alert for alert in self.alerts if alert.state != "cleared")

    @property
    def news(self) -> tuple[Alert, ...]:
        """Those to act on: raised or cleared just now."""
        return tuple(alert for alert in self.alerts if alert.state != "open")


def evaluate(rules: Rules, log: pd.DataFrame, *, now_s: float, before: Sequence[Alert] = ()) -> Evaluation:
    """What `rules` say of the request log at `now_s`. Rows later than `now_s` are not looked at; the log may be in any order.

    An alert that stands is never raised again: it stays open until its condition has not held for the rule's `clear_after_s`
    while requests came. A
    clock that goes back clears nothing. Rules are evaluated in the order of the file; one with `unless` raises nothing while
    an alert of those rules stands. All drift rules share their false alarms.
    """
    rows = checked(log)
    streams = max(1, sum(isinstance(rule.condition, Drift) for rule in rules.rules))
    known, found = {alert.rule: alert for alert in before}, []
    standing, findings = {alert.rule for alert in before}, {}
    for rule in rules.rules:
        findings[rule.name] = seen = rule.condition.look(rows, now_s, rule.fewest, streams)
        alert = _next(rule, seen, rows, now_s, known.get(rule.name), quiet=bool(standing & set(rule.unless)))
        if alert is not None:
            found.append(alert)
            (standing.discard if alert.state == "cleared" else standing.add)(rule.name)
    return Evaluation(alerts=tuple(found), findings=findings)


def replay(rules: Rules, log: pd.DataFrame, *, since_s: float, until_s: float, every_s: float = 300.0) -> list[Alert]:
    """What would have been raised and cleared, had the rules been looked at every `every_s` seconds; in the order of time.

    `raised_s` says when an alert was raised and `held_s` when it last held.
    """
    rows, standing, news = checked(log), tuple[Alert, ...](), list[Alert]()
    looks = math.floor((until_s - since_s) / every_s)
    for look in range(looks + 1):
        seen = evaluate(rules, rows, now_s=since_s + look * every_s, before=standing)
        standing = seen.open
        news += seen.news
    return news


def _next(rule: Rule, seen: Finding, rows: pd.DataFrame, now_s: float, before: Alert | None, *, quiet: bool) -> Alert | None:
    if seen.firing:
        if before is None and quiet:
            return None
        return _alert(rule, seen, rows, now_s, before)
    if before is None:
        return None
    over = seen.known and now_s - before.held_s >= rule.clear_after_s
    return dataclasses.replace(before, state="cleared" if over else "open")


def _alert(rule: Rule, seen: Finding, rows: pd.DataFrame, now_s: float, before: Alert | None) -> Alert:
    first = rows.loc[seen.since] if seen.since is not None else None
    ids = tuple(str(one) for one in rows.loc[list(seen.behind[-MOST_REQUESTS:]), "request_id"])
    fresh = Alert(rule=rule.name, severity=rule.severity, actions=rule.actions, state="raised", said=f"{seen.said}.",
                  value=seen.value, limit=seen.limit, raised_s=now_s, held_s=now_s, requests=ids, count=len(seen.behind),
                  began_s=float(first["time_s"]) if first is not None else math.nan,
                  release="" if first is None else _release(rows, seen))
    if before is None:
        return fresh
    # Where it began is decided when it is raised: later windows may have lost the beginning.
    return dataclasses.replace(fresh, state="open", raised_s=before.raised_s, held_s=max(now_s, before.held_s),
                               began_s=before.began_s, release=before.release)


def _release(rows: pd.DataFrame, seen: Finding) -> str:
    places = list(seen.behind[:FIRST]) or [place for place in (seen.since,) if place is not None]
    first = rows.loc[places, "release"]
    return str(first.astype(object).value_counts().index[0])

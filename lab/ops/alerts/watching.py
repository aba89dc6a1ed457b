"""Evaluates the rules on the log of the store, remembers what stands, and delivers what was raised or cleared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from lab.errors import LabError
from lab.ops import store
from lab.ops.alerts import delivering, journal
from lab.ops.alerts.conditions import Finding
from lab.ops.alerts.evaluating import Alert, evaluate
from lab.ops.alerts.journal import Event, State
from lab.ops.alerts.rules import Rules

RETRY_S, LONGEST_S = 30.0, 3600.0
"""What was not delivered is tried again after 30 s, then twice as long each time, up to an hour."""
GIVE_UP_S = 86_400.0
"""A delivery that failed for a day is given up; its alert stays on the page and in the journal."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One look: what stands, what was raised or cleared by it, and what every rule saw."""

    state: State
    news: tuple[Alert, ...] = ()
    findings: Mapping[str, Finding] = field(default_factory=dict)


def watch(
    rules: Rules, log: Callable[[float], pd.DataFrame], place: Path, *, now_s: float,
    webhook: Callable[[Alert, float, str], None] = delivering.webhook,
) -> Round:
    """Evaluate `rules` once on the rows that `log(since_s)` gives, and deliver. Raises `LabError`.

    While another process evaluates, what that one left is given back. A rule that is in the file no more ends its alert.
    """
    with store.alone(place / "alerts.lock") as mine:
        before = journal.state(place)
        seen = evaluate(rules, log(now_s - rules.needs_s), now_s=now_s, before=_kept(before, rules))
        if not mine:
            return Round(state=before, findings=seen.findings)
        gone = tuple(dataclasses.replace(one, state="cleared") for one in before.open if one not in _kept(before, rules))
        news = (*gone, *seen.news)
        now = dataclasses.replace(before, open=seen.open, pending=(*before.pending, *news), evaluated_s=now_s,
                                  rules_sha256=rules.sha256)
        try:
            for alert in news:
                journal.append(place, Event(at_s=now_s, alert=alert))
            journal.write(place, now)
            if now.pending and (news or now_s >= now.retry_s or now_s < before.evaluated_s):
                now = _delivered(now, rules, place, now_s, webhook)
                journal.write(place, now)
        except OSError as error:
            raise LabError(f"What the alerts are cannot be written beside the request log ({error}); mend {place}.") from error
    return Round(state=now, news=news, findings=seen.findings)


def _kept(before: State, rules: Rules) -> tuple[Alert, ...]:
    names = {rule.name for rule in rules.rules}
    return tuple(alert for alert in before.open if alert.rule in names)


def _delivered(
    now: State, rules: Rules, place: Path, now_s: float, webhook: Callable[[Alert, float, str], None]
) -> State:
    """The state after what is pending was delivered by each of its actions. What failed stays pending, and is tried again later.

    The first failure of an action and its end are a line of the journal; after one failure the others of its kind wait.
    """
    troubles, left = dict[str, str](), list[Alert]()
    for alert in now.pending:
        failed = []
        for action in (one for one in alert.actions if one != "page"):  # the page reads the state
            known = now.troubles.get(action, "")
            if action not in troubles:
                try:
                    if action == "log":
                        delivering.log(alert, now_s, place)
                    else:
                        webhook(alert, now_s, rules.webhook_env)
                    journal.append(place, Event(at_s=now_s, alert=alert, action=action))
                    continue
                except LabError as error:
                    troubles[action] = str(error)
                    if not known:
                        journal.append(place, Event(at_s=now_s, alert=alert, action=action, trouble=str(error)))
            if now_s - alert.held_s < GIVE_UP_S:
                failed.append(action)
            else:
                journal.append(place, Event(at_s=now_s, alert=alert, action=action, trouble=f"Given up: {troubles[action]}"))
        if failed:
            left.append(dataclasses.replace(alert, actions=tuple(failed)))
    retries = now.retries + 1 if left else 0
    wait_s = min(LONGEST_S, RETRY_S * 2 ** min(retries - 1, 10)) if left else 0.0
    return dataclasses.replace(now, pending=tuple(left), troubles=troubles, retries=retries, retry_s=now_s + wait_s)

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
        now = State(open=seen.open, pending=(*before.pending, *news), evaluated_s=now_s, rules_sha256=rules.sha256,
                    troubles=before.troubles)
        try:
            for alert in news:
                journal.append(place, Event(at_s=now_s, alert=alert))
            journal.write(place, now)
            if now.pending:
                now = dataclasses.replace(now, pending=(), troubles=_delivered(now, rules, place, now_s, webhook))
                journal.write(place, now)
        except OSError as error:
            raise LabError(f"What the alerts are cannot be written beside the request log ({error}); mend {place}.") from error
    return Round(state=now, news=news, findings=seen.findings)


def _kept(before: State, rules: Rules) -> tuple[Alert, ...]:
    names = {rule.name for rule in rules.rules}
    return tuple(alert for alert in before.open if alert.rule in names)


def _delivered(
    now: State, rules: Rules, place: Path, now_s: float, webhook: Callable[[Alert, float, str], None]
) -> dict[str, str]:
    """Why deliveries fail now, by action; each is one line of the journal."""
    troubles = dict(now.troubles)
    for alert in now.pending:
        for action in alert.actions:
            if action == "page":  # it reads the state
                continue
            try:
                if action == "log":
                    delivering.log(alert, now_s, place)
                else:
                    webhook(alert, now_s, rules.webhook_env)
                troubles.pop(action, None)
            except LabError as error:
                troubles[action] = str(error)
            journal.append(place, Event(at_s=now_s, alert=alert, action=action, trouble=troubles.get(action, "")))
    return troubles

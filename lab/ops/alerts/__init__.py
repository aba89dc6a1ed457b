"""Alerts: rules in a file, evaluated on the request log; each alert names its requests and the release it began with.

    rules = alerts.load()
    seen = alerts.evaluate(rules, requests.frame(time.time() - rules.needs_s), now_s=time.time(), before=seen.open)
    for alert in seen.news: ...      # raised or cleared just now
"""

from __future__ import annotations

from lab.ops.alerts.evaluating import Alert, Evaluation, evaluate, replay
from lab.ops.alerts.journal import Event, State, events, state
from lab.ops.alerts.rules import ACTIONS, SEVERITIES, SHIPPED, Rule, Rules, in_force, load, parse
from lab.ops.alerts.watching import Round, watch

__all__ = ["ACTIONS", "SEVERITIES", "SHIPPED", "Alert", "Evaluation", "Event", "Round", "Rule", "Rules", "State", "evaluate",
           "events", "in_force", "load", "parse", "replay", "state", "watch"]

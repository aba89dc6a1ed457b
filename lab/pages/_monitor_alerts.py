"""The part of Monitor that shows alerts: what stands and what was, the requests behind each, and the way to a rollback."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from lab import wording
from lab.ops import versions
from lab.ops.alerts import Alert, Event, Round, Rules, State, delivering
from lab.ops.requests_schema import between

COLOURS = {"critical": "red", "warning": "orange", "notice": "blue"}
MOST_PAST = 50
SHOWN = ("time_s", "request_id", "release", "status", "error_kind", "ttft_s", "e2e_s", "output_tokens", "topic", "language")


def show(rules: Rules, seen: Round, log: pd.DataFrame, now_s: float) -> None:
    """The alerts that stand, each with its requests."""
    st.subheader("Alerts", anchor=False)
    state = seen.state
    looked = wording.duration(max(0.0, now_s - state.evaluated_s))
    st.caption(wording.plain(f"Rules '{rules.name}' version {rules.version}, evaluated {looked} ago.") + " `lab monitor` "
               "evaluates them without this page.")
    for action, trouble in state.troubles.items():
        st.warning(wording.plain(f"An alert was not delivered ({action}): {trouble}"))
    if not state.open:
        st.markdown("No alert stands.")
    order = {name: i for i, name in enumerate(COLOURS)}
    for alert in sorted(state.open, key=lambda one: (order.get(one.severity, 9), -one.raised_s)):
        _alert(alert, log, now_s)


def standing(state: State) -> None:
    """What stood when anybody last looked, while the rules are evaluated."""
    st.subheader("Alerts", anchor=False)
    st.caption("The rules are being evaluated.")
    for alert in state.open:
        st.markdown(f":{COLOURS.get(alert.severity, 'gray')}-badge[{alert.severity}] **{wording.plain(alert.rule)}** "
                    f"{wording.plain(alert.said)}")


def past(events: list[Event]) -> None:
    """The journal: what was raised, cleared and delivered, newest first."""
    with st.expander(f"Past alerts and deliveries ({len(events):,})"):
        if not events:
            st.markdown("No alert was ever raised.")
            return
        newest = events[:MOST_PAST]
        table = pd.DataFrame({
            "When": pd.to_datetime([one.at_s for one in newest], unit="s", utc=True),
            "What": [_what(one) for one in newest], "Rule": [one.alert.rule for one in newest],
            "Severity": [one.alert.severity for one in newest], "Said": [one.alert.said for one in newest],
            "Began with": [one.alert.release or "–" for one in newest], "Requests": [one.alert.count for one in newest]})
        st.dataframe(table, hide_index=True, column_config={
            "When": st.column_config.DatetimeColumn("When (UTC)", format="YYYY-MM-DD HH:mm:ss"),
            "Said": st.column_config.TextColumn(width="large")})
        if len(events) > MOST_PAST:
            st.caption(f"The latest {MOST_PAST} of {len(events):,}.")


def _alert(alert: Alert, log: pd.DataFrame, now_s: float) -> None:
    with st.container(border=True):
        st.markdown(f":{COLOURS.get(alert.severity, 'gray')}-badge[{alert.severity}] **{wording.plain(alert.rule)}**")
        st.markdown(wording.plain(alert.said))
        began = f"Began {delivering.when(alert.began_s)} with {alert.release or 'an unnamed release'}; " if alert.count else ""
        st.caption(wording.plain(f"{began}raised {delivering.when(alert.raised_s)}, "
                                f"{wording.duration(max(0.0, now_s - alert.raised_s))} ago."))
        with st.expander(f"Requests behind it ({alert.count:,})"):
            _behind(alert, log)
        _way_back(alert.release)


def _behind(alert: Alert, log: pd.DataFrame) -> None:
    near = between(log, alert.began_s - 1, alert.held_s) if alert.requests else log.iloc[:0]
    found = near[near["request_id"].isin(alert.requests)]
    if found.empty:
        st.markdown("They are not in the log any more." if alert.requests else "No single request is behind it.")
        return
    table = found[list(SHOWN)].iloc[::-1].assign(time_s=pd.to_datetime(found["time_s"].iloc[::-1], unit="s", utc=True))
    st.dataframe(table, hide_index=True, height=280 if len(table) > 6 else "content", column_config={
        "time_s": st.column_config.DatetimeColumn("When (UTC)", format="MM-DD HH:mm:ss"), "request_id": "Request",
        "release": "Release", "status": st.column_config.NumberColumn("Status", format="%d"), "error_kind": "Error",
        "ttft_s": st.column_config.NumberColumn("TTFT (s)", format="%.3f"),
        "e2e_s": st.column_config.NumberColumn("End to end (s)", format="%.3f"),
        "output_tokens": st.column_config.NumberColumn("Tokens", format="%d"), "topic": "Topic", "language": "Language"})
    if alert.count > len(found):
        st.caption(f"The latest {len(found):,} of {alert.count:,}.")


def _way_back(release: str) -> None:
    """A link to the page where production is rolled back, when the release it began with is the one in production."""
    number = release.removeprefix("release ").strip()
    now = versions.current()
    if not number.isdigit() or now.production != int(number):
        return
    if now.previous is None:
        st.caption(f"Release {number} is in production; there is no previous one to roll back to.")
        return
    st.page_link("lab/pages/releases.py", label=f"Compare with release {now.previous} and roll back",
                 query_params={"before": number, "after": str(now.previous)})


def _what(event: Event) -> str:
    if not event.action:
        return event.alert.state
    return f"{event.action} failed: {event.trouble}" if event.trouble else f"delivered by {event.action}"


"""Monitor: is the service still as good as before? Live from the request log: numbers, spikes, drift, budgets and alerts."""

from __future__ import annotations

import time

import streamlit as st

from lab import wording
from lab.errors import LabError
from lab.ops import alerts, monitor, requests
from lab.ops.requests.columns import CUT
from lab.pages import _monitor_alerts, _monitor_data, _monitor_show

WINDOWS = {"5 min": 300, "1 h": 3600, "6 h": 21_600, "24 h": 86_400, "7 d": 604_800}
ALL = "All releases"
REFRESH_S = 5
BUCKETS = {"5 min": 30, "1 h": 60, "6 h": 72, "24 h": 96, "7 d": 84}


def main() -> None:
    st.title("Monitor")
    row = st.container(horizontal=True, vertical_alignment="bottom")
    chosen = row.segmented_control("Window", list(WINDOWS), default="1 h", key="window", bind="query-params",
                                   required=True) or "1 h"
    release = _release(row)
    measure = row.segmented_control("Latency", list(_monitor_show.MEASURES), default="ttft_s", key="latency", bind="query-params",
                                    format_func=_monitor_show.MEASURES.__getitem__, required=True) or "ttft_s"
    live = row.toggle("Live", value=True, key="live", bind="query-params", help=f"Look again every {REFRESH_S} s")
    st.fragment(_live, run_every=REFRESH_S if live else None)(chosen, release, measure)


def _release(row: st.delta_generator.DeltaGenerator) -> str:
    """The release that is looked at; "" for all. One that the address names stays in the list."""
    try:
        log = _monitor_data.rows(_reach(604_800))
        found = [str(one) for one in log["release"].cat.categories if one] if len(log) else []
    except LabError:
        found = []
    asked = st.query_params.get("release", ALL)
    options = [ALL, *sorted({*found, *([asked] if asked != ALL else [])}, key=lambda name: (len(name), name), reverse=True)]
    chosen = row.selectbox("Release", options, key="release", bind="query-params", width=200)
    return "" if chosen == ALL else str(chosen)


def _reach(window_s: float) -> float:
    return max(_monitor_data.rules().needs_s, 2 * window_s)


def _live(chosen: str, release: str, measure: str) -> None:
    """All that changes by itself."""
    now_s, window_s = time.time(), WINDOWS[chosen]
    try:
        rules = _monitor_data.rules()
        log = _monitor_data.rows(_reach(window_s))
        if log.empty:
            _nothing()
            return
        part = _monitor_data.part(log, release, now_s, window_s)
        now, before = monitor.beside(part, now_s=now_s, window_s=window_s)
        age = wording.duration(max(0.0, now_s - float(log["time_s"].iloc[-1])))
        st.caption(f"Times are UTC. Last request {age} ago. Changes are against the {chosen} before.")
        if log.attrs.get(CUT):
            st.warning(f"The log has more rows than are read here; what is shown is of the latest {len(log):,}.")
        if not now.requests:
            st.info(wording.plain(f"No request in the last {chosen}{' by ' + release if release else ''}; take a longer window."))
        _monitor_show.cards(now, before)
        if "hallucination" in now.scores:
            st.caption(wording.plain(_monitor_data.worth(str(requests.folder()))).replace("\\`", "`"))
        # To evaluate the rules is the slowest part: what they said before is shown meanwhile, and the whole page is there first.
        place, seen = st.empty(), _monitor_data.last(rules)
        with place.container():
            if seen is None:
                _monitor_alerts.standing(alerts.state(requests.folder()))
            else:
                _monitor_alerts.show(rules, seen, log, now_s)
        _monitor_show.figures(part, now_s - window_s, now_s, measure, BUCKETS[chosen])
        _monitor_show.kinds(now, before)
        if now.costs:
            _monitor_show.costs(now)
        drift = st.container()
        _monitor_show.budgets(_monitor_data.budgets(rules.sha256, str(requests.folder()), rules))
        now_seen = _monitor_data.look(rules)
        if seen is None:
            with place.container():
                _monitor_alerts.show(rules, now_seen, log, now_s)
        with drift:
            _monitor_show.drift(rules, now_seen)
        _monitor_alerts.past(alerts.events(requests.folder()))
    except LabError as error:
        st.error(wording.plain(error))


def _nothing() -> None:
    st.markdown("There is no request yet. The gateway writes one row for each request that reaches it; it answers with the "
                "release that is in production:")
    st.code("lab gateway", language="bash")
    st.caption(wording.plain(f"The log is read from {requests.folder()}"))


main()

"""The part of Monitor that shows numbers: cards beside the window before, figures, cost, drift and budgets."""

from __future__ import annotations

import math

import pandas as pd
import streamlit as st

from lab import names, plots, plots_monitor, wording
from lab.ops import monitor, slo
from lab.ops.alerts import Round, Rules
from lab.ops.monitor import Summary
from lab.records import Estimate

MEASURES = {"ttft_s": "First token", "tpot_s": "Per token", "e2e_s": "End to end"}


def cards(now: Summary, before: Summary) -> None:
    """What matters first, each beside the window before."""
    ttft, earlier = now.latency("ttft_s"), before.latency("ttft_s")
    whole = now.latency("e2e_s")
    made = [
        ("Requests", f"{now.requests:,}", _change(now.requests, before.requests), "off", f"{now.requests_per_s:.3g} a second"),
        ("Failed", _share(now.failed), _points(now.failed, before.failed), "inverse", _interval(now.failed)),
        ("First token p50", _ms(ttft.p50), _change(ttft.p50, earlier.p50), "inverse",
         f"p95 {_ms(ttft.p95)}, p99 {_ms(ttft.p99)}"),
        ("End to end p95", _ms(whole.p95), _change(whole.p95, before.latency("e2e_s").p95), "inverse",
         f"p50 {_ms(whole.p50)}, p99 {_ms(whole.p99)}"),
        ("Cost", _usd(now.cost_usd), _change(now.cost_usd, before.cost_usd), "off",
         f"{now.unpriced:,} answers without a price" if now.unpriced else "all answers priced"),
        ("Refused", _share(now.refused), _points(now.refused, before.refused), "off", _interval(now.refused)),
        ("Blocked by guards", _share(now.blocked), _points(now.blocked, before.blocked), "off", _interval(now.blocked))]
    for name, (found, n) in now.scores.items():
        was = before.scores.get(name, (Estimate(value=math.nan), 0))[0]
        better = {"hallucination": "inverse", "embedding_distance": "off"}.get(name, "normal")
        span = "" if math.isnan(found.low) else f"{found.low:.3f} to {found.high:.3f}, "
        made.append((f"Score: {names.describe(name).label.lower()}", f"{found.value:.3f}", _difference(found.value, was.value),
                     better, f"{span}{n:,} answers"))
    row = st.container(horizontal=True, gap="small")
    for label, value, change, colour, below in made:
        with row.container(border=True, width=170, height="stretch"):
            st.metric(label, value, change, delta_color=colour if change else "off", delta_arrow="auto" if change else "off")  # type: ignore[arg-type]
            st.caption(below)


def figures(log: pd.DataFrame, since_s: float, until_s: float, measure: str, buckets: int) -> None:
    """Latency, failures, tokens and cost over time."""
    dark = st.context.theme.type == "dark"
    series = monitor.series(log, since_s=since_s, until_s=until_s, buckets=buckets)
    kinds = monitor.errors(log, since_s=since_s, until_s=until_s, buckets=buckets)
    drawn = [("latency", plots_monitor.latency(series, measure, dark=dark)),
             ("failures", plots_monitor.failures(kinds, series, dark=dark)),
             ("tokens", plots_monitor.tokens(series, dark=dark)), ("cost", plots_monitor.cost(series, dark=dark))]
    for pair in (drawn[:2], drawn[2:]):
        for column, (key, figure) in zip(st.columns(2, gap="medium"), pair, strict=True):
            column.plotly_chart(figure, config=plots.picture(f"monitor {key}"), key=f"monitor {key}")


def kinds(now: Summary, before: Summary) -> None:
    """What went wrong, by kind, beside the window before."""
    if not now.kinds and not before.kinds:
        return
    was = {(one.kind, one.service): one.count for one in before.kinds}
    here = {(one.kind, one.service): one.count for one in now.kinds}
    keys = [*here, *(key for key in was if key not in here)]
    st.dataframe(pd.DataFrame({
        "What went wrong": [kind for kind, _ in keys], "Whose doing": ["service" if mine else "caller" for _, mine in keys],
        "Requests": [here.get(key, 0) for key in keys], "Window before": [was.get(key, 0) for key in keys]}), hide_index=True)


def costs(now: Summary) -> None:
    """Cost by release and model."""
    st.dataframe(pd.DataFrame({
        "Release": [one.release for one in now.costs], "Model": [one.model or "–" for one in now.costs],
        "Requests": [one.requests for one in now.costs], "Cost (USD)": [one.cost_usd for one in now.costs],
        "Per 1,000 priced (USD)": [one.per_request_usd * 1000 for one in now.costs],
        "Without a price": [one.unpriced for one in now.costs]}),
        hide_index=True, column_config={"Requests": st.column_config.NumberColumn(format="localized"),
                                        "Cost (USD)": st.column_config.NumberColumn(format="%.6f"),
                                        "Per 1,000 priced (USD)": st.column_config.NumberColumn(format="%.4f")})


def drift(rules: Rules, seen: Round) -> None:
    """Every stream that is followed, and how often an alarm would be false."""
    st.subheader("Drift", anchor=False)
    states = monitor.drifts(rules, seen.findings)
    st.dataframe(pd.DataFrame({
        "Stream": [one.stream for one in states], "State": [one.standing for one in states],
        "Evidence": [one.evidence for one in states],
        "Of the last": [one.window for one in states], "Against the": [f"{one.reference} before" for one in states],
        "Detector": [one.detector for one in states], "Said": [one.said or "–" for one in states]}),
        hide_index=True, column_config={"Evidence": st.column_config.ProgressColumn(
            help="Logarithm of the evidence as a share of an alarm's; half of it is far from half an alarm", min_value=0,
            max_value=1, format="percent")})
    st.caption(wording.plain(monitor.promise(rules)))


def budgets(found: list[slo.Budget]) -> None:
    """Error budgets: what is left, and how long it lasts."""
    st.subheader("Error budgets", anchor=False)
    columns = st.columns(max(2, len(found)), gap="medium")
    for column, one in zip(columns, found, strict=False):
        with column, st.container(border=True):
            goal = one.slo
            what = "did not fail" if not goal.measure else \
                f"{names.describe(goal.measure).label.lower()} at most {names.describe(goal.measure).show(goal.at_most)} " \
                f"{names.describe(goal.measure).unit}"
            st.markdown(f"**{wording.plain(goal.name)}**: {goal.objective * 100:.6g}% of requests, {goal.period_days:g} days")
            st.caption(wording.plain(f"Good: {what}."))
            st.progress(min(1.0, max(0.0, one.left_share)), text=f"{one.left_share:.0%} of the budget is left"
                        if one.left_share >= 0 else f"Spent {1 - one.left_share:.1f} times over")
            burns = "nothing burns" if not one.burn_rate > 0 else f"burn rate {_burn(one.burn_rate)} over a day"
            st.caption(wording.plain(f"{one.bad:,} bad of {one.requests:,}; {one.allowed:,.1f} allowed so far; {burns}."))


def _burn(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}" if rate >= 0.1 else "below 0.1"


def _share(found: Estimate) -> str:
    return "–" if math.isnan(found.value) else f"{found.value:.2%}"


def _interval(found: Estimate) -> str:
    return "nobody looked" if math.isnan(found.value) else f"{found.low:.2%} to {found.high:.2%}"


def _points(now: Estimate, before: Estimate) -> str | None:
    if math.isnan(now.value) or math.isnan(before.value):
        return None
    return _moved(f"{(now.value - before.value) * 100:+.2f}", " points")


def _difference(now: float, before: float) -> str | None:
    return None if math.isnan(now) or math.isnan(before) else _moved(f"{now - before:+.3f}")


def _change(now: float, before: float) -> str | None:
    return None if not before or math.isnan(now) or math.isnan(before) else _moved(f"{now / before - 1:+.1%}")


def _moved(text: str, unit: str = "") -> str | None:
    """None for a change that is 0 in print: an arrow beside it would say otherwise."""
    return f"{text}{unit}" if any(digit in text for digit in "123456789") else None


def _ms(seconds: float) -> str:
    return "–" if math.isnan(seconds) else f"{seconds * 1e3:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def _usd(cost: float) -> str:
    return "–" if math.isnan(cost) else f"${cost:,.2f}" if cost >= 1 else f"${cost:.4f}"


"""Overview: what was measured, what it decided, and which runs did not end well."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from lab import experiments, wording
from lab.errors import LabError
from lab.names import describe
from lab.ops import store
from lab.pages import _overview_news, _store

NEWEST = 50
HEADLINES = 4


def main() -> None:
    st.title("Overview")
    try:
        runs = _store.experiments(limit=NEWEST)
        latest = _latest(runs)
        trials = _store.trials([str(run["run_id"]) for run in latest])
    except LabError as error:
        st.error(wording.plain(error))
        return
    if runs.empty:
        _nothing()
        return
    _unfinished(runs)
    news = st.container()
    st.subheader("Latest verdicts", anchor=False)
    for i in range(0, len(latest), 2):
        for column, run in zip(st.columns(2, gap="medium"), latest[i : i + 2], strict=False):
            with column:
                _card(run, trials[trials["parent_id"] == run["run_id"]] if len(trials) else trials, runs)
    _all(runs)
    with news:  # the tests take longest, so everything else is there before
        _overview_news.state()
        _overview_news.changed(runs)


def _latest(runs: pd.DataFrame) -> list[pd.Series[Any]]:
    """The run to show of every experiment, newest first: its last with a verdict, else its last.

    Experiments that are not among the newest runs are asked for by name.
    """
    seen = list(dict.fromkeys(runs["experiment"]))
    parts = [runs[runs["experiment"] == name] for name in seen]
    if len(runs) == NEWEST:
        parts += [_store.experiments(name, limit=1) for name in experiments.names() if name not in seen]
    return [next((run for _, run in part.iterrows() if wording.verdict(run)), part.iloc[0])
            for part in parts if len(part)]


def _nothing() -> None:
    """An empty store: what to type, and what will be here then."""
    st.markdown("Nothing has been measured yet. Each experiment answers one question and ends with a verdict; its runs "
                "appear here as soon as they start.")
    st.markdown("Measure a small model on this machine, in a few minutes:")
    st.code("lab demo", language="bash")
    st.markdown("Or run one experiment:")
    sound = experiments.sound()
    st.code("\n".join(f"lab run {name}" for name in sound), language="bash")
    for name in sound:
        st.markdown(f"- **{wording.plain(name.replace('_', ' ').capitalize())}**: {wording.plain(wording.question(name))}")
    for sentence in experiments.broken().values():
        st.warning(wording.plain(sentence))
    st.caption(wording.plain(f"The runs are read from {store.shown()}"))
    st.subheader("How the workbench is", anchor=False)
    _overview_news.state()


def _unfinished(runs: pd.DataFrame) -> None:
    """The runs that did not end well, so that nobody takes half a measurement for a whole one."""
    broken = runs[runs["state"].isin(["interrupted", "failed", "died"])]
    if broken.empty:
        return
    lines = []
    for _, run in broken.head(3).iterrows():
        reason = run.get("tags.lab.reason")
        why = f": {wording.plain(reason)}" if isinstance(reason, str) and reason else ""
        lines.append(f"- {wording.plain(run['name'])}, {wording.age(run['started_at'])}, **{run['state']}**{why}")
    if len(broken) > 3:
        lines.append(f"- and {len(broken) - 3} more, in the table below")
    count = f"{len(broken)} of the newest {len(runs)} runs" if len(runs) > 1 else "The only run"
    st.warning(f"{count} did not finish. What was measured before is kept.\n\n" + "\n".join(lines))


def _card(run: pd.Series[Any], trials: pd.DataFrame, runs: pd.DataFrame) -> None:
    """One run: its question, verdict, headline numbers and reasons to distrust them."""
    name, state = str(run["experiment"]), str(run["state"])
    verdict = wording.verdict(run)
    with st.container(border=True):
        head = st.container(horizontal=True, vertical_alignment="center")
        head.subheader(wording.plain(name.replace("_", " ").capitalize()), anchor=False, width="content")
        head.badge(state, color=wording.STATE_COLOURS.get(state, "gray"))  # type: ignore[arg-type]
        st.caption(wording.plain(wording.question(name)))
        if verdict is not None:
            st.markdown(f"**{wording.plain(verdict.decision)}**")
        else:
            st.markdown("No verdict yet." if state == "running" else "No verdict: the run did not finish.")
        if len(trials):
            _headlines(name, verdict.chosen if verdict else None, trials)
        caveats = list(dict.fromkeys([*(verdict.caveats if verdict else ()), *wording.doubts(trials)]))
        if caveats:
            st.warning("\n".join(f"- {wording.plain(line)}" for line in caveats))
        if verdict is not None and verdict.why:
            with st.expander("Why"):
                st.markdown("\n".join(f"- {wording.plain(line)}" for line in verdict.why))
        count = f"{len(trials)} trial{'' if len(trials) == 1 else 's'}"
        facts = [wording.age(run["started_at"]), count, f"took {wording.duration(run['seconds'])}", wording.machine(run)]
        st.caption(wording.plain(" · ".join(fact for fact in facts if fact and "–" not in fact)))
        newer = runs[(runs["experiment"] == name) & (runs["started_at"] > run["started_at"])]
        if len(newer):
            last = newer.iloc[0]
            words = wording.STATES.get(last["state"], "finished without a verdict")
            st.caption(wording.plain(f"A newer run, {wording.label(last)}, {words}."))
        st.page_link(st.Page(_page("compare")), label="Open in Compare",
                     query_params={"experiment": name, "run": str(run["run_id"])})


def _headlines(experiment: str, chosen: str | None, trials: pd.DataFrame) -> None:
    """The measures that the experiment's figures show, of the trial that the verdict chose (else of the first one)."""
    picked = trials[trials["name"] == chosen] if chosen else trials.head(0)
    trial = (picked if len(picked) else trials).iloc[0]
    cls = wording.find(experiment)
    drawn = [column for chart in (cls.charts if cls else ()) for column in (chart.x, chart.y)]
    columns = [*drawn, *(f"metrics.{name}" for name in cls.columns)] if cls else [str(c) for c in trials.columns]
    sides = {f"{c}_{side}" for c in trials.columns for side in ("low", "high")}
    shown = [c for c in dict.fromkeys(columns) if c.startswith("metrics.") and c not in sides and pd.notna(trial.get(c))]
    st.caption(wording.plain(f"{'Chosen' if len(picked) else 'First trial'}: {trial['name']}, with 95% intervals"))
    row = st.container(horizontal=True, gap="medium")
    for column in shown[:HEADLINES]:
        low, high = (float(trial.get(f"{column}_{side}", math.nan)) for side in ("low", "high"))
        bounds = wording.interval(low, high, column)
        row.metric(describe(column).label, wording.measured(trial[column], column), bounds or None, delta_color="off",
                   delta_arrow="off", width=162)


def _all(runs: pd.DataFrame) -> None:
    st.subheader("All runs" if len(runs) < NEWEST else f"The newest {NEWEST} runs", anchor=False)
    verdicts = [wording.verdict(run) for _, run in runs.iterrows()]
    table = pd.DataFrame({
        "Started": runs["started_at"],
        "Experiment": runs["experiment"],
        "Run": [wording.label(run) for _, run in runs.iterrows()],
        "State": runs["state"],
        "Open": [f"compare?experiment={run['experiment']}&run={run['run_id']}" for _, run in runs.iterrows()],
        "Duration (s)": runs["seconds"],
        "Verdict": [verdict.decision if verdict else "" for verdict in verdicts],
        "Machine": [wording.machine(run) for _, run in runs.iterrows()],
    })
    if table["Machine"].nunique() == 1:
        table = table.drop(columns="Machine")
    st.dataframe(
        table, hide_index=True, height="content" if len(table) <= 12 else 460,
        column_config={
            "Started": st.column_config.DatetimeColumn("Started (UTC)", format="YYYY-MM-DD HH:mm", width=140),
            "Duration (s)": st.column_config.NumberColumn(format="%.1f"),
            "Verdict": st.column_config.TextColumn(width="large"),
            "Open": st.column_config.LinkColumn("Open", display_text="Compare"),
        },
    )
    st.download_button("Download runs as CSV", lambda: runs.to_csv(index=False).encode(), "runs.csv", "text/csv",
                       on_click="ignore", help="Every setting and tag of these runs, in stored units")


def _page(name: str) -> str:
    return str(Path(__file__).with_name(f"{name}.py"))


main()

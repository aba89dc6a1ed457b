"""Overview: what was measured, what it decided, and which runs did not end well."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from lab import experiments
from lab.errors import LabError
from lab.names import describe
from lab.ops import store
from lab.pages import _store, _words

NEWEST = 50
HEADLINES = 4


def main() -> None:
    st.title("Overview")
    try:
        runs = _store.experiments(limit=NEWEST)
        latest = _latest(runs)
        trials = _store.trials([str(run["run_id"]) for run in latest])
    except LabError as error:
        st.error(_words.plain(error))
        return
    if runs.empty:
        _nothing()
        return
    _unfinished(runs)
    columns = st.columns(2, gap="medium") if len(latest) > 1 else [st.container()]
    for i, run in enumerate(latest):
        mine = trials[trials["parent_id"] == run["run_id"]] if len(trials) else trials
        with columns[i % len(columns)]:
            _card(run, mine)
    _all(runs)


def _latest(runs: pd.DataFrame) -> list[pd.Series[Any]]:
    """The newest run of every experiment, newest first; experiments not among the newest runs are asked for by name."""
    seen = list(dict.fromkeys(runs["experiment"]))
    parts = [runs[runs["experiment"] == name].iloc[:1] for name in seen]
    if len(runs) == NEWEST:
        parts += [_store.experiments(name, limit=1) for name in experiments.names() if name not in seen]
    return [part.iloc[0] for part in parts if len(part)]


def _nothing() -> None:
    """An empty store: what to type, and what will be here then."""
    st.markdown("Nothing has been measured yet. Each experiment answers one question and ends with a verdict; its runs "
                "appear here as soon as they start.")
    st.markdown("Measure a small model on this machine, in a few minutes:")
    st.code("lab demo", language="bash")
    st.markdown("Or run one experiment:")
    st.code("\n".join(f"lab run {name}" for name in experiments.names()), language="bash")
    for name in experiments.names():
        st.markdown(f"- **{_words.plain(name.replace('_', ' ').capitalize())}**: {_words.plain(_words.question(name))}")
    st.caption(_words.plain(f"The runs are read from {store.uri()}"))


def _unfinished(runs: pd.DataFrame) -> None:
    """The runs that did not end well, so that nobody takes half a measurement for a whole one."""
    broken = runs[runs["state"].isin(["interrupted", "failed", "died"])]
    if broken.empty:
        return
    lines = []
    for _, run in broken.head(3).iterrows():
        reason = run.get("tags.lab.reason")
        why = f": {_words.plain(reason)}" if isinstance(reason, str) and reason else ""
        lines.append(f"- {_words.plain(run['name'])}, {_words.age(run['started_at'])}, **{run['state']}**{why}")
    if len(broken) > 3:
        lines.append(f"- and {len(broken) - 3} more, in the table below")
    count = f"{len(broken)} of the newest {len(runs)} runs" if len(runs) > 1 else "The only run"
    st.warning(f"{count} did not finish. What was measured before is kept.\n\n" + "\n".join(lines))


def _card(run: pd.Series[Any], trials: pd.DataFrame) -> None:
    """The newest run of one experiment: its question, verdict, headline numbers and reasons to distrust them."""
    name, state = str(run["experiment"]), str(run["state"])
    verdict = _words.verdict(run)
    with st.container(border=True):
        head = st.container(horizontal=True, vertical_alignment="center")
        head.subheader(_words.plain(name.replace("_", " ").capitalize()), anchor=False, width="content")
        head.badge(state, color=_words.STATE_COLOURS.get(state, "gray"))  # type: ignore[arg-type]
        st.caption(_words.plain(_words.question(name)))
        if verdict is not None:
            st.markdown(f"**{_words.plain(verdict.decision)}**")
        else:
            st.markdown("No verdict yet." if state == "running" else "No verdict: the run did not finish.")
        if len(trials):
            _headlines(name, verdict.chosen if verdict else None, trials)
        caveats = list(dict.fromkeys([*(verdict.caveats if verdict else ()), *_words.doubts(trials)]))
        if caveats:
            st.warning("\n".join(f"- {_words.plain(line)}" for line in caveats))
        if verdict is not None and verdict.why:
            with st.expander("Why"):
                st.markdown("\n".join(f"- {_words.plain(line)}" for line in verdict.why))
        count = f"{len(trials)} trial{'' if len(trials) == 1 else 's'}"
        facts = [_words.age(run["started_at"]), count, f"took {_words.duration(run['seconds'])}", _words.machine(run)]
        st.caption(_words.plain(" · ".join(fact for fact in facts if fact and "–" not in fact)))
        st.page_link(st.Page(_page("compare")), label="Open in Compare",
                     query_params={"experiment": name, "run": str(run["run_id"])})


def _headlines(experiment: str, chosen: str | None, trials: pd.DataFrame) -> None:
    """The first measures of the experiment's table, of the trial that the verdict chose (else of the first one)."""
    picked = trials[trials["name"] == chosen] if chosen else trials.head(0)
    trial = (picked if len(picked) else trials).iloc[0]
    try:
        measures = experiments.find(experiment).columns
    except LabError:
        measures = tuple(c.removeprefix("metrics.") for c in trials.columns if c.startswith("metrics."))
    shown = [m for m in measures if pd.notna(trial.get(f"metrics.{m}"))][:HEADLINES]
    st.caption(_words.plain(f"{'Chosen' if len(picked) else 'First trial'}: {trial['name']}"))
    row = st.container(horizontal=True, gap="medium")
    for measure in shown:
        column = f"metrics.{measure}"
        bounds = _words.interval(trial.get(f"{column}_low", float("nan")), trial.get(f"{column}_high", float("nan")), column)
        with row.container(width=150):
            st.metric(describe(column).label, _words.measured(trial[column], column))
            st.caption(f"{bounds} (95%)" if bounds else "no interval")


def _all(runs: pd.DataFrame) -> None:
    st.subheader("All runs" if len(runs) < NEWEST else f"The newest {NEWEST} runs", anchor=False)
    verdicts = [_words.verdict(run) for _, run in runs.iterrows()]
    table = pd.DataFrame({
        "Started": runs["started_at"],
        "Experiment": runs["experiment"],
        "Run": [_words.label(run) for _, run in runs.iterrows()],
        "State": runs["state"],
        "Duration (s)": runs["seconds"],
        "Verdict": [verdict.decision if verdict else "" for verdict in verdicts],
        "Machine": [_words.machine(run) for _, run in runs.iterrows()],
        "Open": [f"compare?experiment={run['experiment']}&run={run['run_id']}" for _, run in runs.iterrows()],
    })
    st.dataframe(
        table, hide_index=True, height="content" if len(table) <= 12 else 460,
        column_config={
            "Started": st.column_config.DatetimeColumn("Started (UTC)", format="YYYY-MM-DD HH:mm", width=140),
            "Duration (s)": st.column_config.NumberColumn(format="%.1f"),
            "Verdict": st.column_config.TextColumn(width="large"),
            "Open": st.column_config.LinkColumn("Open", display_text="Compare"),
        },
    )


def _page(name: str) -> str:
    from pathlib import Path

    return str(Path(__file__).with_name(f"{name}.py"))


main()

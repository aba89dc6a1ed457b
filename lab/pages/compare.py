"""Compare: any runs in one table and on one Pareto chart, against a pinned baseline, and which configuration to ship."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from lab import experiments, report, wording
from lab.errors import LabError
from lab.ops import configurations, cost
from lab.pages import (
    _compare_address,
    _compare_decide,
    _compare_differences,
    _compare_figures,
    _compare_marks,
    _compare_risk,
    _compare_table,
    _store,
)
from lab.pages._compare_figures import Selection

NEWEST = 200
MOST_RUNS = 8
MARKED = 12
"""So many trials are tested against the baseline by themselves, the first of them; any other one on demand."""
ANY = "any"
"""The address of runs of several experiments."""


def main() -> None:
    st.title("Compare")
    st.session_state["compare.whole"] = True
    seed, round_ = _seed()
    try:
        experiment, runs, wanted = _choose(seed, round_)
        if runs.empty:
            return
        trials = _store.trials(list(runs["run_id"]))
    except LabError as error:
        st.error(wording.plain(error))
        return
    named = _labels(runs)
    trials = trials.assign(run=trials["parent_id"].map(named)) if len(trials) else trials
    trials, picked = _filter(trials, seed, round_)
    wanted["trial"] = picked
    _cautions(runs, trials)
    _verdicts(runs, wording.doubts(trials))
    if trials.empty:
        st.info("No trial has been recorded yet. The first one appears here as soon as it is measured.")
    else:
        wanted |= _measured(experiment, runs, trials, wanted, seed, round_)
        ids, against = list(runs["run_id"]), wanted.get("baseline", [""])[0] if experiment != ANY else ""
        st.download_button("Download report", lambda: report.page(report.compose(ids, baseline=against)).encode(),
                           f"{experiment}-report.html", "text/html", on_click="ignore",
                           help="One page with verdicts, tables, tested differences and figures, which needs no network")
    _remember(wanted | st.session_state.pop("compare.decide", {}))
    st.session_state["compare.whole"] = False


def _measured(
    experiment: str, runs: pd.DataFrame, trials: pd.DataFrame, wanted: Selection, seed: Selection, round_: int
) -> Selection:
    """Everything below the verdicts; returns what the address is to say of it."""
    cls = wording.find(experiment) if experiment != ANY else None
    if experiment != seed.get("experiment", [experiment])[0]:
        seed = {}  # what the address says is of another experiment
    book = cost.load()
    trials = configurations.priced(trials, book)
    found = configurations.gathered(trials)
    baseline, tested = _pin(runs, trials, seed, round_)
    key, out = f"{round_} {experiment}", {"baseline": [baseline]} if baseline else {}
    measures = _compare_table.measures(cls, trials)
    if experiment != ANY:
        _compare_table.show(experiment, cls, runs, trials, measures, baseline, tested)
        out |= _compare_risk.show(cls, trials, seed.get("risk", [""])[0], key=f"risk {key}")
        out |= _compare_figures.tradeoff(cls, trials, measures, seed, round_)
        _compare_decide.show(found, runs, trials, baseline, tested, seed, key)
        out |= _compare_figures.figures(cls, trials, out, seed, key)
    elif found:
        drawn = configurations.frame(found)
        out |= _compare_figures.tradeoff(None, drawn, _compare_table.measures(None, drawn), seed, round_)
        _compare_decide.show(found, runs, trials, baseline, tested, seed, key)
    else:
        st.info("The trials of these runs carry no measure of speed, quality, safety or cost; choose one experiment to see them.")
    if any("usd_per_million_tokens" in one.figures for one in found):
        st.caption(wording.plain(f"Cost by the price book '{book.name}' version {book.version}, at the rate that was measured."))
    if baseline:
        out |= _compare_differences.show(runs, trials, baseline, seed, round_)
    return out


def _pin(
    runs: pd.DataFrame, trials: pd.DataFrame, seed: Selection, round_: int
) -> tuple[str, _store.Tested]:
    """The baseline that everything is held against, and what the tests say of the other trials."""
    if len(trials) < 2:
        return "", {}
    ids = list(trials["run_id"])
    named = {trial["run_id"]: f"{trial['name']} · {trial['run']}" if len(runs) > 1 else str(trial["name"])
             for _, trial in trials.iterrows()}
    asked = _compare_differences.meant(seed, "baseline", ids)
    _compare_address.lost(seed, "baseline", "the baseline", ids, begins=True)
    marked = trials[trials["params.role"] == "baseline"] if "params.role" in trials else trials.head(0)
    usual = str((marked if len(marked) else trials)["run_id"].iloc[0])
    baseline = st.selectbox("Baseline", ids, index=ids.index(asked or usual), format_func=named.__getitem__,
                            key=f"baseline {round_} {ids[0]}", help="Pinned in the address: a link keeps it")
    others = [i for i in ids if i != baseline][:MARKED]
    tested = _store.against(list(runs["run_id"]), baseline, others)
    more = len(ids) - 1 - len(others)
    st.caption(_compare_marks.ABOUT + (f" {more} more trials are tested below, one at a time." if more else ""))
    return baseline, tested


# The selection and the address of the page


def _seed() -> tuple[Selection, int]:
    """What the address asks for, and how often it has changed by itself.

    Widgets start from the seed and then own their state; the address follows them. When it changes without them (a
    link, the browser's back button), the number grows, every widget gets a new key and starts from the new address.
    """
    state = st.session_state
    asked: Selection = {name: st.query_params.get_all(name) for name in st.query_params}
    if "compare.seed" not in state or (asked and asked != state["compare.address"]):
        state["compare.seed"] = state["compare.address"] = asked
        state["compare.round"] = state.get("compare.round", 0) + 1
    elif not asked and state["compare.address"]:
        # Back from another page, whose address says nothing: go on where the comparison was left.
        state["compare.seed"] = state["compare.address"]
        state["compare.round"] += 1
    return state["compare.seed"], state["compare.round"]


def _remember(wanted: Selection) -> None:
    """Make the address say what is shown."""
    address = {name: values for name, values in wanted.items() if values}
    st.session_state["compare.address"] = address
    if {name: st.query_params.get_all(name) for name in st.query_params} != address:
        st.query_params.from_dict(address)


def _choose(seed: Selection, round_: int) -> tuple[str, pd.DataFrame, Selection]:
    """The experiment and its runs, oldest first."""
    newest = _store.experiments(limit=NEWEST)
    asked = seed.get("experiment", [""])[0]
    known = list(dict.fromkeys([*newest["experiment"], *experiments.names(), ANY]))
    given = seed.get("run", [])
    if not asked and given:
        kinds = set(newest[newest["run_id"].str.startswith(tuple(given))]["experiment"])
        asked = kinds.pop() if len(kinds) == 1 else ANY
    left, right = st.columns([1, 2], gap="medium")
    with left:
        experiment = st.selectbox("Experiment", known, index=known.index(asked) if asked in known else 0,
                                  format_func=_title, key=f"experiment {round_}")
    _compare_address.lost({"experiment": [asked]}, "experiment", "the experiment", known)
    runs = newest if experiment == ANY else _store.experiments(experiment, limit=NEWEST)
    if runs.empty:
        st.caption(wording.plain(_question(experiment)))
        st.info("This has not been run yet. Run it, and its trials appear here while it is measuring:")
        st.code("lab demo" if experiment == ANY else f"lab run {experiment}", language="bash")
        _remember({"experiment": [experiment]})
        return experiment, runs, {}
    named = _labels(runs)
    states = dict(zip(runs["run_id"], runs["state"], strict=True))
    full = {str(run["run_id"]): _full(run, named[run["run_id"]], experiment == ANY) for _, run in runs.iterrows()}
    ids = list(named)
    meant = seed.get("run", []) if experiment == asked else []
    given = [run_id for text in meant for run_id in ids if run_id.startswith(text)] or ids[:1]
    with right:
        chosen = st.multiselect(
            "Runs, laid over each other", ids, default=given[:MOST_RUNS], max_selections=MOST_RUNS,
            format_func=lambda i: full[i] if states[i] == "finished" else f"{full[i]} ({states[i]})",
            key=f"runs {round_} {experiment}", placeholder="Choose runs")
    st.caption(wording.plain(_question(experiment)))
    if lost := [text for text in meant if not any(run_id.startswith(text) for run_id in ids)]:
        st.warning(wording.plain(f"The address names run {lost[0]}, which is not among the newest {len(ids)} runs of "
                                f"{'this store' if experiment == ANY else f'{experiment} in this store'}."))
    if not chosen:
        st.info("Choose at least one run.")
    kept = runs[runs["run_id"].isin(chosen)].iloc[::-1].reset_index(drop=True)
    return experiment, kept, {"experiment": [experiment], "run": list(kept["run_id"])}


def _labels(runs: pd.DataFrame) -> dict[str, str]:
    """Run id to label; runs of several experiments begin with the experiment's name."""
    named = wording.labels(runs)
    if runs["experiment"].nunique() < 2:
        return named
    return {str(run["run_id"]): f"{run['experiment'].replace('_', ' ')} {named[run['run_id']]}" for _, run in runs.iterrows()}


def _full(run: pd.Series[Any], label: str, any_: bool) -> str:
    """A run in the list to choose from: with the settings that tell it from others of its experiment."""
    settings = wording.settings(run)
    return f"{label} {settings}" if settings and not any_ else label


def _title(experiment: str) -> str:
    return "Any experiments" if experiment == ANY else experiment.replace("_", " ").capitalize()


def _question(experiment: str) -> str:
    if experiment == ANY:
        return "What runs of several experiments say of one configuration is put together where they measured the same one."
    return wording.question(experiment)


def _filter(trials: pd.DataFrame, seed: Selection, round_: int) -> tuple[pd.DataFrame, list[str]]:
    """The trials to show: all, or those of the chosen names in every run."""
    if trials.empty:
        return trials, []
    present = list(dict.fromkeys(trials["name"]))
    parents = "-".join(sorted(set(trials["parent_id"])))
    picked = st.multiselect("Trials", present, default=[name for name in seed.get("trial", []) if name in present],
                            placeholder=f"All {len(present)}", key=f"trials {round_} {parents}")
    return (trials[trials["name"].isin(picked)] if picked else trials), picked


# What is shown


def _cautions(runs: pd.DataFrame, trials: pd.DataFrame) -> None:
    """Everything that makes these numbers worth less, above them."""
    named = _labels(runs)
    said = [f"Run {named[run['run_id']]} {wording.STATES[run['state']]}."
            for _, run in runs.iterrows() if run["state"] in wording.STATES]
    machines = {wording.machine(run) for _, run in runs.iterrows()} - {""}
    if len(machines) > 1:
        said.append(f"The runs were measured on different machines ({'; '.join(sorted(machines))}).")
    said += wording.doubts(trials)
    if said:
        st.warning("\n".join(f"- {wording.plain(line)}" for line in dict.fromkeys(said)))


def _verdicts(runs: pd.DataFrame, said: Sequence[str]) -> None:
    """What each run decided, with the caveats that are not `said` already."""
    named = _labels(runs)
    for _, run in runs.iterrows():
        verdict = wording.verdict(run)
        if verdict is None:
            continue
        with st.container(border=True):
            st.caption(wording.plain(f"Verdict, {named[run['run_id']]}" if len(runs) > 1 else "Verdict"))
            st.markdown(f"**{wording.plain(verdict.decision)}**")
            for caveat in verdict.caveats:
                if caveat not in said:
                    st.caption(wording.plain(caveat))
            if verdict.why:
                with st.expander("Why"):
                    st.markdown("\n".join(f"- {wording.plain(line)}" for line in verdict.why))



main()

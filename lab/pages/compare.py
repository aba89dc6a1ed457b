"""Compare: runs of one experiment side by side, in one table, the same figures and a test of what differs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from lab import experiments, plots
from lab.errors import LabError
from lab.experiments import Chart, Experiment
from lab.names import describe
from lab.ops import compare
from lab.pages import _store, _words

NEWEST = 200
MOST_RUNS = 8
RESULTS = {"better": "Better", "worse": "Worse", "different": "Different", "no difference shown": "No difference shown",
           "too few": "Too few to tell", "not tested": "Not tested"}
Selection = dict[str, list[str]]


def main() -> None:
    st.title("Compare")
    seed, round_ = _seed()
    try:
        experiment, runs, wanted = _choose(seed, round_)
        if runs.empty:
            return
        trials = _store.trials(list(runs["run_id"]))
    except LabError as error:
        st.error(_words.plain(error))
        return
    trials = trials.assign(run=trials["parent_id"].map(_words.labels(runs))) if len(trials) else trials
    cls = _class(experiment)
    trials, picked = _filter(trials, seed, round_)
    wanted["trial"] = picked
    _cautions(runs, trials)
    _verdicts(runs)
    if trials.empty:
        st.info("No trial has been recorded yet. The first one appears here as soon as it is measured.")
    else:
        measures = _measures(cls, trials)
        _table(experiment, runs, trials, measures)
        wanted |= _tradeoff(cls, trials, measures, seed, round_)
        _figures(cls, trials, wanted)
        wanted |= _differences(runs, trials, seed, round_)
    _remember(wanted)


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
    known = list(dict.fromkeys([*newest["experiment"], *experiments.names()]))
    left, right = st.columns([1, 2], gap="medium")
    with left:
        experiment = st.selectbox("Experiment", known, index=known.index(asked) if asked in known else 0,
                                  format_func=lambda name: name.replace("_", " ").capitalize(), key=f"experiment {round_}")
    runs = _store.experiments(experiment, limit=NEWEST)
    if runs.empty:
        st.caption(_words.plain(_words.question(experiment)))
        st.info("This experiment has not been run yet. Run it, and its trials appear here while it is measuring:")
        st.code(f"lab run {experiment}", language="bash")
        _remember({"experiment": [experiment]})
        return experiment, runs, {}
    named = _words.labels(runs)
    states = dict(zip(runs["run_id"], runs["state"], strict=True))
    ids = list(named)
    meant = seed.get("run", []) if experiment == asked else []
    given = [run_id for text in meant for run_id in ids if run_id.startswith(text)] or ids[:1]
    with right:
        chosen = st.multiselect(
            "Runs, laid over each other", ids, default=given[:MOST_RUNS], max_selections=MOST_RUNS,
            format_func=lambda i: named[i] if states[i] == "finished" else f"{named[i]} ({states[i]})",
            key=f"runs {round_} {experiment}", placeholder="Choose runs")
    st.caption(_words.plain(_words.question(experiment)))
    if lost := [text for text in meant if not any(run_id.startswith(text) for run_id in ids)]:
        st.warning(_words.plain(f"The address names run {lost[0]}, which is not among the newest {len(ids)} runs of "
                                f"{experiment} in this store."))
    if not chosen:
        st.info("Choose at least one run.")
    kept = runs[runs["run_id"].isin(chosen)].iloc[::-1].reset_index(drop=True)
    return experiment, kept, {"experiment": [experiment], "run": list(kept["run_id"])}


def _filter(trials: pd.DataFrame, seed: Selection, round_: int) -> tuple[pd.DataFrame, list[str]]:
    """The trials to show: all, or those of the chosen names in every run."""
    if trials.empty:
        return trials, []
    present = list(dict.fromkeys(trials["name"]))
    picked = st.multiselect("Trials", present, default=[name for name in seed.get("trial", []) if name in present],
                            placeholder=f"All {len(present)}", key=f"trials {round_} {'-'.join(sorted(set(trials['parent_id'])))}")
    return (trials[trials["name"].isin(picked)] if picked else trials), picked


def _class(experiment: str) -> type[Experiment] | None:
    try:
        return experiments.find(experiment)
    except LabError:
        return None


def _measures(cls: type[Experiment] | None, trials: pd.DataFrame) -> list[str]:
    """The measures that were taken, those of the experiment's table first, then the rest."""
    columns = [str(c) for c in trials.columns if str(c).startswith("metrics.")]
    bounds = {f"{c}_{side}" for c in columns for side in ("low", "high")}
    first = [f"metrics.{name}" for name in (cls.columns if cls else ())]
    ordered = [*first, *(c for c in columns if c not in first)]
    return [c for c in ordered if c in columns and c not in bounds and trials[c].notna().any()]


# What is shown


def _cautions(runs: pd.DataFrame, trials: pd.DataFrame) -> None:
    """Everything that makes these numbers worth less, above them."""
    named = _words.labels(runs)
    said = [f"Run {named[run['run_id']]} {_words.STATES[run['state']]}."
            for _, run in runs.iterrows() if run["state"] in _words.STATES]
    machines = {_words.machine(run) for _, run in runs.iterrows()} - {""}
    if len(machines) > 1:
        said.append(f"The runs were measured on different machines ({'; '.join(sorted(machines))}).")
    for _, run in runs.iterrows():
        verdict = _words.verdict(run)
        said += verdict.caveats if verdict else ()
    said += _words.doubts(trials)
    if said:
        st.warning("\n".join(f"- {_words.plain(line)}" for line in dict.fromkeys(said)))


def _verdicts(runs: pd.DataFrame) -> None:
    named = _words.labels(runs)
    for _, run in runs.iterrows():
        verdict = _words.verdict(run)
        if verdict is None:
            continue
        with st.container(border=True):
            st.caption(_words.plain(f"Verdict, {named[run['run_id']]}" if len(runs) > 1 else "Verdict"))
            st.markdown(f"**{_words.plain(verdict.decision)}**")
            if verdict.why:
                with st.expander("Why"):
                    st.markdown("\n".join(f"- {_words.plain(line)}" for line in verdict.why))


def _table(experiment: str, runs: pd.DataFrame, trials: pd.DataFrame, measures: Sequence[str]) -> None:
    st.subheader("Trials", anchor=False)
    config: dict[str, Any] = {}
    table = pd.DataFrame({"Trial": trials["name"]})
    config["Trial"] = st.column_config.TextColumn(pinned=True)
    if len(runs) > 1:
        table["Run"] = trials["run"]
    flags = trials["tags.lab.flags"] if "tags.lab.flags" in trials else pd.Series("", index=trials.index)
    if flags.fillna("").ne("").any():
        table["Caution"] = flags.fillna("").str.replace("\n", "; ")
        config["Caution"] = st.column_config.TextColumn(width="medium")
    for column in _words.varying(trials):
        values = trials[column]
        table[column] = values if pd.api.types.is_numeric_dtype(values) else values.map(_words.setting)
        config[column] = st.column_config.Column(describe(column).heading)
    for column in measures:
        name = describe(column)
        scaled = trials[column] * name.scale
        table[column] = scaled
        config[column] = st.column_config.NumberColumn(name.heading, format=f"%.{_decimals(scaled)}f")
        if f"{column}_low" in trials and trials[f"{column}_low"].notna().any():
            table[f"{column} interval"] = [
                _words.interval(low, high, column)
                for low, high in zip(trials[f"{column}_low"], trials[f"{column}_high"], strict=True)]
            config[f"{column} interval"] = st.column_config.TextColumn("95% interval", help=f"95% interval of: {name.heading}")
    st.dataframe(table, hide_index=True, column_config=config, placeholder="–",
                 height="content" if len(table) <= 14 else 530)
    st.download_button("Download CSV", trials.to_csv(index=False), f"{experiment}-trials.csv", "text/csv",
                       on_click="ignore", help="Every setting, measure and tag of these trials, in stored units")
    if len(runs) > 1 and (differ := _words.varying(runs)):
        named = _words.labels(runs)
        st.caption("Settings in which the runs differ")
        st.dataframe(pd.DataFrame(
            {"Setting": [describe(c).heading for c in differ],
             **{named[r["run_id"]]: [_words.setting(r[c]) for c in differ] for _, r in runs.iterrows()}}), hide_index=True)


def _tradeoff(
    cls: type[Experiment] | None, trials: pd.DataFrame, measures: Sequence[str], seed: Selection, round_: int
) -> Selection:
    """Any two measures against each other, with the Pareto front."""
    judged = [c for c in measures if describe(c).better != "neither"]
    if len(judged) < 2 or len(trials) < 2:
        return {}
    st.subheader("Trade-off", anchor=False)
    own = next((c for c in (cls.charts if cls else ()) if c.kind == "tradeoff"), None)
    usual = (own.x, own.y) if own and {own.x, own.y} <= set(judged) else _opposed(judged)
    picked = []
    for column, key, start in zip(st.columns(2, gap="medium"), ("x", "y"), usual, strict=True):
        asked = f"metrics.{seed.get(key, [''])[0]}"
        with column:
            picked.append(st.selectbox(
                "Across" if key == "x" else "Up", judged, index=judged.index(asked if asked in judged else start),
                format_func=lambda c: describe(c).heading, key=f"{key} {round_} {cls.__name__ if cls else ''}"))
    x, y = picked
    chart = Chart(title=f"{describe(y).label} against {describe(x).label.lower()}", kind="tradeoff", x=x, y=y,
                  label=own.label if own else None)
    _show(plots.draw(chart, trials, dark=_dark()), "trade-off")
    st.caption("Filled points are on the Pareto front: no other trial is at least as good in both and better in one. "
               "Hollow ones are beaten by another trial. Bars are 95% intervals.")
    return {"x": [x.removeprefix("metrics.")], "y": [y.removeprefix("metrics.")]}


def _opposed(judged: Sequence[str]) -> tuple[str, str]:
    """Two measures worth drawing against each other when the experiment names none: one to raise and one to lower."""
    higher = next((c for c in judged if describe(c).better == "higher"), judged[0])
    return higher, next((c for c in judged if describe(c).better == "lower" and c != higher), judged[-1])


def _figures(cls: type[Experiment] | None, trials: pd.DataFrame, wanted: Mapping[str, list[str]]) -> None:
    """The experiment's own figures, except a trade-off that is already drawn above."""
    if cls is None:
        return
    drawn = {c.title for c in cls.charts if c.kind == "tradeoff" and _same(c, wanted)}
    shown = {t: f for t, f in plots.figures(cls, trials, dark=_dark()).items() if t not in drawn}
    if not shown:
        return
    st.subheader("Figures", anchor=False)
    columns = st.columns(2, gap="medium")
    for i, (title, figure) in enumerate(shown.items()):
        with columns[i % 2]:
            _show(figure, title)


def _same(chart: Chart, wanted: Mapping[str, list[str]]) -> bool:
    return [chart.x.removeprefix("metrics.")] == wanted.get("x") and [chart.y.removeprefix("metrics.")] == wanted.get("y")


def _differences(runs: pd.DataFrame, trials: pd.DataFrame, seed: Selection, round_: int) -> Selection:
    """One trial against a baseline, measure by measure."""
    if len(trials) < 2:
        return {}
    st.subheader("Differences", anchor=False)
    ids = list(trials["run_id"])
    named = {r["run_id"]: f"{r['name']} · {r['run']}" if len(runs) > 1 else str(r["name"]) for _, r in trials.iterrows()}
    left, right = st.columns(2, gap="medium")
    with left:
        asked = _meant(seed, "baseline", ids)
        baseline = st.selectbox("Baseline", ids, index=ids.index(asked) if asked else 0, format_func=named.__getitem__,
                                key=f"baseline {round_} {ids[0]}")
    others = [i for i in ids if i != baseline]
    with right:
        asked = _meant(seed, "other", others)
        usual = _rival(runs, trials, baseline)
        other = st.selectbox("Compared with it", others, index=others.index(asked or usual), format_func=named.__getitem__,
                             key=f"other {round_} {baseline}")
    rows = _store.differences(list(runs["run_id"]), baseline, other)
    tested = [row for row in rows if row.outcome != "not tested"]
    st.markdown(f"**{_words.plain(_summary(named[other], named[baseline], tested))}**")
    st.dataframe(_differences_table(rows), hide_index=True, height="content", column_config={
        "Measure": st.column_config.TextColumn(pinned=True),
        **{c: st.column_config.TextColumn(alignment="right") for c in ("Baseline", "Other", "Difference")},
        "Relative (%)": st.column_config.NumberColumn(format="%+.1f"),
        "p": st.column_config.NumberColumn("p, adjusted", format="%.4f", help="Holm's adjustment for all that is tested here"),
    })
    few = [row for row in tested if row.outcome == "too few" and row.measure in compare.PER_GENERATION]
    need = compare.fewest_generations(len({row.measure for row in tested} - {"decode_tokens_per_s"})) if few else 0
    st.caption("Speed is tested over generations (rank sum), quality over the same items (paired; McNemar for right or "
               "wrong). A difference counts when its p-value, adjusted for all tests here, is below 0.05."
               + (f" Speed needs at least {need} measured requests a trial; run it again with more repeats." if need else ""))
    st.download_button("Download differences as CSV", compare.frame(rows).to_csv(index=False), "differences.csv", "text/csv",
                       on_click="ignore")
    _timelines({named[baseline]: baseline, named[other]: other})
    return {"baseline": [baseline], "other": [other]}


def _differences_table(rows: Sequence[compare.Row]) -> pd.DataFrame:
    out = []
    for row in rows:
        name = describe(row.measure)
        sign = "+" if row.difference > 0 else ""
        out.append({
            "Measure": name.heading, "Baseline": name.show(row.baseline), "Other": name.show(row.other),
            "Difference": f"{sign}{name.show(row.difference)}",
            "Relative (%)": row.relative * 100, "95% interval": _words.interval(row.low, row.high, row.measure),
            "p": row.p_adjusted, "Result": RESULTS[row.outcome],
        })
    return pd.DataFrame(out, columns=["Measure", "Baseline", "Other", "Difference", "Relative (%)", "95% interval", "p", "Result"])


def _summary(other: str, baseline: str, tested: Sequence[compare.Row]) -> str:
    """What the tests say, in a sentence."""
    if not tested:
        return f"{other} against {baseline}: nothing could be tested, for one of them kept no raw observations."
    parts = []
    for outcome, words in (("better", "better in"), ("worse", "worse in"), ("different", "different in")):
        found = [describe(row.measure).label.lower() for row in tested if row.outcome == outcome]
        if found:
            parts.append(f"{words} {', '.join(found)}")
    if not parts:
        too_few = all(row.outcome == "too few" for row in tested)
        parts = ["too few observations to show any difference" if too_few else "no difference shown"]
    return f"{other} against {baseline}: {'; '.join(parts)}."


def _timelines(chosen: Mapping[str, str]) -> None:
    """The gaps between tokens of both trials, where they kept their clock readings."""
    kept = {name: found for name, run_id in chosen.items() if (found := _store.generations(run_id))}
    if not kept:
        return
    st.subheader("Token by token", anchor=False)
    for column, (name, generations) in zip(st.columns(len(kept), gap="medium"), kept.items(), strict=True):
        with column:
            st.caption(_words.plain(name))
            _show(plots.token_timeline(generations, dark=_dark()), f"timeline {name}")


def _rival(runs: pd.DataFrame, trials: pd.DataFrame, baseline: str) -> str:
    """What to compare the baseline with first: its namesake in the newest run, else the newest verdict's choice."""
    others = trials[trials["run_id"] != baseline]
    name = trials[trials["run_id"] == baseline].iloc[0]["name"]
    verdict = _words.verdict(runs.iloc[-1])
    for wanted in (name, verdict.chosen if verdict else None):
        found = others[others["name"] == wanted]
        if len(found):
            return str(found.iloc[-1]["run_id"])
    return str(others.iloc[-1]["run_id"])


def _meant(seed: Selection, key: str, ids: Sequence[str]) -> str | None:
    asked = seed.get(key, [""])[0]
    return next((i for i in ids if asked and i.startswith(asked)), None)


def _decimals(values: pd.Series[float]) -> int:
    """Decimals of a column: three digits of its largest value and two of its smallest, five at most."""
    sizes = [abs(float(v)) for v in values if pd.notna(v) and v and math.isfinite(v)]
    if not sizes or all(size.is_integer() for size in sizes):
        return 0
    largest, smallest = (math.floor(math.log10(size)) for size in (max(sizes), min(sizes)))
    return max(0, min(5, max(2 - largest, 1 - smallest)))


def _show(figure: Any, key: str) -> None:
    st.plotly_chart(figure, config=dict(plots.CONFIG), key=f"figure {key}")


def _dark() -> bool:
    return st.context.theme.type == "dark"


main()

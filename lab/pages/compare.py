"""Compare: runs of one experiment side by side, in one table, the same figures and a test of what differs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from lab import experiments, plots, report, wording
from lab.errors import LabError
from lab.experiments import Chart, Experiment
from lab.metrics import speed
from lab.names import compared, describe
from lab.ops import compare
from lab.pages import _compare_risk, _store

NEWEST = 200
MOST_RUNS = 8
RESULTS = {"better": "Better", "worse": "Worse", "different": "Different", "no difference shown": "No difference shown",
           "too few": "Too few to tell", "not tested": "Not tested"}
SPEED = ("decode_tokens_per_s", "output_tokens_per_s", "requests_per_s", "ttft_s")
QUALITY = ("quality", "accuracy", "answered_share", "perplexity")
"""What is drawn first where trials carry both: speed of one answer before that of many, answers before probabilities."""
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
        st.error(wording.plain(error))
        return
    trials = trials.assign(run=trials["parent_id"].map(wording.labels(runs))) if len(trials) else trials
    cls = wording.find(experiment)
    trials, picked = _filter(trials, seed, round_)
    wanted["trial"] = picked
    _cautions(runs, trials)
    _verdicts(runs, wording.doubts(trials))
    if trials.empty:
        st.info("No trial has been recorded yet. The first one appears here as soon as it is measured.")
    else:
        measures = _measures(cls, trials)
        _table(experiment, cls, runs, trials, measures)
        wanted |= _compare_risk.show(cls, trials, seed.get("risk", [""])[0], key=f"risk {round_} {experiment}")
        wanted |= _tradeoff(cls, trials, measures, seed, round_)
        _figures(cls, trials, wanted)
        wanted |= _differences(runs, trials, seed, round_)
        ids, against = list(runs["run_id"]), wanted.get("baseline", [""])[0]
        st.download_button("Download report", lambda: report.page(report.compose(ids, baseline=against)).encode(),
                           f"{experiment}-report.html", "text/html", on_click="ignore",
                           help="One page with verdicts, tables, tested differences and figures, which needs no network")
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
                                  format_func=lambda name: name.replace("_", " ").capitalize(),
                                  key=f"experiment {round_}")
    runs = _store.experiments(experiment, limit=NEWEST)
    if runs.empty:
        st.caption(wording.plain(wording.question(experiment)))
        st.info("This experiment has not been run yet. Run it, and its trials appear here while it is measuring:")
        st.code(f"lab run {experiment}", language="bash")
        _remember({"experiment": [experiment]})
        return experiment, runs, {}
    named = wording.labels(runs)
    states = dict(zip(runs["run_id"], runs["state"], strict=True))
    ids = list(named)
    meant = seed.get("run", []) if experiment == asked else []
    given = [run_id for text in meant for run_id in ids if run_id.startswith(text)] or ids[:1]
    with right:
        chosen = st.multiselect(
            "Runs, laid over each other", ids, default=given[:MOST_RUNS], max_selections=MOST_RUNS,
            format_func=lambda i: named[i] if states[i] == "finished" else f"{named[i]} ({states[i]})",
            key=f"runs {round_} {experiment}", placeholder="Choose runs")
    st.caption(wording.plain(wording.question(experiment)))
    if lost := [text for text in meant if not any(run_id.startswith(text) for run_id in ids)]:
        st.warning(wording.plain(f"The address names run {lost[0]}, which is not among the newest {len(ids)} runs of "
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
    parents = "-".join(sorted(set(trials["parent_id"])))
    picked = st.multiselect("Trials", present, default=[name for name in seed.get("trial", []) if name in present],
                            placeholder=f"All {len(present)}", key=f"trials {round_} {parents}")
    return (trials[trials["name"].isin(picked)] if picked else trials), picked


def _measures(cls: type[Experiment] | None, trials: pd.DataFrame) -> list[str]:
    """The measures that were taken, those of the experiment's table first, then the rest."""
    columns = [str(c) for c in trials.columns if str(c).startswith("metrics.")]
    bounds = {f"{c}_{side}" for c in columns for side in ("low", "high")}
    first = [f"metrics.{name}" for name in (cls.columns_of(trials) if cls else ())]
    ordered = [*first, *(c for c in columns if c not in first and not compared(c))]
    return [c for c in ordered if c in columns and c not in bounds and trials[c].notna().any()]


# What is shown


def _cautions(runs: pd.DataFrame, trials: pd.DataFrame) -> None:
    """Everything that makes these numbers worth less, above them."""
    named = wording.labels(runs)
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
    named = wording.labels(runs)
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


def _table(
    experiment: str, cls: type[Experiment] | None, runs: pd.DataFrame, trials: pd.DataFrame, measures: Sequence[str]
) -> None:
    st.subheader("Trials", anchor=False)
    config: dict[str, Any] = {}
    table = pd.DataFrame({"Trial": trials["name"]})
    config["Trial"] = st.column_config.TextColumn(pinned=True)
    if len(runs) > 1:
        table["Run"] = trials["run"]
    flags = trials["tags.lab.flags"] if "tags.lab.flags" in trials else pd.Series("", index=trials.index)
    if flags.fillna("").ne("").any():
        config["Caution"] = st.column_config.TextColumn(width=120)
        table["Caution"] = ["; ".join(map(wording.kind, text.splitlines())) for text in flags.fillna("")]
    for column in wording.varying(trials):
        if trials[column].map(wording.setting).equals(trials["name"]):
            continue
        values = trials[column]
        table[column] = values if pd.api.types.is_numeric_dtype(values) else values.map(wording.setting)
        config[column] = st.column_config.Column(describe(column).heading)
    for column in measures:
        name = describe(column)
        scaled = trials[column] * name.scale
        table[column] = scaled
        config[column] = st.column_config.NumberColumn(name.heading, format=f"%.{_decimals(scaled, name.digits)}f")
        if f"{column}_low" in trials and trials[f"{column}_low"].notna().any():
            table[f"{column} interval"] = [
                wording.interval(low, high, column)
                for low, high in zip(trials[f"{column}_low"], trials[f"{column}_high"], strict=True)]
            config[f"{column} interval"] = st.column_config.TextColumn(
                "95% interval", help=f"95% interval of: {name.heading}")
    for note in cls.notes if cls else ():
        if (column := f"tags.lab.note.{note}") in trials:
            table[column] = trials[column]
            config[column] = st.column_config.TextColumn(describe(note).label)
    st.dataframe(table, hide_index=True, column_config=config, placeholder="–",
                 height="content" if len(table) <= 14 else 530)
    st.download_button("Download CSV", trials.to_csv(index=False), f"{experiment}-trials.csv", "text/csv",
                       on_click="ignore", help="Every setting, measure and tag of these trials, in stored units")
    if len(runs) > 1 and (differ := wording.varying(runs)):
        named = wording.labels(runs)
        st.caption("Settings in which the runs differ")
        of_run = {named[run["run_id"]]: [wording.setting(run[c]) for c in differ] for _, run in runs.iterrows()}
        st.dataframe(pd.DataFrame({"Setting": [describe(c).heading for c in differ], **of_run}), hide_index=True)


def _tradeoff(
    cls: type[Experiment] | None, trials: pd.DataFrame, measures: Sequence[str], seed: Selection, round_: int
) -> Selection:
    """Any two measures against each other, with the Pareto front."""
    judged = [c for c in measures if describe(c).better != "neither" and not compared(c)]
    if len(judged) < 2 or len(trials) < 2:
        return {}
    st.subheader("Trade-off", anchor=False)
    own = next((c for c in (cls.charts_of(trials) if cls else ()) if c.kind == "tradeoff"), None)
    usual = (own.x, own.y) if own and {own.x, own.y} <= set(judged) else _beside(judged) or _opposed(cls, judged)
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
    _show(_drawn(chart, trials, _dark()), "trade-off")
    st.caption("Filled points are on the Pareto front: no other trial is at least as good in both and better in one. "
               "Hollow ones are beaten by another trial. Bars are 95% intervals.")
    return {"x": [x.removeprefix("metrics.")], "y": [y.removeprefix("metrics.")]}


def _beside(measures: Sequence[str]) -> tuple[str, str] | None:
    """Speed and quality, where the trials carry both; the most telling of each."""
    speeds, qualities = ([f"metrics.{name}" for name in wanted if f"metrics.{name}" in measures] for wanted in (SPEED, QUALITY))
    return (speeds[0], qualities[0]) if speeds and qualities else None


def _opposed(cls: type[Experiment] | None, judged: Sequence[str]) -> tuple[str, str]:
    """The two measures to draw when the experiment names none: of its figures, one to raise and one to lower."""
    drawn = [chart.y for chart in (cls.charts if cls else ()) if chart.y in judged]
    ordered = list(dict.fromkeys([*drawn, *judged]))
    higher = next((c for c in ordered if describe(c).better == "higher"), ordered[0])
    return higher, next((c for c in ordered if describe(c).better == "lower" and c != higher), ordered[-1])


def _figures(cls: type[Experiment] | None, trials: pd.DataFrame, wanted: Mapping[str, list[str]]) -> None:
    """The experiment's own figures, except a trade-off that is already drawn above."""
    if cls is None:
        return
    listed, beside = cls.charts_of(trials), _beside(_measures(cls, trials))
    if beside and len(trials) > 1 and not any(chart.kind == "tradeoff" and (chart.x, chart.y) == beside for chart in listed):
        label = next((chart.label for chart in listed if chart.kind == "tradeoff"), None)
        listed = (*listed, Chart(title="Quality beside speed", kind="tradeoff", x=beside[0], y=beside[1], label=label))
    left = [chart for chart in listed if not (chart.kind == "tradeoff" and _same(chart, wanted))]
    shown = {chart.title: _drawn(chart, trials, _dark()) for chart in left}
    titles = [title for title, figure in shown.items() if figure.data]
    st.subheader("Figures", anchor=False)
    for i in range(0, len(titles), 2):
        for column, title in zip(st.columns(2, gap="medium"), titles[i : i + 2], strict=False):
            with column:
                _show(shown[title], title)
    if missing := [title.lower() for title in shown if title not in titles]:
        st.caption(wording.plain(f"Not measured in these trials: {', '.join(missing)}."))


def _same(chart: Chart, wanted: Mapping[str, list[str]]) -> bool:
    x, y = chart.x.removeprefix("metrics."), chart.y.removeprefix("metrics.")
    return [x] == wanted.get("x") and [y] == wanted.get("y")


def _differences(runs: pd.DataFrame, trials: pd.DataFrame, seed: Selection, round_: int) -> Selection:
    """One trial against a baseline, measure by measure."""
    if len(trials) < 2:
        return {}
    st.subheader("Differences", anchor=False)
    ids = list(trials["run_id"])
    named = {trial["run_id"]: f"{trial['name']} · {trial['run']}" if len(runs) > 1 else str(trial["name"])
             for _, trial in trials.iterrows()}
    left, right = st.columns(2, gap="medium")
    with left:
        asked = _meant(seed, "baseline", ids)
        baseline = st.selectbox("Baseline", ids, index=ids.index(asked) if asked else 0, format_func=named.__getitem__,
                                key=f"baseline {round_} {ids[0]}")
    others = [i for i in ids if i != baseline]
    with right:
        asked = _meant(seed, "other", others)
        usual = _rival(runs, trials, baseline)
        other = st.selectbox("Compared with it", others, index=others.index(asked or usual),
                             format_func=named.__getitem__, key=f"other {round_} {baseline}")
    rows = _store.differences(list(runs["run_id"]), baseline, other)
    tested = [row for row in rows if row.outcome != "not tested"]
    st.markdown(f"**{wording.plain(_summary(named[other], named[baseline], tested))}**")
    shown = [row for row in rows if row.difference or describe(row.measure).better != "neither"]
    st.dataframe(_differences_table(shown), hide_index=True, height="content", placeholder="–", column_config={
        "Measure": st.column_config.TextColumn(pinned=True),
        "Baseline": st.column_config.TextColumn(named[baseline], alignment="right"),
        "Other": st.column_config.TextColumn(named[other], alignment="right"),
        "Difference": st.column_config.TextColumn(alignment="right"),
        "Relative (%)": st.column_config.NumberColumn(format="%+.1f"),
        "p": st.column_config.NumberColumn("p, adjusted", format="%.4f", help="Holm's adjustment for all tests here"),
        "Detectable": st.column_config.TextColumn(alignment="right", help="The smallest true difference that these items would "
                                                  "show with a probability of 80%, among all tests here"),
    })
    few = [row for row in tested if row.outcome == "too few" and row.measure in compare.PER_GENERATION]
    need = compare.fewest_generations(len(tested)) if few else 0
    st.caption("Speed is tested over generations (rank sum), quality over the same items (paired, clustered where they share a "
               "source; McNemar for right or wrong). A difference counts when its p-value, adjusted for all tests here, is below "
               "0.05; where none is shown, one below 'Detectable' may well be there."
               + (f" Speed needs at least {need} measured requests a trial; repeat it more often." if need else ""))
    st.download_button("Download differences as CSV", compare.frame(rows).to_csv(index=False), "differences.csv",
                       "text/csv", on_click="ignore")
    _timelines({named[baseline]: baseline, named[other]: other})
    return {"baseline": [baseline], "other": [other]}


def _differences_table(rows: Sequence[compare.Row]) -> pd.DataFrame:
    out = []
    for row in rows:
        name = describe(row.measure)
        sign = "+" if row.difference > 0 else ""
        out.append({
            "Measure": name.heading, "Result": RESULTS[row.outcome],
            "Baseline": name.show(row.baseline), "Other": name.show(row.other),
            "Difference": f"{sign}{name.show(row.difference)}",
            "Relative (%)": row.relative * 100, "95% interval": wording.interval(row.low, row.high, row.measure),
            "p": row.p_adjusted, "Detectable": "" if math.isnan(row.detectable) else name.show(row.detectable),
        })
    columns = ["Measure", "Result", "Baseline", "Other", "Difference", "Relative (%)", "95% interval", "p", "Detectable"]
    return pd.DataFrame(out, columns=columns)


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
    gaps = (gap for generations in kept.values() for generation in generations for gap in speed.itl_s(generation))
    top = max((gap for gap in gaps if math.isfinite(gap)), default=0.0)
    for column, (name, generations) in zip(st.columns(len(kept), gap="medium"), kept.items(), strict=True):
        with column:
            title = f"Gap before each token, {name}"
            _show(plots.token_timeline(generations, title=title, top_ms=top * 1050, dark=_dark()), f"timeline {name}")


def _rival(runs: pd.DataFrame, trials: pd.DataFrame, baseline: str) -> str:
    """What to compare the baseline with first: its namesake in the newest run, else the newest verdict's choice."""
    others = trials[trials["run_id"] != baseline]
    name = trials[trials["run_id"] == baseline].iloc[0]["name"]
    verdict = wording.verdict(runs.iloc[-1])
    for wanted in (name, verdict.chosen if verdict else None):
        found = others[others["name"] == wanted]
        if len(found):
            return str(found.iloc[-1]["run_id"])
    return str(others.iloc[-1]["run_id"])


def _meant(seed: Selection, key: str, ids: Sequence[str]) -> str | None:
    asked = seed.get(key, [""])[0]
    return next((i for i in ids if asked and i.startswith(asked)), None)


def _decimals(values: pd.Series[float], digits: int) -> int:
    """Decimals of a column: as many as show `digits` digits of its smallest value, five at most."""
    sizes = [abs(float(v)) for v in values if pd.notna(v) and v and math.isfinite(v)]
    if not sizes or all(size.is_integer() for size in sizes):
        return 0
    return max(0, min(5, digits - 1 - math.floor(math.log10(min(sizes)))))


@st.cache_resource(show_spinner=False, max_entries=256)
def _drawn(chart: Chart, trials: pd.DataFrame, dark: bool) -> Any:
    """The figure, made once: building six takes 0.2 s, sending them 0.02 s. Nobody changes what this returns."""
    return plots.draw(chart, trials, dark=dark)


def _show(figure: Any, key: str) -> None:
    st.plotly_chart(figure, config=dict(plots.CONFIG), key=f"figure {key}")


def _dark() -> bool:
    return st.context.theme.type == "dark"


main()

"""Judge: how far each judge agrees with people, beside a constant guess, and where the two part."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import streamlit as st

from lab import data, plots, wording
from lab.errors import LabError
from lab.experiments import Chart
from lab.experiments.judging import columns_of
from lab.metrics.judging import disagreements, rubric
from lab.names import describe
from lab.ops import history
from lab.pages import _store
from lab.records import Score

EXPERIMENT = "judging"
NEWEST = 50
COLOURS = {"trusted": "green", "better than a constant guess": "blue", "no better than a constant guess": "red",
           "cannot tell": "gray"}
NO_BETTER = "no better than a constant guess"
COLUMNS = ("judge_agreement_share", "constant_guess_share", "judge_kappa", "discrimination", "pair_agreement_share",
           "pair_decided_share", "position_flip_share", "position_lean", "length_bias", "self_agreement_share", "unscored_share",
           "pair_unscored_share", "judgement_s")


def main() -> None:
    st.title("Judge")
    try:
        runs = _store.experiments(EXPERIMENT, limit=NEWEST)
        if runs.empty:
            _nothing()
            return
        run = _chosen(runs)
        trials = _store.trials([str(run["run_id"])])
        _cautions(run, trials)
        if trials.empty:
            st.info("No judge has been measured yet. The first one appears here as soon as it is.")
            return
        trials = _models_first(_of_set(trials))
        _standings(trials)
        _table(trials)
        _figures(trials)
        _parting(trials, str(run.get("params.column_names") or ""))
    except LabError as error:
        st.error(wording.plain(error))


def _nothing() -> None:
    st.markdown("No judge has been measured against people yet. Until one is, its scores are opinions. Measure the small model "
                "of this workbench beside judges whose faults are known:")
    st.code("lab run judging", language="bash")
    st.markdown("The answers that people labelled come with `lab data fetch nq_open_judged pyrit_refusal`; without them the "
                "authors' own small set is used.")


def _chosen(runs: pd.DataFrame) -> pd.Series[Any]:
    """The run to show: the one in the address, else the newest that finished."""
    labels = wording.labels(runs)
    asked = st.query_params.get("run", "")
    ended = list(runs.loc[runs["state"] == "finished", "run_id"]) or list(runs["run_id"])
    first = next((run for run in labels if asked and run.startswith(asked)), str(ended[0]))
    if len(runs) == 1:
        picked = first
    else:
        picked = st.selectbox("Run", list(labels), index=list(labels).index(first), format_func=lambda run: labels[run])
    if picked != asked:
        st.query_params["run"] = picked
    return runs[runs["run_id"] == picked].iloc[0]


def _cautions(run: pd.Series[Any], trials: pd.DataFrame) -> None:
    verdict = wording.verdict(run)
    if verdict is not None:
        st.markdown(f"**{wording.plain(verdict.decision)}**")
    elif str(run["state"]) in wording.STATES:
        st.warning(f"This run {wording.STATES[str(run['state'])]}.")
    doubts = list(verdict.caveats) if verdict is not None else wording.doubts(trials)
    if doubts:
        st.warning("\n".join(f"- {wording.plain(line)}" for line in doubts))


def _of_set(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials on one set of labels: agreement on two sets is two things."""
    sets = list(dict.fromkeys(trials["params.set"]))
    if len(sets) == 1:
        return trials
    axes = dict(zip(trials["params.set"], trials["params.axis"], strict=True))
    chosen = st.segmented_control("Labelled answers", sets, default=sets[0], required=True,
                                  format_func=lambda name: f"{name} ({axes[name]})")
    return trials[trials["params.set"] == (chosen or sets[0])].reset_index(drop=True)


def _models_first(trials: pd.DataFrame) -> pd.DataFrame:
    """Those one might use, and then those that show what the figures mean."""
    scripted = trials["params.judge"].str.startswith("scripted:")
    return pd.concat([trials[~scripted], trials[scripted]]).reset_index(drop=True)


def _standings(trials: pd.DataFrame) -> None:
    """Each judge in plain sentences, its badge beside its name."""
    st.subheader("Who may be trusted", anchor=False)
    for _, trial in trials.iterrows():
        standing = str(trial.get("tags.lab.note.standing", ""))
        with st.container(border=True):
            head = st.container(horizontal=True, vertical_alignment="center")
            head.markdown(f"**{wording.plain(trial['params.judge'])}**", width="content")
            head.badge(standing, color=COLOURS.get(standing, "gray"))  # type: ignore[arg-type]
            if isinstance(habits := trial.get("tags.lab.note.habits"), str) and habits:
                for habit in habits.split("; "):
                    head.badge(wording.plain(habit), color="gray")
            if standing == NO_BETTER:
                st.markdown(f"This judge is {NO_BETTER}.")
            for note in ("trust", "pair_trust"):
                if isinstance(trial.get(f"tags.lab.note.{note}"), str):
                    st.caption(wording.plain(trial[f"tags.lab.note.{note}"]))


def _table(trials: pd.DataFrame) -> None:
    st.subheader("Side by side", anchor=False)
    shown = {"Judge": trials["params.judge"], "Grades are": trials.get("tags.lab.note.standing"),
             "Preferences are": trials.get("tags.lab.note.pair_standing")}
    for name in COLUMNS:
        column = f"metrics.{name}"
        if column in trials and trials[column].notna().any():
            shown[describe(name).heading] = [_value(trial, column) for _, trial in trials.iterrows()]
    table = pd.DataFrame({heading: values for heading, values in shown.items() if values is not None})
    st.dataframe(table.fillna("–"), hide_index=True, height="content")
    st.caption("With 95% intervals. A constant guess says the commonest label of every answer; agreement below it is worth "
               "nothing, however high it looks. Kappa and alpha are 0 for it and 1 for perfect agreement. What is scored above "
               "wrong counts pairs of a right and a wrong answer, 50% being chance.")


def _value(trial: pd.Series[Any], column: str) -> str:
    low, high = (float(trial.get(f"{column}_{side}", math.nan)) for side in ("low", "high"))
    bounds = wording.interval(low, high, column)
    shown = describe(column).show(trial[column])
    return f"{shown} ({bounds})" if bounds else shown


def _figures(trials: pd.DataFrame) -> None:
    cls = wording.find(EXPERIMENT)
    charts = [chart for chart in (cls.charts if cls else ()) if chart.y in trials and trials[chart.y].notna().any()]
    for i in range(0, len(charts), 2):
        for column, chart in zip(st.columns(2, gap="medium"), charts[i : i + 2], strict=False):
            with column:
                st.plotly_chart(_drawn(chart, trials, st.context.theme.type == "dark"), config=plots.config(chart.title),
                                key=f"figure {chart.title}")


@st.cache_resource(show_spinner=False, max_entries=64)
def _drawn(chart: Chart, trials: pd.DataFrame, dark: bool) -> Any:
    return plots.draw(chart, trials, dark=dark)


def _parting(trials: pd.DataFrame, column_names: str) -> None:
    """One judge's grades against people's labels, and the answers on which they part."""
    st.subheader("People against the judge", anchor=False)
    judges = list(trials["params.judge"])
    model = next((name for name in judges if not name.startswith("scripted:")), judges[-1])
    chosen = st.selectbox("Judge", judges, index=judges.index(model))
    trial = trials[trials["params.judge"] == chosen].iloc[0]
    scores = _scores(str(trial["run_id"]))
    if not scores:
        st.info("This trial kept no scores.")
        return
    counts = disagreements.counts(scores)
    table = pd.DataFrame(counts).T.rename(columns={str(grade): f"Grade {grade}" for grade in range(1, 6)})
    table.insert(0, "People", [row.capitalize() for row in counts])
    st.dataframe(table, hide_index=True, height="content")
    st.caption("How many answers people accepted or not, by the judge's grade. Grades 4 and 5 accept.")
    _examples(str(trial["params.set"]), scores, column_names)


def _examples(set_: str, scores: list[Score], column_names: str) -> None:
    found = disagreements.disagreements(scores)
    if not found:
        st.markdown("The judge and people part on no answer.")
        return
    st.markdown(f"The {len(found)} gravest of the answers on which they part:")
    entry = data.catalogue().get(set_)
    if entry is not None and entry.harmful:
        st.info(f"The texts of {wording.plain(set_)} are made to do harm and are not shown. The items, with the grade: "
                + ", ".join(f"{wording.plain(one.item)} ({_grade(one.score)})" for one in found) + ".")
        return
    try:
        texts = _texts(set_, column_names)
    except LabError as error:
        st.info(wording.plain(error))
        return
    for one in found:
        given = texts.get(one.item)
        if given is not None:
            question, answer, right = given
            said = "accepted" if one.label >= 0.5 else "not accepted"
            with st.expander(wording.plain(f"{question} {_shortened(answer)}")):
                st.markdown(f"Answer: {wording.plain(answer)}")
                if right:
                    st.markdown(f"Right answers: {wording.plain(right)}")
                st.markdown(f"People: **{said}**. Judge: grade **{_grade(one.score)}**, {wording.plain(one.why)}")


def _grade(score: float) -> str:
    return f"{rubric.grade(score):.1f}"


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"


@st.cache_data(show_spinner=False, max_entries=32)
def _scores(run_id: str) -> list[Score]:
    return history.scores(run_id)


@st.cache_data(show_spinner="Reading the labelled answers", max_entries=4)
def _texts(set_: str, column_names: str) -> dict[str, tuple[str, str, str]]:
    """Question, answer and right answers by item."""
    return {one.item: (one.question, one.answer, " / ".join(one.references))
            for one in data.labelled(set_, columns=columns_of(set_, column_names))}


main()

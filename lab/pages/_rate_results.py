"""The part of Rate that shows what the ratings come to; here models are named."""

from __future__ import annotations

import math

import pandas as pd
import streamlit as st

from lab import wording
from lab.ops import history, ratings
from lab.ops.ratings import Disagreement
from lab.records import Estimate

MOST = 20
BENCHMARK = ("Krippendorff's alpha is 1 for perfect agreement and 0 for chance. He asks for 0.8 before conclusions are drawn, "
             "and for 0.667 before tentative ones. Below it stands the 95% interval, by drawing items again.")
ABOVE = {"yes": "better than a constant guess", "no": "no better than a constant guess", "cannot tell": "too few items to tell"}


def show(of: ratings.Task) -> None:
    """Everything, unless the rater named in the session would lose their blindness by it."""
    name = st.session_state["rate.name"]
    if name:
        far = ratings.progress(of, name)
        if far.done < far.total and not st.session_state.get(f"rate.unblinded {of.id}"):
            st.warning(wording.plain(f"{name} has {far.total - far.done} items left. The results name the models and show what "
                                    "others said, so the rest would not be blind."))
            st.button("Show the results anyway", on_click=_unblind, args=(of.id,))
            return
    found = _summary(history.fingerprint(), of.id)
    if not found.raters:
        st.info("Nobody has rated anything in this task yet. Send the raters the address of the view Rate.")
        return
    _raters(found)
    _agreement(found)
    _models(found)
    _judges(found)
    _disagreements(found)
    st.download_button("Download ratings as CSV", ratings.export(of).to_csv(index=False).encode(), f"ratings-{of.id[:8]}.csv",
                       "text/csv")


def _unblind(task_id: str) -> None:
    st.session_state[f"rate.unblinded {task_id}"] = True


@st.cache_data(show_spinner="Computing the agreement", max_entries=16)
def _summary(token: str, task_id: str) -> ratings.Summary:
    return ratings.summary(task_id)


def _raters(found: ratings.Summary) -> None:
    st.subheader("Raters", anchor=False)
    st.dataframe(pd.DataFrame([
        {"Rater": r.name, "Rated": f"{r.done} of {r.total}", "Median time (s)": r.median_s,
         "Control grades as expected": _care(r.controls.value, r.control_grades)}
        for r in found.raters]), hide_index=True, column_config={"Median time (s)": st.column_config.NumberColumn(format="%.1f")})


def _care(share: float, grades: int) -> str:
    return f"{share * grades:.0f} of {grades}" if grades else "–"


def _agreement(found: ratings.Summary) -> None:
    st.subheader("Agreement", anchor=False)
    row = st.container(horizontal=True, gap="medium")
    for shared in found.shared:
        alpha = "–" if math.isnan(shared.alpha.value) else f"{shared.alpha.value:.3f}"
        row.metric(f"{shared.axis.capitalize()}, {shared.items} items", alpha, _interval(shared.alpha) or None, delta_color="off",
                   delta_arrow="off", width=176)
    st.caption(BENCHMARK)
    for why in dict.fromkeys(shared.why for shared in found.shared if shared.why):
        axes = ", ".join(shared.axis for shared in found.shared if shared.why == why)
        st.info(wording.plain(f"{axes.capitalize()}: {why}"))


def _models(found: ratings.Summary) -> None:
    if found.task.kind == "pairs":
        st.subheader("Ranking", anchor=False)
        if found.ranking_why:
            st.info(wording.plain(found.ranking_why))
            return
        st.dataframe(pd.DataFrame([
            {"Model": r.name, "Strength (log-odds)": r.strength, "95% interval": f"{r.low:.2f} to {r.high:.2f}",
             "Won, ties as half": r.wins, "Comparisons": r.games} for r in found.ranking]), hide_index=True,
            column_config={"Strength (log-odds)": st.column_config.NumberColumn(format="%.2f")})
        st.caption("Bradley and Terry's model; verdicts on one request count as one. Where intervals overlap widely, the order "
                   f"is not settled. Same text on both sides, a tie without asking: {len(found.task.identical)}.")
        return
    st.subheader("Grades", anchor=False)
    st.dataframe(pd.DataFrame([
        {"Model": m.model, "Axis": m.axis.capitalize(), "Mean grade": m.grade.value, "95% interval": _interval(m.grade),
         "Items": m.items} for m in found.means]), hide_index=True,
        column_config={"Mean grade": st.column_config.NumberColumn(format="%.2f")})


def _judges(found: ratings.Summary) -> None:
    if not found.judged:
        return
    st.subheader("Judges beside people", anchor=False)
    st.dataframe(pd.DataFrame([
        {"Judge": j.judge, "Axis": j.axis.capitalize(), "Items": j.exact.n, "Same grade": j.exact.observed.value,
         "Constant guess": j.exact.constant, "Kappa": j.exact.kappa.value, "Kappa, 95% interval": _interval(j.exact.kappa),
         "Alpha": j.alpha.value, "Alpha, 95% interval": _interval(j.alpha), "Verdict": ABOVE[j.exact.above_constant]}
        for j in found.judged]), hide_index=True,
        column_config={name: st.column_config.NumberColumn(format=form) for name, form in (
            ("Same grade", "percent"), ("Constant guess", "percent"), ("Kappa", "%.3f"), ("Alpha", "%.3f"))})
    st.caption("Against the median of the people. The constant guess always says the grade that people gave most often.")


def _disagreements(found: ratings.Summary) -> None:
    if not found.disagreements:
        return
    st.subheader("To discuss", anchor=False)
    items: dict[str, list[Disagreement]] = {}
    for one in found.disagreements:
        items.setdefault(one.unit, []).append(one)
    rest = f"; {MOST} of {len(items)} are shown" if len(items) > MOST else ""
    st.caption(f"Items on which raters differ, the widest first{rest}.")
    for axes in list(items.values())[:MOST]:
        whose = f", {axes[0].answers[0][0]}" if len(axes[0].answers) == 1 else ""
        with st.expander(wording.plain(f"{axes[0].item}{whose}: {_said(found, axes[0])}")):
            _discussed(found, axes)


def _discussed(found: ratings.Summary, axes: list[Disagreement]) -> None:
    one = axes[0]
    for message in one.messages:
        st.caption(wording.plain(message.role.capitalize()))
        st.text(message.content)
    for place, (model, answer) in zip(("First answer", "Second answer"), one.answers, strict=False):
        st.caption(wording.plain(f"{place if len(one.answers) > 1 else 'Answer'}, {model}"))
        st.text(answer or "(empty)")
    st.markdown("\n".join(f"- {wording.plain(_said(found, axis))}" for axis in axes))
    for rater, note in one.notes.items():
        st.markdown(wording.plain(f"{rater}: {note}"))


def _said(found: ratings.Summary, one: Disagreement) -> str:
    return f"{one.axis} " + ", ".join(f"{rater} {_value(found, value)}" for rater, value in one.values.items())


def _value(found: ratings.Summary, value: float) -> str:
    return {1.0: "first", 0.5: "tie", 0.0: "second"}[value] if found.task.kind == "pairs" else f"{value:g}"


def _interval(estimate: Estimate) -> str:
    return "too few items" if math.isnan(estimate.low) else f"{estimate.low:.2f} to {estimate.high:.2f}"

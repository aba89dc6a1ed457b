"""The part of Compare that holds one trial against the baseline, measure by measure, and shows both token by token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from lab import plots, wording
from lab.metrics import speed
from lab.names import describe
from lab.ops import compare, workload
from lab.pages import _compare_address, _store
from lab.pages._compare_figures import Selection, dark
from lab.pages._compare_figures import show as draw
from lab.records import Generation

RESULTS = {"better": "Better", "worse": "Worse", "different": "Different", "no difference shown": "No difference shown",
           "too few": "Too few to tell", "not tested": "Not tested"}


def show(runs: pd.DataFrame, trials: pd.DataFrame, baseline: str, seed: Selection, round_: int) -> Selection:
    """One trial against the baseline, measure by measure."""
    st.subheader("Differences", anchor=False)
    ids = list(trials["run_id"])
    named = {trial["run_id"]: f"{trial['name']} · {trial['run']}" if len(runs) > 1 else str(trial["name"])
             for _, trial in trials.iterrows()}
    others = [i for i in ids if i != baseline]
    asked = meant(seed, "other", others)
    _compare_address.lost({} if seed.get("other") == [baseline] else seed, "other", "the trial", others, begins=True)
    other = st.selectbox("Held against the baseline", others, index=others.index(asked or _rival(runs, trials, baseline)),
                         format_func=named.__getitem__, key=f"other {round_} {baseline}")
    rows = _store.differences(list(runs["run_id"]), baseline, other)
    tested = [row for row in rows if row.outcome != "not tested"]
    st.markdown(f"**{wording.plain(_summary(named[other], named[baseline], tested, compare.other_workload(rows)))}**")
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
    out = {"other": [other]}
    if st.toggle("Token by token", value=seed.get("tokens") == ["shown"], key=f"tokens {round_}",
                 help="The gap before each token, where the trials kept their clock readings"):
        _timelines({named[baseline]: baseline, named[other]: other})
        out["tokens"] = ["shown"]
    return out


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


def _summary(other: str, baseline: str, tested: Sequence[compare.Row], apart: bool) -> str:
    """What the tests say, in a sentence; in another why speed was not tested, where the two had not the same to do (`apart`)."""
    more = f" {workload.OTHER}, so that speed is not tested." if apart else ""
    if not tested and apart:
        return f"{other} against {baseline}: nothing was tested.{more}"
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
    return f"{other} against {baseline}: {'; '.join(parts)}.{more}"


def _timelines(chosen: Mapping[str, str]) -> None:
    """The gaps between tokens of both trials, where they kept their clock readings."""
    kept = {name: found for name, run_id in chosen.items() if (found := _store.generations(run_id))}
    if not kept:
        st.caption("Neither trial kept its clock readings.")
        return
    gaps = (gap for generations in kept.values() for generation in generations for gap in speed.itl_s(generation))
    top = max((gap for gap in gaps if math.isfinite(gap)), default=0.0)
    for column, (name, generations) in zip(st.columns(len(kept), gap="medium"), kept.items(), strict=True):
        with column:
            title = f"Gap before each token, {name}"
            draw(_timeline(chosen[name], title, top * 1050, dark(), generations), f"timeline {name}")


@st.cache_resource(show_spinner=False, max_entries=64)
def _timeline(run_id: str, title: str, top_ms: float, dark_: bool, _generations: Sequence[Generation]) -> Any:
    return plots.token_timeline(_generations, title=title, top_ms=top_ms, dark=dark_)


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


def meant(seed: Selection, key: str, ids: Sequence[str]) -> str | None:
    asked = seed.get(key, [""])[0]
    return next((i for i in ids if asked and i.startswith(asked)), None)



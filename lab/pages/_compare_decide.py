"""The part of Compare that decides: limits as sliders, which configurations keep to them, and the one to recommend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from lab import wording
from lab.errors import LabError
from lab.names import describe
from lab.ops import compare, configurations, decide
from lab.ops.configurations import Configuration
from lab.ops.decide import Constraint
from lab.pages import _compare_address, _compare_marks, _compare_promote

USUAL_LOSS = 0.01
USUAL_TOKENS_PER_S = 20.0
SHOWN = 3
"""Of each aspect so many measures are in the table; the CSV has all."""
STANDS: Mapping[decide.Outcome, str] = {"qualifies": "✓ Qualifies", "may not qualify": "? May not qualify",
                                        "not measured": "– Not measured", "does not qualify": "✗ Does not qualify"}


def show(found: Sequence[Configuration], runs: pd.DataFrame, trials: pd.DataFrame, baseline: str,
         tested: Mapping[str, Sequence[compare.Row]], seed: Mapping[str, Sequence[str]], key: str) -> None:
    """The section. It runs again by itself when a slider moves, and keeps the address true."""
    if len(found) > 1:
        st.subheader("Which one to ship", anchor=False)
        chosen = {str(run["run_id"]): verdict.chosen for _, run in runs.iterrows()
                  if (verdict := wording.verdict(run)) and verdict.chosen}
        st.fragment(_decide)(found, chosen, trials, baseline, tested, seed, key)
        _compare_promote.asked(trials)


def _decide(found: Sequence[Configuration], chosen: Mapping[str, str], trials: pd.DataFrame, baseline: str,
            tested: Mapping[str, Sequence[compare.Row]], seed: Mapping[str, Sequence[str]], key: str) -> None:
    """`chosen` are the trials that the verdicts of the runs chose, by the run's id."""
    measured = [name for name in configurations.measures(trials) if describe(name).better != "neither"]
    if not measured:
        st.caption("These trials carry no measure of speed, quality, safety or cost that has a better side.")
        return
    limits, usual = _limits(found, measured, seed, key)
    asked = seed.get("prefer", [""])[0]
    _compare_address.lost(seed, "prefer", "the measure to prefer", measured)
    prefer = st.selectbox("Of those that qualify, prefer the best in", measured, format_func=lambda m: describe(m).heading,
                          index=measured.index(asked) if asked in measured else 0, key=f"prefer {key}")
    made = decide.decide(found, limits, prefer=prefer, baseline=baseline, tested=tested)
    with st.container(border=True):
        best = made.recommended
        st.markdown(f"**{wording.plain(f'Recommended: {best.name}' if best else 'No recommendation')}**")
        st.markdown(wording.plain(made.why))
        if best is not None:
            if other := _otherwise(best, chosen, trials):
                st.caption(wording.plain(other))
            for doubt in wording.doubts(trials[trials["run_id"].isin(best.trials)]):
                st.caption(wording.plain(doubt))
            _compare_promote.button(best, made.why, key)
    _table(made, measured, baseline, tested)
    wanted = {"need": [limit.code for limit in limits], "prefer": [prefer]}
    _address({name: [] if values == other else values for (name, values), other in zip(
        wanted.items(), ([one.code for one in usual], measured[:1]), strict=True)})


def _otherwise(best: Configuration, chosen: Mapping[str, str], trials: pd.DataFrame) -> str:
    """Why a verdict above chose another one; empty where none did."""
    mine = trials[trials["run_id"].isin(best.trials)]
    others = [name for name in dict.fromkeys(chosen[run] for run in mine["parent_id"] if run in chosen)
              if name not in set(mine["name"])]
    if not others:
        return ""
    return (f"The verdict chose {', '.join(others)}: it holds to the limits that the run was given, the recommendation to the "
            "limits and the preference above.")


def _limits(
    found: Sequence[Configuration], measured: Sequence[str], seed: Mapping[str, Sequence[str]], key: str
) -> tuple[list[Constraint], list[Constraint]]:
    """What is asked now, and what is asked unless one says otherwise."""
    kinds: list[tuple[str, decide.Kind]] = []
    for name in measured:
        kinds += [(name, "loss")] if name in configurations.QUALITY else []
        kinds.append((name, "least" if describe(name).better == "higher" else "most"))
    usual = [Constraint(measure=name, kind="least", limit=USUAL_TOKENS_PER_S) for name in measured
             if name in configurations.SPEED and name.endswith("_tokens_per_s")][:1]
    usual += [Constraint(measure=name, kind="loss", limit=USUAL_LOSS) for name in measured if name in configurations.QUALITY][:1]
    asked = _asked(seed)
    for one in asked:
        if (one.measure, one.kind) not in kinds:
            _compare_address.said(f"The address sets the limit {one.code}, but these trials carry no such measure; it is left "
                                  "out.")
    start = {(one.measure, one.kind): one.limit for one in asked or usual}
    chosen = st.multiselect("Limits", kinds, default=[kind for kind in start if kind in kinds], format_func=_limit,
                            key=f"limits {key}", placeholder="No limit")
    out = []
    for i in range(0, len(chosen), 2):
        for column, (name, kind) in zip(st.columns(2, gap="medium"), chosen[i : i + 2], strict=False):
            with column:
                out.append(_slider(found, name, kind, start.get((name, kind), math.nan), key))
    return out, usual


def _asked(seed: Mapping[str, Sequence[str]]) -> list[Constraint]:
    out = []
    for code in seed.get("need", []):
        try:
            out.append(decide.parse(code))
        except LabError as error:
            st.warning(wording.plain(error))
    return out


def _limit(one: tuple[str, decide.Kind]) -> str:
    name = describe(one[0])
    return f"{name.label} worse by at most" if one[1] == "loss" else f"{name.label} at {one[1]}"


def _slider(found: Sequence[Configuration], name: str, kind: decide.Kind, start: float, key: str) -> Constraint:
    """A slider in the printed unit over what was measured."""
    scale, unit = (100.0, "% of the baseline") if kind == "loss" else (describe(name).scale, describe(name).unit)
    values = [one.value(name) * scale for one in found if math.isfinite(one.value(name))]
    top = 20.0 if kind == "loss" else max([abs(value) for value in values], default=1.0) * 1.2 or 1.0
    top = top if math.isnan(start) else max(top, start * scale)
    step = 10.0 ** math.floor(math.log10(top / 50))
    least = 0.0 if kind == "loss" else min([*values, 0.0])
    low, high = math.floor(least / step) * step, math.ceil(top / step) * step
    given = (low if kind == "least" else high) if math.isnan(start) else min(max(start * scale, low), high)
    if not math.isnan(start) and not low <= start * scale <= high:
        _compare_address.said(f"The limit of {describe(name).label.lower()} in the address, {start * scale:g}, is outside of "
                              f"what can be set here; it is taken as {given:g}.")
    label = f"{_limit((name, kind))}{f' ({unit})' if unit else ''}"
    value = st.slider(label, low, high, value=round(given / step) * step, step=step,
                      format=f"%.{max(0, -math.floor(math.log10(step)))}f", key=f"limit {name} {kind} {key}")
    return Constraint(measure=name, kind=kind, limit=value / scale)


def _table(made: decide.Decision, measured: Sequence[str], baseline: str, tested: Mapping[str, Sequence[compare.Row]]) -> None:
    """Every configuration with how it stands, those that qualify first, and speed, quality, safety and cost beside each other."""
    shown = {aspect: [name for name in names if name in measured][:SHOWN] for aspect, names in configurations.ASPECTS.items()}
    rows = sorted(made.standings, key=lambda one: (one.configuration is not made.recommended, decide.ORDER.index(one.outcome)))
    table = pd.DataFrame({
        "Configuration": [one.configuration.name for one in rows], "Standing": [STANDS[one.outcome] for one in rows],
        "Against the baseline": [_compare_marks.said(one.configuration.trials, baseline, tested) for one in rows],
        "Because of": ["; ".join(check.said for check in one.checks if check.outcome != "qualifies") or "–" for one in rows],
        **{f"{aspect}: {describe(name).heading}": [_figure(one.configuration, name) for one in rows]
           for aspect, names in shown.items() for name in names}})
    st.dataframe(table, hide_index=True, height="content" if len(table) <= 12 else 460,
                 column_config={"Configuration": st.column_config.TextColumn(pinned=True)})
    missing = [aspect.lower() for aspect, names in shown.items() if not names]
    st.caption("A limit is kept when the whole 95% interval keeps to it. A loss is counted from the baseline, by the paired test "
               "where both answered the same items." + (f" Not measured here: {', '.join(missing)}." if missing else ""))
    frame = configurations.frame([one.configuration for one in rows])
    frame.insert(1, "standing", [one.outcome for one in rows])
    st.download_button("Download configurations as CSV", frame.to_csv(index=False), "configurations.csv", "text/csv",
                       on_click="ignore", help="Speed, quality, safety and cost with their intervals, in stored units")


def _figure(one: Configuration, name: str) -> str:
    if name not in one.figures:
        return "–"
    figure = one.figures[name]
    bounds = wording.interval(figure.low, figure.high, name)
    return describe(name).show(figure.value) + (f" ({bounds})" if bounds else "")


def _address(wanted: Mapping[str, Sequence[str]]) -> None:
    """Keep the address and what Compare remembers of it true, also when only this part runs."""
    st.session_state["compare.decide"] = said = {name: list(values) for name, values in wanted.items() if values}
    if st.session_state["compare.whole"]:
        return  # the page itself writes the address when it has run to its end
    known = {name: list(values) for name, values in st.session_state["compare.address"].items() if name not in wanted}
    st.session_state["compare.address"] = address = known | said
    if {name: st.query_params.get_all(name) for name in st.query_params} != address:
        st.query_params.from_dict(address)

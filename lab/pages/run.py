"""Run: start any experiment with a form made from its config, watch it measure, and stop it."""

from __future__ import annotations

import dataclasses
import shlex
import time
import typing
from collections.abc import Mapping
from typing import Any

import streamlit as st

from lab import engines, experiments, models, wording
from lab.errors import LabError
from lab.ops import started
from lab.ops.started import Started
from lab.pages import _store

EVERY_S = 2.0
LISTED = 8
COLUMNS = 3


def main() -> None:
    st.title("Run")
    _followed()
    known = experiments.names()
    seed, round_ = _seed()
    asked = seed.get("experiment", "")
    name = st.selectbox("Experiment", known, index=known.index(asked) if asked in known else known.index("performance"),
                        format_func=lambda one: one.replace("_", " ").capitalize(), key=f"run.experiment {round_}")
    if asked and asked not in known:
        st.warning(wording.plain(f"The address names the experiment {asked[:80]}, which is not here; {name} is shown."))
    cls = wording.find(name)
    if cls is None:
        st.error(wording.plain(wording.question(name)))
        return
    st.markdown(f"**{wording.plain(experiments.question_of(cls))}**")
    if rest := (cls.__doc__ or "").strip().partition("\n")[2].strip():
        with st.expander("How it is measured"):
            st.markdown(wording.plain(" ".join(rest.split())))
    given = _form(cls, _known(cls, seed) if asked in (name, "") else {}, f"run {round_} {name}")
    _remember({"experiment": name, **given})
    st.caption("The same in a terminal")
    st.code(shlex.join(("lab", *started.command(name, given))), language="bash", wrap_lines=True)
    _start(name, cls, given)


def _seed() -> tuple[dict[str, str], int]:
    """What the address asks for, and how often it has changed by itself: then every widget starts anew, from it."""
    state, asked = st.session_state, {name: str(text) for name, text in st.query_params.items()}
    if "run.seed" not in state or (asked and asked != state["run.address"]):
        state["run.seed"] = state["run.address"] = asked
        state["run.round"] = state.get("run.round", 0) + 1
    elif not asked and state["run.address"]:  # back from another page, whose address says nothing
        state["run.seed"] = state["run.address"]
        state["run.round"] += 1
    return state["run.seed"], state["run.round"]


def _remember(address: dict[str, str]) -> None:
    """Make the address say what the form says, so that a link or a reload shows the same."""
    st.session_state["run.address"] = address
    if dict(st.query_params) != address:
        st.query_params.from_dict(address)


def _known(cls: type[experiments.Experiment], seed: Mapping[str, str]) -> dict[str, Any]:
    """The values of fields that the address gives; a sentence for each that is none."""
    hints, out = typing.get_type_hints(cls), {}
    for name, text in seed.items():
        try:
            if name != "experiment":
                experiments.make(cls, {name: text})
                out[name] = experiments.parse(hints[name], text, name)
        except LabError as error:
            st.warning(wording.plain(f"The address is left out of the form where it gives {name[:80]}: {error}"))
    return out


def _form(cls: type[experiments.Experiment], begin: Mapping[str, Any], key: str) -> dict[str, str]:
    """A widget for every field, which starts from `begin` or the default; what differs from its default, as text."""
    hints = typing.get_type_hints(cls)
    changed = {}
    fields = dataclasses.fields(cls)
    for first in range(0, len(fields), COLUMNS):  # row by row, so that their order stays on a narrow screen
        for column, one in zip(st.columns(COLUMNS, gap="medium"), fields[first : first + COLUMNS], strict=False):
            with column:
                text = _field(one, hints[one.name], begin.get(one.name, one.default), f"{key} {one.name}")
            if text != experiments.shown(one.default):
                changed[one.name] = text
    return changed


def _field(one: dataclasses.Field[Any], kind: Any, begin: Any, key: str) -> str:
    label, help_ = one.name.replace("_", " ").capitalize(), one.metadata.get("help", "")
    if kind is bool:
        return str(st.checkbox(label, value=bool(begin), help=help_, key=key)).lower()
    if kind is int:
        return str(int(st.number_input(label, value=int(begin), step=1, help=help_, key=key)))
    if typing.get_origin(kind) is typing.Literal:
        choices = list(typing.get_args(kind))
        return str(st.selectbox(label, choices, index=choices.index(begin), help=help_, key=key))
    suggested = {"engine": engines.names, "model": models.available}.get(one.name)
    if suggested is not None and kind is str:
        choices = list(dict.fromkeys([begin, one.default, *suggested()]))
        return str(st.selectbox(label, choices, accept_new_options=True, key=key,
                                help=f"{help_}. Type a path or a URL of your own."))
    return st.text_input(label, value=experiments.shown(begin), help=help_, key=key).strip()


def _start(name: str, cls: type[experiments.Experiment], given: Mapping[str, str]) -> None:
    try:
        trials = experiments.make(cls, given).size()
    except LabError as error:
        st.error(wording.plain(error))
        return
    if st.button(f"Start ({trials} trial{'s' * (trials != 1)})", type="primary", key="run.start"):
        try:
            started.start(name, given)
        except LabError as error:
            st.error(wording.plain(error))
            return
        st.rerun()


@st.fragment(run_every=EVERY_S)
def _followed() -> None:
    """The runs that were started here: the one that works with its progress, the last ones with how they ended."""
    every = started.recent()[:LISTED]
    working = [one for one in every if one.alive]
    before = st.session_state.get("run.working")
    st.session_state["run.working"] = [one.id for one in working]
    for one in working:
        _working(one)
    if ended := [one for one in every if one not in working]:
        with st.expander(f"Started here before ({len(ended)})", expanded=bool(before) and not working):
            for one in ended:
                _ended(one)


def _working(one: Started) -> None:
    with st.container(border=True):
        run = one.run()
        trials = _store.trials([str(run["run_id"])]) if run is not None else None
        done = 0 if trials is None else len(trials)
        st.markdown(f"**{wording.plain(one.experiment.replace('_', ' ').capitalize())}** is measuring, "
                    f"{wording.duration(time.time() - one.at_s)} so far")
        last = f"; last: {trials['name'].iloc[-1]}" if trials is not None and len(trials) else ""
        st.progress(min(1.0, done / max(1, one.trials)), text=wording.plain(f"{done} of {one.trials} trials{last}"))
        left, right = st.columns([1, 4], gap="medium")
        if left.button("Stop", key=f"run.stop {one.id}", help="What was measured so far is kept, and the run is marked"):
            started.stop(one)
            st.toast("Stopping: the trial that runs is ended, the others are kept")
        if run is not None:
            right.page_link("lab/pages/compare.py", label="Its trials on Compare",
                            query_params={"experiment": one.experiment, "run": str(run["run_id"])})
        st.caption("Other pages stay usable, but whoever works on this machine now is measured, too.")


def _ended(one: Started) -> None:
    run = one.run()
    title = f"{one.experiment.replace('_', ' ').capitalize()}, {one.id[:15]}"
    if run is None:
        said = one.output().strip().splitlines()
        st.markdown(f"**{wording.plain(title)}** ended before it measured anything: "
                    f"{wording.plain(said[-1] if said else 'it said nothing')}")
        return
    verdict = wording.verdict(run)
    state = wording.STATES.get(str(run["state"]), "")
    st.markdown(f"**{wording.plain(title)}** {wording.plain(state or 'finished')}"
                + (f": {wording.plain(verdict.decision)}" if verdict else ""))
    st.page_link("lab/pages/compare.py", label="Look at it on Compare",
                 query_params={"experiment": one.experiment, "run": str(run["run_id"])})


main()

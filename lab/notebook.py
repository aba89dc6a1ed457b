"""What the notebooks share: the first cell, showing what a run left behind, and executing them again.

Nothing is measured here. `python -m lab.notebook execute` runs every notebook of the checkout in place, on a run record
of its own that is thrown away, and puts a picture beside every figure, because GitHub draws no interactive ones.
"""

from __future__ import annotations

import argparse
import base64
import html
import math
import os
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlparse

import pandas as pd
from tqdm import tqdm

from lab import machine, models, names
from lab.engines.vllm_parts import environment
from lab.errors import LabError
from lab.experiments import Experiment
from lab.ops import compare, store
from lab.records import Trial, Verdict
from lab.running import Outcome, cell

if TYPE_CHECKING:
    import nbformat
    import plotly.graph_objects as go

PLOTLY = "application/vnd.plotly.v1+json"
PICTURE_PX = (760, 400)
PLACES = (Path(__file__).parent.parent / "notebooks",  # of a checkout; else where a wheel puts them
          *(Path(sysconfig.get_path("data", scheme)) / "share" / "llm-lab-workbench" / "notebooks"
            for scheme in (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user"))))
NOTEBOOKS = next((place for place in PLACES if place.is_dir()), PLACES[0])
E = TypeVar("E", bound=Experiment)


# The first cell


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the reader can choose from outside, without editing a notebook."""

    model: str
    """`LAB_NOTEBOOK_MODEL`: a catalogue name or the path of a GGUF file."""
    short: bool
    """`LAB_NOTEBOOK_SHORT=1`: settings that only prove that the notebook runs; no number of theirs means anything."""

    def experiment(self, kind: type[E], *, short: Mapping[str, Any], **fields: Any) -> E:
        """`kind` with `fields`; those that `short` names are replaced when the short version was asked for."""
        return kind(**{**fields, **(short if self.short else {})})

    def engines(self, *names: str) -> tuple[str, ...]:
        """Those of `names` that can run here; what is left out, and how to get it, is said."""
        missing = "vllm" in names and (self.short or environment.find() is None)
        if missing:
            say("vLLM is left out here; `lab engines install vllm` makes its environment.")
        return tuple(name for name in names if not (missing and name == "vllm"))


def setup() -> Setup:
    """Print versions, machine, model and where runs are kept; give what the environment chose.

    Raises `LabError` if `LAB_NOTEBOOK_MODEL` is no model that can be had.
    """
    # datasets asks for widgets that a notebook without progress bars does not need; JupyterLab works without them.
    warnings.filterwarnings("ignore", message="IProgress not found")
    chosen = Setup(model=os.environ.get("LAB_NOTEBOOK_MODEL") or models.DEFAULT,
                   short=os.environ.get("LAB_NOTEBOOK_SHORT", "") not in ("", "0"))
    file = models.find(chosen.model)  # its name is the stem of a path: where it lies is the reader's business
    for line in machine.fingerprint().lines():
        print(line)
    print(f"Model         {file.name}, {file.bytes / 1e6:,.0f} MB, licence {file.licence}, sha256 {file.sha256[:12]}")
    print(f"Runs go to    {place()}")
    if chosen.short:
        print("Short version: it proves that the notebook runs; its numbers mean nothing.")
    return chosen


def place() -> str:
    """Where runs are kept, without the folders of this machine."""
    file = store.database()
    if file is None:
        address = urlparse(store.uri())
        return f"{address.scheme}://{address.hostname}"  # no user, password or token
    if file == store.home() / "mlruns" / "mlflow.db":
        return "mlruns/mlflow.db" + (" in LAB_HOME" if os.environ.get("LAB_HOME") else " of this checkout")
    return f"{file.name} (MLFLOW_TRACKING_URI)"


def progress(experiment: Experiment) -> Callable[[Trial], None]:
    """For `running.run(..., on_trial=)`: one line that says how far it is, in place of a bar that stays behind."""
    done, total, began = 0, experiment.size(), time.monotonic()
    line = _display({"text/plain": f"0 of {total} trials"}, display_id=True)

    def on_trial(trial: Trial) -> None:
        nonlocal done
        done += 1
        spent = f"{time.monotonic() - began:.0f} s"
        line.update({"text/plain": f"{done} of {total} trials, {spent}; last: {trial.name}"}, raw=True)

    return on_trial


# Showing


def say(text: str) -> None:
    """Show Markdown whose numbers come from the data above."""
    _display({"text/markdown": text, "text/plain": text})


def show(*figures: go.Figure) -> None:
    """Show figures on white (a dark page has no say over a picture), interactive where the page can draw them."""
    for figure in figures:
        drawn = figure.to_plotly_json()
        drawn["layout"] |= {"paper_bgcolor": "white", "plot_bgcolor": "white"}
        title = str(figure.layout.title.text or "Figure").split("<br>")[0]
        _display({PLOTLY: _plain(drawn), "text/plain": html.unescape(title)})


def show_table(
    outcome: Outcome, *measures: str, rows: Mapping[str, Any] | None = None, notes: Iterable[str] = ()
) -> None:
    """Show the trials with these measures (all when none is named), each with its interval, and these notes in words.

    `rows` keeps the trials with these settings (`{"factor": "threads"}`).
    """
    trials = _where(outcome.trials, rows or {})
    known = [m for m in measures if f"metrics.{m}" in trials]
    shown = outcome.table().loc[trials.index] if not measures else pd.DataFrame({
        "Trial": trials["name"],
        **{names.describe(m).heading: [cell(row, m) for _, row in trials.iterrows()] for m in known}})
    for note in notes:
        if f"tags.lab.note.{note}" in trials:
            shown[names.describe(note).label] = trials[f"tags.lab.note.{note}"]
    _display({"text/html": shown.to_html(index=False, border=0), "text/plain": shown.to_string(index=False)})


def show_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """Show rows of plain values as a table, long texts whole."""
    shown = pd.DataFrame(list(rows))
    with pd.option_context("display.max_colwidth", None):
        _display({"text/html": shown.to_html(index=False, border=0), "text/plain": shown.to_string(index=False)})


def contents() -> list[dict[str, str]]:
    """The notebooks beside this one in their order: number, file and the question that each one asks in its title."""
    import json

    rows = []
    for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        title = "".join(json.loads(path.read_text())["cells"][0]["source"]).splitlines()[0]
        rows.append({"notebook": path.stem, "question": title.removeprefix("# ")})
    return rows


def show_verdict(verdict: Verdict | None, *, title: str = "Verdict", cautions: bool = True) -> None:
    """Show a decision, why it was made and, unless that is said elsewhere, what speaks against trusting it."""
    if verdict is None:
        say(f"**{title}.** None: the run was interrupted.")
        return
    lines = [f"**{title}.** {verdict.decision}", *(f"- {why}" for why in verdict.why),
             *(f"- Caution: {caveat}" for caveat in verdict.caveats if cautions)]
    say("\n".join([lines[0], "", *lines[1:]]))


def span(outcome: Outcome, factor: str) -> tuple[pd.Series[Any], pd.Series[Any]]:
    """The trials with the lowest and the highest value of a varied factor."""
    rows = _where(outcome.trials, {"factor": factor})
    if rows.empty:
        raise LabError(f"No trial varies '{factor}'; give that field of the experiment at least two values.")
    rows = rows.sort_values(f"params.{factor}", kind="stable")
    return rows.iloc[0], rows.iloc[-1]


def quantity(row: pd.Series[Any], measure: str, *, interval: bool = True) -> str:
    """One number as text: value, unit and, where there is one, its 95% interval."""
    name = names.describe(measure)
    value = float(row.get(f"metrics.{measure}", math.nan))
    if math.isnan(value):
        return "not measured"
    low, high = (float(row.get(f"metrics.{measure}_{side}", math.nan)) for side in ("low", "high"))
    within = f" ({name.show(low)}–{name.show(high)})" if interval and not math.isnan(low + high) else ""
    return f"{name.show(value)}{'' if name.unit in ('', '%') else ' '}{name.unit}{within}".strip()


def compared(outcome: Outcome, baseline: pd.Series[Any], other: pd.Series[Any], measure: str) -> str:
    """What `other` is against `baseline` in one measure, and whether that is more than chance, in a sentence.

    The test is that of `lab.ops.compare`, on the raw observations, adjusted for every measure of the pair.
    """
    label = names.describe(measure).label
    new, old = (f"{quantity(trial, measure)} with {trial['name']}" for trial in (other, baseline))
    sides = f"{new} against {old}"
    found = {row.measure: row for row in compare.differences(outcome.trials, baseline["run_id"], other["run_id"], across=True)}
    row = found.get(measure)
    if row is None:
        return f"{label}: {sides}."
    factor = f"{row.other / row.baseline:.2f} times; " if row.baseline > 0 and math.isfinite(row.other) else ""
    chance = {"too few": f"{row.items} observations a side are too few to tell", "not tested": "not tested"}
    tested = chance.get(row.outcome, f"{row.outcome}, p = {row.p_adjusted:.2g}" if row.significant else row.outcome)
    return f"{label}: {sides} ({factor}{tested})."


def _display(data: Mapping[str, Any], **more: Any) -> Any:
    from IPython import display as screen

    untyped: Any = screen.display
    return untyped(dict(data), raw=True, **more)


def _where(trials: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    for name, value in settings.items():
        column = f"params.{name}"
        if column not in trials:
            raise LabError(f"No trial has a setting '{name}'; give one of the columns that start with 'params.'.")
        trials = trials[trials[column] == value]
    return trials


def _plain(value: Any) -> Any:
    """Plotly's values as JSON has them: tuples and arrays become lists, templates dicts."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if hasattr(value, "to_plotly_json"):
        return _plain(value.to_plotly_json())
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


# Executing them again


def execute(path: Path, *, pictures: bool = True, timeout_s: int = 1800) -> nbformat.NotebookNode:
    """The notebook at `path`, executed from top to bottom in its own folder; the file itself is not touched.

    Raises `nbclient.exceptions.CellExecutionError` with the traceback of the cell that failed.
    """
    import nbformat
    from nbclient import NotebookClient

    read: Any = nbformat.read
    notebook: nbformat.NotebookNode = read(path, as_version=4)
    NotebookClient(notebook, timeout=timeout_s, kernel_name="python3",
                   resources={"metadata": {"path": str(path.parent)}}).execute()
    _tidy(notebook)
    if pictures:
        add_pictures(notebook)
    return notebook


def add_pictures(notebook: nbformat.NotebookNode) -> None:
    """Put a PNG beside every interactive figure. Raises `LabError` without kaleido or a Chrome to draw with."""
    figures = [o for c in notebook.cells for o in c.get("outputs", []) if PLOTLY in o.get("data", {})]
    if not figures:
        return
    try:
        import kaleido
    except ImportError:
        raise LabError("Pictures of figures need kaleido; run `pip install kaleido`, or give --no-pictures.") from None
    width, height = PICTURE_PX
    quiet: dict[str, Any] = {"silence_warnings": True}
    try:
        kaleido.start_sync_server(**quiet)
        for figure in figures:
            drawn = figure["data"][PLOTLY]
            size = {"width": width, "height": drawn["layout"].get("height", height)}
            picture = kaleido.calc_fig_sync(drawn, opts={"format": "png", "scale": 1.5, **size})
            figure["data"]["image/png"] = base64.b64encode(picture).decode()
            figure["metadata"]["image/png"] = size  # shown at this size, sharp on a dense screen
    except Exception as error:  # Chrome missing, too old or unable to start: many kinds, one remedy
        raise LabError(f"Chrome did not draw the pictures ({type(error).__name__}); install Chrome or Chromium, or "
                       "give --no-pictures.") from error
    finally:
        kaleido.stop_sync_server(**quiet)


def _tidy(notebook: nbformat.NotebookNode) -> None:
    """Drop what changes with every execution and says nothing: clock times, display ids, versions of the kernel."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                         "language_info": {"name": "python"}}
    for one in notebook.cells:
        one.metadata.pop("execution", None)
        for output in one.get("outputs", []):
            output.pop("transient", None)


def main(arguments: list[str] | None = None) -> None:
    """`python -m lab.notebook execute [NOTEBOOK ...] [--no-pictures]`."""
    import nbformat

    write: Any = nbformat.write
    parser = argparse.ArgumentParser(prog="python -m lab.notebook", description=__doc__)
    parser.add_argument("command", choices=["execute"])
    parser.add_argument("notebooks", nargs="*", type=Path, help="files; all of notebooks/ when none is named")
    parser.add_argument("--no-pictures", action="store_true", help="leave out the PNG beside every figure")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("LAB_HOME", home)
        for path in tqdm(given.notebooks or sorted(NOTEBOOKS.glob("*.ipynb")), unit="notebook", disable=None):
            if not path.is_file():
                raise LabError(f"There is no notebook {path}; leave the name out to execute all of notebooks/.")
            executed = execute(path, pictures=not given.no_pictures)
            partial = path.with_suffix(".partial")
            write(executed, partial)
            partial.replace(path)
            print(f"{path.name}: {path.stat().st_size / 1e3:,.0f} kB")


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(2)

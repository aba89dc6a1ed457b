"""One comparison as a document that stands by itself: decisions, doubts, tables, tested differences and figures.

It is composed once as Markdown with figures between, and given out as Markdown (without the figures) or as one HTML page that
asks nothing of the network. Every number comes from the store, through the same functions that the dashboard uses.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from lab import names, plots, running, wording
from lab.errors import LabError
from lab.ops import compare, history, store
from lab.records import Verdict

LEAST_PREFIX = 4
MOST_TRIALS = 60
"""A table of a report has this many trials of a run at most; what is beyond is counted."""
MOST_COMPARED = 6
"""So many trials are held against the baseline, the first of them."""
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2328; background: #fff; max-width: 1080px;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; }
h2 { margin-top: 2.2rem; border-bottom: 1px solid #d8dee4; padding-bottom: .3rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 13px; }
th, td { border: 1px solid #d8dee4; padding: .3rem .6rem; text-align: left; }
th { background: #f6f8fa; }
blockquote { margin: 0; padding: .2rem 1rem; border-left: 4px solid #0072B2; background: #f6f8fa; }
code { background: #f6f8fa; padding: .1rem .3rem; }
@media print { .plotly-graph-div { break-inside: avoid; } }
"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, what is said under it (Markdown), and figures after that."""

    heading: str
    text: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Report:
    """A comparison of runs, ready to be given out."""

    title: str
    runs: tuple[str, ...]
    sections: tuple[Section, ...]


def compose(given: Sequence[str], *, baseline: str = "", now: datetime | None = None) -> Report:
    """The report of these runs: ids, beginnings of ids (4 characters or more), or names of experiments for their newest run.

    `baseline` is a trial of theirs, by its name or the beginning of its id; without one it is the first that calls itself the
    baseline, else the first of all. Raises `LabError` when a run or the baseline is not in the store, or nothing was measured.
    """
    runs = _runs(given)
    trials = history.frame(parents=list(runs["run_id"])).iloc[::-1].reset_index(drop=True)
    if trials.empty:
        raise LabError("Nothing was measured in what was named; report it when there is a first trial.")
    labels = wording.labels(runs)
    trials = trials.assign(run=trials["parent_id"].map(labels))
    kinds = list(dict.fromkeys(runs["experiment"]))
    sections = [_decisions(runs, labels), _doubts(runs, trials, labels)]
    for kind in kinds:
        of_kind = runs[runs["experiment"] == kind]
        theirs = trials[trials["parent_id"].isin(of_kind["run_id"])].reset_index(drop=True)
        sections.append(_measured(kind, of_kind, theirs, labels))
        if len(theirs):
            sections.append(_compared(of_kind, theirs, baseline if len(kinds) == 1 else ""))
    sections.append(_origin(runs, now or datetime.now(UTC)))
    said = ", ".join(kind.replace("_", " ") for kind in kinds)
    counted = f"{len(runs)} run{'s' * (len(runs) > 1)}, {len(trials)} trial{'s' * (len(trials) > 1)}"
    return Report(title=f"{said.capitalize()}: {counted}", runs=tuple(runs["run_id"]),
                  sections=tuple(one for one in sections if one.text or one.figures))


def markdown(report: Report) -> str:
    """The report as Markdown. Figures are named; they are drawn in the HTML page."""
    parts = [f"# {report.title}"]
    for one in report.sections:
        parts += [f"## {one.heading}", one.text]
        if one.figures:
            parts.append("Figures (in the HTML report): " + "; ".join(one.figures) + ".")
    return "\n\n".join(part for part in parts if part) + "\n"


def page(report: Report) -> str:
    """The report as one HTML page. The plotting script is in it (about 4.6 MB) when there are figures; nothing is fetched."""
    from markdown_it import MarkdownIt

    render = MarkdownIt("commonmark", {"html": False}).enable("table").render
    parts, drawn = [f"<h1>{html.escape(report.title)}</h1>"], False
    for one in report.sections:
        parts.append(f"<h2>{html.escape(one.heading)}</h2>{render(one.text)}")
        for figure in one.figures.values():
            parts.append(figure.to_html(include_plotlyjs=not drawn, full_html=False, config=dict(plots.CONFIG)))
            drawn = True
    return (f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
            f"<title>{html.escape(report.title)}</title><style>{STYLE}</style><body>{''.join(parts)}</body></html>\n")


def write(report: Report, file: Path) -> None:
    """Write the report, as what the file's ending says. Raises `LabError` for another ending or a file that cannot be written."""
    if file.suffix not in (".html", ".md"):
        raise LabError(f"A report is written as .html or .md, not as '{file.name}'; give --out a file that ends so.")
    try:
        file.write_text(page(report) if file.suffix == ".html" else markdown(report), encoding="utf-8")
    except OSError as error:
        raise LabError(f"The report cannot be written to {file} ({error.strerror}); give --out another file.") from error


# Sections


def _decisions(runs: pd.DataFrame, labels: Mapping[str, str]) -> Section:
    parts = []
    for _, run in runs.iterrows():
        verdict: Verdict | None = wording.verdict(run)
        title = f"**{_plain(str(run['experiment']).replace('_', ' ').capitalize())}, {_plain(labels[run['run_id']])}.**"
        question = wording.question(str(run["experiment"]))
        lines = [f"{title} {_plain(question)}", ""]
        lines.append(f"> {_plain(verdict.decision)}" if verdict else "> No verdict: the run ended before one could be made.")
        lines += ["", *(f"- {_plain(why)}" for why in verdict.why)] if verdict else []
        parts.append("\n".join(lines))
    return Section(heading="Decision", text="\n\n".join(parts))


def _doubts(runs: pd.DataFrame, trials: pd.DataFrame, labels: Mapping[str, str]) -> Section:
    said = [f"Run {labels[run['run_id']]} {wording.STATES[run['state']]}."
            for _, run in runs.iterrows() if run["state"] in wording.STATES]
    machines = {wording.machine(run) for _, run in runs.iterrows()} - {""}
    if len(machines) > 1:
        said.append(f"The runs were measured on different machines ({'; '.join(sorted(machines))}).")
    said += wording.doubts(trials)
    for _, run in runs.iterrows():
        said += (verdict.caveats if (verdict := wording.verdict(run)) else ())
    return Section(heading="What speaks against trusting it", text="\n".join(f"- {_plain(one)}" for one in dict.fromkeys(said)))


def _measured(kind: str, runs: pd.DataFrame, trials: pd.DataFrame, labels: Mapping[str, str]) -> Section:
    cls = wording.find(kind)
    if cls is None:
        return Section(heading=f"Measured: {kind}",
                       text="This experiment is not part of the installation; its trials are in the store.")
    parts = []
    for run_id in runs["run_id"]:
        mine = trials[trials["parent_id"] == run_id]
        parts += [f"**{_plain(labels[run_id])}**" if len(runs) > 1 else "", *_tables(kind, mine.head(MOST_TRIALS)),
                  f"{len(mine) - MOST_TRIALS} more trials are in the store." if len(mine) > MOST_TRIALS else ""]
    differ = wording.varying(runs)
    if len(runs) > 1 and differ:
        rows = pd.DataFrame({"Setting": [names.describe(c).heading for c in differ],
                             **{labels[run["run_id"]]: [wording.setting(run[c]) for c in differ] for _, run in runs.iterrows()}})
        parts += ["Settings in which the runs differ:", _table(rows)]
    figures = {title: figure for title, figure in plots.figures(cls, trials).items() if figure.data}
    return Section(heading=f"Measured: {kind.replace('_', ' ')}", text="\n\n".join(filter(None, parts)), figures=figures)


def _compared(runs: pd.DataFrame, trials: pd.DataFrame, baseline: str) -> Section:
    """The trials against a baseline, measure by measure, where both kept raw observations."""
    base = _baseline(trials, baseline)
    name = {row["run_id"]: f"{row['name']} · {row['run']}" if len(runs) > 1 else str(row["name"]) for _, row in trials.iterrows()}
    if "params.kind" in trials:
        trials = trials[trials["params.kind"] == trials.set_index("run_id")["params.kind"][base]]
    others = [one for one in trials["run_id"] if one != base]
    parts, apart = [], list[str]()
    for other in others[:MOST_COMPARED]:
        found = compare.differences(trials, base, other)
        rows = [row for row in found if row.outcome != "not tested"]
        apart += [_plain(name[other])] if compare.other_workload(found) else []
        if any(row.difference for row in rows):
            lines = pd.DataFrame([_line(row) for row in rows])
            parts += [f"**{_plain(name[other])}** against {_plain(name[base])}", _table(lines)]
    if not parts:
        return Section(heading="", text="")
    if apart:
        parts.append(f"Speed is not tested of {', '.join(apart)}: it had other prompts or longest answers than the baseline.")
    more = len(others) - MOST_COMPARED
    parts.append("p-values are adjusted for all tests of a table (Holm); a difference counts below 0.05. Where none is shown, "
                 "one below 'detectable' may well be there."
                 + (f" {more} more trials were not compared here." if more > 0 else ""))
    heading = f"Differences: {str(runs['experiment'].iloc[0]).replace('_', ' ')}"
    return Section(heading=heading, text="\n\n".join(parts))


def _origin(runs: pd.DataFrame, now: datetime) -> Section:
    rows = [{"Experiment": run["experiment"], "Run": run["run_id"], "Started (UTC)": f"{run['started_at']:%Y-%m-%d %H:%M}",
             "State": run["state"], "Machine": wording.machine(run), "Commit": str(run.get("tags.git.commit") or "–")[:12]}
            for _, run in runs.iterrows()]
    where = "a local store" if store.database() is not None else "a tracking server"
    asked = " ".join(str(run_id)[:12] for run_id in runs["run_id"])
    made = f"Made {now:%Y-%m-%d %H:%M} UTC from {where} with `lab report {asked}`."
    return Section(heading="Where it comes from", text=f"{_table(pd.DataFrame(rows))}\n\n{made}")


# Pieces


def _runs(given: Sequence[str]) -> pd.DataFrame:
    """The runs that are meant, each once, in the order they were given."""
    if not given:
        raise LabError("No run was named; give run ids or names of experiments (`lab list`), as many as are to be compared.")
    known = history.frame("experiment")
    rows = []
    for text in given:
        hits = known.head(0)
        if len(known) and (known["experiment"] == text).any():
            hits = known[known["experiment"] == text].head(1)
        elif len(known) and len(text) >= LEAST_PREFIX:
            hits = known[known["run_id"].astype(str).str.startswith(text)]
        if hits.empty:
            raise LabError(f"There is no run '{text}' in this store; `lab run` ends with the id of its run, and the name of an "
                           "experiment means its newest run.")
        if len(hits) > 1:
            raise LabError(f"The id '{text}' is the beginning of {len(hits)} runs; write more of it.")
        rows.append(hits)
    return pd.concat(rows).drop_duplicates("run_id").reset_index(drop=True)


def _baseline(trials: pd.DataFrame, given: str) -> str:
    ids = trials["run_id"].astype(str)
    if given:
        hits = trials[(trials["name"] == given) | (ids.str.startswith(given) if len(given) >= LEAST_PREFIX else False)]
        if hits.empty:
            named = ", ".join(dict.fromkeys(trials["name"].head(8)))
            raise LabError(f"No trial of these runs is called '{given}'; give --baseline one of {named}.")
        return str(hits["run_id"].iloc[0])
    marked = trials[trials["params.role"] == "baseline"] if "params.role" in trials else trials.head(0)
    return str((marked if len(marked) else trials)["run_id"].iloc[0])


def _line(row: compare.Row) -> dict[str, str]:
    name = names.describe(row.measure)
    span = "" if math.isnan(row.low) or math.isnan(row.high) else f" ({name.show(row.low)} to {name.show(row.high)})"
    return {"Measure": name.heading, "Baseline": name.show(row.baseline), "This one": name.show(row.other),
            "Difference (95% interval)": f"{name.show(row.difference)}{span}",
            "p, adjusted": "–" if math.isnan(row.p_adjusted) else f"{row.p_adjusted:.3g}", "Items": f"{row.items:,}",
            "Detectable": "–" if math.isnan(row.detectable) else name.show(row.detectable), "Result": row.outcome}


def _tables(kind: str, trials: pd.DataFrame) -> list[str]:
    """A table for each kind of trial, with the columns and rows that say something."""
    kinds = trials["params.kind"] if "params.kind" in trials else pd.Series("", index=trials.index)
    out = []
    for one in dict.fromkeys(kinds):
        shown = running.table(kind, trials[kinds == one])
        empty = shown.astype(str).isin(("–", "nan", ""))
        shown = shown.loc[:, ~empty.all()]
        if shown.shape[1] > 1:
            said = ~shown.iloc[:, 1:].astype(str).isin(("–", "nan", "")).all(axis=1)
            out.append(_table(shown[said]))
    return out


def _table(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table."""
    lines = [list(map(str, frame.columns)), ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(_plain(cell) if cell != "---" else cell for cell in line) + " |" for line in lines)


def _plain(text: object) -> str:
    """`text` so that Markdown shows it as it is; kept readable, because a Markdown report is read as text too."""
    escaped = re.sub(r"([\\`*_\[\]<>|])", r"\\\1", str(text)).replace("\n", " ")
    return re.sub(r"^(\d+)([.)])(?= )", r"\1\\\2", escaped)

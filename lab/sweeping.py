"""The command `lab sweep`: one experiment at many points of its fields, on this machine or on a Ray cluster."""

from __future__ import annotations

import dataclasses
import math
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lab import names, summary_file
from lab.errors import LabError

if TYPE_CHECKING:
    from lab.sweep.evidence import Evidence
    from lab.sweep.record import Tried
    from lab.sweep.running import Sweep

out = Console(highlight=False)


def sweep(
    spec: Annotated[Path, typer.Argument(help="YAML file: experiment, fixed, grid (or random, optuna), objective",
                                         metavar="SPEC.yaml")],
    ray: Annotated[str, typer.Option(help="Ray cluster to run on: HOST:PORT, ray://HOST:PORT or auto; each trial has a machine "
                                          "to itself", metavar="ADDRESS")] = "",
    per: Annotated[str, typer.Option(help="what a trial on Ray has to itself: machine or gpu")] = "machine",
    take_over: Annotated[bool, typer.Option("--take-over", help="go on although another process is marked as working")] = False,
    json_: Annotated[Path | None, typer.Option("--json", help="also write the summary to this file", metavar="FILE")] = None,
) -> None:
    """Measure an experiment at many points (grid, random or Optuna); the same command goes on after a stop."""
    from lab.sweep import evidence, running
    from lab.sweep import spec as specs
    from lab.sweep.local import Local

    if per not in ("machine", "gpu"):
        raise LabError(f"--per is machine or gpu, not '{per}'.")
    summary_file.refuse(json_)
    given = specs.load(spec)
    with ExitStack() as after:
        workers: running.Workers = Local()
        if ray:
            from lab.sweep.on_ray import OnRay

            workers = cluster = OnRay(ray, per)  # type: ignore[arg-type]
            after.callback(cluster.close)
        done = running.run(given, workers, take_over=take_over, say=lambda line: print(line, file=sys.stderr, flush=True))
    found = evidence.weigh(done)
    summary = as_json(done, found)
    if not done.interrupted:
        running.finish(done, summary_file.text(summary), _markdown(done, found))
    _print(done, found)
    summary_file.write(json_, summary)
    if done.interrupted:
        raise typer.Exit(130)
    if not any(t.state == "finished" for t in done.tried):
        raise typer.Exit(1)


def as_json(done: Sweep, found: Evidence) -> dict[str, Any]:
    """The sweep as plain values, numbers unrounded; trials are numbered from 1 as on the screen."""
    from lab.ops import store

    return {
        "experiment": done.spec.experiment, "search": done.spec.kind, "run_id": done.run_id, "store": store.uri(),
        "interrupted": done.interrupted, "measured_before": done.kept, "repeats": done.repeats,
        "objectives": [dataclasses.asdict(o) for o in done.spec.objectives],
        "trials": [{"trial": t.number + 1, "point": dict(t.point), "state": t.state, "run_id": t.run_id, "attempts": t.attempts,
                    "seconds": t.seconds, "host": t.host, "why": t.why, "flags": list(t.flags),
                    "values": {o.measure: dataclasses.asdict(v) for o, v in zip(done.spec.objectives, t.values, strict=False)}}
                   for t in done.tried],
        "front": [n + 1 for n in found.front],
        "others": [{"trial": b.number + 1, "beside": b.by + 1, "p_adjusted": b.p_adjusted, "shown_worse": b.shown}
                   for b in found.others],
        "said": list(found.said), "cautions": list(found.cautions)}


def _rows(done: Sweep, found: Evidence) -> tuple[list[str], list[list[str]]]:
    """The table that people read: heading and rows."""
    several = len({t.host for t in done.tried}) > 1
    worse = {b.number: "worse" if b.shown else "not told" if math.isnan(b.p_adjusted) else "no difference shown"
             for b in found.others}
    head = ["Trial", *done.spec.over, *(names.describe(o.measure).heading for o in done.spec.objectives), "Standing",
            *(["Machine"] if several else []), "Run"]
    rows = []
    for t in done.tried:
        standing = t.state if t.state == "failed" else "not measured" if not t.measured else worse.get(t.number, "in front")
        rows.append([str(t.number + 1), *(t.point[f] for f in done.spec.over), *_values(done, t), standing,
                     *([t.host] if several else []), t.run_id[:8]])
    return head, rows


def _values(done: Sweep, t: Tried) -> list[str]:
    from lab.sweep.record import told

    if len(t.values) < len(done.spec.objectives):
        return ["–"] * len(done.spec.objectives)
    return [told(v, o.measure).replace(f" {names.describe(o.measure).unit}", "") for v, o in
            zip(t.values, done.spec.objectives, strict=True)]


def _whys(done: Sweep) -> list[str]:
    return [f"Trial {t.number + 1} ({t.shown()}) {t.state}{f' after {t.attempts} attempts' if t.attempts > 1 else ''}: {t.why}"
            for t in done.tried if t.why]


def _markdown(done: Sweep, found: Evidence) -> str:
    """What MLflow shows as the description of the sweep's run."""
    head, rows = _rows(done, found)
    table = [" | ".join(row).replace("\n", " ") for row in (head, ["---"] * len(head), *rows[:100])]
    return "\n".join([*found.said, "", *(f"| {row} |" for row in table), "", *_whys(done)[:20], *found.cautions])[:5000]


def _print(done: Sweep, found: Evidence) -> None:
    head, rows = _rows(done, found)
    table = Table(*map(escape, head), title=escape(f"{done.spec.experiment}, {done.spec.kind}"), title_justify="left")
    for row in rows:
        table.add_row(*map(escape, row))
    if rows:
        out.print(table)
    for line in found.said:
        out.print(escape(line), soft_wrap=True)
    for line in _whys(done):
        out.print(f"  [red]Missing[/]  {escape(line)}", soft_wrap=True)
    for line in found.cautions:
        out.print(f"  [yellow]Caution[/]  {escape(line)}", soft_wrap=True)
    if done.interrupted:
        out.print(f"Interrupted: {len(done.tried)} trials are done and kept; the same command goes on.")
    out.print(f"  sweep {done.run_id}", style="dim")
    if runs := [t.run_id[:8] for t in done.tried if t.number in found.front]:
        out.print(f"  lab report {' '.join(runs[:8])}", style="dim")

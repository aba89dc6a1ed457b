"""The command `lab report`: a comparison of runs as one file that can be sent to somebody who has no access to the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

out = Console(highlight=False)


def report(
    runs: Annotated[list[str], typer.Argument(help="ids of runs (their beginnings are enough), or names of experiments for their "
                                              "newest run", metavar="RUN...")],
    baseline: Annotated[str, typer.Option(help="trial that the others are compared with, by name or id", metavar="TRIAL")] = "",
    file: Annotated[Path, typer.Option("--out", help="file that is written, .html or .md", metavar="FILE")] = Path("report.html"),
) -> None:
    """Write a self-contained report: decisions, doubts, tables with intervals, tested differences, figures."""
    from lab import report as reports

    made = reports.compose(runs, baseline=baseline)
    reports.write(made, file)
    out.print(escape(f"{made.title}: {file} ({file.stat().st_size / 1e6:.1f} MB)"), soft_wrap=True)

"""The `lab story` commands: a story is told, and its report is kept in the store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from lab import summary_file

app = typer.Typer(no_args_is_help=True, help="Real work told from beginning to end, every figure measured while it is told.")


@app.callback()
def _root() -> None:
    """Keeps the commands below by their names while there is one of them."""


@app.command()
def operations(
    model: Annotated[str, typer.Option(help="catalogue name or path of a .gguf file")] = "smollm2-135m",
    json_: Annotated[Path | None, typer.Option("--json", help="also write the figures to this file", metavar="FILE")] = None,
) -> None:
    """A release in production, a worse candidate in a canary that its answers stop, a rollback under load; under 5 minutes."""
    from lab.ops import tracking
    from lab.story import operations as story

    summary_file.refuse(json_)
    told = story.operations(model=model, say=lambda line: print(line, flush=True))
    client = tracking.writer()
    run = tracking.start_parent(client, "story", f"operations {model} {time.strftime('%Y-%m-%d %H:%M:%S')}")
    tracking.measured(client, run, told.figures)
    tracking.attach(run, "report.md", told.report)
    tracking.finish(client, run)
    print(f"Report kept as report.md of run {run}.")
    summary_file.write(json_, {"run": run, "figures": told.figures, "report": told.report})

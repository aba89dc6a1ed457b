"""The command `lab doctor`: what works here, what does not, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from lab import summary_file

out = Console(highlight=False)
SHOWN = {"good": "[green]good[/]", "note": "[yellow]note[/]", "problem": "[red]problem[/]"}


def doctor(
    bandwidth: Annotated[bool, typer.Option(help="measure how fast memory is read (about a second)")] = True,
    json_: Annotated[Path | None, typer.Option("--json", help="also write the findings to this file", metavar="FILE")] = None,
) -> None:
    """Look at compiler, threads, memory bandwidth, engines, models, sets and store; exit 1 when something is broken."""
    from dataclasses import asdict

    from lab import doctor as looks

    summary_file.refuse(json_)
    found = []
    for one in looks.findings(bandwidth=bandwidth):
        found.append(one)
        out.print(f"{SHOWN[one.state]:<22} [bold]{escape(one.about)}[/]  {escape(one.said)}", soft_wrap=True)
        if one.remedy:
            out.print(f"{'':<9}{escape(one.remedy)}", style="dim", soft_wrap=True)
    broken = sum(one.state == "problem" for one in found)
    out.print(f"{broken} problem{'s' * (broken != 1)}" if broken else "Nothing is broken.")
    summary_file.write(json_, {"findings": [asdict(one) for one in found], "problems": broken})
    if broken:
        raise typer.Exit(1)

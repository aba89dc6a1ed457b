"""The command `lab notebooks`: which ones there are, copied to where they can be worked on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from lab.errors import LabError

out = Console(highlight=False)


def notebooks(
    to: Annotated[Path | None, typer.Option(help="folder to copy them into; files that are there already stay as they are",
                                            metavar="FOLDER")] = None,
) -> None:
    """The notebooks, each with its question; with --to copied into a folder of your own."""
    from lab import notebook

    rows = notebook.contents()
    if not rows:
        raise LabError("No notebook came with this installation; they are in the folder notebooks/ of the checkout.")
    for row in rows:
        out.print(f"[bold]{escape(row['notebook'])}[/]  {escape(row['question'])}", soft_wrap=True)
    if to is None:
        out.print(f"\nThey are in {escape(str(notebook.NOTEBOOKS))}; `lab notebooks --to FOLDER` copies them.", soft_wrap=True)
        return
    to.mkdir(parents=True, exist_ok=True)
    new = [row["notebook"] for row in rows if not (to / f"{row['notebook']}.ipynb").exists()]
    for name in new:
        shutil.copyfile(notebook.NOTEBOOKS / f"{name}.ipynb", to / f"{name}.ipynb")
    out.print(escape(f"\n{len(new)} of {len(rows)} copied into {to}. Open them with `jupyter lab {to}` "
                     "(pip install 'llm-lab-workbench[notebooks]')."), soft_wrap=True)

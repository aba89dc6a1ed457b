"""The `lab release` commands: make a release, look at it, compare two, move the aliases, prove that all is there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lab import summary_file
from lab.errors import LabError

if TYPE_CHECKING:
    from lab.ops.versions import Changed, Difference, Move, Moved, Release, Report

app = typer.Typer(no_args_is_help=True, help="Releases: one version of each part, promoted and rolled back as a whole.")
out = Console(highlight=False)

Json = Annotated[Path | None, typer.Option("--json", help="also write the summary to this file", metavar="FILE")]
Which = Annotated[str, typer.Argument(help="number, alias (production, candidate, previous) or beginning of the hash",
                                      metavar="RELEASE")]
By = Annotated[str, typer.Option(help="who makes the move; LAB_USER or the login name when it is left out", metavar="NAME")]
Why = Annotated[str, typer.Option(help="why, in a sentence; recorded with the move", metavar="TEXT")]
Expect = Annotated[int | None, typer.Option(help="move only if the alias points at this release now (0: at none)",
                                            metavar="N", min=0)]
Force = Annotated[bool, typer.Option("--force", help="move to a broken release all the same; recorded with its defects")]


@app.command()
def create(
    prompt: Annotated[str, typer.Option(help="file with the system prompt, or a version in the registry",
                                        metavar="FILE|NAME@VERSION")],
    model: Annotated[str, typer.Option(help="catalogue name, path of a .gguf file, or URL of a server", metavar="MODEL")],
    policy: Annotated[str, typer.Option(help="guardrail policy: name or YAML file", metavar="NAME|FILE")] = "default",
    decoding: Annotated[list[str] | None, typer.Option(help="decoding setting, repeatable: temperature=0.2",
                                                       metavar="K=V")] = None,
    engine: Annotated[str, typer.Option(help="engine that answers")] = "llama_cpp",
    setting: Annotated[list[str] | None, typer.Option(help="engine setting, repeatable: context_tokens=4096",
                                                      metavar="K=V")] = None,
    embedding: Annotated[str, typer.Option(help="embedding model of the index", metavar="MODEL")] = "",
    index: Annotated[str, typer.Option(help="folder of a saved retrieval index", metavar="FOLDER")] = "",
    passages: Annotated[int, typer.Option(help="passages put before a question", min=1)] = 3,
    runs: Annotated[list[str] | None, typer.Option(help="trial run that measured this, repeatable or with commas",
                                                   metavar="RUN_ID")] = None,
    note: Annotated[str, typer.Option(help="what this release is for", metavar="TEXT")] = "",
    by: By = "",
    copy: Annotated[bool, typer.Option("--copy", help="keep a copy of model and index in the artifact store")] = False,
    json_: Json = None,
) -> None:
    """Bind one version of each part. The same content again is the same release; new --runs are attached to it."""
    from lab.ops import versions

    summary_file.refuse(json_)
    made = versions.create(
        prompt=prompt, model=model, policy=policy, decoding=_pairs("--decoding", decoding), engine=engine,
        engine_settings=_pairs("--setting", setting), embedding=embedding, index=index, passages=passages, note=note, by=by,
        copy=copy, runs=[part for run in runs or () for part in run.split(",") if part])
    one = made.release
    if made.new:
        out.print(f"Made [bold]release {one.number}[/] ({one.digest[:12]}).", soft_wrap=True)
    else:
        out.print(f"This content is [bold]release {one.number}[/] ({one.digest[:12]}) already; nothing was made.", soft_wrap=True)
    if made.attached:
        out.print(f"{len(made.attached)} trial runs are attached as evidence.")
    _parts(one)
    out.print(f"Put it into production with `lab release promote {one.number} --why ...`.", soft_wrap=True)
    summary_file.write(json_, {"new": made.new, "attached": made.attached, "release": one.as_json()})


@app.command("list")
def list_(json_: Json = None) -> None:
    """All releases with the aliases that point at them."""
    from lab.ops import versions

    summary_file.refuse(json_)
    found, broken = versions.listed()
    now = versions.current()
    for one in reversed(found):
        names = "".join(f" [green]{alias}[/]" for alias in now.aliases(one.number))
        out.print(f"[bold]{one.number}[/]  {one.digest[:12]}{names}  {escape(one.note)}", soft_wrap=True)
        out.print(f"    {escape(versions.summary(one))}", style="dim", soft_wrap=True)
        runs = "1 trial run" if len(one.runs) == 1 else f"{len(one.runs)} trial runs" if one.runs else "not measured"
        out.print(f"    {_when(one.at_ms)} by {escape(one.by)}, {runs}", style="dim", soft_wrap=True)
    if not found:
        out.print("There is no release yet. Make one:  lab release create --prompt FILE --model smollm2-135m", soft_wrap=True)
    cautions = [*broken, *versions.strayed()]
    _cautions(cautions)
    aliases = {alias: now.of(alias) for alias in versions.ALIASES}
    summary_file.write(json_, {"aliases": aliases, "releases": [one.as_json() for one in found], "cautions": cautions})


@app.command()
def show(which: Which, json_: Json = None) -> None:
    """Everything that one release binds."""
    from lab.ops import versions

    summary_file.refuse(json_)
    one = versions.find(which)
    names = "".join(f" [green]{alias}[/]" for alias in versions.current().aliases(one.number))
    out.print(f"[bold]Release {one.number}[/]  {one.digest}{names}", soft_wrap=True)
    note = f": {escape(one.note)}" if one.note else ""
    out.print(f"  made {_when(one.at_ms)} by {escape(one.by)}{note}", style="dim", soft_wrap=True)
    _parts(one)
    for name, value in one.model.facts.items():
        if value not in ("", None):
            out.print(f"    {name.replace('_', ' ')}: {escape(str(value))}", style="dim", soft_wrap=True)
    out.print(f"\n[bold]Prompt[/] {escape(one.prompt.name)}@{one.prompt.version}")
    out.print(escape(one.prompt.shown), soft_wrap=True)
    summary_file.write(json_, one.as_json())


@app.command()
def diff(before: Which, after: Which, json_: Json = None) -> None:
    """What changes from one release to another: prompt, settings, rules, model, and what was measured of both."""
    from lab.ops import versions

    summary_file.refuse(json_)
    found = versions.difference(versions.find(before), versions.find(after))
    _difference(found)
    summary_file.write(json_, found.as_json())


@app.command()
def promote(
    which: Which, why: Why, by: By = "", expect: Expect = None, force: Force = False,
    candidate: Annotated[bool, typer.Option("--candidate", help="make it the candidate instead")] = False,
    json_: Json = None,
) -> None:
    """Point production at a release; what was there becomes previous. Files are hashed and its engine is opened first."""
    from lab.ops import versions

    summary_file.refuse(json_)
    move = versions.propose if candidate else versions.promote
    _moved(move(which, by=by or versions.whoami(), why=why, expect=expect, force=force, opens=True), json_)


@app.command()
def rollback(why: Why, by: By = "", expect: Expect = None, force: Force = False, json_: Json = None) -> None:
    """Put the previous release back into production. In force for every gateway of this machine when this returns."""
    from lab.ops import versions

    summary_file.refuse(json_)
    _moved(versions.rollback(by=by or versions.whoami(), why=why, expect=expect, force=force), json_)


@app.command()
def withdraw(why: Why, by: By = "", expect: Expect = None, json_: Json = None) -> None:
    """Take the alias candidate away."""
    from lab.ops import versions

    summary_file.refuse(json_)
    _moved(versions.withdraw(by=by or versions.whoami(), why=why, expect=expect), json_)


@app.command()
def history(json_: Json = None) -> None:
    """Every move of an alias, newest first: who, when, why. Nothing is ever taken out of it."""
    from lab.ops import versions

    summary_file.refuse(json_)
    moves = versions.history()
    for move in reversed(moves):
        out.print(f"[bold]{move.number}[/]  {_when(move.at_ms)}  {escape(move.by)}  {_said(move)}", soft_wrap=True)
        out.print(f"    {escape(move.why)}", soft_wrap=True)
        for defect in move.defects:
            out.print(f"    [yellow]forced[/]  {escape(defect)}", soft_wrap=True)
    if not moves:
        out.print("No alias was ever moved. Make a release, and promote it:  lab release promote 1 --why 'the first one'")
    summary_file.write(json_, {"moves": [_as_json(move) for move in moves]})


@app.command()
def verify(
    which: Annotated[list[str] | None, typer.Argument(help="releases; those that an alias points at when left out",
                                                      metavar="RELEASE...")] = None,
    every: Annotated[bool, typer.Option("--all", help="every release there is")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="also decode one token, make the guards and search the index")] = False,
    mend: Annotated[bool, typer.Option("--mend", help="put MLflow's own aliases back to what the journal says")] = False,
    json_: Json = None,
) -> None:
    """Read every file of a release, hash it and load what is in it. Exit code 1 and a sentence for every defect."""
    from lab.ops import versions

    summary_file.refuse(json_)
    if mend:
        versions.mend()
    reports = [versions.verify(one, deep=deep) for one in _wanted(which or [], every)]
    for report in reports:
        _report(report)
    strayed = versions.strayed()
    _cautions(strayed)
    summary_file.write(json_, {"reports": [report.as_json() for report in reports], "cautions": strayed})
    if strayed or not all(report.whole for report in reports):
        raise typer.Exit(1)


def _wanted(which: Sequence[str], every: bool) -> list[Release]:
    from lab.ops import versions

    found, broken = versions.listed()
    if every and broken:
        raise LabError(broken[0])
    if every:
        return found
    now = versions.current()
    asked = list(which) or sorted({str(n) for a in versions.ALIASES if (n := now.of(a)) is not None})
    if not asked:
        raise LabError("No alias points at a release yet; name the releases to verify, or say --all.")
    return [versions.find(one) for one in asked]


def _report(report: Report) -> None:
    head = "[green]whole[/]" if report.whole else f"[red]{len(report.defects)} defect{'s' * (len(report.defects) > 1)}[/]"
    out.print(f"[bold]Release {report.release}[/]  {head}")
    for line in report.proven:
        out.print(f"  [green]ok[/]      {escape(line)}", soft_wrap=True)
    for line in report.open:
        out.print(f"  [yellow]open[/]    {escape(line)}", soft_wrap=True)
    for defect in report.defects:
        out.print(f"  [red]defect[/]  {escape(defect.part)}: {escape(defect.sentence)}", soft_wrap=True)


def _parts(one: Release) -> None:
    decoding = ", ".join(f"{name}={value}" for name, value in one.content()["decoding"].items() if value not in ("", [], False))
    settings = ", ".join(f"{name}={value}" for name, value in one.engine_settings.items())
    model = f"{one.model.location} ({one.model.kind})"
    if one.model.kind == "file":
        model = f"{one.model.name}, {one.model.bytes / 1e6:,.1f} MB, sha256 {one.model.sha256[:12]}"
    lines = {"prompt": f"{one.prompt.name}@{one.prompt.version}, {len(one.prompt.text):,} characters", "model": model,
             "decoding": decoding, "policy": f"{one.policy.name} version {one.policy.version}, sha256 {one.policy.sha256[:12]}",
             "engine": one.engine + (f" ({settings})" if settings else "")}
    if one.retrieval is not None:
        lines["retrieval"] = (f"{one.retrieval.name} version {one.retrieval.index_version} with {one.retrieval.embedding_model}, "
                              f"{one.retrieval.passages} passages")
    lines["evidence"] = ", ".join(run[:8] for run in one.runs) or "not measured"
    for name, text in lines.items():
        out.print(f"  {name:<10} {escape(text)}", soft_wrap=True)


def _difference(found: Difference) -> None:
    out.print(f"From [bold]release {found.before.number}[/] ({found.before.digest[:8]}) to "
              f"[bold]release {found.after.number}[/] ({found.after.digest[:8]})")
    if found.same:
        out.print("They are the same release.")
        return
    out.print("\n[bold]Prompt[/]" + ("" if found.prompt else "  the same"))
    for line in found.prompt:
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        out.print(escape(line), style=style, soft_wrap=True)
    _table("Settings", found.settings)
    out.print("\n[bold]Policy[/]" + ("" if found.rules else "  the same"))
    for line in found.rules:
        out.print(f"  {escape(line)}", soft_wrap=True)
    _table("Model", found.model)
    _table("Retrieval", found.retrieval)
    out.print("\n[bold]Measured[/]")
    for measured in found.measured:
        out.print(f"  {escape(measured.experiment)}: {escape(measured.before)} to {escape(measured.after)}", soft_wrap=True)
        for line in measured.sentences():
            out.print(f"    {escape(line)}", soft_wrap=True)
        _cautions(measured.cautions)
    for line in found.unmeasured:
        out.print(f"  {escape(line)}", soft_wrap=True)


def _table(title: str, rows: Sequence[Changed]) -> None:
    out.print(f"\n[bold]{title}[/]" + ("" if rows else "  the same"))
    if rows:
        table = Table("", "before", "after")
        for row in rows:
            table.add_row(escape(row.name.replace("_", " ")), escape(row.before), escape(row.after))
        out.print(table)


def _moved(moved: Moved, json_: Path | None) -> None:
    after = moved.move.after
    where = [f"{name} {getattr(after, name) or 'none'}" for name in ("production", "previous", "candidate")]
    out.print(f"{_said(moved.move)}  ({', '.join(where)}; move {moved.move.number}, recorded)", soft_wrap=True)
    _cautions([*(f"forced: {defect}" for defect in moved.move.defects), *([moved.caution] if moved.caution else [])])
    summary_file.write(json_, {"move": _as_json(moved.move), "caution": moved.caution})


def _said(move: Move) -> str:
    before = move.before.of(move.alias)
    was = f" (was {before})" if before else ""
    text = {"promote": f"production is release {move.to}{was}", "rollback": f"production is back to release {move.to}{was}",
            "candidate": f"candidate is release {move.to}{was}", "withdraw": f"no candidate{was}"}[move.action]
    if not move.applied:
        return f"{move.action} to {move.to or 'none'} had no effect: it expected {move.expect or 'none'}{was}"
    return text + (", forced" if move.forced else "")


def _as_json(move: Move) -> dict[str, Any]:
    import dataclasses

    return {**dataclasses.asdict(move), "alias": move.alias, "at": _when(move.at_ms)}


def _when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _cautions(lines: Sequence[str]) -> None:
    for line in lines:
        out.print(f"  [yellow]Caution[/]  {escape(line)}", soft_wrap=True)


def _pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    pairs = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise LabError(f"{option} takes NAME=VALUE, not '{text}'.")
        pairs[name.strip().replace("-", "_")] = value
    return pairs

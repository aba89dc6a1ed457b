"""The `lab rollout` commands: begin a canary or shadow, see how it stands, watch it, end it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from lab import summary_file
from lab.errors import LabError

if TYPE_CHECKING:
    from lab.ops.rollouts import Watched
    from lab.stats.sequential import Look

app = typer.Typer(no_args_is_help=True, help="A candidate beside production on live requests, stopped at once when it does harm.")
out = Console(highlight=False)

Json = Annotated[Path | None, typer.Option("--json", help="also write the summary to this file", metavar="FILE")]
By = Annotated[str, typer.Option(help="who it is; LAB_USER or the login name when it is left out", metavar="NAME")]
Why = Annotated[str, typer.Option(help="why, in a sentence; recorded", metavar="TEXT")]


@app.command()
def start(
    candidate: Annotated[str, typer.Option(help="release: number, alias or beginning of the hash", metavar="RELEASE")],
    why: Why,
    share: Annotated[float, typer.Option(help="of users who get it; of requests that are copied with --shadow")] = 0.1,
    shadow: Annotated[bool, typer.Option("--shadow", help="ask it copies of requests; nobody sees its answers")] = False,
    score: Annotated[str, typer.Option(help="score of the request log that is its quality; none: quality is not looked at",
                                       metavar="NAME")] = "",
    margin: Annotated[list[str] | None, typer.Option(
        help="how much worse it may be, repeatable: quality=0.03 (points), failed=0.02, e2e_s=0.25, cost_usd=0.25 (shares); "
             "0 is not looked at", metavar="NAME=X")] = None,
    by: By = "",
    json_: Json = None,
) -> None:
    """Begin a rollout: power first, then the candidate gets its share of a running `lab gateway`, which watches it."""
    from lab.ops import requests, rollouts, versions
    from lab.ops.requests import scores

    summary_file.refuse(json_)
    begun = rollouts.start(candidate, by=by or versions.whoami(), why=why, share=share, stage="shadow" if shadow else "canary",
                           score=score, margins=_margins(margin), opens=True)
    one = begun.rollout
    whose = f"{one.share:.0%} of requests are asked of it too" if shadow else f"{one.share:.0%} of users get it"
    out.print(f"[bold]Rollout {one.number}[/] is on: {one.stage} of release {one.candidate} beside release {one.production}, "
              f"{whose}.", soft_wrap=True)
    plans = rollouts.planned(one)
    for plan in plans:
        out.print(f"  {escape(plan.said())}", soft_wrap=True)
    out.print("  Requests are counted of both arms together; users who come back make it take longer.", style="dim")
    if not score:
        _caution("No --score: the quality of answers is not looked at.")
    elif not any(given.name == score for given in scores.read(requests.folder())):
        _caution(f"No request was ever given a score '{score}'. Until requests of both arms are (`lab.ops.requests.scores.add`, "
                 "`lab monitor score`), nothing is known of quality and the rollout cannot end well.")
    if begun.caution:
        _caution(begun.caution)
    summary_file.write(json_, {"rollout": one.as_json(), "power": [plan.said() for plan in plans]})


@app.command()
def status(json_: Json = None) -> None:
    """The rollout that is on, or the last one: its evidence so far and the verdict."""
    from lab.ops import rollouts

    summary_file.refuse(json_)
    known = rollouts.all_()
    if not known:
        out.print("There was no rollout yet. Begin one:  lab rollout start --candidate N --share 0.1 --score NAME --why ...")
        summary_file.write(json_, {"rollout": None})
        return
    on = rollouts.current()
    one = on or known[-1]
    state = "on" if on else one.ended or "over: the aliases were moved"
    out.print(f"[bold]Rollout {one.number}[/] {one.stage} of release {one.candidate} beside {one.production}, {one.share:.0%}: "
              f"{escape(state)}", soft_wrap=True)
    out.print(f"  {escape(one.by)}: {escape(one.why)}", style="dim", soft_wrap=True)
    look = None
    if on is not None and not on.decision:
        evidence = rollouts.Evidence(on)
        look = evidence.look()
        _look(look)
        if not rollouts.watched_already():
            _caution("Nobody watches it, so nothing stops it: run `lab gateway` or `lab rollout watch`.")
    elif one.decision:
        out.print(f"  [bold]{one.decision}[/]")
        for line in one.reasons:
            out.print(f"  {escape(line)}", soft_wrap=True)
    summary_file.write(json_, {"rollout": one.as_json(), "on": on is not None, "look": _as_json(look) if look else None})


@app.command()
def stop(why: Why, by: By = "", json_: Json = None) -> None:
    """End the rollout that is on: when this returns every new request is answered by production. The candidate stays one."""
    from lab.ops import rollouts, versions

    summary_file.refuse(json_)
    ended = rollouts.stop(by=by or versions.whoami(), why=why)
    out.print(f"[bold]Rollout {ended.rollout.number}[/] is over.")
    if ended.caution:
        _caution(ended.caution)
    summary_file.write(json_, {"rollout": ended.rollout.as_json()})


@app.command()
def watch(
    every_s: Annotated[float, typer.Option(help="seconds between two looks", min=0.1)] = 1.0, json_: Json = None,
) -> None:
    """Watch the rollout until it is decided, and stop it on harm. A running gateway does the same by itself."""
    from lab.ops import rollouts

    summary_file.refuse(json_)
    if rollouts.current() is None:
        raise LabError("No rollout is on; begin one with `lab rollout start`.")
    last = rollouts.watch(say=_watched, trouble=_caution, every_s=every_s)
    if last is None:
        out.print("The rollout is over; see `lab rollout status`.")
        summary_file.write(json_, {"rollout": None})
        return
    _look(last.look)
    summary_file.write(json_, {"rollout": last.rollout.as_json(), "look": _as_json(last.look), "did": last.did})


def _margins(given: Sequence[str] | None) -> dict[str, float]:
    found = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise LabError(f"--margin takes NAME=X such as failed=0.02, not '{text}'.")
    return found


def _watched(seen: Watched) -> None:
    out.print(f"{seen.requests:,} answers, {seen.scored:,} scored: {seen.look.decision}"
              + (f"; [bold]{escape(seen.did)}[/]" if seen.did else ""), soft_wrap=True)


def _look(look: Look) -> None:
    out.print(f"  [bold]{look.decision}[/]")
    for line in look.why:
        out.print(f"  {escape(line)}", soft_wrap=True)


def _as_json(look: Look) -> dict[str, Any]:
    return {"decision": look.decision, "why": list(look.why), "needed_requests": look.needed,
            "changes": {one.metric.name: {"value": one.change.value, "low": one.change.low, "high": one.change.high,
                                          "a": one.n[0], "b": one.n[1]} for one in look.effects}}


def _caution(line: str) -> None:
    out.print(f"  [yellow]Caution[/]  {escape(line)}", soft_wrap=True)

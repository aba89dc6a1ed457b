"""The `lab replay` command: would a candidate have answered what users really asked as well, as fast and as cheaply?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from lab import summary_file

if TYPE_CHECKING:
    from lab.ops.replay import Replayed
    from lab.records import Verdict

out = Console(highlight=False)


def replay(
    candidate: Annotated[str, typer.Argument(help="release that may replace it: number, alias or beginning of the hash",
                                             metavar="RELEASE")] = "candidate",
    against: Annotated[str, typer.Option(help="release it is held against", metavar="RELEASE")] = "production",
    last: Annotated[int, typer.Option(help="the latest so many different requests whose texts were kept", metavar="N")] = 200,
    sets: Annotated[str, typer.Option(help="question sets whose right answers score the requests that ask them; with commas",
                                      metavar="NAME,...")] = "",
    margin: Annotated[float, typer.Option(help="loss of quality, and of usable answers, that is accepted, as a share")] = 0.03,
    latency_margin: Annotated[float, typer.Option(help="longer end-to-end time that is accepted; 0: not looked at")] = 0.1,
    cost_margin: Annotated[float, typer.Option(help="higher cost that is accepted, as a share; 0: not looked at")] = 0.0,
    block: Annotated[int, typer.Option(help="requests between two looks")] = 5,
    whole: Annotated[bool, typer.Option("--whole", help="ask all, even when the evidence was enough before")] = False,
    prices: Annotated[Path | None, typer.Option(help="price book", metavar="FILE")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="also write the summary to this file", metavar="FILE")] = None,
) -> None:
    """Ask logged requests again, of the release in production and of a candidate, and compare the pairs of answers.

    The texts are those that `lab gateway --texts guarded` kept. Guards are not run again.
    """
    from lab.ops import cost, replayed, versions
    from lab.ops import replay as replaying

    summary_file.refuse(json_)
    names = [name.strip() for name in sets.split(",") if name.strip()]
    margins = replaying.Margins(quality=margin, latency=latency_margin, cost=cost_margin)
    found = replaying.replay(
        replaying.logged(last=last), versions.find(against), versions.find(candidate), known=replaying.Known.of(names),
        book=cost.load(prices) if prices else cost.load(), block=block, stop=not whole, margins=margins)
    _print(found, replayed.verdict(found))
    summary_file.write(json_, summary(found))
    run = replayed.record(found, margins)
    out.print(f"Recorded as run {run}; `lab report {run[:8]}` makes a report of it.", style="dim", soft_wrap=True)
    summary_file.write(json_, {**summary(found), "run": run})


def summary(found: Replayed) -> dict[str, Any]:
    """A replay as plain values, without the texts of requests and answers."""
    effects = {one.metric.name: {"a": one.means[0], "b": one.means[1], "change": one.change.value, "low": one.change.low,
                                 "high": one.change.high, "n": list(one.n), "acceptable": one.acceptable, "harmful": one.harmful}
               for one in found.look.effects}
    return {"baseline": found.baseline.number, "candidate": found.candidate.number, "decision": found.look.decision,
            "why": list(found.look.why), "needed_requests": found.look.needed, "requests": found.asked, "scored": found.scored,
            "same_text": found.same, "effects": effects,
            "answers": [{"request_id": one.logged.id, "arm": one.arm, **one.values, "error": one.error} for one in found.answers]}


def _print(found: Replayed, made: Verdict) -> None:
    out.print(f"[bold]{made.decision}[/]", soft_wrap=True)
    for line in made.why:
        out.print(f"  {escape(line)}", soft_wrap=True)
    out.print(f"{found.asked} different requests were asked of both (A is release {found.baseline.number}, B release "
              f"{found.candidate.number}); {found.same} were answered with the same text.", style="dim", soft_wrap=True)
    for line in made.caveats:
        out.print(escape(line), style="dim", soft_wrap=True)
    if not found.scored:
        out.print("Give --sets with questions whose answers are known to have quality scored.", style="dim", soft_wrap=True)

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
    from lab.ops import cost, versions
    from lab.ops import replay as replaying

    summary_file.refuse(json_)
    names = [name.strip() for name in sets.split(",") if name.strip()]
    found = replaying.replay(
        replaying.logged(last=last), versions.find(against), versions.find(candidate), known=replaying.Known.of(names),
        book=cost.load(prices) if prices else cost.load(), block=block, stop=not whole,
        margins=replaying.Margins(quality=margin, latency=latency_margin, cost=cost_margin))
    _print(found, names)
    summary_file.write(json_, summary(found))


def summary(found: Replayed) -> dict[str, Any]:
    """A replay as plain values, without the texts of requests and answers."""
    effects = {one.metric.name: {"a": one.means[0], "b": one.means[1], "change": one.change.value, "low": one.change.low,
                                 "high": one.change.high, "n": list(one.n), "acceptable": one.acceptable, "harmful": one.harmful}
               for one in found.look.effects}
    return {"baseline": found.baseline.number, "candidate": found.candidate.number, "decision": found.look.decision,
            "why": list(found.look.why), "needed_requests": found.look.needed, "requests": found.asked, "scored": found.scored,
            "same_text": found.same, "effects": effects,
            "answers": [{"request_id": one.logged.id, "arm": one.arm, **one.values, "error": one.error} for one in found.answers]}


def _print(found: Replayed, names: list[str]) -> None:
    a, b = found.baseline.number, found.candidate.number
    said = {"ship": f"Release {b} may go on to a canary: every metric is shown to be within its margin.",
            "do not ship": f"Release {b} is shown to be worse than release {a}; keep release {a}.",
            "need more data": f"{found.asked} requests show neither that release {b} is within its margins nor that it is "
                              "worse."}
    out.print(f"[bold]{said[found.look.decision]}[/]", soft_wrap=True)
    for line in found.look.why:
        out.print(f"  {escape(line)}", soft_wrap=True)
    out.print(f"{found.asked} different requests were asked of both (A is release {a}, B release {b}); {found.same} were "
              "answered with the same text.", style="dim", soft_wrap=True)
    failed = [(arm, sum(one.arm == arm and bool(one.error) for one in found.answers)) for arm in ("A", "B")]
    if any(count for _, count in failed):
        out.print("Failed: " + ", ".join(f"{count} with {arm}" for arm, count in failed) + ".", soft_wrap=True)
    if not found.scored:
        out.print(f"No request asks a question of {', '.join(names)}, so quality was not scored." if names else
                  "Quality was not scored: give --sets with questions whose answers are known.", style="dim", soft_wrap=True)
    out.print("A replay knows no concurrent users, and a conversation of several turns is asked as one text: confirm it with a "
              "canary.", style="dim", soft_wrap=True)

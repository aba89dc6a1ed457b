"""The `lab monitor` commands: evaluate the alert rules, deliver what was raised or cleared, and score a sample of answers."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from lab import summary_file
from lab.errors import LabError

if TYPE_CHECKING:
    from lab.ops.alerts import Round, Rules
    from lab.ops.monitor import Summary

app = typer.Typer(help="Is the service still as good as before? Alerts from a file of rules, and scores of a sample.")
out = Console(highlight=False)

Json = Annotated[Path | None, typer.Option("--json", help="also write the summary to this file", metavar="FILE")]


@app.callback(invoke_without_command=True)
def monitor(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="look once and end")] = False,
    every_s: Annotated[float, typer.Option("--every-s", help="seconds from look to look", min=1)] = 15.0,
    window_s: Annotated[float, typer.Option("--window-s", help="seconds that the summary is of", min=1)] = 3600.0,
    rules: Annotated[str, typer.Option(help="file of alert rules; LAB_ALERT_RULES or the shipped one without it", metavar="FILE")]
    = "",
    json_: Json = None,
) -> None:
    """Evaluate the rules on the request log and deliver alerts (log, webhook), with or without an open page.

    Runs until Ctrl-C or SIGTERM. With --once the exit code is 1 while an alert stands.
    """
    if context.invoked_subcommand is not None:
        return
    from lab.ops import alerts, requests

    summary_file.refuse(json_)
    found = alerts.load(rules) if rules else alerts.in_force()
    log, stopped = requests.Columns(), threading.Event()
    if not once:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        out.print(f"{len(found.rules)} rules of '{escape(found.name)}' version {found.version}, looked at every {every_s:g} s "
                  "(stop with Ctrl-C)", soft_wrap=True)
    first = True
    while True:
        seen, now, before = _look(found, log, window_s)
        if first or seen.news:
            _show(seen, now, before)
        summary_file.write(json_, _as_json(found, seen, now, before))
        if once:
            raise typer.Exit(1 if seen.state.open else 0)
        first = False
        if stopped.wait(every_s):
            return


@app.command()
def score(
    detector: Annotated[str, typer.Option(help="grounding, grounding_facts, contradiction (of the text that was kept), or "
                                               "consistency (asks again)")] = "grounding",
    sample: Annotated[int, typer.Option(help="answers scored at most, the latest that have no score yet", min=1)] = 50,
    url: Annotated[str, typer.Option(help="server that is asked again for consistency", metavar="URL")] = "",
    samples: Annotated[int, typer.Option(help="other answers drawn for consistency", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="seed of the sample")] = 0,
    json_: Json = None,
) -> None:
    """Score a sample of logged answers for hallucination. Needs texts: `lab gateway --texts guarded`."""
    from lab.ops import requests
    from lab.ops.monitor import scoring

    summary_file.refuse(json_)
    found = scoring.score(requests.folder(), detector=detector, sample=sample, url=url, samples=samples, seed=seed,
                          now_s=time.time())
    out.print(escape(found.sentence()), soft_wrap=True)
    summary_file.write(json_, dataclasses.asdict(found))


@app.command()
def shift(
    sample: Annotated[int, typer.Option(help="answers compared at most, of those that were not compared yet", min=2)] = 200,
    reference: Annotated[int, typer.Option(help="answers of the reference when it is made", min=50)] = 400,
    renew: Annotated[bool, typer.Option("--renew", help="make the reference anew, of the latest answers")] = False,
    kind: Annotated[str, typer.Option(help="energy or mmd", metavar="TEXT")] = "energy",
    seed: Annotated[int, typer.Option(help="seed of the sample and of the permutations")] = 0,
    json_: Json = None,
) -> None:
    """Have answers moved in meaning? Embeddings of a sample against a reference. Needs texts: `lab gateway --texts guarded`."""
    from lab.ops import requests
    from lab.ops.monitor import shift as shifting

    summary_file.refuse(json_)
    if kind not in ("energy", "mmd"):
        raise LabError(f"The distance is energy or mmd, not '{kind}'.")
    found = shifting.shift(requests.folder(), sample=sample, reference=reference, renew=renew, seed=seed, now_s=time.time(),
                           kind="energy" if kind == "energy" else "mmd")
    out.print(escape(found.sentence()), soft_wrap=True)
    summary_file.write(json_, {
        "embedder": found.embedder, "reference": len(found.reference.vectors), "made": found.made, "moved": found.moved,
        "mean": dataclasses.asdict(found.mean), "usual": found.usual, "waiting": found.waiting,
        "test": None if found.test is None else {"kind": found.kind, **dataclasses.asdict(found.test)}})


def _look(rules: Rules, log: Any, window_s: float) -> tuple[Round, Summary, Summary]:
    from lab.ops import alerts, monitor, requests

    now_s = time.time()
    rows = log.frame(now_s - max(rules.needs_s, 2 * window_s))
    seen = alerts.watch(rules, lambda _: rows, requests.folder(), now_s=now_s)
    return (seen, *monitor.beside(rows, now_s=now_s, window_s=window_s))


def _show(seen: Round, now: Summary, before: Summary) -> None:
    from lab.ops.alerts import delivering

    if not now.requests and not before.requests:
        out.print("No request in this window. The log is written by the gateway:  lab gateway", soft_wrap=True)
    ttft = now.latency("ttft_s")
    out.print(f"{now.requests:,} requests ({before.requests:,} in the window before), {now.failures:,} failed, TTFT p50 "
              f"{_ms(ttft.p50)}, p99 {_ms(ttft.p99)}, cost {_usd(now.cost_usd)}", soft_wrap=True)
    for alert in seen.news:
        out.print(escape(delivering.line(alert, seen.state.evaluated_s)), soft_wrap=True,
                  style="green" if alert.state == "cleared" else "red" if alert.severity == "critical" else "yellow")
    for alert in (one for one in seen.state.open if one.rule not in {n.rule for n in seen.news}):
        out.print(escape(delivering.line(alert, seen.state.evaluated_s)), soft_wrap=True, style="dim")
    if not seen.state.open:
        out.print("No alert stands.")
    for action, trouble in seen.state.troubles.items():
        out.print(f"[yellow]Caution[/]  {action}: {escape(trouble)}", soft_wrap=True)


def _as_json(rules: Rules, seen: Round, now: Summary, before: Summary) -> dict[str, Any]:
    from lab.ops import monitor

    return {"rules": {"name": rules.name, "version": rules.version, "sha256": rules.sha256},
            "alerts": [dataclasses.asdict(alert) for alert in seen.state.open],
            "news": [dataclasses.asdict(alert) for alert in seen.news], "troubles": dict(seen.state.troubles),
            "drift": [dataclasses.asdict(one) for one in monitor.drifts(rules, seen.findings)],
            "now": dataclasses.asdict(now), "before": dataclasses.asdict(before)}


def _ms(seconds: float) -> str:
    return "not measured" if seconds != seconds else f"{seconds * 1e3:,.0f} ms"


def _usd(cost: float) -> str:
    return "not known" if cost != cost else f"{cost:,.4g} USD"



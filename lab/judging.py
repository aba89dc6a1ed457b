"""The command `lab judge`: a judge grades answers that were recorded, and says how far it may be trusted."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lab import summary_file
from lab.errors import LabError

if TYPE_CHECKING:
    from lab.ops.judged import Judged

out = Console(highlight=False)


def judge(
    runs: Annotated[list[str], typer.Argument(help="run or trial whose answers are judged; the beginning of its id is enough",
                                              metavar="RUN...")],
    judge: Annotated[str, typer.Option(help="model, server URL (#MODEL), anthropic:MODEL, vllm:MODEL, scripted:KIND, "
                                            "jury:ONE+OTHER", metavar="NAME")] = "smollm2-135m",
    axes: Annotated[str, typer.Option(help="axes of the rubric, with commas between; empty: the five of quality")] = "",
    items: Annotated[int, typer.Option(help="items that are drawn, the same of every trial; 0 is all", min=0)] = 40,
    pairs: Annotated[bool, typer.Option("--pairs", help="also prefer between every two trials in both orders, and rank")] = False,
    by: Annotated[str, typer.Option(help="likelihood, answer, or auto: the former where probabilities are shown")] = "auto",
    guided: Annotated[bool, typer.Option(help="show the judge the right answers, where they are known")] = True,
    threads: Annotated[int, typer.Option(help="threads of a judge in this process; 0 is all physical cores", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="seed of the choice of items")] = 0,
    ray: Annotated[str, typer.Option(help="Ray cluster whose machines share the items out: HOST:PORT or auto",
                                     metavar="ADDRESS")] = "",
    json_: Annotated[Path | None, typer.Option("--json", help="also write the summary to this file", metavar="FILE")] = None,
) -> None:
    """Have a judge grade recorded answers; kept as feedback that the page Rate shows beside people's."""
    from lab.metrics import judge as judges
    from lab.metrics.judging import rubric
    from lab.ops import judged

    summary_file.refuse(json_)
    wanted = [axis.strip() for axis in axes.split(",") if axis.strip()] or list(rubric.FIVE)
    rubric.find(wanted)
    judges.refuse(judge)
    answers = judged.answers_of(runs)
    settings: dict[str, Any] = {"axes": wanted, "by": "answer" if judge.startswith("scripted:") else _by(by), "guided": guided,
                                "threads": threads, "seed": seed}
    with ExitStack() as after:
        machines = 1
        if ray:
            from lab.sweep.on_ray import Cluster
            from lab.sweep.spread import Spread

            cluster = Cluster(ray)
            after.callback(cluster.close)
            asked: judges.Judge = Spread(cluster, judge, **settings)
            machines = cluster.slots()
        else:
            asked = judges.open_judge(judge, **settings)
        after.callback(asked.close)
        found = judged.judge_answers(asked, answers, items=items, seed=seed, pairs=pairs, together=machines * judged.TOGETHER)
    _print(found)
    summary_file.write(json_, judged.as_json(found))
    if found.interrupted:
        raise typer.Exit(130)


def _by(given: str) -> Literal["auto", "likelihood", "answer"]:
    if given not in ("auto", "likelihood", "answer"):
        raise LabError(f"--by is auto, likelihood or answer, not '{given}'.")
    return given  # type: ignore[return-value]


def _print(found: Judged) -> None:
    guided = sum(bool(one.item(item).references) for one in found.answers for item in found.items if item in one.generations)
    out.print(f"{escape(found.judge)} on {len(found.scores)} recorded answers to {len(found.items)} items; "
              f"right answers are known of {guided}.", soft_wrap=True)
    table = Table("Model", "Axis", "Mean grade (1 to 5), 95% interval", "Answers", "Unscored")
    for mean in found.means():
        grade = mean.grade
        said = "–" if grade.value != grade.value else f"{grade.value:.2f}"
        said += "" if grade.low != grade.low else f" ({grade.low:.2f} to {grade.high:.2f})"
        table.add_row(escape(mean.model), mean.axis, said, str(mean.items), str(mean.unscored))
    out.print(table)
    if found.games:
        _ranking(found)
    for line in found.trust:
        out.print(f"[bold]Trust[/]  {escape(line)}", soft_wrap=True)
    if found.interrupted:
        out.print(f"Interrupted: {len(found.scores)} answers were judged and kept; the same command goes on.")


def _ranking(found: Judged) -> None:
    try:
        ranked = found.ranking()
    except LabError as error:
        out.print(escape(str(error)), soft_wrap=True)
        return
    table = Table("Model", "Strength (log-odds), 95% interval", "Wins", "Comparisons")
    for one in ranked:
        table.add_row(escape(one.name), f"{one.strength:.2f} ({one.low:.2f} to {one.high:.2f})", f"{one.wins:g}", str(one.games))
    out.print(table)
    flips = found.flip_share()
    if flips.value == flips.value:
        out.print(f"Its verdict changed with the order in {flips.value:.0%} ({flips.low:.0%} to {flips.high:.0%}) of the pairs; "
                  "those count as ties.", soft_wrap=True)

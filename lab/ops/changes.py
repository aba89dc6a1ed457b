"""What the newest run of an experiment says against the run before it of the same configuration: a regression, or none shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lab.ops import compare
from lab.ops.compare import Row

MOST_TRIALS = 2
"""So many trials of a pair of runs are tested: the one that was chosen first, then in their order."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Two runs of one experiment with the same settings, and by trial the tested differences, newer minus older."""

    experiment: str
    newer: str
    older: str
    rows: Mapping[str, tuple[Row, ...]]
    other_machine: bool = False

    def measures(self, outcome: str) -> list[str]:
        """The measures that came out so in any trial."""
        return list(dict.fromkeys(row.measure for rows in self.rows.values() for row in rows if row.outcome == outcome))


def pairs(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """(newer, older) of every experiment whose newest finished run repeats an earlier one, newest first. `runs`: newest first."""
    out = []
    finished = runs[runs["state"] == "finished"] if len(runs) else runs
    for _, of in finished.groupby("experiment", sort=False):
        first = of.iloc[0]
        older = next((run for _, run in of.iloc[1:].iterrows() if _same(first, run)), None)
        if older is not None:
            out.append((str(first["run_id"]), str(older["run_id"])))
    return out


def changes(
    runs: pd.DataFrame, trials: pd.DataFrame, wanted: Sequence[tuple[str, str]], chosen: Mapping[str, str]
) -> list[Change]:
    """The tested differences of these pairs of runs. `chosen` is the name of the trial that a run's verdict chose."""
    by_run = runs.set_index("run_id")
    out = []
    for newer, older in wanted:
        new, old = (trials[trials["parent_id"] == run] for run in (newer, older))
        shared = [name for name in new["name"] if name in set(old["name"])]
        shared.sort(key=lambda name: name != chosen.get(newer))
        rows = {}
        for name in list(dict.fromkeys(shared))[:MOST_TRIALS]:
            ids = [str(side.loc[side["name"] == name, "run_id"].iloc[0]) for side in (old, new)]
            rows[name] = tuple(row for row in compare.differences(trials, *ids) if row.outcome != "not tested")
        out.append(Change(experiment=str(by_run.loc[newer, "experiment"]), newer=newer, older=older, rows=rows,
                          other_machine=_machine(by_run.loc[newer]) != _machine(by_run.loc[older])))
    return out


def _same(one: pd.Series[Any], other: pd.Series[Any]) -> bool:
    """Every setting alike, the seed among them: another one draws other questions, and a change may be the draw's."""
    names = [str(c) for c in one.index if str(c).startswith("params.")]
    return all(_equal(one[name], other[name]) for name in names)


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other) or (one != one and other != other) or (one is None and other is None)


def _machine(run: pd.Series[Any]) -> tuple[str, ...]:
    return tuple(str(run.get(f"tags.machine.{name}", "")) for name in ("cpu", "gpus", "memory_bytes"))

"""What people said in a task, taken out of it: a table with a row for every rating, scores, and a ranking."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from lab.errors import LabError
from lab.metrics.judging import rubric
from lab.ops.ratings import rating
from lab.ops.ratings.task import PREFERENCE, Task, load
from lab.records import Score
from lab.stats.ranking import Ranked, bradley_terry

COLUMNS = ("task", "unit", "item", "run_id", "model", "other_run_id", "other_model", "control", "rater", "axis", "value", "why",
           "note", "seconds", "shown_first", "saved_at")
WON = {rating.FIRST: 1.0, rating.TIE: 0.5, rating.SECOND: 0.0}


def export(task: Task | str, path: str | Path | None = None) -> pd.DataFrame:
    """A row for every rating, columns `COLUMNS`, in the order of the items; with `path` also as CSV or Parquet (its ending).

    `value` is the grade (1 to 5), or 1, 0.5, 0 when the first model won, tied or lost; NaN is "cannot tell" and `why` the
    reason. Models are named here: a file for raters it is not.
    """
    of = load(task) if isinstance(task, str) else task
    units = {rating.about(of, unit): unit for unit in of.units}
    rows = []
    for one in rating.given(of):
        unit = units[one.about]
        other = unit.sides[1] if len(unit.sides) > 1 else None
        rows.append({
            "task": of.id, "unit": unit.key, "item": unit.item, "run_id": unit.sides[0].run_id, "model": unit.sides[0].model,
            "other_run_id": other.run_id if other else "", "other_model": other.model if other else "", "control": unit.control,
            "rater": one.by, "axis": one.name, "value": _number(one.value), "why": one.why if one.value is None else "",
            "note": one.details.get("lab.note", ""), "seconds": float(one.details.get("lab.seconds", "nan")),
            "shown_first": one.details.get("lab.shown_first", ""), "saved_at": one.at_ms})
    made = pd.DataFrame(rows, columns=list(COLUMNS))
    made["saved_at"] = pd.to_datetime(made["saved_at"], unit="ms", utc=True)
    made = made.sort_values(["unit", "rater", "axis"], kind="stable", ignore_index=True)
    if path is not None:
        _write(made, Path(path))
    return made


def scores(task: Task | str, run_id: str | None = None) -> list[Score]:
    """People's ratings as scores, `by` "person:NAME": those of one trial with its own item ids, or of all as model/item.

    Grades are brought to 0 to 1 as a judge's are. A preference is that for the trial (without one, for the first model): 1,
    0.5 or 0. Control items are left out.
    """
    of = load(task) if isinstance(task, str) else task
    table = export(of)
    made = []
    for row in table[~table["control"].astype(bool)].to_dict("records"):
        mirrored = run_id is not None and row["other_run_id"] == run_id
        if run_id not in (None, row["run_id"], row["other_run_id"]):
            continue
        value = row["value"] if of.kind == "pairs" else rubric.score(row["value"])
        models = f"{row['model']} or {row['other_model']}" if of.kind == "pairs" else row["model"]
        made.append(Score(name=row["axis"], item=row["item"] if run_id is not None else f"{models}/{row['item']}",
                          value=1 - value if mirrored else value, by=f"person:{row['rater']}", why=row["why"] or row["note"]))
    return made


def rankings(task: Task | str) -> list[Ranked]:
    """The models of a side-by-side task by strength; intervals take the verdicts on one item as one.

    Pairs with the same text on both sides count as a tie for every rater who rated anything. Raises `LabError` when there
    are no comparisons, or when they do not join all models.
    """
    of = load(task) if isinstance(task, str) else task
    if of.kind != "pairs":
        raise LabError("Only answers rated side by side give a ranking; grades on axes have means.")
    table = export(of)
    asked = table[~table["control"].astype(bool) & table["value"].notna()]
    games = [(str(r["model"]), str(r["other_model"]), float(r["value"]), str(r["item"])) for r in asked.to_dict("records")]
    games += [(a, b, 0.5, item) for _ in range(asked["rater"].nunique()) for item, a, b in of.identical]
    if not games:
        raise LabError("Nobody has compared anything in this task yet.")
    return bradley_terry([(a, b, result) for a, b, result, _ in games], clusters=[item for *_, item in games])


def _number(value: rating.Value) -> float:
    return math.nan if value is None else WON[value] if isinstance(value, str) else float(value)


def _write(table: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        raise LabError(f"Ratings are written as .csv or .parquet, not as {path.name}.")


__all__ = ["COLUMNS", "PREFERENCE", "WON", "export", "rankings", "scores"]

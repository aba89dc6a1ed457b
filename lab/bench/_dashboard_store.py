"""A store of many runs for timing the dashboard: real runs of the scripted engine, copied by SQL with ids of their own."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from lab import experiments
from lab.errors import LabError
from lab.ops import store, tracking

KEYED = ("params", "metrics", "latest_metrics", "tags")
RECORDED = ("performance", "quality", "batching")
REPEATS = 2


def filled(runs: int) -> int:
    """Fill the store in force, which is empty, with `runs` runs and trials or some more; returns how many. 0 leaves it empty."""
    if runs < 0:
        raise LabError("--runs is 0 or more.")
    tracking.writer()
    if runs == 0:
        return 0
    for name in RECORDED if runs > 1 else RECORDED[:1]:
        for _ in range(REPEATS if runs > 1 else 1):
            tracking.record(_short(name))
            if runs <= 1:
                break
    database = store.database()
    if database is None:
        raise LabError("The dashboard is timed on a local store; unset MLFLOW_TRACKING_URI.")
    return multiplied(database, runs)


def _short(name: str) -> Any:
    """The experiment's own demonstration on the scripted engine."""
    cls = experiments.find(name)
    return cls.demo(engine="scripted") if "demo" in vars(cls) else cls(engine="scripted")  # type: ignore[attr-defined,call-arg]


def multiplied(database: Path, runs: int) -> int:
    """Copy all runs of a store until it holds at least `runs`; returns how many it holds then."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        there = connection.execute("select count(*) from runs").fetchone()[0]
        for table in ("runs", *KEYED):
            connection.execute(f"create temp table kept_{table} as select * from {table}")
        for i in range(1, -(-runs // there)):
            new = f"'{i:08x}' || substr(run_uuid, 9)"
            for table in ("runs", *KEYED):
                columns = [row[1] for row in connection.execute(f"pragma table_info({table})")]
                chosen = [new if c == "run_uuid" else c for c in columns]
                if table == "tags":
                    parent = f"case key when 'mlflow.parentRunId' then '{i:08x}' || substr(value, 9) else value end"
                    chosen = [parent if c == "value" else x for c, x in zip(columns, chosen, strict=True)]
                connection.execute(f"insert into {table} ({','.join(columns)}) select {','.join(chosen)} from kept_{table}")
        connection.commit()
        return int(connection.execute("select count(*) from runs").fetchone()[0])

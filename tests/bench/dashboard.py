"""Times the dashboard's pages on a store of 10,000 runs: first script run and rerun, without a browser.

The store is the sample store of the tests with its runs copied by SQL (own ids, own parents) until there are enough.
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import sample_store
from streamlit.testing.v1 import AppTest

from lab.ops import history, store

ROOT = Path(__file__).resolve().parents[2]
RUNS = 10_000
KEYED = ("params", "metrics", "latest_metrics", "tags")


def multiply(database: Path, runs: int) -> int:
    """Copy all runs of the store until it holds at least `runs`; returns how many it holds."""
    connection = sqlite3.connect(database)
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
    count: int = connection.execute("select count(*) from runs").fetchone()[0]
    connection.close()
    return count


def main() -> None:
    with sample_store.at(sample_store.home()):
        database = store.database()
        assert database is not None
        print(f"{multiply(database, RUNS):,} runs; limits: first run 3 s, rerun 0.3 s")
        newest = history.frame("experiment", experiment="quantization", limit=1).iloc[0]["run_id"]
        for page, query in (("overview", {}), ("compare", {"experiment": "quantization", "run": newest})):
            started = time.perf_counter()
            test = AppTest.from_file(str(ROOT / "lab" / "pages" / f"{page}.py"), default_timeout=120)
            for key, value in query.items():
                test.query_params[key] = value
            test.run()
            first, again = time.perf_counter() - started, []
            for _ in range(5):
                started = time.perf_counter()
                test.run()
                again.append(time.perf_counter() - started)
            assert not test.exception, test.exception
            print(f"{page:10} first run {first:.2f} s, rerun {statistics.median(again):.3f} s (median of 5)")


if __name__ == "__main__":
    main()

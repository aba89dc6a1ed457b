"""How long it takes to read what monitoring needs from a log of a million requests, written as a gateway writes it."""

from __future__ import annotations

import math
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from lab.ops import cost, requests, slo
from lab.ops.requests import sealing
from lab.ops.requests.hot import Hot
from lab.ops.requests_schema import LogRecord, checked

COLUMNS = ("time_s", "release", "status", "error_kind", "finish_reason", "ttft_s", "e2e_s", "cost_usd")
"""What figures and budgets are made of."""
GOAL_S = 1.0


def reading(rows: int, seed: int, *, rounds: int = 5) -> dict[str, Any]:
    """Write `rows` through the log's own writer, then read columns of all of them, and of the last hour."""
    with tempfile.TemporaryDirectory(prefix="lab-bench-log-") as folder:
        place = Path(folder)
        began = time.perf_counter()
        _written(place, rows, seed)
        wrote_s = time.perf_counter() - began
        end_s = _time(rows, rows)
        unsealed_s = _timed(place, -math.inf)
        hot = Hot(place)
        sealing.kept_up(hot, place, sealing.Keep(), end_s)  # as a gateway does every second; a burst is faster
        hot.close()
        read = [_timed(place, -math.inf) for _ in range(rounds)]
        with_ids = [_timed(place, -math.inf, "request_id") for _ in range(rounds)]
        hour = [_timed(place, end_s - 3600) for _ in range(rounds)]
        log = checked(requests.frame(columns=(*COLUMNS, "request_id"), place=place))
        began = time.perf_counter()
        slo.budget(slo.Slo(name="availability", objective=0.999), log, now_s=end_s)
        budget_s = time.perf_counter() - began
        size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        assert len(log) == rows
    made = {"rows": rows, "write_s": wrote_s, "read_s": statistics.median(read), "read_most_s": max(read),
            "with_ids_s": statistics.median(with_ids), "unsealed_s": unsealed_s, "hour_s": statistics.median(hour),
            "budget_s": budget_s, "bytes": size}
    print(f"Log of {rows:,} requests ({size / 1e6:.0f} MB, written in {wrote_s:.0f} s): {len(COLUMNS)} columns of all read in "
          f"{made['read_s']:.2f} s (at most {made['read_most_s']:.2f}; with all ids {made['with_ids_s']:.2f}; before a burst is "
          f"sealed {unsealed_s:.2f}), of the last hour in {made['hour_s'] * 1e3:.0f} ms, an error budget in {budget_s:.2f} s; "
          f"below {GOAL_S:g} s: {'yes' if made['read_s'] < GOAL_S else 'NO'}", flush=True)
    return made


def _timed(place: Path, since_s: float, *more: str) -> float:
    began = time.perf_counter()
    requests.frame(since_s, columns=(*COLUMNS, *more), place=place)
    return time.perf_counter() - began


def _time(i: int, rows: int) -> float:
    """Two weeks of requests up to a fixed time."""
    return 1.79e9 + i * 14 * 86_400 / rows


def _written(place: Path, rows: int, seed: int) -> None:
    rng, book = random.Random(seed), cost.load()
    acknowledged = 0

    def count(tokens: Any, safe: bool) -> None:
        nonlocal acknowledged
        acknowledged += len(tokens) * safe

    log = requests.RequestLog(place, acknowledge=count, clock=lambda: _time(rows, rows))
    model = next(iter(book.prices))
    for i in range(rows):
        bad, ttft_s = rng.random() < 0.002, rng.lognormvariate(-1.5, 0.5)
        log.add(LogRecord(time_s=_time(i, rows), request_id=f"request-{i}", release=f"release {1 + i // (rows // 3 + 1)}",
                          model=model, user_hash=f"user-{rng.randrange(500)}", status=500 if bad else 200,
                          error_kind="engine" if bad else "", ttft_s=ttft_s, e2e_s=ttft_s + rng.random(), prompt_tokens=200.0,
                          output_tokens=50.0,
                          cost_usd=rng.random() / 1e4, finish_reason="error" if bad else "stop"), token=i)
        while i - acknowledged > 20_000:  # as many as may wait in a gateway
            time.sleep(0.01)
    log.close()

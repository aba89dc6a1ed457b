"""What the page Monitor computes for one look at a long request log: in a fresh process, and again while requests come in."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.ops import alerts, monitor, requests, slo
from lab.ops.monitor import simulated
from lab.ops.monitor.simulated import Fault
from lab.ops.requests.hot import Hot
from lab.ops.requests.record import row
from lab.ops.requests_schema import LogRecord

LIMIT_S = 1.0
DAYS = 7.0
LOOKS = 5


def page(rows: int, seed: int) -> dict[str, Any]:
    """Seconds of every part of a look at `rows` requests of a week, with the whole week as window and before it nothing."""
    with tempfile.TemporaryDirectory() as folder:
        place, now = Path(folder) / "log", time.time()
        made = simulated.traffic(until_s=now, hours=24 * DAYS, per_minute=rows / (60 * 24 * DAYS), seed=seed,
                                 faults=[Fault(kind="errors", ago_s=1800, size=0.05)])
        simulated.written(made, place)
        import pyarrow.parquet  # noqa: F401  libraries that the dashboard has loaded already

        log, rules = requests.Columns(place), alerts.load()
        first = _look(log, rules, now)
        hot = Hot(place)
        later = []
        for look in range(LOOKS):
            new = (LogRecord(time_s=now + look, request_id=f"new-{look}-{i}", release="release 2") for i in range(100))
            hot.append([row(one, "") for one in new])
            later.append(_look(log, rules, now + look + 1))
        hot.close()
    parts = {name: {"first_s": first[name], "again_s": sorted(one[name] for one in later)[LOOKS // 2]} for name in first}
    shown = [name for name in parts if name != "alerts"]
    made_: dict[str, Any] = {"rows": len(made), "parts": parts, "first_s": sum(parts[n]["first_s"] for n in shown),
             "again_s": sum(parts[n]["again_s"] for n in shown), "limit_s": LIMIT_S}
    for name, part in parts.items():
        print(f"Page, {len(made):,} requests, {name:<8} first {part['first_s']:.2f} s, again {part['again_s']:.2f} s", flush=True)
    for name, value in (("first look", float(made_["first_s"])), ("again", float(made_["again_s"]))):
        reached = "yes" if value < LIMIT_S else "NO"
        print(f"Page, {name}: {value:.2f} s without the rules; below {LIMIT_S:g} s: {reached}", flush=True)
    return made_


def _look(log: requests.Columns, rules: alerts.Rules, now_s: float) -> dict[str, float]:
    week = DAYS * 86_400
    took: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        made = call()
        took[name] = time.perf_counter() - began
        return made

    rows = timed("read", lambda: log.frame(now_s - rules.needs_s))
    timed("summary", lambda: monitor.beside(rows, now_s=now_s, window_s=week))
    timed("series", lambda: (monitor.series(rows, since_s=now_s - week, until_s=now_s, buckets=84),
                             monitor.errors(rows, since_s=now_s - week, until_s=now_s, buckets=84)))
    timed("budgets", lambda: [slo.budget(one, rows, now_s=now_s) for one in rules.objectives])
    timed("alerts", lambda: alerts.evaluate(rules, rows, now_s=now_s))
    return took

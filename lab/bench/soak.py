"""Holds a server at the knee for minutes: does it lose a request, and does its memory grow?

`lab serve` is started on the model, a short closed loop gives its capacity, and Poisson arrivals at a share of that go on
for the time given, in pieces of a minute (each an absolute schedule of its own). Memory is the resident set of the server
process, read every second; its slope is Theil and Sen's median of pairwise slopes over the second half, when the caches that
grow by design (prefix cells, pieces of text) have filled.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import psutil
from scipy.stats import theilslopes

from lab import engines, machine, models
from lab.engines.http.child import Child
from lab.engines.http.served import ServeSettings
from lab.errors import LabError
from lab.experiments._workload import mixture
from lab.load import arrivals
from lab.load.services import OverHttp
from lab.metrics import speed

LEAK_MB_PER_HOUR = 20.0
"""A slope above this, with its whole interval, is called a leak."""


def main(
    model: str = models.DEFAULT, *, minutes: float = 10.0, share: float = 0.9, max_running: int = 16, threads: int = 0,
) -> dict[str, Any]:
    """Soak, print a line a minute, and return the figures. Raises `LabError` when the server dies."""
    if minutes <= 0 or not 0 < share <= 1:
        raise LabError("--minutes is above 0 and --share above 0 and at most 1.")
    child = Child(model, ServeSettings(max_running=max_running, threads=threads, context_tokens=512 * max_running,
                                       queue=10_000))
    try:
        engine: Any = engines.open_engine("server", f"http://127.0.0.1:{child.port}/v1")
        service = OverHttp(endpoint=engine.endpoint)
        work, _ = mixture(engine, requests=64, prompt_tokens=96, output_tokens=96, questions="everyday", seed=0)
        first = service.serve(work, users=max_running, title="capacity")
        capacity = len(first.generations) / first.seconds
        rate = share * capacity
        print(f"capacity {capacity:.2f} requests/s with {max_running} users; soaking at {rate:.2f}/s", flush=True)
        with _Memory(child.pid) as memory, machine.Watch() as watch:
            rows = _soak(engine, service, rate, minutes)
    finally:
        child.close()
    slope = memory.slope_mb_per_hour()
    lost = sum(row["lost"] for row in rows)
    print(f"{sum(row['sent'] for row in rows)} requests, {lost} lost; memory {memory.mb[0]:.0f} to {memory.mb[-1]:.0f} MB, "
          f"slope {slope[0]:+.1f} MB/h ({slope[1]:+.1f} to {slope[2]:+.1f}) over the second half")
    print(f"no request lost: {'yes' if not lost else 'NO'}; no leak: {'yes' if slope[1] <= LEAK_MB_PER_HOUR else 'NO'}")
    flags = watch.result.flags()
    print(*(f"Caution: {flag}." for flag in flags), sep="\n", end="")
    return {"model": models.find(model).name, "rate_requests_per_s": rate, "minutes": rows, "lost_requests": lost,
            "memory_mb_per_hour": {"value": slope[0], "low": slope[1], "high": slope[2]}, "memory_mb": memory.mb,
            "flags": list(flags)}


def _soak(engine: Any, service: OverHttp, rate: float, minutes: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    began, piece = time.perf_counter(), 0
    while (left := minutes * 60 - (time.perf_counter() - began)) > 1:
        count = max(2, round(rate * min(60.0, left)))
        work, _ = mixture(engine, requests=count, prompt_tokens=96, output_tokens=96, questions="everyday", seed=piece + 1)
        times = arrivals.schedule("poisson", count=count, rate=rate, seed=piece)
        seen = service.serve(work, times=times, limit_s=600, title=f"minute {piece + 1}")
        done = [g for g in seen.generations if g.finish_reason in ("stop", "length") and g.error is None]
        ttft = [speed.ttft_s(g, since="scheduled") for g in done]
        rows.append({"sent": count, "lost": count - len(done), "ttft_p50_s": float(np.nanpercentile(ttft, 50)),
                     "ttft_p99_s": float(np.nanpercentile(ttft, 99)), "problems": list(seen.flags)})
        print(f"minute {piece + 1}: {count} sent, {count - len(done)} lost, TTFT p50 {rows[-1]['ttft_p50_s'] * 1e3:.0f} ms, "
              f"p99 {rows[-1]['ttft_p99_s'] * 1e3:.0f} ms", flush=True)
        piece += 1
    return rows


class _Memory:
    """Reads the resident set of a process every second while its block runs."""

    def __init__(self, pid: int) -> None:
        self._process, self._stop = psutil.Process(pid), threading.Event()
        self.at_s: list[float] = []
        self.mb: list[float] = []

    def __enter__(self) -> _Memory:
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                self.mb.append(self._process.memory_info().rss / 1e6)
            except psutil.NoSuchProcess:
                return
            self.at_s.append(time.perf_counter())
            self._stop.wait(1.0)

    def slope_mb_per_hour(self) -> tuple[float, float, float]:
        """Theil-Sen slope of the second half with its 95% interval."""
        half = len(self.mb) // 2
        slope, _, low, high = theilslopes(self.mb[half:], self.at_s[half:])
        return float(slope) * 3600, float(low) * 3600, float(high) * 3600

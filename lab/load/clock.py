"""From the kernel's clock, which stamps packets, to the monotonic clock, which everything else is read on.

On Linux `time.perf_counter` is CLOCK_MONOTONIC in every process, so readings of two processes compare; the kernel
stamps packets with CLOCK_REALTIME. Both run at one speed, and their distance changes only when somebody sets the clock.
"""

from __future__ import annotations

import time

BASE_S = int(time.time())
"""Kernel stamps are kept relative to this second, so that a float holds them to the nanosecond."""


def shift_s(tries: int = 40) -> float:
    """What to add to (kernel stamp - `BASE_S`) to get a reading of `time.perf_counter`, from the tightest of `tries`."""
    readings = []
    for _ in range(tries):
        before, real, after = time.perf_counter_ns(), time.time_ns(), time.perf_counter_ns()
        readings.append((after - before, (before + after) // 2 - (real - BASE_S * 1_000_000_000)))
    return min(readings)[1] / 1e9

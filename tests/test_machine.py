"""What the machine's description and the watch around a trial promise."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import machine
from lab.errors import LabError

MB = 1 << 20


def burn(seconds: float) -> None:
    """Use a core for `seconds` of CPU time, however long that takes on a busy machine."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


SPIN = "import time\nend = time.perf_counter() + 30\nprint(flush=True)\nwhile time.perf_counter() < end: pass"


def test_a_watch_counts_the_cpu_time_of_all_own_threads_and_of_children() -> None:
    with machine.Watch() as watch:
        burn(0.1)
        subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"], check=True)
    seen = watch.result
    assert 0.1 <= seen.cpu_s <= seen.wall_s * (os.cpu_count() or 1)
    assert seen.children_cpu_s >= 0.19


def test_a_living_childs_cpu_time_is_not_foreign() -> None:
    with subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        busy = machine._busy_s()
        with machine.Watch() as watch:
            time.sleep(0.5)
        busy = machine._busy_s() - busy
        child.kill()
    seen = watch.result
    assert seen.children_cpu_s > 0.05
    foreign_s = seen.foreign_share * seen.wall_s * (os.cpu_count() or 1)
    assert foreign_s <= busy - seen.children_cpu_s + 0.03  # whatever else ran, the child is not in it


def test_another_process_that_keeps_a_core_busy_is_flagged() -> None:
    # The spinner's parent ends at once, so that it is nobody's child here, as a stranger's process would be.
    orphan = ("import subprocess as s, sys\n"
              f"print(s.Popen([sys.executable, '-c', {SPIN!r}], stdout=s.DEVNULL, stderr=s.DEVNULL).pid)")
    pid = int(subprocess.run([sys.executable, "-c", orphan], capture_output=True, check=True).stdout)
    try:
        with machine.Watch() as watch:
            time.sleep(0.6)
    finally:
        os.kill(pid, 9)
    share = 1 / (os.cpu_count() or 1)
    assert watch.result.foreign_share > 0.6 * share
    if 0.6 * share > machine.BUSY_SHARE:
        assert "other processes used" in watch.result.flags()[0]


def test_only_a_foreign_share_above_the_limit_is_flagged() -> None:
    with machine.Watch() as watch:
        pass
    for share, flagged in ((math.nan, False), (0.0, False), (0.10, False), (0.37, True)):
        flags = dataclasses.replace(watch.result, foreign_share=share).flags()
        assert bool(flags) == flagged
    assert flags == ("machine busy: other processes used 37% of the cores",)


def test_a_block_too_short_for_the_kernels_ticks_has_no_foreign_share() -> None:
    with machine.Watch() as watch:
        pass
    assert watch.result.wall_s < machine.SHORTEST_S
    assert math.isnan(watch.result.foreign_share)


def test_the_peak_is_that_of_the_block_and_not_of_what_ran_before() -> None:
    earlier = np.ones(120 * MB, dtype=np.uint8)
    del earlier
    with machine.Watch() as small:
        kept = np.ones(10 * MB, dtype=np.uint8)
    with machine.Watch() as large:
        freed = np.ones(80 * MB, dtype=np.uint8)
        del freed
    del kept
    if not small.result.peak_source.startswith("VmHWM"):
        pytest.skip("this system cannot reset the peak: " + small.result.peak_source)
    grew = [w.result.peak_rss_bytes - w.result.rss_start_bytes for w in (small, large)]
    assert 8 * MB < grew[0] < 40 * MB
    assert 70 * MB < grew[1] < 110 * MB


def test_a_watch_within_a_watch_does_not_hide_its_peak() -> None:
    with machine.Watch() as outer:
        freed = np.ones(90 * MB, dtype=np.uint8)
        del freed
        with machine.Watch() as inner:
            pass
    assert outer.result.peak_rss_bytes > outer.result.rss_start_bytes + 80 * MB
    assert inner.result.peak_rss_bytes <= outer.result.peak_rss_bytes
    assert machine._open == []


def test_a_watch_has_no_result_inside_its_block_and_has_one_after_an_error() -> None:
    watch = machine.Watch()
    with pytest.raises(ZeroDivisionError), watch:
        with pytest.raises(LabError, match="leave the `with`"):
            _ = watch.result
        _ = 1 / 0
    assert watch.result.wall_s > 0


def test_the_default_is_a_thread_for_each_core_this_process_may_use() -> None:
    default = machine.threads_default()
    assert 1 <= default <= (os.cpu_count() or 1)
    if hasattr(os, "sched_setaffinity"):
        allowed = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {min(allowed)})
            assert machine.threads_default() == 1
        finally:
            os.sched_setaffinity(0, allowed)


def test_the_fingerprint_names_the_machine_in_texts_that_fit_a_tag() -> None:
    found = machine.fingerprint(bandwidth=False)
    assert found.cpu and found.memory_bytes > 0 and found.packages["numpy"] == np.__version__
    tags = found.as_tags()
    assert all(isinstance(text, str) and 0 < len(text) < 500 for text in tags.values())
    assert "machine.memory_bandwidth_bytes_per_s" not in tags  # not measured is absent, not 0
    assert any("not measured" in line for line in found.lines())


def test_the_bandwidth_is_a_memorys_and_is_measured_once() -> None:
    one = machine.fingerprint(1)
    assert 0.2e9 < one.memory_bandwidth_bytes_per_s < 300e9  # what one core can read lies between a phone's and beyond
    assert machine.fingerprint(1).memory_bandwidth_bytes_per_s == one.memory_bandwidth_bytes_per_s
    assert any("GB/s read by 1 thread" in line for line in one.lines())


def test_reading_from_cache_is_faster_so_the_kernels_wait_for_memory() -> None:
    from_memory, _ = machine.read_bandwidth_bytes_per_s(1)
    small = np.ones(128 << 10, dtype=np.uint8)

    def from_cache(kernel: Callable[[object], object]) -> float:
        best = math.inf
        for _ in range(2000):
            started = time.perf_counter()
            kernel(small)
            best = min(best, time.perf_counter() - started)
        return small.size / best

    assert max(map(from_cache, machine._KERNELS)) > 1.1 * from_memory


@given(st.integers(0, 4 << 30))
def test_what_is_read_is_far_larger_than_the_last_cache(cache_bytes: int) -> None:
    assert machine._buffer_bytes(cache_bytes) >= max(256 * MB, 3 * cache_bytes)


def test_no_threads_at_all_are_refused() -> None:
    with pytest.raises(LabError, match="1 or more"):
        machine.fingerprint(0)

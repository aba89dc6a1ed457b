"""What of this installation works and what would make its numbers worse, each finding with what to do about it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from lab import data, machine, models
from lab.errors import LabError
from lab.ops import history, store

State = Literal["good", "note", "problem"]
LEAST_FREE_BYTES = 2e9
SLOW_BYTES_PER_S = 5e9
"""Below this a model of 1 GB cannot decode 5 tokens/s: every token reads all weights once."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at. `remedy` is empty where nothing has to be done."""

    about: str
    state: State
    said: str
    remedy: str = ""


def findings(*, bandwidth: bool = True) -> Iterator[Finding]:
    """Everything that was looked at, one after another. A check that fails is a finding and ends nothing.

    `bandwidth` reads memory for about a second to measure how fast that is.
    """
    looks: dict[str, Callable[[], Iterator[Finding]]] = {
        "python": _python, "machine": lambda: _machine(bandwidth), "compiler": _compiler, "llama": _llama, "models": _models,
        "sets": _sets, "store": _store, "embeddings": _embeddings, "vllm": _vllm, "extras": _extras}
    for about, look in looks.items():
        try:
            yield from list(look())
        except LabError as error:
            yield Finding(about=about, state="problem", said=str(error))
        except Exception as error:  # whatever a broken installation raises is what this command is for
            yield Finding(about=about, state="problem", said=f"could not be looked at ({type(error).__name__}: {error})",
                          remedy="install again: make demo")


def _python() -> Iterator[Finding]:
    said = f"{sys.version.split()[0]} in {Path(sys.prefix).name}"
    new = sys.version_info >= (3, 11)
    yield Finding(about="python", state="good" if new else "problem", said=said,
                  remedy="" if new else "make an environment with Python 3.11 or newer")


def _machine(bandwidth: bool) -> Iterator[Finding]:
    this = machine.fingerprint(bandwidth=bandwidth)
    cores = this.physical_cores or this.logical_cores
    yield Finding(about="threads", state="good", said=f"{this.threads} threads on {cores} physical cores ({this.cpu})")
    limit = _cpu_limit()
    if limit and limit < this.threads:
        yield Finding(about="threads", state="problem",
                      said=f"this container may use {limit:g} cores and {this.threads} threads would run",
                      remedy=f"give --threads {max(1, int(limit))}: threads that wait for a core slow all others down")
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if busy > 0.5 * cores:
        yield Finding(about="load", state="note", said=f"{busy:.1f} processes want to run on {cores} cores",
                      remedy="wait until it is quiet before timing anything; trials on a busy machine are flagged")
    if bandwidth:
        rate = this.memory_bandwidth_bytes_per_s
        yield Finding(about="memory bandwidth", state="good" if rate > SLOW_BYTES_PER_S and not this.bandwidth_flags else "note",
                      said=f"{rate / 1e9:.1f} GB/s read{'; ' if this.bandwidth_flags else ''}{'; '.join(this.bandwidth_flags)}",
                      remedy="" if rate > SLOW_BYTES_PER_S else "expect slow decoding: each token reads all weights once")
    yield Finding(about="memory", state="good", said=f"{this.memory_bytes / 1e9:.1f} GB")
    yield Finding(about="gpu", state="good" if this.gpus else "note", said=", ".join(this.gpus) or "none",
                  remedy="" if this.gpus else "nothing to do; everything runs on the CPU")


def _cpu_limit() -> float | None:
    """Cores that a container may use (cgroup v2), None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _compiler() -> Iterator[Finding]:
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    yield Finding(about="compiler", state="good" if found else "note", said=Path(found).name if found else "no C++ compiler",
                  remedy="" if found else "needed only to install llama.cpp again (Debian: apt-get install g++)")


def _llama() -> Iterator[Finding]:
    if importlib.util.find_spec("llama_cpp") is None:
        yield Finding(about="llama.cpp", state="problem", said="llama-cpp-python is not installed",
                      remedy="run `make demo` with a C++ compiler; without one, `--engine scripted` shows the workbench")
        return
    from lab.engines import open_engine
    from lab.records import Decoding, Request

    engine = open_engine("llama_cpp", models.DEFAULT, context_tokens=256)
    try:
        request = Request(id="doctor", prompt="One, two, three,", decoding=Decoding(max_tokens=8))
        tokens = sum(len(chunk.tokens) for chunk in engine.stream(request))
    finally:
        engine.close()
    version = metadata.version("llama-cpp-python")
    yield Finding(about="llama.cpp", state="good" if tokens else "problem",
                  said=f"{version} {'answers' if tokens else 'says nothing'} on {models.DEFAULT} ({tokens} tokens)")


def _models() -> Iterator[Finding]:
    for entry in models.CATALOGUE.values():
        path = models.locate(entry)
        if path is not None or entry.name == models.DEFAULT:
            file = models.find(entry.name)  # raises where bytes are not those of the catalogue
            yield Finding(about=f"model {file.name}", state="good", said=f"{file.bytes / 1e6:,.0f} MB, sha256 {file.sha256[:12]}")


def _sets() -> Iterator[Finding]:
    known = list(data.catalogue().values())
    changed = [one.name for one in known if one.changed]
    here = sum(one.fetched for one in known)
    yield Finding(about="question sets", state="problem" if changed else "good", said=f"{here} of {len(known)} are here"
                  + (f"; changed: {', '.join(changed)}" if changed else ""),
                  remedy=f"run `lab data fetch {' '.join(changed)}`" if changed else "" if here == len(known) else
                  "`lab data fetch --all` brings the rest")


def _store() -> Iterator[Finding]:
    file = store.database()
    place = "a tracking server" if file is None else str(file)
    runs = history.frame("experiment")
    yield Finding(about="store", state="good", said=f"{place}: {len(runs)} runs")
    died = int((runs["state"] == "died").sum()) if len(runs) else 0
    if died:
        yield Finding(about="store", state="note", said=f"{died} runs ended without a word (their processes are gone)",
                      remedy="what they measured is kept and marked; look at them on the page Overview")
    folder = file.parent if file is not None else models.cache_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    yield Finding(about="disk", state="good" if free > LEAST_FREE_BYTES else "problem", said=f"{free / 1e9:.1f} GB free",
                  remedy="" if free > LEAST_FREE_BYTES else "free some: a full disk ends a run")
    if file is not None and not os.access(folder, os.W_OK):
        yield Finding(about="store", state="problem", said=f"{folder} cannot be written",
                      remedy="mend its permission, or set LAB_HOME")


def _embeddings() -> Iterator[Finding]:
    from lab.experiments import _quality_sets

    why = _quality_sets.left_out()
    yield Finding(about="embeddings", state="note" if why else "good",
                  said=why or "sentence-transformers with its packaged model")


def _vllm() -> Iterator[Finding]:
    from lab.engines.vllm_parts import environment

    found = environment.find()
    yield Finding(about="vllm", state="good" if found else "note", said=environment.described() if found else "not installed",
                  remedy="" if found else "`lab engines install vllm` makes an environment of its own, if you want to compare it")


def _extras() -> Iterator[Finding]:
    for module, about in (("jupyterlab", "jupyter"), ("kaleido", "pictures of figures")):
        there = importlib.util.find_spec(module) is not None
        yield Finding(about=about, state="good" if there else "note", said="installed" if there else "not installed",
                      remedy="" if there else "`make notebooks` installs it")

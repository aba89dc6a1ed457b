"""Whether the workbench itself is well: the store, the disk, the engines that are here, what is in production, alerts."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from lab import models
from lab.errors import LabError
from lab.ops import store

LEAST_FREE_BYTES = 2e9
SLOW_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the workbench and how it is; `remedy` says what to do, where something is to be done."""

    name: str
    state: Literal["good", "note", "problem"]
    said: str
    remedy: str = ""


def parts() -> list[Part]:
    """All parts, looked at in some milliseconds: nothing is opened, measured or asked over the network."""
    looks: dict[str, Callable[[], Iterator[Part]]] = {
        "Store": _store, "Disk": _disk, "Engines": _engines, "Production": _production, "Alerts": _alerts}
    out = []
    for name, look in looks.items():
        try:
            out += list(look())
        except (LabError, OSError) as error:
            out.append(Part(name=name, state="problem", said=str(error), remedy="`lab doctor` says more."))
    return out


def _store() -> Iterator[Part]:
    file = store.database()
    if file is None:
        yield Part(name="Store", state="good", said="a tracking server")
        return
    began = time.perf_counter()
    connection = store.connect()
    if connection is None:
        yield Part(name="Store", state="note", said="empty", remedy="`lab demo` fills it.")
        return
    with contextlib.closing(connection):
        runs = connection.execute("select count(*) from runs where lifecycle_stage = 'active'").fetchone()[0]
    took = time.perf_counter() - began
    said = f"{runs:,} runs and trials, {file.stat().st_size / 1e6:,.0f} MB"
    yield Part(name="Store", state="good" if took < SLOW_S else "note", said=said,
               remedy="" if took < SLOW_S else f"It took {took:.1f} s to count them; is the disk slow?")


def _disk() -> Iterator[Part]:
    file = store.database()
    folder = file.parent if file is not None else models.cache_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    enough = free > LEAST_FREE_BYTES
    yield Part(name="Disk", state="good" if enough else "problem", said=f"{free / 1e9:,.1f} GB free",
               remedy="" if enough else "Free some: a full disk ends a run.")


def _engines() -> Iterator[Part]:
    from lab.engines.vllm_parts import environment

    here = [name for name, there in (("llama.cpp", importlib.util.find_spec("llama_cpp") is not None),
                                     ("vLLM", environment.find() is not None)) if there]
    yield Part(name="Engines", state="good" if "llama.cpp" in here else "problem", said=", ".join(here) or "none",
               remedy="" if "llama.cpp" in here else "`make demo` installs llama.cpp.")


def _production() -> Iterator[Part]:
    from lab.ops import versions

    now = versions.current()
    if now.production is None:
        yield Part(name="Production", state="note", said="no release", remedy="Make one on the page Compare.")
    else:
        candidate = f", candidate {now.candidate}" if now.candidate is not None else ""
        yield Part(name="Production", state="good", said=f"release {now.production}{candidate}")


def _alerts() -> Iterator[Part]:
    from lab.ops import alerts, requests

    place = requests.folder()
    if not place.exists():
        yield Part(name="Alerts", state="note", said="no request yet", remedy="`lab gateway` answers and writes the log.")
        return
    found = alerts.state(place)
    standing = found.open
    said = "none stands" if not standing else f"{len(standing)} stand{'s' if len(standing) == 1 else ''}: {standing[0].rule}"
    seen = f", looked {max(0.0, time.time() - found.evaluated_s) / 60:,.0f} min ago" if found.evaluated_s else ", never looked"
    state: Literal["good", "note", "problem"] = "problem" if standing else "good" if found.evaluated_s else "note"
    yield Part(name="Alerts", state=state, said=said + seen,
               remedy="The page Monitor shows the requests behind it." if standing else "")

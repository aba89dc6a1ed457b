"""Closed loop with one user: ask, wait for the whole answer, ask again; after a warm-up that is thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from lab.engines import Engine, generate
from lab.machine import Watch, Watched
from lab.records import Generation, Request


@dataclass(frozen=True, kw_only=True)
class Load:
    """The measured generations, and what the machine did meanwhile."""

    generations: tuple[Generation, ...]
    watched: Watched


def closed(engine: Engine, requests: Sequence[Request], *, warmup: int = 1, title: str = "requests") -> Load:
    """Ask the `requests` one after another; the first of them is asked `warmup` times before, unmeasured."""
    for _ in range(warmup if requests else 0):
        generate(engine, requests[0])
    with Watch() as watch:
        done = tuple(generate(engine, r) for r in tqdm(requests, desc=title, leave=False, disable=None))
    return Load(generations=done, watched=watch.result)

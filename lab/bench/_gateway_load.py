"""Arms of a comparison under the same load: paced well below what they can bear for delays, saturated for rates and CPU cost.

Near saturation a delay is one of waiting for a core, and on a small machine the client waits too. So delays are taken from
requests that arrive by one Poisson schedule in every arm of a round, and are compared request by request. A step of the engine
lasts much longer than what is measured, but arrivals fall anywhere in it: what delays every request by d moves the whole
distribution by d. What depends least on other work on the machine is CPU time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
from numpy.typing import NDArray

from lab import stats
from lab.errors import LabError
from lab.load.arrivals import schedule
from lab.load.capture import capture
from lab.load.endpoint import Endpoint
from lab.metrics import speed
from lab.ops import versions
from lab.records import Decoding, Estimate, Generation, Message, Request

Floats = NDArray[np.float64]
PROMPT = "Be brief."
BLOCK = 25
"""Requests that are drawn together for an interval: half a second of the paced load."""
SETTLE_S = 1.5
"""After a release was promoted the one before it is taken apart beside the requests."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Somebody who answers: where, as which process, and for a gateway with which release."""

    name: str
    port: int
    pid: int
    model: str
    release: int = 0
    key_env: str = "LAB_BENCH_NO_KEY"

    def ready(self) -> Arm:
        """Itself, once its release is in force and loaded."""
        if self.release and versions.current().production != self.release:
            versions.promote(self.release, by="bench", why=self.name)
            _asked(self, _requests(self, 1, 1), users=1)
            time.sleep(SETTLE_S)
        return self

    def endpoint(self, *, stream: bool = True) -> Endpoint:
        return Endpoint(url=f"http://127.0.0.1:{self.port}/v1", model=self.model, key_env=self.key_env, stream=stream)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one arm did in one round: observations in the order of the requests."""

    ttft_s: Floats
    letters_s: tuple[Floats, ...]
    """When the text of every event came, of each request."""
    tokens: int
    cpu_s: float
    seconds: float

    @property
    def cpu_share(self) -> float:
        """Of one core."""
        return self.cpu_s / self.seconds


def paced(arm: Arm, *, streams: float, count: int, output: int, step_s: float, seed: int) -> Load:
    """`count` streams arriving by a Poisson process (`seed`) at the rate at which `streams` are open in the mean."""
    rate = streams / (output * step_s)
    return _asked(arm.ready(), _requests(arm, count, output), times=schedule("poisson", count=count, rate=rate, seed=seed))


def warmed(arms: Sequence[Arm]) -> Sequence[Arm]:
    """The arms, once each has answered: a process that has just begun still loads in its background."""
    for arm in arms:
        saturated(arm, users=8, count=64, output=2, stream=False)
    return arms


def saturated(arm: Arm, *, users: int, count: int, output: int, stream: bool) -> Load:
    """A closed loop: each of `users` asks again as soon as it is answered."""
    return _asked(arm.ready(), _requests(arm, count, output), users=users, stream=stream)


def _requests(arm: Arm, count: int, output: int) -> list[Request]:
    # A release puts its prompt in front; who has none is sent the same conversation.
    before = () if arm.release else (Message(role="system", content=PROMPT),)
    return [Request(id=str(i), messages=(*before, Message(role="user", content=f"Tell me about the number {i}.")),
                    decoding=Decoding(max_tokens=output, seed=i, temperature=1.0, ignore_eos=True)) for i in range(count)]


def _asked(
    arm: Arm, requests: Sequence[Request], *, users: int | None = None, times: Sequence[float] | None = None, stream: bool = True,
) -> Load:
    before = _cpu_s(arm.pid)
    captured = capture(arm.endpoint(stream=stream), requests, users=users, times=times, warmup=2, title=arm.name)
    cpu_s, found = _cpu_s(arm.pid) - before, captured.generations
    if failed := [g.error for g in found if g.error]:
        raise LabError(f"{len(failed)} of {len(requests)} requests to the {arm.name} failed ({failed[0]}); run the bench again.")
    tokens = sum(g.usage.output_tokens or len(g.tokens_at_s) for g in found)
    return Load(ttft_s=np.array([speed.ttft_s(g) for g in found]), letters_s=tuple(np.array(g.tokens_at_s) for g in found),
                tokens=tokens, cpu_s=cpu_s, seconds=_seconds(found))


def added_p50(loads: Sequence[Load], bases: Sequence[Load]) -> Estimate:
    """Median of what each request took longer than the same one of the base, with its interval. Seconds."""
    return _median_of([a.ttft_s - b.ttft_s for a, b in zip(loads, bases, strict=True)])


def added_at(q: float, loads: Sequence[Load], bases: Sequence[Load]) -> Estimate:
    """Difference of a percentile of the time to first token, round by round, with its interval. Seconds."""
    both = zip(loads, bases, strict=True)
    return stats.median([float(np.percentile(a.ttft_s, q) - np.percentile(b.ttft_s, q)) for a, b in both])


def waited(bases: Sequence[Load], letters: int) -> Estimate:
    """How long after its first letter the base shows letter number `letters` (from 1). Seconds."""
    return _median_of([_until(load, letters) - load.ttft_s for load in bases])


def worked(loads: Sequence[Load], bases: Sequence[Load], letters: int) -> Estimate:
    """As `added_p50`, counted from where the base shows letter number `letters`. Seconds."""
    return _median_of([a.ttft_s - _until(b, letters) for a, b in zip(loads, bases, strict=True)])


def _median_of(rounds: Sequence[Floats]) -> Estimate:
    """The median of all; whole blocks of requests that followed each other are drawn, because they share what disturbs them."""
    blocks = [(number, i // BLOCK) for number, one in enumerate(rounds) for i in range(len(one))]
    return stats.clustered_percentile(np.concatenate(rounds), blocks, 50)


def _until(load: Load, letters: int) -> Floats:
    """From when each request was sent to its letter number `letters`."""
    return np.array([first + one[letters - 1] - one[0] for first, one in zip(load.ttft_s, load.letters_s, strict=True)])


def ratio(loads: Sequence[Load], others: Sequence[Load], figure: Callable[[Load], float]) -> Estimate:
    """A figure over another's in the same round, with its interval over rounds."""
    return stats.median([figure(a) / figure(b) for a, b in zip(loads, others, strict=True)])


def _cpu_s(pid: int) -> float:
    """User and system time of a process and those it began, all threads."""
    process = psutil.Process(pid)
    return float(sum(t.user + t.system for t in (one.cpu_times() for one in [process, *process.children(recursive=True)])))


def _seconds(generations: Sequence[Generation]) -> float:
    return max(g.ended_s for g in generations) - min(g.sent_s for g in generations)

"""Drives a scheduler in this process: open loop on a fixed schedule, or a closed loop of so many users."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tqdm import tqdm

from lab.engines.scheduling.job import Job
from lab.engines.scheduling.scheduler import Scheduler
from lab.errors import LabError
from lab.records import Request

Work = Sequence[tuple[Request, Sequence[int]]]


def warm(scheduler: Scheduler, one: tuple[Request, Sequence[int]]) -> None:
    """Serve `one` request unmeasured, so that the first measured one does not pay for what a first step allocates."""
    scheduler.submit(*one)
    while not scheduler.idle:
        scheduler.step()
    scheduler.steps.clear()


def open_loop(
    scheduler: Scheduler, work: Work, times: Sequence[float], *, sleep: Callable[[float], None] = time.sleep,
    limit_s: float = 600.0, title: str = "requests",
) -> list[Job]:
    """Submit `work[i]` when `times[i]` seconds have passed, whether or not the earlier ones are done.

    A request counts from its time on the schedule even if a long step kept it from being handed over (no coordinated
    omission). What has not ended after `limit_s` is cancelled. Returns the jobs in the order of `work`.
    """
    if len(work) != len(times):
        raise LabError(f"The schedule has {len(times)} arrivals for {len(work)} requests.")
    now, start = scheduler.core.now, scheduler.core.now()
    jobs: list[Job] = []
    with tqdm(total=len(work), desc=title, leave=False, disable=None) as bar:
        while len(jobs) < len(work) or not scheduler.idle:
            passed = now() - start
            if passed >= limit_s:
                break
            while len(jobs) < len(work) and times[len(jobs)] <= passed:
                request, tokens = work[len(jobs)]
                jobs.append(scheduler.submit(request, tokens, scheduled_s=start + times[len(jobs)]))
            if scheduler.idle:
                passed = now() - start
                # At least a microsecond: sums of clock readings round, and a sleep of nothing would never reach the time.
                sleep(max(1e-6, min(times[len(jobs)], limit_s) - passed))
            else:
                bar.update(len(scheduler.step()))
    _stop(scheduler, jobs)
    return jobs


def closed_loop(
    scheduler: Scheduler, work: Work, users: int, *, limit_s: float = 600.0, title: str = "requests"
) -> list[Job]:
    """Keep `users` requests in flight until all `work` is done. Returns the jobs in the order of `work`."""
    if users < 1:
        raise LabError(f"A closed loop needs at least one user, not {users}.")
    now, start, ended = scheduler.core.now, scheduler.core.now(), 0
    jobs: list[Job] = []
    with tqdm(total=len(work), desc=title, leave=False, disable=None) as bar:
        while ended < len(work) and now() - start <= limit_s:
            while len(jobs) < len(work) and len(jobs) - ended < users:
                jobs.append(scheduler.submit(*work[len(jobs)]))
            done = len(scheduler.step())
            ended += done
            bar.update(done)
    _stop(scheduler, jobs)
    return jobs


def _stop(scheduler: Scheduler, jobs: Sequence[Job]) -> None:
    for job in jobs:
        scheduler.cancel(job)

"""Carries out a sweep: asks the search for points, has them measured, tries a dead trial once more, and writes all of it down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from lab.errors import LabError
from lab.sweep import code
from lab.sweep.attempt import Ended, Job
from lab.sweep.record import ATTEMPTS, Record, Tried, end, known_measures, shown, told
from lab.sweep.search import Listed, Search, search
from lab.sweep.spec import Spec


class Workers(Protocol):
    """Where attempts run."""

    def slots(self) -> int:
        """How many may run at a time, now."""

    def start(self, job: Job) -> None: ...

    def wait(self) -> Ended:
        """Blocks until one of the started has ended."""

    def stop(self) -> None:
        """Interrupts all that run."""

    def cautions(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep came to. `tried` is in the order of the points; `repeats` were proposed again and not measured again."""

    spec: Spec
    run_id: str
    tried: tuple[Tried, ...]
    repeats: int = 0
    kept: int = 0
    """Of them, measured before this call."""
    interrupted: bool = False
    cautions: tuple[str, ...] = ()


def run(spec: Spec, workers: Workers, *, take_over: bool = False, say: Callable[[str], None] = lambda line: None) -> Sweep:
    """Carry out `spec`, going on where an earlier call of it was left; Ctrl-C gives what was measured so far.

    Raises `LabError` for a search whose every point the experiment refuses, for an objective that nothing measures, and
    where the store cannot be written.
    """
    searching = search(spec)
    _refuse_hopeless(spec, searching)
    record = Record.begin(spec, code.state(), take_over=take_over)
    return _Course(spec, workers, searching, record, say).run()


def finish(done: Sweep, summary: str, note: str) -> None:
    """End the sweep's run, with its summary (JSON) as an artifact and `note` (Markdown) as its description in MLflow."""
    end(done.run_id, summary, note)


class _Course:
    """One call of a sweep."""

    def __init__(self, spec: Spec, workers: Workers, searching: Search, record: Record, say: Callable[[str], None]) -> None:
        self._spec, self._workers, self._search, self._record, self._say = spec, workers, searching, record, say
        self._done = record.tried()
        self._kept, self._repeats, self._next = len(self._done), 0, 0
        self._values = {spec.key(t.point): t for t in self._done.values()}
        self._pending: dict[int, tuple[Job, Mapping[str, str], float]] = {}
        self._total = len(searching.points) if isinstance(searching, Listed) else spec.trials

    def run(self) -> Sweep:
        if not self._record.begun:
            self._say(f"Going on with sweep {self._record.run_id[:8]}: {self._kept} of {self._total} trials are done.")
        try:
            with self._told():
                self._all()
        except KeyboardInterrupt:
            self._record.interrupt()
            return self._result(interrupted=True)
        return self._result()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever ends the sweep, what runs is interrupted first, and the sweep's run says that it is over."""
        try:
            yield
        except BaseException as error:
            try:
                self._workers.stop()
            finally:
                self._record.leave_behind()
            if not isinstance(error, KeyboardInterrupt):
                self._record.interrupt()
            raise

    def _all(self) -> None:
        while True:
            while len(self._pending) < self._workers.slots() and self._begin_next():
                pass
            if not self._pending:
                return
            self._settle(self._workers.wait())

    def _begin_next(self) -> bool:
        """Start the next point that is not done; False where there is none."""
        while True:
            number, self._next = self._next, self._next + 1
            if (known := self._done.get(number)) is not None:
                self._tell(number, known)
                continue
            point = self._search.point(number)
            if point is None:
                self._next = number
                return False
            if (same := self._values.get(self._spec.key(point))) is not None:
                self._repeats += 1
                self._tell(number, same)
                self._say(f"[{number + 1}/{self._total}] {shown(point)}: proposed again; its figures are taken from trial "
                          f"{same.number + 1}")
                continue
            try:
                self._spec.config(point)
            except LabError as error:
                self._record.fail(number, point, 1, str(error), final=True)
                self._finish(number, f"[{number + 1}/{self._total}] {shown(point)}: refused: {error}")
                continue
            self._start(number, point, self._record.failures(number) + 1)
            return True

    def _start(self, number: int, point: Mapping[str, str], attempt: int) -> None:
        job = Job(experiment=self._spec.experiment, values={**self._spec.fixed, **point}, number=number, attempt=attempt,
                  about=shown(point), tags=self._record.tags(number, point, attempt), code=self._record.code,
                  limit_s=self._spec.limit_s)
        self._say(f"[{number + 1}/{self._total}] {shown(point)}{': once more' if attempt > 1 else ''}")
        self._workers.start(job)
        self._pending[number] = (job, point, time.monotonic())

    def _settle(self, ended: Ended) -> None:
        job, point, begun = self._pending.pop(ended.number)
        head = f"[{job.number + 1}/{self._total}] {shown(point)}"
        if ended.why:
            self._record.fail(job.number, point, job.attempt, ended.why, final=ended.final)
            if job.attempt < ATTEMPTS and not ended.final:
                self._say(f"{head}: died: {ended.why}")
                self._start(job.number, point, job.attempt + 1)
                return
        word = "refused" if ended.final else "failed"
        self._finish(job.number, f"{head}: {f'{word}: {ended.why}' if ended.why else ''}", time.monotonic() - begun)

    def _finish(self, number: int, line: str, seconds: float = 0.0) -> None:
        """Read back what the record says of a point that is done with."""
        tried = self._record.tried().get(number)
        if tried is None:
            raise LabError(f"Trial {number + 1} ended well and its run is not in the store; check that every machine writes into "
                           "the same one (MLFLOW_TRACKING_URI).")
        self._done[number] = tried
        self._values[self._spec.key(tried.point)] = tried
        if tried.state == "finished":
            values = [told(v, o.measure) for v, o in zip(tried.values, self._spec.objectives, strict=True)]
            line += f"{tried.why or ', '.join(values)} in {seconds:.0f} s"
        self._say(line)
        self._refuse_unmeasured(tried)
        self._tell(number, tried)

    def _tell(self, number: int, tried: Tried) -> None:
        self._search.told(number, tried.point, [v.value for v in tried.values] if tried.measured else None)

    def _refuse_unmeasured(self, tried: Tried) -> None:
        """Raise `LabError` where the first trial shows that nothing measures an objective; its run is kept."""
        finished = [t for t in self._done.values() if t.state == "finished"]
        if tried.state != "finished" or len(finished) > 1 or tried.measured or "no trial of it measured" not in tried.why:
            return
        known = known_measures(self._spec.experiment, [tried.run_id])
        raise LabError(f"{tried.why[0].upper()}{tried.why[1:]}, so it cannot be the objective; what it measured is "
                       f"{', '.join(sorted(known))}.")

    def _result(self, interrupted: bool = False) -> Sweep:
        return Sweep(spec=self._spec, run_id=self._record.run_id, tried=tuple(self._done[n] for n in sorted(self._done)),
                     repeats=self._repeats, kept=self._kept, interrupted=interrupted, cautions=self._workers.cautions())


def _refuse_hopeless(spec: Spec, searching: Search) -> None:
    """Raise `LabError` with the experiment's sentence where it refuses every point that is known beforehand."""
    if not isinstance(searching, Listed):
        return
    said = ""
    for point in searching.points:
        try:
            spec.config(point)
            return
        except LabError as error:
            said = said or str(error)
    raise LabError(f"The experiment refuses every point of the sweep: {said}")

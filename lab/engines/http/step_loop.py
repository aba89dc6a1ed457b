"""Runs the scheduler in a thread of its own: takes requests between steps, hands out the tokens of each step at once.

llama.cpp's decode releases the interpreter, so that HTTP is served while a step computes. Between steps the thread takes
what was asked of it, and when there is nothing to do it sleeps until somebody asks.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.engines.http.served import Served
from lab.engines.scheduling.job import Job
from lab.engines.scheduling.scheduler import Scheduler
from lab.errors import LabError
from lab.records import Decoding, Generation, Request


@dataclass(frozen=True, slots=True)
class News:
    """What one step brought for one request: a text for every token, and at the end what was held back and the record."""

    texts: Sequence[str] = ()
    tokens: Sequence[int] = ()
    generation: Generation | None = None
    error: str = ""
    status: int = 500
    """What HTTP makes of the error."""


@dataclass(eq=False, kw_only=True)
class Ticket:
    """One request inside the server: how far the loop has handed it out, and what the receiver needs to know of it."""

    request: Request
    tokens: list[int]
    received_s: float
    stream: bool = True
    answered: bool = False
    """Whether the receiver has seen its first token."""
    job: Job | None = None
    texts_out: int = 0
    tokens_out: int = 0
    dropped: bool = False


Delivery = list[tuple[Ticket, News]]


@dataclass(frozen=True, slots=True)
class Now:
    """How full the server is after the last step."""

    running: int = 0
    waiting: int = 0
    cells: int = 0
    preemptions: int = 0


class StepLoop:
    """The thread that owns the scheduler. `deliver` is called once a step, with the news of all requests."""

    def __init__(self, served: Served, deliver: Callable[[Delivery], None]) -> None:
        self.served, self._deliver = served, deliver
        self.now = Now()
        self._orders: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._ready = threading.Event()
        self._stopping = False
        self._failure: BaseException | None = None
        self._touched: list[Job] = []
        self._tickets: dict[Job, Ticket] = {}
        self._preemptions = 0
        self._busy_since = 0.0
        self._thread = threading.Thread(target=self._run, name="steps", daemon=True)

    def start(self) -> None:
        """Start the thread and wait until it has decoded once. Raises what kept it from that."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> bool:
        """End the thread after its step; False if it did not end."""
        self._stopping = True
        self._wake.set()
        self._thread.join(10)
        return not self._thread.is_alive()

    @property
    def step_s(self) -> float:
        """Seconds that the step under way has taken so far; 0 while there is none. An engine that hangs lets it grow."""
        since = self._busy_since
        return time.monotonic() - since if since else 0.0

    def submit(self, ticket: Ticket) -> None:
        self.order(lambda: self._submit(ticket))

    def cancel(self, ticket: Ticket) -> None:
        """No more tokens are computed for this request; it hears nothing more."""
        self.order(lambda: self._cancel(ticket))

    def order(self, action: Callable[[], None]) -> None:
        """Have `action` called between two steps, in the loop's thread."""
        self._orders.append(action)
        self._wake.set()

    def _run(self) -> None:
        try:
            self._scheduler = self.served.scheduler(self._touched.append)
            self._warm()
        except BaseException as error:  # it belongs to the thread that started this one
            self._failure = error
            return
        finally:
            self._ready.set()
        while not self._stopping:
            self._wake.clear()
            self._busy_since = time.monotonic()
            try:
                while self._orders:
                    self._orders.popleft()()
                if not self._scheduler.idle:
                    self._scheduler.step()
            except Exception as error:  # the server must outlive a request that breaks the engine
                self._fail(error)
            self._look()
            self._hand_out()
            self._busy_since = 0.0
            if self._scheduler.idle and not self._stopping:
                self._wake.wait()

    def _warm(self) -> None:
        """One decode, so that the first request does not pay for what llama.cpp makes on first use."""
        scheduler: Scheduler = self._scheduler
        job = scheduler.submit(Request(tokens=(0,), decoding=Decoding(max_tokens=1, ignore_eos=True)), [0])
        while not scheduler.idle:
            scheduler.step()
        assert job.finish_reason is not None
        scheduler.steps.clear()
        self._touched.clear()

    def _submit(self, ticket: Ticket) -> None:
        if ticket.dropped:
            return
        try:
            ticket.job = self._scheduler.submit(ticket.request, ticket.tokens, scheduled_s=ticket.received_s)
        except Exception as error:  # said to the one who asked
            self._deliver([(ticket, News(error=_sentence(error)))])
            return
        self._tickets[ticket.job] = ticket

    def _cancel(self, ticket: Ticket) -> None:
        ticket.dropped = True
        if ticket.job is not None and self._tickets.pop(ticket.job, None) is not None:
            self._scheduler.cancel(ticket.job)

    def _hand_out(self) -> None:
        """Deliver what the step added to each request it touched."""
        if not self._touched:
            return
        delivery: Delivery = []
        for job in self._touched:
            ticket = self._tickets.get(job)
            if ticket is None:
                continue
            ended = job.finish_reason is not None
            texts, tokens = job.shown[ticket.texts_out :], job.tokens[job.prompt_tokens + ticket.tokens_out :]
            ticket.texts_out += len(texts)
            ticket.tokens_out += len(tokens)
            delivery.append((ticket, News(texts, tokens, job.generation() if ended else None)))
            if ended:
                self._preemptions += job.preemptions
                del self._tickets[job]
        self._touched.clear()
        self._deliver(delivery)

    def _look(self) -> None:
        scheduler = self._scheduler
        self.now = Now(len(scheduler.running), len(scheduler.waiting), scheduler.cells, self._preemptions)

    def _fail(self, error: Exception) -> None:
        """Tell everybody, and start over with an empty cache."""
        if not isinstance(error, LabError):
            traceback.print_exception(error, file=sys.stderr)
        self._touched.clear()
        broken, self._tickets = list(self._tickets.values()), {}
        self._deliver([(ticket, News(error=_sentence(error))) for ticket in broken])
        self._scheduler = self.served.scheduler(self._touched.append)


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, LabError) else f"The engine failed ({type(error).__name__}); ask again."

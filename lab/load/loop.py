"""The loop that sends requests on time and reads what comes, and does nothing else while there is something to read."""

from __future__ import annotations

import contextlib
import errno
import select
import selectors
import ssl
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from lab.load.answer import Failure
from lab.load.exchange import ENTRY_BYTES, Exchange
from lab.load.wire import Address, Wire

IN, OUT = 1, 4
"""As epoll has them."""
SWEEP_S = 0.05
AFTER_WORD_S = 0.5
"""Silence after the word that closes a stream of events: what still keeps the message open is none of the answer."""
CROSSED_S = 0.25
"""A kept connection that breaks later than this after a request was sent did not break because the two crossed."""
REFUSALS = 10
"""After so many refused connections in a row nobody is there, and the rest of the requests are not tried."""
SPARE_CONNECTIONS = 8
"""An open loop makes new connections ahead of need, so that a request seldom waits for one."""
SLICE_READS = 16
LAGS_KEPT, LAGS_SLICE = 1 << 20, 1 << 12
SPIN_S = 60e-6
"""Sleeping takes about this much longer than asked: the last stretch before a request is due is waited for awake."""


class Poll(Protocol):
    """The part of `select.epoll` that is used; `Portable` offers it where that does not exist."""

    def register(self, fd: int, eventmask: int, /) -> None: ...
    def modify(self, fd: int, eventmask: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None: ...
    def poll(self, timeout: float, /) -> list[tuple[int, int]]: ...


class Portable:
    """`Poll` for systems without epoll."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def register(self, fd: int, eventmask: int, /) -> None:
        self._selector.register(fd, _portable(eventmask))

    def modify(self, fd: int, eventmask: int, /) -> None:
        self._selector.modify(fd, _portable(eventmask))

    def unregister(self, fd: int, /) -> None:
        self._selector.unregister(fd)

    def poll(self, timeout: float, /) -> list[tuple[int, int]]:
        ready = self._selector.select(timeout)
        return [(key.fd, (IN if mask & selectors.EVENT_READ else 0) | (OUT if mask & selectors.EVENT_WRITE else 0))
                for key, mask in ready]


def _portable(mask: int) -> int:
    return (selectors.EVENT_READ if mask & IN else 0) | (selectors.EVENT_WRITE if mask & OUT else 0)


class Loop:
    """Carries exchanges over a pool of kept-alive connections to one address."""

    def __init__(
        self, address: Address, *, secure: tuple[ssl.SSLContext, str] | None, shift_s: float, timeout_s: float,
        request_limit_s: float, memory_bytes: int, stop_fd: int | None = None, told: Callable[[int], None] = lambda n: None,
    ) -> None:
        self._address, self._secure, self._shift_s = address, secure, shift_s
        self._timeout_s, self._request_limit_s, self._memory_bytes = timeout_s, request_limit_s, memory_bytes
        self._told, self._stop_fd = told, stop_fd
        self._epoll: Any = select.epoll() if hasattr(select, "epoll") else None
        self._poll: Poll = self._epoll or Portable()
        if stop_fd is not None:
            self._poll.register(stop_fd, IN)
        self._wires: dict[int, Wire] = {}
        self._idle: list[Wire] = []
        self._recent_lags_s = array("f")
        self.stopped = ""
        self._reset()

    def _reset(self) -> None:
        self.send_lags_s, self.read_lags_s = array("d"), array("f")
        self.reads = self.unstamped = self.resent = self.stale = self.waited = 0
        self.started_s = self.ended_s = self.cpu_s = 0.0
        for wire in self._wires.values():
            wire.unstamped = 0
        del self._recent_lags_s[:]
        self._lag_step = 1
        self._refused = self._ended = self._held_bytes = 0
        self._undigested: deque[Exchange] = deque()
        self._waiting: deque[Exchange] = deque()
        self._open_loop, self._free, self.unsent = False, 0, 0

    def close(self) -> None:
        """Close every connection."""
        for wire in list(self._wires.values()):
            self._drop(wire)
        if self._epoll is not None:
            self._epoll.close()

    # The load

    def run(self, exchanges: Sequence[Exchange], *, times: Sequence[float] | None, users: int, limit_s: float) -> None:
        """Carry all `exchanges`: each at its time after the start, or as soon as one of the `users` is free.

        Ends early when `stop_fd` becomes readable, after `limit_s`, or when the server refuses everything; `stopped`
        says so. Exchanges that were not begun keep `sent_s` 0; those that did not end are cancelled.
        """
        self._reset()
        clock, cpu_s = time.perf_counter, time.process_time()
        self.started_s = start = clock() + (0.02 if times is not None else 0.0)
        due = [start + t for t in times] if times is not None else None
        if due is not None:
            for exchange, at_s in zip(exchanges, due, strict=True):
                exchange.scheduled_s = at_s
        self._waiting.extend(exchanges)
        end_s, sweep_s = start + limit_s, start
        total, poll, wires = len(exchanges), self._poll.poll, self._wires
        half, full = self._memory_bytes // 2, self._memory_bytes
        self._open_loop, self._free = due is not None, users
        while self._ended < total and not self.stopped:
            now, next_s = clock(), end_s
            if due is None:
                self._ask_again()
            elif self._waiting:
                while self._waiting and (next_s := due[total - len(self._waiting)]) <= now:
                    self._begin(self._waiting.popleft())
                    now = clock()
            if self._held_bytes > half:
                events = poll(0)
                if not events or self._held_bytes > full:
                    self._digest(SLICE_READS + 2 * len(events))
            else:
                events = self._wait(next_s - now, sweep_s - now)
            woken_s = clock()
            for fd, ready in events:
                wire = wires.get(fd)
                if wire is None:  # told to stop; else a connection that an earlier event of this round has ended
                    if fd == self._stop_fd:
                        self.stopped = self.stopped or "interrupted"
                elif wire.exchange is not None and wire.connected and not wire.wants_write:
                    self._read(wire, wire.exchange, woken_s)
                    if self._free:
                        self._ask_again()
                else:
                    self._tend(wire, ready)
            if woken_s >= sweep_s:
                sweep_s = woken_s + SWEEP_S
                self._sweep(woken_s)
                self._thin_lags()
                self._told(self._ended)
            if woken_s >= end_s:
                self.stopped = self.stopped or "limit"
            if self._refused >= REFUSALS and self._waiting:
                self._give_up()
        self._cancel()
        self._thin_lags(all_=True)
        self.unstamped += sum(wire.unstamped for wire in wires.values())
        self.ended_s = clock()
        self.cpu_s = time.process_time() - cpu_s

    def _wait(self, due_s: float, sweep_s: float) -> list[tuple[int, int]]:
        """Events, at the latest when a request is due in `due_s` seconds or a sweep in about `sweep_s`.

        epoll waits whole milliseconds; the last of them before a request is slept through with `select`, which knows
        microseconds, and the last of those awake.
        """
        if sweep_s < due_s - 0.001:
            return self._poll.poll(max(sweep_s, 0.0))
        if due_s > 0.002:
            return self._poll.poll(int(due_s * 1000 - 1) / 1000)
        if due_s > SPIN_S and self._epoll is not None:
            select.select([self._epoll], [], [], due_s - SPIN_S)
        return self._poll.poll(0)

    def _read(self, wire: Wire, exchange: Exchange, woken_s: float) -> None:
        try:
            data, at_s = wire.read(woken_s)
        except BlockingIOError:
            return
        except OSError as error:
            self._break(wire, exchange, error)
            return
        if not data:
            self._end_of_file(wire, exchange)
            return
        self.reads += 1
        if exchange.lazy:
            self._held_bytes += len(data) + ENTRY_BYTES
        if exchange.take(data, at_s):
            self._release(wire, exchange, at_s, reusable=exchange.reusable)

    # Connections

    def open(self, count: int, *, within_s: float = 5.0) -> int:
        """Have `count` connections standing before the load; how many there are after at most `within_s`."""
        until_s = time.perf_counter() + within_s
        try:
            for _ in range(count - len(self._idle)):
                self._connect()
        except OSError:
            return len(self._idle)
        while len(self._idle) < count and self._wires and not self.stopped and time.perf_counter() < until_s:
            for fd, ready in self._poll.poll(0.05):
                wire = self._wires.get(fd)
                if wire is not None:
                    self._tend(wire, ready)
                elif fd == self._stop_fd:
                    self.stopped = "interrupted"
        return len(self._idle)

    def _connect(self) -> Wire:
        wire = Wire(self._address, secure=self._secure, shift_s=self._shift_s, lags=self._recent_lags_s.append)
        self._wires[wire.fd] = wire
        self._poll.register(wire.fd, OUT)
        return wire

    def _ask_again(self) -> None:
        """Let the free users of a closed loop ask; not from inside an ending, or a refusing server would recurse."""
        while self._free and self._waiting and self._refused < REFUSALS and not self._open_loop:
            self._free -= 1
            self._begin(self._waiting.popleft())
        if self._open_loop or not self._waiting:
            self._free = 0

    def _begin(self, exchange: Exchange) -> None:
        try:
            if self._idle and not exchange.resent:
                wire = self._idle.pop()
                wire.exchange = exchange
                self._send(wire, exchange)
                if self._open_loop and len(self._idle) < min(SPARE_CONNECTIONS, len(self._waiting)):
                    with contextlib.suppress(OSError):
                        self._connect()
            else:
                exchange.waited = True
                exchange.sent_s = exchange.sent_s or time.perf_counter()  # of the attempt, should it fail
                wire = self._connect()
                wire.exchange = exchange
        except OSError as error:
            self._fail(exchange, error)

    def _send(self, wire: Wire, exchange: Exchange) -> None:
        if not exchange.resent:
            exchange.sent_s = time.perf_counter()
        try:
            sent = wire.send(exchange.message)
        except OSError as error:
            self._break(wire, exchange, error)
            return
        if not sent:
            self._poll.modify(wire.fd, IN | OUT)

    def _tend(self, wire: Wire, ready: int) -> None:
        """What a connection needs that is not carrying an answer: to be made, to send on, or to be given up."""
        exchange = wire.exchange
        try:
            if not wire.connected:
                if wire.proceed():
                    self._poll.modify(wire.fd, IN)
                    self._refused = 0
                    if exchange is None:
                        wire.fresh = False
                        self._idle.append(wire)
                    else:
                        self._send(wire, exchange)
                else:
                    self._poll.modify(wire.fd, OUT if wire.wants_write else IN)
            elif exchange is not None:
                if ready & ~OUT:
                    self._read(wire, exchange, time.perf_counter())
                if wire.exchange is exchange and ready & OUT and wire.send():
                    self._poll.modify(wire.fd, IN)
            else:
                self.stale += 1
                self._drop(wire)
        except OSError as error:
            if exchange is not None:
                self._break(wire, exchange, error)
            else:
                self._drop(wire)

    def _drop(self, wire: Wire) -> None:
        if self._wires.pop(wire.fd, None) is not None:
            self._poll.unregister(wire.fd)
            wire.close()
        if wire in self._idle:
            self._idle.remove(wire)
        self.unstamped += wire.unstamped
        wire.unstamped, wire.exchange = 0, None

    def _release(self, wire: Wire, exchange: Exchange, at_s: float, *, reusable: bool) -> None:
        wire.exchange = None
        if reusable and not wire.sending:
            wire.fresh = False
            self._idle.append(wire)
        else:
            self._drop(wire)
        self._finish(exchange, at_s)

    # Ends of every kind

    def _finish(self, exchange: Exchange, at_s: float) -> None:
        """One has ended, well or badly: in a closed loop its user asks again."""
        exchange.ended_s = at_s
        self._ended += 1
        self.resent += exchange.resent
        self.waited += exchange.waited
        if exchange.segments:
            self._undigested.append(exchange)
        self._free += 1

    def _end_of_file(self, wire: Wire, exchange: Exchange) -> None:
        if wire.unread and self._stale(wire, exchange):
            self._again(wire, exchange)
            return
        exchange.eof = True
        self._drop(wire)
        self._finish(exchange, time.perf_counter())

    def _stale(self, wire: Wire, exchange: Exchange) -> bool:
        """Whether the server may have closed this kept connection before it saw the request: then it says so at once."""
        return (wire.connected and exchange.untouched and not wire.fresh and not exchange.resent
                and time.perf_counter() - exchange.sent_s < CROSSED_S)

    def _break(self, wire: Wire, exchange: Exchange, error: OSError) -> None:
        if error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED) and self._stale(wire, exchange):
            self._again(wire, exchange)
            return
        self._drop(wire)
        self._fail(exchange, error)

    def _again(self, wire: Wire, exchange: Exchange) -> None:
        """A kept connection that the server had closed meanwhile: ask once more on a new one (RFC 9112, section 9.3.1)."""
        self._drop(wire)
        exchange.resent = True
        self._begin(exchange)

    def _fail(self, exchange: Exchange, error: OSError) -> None:
        exchange.broken = failure_of(error)
        self._refused = self._refused + 1 if exchange.broken.kind == "refused" else 0
        self._finish(exchange, time.perf_counter())

    def _sweep(self, now: float) -> None:
        """End what has been silent or has taken too long."""
        for wire in [w for w in self._wires.values() if w.exchange is not None]:
            exchange = wire.exchange
            if exchange is None:
                continue
            if exchange.closing and now - exchange.last_s > AFTER_WORD_S and exchange.said_all():
                self._drop(wire)
                self._finish(exchange, exchange.last_s)
                continue
            if now - (exchange.last_s or exchange.sent_s) > self._timeout_s:
                kind, said = "timeout", f"The server was silent for {self._timeout_s:g} s."
            elif now - exchange.sent_s > self._request_limit_s:
                kind, said = "limit", f"The answer was not complete {self._request_limit_s:g} s after the request."
            else:
                continue
            exchange.broken = Failure(kind=kind, sentence=said)
            self._drop(wire)
            self._finish(exchange, now)

    def _give_up(self) -> None:
        """Nobody is there: what was not sent has failed as it would have, without waiting for its time."""
        now, said = time.perf_counter(), f"Not sent, because the server had refused {REFUSALS} connections in a row."
        self.unsent = len(self._waiting)
        while self._waiting:
            exchange = self._waiting.popleft()
            exchange.broken, exchange.sent_s = Failure(kind="refused", sentence=said), now
            self._finish(exchange, now)

    def _cancel(self) -> None:
        """Cut off what has not ended."""
        now = time.perf_counter()
        for wire in [w for w in self._wires.values() if w.exchange is not None]:
            exchange = wire.exchange
            self._drop(wire)
            if exchange is not None:
                exchange.cancelled = True
                self._finish(exchange, now)

    # Memory

    def _digest(self, reads: int) -> None:
        """Take some reads apart: first of what has ended, then of the answer that holds most."""
        if self._undigested:
            exchange = self._undigested[0]
        else:
            busy = [w.exchange for w in self._wires.values() if w.exchange is not None and w.exchange.segments]
            if not busy:
                self._held_bytes = 0
                return
            exchange = max(busy, key=lambda x: len(x.segments))
        self._held_bytes -= exchange.digest(reads)
        if self._undigested and not exchange.segments:
            self._undigested.popleft().conclude()

    def _thin_lags(self, *, all_: bool = False) -> None:
        """Keep how late reads were; of very many every second, fourth ... one, evenly over the load."""
        recent, kept = self._recent_lags_s, self.read_lags_s
        if len(recent) >= LAGS_SLICE or all_:
            kept.extend(recent[:: self._lag_step])
            del recent[:]
            if len(kept) >= LAGS_KEPT:
                kept[:] = kept[::2]
                self._lag_step *= 2


def failure_of(error: OSError) -> Failure:
    """The kind of a connection's failure, with a sentence."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failure(kind="tls", sentence=f"The server's certificate is not trusted ({error.verify_message}).")
    if isinstance(error, ssl.SSLError):
        return Failure(kind="tls", sentence=f"No encrypted connection could be made ({error.reason or error}).")
    if error.errno == errno.ECONNREFUSED:
        return Failure(kind="refused", sentence="The server refused the connection; nobody listens there.")
    if error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED):
        return Failure(kind="reset", sentence="The server reset the connection in the middle of the exchange.")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return Failure(kind="client_limit", sentence="This system allows no more open connections; raise 'ulimit -n'.")
    return Failure(kind="unreachable", sentence=f"The server cannot be reached ({error.strerror or error}).")

"""The capture process: reads a plan, carries it out and hands back what it saw. `python -m lab.load.child`, no other use."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import ssl
import sys
import time
from array import array
from collections.abc import Callable
from typing import BinaryIO

from lab.load import clock
from lab.load.exchange import Exchange
from lab.load.loop import Loop
from lab.load.plan import Account, Plan, Seen, frame, unframe

TELL_S = 0.5
_PR_SET_TIMERSLACK = 29


def main() -> None:
    """Plan in on standard input, frames out on standard output: `int` (ended so far), `Seen`, then one `Account`."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    plan: Plan = unframe(sys.stdin.buffer.read)
    _settle()
    with contextlib.suppress(BrokenPipeError):
        _carry_out(plan, out)


def _settle() -> None:
    """Nothing may interrupt the reading: no collector, no Ctrl-C (the parent decides), no late wake-ups, enough sockets."""
    gc.collect()
    gc.freeze()
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        import resource

        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _carry_out(plan: Plan, out: BinaryIO) -> None:
    shift_s = clock.shift_s()
    exchanges = [Exchange(i, m, scheduled_s=None, keep_pieces=plan.keep_pieces) for i, m in enumerate(plan.messages)]
    warmups = [Exchange(-1, plan.messages[0], scheduled_s=None, keep_pieces=False) for _ in range(plan.warmup)]
    secure = (ssl.create_default_context(), plan.host) if plan.secure else None
    loop = Loop(
        plan.address, secure=secure, shift_s=shift_s, timeout_s=plan.timeout_s, request_limit_s=plan.request_limit_s,
        memory_bytes=plan.memory_bytes, stop_fd=0, told=_teller(out),
    )
    loop.run(warmups, times=None, users=1, limit_s=plan.limit_s)
    failed = sum(w.conclude().failure is not None for w in warmups)
    loop.stopped = "" if loop.stopped == "limit" else loop.stopped
    opened = loop.open(min(plan.users, len(exchanges)))
    loop.run(exchanges, times=plan.times, users=plan.users, limit_s=plan.limit_s)
    drift_s = clock.shift_s() - shift_s
    _say(out, Account(
        started_s=loop.started_s, ended_s=loop.ended_s,
        send_lags_s=array("d", [x.sent_s - x.scheduled_s for x in exchanges if x.sent_s and x.scheduled_s is not None
                                and x.sent_s >= x.scheduled_s]),
        read_lags_s=loop.read_lags_s, reads=loop.reads, unstamped_reads=loop.unstamped, cpu_s=loop.cpu_s,
        clock_drift_s=drift_s, warmed=len(warmups), warmup_failures=failed, opened_before=opened, waited=loop.waited,
        resent=loop.resent, stale=loop.stale, stopped=loop.stopped, unsent=loop.unsent,
        peak_memory_bytes=_peak_memory_bytes(),
    ))
    _hand_over(exchanges, out)


def _peak_memory_bytes() -> int:
    if sys.platform != "linux":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _teller(out: BinaryIO) -> Callable[[int], None]:
    """Says how many have ended, a few times a second."""
    last = 0.0

    def tell(ended: int) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last > TELL_S:
            last = now
            _say(out, ended)

    return tell


def _say(out: BinaryIO, value: object) -> None:
    out.write(frame(value))
    out.flush()


def _hand_over(exchanges: list[Exchange], out: BinaryIO) -> None:
    """Everything that was begun, one by one, so that nothing is held twice."""
    exchanges.reverse()
    while exchanges:
        exchange = exchanges.pop()
        if exchange.sent_s:
            _say(out, Seen(index=exchange.index, scheduled_s=exchange.scheduled_s, sent_s=exchange.sent_s,
                           ended_s=exchange.ended_s, observed=exchange.conclude()))


if __name__ == "__main__":
    main()

"""What the parent tells the capture process to do, what that tells in return, and how both go through a pipe."""

from __future__ import annotations

import pickle
import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.load.answer import Observed
from lab.load.wire import Address

_SIZE = struct.Struct("<Q")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Ready-made messages and when to send them. They carry the key, so a plan goes through a pipe and nowhere else."""

    address: Address
    host: str
    """The name that the certificate of an encrypted connection must have."""
    secure: bool
    messages: tuple[bytes, ...]
    times: tuple[float, ...] | None
    """Seconds after the start at which each message is due; None for a closed loop."""
    users: int
    """Users of a closed loop; with `times`, connections opened before the start."""
    warmup: int
    timeout_s: float
    request_limit_s: float
    limit_s: float
    keep_pieces: bool
    memory_bytes: int
    """Raw bytes that may wait to be taken apart; from half of it on, idle moments are used for that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One exchange as the capture process saw it."""

    index: int
    scheduled_s: float | None
    sent_s: float
    ended_s: float
    observed: Observed


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What the capture process says about itself. Arrays hold one number per request or read (thinned when long)."""

    started_s: float
    ended_s: float
    send_lags_s: array[float]
    read_lags_s: array[float]
    reads: int
    unstamped_reads: int
    cpu_s: float
    """CPU seconds of the load alone; what came before and after is not in it."""
    clock_drift_s: float
    warmed: int
    warmup_failures: int
    opened_before: int
    waited: int
    """Requests that had to wait for a connection to be made."""
    resent: int
    stale: int
    """Idle connections that the server closed."""
    stopped: str
    """Why the load ended before its last request: `interrupted`, `limit`, or nothing."""
    unsent: int
    peak_memory_bytes: int
    """Of the capture process until the load's end; 0 where the system does not say."""


def frame(value: object) -> bytes:
    """`value` as bytes with their length in front."""
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return _SIZE.pack(len(data)) + data


def unframe(read: Callable[[int], bytes]) -> Any:
    """The next value, or None at the end. `read(n)` returns `n` bytes, fewer only when there are no more."""
    size = read(_SIZE.size)
    if len(size) < _SIZE.size:
        return None
    data = read(*_SIZE.unpack(size))
    return pickle.loads(data) if len(data) == _SIZE.unpack(size)[0] else None

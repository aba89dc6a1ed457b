"""What each key has used, in one small file that all gateway processes of a folder share.

A request reserves the tokens it may take and gives back those it did not; the allowance refills evenly over a minute. The clock
is the machine's monotonic one, which processes share and nobody can set back. Money is booked when an answer ends, so a
budget can be exceeded by the requests that were open when it ran out, and by no more.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.ops.gateway.keys import Key

_SLOT = struct.Struct("<12s4xdddd")  # id, tokens left, when (monotonic), number of the budget's period, spent in it
_SLOTS = 4096
DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Why a key may not ask now, and after how many seconds it may (infinite: never this)."""

    kind: str
    sentence: str
    after_s: float


class Ledger:
    """Raises `LabError` when the file cannot be made."""

    def __init__(
        self, folder: Path, *, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._clock, self._wall = clock, wall
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(folder / "limits.ledger", os.O_RDWR | os.O_CREAT, 0o600)
            with self._locked():
                if os.fstat(self._file).st_size != _SLOT.size * _SLOTS:
                    os.ftruncate(self._file, _SLOT.size * _SLOTS)
            self._map = mmap.mmap(self._file, _SLOT.size * _SLOTS)
        except OSError as error:
            raise LabError(f"The ledger of limits in {folder} cannot be written ({error.strerror}); mend the folder.") from error
        self._places: dict[bytes, int] = {}

    def take(self, key: Key, tokens: int) -> Refused | None:
        """Reserve `tokens`; the reason when the key may not have them."""
        if not key.tokens_per_minute and not key.budget_usd:
            return None
        most = key.tokens_per_minute
        if most and tokens > most:
            return Refused(kind="too_large", after_s=math.inf, sentence=(
                f"This request may take {tokens:,} tokens, more than this key has in a minute ({most:,}); ask for fewer with "
                "max_tokens, or shorten the prompt."))
        with self._locked():
            place, left, period, spent = self._read(key)
            if key.budget_usd and spent >= key.budget_usd:
                after = (period + 1) * key.budget_days * DAY_S - self._wall()
                return Refused(kind="budget", after_s=max(1.0, after), sentence=(
                    f"The budget of {key.budget_usd:g} USD in {key.budget_days} days is used up; raise it, or wait for the next "
                    "period."))
            if most and tokens > left:
                after = (tokens - left) / most * 60
                return Refused(kind="rate_limit", after_s=max(1.0, after), sentence=(
                    f"This key has {max(0, int(left)):,} of its {most:,} tokens a minute left and this request may take "
                    f"{tokens:,}; ask again in {max(1, round(after))} s."))
            self._write(place, key, left - tokens, period, spent)
        return None

    def settle(self, key: Key, unused_tokens: int, cost_usd: float) -> None:
        """Give back what a request reserved and did not take, and book what it cost (NaN: nothing is known of it)."""
        if not key.tokens_per_minute and not key.budget_usd:
            return
        with self._locked():
            place, left, period, spent = self._read(key)
            left = min(float(key.tokens_per_minute), left + max(0, unused_tokens))
            self._write(place, key, left, period, spent + (cost_usd if cost_usd > 0 else 0.0))

    def spent_usd(self, key: Key) -> float:
        """What the key has spent in the current period of its budget."""
        with self._locked():
            return self._read(key)[3]

    def close(self) -> None:
        self._map.close()
        os.close(self._file)

    def _read(self, key: Key) -> tuple[int, float, float, float]:
        """Place, tokens left now, number of the period, and what was spent in it."""
        place = self._place(key.id.encode())
        _, left, at, period, spent = _SLOT.unpack_from(self._map, place)
        now, current = self._clock(), float(self._wall() // (key.budget_days * DAY_S))
        if now < at:  # the machine was started anew, and so was its clock
            _SLOT.pack_into(self._map, place, key.id.encode(), left, now, period, spent)
        passed = max(0.0, now - at)
        left = min(float(key.tokens_per_minute), left + passed * key.tokens_per_minute / 60)
        return (place, left, current, 0.0) if current > period else (place, left, period, spent)

    def _write(self, place: int, key: Key, left: float, period: float, spent: float) -> None:
        _SLOT.pack_into(self._map, place, key.id.encode(), left, self._clock(), period, spent)

    def _place(self, id_: bytes) -> int:
        known = self._places.get(id_)
        if known is not None:
            return known
        begin = int.from_bytes(id_, "big") % _SLOTS
        for i in range(_SLOTS):
            place = (begin + i) % _SLOTS * _SLOT.size
            there = self._map[place : place + 12].rstrip(b"\0")
            if there in (b"", id_.rstrip(b"\0")):
                if not there:
                    self._map[place : place + 12] = id_.ljust(12, b"\0")
                    key_left = struct.pack("<d", float("inf"))  # a new key begins with its whole allowance
                    self._map[place + 16 : place + 24] = key_left
                self._places[id_] = place
                return place
        raise LabError(f"The ledger holds {_SLOTS:,} keys and is full; remove its file while no gateway runs.")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

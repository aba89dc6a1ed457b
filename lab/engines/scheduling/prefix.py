"""Prefix reuse in three tiers: cells of the running KV cache, saved states in memory, saved states on disk.

The longest cached beginning of a prompt is found in a radix tree (as in SGLang, Zheng et al. 2024) and put into the
request's sequence: shared cell by cell in the first tier (0.1 ms), copied back from bytes in the others. Entries move
down a tier when they are evicted, and up when they are hit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from lab.engines.scheduling.core import Core
from lab.engines.scheduling.job import Job
from lab.engines.scheduling.radix import TOKEN_BYTES, packed
from lab.engines.scheduling.state_files import DiskStates
from lab.engines.scheduling.states import MemoryStates, Shelf
from lab.errors import LabError


@dataclass(frozen=True, eq=False)
class Run:
    """Cells that one job (or one restored state) filled, from position `start` on."""

    start: int


@dataclass(frozen=True)
class Held:
    """What a sequence holds, as (run, end) in order of position: of each run the cells from its start to `end`."""

    parts: tuple[tuple[Run, int], ...] = ()

    @property
    def length(self) -> int:
        return self.parts[-1][1] if self.parts else 0

    def cut(self, length: int) -> Held:
        """The first `length` positions of it, as `core.copy` shares them."""
        return Held(tuple((run, min(end, length)) for run, end in self.parts if run.start < length))

    def grown(self, length: int) -> Held:
        """This and cells of its own up to `length`."""
        return Held((*self.parts, (Run(self.length), length))) if length > self.length else self


def distinct(held: Iterable[Held]) -> int:
    """Cells of all these sequences together, shared ones counted once.

    Exact, because every holder of a run holds a prefix of it: what is in use of a run is what its longest holder holds.
    """
    reach: dict[Run, int] = {}
    for one in held:
        for run, end in one.parts:
            reach[run] = max(reach.get(run, 0), end)
    return sum(end - run.start for run, end in reach.items())


KEPT_READINGS = 10_000


def _latest() -> deque[float]:
    """The latest readings: a server runs for ever."""
    return deque(maxlen=KEPT_READINGS)


@dataclass(kw_only=True)
class Counts:
    """What a cache did; times are seconds of the core's clock, one reading per event (the latest 10,000)."""

    asked_tokens: int = 0
    reused_tokens: dict[str, int] = field(default_factory=dict)
    """By tier; of every admission, also those after a preemption."""
    hits: dict[str, int] = field(default_factory=dict)
    misses: int = 0
    kept: int = 0
    evictions: int = 0
    """Entries that lost their cells."""
    not_restored: int = 0
    """States that the core refused, for want of room or because they do not fit it."""
    lookup_s: deque[float] = field(default_factory=_latest)
    share_s: deque[float] = field(default_factory=_latest)
    save_s: deque[float] = field(default_factory=_latest)
    restore_s: deque[float] = field(default_factory=_latest)
    spent_s: float = 0.0
    """All that the cache took, writing files and evicting included."""
    kept_s: float = 0.0
    """The part of it after a request's end: saving and storing what later ones may use, which no first token shows."""


@dataclass(frozen=True, kw_only=True)
class _Entry:
    slot: int
    held: Held


@dataclass(frozen=True, kw_only=True)
class _Use:
    key: bytes
    held: Held


class TieredPrefixCache:
    """A `PrefixCache` over sequences 0 to `slots` - 1 of `core` (give the scheduler `first_slot=slots`).

    Entries in cells take at most `most_cells` (0: half the context). Any tier may be missing. A match of fewer than
    `min_tokens` is chance and not used. An entry must add as many to what could be reused; a slower tier is asked only for
    as many more than a faster one has. `keep_output` keeps the answer behind the prompt too, for conversations. One token
    of a prompt is always left to feed, because its logits choose the first token of the answer.
    """

    def __init__(
        self, core: Core, *, slots: int = 0, most_cells: int = 0, memory: MemoryStates | None = None,
        disk: DiskStates | None = None, min_tokens: int = 32, keep_output: bool = False,
    ) -> None:
        if slots < 0 or most_cells < 0 or min_tokens < 1:
            raise LabError("A prefix cache needs slots and cells that are not negative and entries of at least one token.")
        if slots >= core.sequences:
            raise LabError(f"A prefix cache of {slots} slots leaves none of {core.sequences} sequences to requests; open "
                           "the context with more sequences.")
        if slots and core.sequence_tokens != core.context_tokens:
            raise LabError("Sequences can share cells only in a unified KV cache; open the context with one, or keep "
                           "prefixes in memory or on disk.")
        self.core, self.min_tokens, self.keep_output = core, min_tokens, keep_output
        self.most_cells = most_cells or core.context_tokens // 2
        self.memory, self.disk = memory, disk
        self.cells = self.peak_cells = 0
        self.counts = Counts()
        self._states: list[MemoryStates | DiskStates] = [tier for tier in (memory, disk) if tier is not None]
        self._slots = slots
        self._free = list(range(slots))[::-1]
        self._shelf = Shelf()
        self._entries: dict[bytes, _Entry] = {}
        self._uses: dict[Job, _Use] = {}

    # What the scheduler calls

    def covers(self, job: Job) -> int:
        """Cells that `reuse` would share with `job`; what it would take them from becomes the last to be evicted."""
        n, key = self._longest(self._shelf, packed(job.tokens[:-1]))
        if key is not None:
            self._shelf.touch(key)
        return n

    def reuse(self, job: Job) -> None:
        """Put the longest cached prefix of `job.tokens` into its slot, the last token excepted."""
        began = self.core.now()
        wanted = packed(job.tokens[:-1])
        found = self._find(wanted)
        self.counts.lookup_s.append(self.core.now() - began)
        used = next((place for n, place, key in found if self._fill(job, n, place, key)), None)
        if not job.preemptions:
            job.cached_tokens = job.done
        name = used.name if isinstance(used, (MemoryStates, DiskStates)) else "cells"
        self.counts.asked_tokens += len(job.tokens)
        if used is None:
            self.counts.misses += 1
        else:
            self.counts.hits[name] = self.counts.hits.get(name, 0) + 1
            self.counts.reused_tokens[name] = self.counts.reused_tokens.get(name, 0) + job.done
        self.counts.spent_s += self.core.now() - began

    def keep(self, job: Job) -> None:
        """Take over the prompt (and answer) of an ended job, where that adds enough to what is cached."""
        began = self.core.now()
        n = job.done if self.keep_output else min(job.done, job.prompt_tokens)
        key = packed(job.tokens[:n])
        shelves = [self._shelf, *(tier.shelf for tier in self._states)]
        if n - max(self._longest(shelf, key)[0] for shelf in shelves) >= self.min_tokens:
            self.counts.kept += 1
            use = self._uses.get(job)
            held = (use.held.cut(n) if use else Held()).grown(n)
            if not self._hold(key, job.slot, held) and self._states and self.core.forget(job.slot, n):
                self._store(0, key, self._save(job.slot))
        took_s = self.core.now() - began
        self.counts.spent_s += took_s
        self.counts.kept_s += took_s

    def release(self, job: Job) -> None:
        """The job no longer uses what it shared."""
        if self._uses.pop(job, None) is not None:
            self._recount()

    def evict(self, cells: int) -> bool:
        """Give back `cells` cells or more; False, and nothing given back, if so many are not to be had.

        Cells that a running job shares stay with it, and stay counted here, when their entry goes.
        """
        if self.cells - distinct(use.held for use in self._uses.values()) < cells:
            return False
        began, target, used = self.core.now(), self.cells - cells, {use.key for use in self._uses.values()}
        for key in sorted(self._shelf, key=used.__contains__):  # oldest first, those in use after all others
            if self.cells <= target:
                break
            self._demote(key)
        self.counts.spent_s += self.core.now() - began
        return True

    # For its owner

    def flush(self) -> None:
        """Write what is only in cells or in memory to disk, as before the process ends."""
        if self.disk is None:
            return
        for key, entry in self._entries.items():
            if self.disk.shelf.longest(key)[0] * TOKEN_BYTES < len(key):
                self.disk.put(key, self._save(entry.slot))
        for key in list(self.memory.shelf) if self.memory else []:
            state = self.memory.get(key) if self.memory and key not in self.disk.shelf else None
            if state is not None:
                self.disk.put(key, state)

    def clear(self) -> None:
        """Forget what is in cells and in memory; files stay."""
        for key in list(self._shelf):
            self._drop(key)
        if self.memory:
            self.memory.clear()

    def problems(self) -> list[str]:
        """What the user should change, in sentences."""
        said = [line for tier in self._states for line in tier.problems()]
        if self.counts.not_restored:
            said.append(f"{self.counts.not_restored} states could not be restored; give the context more cells, or delete "
                        "states made with other settings.")
        return said

    # Finding and moving

    def _longest(self, shelf: Shelf, wanted: bytes) -> tuple[int, bytes | None]:
        """What `shelf.longest` finds, where that is long enough to be used; otherwise (0, None)."""
        n, key = shelf.longest(wanted)
        return (n, key) if n >= self.min_tokens else (0, None)

    def _find(self, wanted: bytes) -> list[tuple[int, MemoryStates | DiskStates | Shelf, bytes]]:
        """(tokens, where, entry) of what can be reused, longest first."""
        found: list[tuple[int, MemoryStates | DiskStates | Shelf, bytes]] = []
        n, key = self._longest(self._shelf, wanted)
        if key is not None:
            found.append((n, self._shelf, key))
        for tier in self._states:
            n, key = self._longest(tier.shelf, wanted)
            if key is not None and n >= self.min_tokens + (found[-1][0] if found else 0):
                found.append((n, tier, key))
        return found[::-1]

    def _fill(self, job: Job, n: int, place: MemoryStates | DiskStates | Shelf, key: bytes) -> bool:
        """Put the first `n` tokens of entry `key` into the job's slot; False if that did not work."""
        began = self.core.now()
        if isinstance(place, Shelf):
            entry = self._entries[key]
            self._shelf.touch(key)
            self.core.copy(entry.slot, job.slot, 0, n)
            self._lend(job, n, key, entry.held)
            self.counts.share_s.append(self.core.now() - began)
            return True
        state = place.get(key)
        if state is None:
            return False
        try:
            self.core.restore(job.slot, state)
        except LabError:
            self.core.forget(job.slot)
            self.counts.not_restored += 1
            return False
        self.counts.restore_s.append(self.core.now() - began)
        self._promote(key, state, place)
        held = Held().grown(len(key) // TOKEN_BYTES)
        shared = self._hold(key, job.slot, held)
        if n < held.length and not self.core.forget(job.slot, n):
            self.core.forget(job.slot)  # a memory that cannot drop a part gives nothing but whole entries
            return False
        if shared:
            self._lend(job, n, key, held)
        job.done = n
        return True

    def _lend(self, job: Job, n: int, key: bytes, held: Held) -> None:
        self._uses[job] = _Use(key=key, held=held.cut(n))
        job.done = job.shared = n
        self._recount()

    def _hold(self, key: bytes, source: int, held: Held) -> bool:
        """Make an entry of the first `held.length` cells of sequence `source`; False where the cells tier cannot."""
        if not self._slots or held.length > self.most_cells:
            return False
        for shorter in self._shelf.shorter(key):  # the longer entry serves every prefix of it
            self._drop(shorter)
        while not self._free or distinct([*(e.held for e in self._entries.values()), held]) > self.most_cells:
            used = {use.key for use in self._uses.values()}
            self._demote(min(self._shelf, key=used.__contains__))
        slot = self._free.pop()
        self.core.copy(source, slot, 0, held.length)
        self._entries[key] = _Entry(slot=slot, held=held)
        self._shelf.add(key, held.length)
        self._recount()
        return True

    def _demote(self, key: bytes) -> None:
        """Take an entry's cells away; its state goes down a tier unless it is there already."""
        self.counts.evictions += 1
        if self._states and not any(tier.shelf.longest(key)[0] * TOKEN_BYTES == len(key) for tier in self._states):
            self._store(0, key, self._save(self._entries[key].slot))
        self._drop(key)

    def _drop(self, key: bytes) -> None:
        slot = self._entries.pop(key).slot
        self._shelf.remove(key)
        self.core.forget(slot)
        self._free.append(slot)
        self._recount()

    def _promote(self, key: bytes, state: bytes, place: MemoryStates | DiskStates) -> None:
        if place is self.disk and self.memory is not None:
            self._store(0, key, state)

    def _store(self, tier: int, key: bytes, state: bytes) -> None:
        """Put a state into a tier; what has to go for it goes one further down."""
        for gone, its_state in self._states[tier].put(key, state):
            if tier + 1 < len(self._states):
                self._store(tier + 1, gone, its_state)

    def _save(self, slot: int) -> bytes:
        began = self.core.now()
        state = self.core.save(slot)
        self.counts.save_s.append(self.core.now() - began)
        return state

    def _recount(self) -> None:
        self.cells = distinct([*(e.held for e in self._entries.values()), *(u.held for u in self._uses.values())])
        self.peak_cells = max(self.peak_cells, self.cells)

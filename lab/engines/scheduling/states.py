"""Saved states of sequences in memory, the least recently used given up first, by a true count of bytes."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator

from lab.engines.scheduling.radix import RadixTree
from lab.errors import LabError

ENTRY_BYTES = 1024
"""What Python keeps for an entry besides its state and tokens: two tree nodes, three dictionary entries, headers.

Measured with tracemalloc at 380 to 580 bytes; a test holds the count to never less than the truth.
"""


class Shelf:
    """Packed token sequences in order of use, found by what they begin with, with the size of each."""

    def __init__(self) -> None:
        self.held = 0
        """Sum of the sizes."""
        self._sizes: OrderedDict[bytes, int] = OrderedDict()
        self._tree = RadixTree()

    def add(self, key: bytes, size: int) -> None:
        """A new sequence, the most recently used one."""
        self._sizes[key] = size
        self._tree.add(key)
        self.held += size

    def remove(self, key: bytes) -> None:
        self.held -= self._sizes.pop(key)
        self._tree.remove(key)

    def touch(self, key: bytes) -> None:
        """`key` is now the most recently used one."""
        self._sizes.move_to_end(key)

    def longest(self, key: bytes) -> tuple[int, bytes | None]:
        """(tokens in common, a sequence on the shelf that has them); (0, None) where none begins like `key`."""
        return self._tree.longest(key)

    def shorter(self, key: bytes) -> list[bytes]:
        """The sequences that `key` continues: who has `key` needs none of them."""
        return list(self._tree.shorter(key))

    def __contains__(self, key: bytes) -> bool:
        return key in self._sizes

    def __iter__(self) -> Iterator[bytes]:
        """From the least to the most recently used."""
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)


class MemoryStates:
    """At most `capacity_bytes` of saved states, tokens and bookkeeping counted."""

    name = "memory"

    def __init__(self, capacity_bytes: int) -> None:
        if capacity_bytes < 0:
            raise LabError(f"A capacity of {capacity_bytes:,} bytes for states in memory is negative; give 0 or more.")
        self.capacity_bytes = capacity_bytes
        self.shelf = Shelf()
        self.peak_bytes = self.evictions = self.too_large = self.largest_bytes = 0
        self._states: dict[bytes, bytes] = {}

    @property
    def held_bytes(self) -> int:
        return self.shelf.held

    def get(self, key: bytes) -> bytes | None:
        """The state of `key`, which becomes the most recently used one."""
        self.shelf.touch(key)
        return self._states[key]

    def put(self, key: bytes, state: bytes) -> list[tuple[bytes, bytes]]:
        """Keep `state`; returns what had to go for it, which is `state` itself when it can never fit."""
        if key in self.shelf:
            self.shelf.touch(key)
            return []
        # The key exists twice: here and in the edges of the tree.
        size = sys.getsizeof(state) + 2 * len(key) + ENTRY_BYTES
        self.largest_bytes = max(self.largest_bytes, size)
        if size > self.capacity_bytes:
            self.too_large += 1
            return [(key, state)]
        for shorter in self.shelf.shorter(key):
            self.drop(shorter)
        gone = []
        while self.held_bytes + size > self.capacity_bytes:
            oldest = next(iter(self.shelf))
            gone.append((oldest, self._states[oldest]))
            self.drop(oldest)
        self.evictions += len(gone)
        self._states[key] = state
        self.shelf.add(key, size)
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        return gone

    def drop(self, key: bytes) -> None:
        self.shelf.remove(key)
        del self._states[key]

    def clear(self) -> None:
        for key in list(self.shelf):
            self.drop(key)

    def problems(self) -> list[str]:
        """What the user should change, in sentences."""
        if not self.too_large:
            return []
        return [f"{self.too_large} states of up to {self.largest_bytes / 1e6:,.1f} MB did not fit {self.name}; give it "
                f"more than its {self.capacity_bytes / 1e6:,.1f} MB."]

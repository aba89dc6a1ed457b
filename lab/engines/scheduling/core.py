"""What the step loop needs of an engine: one batch to fill, one KV cache to keep, one vocabulary, one clock."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lab.errors import LabError
from lab.records import Decoding


class KVCacheFull(LabError):
    """No cells are left in the KV cache for this batch."""


class Picker(Protocol):
    """Chooses tokens for one request."""

    def pick(self, entry: int, logits: NDArray[np.float32]) -> int:
        """The next token after batch entry `entry`, whose row of logits is `logits`."""
        ...

    def close(self) -> None: ...


class Core(Protocol):
    """`engines.llama.context.Context` is one, `engines.scheduling.scripted_core.ScriptedCore` another.

    The batch is the first `count` entries of the arrays `token`, `position`, `output` (int8: keep logits),
    `sequence_count` and `sequence` (entries x sequences); `decode` evaluates it, `logits` shows the kept rows in batch
    order until the next `decode`. All sequences together have `context_tokens` cells, one alone at most
    `sequence_tokens` (the same number where the cells are one pool).
    """

    context_tokens: int
    sequence_tokens: int
    sequences: int
    batch_tokens: int
    token: NDArray[np.int32]
    position: NDArray[np.int32]
    sequence_count: NDArray[np.int32]
    sequence: NDArray[np.int32]
    output: NDArray[np.int8]

    def decode(self, count: int) -> None:
        """Raises `KVCacheFull` when the cells do not suffice; some of the batch may then be in the cache already."""
        ...

    def logits(self, rows: int) -> NDArray[np.float32]: ...
    def clear(self) -> None: ...
    def forget(self, sequence: int, start: int = 0, end: int = -1) -> bool: ...
    def copy(self, source: int, target: int, start: int = 0, end: int = -1) -> None: ...
    def length(self, sequence: int) -> int: ...
    def save(self, sequence: int) -> bytes: ...
    def restore(self, sequence: int, state: bytes) -> None: ...
    def sampler(self, decoding: Decoding) -> Picker: ...
    def piece(self, token: int) -> bytes: ...
    def is_end(self, token: int) -> bool: ...
    def now(self) -> float: ...

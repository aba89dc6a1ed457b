"""A core without a model: the scripted engine's Markov chain over a counted KV cache, on a virtual clock.

Its cost model is a step of `step_s` plus `token_s` per token of the batch, so that schedules can be checked exactly. It
is strict: a position that does not continue its sequence, an unknown sequence or a full cache is an error.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lab.engines import _schemas
from lab.engines.scheduling.core import KVCacheFull
from lab.engines.scheduling.sampling import distribution, draw
from lab.errors import LabError
from lab.records import Decoding

END = 256


class ScriptedCore:
    """`Core` over a second-order Markov chain. A token's logits depend on it and the one before it in its sequence."""

    def __init__(
        self, *, context_tokens: int = 256, sequences: int = 8, batch_tokens: int = 64, vocabulary: int = 257,
        sharpness: float = 2.0, seed: int = 0, step_s: float = 0.004, token_s: float = 0.0005, separate: bool = False,
        reply: str = "",
    ) -> None:
        """With a `reply` every answer spells it, a byte a token, whatever the chain says."""
        self._reply = reply.encode()
        self.context_tokens, self.sequences, self.batch_tokens = context_tokens, sequences, batch_tokens
        self.sequence_tokens = context_tokens // sequences if separate else context_tokens
        self.vocabulary, self._sharpness, self._seed = vocabulary, sharpness, seed
        self._step_s, self._token_s, self.clock_s = step_s, token_s, 0.0
        self.token = np.zeros(batch_tokens, np.int32)
        self.position = np.zeros(batch_tokens, np.int32)
        self.sequence_count = np.ones(batch_tokens, np.int32)
        self.sequence = np.zeros((batch_tokens, sequences), np.int32)
        self.output = np.zeros(batch_tokens, np.int8)
        self._held: list[dict[int, tuple[int, int]]] = [{} for _ in range(sequences)]
        """Per sequence: position -> (cell, token); sequences that share a prefix share its cells."""
        self._next_cell = 0
        self._logits = np.zeros((0, vocabulary), np.float32)

    def used(self) -> int:
        """Cells in use, shared ones counted once."""
        return len({cell for held in self._held for cell, _ in held.values()})

    def decode(self, count: int) -> None:
        if not 0 < count <= self.batch_tokens:
            raise LabError(f"A batch of {count} tokens does not fit {self.batch_tokens}.")
        # Counting cells that sequences share takes longer than all the rest, and is not needed while even their sum fits.
        if sum(map(len, self._held)) + count > self.context_tokens and self.used() + count > self.context_tokens:
            raise KVCacheFull(f"The KV cache of {self.context_tokens:,} tokens is full; ask for a larger context.")
        rows = []
        for i in range(count):
            token, position, cell = int(self.token[i]), int(self.position[i]), self._next_cell
            self._next_cell += 1
            for sequence in self.sequence[i, : self.sequence_count[i]]:
                held = self._held[sequence]
                if position != len(held) or not 0 <= token < self.vocabulary:
                    raise LabError(f"Token {token} at position {position} does not continue sequence {sequence}, "
                                   f"which has {len(held)}.")
                if len(held) >= self.sequence_tokens:
                    raise KVCacheFull(f"The {self.sequence_tokens:,} cells of sequence {sequence} are full.")
                held[position] = (cell, token)
            if self.output[i]:
                held = self._held[self.sequence[i, 0]]
                rows.append(self.row(held[position - 1][1] if position else -1, token))
        self._logits = np.stack(rows) if rows else np.zeros((0, self.vocabulary), np.float32)
        self.clock_s += self._step_s + self._token_s * count

    def logits(self, rows: int) -> NDArray[np.float32]:
        return self._logits[:rows]

    def clear(self) -> None:
        self._held = [{} for _ in range(self.sequences)]

    def forget(self, sequence: int, start: int = 0, end: int = -1) -> bool:
        held = self._held[sequence]
        for position in [p for p in held if p >= start and (end < 0 or p < end)]:
            del held[position]
        return True

    def copy(self, source: int, target: int, start: int = 0, end: int = -1) -> None:
        for position, entry in self._held[source].items():
            if position >= start and (end < 0 or position < end):
                self._held[target][position] = entry

    def length(self, sequence: int) -> int:
        return len(self._held[sequence])

    def save(self, sequence: int) -> bytes:
        return np.array([self._held[sequence][p][1] for p in range(self.length(sequence))], np.int32).tobytes()

    def restore(self, sequence: int, state: bytes) -> None:
        tokens = np.frombuffer(state, np.int32)
        if self.used() + len(tokens) > self.context_tokens:
            raise LabError("The saved state does not fit this context; it needs the same model, KV type and room.")
        self._held[sequence] = {i: (self._next_cell + i, int(t)) for i, t in enumerate(tokens)}
        self._next_cell += len(tokens)

    def sampler(self, decoding: Decoding) -> ScriptedSampler:
        return ScriptedSampler(decoding, self._reply)

    def piece(self, token: int) -> bytes:
        return b"" if token == END else bytes([token])

    def is_end(self, token: int) -> bool:
        return token == END

    def now(self) -> float:
        return self.clock_s

    def sleep(self, seconds: float) -> None:
        self.clock_s += seconds

    @functools.lru_cache(maxsize=4096)  # noqa: B019 - a core lives as long as its run
    def row(self, before: int, last: int) -> NDArray[np.float32]:
        """Next-token logits after the tokens `before`, `last` (-1 stands for none)."""
        random = np.random.default_rng((self._seed, before + 1, last + 1))
        return (self._sharpness * random.standard_normal(self.vocabulary)).astype(np.float32)


class ScriptedSampler:
    """Draws from the decoding's distribution with its seed; under a schema it spells the smallest answer, else `reply`."""

    def __init__(self, decoding: Decoding, reply: bytes = b"") -> None:
        self._decoding, self._random = decoding, np.random.default_rng(decoding.seed)
        said = _schemas.smallest(decoding).encode() if decoding.json_schema else reply
        self._script: Iterator[int] | None = iter([*said, END]) if said else None

    def pick(self, entry: int, logits: NDArray[np.float32]) -> int:
        if self._script is not None:
            return next(self._script, END)
        return draw(distribution(logits, self._decoding), self._random)

    def close(self) -> None:
        pass

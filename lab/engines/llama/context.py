"""One KV cache over the weights: fill a batch, decode it, read logits, and move, copy or save sequences."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp as C
import numpy as np
import psutil
from numpy.typing import NDArray

from lab.engines import Flash
from lab.engines.llama.sampler import Sampler
from lab.engines.llama.weights import Weights, apart, last_message
from lab.engines.scheduling.core import KVCacheFull
from lab.errors import LabError
from lab.records import Decoding

KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2}
KV_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32}
_FLASH = {"auto": -1, "off": 0, "on": 1}


class Context:
    """A context of `context_tokens` cells for up to `sequences` sequences.

    `unified` cells are one pool: sequences can share a prefix and use what others leave. Without it every sequence has
    its own equal part (`sequence_tokens`): attention reads no cell of another one, which is faster in large batches and
    keeps logits independent of the company.

    The batch is filled through numpy arrays that llama.cpp reads in place (`token`, `position`, `output`), so that a step
    costs a few microseconds of Python. `logits` are views into llama.cpp's memory, valid until the next `decode`.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        context_tokens: int,
        threads: int,
        threads_batch: int | None = None,
        sequences: int = 1,
        batch_tokens: int = 2048,
        ubatch_tokens: int = 512,
        flash_attention: Flash = "auto",
        kv_type: str = "f16",
        unified: bool = True,
        watch_tensors: Any = None,
    ) -> None:
        if kv_type not in KV_TYPES:
            raise LabError(f"There is no KV cache type '{kv_type}'; choose one of {', '.join(KV_TYPES)}.")
        if flash_attention not in _FLASH:
            raise LabError(f"Flash attention is 'auto', 'on' or 'off', not '{flash_attention}'.")
        if not 0 < context_tokens < 2**31:
            raise LabError(f"A context of {context_tokens:,} tokens cannot be made; ask for 1 to {2**31 - 1:,}.")
        cells = context_tokens if unified else -(-context_tokens // sequences // 256) * 256 * sequences
        needed, free = cells * kv_bytes_per_token(weights, kv_type), psutil.virtual_memory().available
        if needed > free:
            raise LabError(f"A KV cache of {cells:,} tokens needs {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB of "
                           "memory are free; ask for a smaller context or a smaller KV type.")
        self.weights, self.context_tokens, self.sequences = weights, context_tokens, sequences
        params = C.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context_tokens, batch_tokens, min(ubatch_tokens, batch_tokens)
        params.n_seq_max, params.kv_unified = sequences, unified
        params.n_threads, params.n_threads_batch = threads, threads_batch or threads
        params.flash_attn_type = _FLASH[flash_attention]
        params.type_k = params.type_v = KV_TYPES[kv_type]
        params.no_perf = True
        if watch_tensors is not None:
            params.cb_eval = watch_tensors
        self.pointer = apart(C.llama_init_from_model, weights.pointer, params)
        if not self.pointer:
            raise LabError(f"llama.cpp cannot make a context of {context_tokens:,} tokens ({last_message()}); "
                           "ask for a smaller context or another KV type.")
        self.memory = C.llama_get_memory(self.pointer)
        self.batch_tokens = C.llama_n_batch(self.pointer)
        self.sequence_tokens: int = context_tokens if unified else C.llama_n_ctx_seq(self.pointer)
        if not unified:  # llama.cpp rounds every part up to 256 cells
            self.context_tokens = self.sequence_tokens * sequences
        self._arrays(self.batch_tokens, sequences)
        self._viewed, self._view = (0, 0), np.empty((0, 0), np.float32)

    def _arrays(self, room: int, sequences: int) -> None:
        self.token = np.zeros(room, np.int32)
        self.position = np.zeros(room, np.int32)
        self.sequence_count = np.ones(room, np.int32)
        self.sequence = np.zeros((room, sequences), np.int32)
        self.output = np.zeros(room, np.int8)
        first, stride = self.sequence.ctypes.data, self.sequence.strides[0]
        self._rows = np.arange(first, first + room * stride, stride, dtype=np.uint64)
        self.batch = C.llama_batch(
            n_tokens=0,
            token=_pointer(self.token, C.llama_token),
            pos=_pointer(self.position, C.llama_pos),
            n_seq_id=_pointer(self.sequence_count, ctypes.c_int32),
            seq_id=ctypes.cast(self._rows.ctypes.data, ctypes.POINTER(ctypes.POINTER(C.llama_seq_id))),
            logits=_pointer(self.output, ctypes.c_int8),
        )

    def decode(self, count: int) -> None:
        """Evaluate the first `count` entries of the batch. Raises `KVCacheFull` when no cells are left for them."""
        self.batch.n_tokens = count
        status = C.llama_decode(self.pointer, self.batch)
        if status == 1:
            raise KVCacheFull(f"The KV cache of {self.context_tokens:,} tokens is full; ask for a larger context.")
        if status != 0:
            raise LabError(f"llama.cpp could not evaluate the batch (status {status}: {last_message()}).")

    def prefill(self, tokens: Sequence[int], *, start: int = 0, sequence: int = 0, outputs_from: int | None = None) -> int:
        """Evaluate `tokens` of one sequence at positions `start`..., in chunks of the batch size.

        Logits are kept for the positions from `outputs_from` on (default: the last token only) of the LAST chunk; give a
        batch at least as large as the tokens to have them all. Returns how many rows of `logits` are valid.
        """
        outputs_from = len(tokens) - 1 if outputs_from is None else outputs_from
        ids = np.asarray(tokens, np.int32)
        rows = 0
        for at in range(0, len(ids), self.batch_tokens):
            part = ids[at : at + self.batch_tokens]
            n = len(part)
            self.token[:n] = part
            self.position[:n] = np.arange(start + at, start + at + n)
            self.sequence_count[:n] = 1
            self.sequence[:n, 0] = sequence
            self.output[:n] = np.arange(at, at + n) >= outputs_from
            rows = int(self.output[:n].sum())
            self.decode(n)
        return rows

    def step(self, token: int, position: int, sequence: int = 0) -> None:
        """Evaluate one token of one sequence and keep its logits."""
        self.token[0], self.position[0], self.sequence_count[0] = token, position, 1
        self.sequence[0, 0], self.output[0] = sequence, 1
        self.decode(1)

    def logits(self, rows: int) -> NDArray[np.float32]:
        """Logits of the `rows` outputs of the last `decode`, in batch order: shape (rows, vocabulary), a live view."""
        pointer = C.llama_get_logits(self.pointer)
        if not pointer:
            raise LabError("No logits were asked for in the last step.")
        address = ctypes.addressof(pointer.contents)
        if (address, rows) != self._viewed:  # making the view takes 20 us, and llama.cpp seldom moves its buffer
            buffer: Any = (ctypes.c_float * (rows * self.weights.vocabulary)).from_address(address)
            self._view = np.frombuffer(buffer, np.float32).reshape(rows, self.weights.vocabulary)
            self._viewed = (address, rows)
        return self._view

    def synchronize(self) -> None:
        C.llama_synchronize(self.pointer)

    def now(self) -> float:
        return time.perf_counter()

    def piece(self, token: int) -> bytes:
        return self.weights.piece(token)

    def is_end(self, token: int) -> bool:
        return self.weights.is_end(token)

    def sampler(self, decoding: Decoding) -> Sampler:
        """What chooses tokens under `decoding`; close it when the request ends."""
        return Sampler(self, decoding)

    # KV cache of one sequence. Positions are half-open ranges; -1 means "to the end".

    def clear(self) -> None:
        """Forget every sequence."""
        C.llama_memory_clear(self.memory, False)

    def forget(self, sequence: int, start: int = 0, end: int = -1) -> bool:
        """Drop positions of `sequence`; False if this kind of memory cannot drop a part."""
        return bool(C.llama_memory_seq_rm(self.memory, sequence, start, end))

    def copy(self, source: int, target: int, start: int = 0, end: int = -1) -> None:
        """Let `target` share the cells of `source` (no bytes are copied in a unified cache)."""
        C.llama_memory_seq_cp(self.memory, source, target, start, end)

    def keep(self, sequence: int) -> None:
        """Forget every other sequence."""
        C.llama_memory_seq_keep(self.memory, sequence)

    def length(self, sequence: int) -> int:
        """Number of positions held for `sequence`."""
        return int(C.llama_memory_seq_pos_max(self.memory, sequence)) + 1

    def save(self, sequence: int) -> bytes:
        """The cached state of `sequence`, to `restore` later into any context on the same weights and KV type."""
        size = C.llama_state_seq_get_size(self.pointer, sequence)
        buffer = (ctypes.c_uint8 * size)()
        written = C.llama_state_seq_get_data(self.pointer, buffer, size, sequence)
        return bytes(memoryview(buffer)[:written])

    def restore(self, sequence: int, state: bytes) -> None:
        """Put a saved state into `sequence`. Raises `LabError` when it does not fit this context."""
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        if not C.llama_state_seq_set_data(self.pointer, buffer, len(state), sequence):
            raise LabError("The saved state does not fit this context; it needs the same model, KV type and room.")

    def close(self) -> None:
        if self.pointer:
            C.llama_free(self.pointer)
            self.pointer = None


def kv_bytes_per_token(weights: Weights, kv_type: str) -> float:
    """Bytes that one cached token takes at most (all layers with full attention), keys and values."""
    model = weights.pointer
    width = C.llama_model_n_embd(model) // C.llama_model_n_head(model) * C.llama_model_n_head_kv(model)
    return 2.0 * KV_BYTES[kv_type] * width * float(C.llama_model_n_layer(model))


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))

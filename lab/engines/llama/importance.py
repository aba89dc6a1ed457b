"""Fills an importance matrix: how strongly each input column of each weight matrix is used on a calibration text.

The importance of column j of a matrix is the mean of x_j^2 over the tokens it multiplies (llama.cpp, tools/imatrix). The
activations are read where llama.cpp computed them, through its evaluation callback, so nothing is computed twice.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llama_cpp as C
import numpy as np
from llama_cpp import _ggml
from numpy.typing import NDArray

from lab.engines.llama.context import Context
from lab.engines.llama.weights import Weights
from lab.errors import LabError


class _Tensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h, as far as it is read here."""


_Tensor._fields_ = [
    ("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4), ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int), ("op_params", ctypes.c_int32 * 16), ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10), ("view_src", ctypes.c_void_p), ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p), ("name", ctypes.c_char * 64),
]


class _Collector:
    """Sums squared inputs per weight matrix over the evaluation callbacks."""

    def __init__(self) -> None:
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, int] = {}
        self.error: Exception | None = None

    def __call__(self, address: int, ask: bool, _user_data: object) -> bool:
        try:
            tensor = _Tensor.from_address(address)
            if ask:
                return self._wanted(tensor)
            self._add(tensor)
        except Exception as error:  # an exception cannot pass through C: keep it and raise it after the decode
            self.error = error
        return True

    def _wanted(self, tensor: _Tensor) -> bool:
        if tensor.op != _mul_mat() or not tensor.src[1]:
            return False
        return bool(tensor.src[0].contents.name.startswith(b"blk.") and tensor.src[1].contents.type == C.GGML_TYPE_F32)

    def _add(self, tensor: _Tensor) -> None:
        name = tensor.src[0].contents.name.decode()
        x = tensor.src[1].contents
        columns, rows, stride = x.ne[0], x.ne[1] * x.ne[2] * x.ne[3], x.nb[1]
        if stride != 4 * columns or not x.data:
            raise LabError(f"The inputs of {name} are not laid out as expected; no importance matrix can be filled.")
        values = np.frombuffer((ctypes.c_float * (columns * rows)).from_address(x.data), np.float32).reshape(rows, columns)
        self.sums[name] = self.sums.get(name, 0.0) + np.square(values, dtype=np.float64).sum(axis=0)
        self.counts[name] = self.counts.get(name, 0) + rows


def collect(path: Path, tokens: Sequence[int], *, threads: int, chunk_tokens: int = 512) -> dict[str, NDArray[np.float32]]:
    """The importance of every input column of every layer matrix of `path`, over `tokens` in chunks.

    Returns `{tensor name: (columns,) float32}`. Raises `LabError` if the text is shorter than a chunk.
    """
    if len(tokens) < chunk_tokens:
        raise LabError(f"The calibration text has {len(tokens)} tokens; give at least one chunk of {chunk_tokens}.")
    weights, collector = Weights(path), _Collector()
    callback = C.ggml_backend_sched_eval_callback(collector)
    # llama.cpp computes the last layer only where logits are asked for: ask everywhere, a few at a time to save memory.
    batch = min(128, chunk_tokens)
    context = Context(weights, context_tokens=chunk_tokens, threads=threads, batch_tokens=batch, ubatch_tokens=batch,
                      watch_tensors=callback)
    try:
        # In a thread of its own: here Ctrl-C would be raised inside the callback, where ctypes drops it.
        with ThreadPoolExecutor(1) as worker:
            for start in range(0, len(tokens) - chunk_tokens + 1, chunk_tokens):
                context.clear()
                worker.submit(context.prefill, tokens[start : start + chunk_tokens], outputs_from=0).result()
                if collector.error:
                    raise collector.error
    finally:
        context.close()
        weights.close()
    return {name: (total / collector.counts[name]).astype(np.float32) for name, total in collector.sums.items()}


def _mul_mat() -> int:
    """ggml's number for matrix multiplication, looked up by name since it moves between releases."""
    if not _known_op:
        name_of = _ggml.libggml.ggml_op_name
        name_of.argtypes, name_of.restype = [ctypes.c_int], ctypes.c_char_p
        _known_op.append(next(i for i in range(200) if name_of(i) == b"MUL_MAT"))
    return _known_op[0]


_known_op: list[int] = []

"""Makes quantised or shortened copies of a GGUF file with llama.cpp's own quantiser, each made once and kept by hash."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import llama_cpp as C
import numpy as np
from numpy.typing import NDArray

from lab import gguf_header, models
from lab.engines.llama.weights import apart, last_message, start_backend
from lab.errors import LabError

Importance = Mapping[str, NDArray[np.float32]]

FTYPES: dict[str, int] = {
    "F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q5_K_S": 16, "Q5_1": 9, "Q5_0": 8,
    "Q4_K_M": 15, "Q4_K_S": 14, "Q4_1": 3, "Q4_0": 2, "IQ4_NL": 25, "IQ4_XS": 30, "Q3_K_L": 13, "Q3_K_M": 12,
    "Q3_K_S": 11, "IQ3_M": 27, "IQ3_S": 26, "IQ3_XS": 22, "IQ3_XXS": 23, "Q2_K": 10, "Q2_K_S": 21, "IQ2_M": 29,
    "IQ2_S": 28, "IQ2_XS": 20, "IQ2_XXS": 19, "IQ1_M": 31, "IQ1_S": 24,
}
"""llama.cpp's file types by the name people use, from wide to narrow."""

NEEDS_IMPORTANCE = frozenset({"IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "Q2_K_S"})
"""Types that fall apart, or are refused, without an importance matrix."""


def rung(base: models.ModelFile, ftype: str, importance: Importance | None = None, *, threads: int = 0) -> models.ModelFile:
    """`base` requantised to `ftype`; made on first use, then found in the cache by the hashes of base and matrix.

    Raises `LabError` for an unknown type, a full disk, or a type that needs an importance matrix and has none.
    """
    check(ftype)
    if ftype in NEEDS_IMPORTANCE and importance is None:
        raise LabError(f"{ftype} needs an importance matrix; fill one with --imatrix-chunks of at least 1.")
    used = importance if ftype in NEEDS_IMPORTANCE or ftype.startswith("IQ") else None
    version = importlib.metadata.version("llama-cpp-python")
    mark = f"-im{_digest(used)}" if used else ""
    target = models.cache_dir() / "ladder" / base.sha256[:16] / f"{ftype}{mark}-{version}.gguf"
    if not target.is_file():
        _make(base.path, target, FTYPES[ftype], used, threads)
    header = gguf_header.read(target)
    return models.ModelFile(name=f"{base.name}:{ftype}", path=target, bytes=header.file_bytes,
                            sha256=models.sha256(target), licence=base.licence)


def check(ftype: str) -> None:
    """Raise `LabError` unless llama.cpp has the type `ftype`."""
    if ftype not in FTYPES:
        raise LabError(f"There is no quantization type '{ftype}'; choose from {', '.join(FTYPES)}.")


def pruned(base: models.ModelFile, layers: Sequence[int]) -> models.ModelFile:
    """`base` without these layers, every other tensor copied byte for byte; made on first use, then found in the cache.

    Raises `LabError` when a layer does not exist or none would be left.
    """
    total, without = layers_of(base), sorted(set(layers))
    if not without or without[0] < 0 or without[-1] >= total or len(without) >= total:
        raise LabError(f"{base.name} has the layers 0 to {total - 1}; leave out at least one of them and not all, not "
                       f"{', '.join(map(str, without)) or 'none'}.")
    mark = hashlib.sha256(",".join(map(str, without)).encode()).hexdigest()[:8]
    version = importlib.metadata.version("llama-cpp-python")
    kept = total - len(without)
    target = models.cache_dir() / "pruned" / base.sha256[:16] / f"{kept}-of-{total}-{mark}-{version}.gguf"
    if not target.is_file():
        _make(base.path, target, 0, None, 0, without=without)
    return models.ModelFile(name=f"{base.name}:{kept}-of-{total}-layers", path=target, bytes=target.stat().st_size,
                            sha256=models.sha256(target), licence=base.licence)


def layers_of(file: models.ModelFile) -> int:
    """How many layers (blocks) a model has."""
    return int(gguf_header.read(file.path).get("block_count", 0))


def _make(
    source: Path, target: Path, ftype: int, importance: Importance | None, threads: int, *, without: Sequence[int] = ()
) -> None:
    start_backend()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"{target.parent} cannot be made ({error.strerror}); set LAB_CACHE_DIR to a folder that can be "
                       "written.") from error
    header = gguf_header.read(source)
    # Upper bound: F32 for every weight. A full disk must be said before an hour of work, not after.
    needed = header.file_bytes if without else header.weights * (4 if ftype == 0 else 2)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise LabError(f"The disk of {target.parent} has {free / 1e6:,.0f} MB left and this copy may need "
                       f"{needed / 1e6:,.0f} MB; free some space or set LAB_CACHE_DIR to another disk.")
    params = C.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = ftype, True, threads
    left_out = (ctypes.c_int32 * (len(without) + 1))(*without, -1)
    if without:
        params.only_copy, params.prune_layers = True, left_out
    held = _c_matrix(importance) if importance else None
    if held:
        params.imatrix = held[0]
    partial = target.with_suffix(f".{os.getpid()}.partial")
    try:
        status = apart(C.llama_model_quantize, str(source).encode(), str(partial).encode(), ctypes.byref(params))
        if status != 0 or not partial.is_file():
            raise LabError(f"llama.cpp could not quantise {source.name} ({last_message()}); check the file and the disk.")
        gguf_header.read(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _c_matrix(importance: Importance) -> tuple[ctypes.Array[C.llama_model_imatrix_data], list[NDArray[np.float32]]]:
    """The matrix as llama.cpp takes it (ended by an empty name), and the arrays that must stay alive meanwhile."""
    arrays = [np.ascontiguousarray(v, np.float32) for v in importance.values()]
    entries = (C.llama_model_imatrix_data * (len(arrays) + 1))()
    for entry, name, array in zip(entries, importance, arrays, strict=False):
        entry.name, entry.size = name.encode(), array.size
        entry.data = ctypes.cast(array.ctypes.data, ctypes.POINTER(ctypes.c_float))
    return entries, arrays


def _digest(importance: Importance) -> str:
    digest = hashlib.sha256()
    for name in sorted(importance):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(importance[name]).tobytes())
    return digest.hexdigest()[:10]

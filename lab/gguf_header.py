"""Reads the header of a GGUF file: metadata and the list of tensors, without touching weights or building the vocabulary.

The package `gguf` needs 2.7 s for the header of a 49k-token vocabulary because it makes an array per string; this skips
over the long arrays and takes 40 ms. Type names and block sizes come from that package. Format: docs/gguf.md of ggml.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from lab.errors import LabError

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_KEEP = 512  # longer arrays (vocabulary, merges) are kept as their length only; those with a value per layer are not
_DIMENSIONS = 4  # GGML_MAX_DIMS


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor: its name, type name (`Q4_K`), number of weights and bytes in the file."""

    name: str
    type: str
    weights: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a GGUF file says about itself. Arrays longer than 512 entries appear in `metadata` as their length."""

    path: Path
    file_bytes: int
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", "unknown"))

    def get(self, key: str, default: Any = None) -> Any:
        """Metadata under the architecture's prefix: `get("context_length")`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    @property
    def context_tokens(self) -> int:
        return int(self.get("context_length", 0))

    @property
    def weights(self) -> int:
        return sum(t.weights for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """True bits per weight: tensor bytes x 8 over the number of weights, scales and unquantised tensors included."""
        return 8 * sum(t.bytes for t in self.tensors) / self.weights

    def mix(self) -> dict[str, float]:
        """Share of the weights held in each type, largest first: `{"Q4_K": 0.71, "Q6_K": 0.29}`."""
        counts: Counter[str] = Counter()
        for tensor in self.tensors:
            counts[tensor.type] += tensor.weights
        return {kind: n / self.weights for kind, n in counts.most_common()}

    @property
    def quantised(self) -> bool:
        """Whether any weight is stored in fewer than 16 bits."""
        return any(t.type not in ("F32", "F16", "BF16", "F64") and t.weights > 1 for t in self.tensors)

    def bytes_per_token(self, depth: int = 0, kv_bytes: float = 2.0) -> float:
        """Bytes that decoding one token must read: every weight used once, and the KV cache of `depth` tokens.

        An embedding table beside a separate output matrix is read one row at a time and left out; a tied one is the
        output matrix. Of a mixture of experts only the used share counts. `kv_bytes` is bytes per cached value (F16: 2).
        """
        tied = not any(t.name == "output.weight" for t in self.tensors)
        experts, used = self.get("expert_count", 0), self.get("expert_used_count", 0)
        total = 0.0
        for tensor in self.tensors:
            if tensor.name == "token_embd.weight" and not tied:
                continue
            total += tensor.bytes * (used / experts if experts and "_exps" in tensor.name else 1.0)
        heads = _widest(self.get("attention.head_count")) or 1
        kv_heads = _widest(self.get("attention.head_count_kv", heads))
        width = int(self.get("attention.key_length", int(self.get("embedding_length", 0)) // heads))
        return total + 2.0 * int(self.get("block_count", 0)) * kv_heads * width * kv_bytes * depth


def read(path: Path) -> Header:
    """The header of the GGUF file at `path`. Raises `LabError` in one sentence if the file is none, or is cut short."""
    try:
        size = path.stat().st_size
        if size < 24:
            raise LabError(f"{path} is no GGUF file: it has only {size} bytes; download or convert the model again.")
        return _mapped(path, size)
    except OSError as error:
        raise LabError(f"{path} cannot be read ({error.strerror or error}); check the path and its permissions.") from error


def _mapped(path: Path, size: int) -> Header:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            raise LabError(f"{path} is no GGUF file (it does not start with the magic 'GGUF'); give a .gguf model file.")
        try:
            return _Reader(data).header(path, size)
        except (struct.error, IndexError, KeyError, UnicodeDecodeError, OverflowError, ValueError,
                RecursionError) as error:
            raise LabError(f"{path} is a broken GGUF file: its header cannot be read ({error}); get it again.") from error


class _Reader:
    """A cursor over the mapped file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 4

    def scalar(self, kind: str) -> Any:
        value, = struct.unpack_from(kind, self.data, self.at)
        self.at += struct.calcsize(kind)
        return value

    def text(self) -> str:
        length = self.scalar("<Q")
        if self.at + length > len(self.data):
            raise ValueError("a string runs past the end of the file")
        raw = self.data[self.at : self.at + length]
        self.at += length
        return raw.decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.scalar(_SCALARS[kind])
        inner, count = self.scalar("<I"), self.scalar("<Q")
        if count <= _KEEP:
            return [self.value(inner) for _ in range(count)]
        if inner == _STRING:
            at, unpack = self.at, struct.Struct("<Q").unpack_from
            for _ in range(count):
                at += 8 + unpack(self.data, at)[0]
            self.at = at
        else:
            self.at += count * struct.calcsize(_SCALARS[inner])
        return count

    def header(self, path: Path, size: int) -> Header:
        version = self.scalar("<I")
        if version not in (2, 3):
            raise LabError(f"{path} is GGUF version {version}; versions 2 and 3 can be read, so convert it again.")
        count, pairs = self.scalar("<Q"), self.scalar("<Q")
        metadata = {}
        for _ in range(pairs):
            key = self.text()
            metadata[key] = self.value(self.scalar("<I"))
        tensors, needed = [], 0
        for _ in range(count):
            name, dimensions = self.text(), self.scalar("<I")
            if dimensions > _DIMENSIONS:
                raise ValueError(f"a tensor has {dimensions} dimensions")
            shape = [self.scalar("<Q") for _ in range(dimensions)]
            kind, offset = GGMLQuantizationType(self.scalar("<I")), self.scalar("<Q")
            block, block_bytes = GGML_QUANT_SIZES[kind]
            weights = 1
            for n in shape:
                weights *= n
            tensors.append(Tensor(name=name, type=kind.name, weights=weights, bytes=weights // block * block_bytes))
            needed = max(needed, offset + tensors[-1].bytes)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"its alignment is {alignment!r}")
        needed += (self.at + alignment - 1) // alignment * alignment
        if size < needed:
            raise LabError(f"{path} is cut short: it has {size:,} of {needed:,} bytes; download or copy it again.")
        if not any(t.weights for t in tensors):
            raise LabError(f"{path} holds no tensors (a vocabulary-only file?); give a GGUF file with weights.")
        header = Header(path=path, file_bytes=size, metadata=metadata, tensors=tuple(tensors))
        for key in ("context_length", "block_count", "embedding_length"):
            if not isinstance(header.get(key, 0), int):
                raise ValueError(f"its {key} is {header.get(key)!r}")
        return header


def _widest(heads: Any) -> int:
    """A number of heads; some architectures give one per layer."""
    return max(heads, default=0) if isinstance(heads, list) else int(heads or 0)

"""What a Hugging Face folder says of its model: vocabulary, context, end tokens, and the bytes one decoded token reads."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import LabError

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of a model. `read_bytes` are the weights that every decoded token reads, as they lie in the folder."""

    vocabulary: int
    context_tokens: int
    ends: frozenset[int]
    read_bytes: int
    stored_dtype: str
    kv_values_per_token: int

    @staticmethod
    def read(folder: Path) -> Architecture:
        """Raises `LabError` on a folder whose config or weights cannot be read."""
        try:
            config = json.loads((folder / "config.json").read_text())
            config = {**config, **config.get("text_config", {})}
            tensors = {name: size for file in folder.glob("*.safetensors") for name, size in _tensors(file).items()}
            heads = int(config["num_attention_heads"])
            width = int(config.get("head_dim") or config["hidden_size"] // heads)
            kv_heads = int(config.get("num_key_value_heads") or heads)
            return Architecture(
                vocabulary=int(config["vocab_size"]), context_tokens=int(config.get("max_position_embeddings", 4096)),
                ends=_ends(folder, config), read_bytes=_read_each_token(tensors),
                stored_dtype=str(config.get("dtype") or config.get("torch_dtype") or "bfloat16"),
                kv_values_per_token=2 * int(config["num_hidden_layers"]) * kv_heads * width)
        except (OSError, ValueError, KeyError, struct.error) as error:
            raise LabError(f"{folder} is no model folder that can be read ({type(error).__name__}: {error}); give another, "
                           "or remove it to have it converted again.") from error

    def bytes_per_token(self, depth: int, *, dtype: str) -> float:
        """Weights and the KV cache of `depth` tokens; both in `dtype`, which vLLM casts the weights to when it loads."""
        scale = BYTES[dtype] / BYTES.get(self.stored_dtype, BYTES[dtype])
        return self.read_bytes * scale + depth * self.kv_values_per_token * BYTES[dtype]


def _read_each_token(tensors: Mapping[str, int]) -> int:
    """All weights, but of the input embedding only one row, unless it is the output matrix too (tied)."""
    untied = any(name.endswith("lm_head.weight") for name in tensors)
    return sum(size for name, size in tensors.items() if not (untied and "embed_tokens" in name))


def _ends(folder: Path, config: Mapping[str, Any]) -> frozenset[int]:
    try:
        said = json.loads((folder / "generation_config.json").read_text())
    except (OSError, ValueError):
        said = {}
    found: set[int] = set()
    for value in (config.get("eos_token_id"), said.get("eos_token_id")):
        found.update([value] if isinstance(value, int) else value or [])
    return frozenset(found)


def _tensors(file: Path) -> dict[str, int]:
    """Bytes of every tensor, from the header of a safetensors file (length as 8 bytes, then JSON)."""
    with open(file, "rb") as opened:
        header = json.loads(opened.read(struct.unpack("<Q", opened.read(8))[0]))
    return {name: said["data_offsets"][1] - said["data_offsets"][0] for name, said in header.items() if name != "__metadata__"}

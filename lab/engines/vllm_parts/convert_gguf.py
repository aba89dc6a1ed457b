"""Writes the weights and tokenizer of a GGUF file as a Hugging Face folder; a script that vLLM's environment runs.

`python convert_gguf.py FILE.gguf FOLDER DTYPE`. Imports nothing of ours: the workbench is not installed there.
"""

import sys
from pathlib import Path
from typing import Any

DIGITS_ALONE = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Pre-tokenizers (`tokenizer.ggml.pre`) that take every digit by itself before GPT-2's splitting. transformers 5.19 reads
them as plain GPT-2, which gave other tokens than llama.cpp for 19 of 83 chapters of documentation."""


def main(source: Path, target: Path, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place: Any = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name, "local_files_only": True}
    # Without `dequantize` the weights stay packed and cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(**place, quantization_config=GgufConfig(dequantize=True))
    for held in (model, model.config):
        for name in ("quantization_config", "hf_quantizer", "is_quantized"):
            if hasattr(held, name):
                delattr(held, name)
    model = model.to(getattr(torch, dtype))
    model.config.dtype = getattr(torch, dtype)
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(**place)
    split_as_llama_cpp(tokenizer, str(source))
    tokenizer.save_pretrained(target)


def split_as_llama_cpp(tokenizer: Any, source: str) -> None:
    """Mend the splitting of text before its tokens are looked up."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(source).fields.get("tokenizer.ggml.pre")
    if field is not None and str(field.contents()) in DIGITS_ALONE:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])

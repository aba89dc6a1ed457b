"""The ladder of one model: the same weights in several quantizations, made once, from the widest to the smallest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from lab import gguf_header, machine, models
from lab.engines import open_engine
from lab.errors import LabError
from lab.metrics import perplexity

CALIBRATION_TOKENS = 512
"""Tokens of one chunk that fills an importance matrix."""


def check(rungs: Sequence[str]) -> None:
    """Raise `LabError` for a rung that llama.cpp cannot make."""
    from lab.engines.llama import quantize

    for name in rungs:
        quantize.check(name)


def make(
    source: models.ModelFile, rungs: Sequence[str], importance: Any = None, *, threads: int = 0
) -> list[tuple[str, models.ModelFile]]:
    """The rungs' files: the first one (the base), then the others from large to small."""
    from lab.engines.llama import quantize

    base = quantize.rung(source, rungs[0], importance, threads=threads)
    made = [(name, quantize.rung(source, name, importance, threads=threads))
            for name in tqdm(rungs[1:], desc="making rungs", leave=False, disable=None)]
    return [(rungs[0], base), *sorted(made, key=lambda pair: -pair[1].bytes)]


def importance(
    source: models.ModelFile, rungs: Sequence[str], text: Callable[[], str], *, chunks: int, scored_tokens: int = 0,
    threads: int = 0,
) -> Any:
    """The importance matrix that IQ rungs need, from the last `chunks` of `text`; None when no rung asks for one.

    The first `scored_tokens` of the text are kept for measuring. Raises `LabError` when the text is too short.
    """
    from lab.engines.llama import importance as matrix
    from lab.engines.llama import quantize

    if not any(name.startswith("IQ") or name in quantize.NEEDS_IMPORTANCE for name in rungs):
        return None
    if chunks < 1:
        raise LabError("IQ rungs need an importance matrix; give --imatrix-chunks at least 1 or leave them out.")
    wide = quantize.rung(source, "F16", threads=threads)
    engine = open_engine("llama_cpp", str(wide.path), threads=threads)
    try:
        tokens = perplexity.tokens_for(engine, text())
    finally:
        engine.close()
    wanted = CALIBRATION_TOKENS * chunks
    if len(tokens) < wanted + scored_tokens:
        raise LabError(f"The text has {len(tokens):,} tokens, too few for {scored_tokens:,} to score and {wanted:,} others to "
                       "calibrate on; give a longer --text, or fewer --chunks or --imatrix-chunks.")
    return matrix.collect(wide.path, tokens[-wanted:], threads=threads or machine.threads_default())


def source_caveat(source: models.ModelFile) -> str:
    """The sentence every output carries when the ladder is made from weights that are quantised already."""
    header = gguf_header.read(source.path)
    if not header.quantised:
        return ""
    mix = ", ".join(f"{kind} {share:.0%}" for kind, share in header.mix().items() if share >= 0.01)
    return (f"The ladder is made from weights that are quantised already ({mix}; {header.bits_per_weight:.2f} bits per "
            "weight): it measures error against their reconstruction, not against the original model.")

"""Chooses the next token: argmax for greedy decoding, otherwise llama.cpp's sampler chain in C."""

from __future__ import annotations

import llama_cpp as C

from lab.engines.llama.context import Context
from lab.records import Decoding


class Sampler:
    """The chain top-k -> top-p -> min-p -> temperature -> seeded draw, in llama.cpp's own order. Free with `close`.

    Greedy decoding takes numpy's argmax of the logits (12 us for 49k tokens); the C chain first copies the whole
    vocabulary into candidates (about 100 us) and gives the same token.
    """

    def __init__(self, decoding: Decoding) -> None:
        self.chain = None
        if decoding.temperature <= 0:
            return
        self.chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        if decoding.top_k > 0:
            C.llama_sampler_chain_add(self.chain, C.llama_sampler_init_top_k(decoding.top_k))
        if decoding.top_p < 1:
            C.llama_sampler_chain_add(self.chain, C.llama_sampler_init_top_p(decoding.top_p, 1))
        if decoding.min_p > 0:
            C.llama_sampler_chain_add(self.chain, C.llama_sampler_init_min_p(decoding.min_p, 1))
        C.llama_sampler_chain_add(self.chain, C.llama_sampler_init_temp(decoding.temperature))
        C.llama_sampler_chain_add(self.chain, C.llama_sampler_init_dist(decoding.seed & 0xFFFFFFFF))

    def pick(self, context: Context, index: int = -1, row: int = 0, rows: int = 1) -> int:
        """The next token after batch entry `index` (-1: the last output), whose logits are row `row` of `rows`."""
        if self.chain is None:
            return int(context.logits(rows)[row].argmax())
        return int(C.llama_sampler_sample(self.chain, context.pointer, index))

    def close(self) -> None:
        if self.chain is not None:
            C.llama_sampler_free(self.chain)
            self.chain = None

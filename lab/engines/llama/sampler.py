"""Chooses the next token: argmax for greedy decoding, otherwise llama.cpp's sampler chain in C; both within a schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

import llama_cpp as C
import numpy as np
from numpy.typing import NDArray

from lab.engines.llama.grammar import Grammar
from lab.engines.scheduling.sampling import distribution, draw
from lab.records import Decoding

if TYPE_CHECKING:
    from lab.engines.llama.context import Context


class Sampler:
    """The chain top-k -> top-p -> min-p -> temperature -> seeded draw, in llama.cpp's own order. Free with `close`.

    Greedy decoding takes numpy's argmax of the logits (12 us for 49k tokens); the C chain first copies the whole
    vocabulary into candidates (about 100 us) and gives the same token. Under a schema the free choice is tried first, and
    only one that the grammar does not allow is chosen again among those it does, as llama.cpp's own tools do: asking the
    grammar about every token of the vocabulary takes milliseconds.
    """

    def __init__(self, context: Context, decoding: Decoding) -> None:
        self.context, self.chain, self.decoding = context, None, decoding
        self.grammar = Grammar(context.weights, decoding) if decoding.json_schema else None
        # A stream of its own: the chain draws from the seed itself.
        self._random = np.random.default_rng((decoding.seed & 0xFFFFFFFF, 2)) if self.grammar else None
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

    def pick(self, entry: int, logits: NDArray[np.float32]) -> int:
        """The next token after batch entry `entry` (-1: the last output), whose row of logits is `logits`."""
        token = self._free(entry, logits)
        if self.grammar is None:
            return token
        if not self.grammar.allows(token):
            masked = self.grammar.masked(logits)
            assert self._random is not None
            token = draw(distribution(masked, self.decoding), self._random) if self.chain else int(masked.argmax())
        self.grammar.accept(token)
        return token

    def _free(self, entry: int, logits: NDArray[np.float32]) -> int:
        if self.chain is None:
            return int(logits.argmax())
        return int(C.llama_sampler_sample(self.chain, self.context.pointer, entry))

    def close(self) -> None:
        if self.chain is not None:
            C.llama_sampler_free(self.chain)
            self.chain = None
        if self.grammar is not None:
            self.grammar.close()
            self.grammar = None

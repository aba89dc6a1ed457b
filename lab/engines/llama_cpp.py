"""The GGUF engine: llama.cpp through its low-level API, every setting explicit and logged."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lab import gguf_header, machine, models
from lab.engines import Branching, Flash, refuse_misfit
from lab.engines.llama import in_turn, tree
from lab.engines.llama.context import KV_BYTES, Context
from lab.engines.llama.weights import Weights
from lab.errors import LabError
from lab.records import Chunk, Request, Settings, Usage
from lab.text import TextStream


class LlamaCpp:
    """Decodes one request at a time; also scores given text. Weights are mapped at once, KV caches made when first used.

    `model` is a catalogue name or a path. `context_tokens` 0 takes the smaller of 4096 and what the model was trained
    for. `flash_attention` "auto" lets llama.cpp decide; "off" makes batched and single logits identical.
    """

    def __init__(
        self,
        model: str = models.DEFAULT,
        *,
        threads: int = 0,
        threads_batch: int = 0,
        context_tokens: int = 0,
        batch_tokens: int = 2048,
        ubatch_tokens: int = 512,
        flash_attention: Flash = "auto",
        kv_type: str = "f16",
        gpu_layers: int = 0,
        mmap: bool = True,
    ) -> None:
        self.file = models.find(model)
        self.header = gguf_header.read(self.file.path)
        threads = threads or machine.threads_default()
        cores = os.cpu_count() or 1
        if not 0 < threads <= cores or threads_batch > cores:
            raise LabError(f"This machine has {cores} logical cores; ask for 1 to {cores} threads (0 is all physical cores), "
                           f"not {max(threads, threads_batch)}.")
        limit = self.header.context_tokens or 4096
        if context_tokens > limit:
            raise LabError(f"{self.file.name} was trained for {limit:,} tokens of context, not {context_tokens:,}; "
                           "ask for fewer.")
        self.context_tokens = context_tokens or min(4096, limit)
        self.settings: Settings = {
            "engine": "llama_cpp", "model": self.file.name, "threads": threads,
            "threads_batch": threads_batch or threads, "context_tokens": self.context_tokens,
            "batch_tokens": batch_tokens, "ubatch_tokens": ubatch_tokens, "flash_attention": flash_attention,
            "kv_type": kv_type, "gpu_layers": gpu_layers, "mmap": mmap,
        }
        self._context_settings = {
            "threads": threads, "threads_batch": threads_batch or threads, "flash_attention": flash_attention,
            "ubatch_tokens": ubatch_tokens, "kv_type": kv_type,
        }
        self.weights = Weights(self.file.path, gpu_layers=gpu_layers, mmap=mmap)
        self._scoring: Context | None = None
        self._scoring_limit = min(2048, limit)
        self._read: list[int] = []  # what sequence 0 of the scoring cache holds

    @functools.cached_property
    def context(self) -> Context:
        """The context requests are decoded in."""
        batch = int(self.settings["batch_tokens"] or 2048)
        return Context(self.weights, context_tokens=self.context_tokens, batch_tokens=batch, **self._context_settings)  # type: ignore[arg-type]

    def _scoring_for(self, tokens: int) -> Context:
        """The context in which given text is scored, with room for `tokens` and for the branches of one question."""
        if self._scoring is None or self._scoring.context_tokens < tokens:
            if self._scoring is not None:
                self._scoring.close()
            # No larger than needed: llama.cpp zeroes the whole cache at once, so every cell is resident memory.
            room = min(-(-tokens // 512) * 512, self._scoring_limit)
            self._read = []
            self._scoring = Context(self.weights, context_tokens=room, batch_tokens=room, sequences=tree.SEQUENCES,
                                    **self._context_settings)  # type: ignore[arg-type]
        return self._scoring

    def now(self) -> float:
        return time.perf_counter()

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return self.weights.tokenize(text, special=special)

    def detokenize(self, tokens: Sequence[int]) -> str:
        return self.weights.detokenize(tokens)

    def prompt_tokens(self, request: Request) -> list[int]:
        if request.tokens is not None:
            self.weights.check(request.tokens)
            return list(request.tokens)
        if request.prompt is not None:
            return self.weights.tokenize(request.prompt, special=True)
        tokens = self.weights.tokenize(self.weights.chat(request.messages or ()), special=True)
        if tokens[:2] == [self.weights.bos] * 2:  # the template wrote a begin token and the tokenizer added another
            del tokens[0]
        return tokens

    def stream(self, request: Request) -> Iterator[Chunk]:
        prompt = self.prompt_tokens(request)
        refuse_misfit(len(prompt), request.decoding.max_tokens, self.context_tokens)
        return self._decode(prompt, request)

    def _decode(self, prompt: list[int], request: Request) -> Iterator[Chunk]:
        context, weights, decoding = self.context, self.weights, request.decoding
        usage, text = Usage(prompt_tokens=len(prompt), cached_tokens=0), TextStream(decoding.stop)
        sampler = context.sampler(decoding)
        try:
            context.clear()
            context.prefill(prompt)
            for position in range(len(prompt), len(prompt) + decoding.max_tokens):
                token = sampler.pick(-1, context.logits(1)[0])
                at = time.perf_counter()
                if weights.is_end(token) and not decoding.ignore_eos:
                    yield Chunk(text=text.end(), at_s=at, finish_reason="stop", usage=usage)
                    return
                shown = text.push(weights.piece(token))
                if text.stopped:
                    yield Chunk(text=shown, tokens=(token,), at_s=at, finish_reason="stop", usage=usage)
                    return
                if position + 1 < len(prompt) + decoding.max_tokens:
                    yield Chunk(text=shown, tokens=(token,), at_s=at)
                    context.step(token, position)
                else:
                    shown += text.end()
                    yield Chunk(text=shown, tokens=(token,), at_s=at, usage=usage,
                                finish_reason="stop" if text.stopped else "length")
        finally:
            sampler.close()

    def logits(self, tokens: Sequence[int], *, start: int = 0) -> NDArray[np.float32]:
        self.weights.check(tokens)
        if len(tokens) > self._scoring_limit:
            raise LabError(f"A text of {len(tokens):,} tokens is longer than the {self._scoring_limit:,} that can be "
                           "scored at once; score it in chunks.")
        context = self._scoring_for(len(tokens))
        # Texts are scored in pieces, so that few rows of logits exist at once: what was read before `start` is kept.
        kept = start if len(self._read) >= start and self._read[:start] == list(tokens[:start]) else 0
        self._read = []
        if not (kept and context.forget(0, kept)):
            context.clear()
            kept = 0
        rows = context.prefill(tokens[kept:], start=kept, outputs_from=start - kept)
        self._read = list(tokens)
        return context.logits(rows)

    def branch_logprobs(self, prefix: Sequence[int], branches: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        return next(self.branch_logprobs_many([(prefix, branches)]))[1] if branches else []

    def branch_logprobs_many(self, questions: Sequence[Branching]) -> Iterator[tuple[int, list[NDArray[np.float64]]]]:
        """What questions have in common is read once, and the rest of many in one step; take all before scoring anything else.

        With flash attention off, where no company may change a score, one question after the other.
        """
        asked = [([*prefix], [[*branch] for branch in branches]) for prefix, branches in questions]
        sizes = [len(prefix) + sum(map(len, branches)) for prefix, branches in asked]
        for (prefix, branches), total in zip(asked, sizes, strict=True):
            self.weights.check([*prefix, *(token for branch in branches for token in branch)])
            if total > self._scoring_limit or len(branches) > tree.SEQUENCES or not prefix or not all(branches):
                raise LabError(f"A question of {total:,} tokens with {len(branches)} options cannot be scored at once (at most "
                               f"{self._scoring_limit:,} tokens and {tree.SEQUENCES} options, neither empty).")
        return self._scores_of(asked, max(sizes, default=0), sum(sizes))

    def _scores_of(self, asked: list[tree.Asked], longest: int, total: int) -> Iterator[tuple[int, list[NDArray[np.float64]]]]:
        if not asked:
            return
        alone = self.settings["flash_attention"] == "off"
        room = longest if alone else max(longest, tree.shared(asked) + min(tree.STEP_TOKENS, total))
        context, mine = self._scoring_for(min(room, self._scoring_limit)), list[int]()
        self._read = mine
        for found in in_turn.score(context, asked) if alone else tree.score(context, asked):
            yield found
            if self._read is not mine:
                raise LabError("Something else was scored before these questions were done; take all their scores first.")

    def bytes_per_token(self, depth: int) -> float:
        """Bytes read from memory to decode one token with `depth` tokens cached."""
        return self.header.bytes_per_token(depth, KV_BYTES[str(self.settings["kv_type"])])

    def close(self) -> None:
        if "context" in self.__dict__:
            self.__dict__.pop("context").close()
        if self._scoring is not None:
            self._scoring.close()
            self._scoring = None
        self.weights.close()


def open(model: str, **settings: object) -> LlamaCpp:
    """Open the engine on a catalogue name or a GGUF path."""
    return LlamaCpp(model, **settings)  # type: ignore[arg-type]

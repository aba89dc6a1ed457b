"""vLLM as an engine: served by a child in an environment of its own, spoken to over HTTP, read through its counters."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lab.engines import Branching, refuse_misfit
from lab.engines.http.client import Client
from lab.engines.server import Server
from lab.engines.vllm_parts import command, conversion, counters, environment, process
from lab.engines.vllm_parts.architecture import Architecture
from lab.engines.vllm_parts.command import Draft, ServeSettings
from lab.engines.vllm_parts.counters import Counters
from lab.errors import LabError
from lab.load.endpoint import Endpoint
from lab.records import Chunk, Request

START_S = 900.0
"""Without `enforce_eager` it compiles for minutes."""
SHOWN_LOGITS = 4_000_000
"""Entries of logits asked for at once: vLLM writes each as some 60 bytes of JSON, up to two seconds for 49,000."""

SCORED_QUESTIONS = 16
"""Questions whose options go into one request."""


class Vllm(Server):
    """A served model. `metrics` reads the server's counters; two readings' difference is what a run did.

    Everything but starting, counters and scores of given text is the engine `server`; requests run side by side when
    asked from several threads or by `lab.load`, through `endpoint`.
    """

    def __init__(
        self, served: process.ServerProcess, folder: conversion.Folder, settings: ServeSettings,
        environment: environment.Environment, *, timeout_s: float = 600.0,
    ) -> None:
        self.process, self._serve, self._variant = served, settings, environment.variant
        self._architecture = Architecture.read(folder.path)
        # The child has no key, and must not be sent the user's.
        endpoint = Endpoint(url=f"http://127.0.0.1:{served.port}/v1", model=folder.name, key_env="LAB_VLLM_NO_KEY")
        self._scorer = Client(endpoint, timeout_s=timeout_s)
        super().__init__(endpoint, context_tokens=settings.context_tokens, timeout_s=timeout_s, token_ids=True, owner=served)
        self.settings = {**settings.as_logged(model=folder.name, environment=environment), "url": self.endpoint.url}

    def metrics(self) -> Counters:
        """What the server counted since it started. Counts of a run are `after.since(before)`."""
        text = process.page(self.process.port, "/metrics")
        if text is None:
            raise self._ended() or LabError(f"vLLM does not show its counters now (its log: {self.process.log}); ask again.")
        return counters.parse(text)

    def prompt_tokens(self, request: Request) -> list[int]:
        tokens = super().prompt_tokens(request)
        self._check(tokens)
        return tokens

    def detokenize(self, tokens: Sequence[int]) -> str:
        self._check(tokens)
        return super().detokenize(tokens) if tokens else ""

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Raises `LabError` for what the server would answer wrongly, or not at all."""
        command.refuse_request(request, self._serve, self._variant)
        if request.tokens is not None:
            self._check(request.tokens)
            refuse_misfit(len(request.tokens), request.decoding.max_tokens, self.context_tokens)
        elif request.prompt == "":
            refuse_misfit(0, 0, self.context_tokens)
        return self._decode(request)

    def _decode(self, request: Request) -> Iterator[Chunk]:
        ends = frozenset() if request.decoding.ignore_eos else self._architecture.ends
        try:
            for chunk in super().stream(request):
                if chunk.tokens and chunk.tokens[-1] in ends:  # the end token is why the server stopped, no output
                    chunk = dataclasses.replace(chunk, tokens=chunk.tokens[:-1])
                yield chunk
        except LabError as error:
            raise self._ended() or error from error

    def logits(self, tokens: Sequence[int], *, start: int = 0) -> NDArray[np.float32]:
        """Log-probabilities, which are logits up to a constant in each row; of short texts only, since they come as JSON."""
        self._check(tokens)
        vocabulary = self._architecture.vocabulary
        most = min(SHOWN_LOGITS // vocabulary, self.context_tokens - 2)
        if len(tokens) > most:
            raise LabError(f"vLLM shows the logits of at most {most} tokens of this model at once (they come as JSON), not of "
                           f"{len(tokens):,}; measure longer texts with the engine llama_cpp.")
        # One token more, so that the row after the last one is among the prompt's.
        rows = self._scored([[*tokens, 0]], shown=-1)[0][start + 1 :]
        found = np.full((len(rows), vocabulary), -math.inf, dtype=np.float32)
        for row, said in zip(found, rows, strict=True):
            row[np.fromiter(map(int, said), dtype=np.int64)] = [entry["logprob"] for entry in said.values()]
        return found

    def branch_logprobs(self, prefix: Sequence[int], branches: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        return next(self.branch_logprobs_many([(prefix, branches)]))[1]

    def branch_logprobs_many(self, questions: Sequence[Branching]) -> Iterator[tuple[int, list[NDArray[np.float64]]]]:
        """Several questions to a request: vLLM evaluates their branches in one batch, each with its prefix."""
        for prefix, branches in questions:
            self._check([*prefix, *(token for branch in branches for token in branch)])
            refuse_misfit(len(prefix), max(map(len, branches), default=0) + 1, self.context_tokens)
        return self._in_requests(questions)

    def _in_requests(self, questions: Sequence[Branching]) -> Iterator[tuple[int, list[NDArray[np.float64]]]]:
        for at in range(0, len(questions), SCORED_QUESTIONS):
            some = questions[at : at + SCORED_QUESTIONS]
            prompts = [[*prefix, *branch] for prefix, branches in some for branch in branches]
            rows = iter(self._scored(prompts, shown=0) if prompts else ())
            for number, (prefix, branches) in enumerate(some, start=at):
                yield number, [np.array([said[str(token)]["logprob"] for said, token in
                                         zip(next(rows)[len(prefix) :], branch, strict=True)]) for branch in branches]

    def _scored(self, prompts: list[list[int]], *, shown: int) -> list[list[dict[str, dict[str, float]]]]:
        """For each prompt and each of its positions, what was shown by token: its own, and the `shown` likeliest (-1: all)."""
        asked = {"model": self.endpoint.model, "prompt": prompts, "max_tokens": 1, "temperature": 0, "prompt_logprobs": shown}
        try:
            answer = self._scorer.post("/v1/completions", asked)
        except LabError as error:
            raise self._ended() or error from error
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        return [[said or {} for said in choice["prompt_logprobs"]] for choice in choices]

    def bytes_per_token(self, depth: int) -> float:
        """Bytes read from memory to decode one token with `depth` tokens cached."""
        return self._architecture.bytes_per_token(depth, dtype=self._serve.dtype)

    def close(self) -> None:
        """End the server with all it started; its log stays."""
        self._scorer.close()
        super().close()

    def _ended(self) -> LabError | None:
        """Why the server is no more; None while it runs."""
        if self.process.running:
            return None
        return LabError(f"vLLM has ended: {self.process.last_words()} (its log: {self.process.log}).")

    def _check(self, tokens: Sequence[int]) -> None:
        bad = next((t for t in tokens if not 0 <= t < self._architecture.vocabulary), None)
        if bad is not None:
            raise LabError(f"Token {bad} is not in the vocabulary of {self.endpoint.model} "
                           f"(0 to {self._architecture.vocabulary - 1}).")


def open(
    model: str, *, dtype: str = "bfloat16", max_running: int = 32, context_tokens: int = 0, batch_tokens: int = 0,
    prefix_cache: bool = True, draft: Draft = "none", draft_tokens: int = 4, prompt_lookup_max: int = 4,
    quantization: str = "none", threads: int = 0, enforce_eager: bool = True, kv_cache_gib: float = 2.0,
    gpu_share: float = 0.9, tensor_parallel: int = 1, seed: int = 0, timeout_s: float = 600.0, start_s: float = START_S,
) -> Vllm:
    """Start vLLM on a catalogue name, a GGUF (converted once) or a Hugging Face folder; 15 to 40 s on a CPU.

    `context_tokens` 0 is the smaller of 4096 and what the model was trained for. Raises `LabError` in one sentence when
    vLLM is not installed, a setting does nothing here, the model cannot be converted, or the server does not start.
    """
    settings = ServeSettings(
        dtype=dtype, max_running=max_running, context_tokens=context_tokens, batch_tokens=batch_tokens,
        prefix_cache=prefix_cache, draft=draft, draft_tokens=draft_tokens, prompt_lookup_max=prompt_lookup_max,
        quantization=quantization, threads=threads, enforce_eager=enforce_eager, kv_cache_gib=kv_cache_gib,
        gpu_share=gpu_share, tensor_parallel=tensor_parallel, seed=seed)
    settings.refuse_on(environment.suited())
    found = environment.require()
    settings.refuse_on(found.variant)
    folder = conversion.folder_of(model, dtype=dtype, environment=found, say=say)
    limit = Architecture.read(folder.path).context_tokens
    if settings.context_tokens > limit:
        raise LabError(f"{folder.name} was trained for {limit:,} tokens of context, not {settings.context_tokens:,}; "
                       "ask for fewer.")
    settings = dataclasses.replace(settings, context_tokens=settings.context_tokens or min(4096, limit))
    port = process.free_port()
    served = process.ServerProcess(
        command.arguments(found, folder.path, settings, port=port, name=folder.name), port=port, name="vLLM",
        env=command.variables(found, settings))
    try:
        served.wait(limit_s=start_s, say=say)
        return Vllm(served, folder, settings, found, timeout_s=timeout_s)
    except BaseException:
        served.close()
        raise


def say(line: str) -> None:
    """Progress of a start, for whoever watches a terminal; a notebook or a log keeps none of it."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)

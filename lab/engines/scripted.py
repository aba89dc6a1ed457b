"""A deterministic engine without a model: programmable texts, timings and faults, for demos, tests and gateways.

Its vocabulary is the 256 bytes and an end token (or fewer tokens, for laws on small distributions). Without a script it
is a small language model of its own: a second-order Markov chain whose logits are drawn from a seeded generator, so that
likelihoods, sampling and speculation can be checked exactly. Time is virtual unless `real_time` is set.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lab.engines import _schemas, refuse_misfit, token_logprobs
from lab.engines.scheduling.sampling import distribution, draw
from lab.errors import LabError
from lab.records import Chunk, Decoding, Request, Settings, Usage
from lab.text import TextStream

END = 256


class Scripted:
    """Answers from `reply`, else from its Markov chain, at `ttft_s` + prompt x `prefill_s` and then every `tpot_s`.

    Without a `reply`, a request with a schema gets the smallest answer that satisfies it. `reply` is a text or a function of
    the prompt text. `fail_after` breaks the stream with an error after that many tokens. `sharpness` scales the chain's
    logits (0 is uniform).
    """

    def __init__(
        self,
        model: str = "markov",
        *,
        reply: str | Callable[[str], str] | None = None,
        ttft_s: float = 0.010,
        prefill_s: float = 0.0005,
        tpot_s: float = 0.005,
        threads: int = 1,
        context_tokens: int = 4096,
        vocabulary: int = 257,
        sharpness: float = 2.0,
        seed: int = 0,
        fail_after: int | None = None,
        real_time: bool = False,
    ) -> None:
        self.context_tokens, self.vocabulary = context_tokens, vocabulary
        self._reply, self._ttft_s, self._prefill_s, self._tpot_s = reply, ttft_s, prefill_s, tpot_s
        self._sharpness, self._seed, self._fail_after = sharpness, seed, fail_after
        self._real_time, self._clock_s = real_time, 0.0
        self.settings: Settings = {
            "engine": "scripted", "model": model, "threads": threads, "context_tokens": context_tokens,
            "ttft_s": ttft_s, "prefill_s": prefill_s, "tpot_s": tpot_s, "vocabulary": vocabulary,
            "sharpness": sharpness, "seed": seed,
        }

    def now(self) -> float:
        return time.perf_counter() if self._real_time else self._clock_s

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return [byte % min(self.vocabulary, 256) for byte in text.encode("utf-8", "replace")]

    def detokenize(self, tokens: Sequence[int]) -> str:
        return bytes(t for t in tokens if t != END).decode("utf-8", "replace")

    def prompt_tokens(self, request: Request) -> list[int]:
        if request.tokens is not None:
            self._check(request.tokens)
            return list(request.tokens)
        text = request.prompt if request.prompt is not None else "".join(
            f"{m.role}: {m.content}\n" for m in request.messages or ())
        return self.tokenize(text)

    def stream(self, request: Request) -> Iterator[Chunk]:
        prompt = self.prompt_tokens(request)
        refuse_misfit(len(prompt), request.decoding.max_tokens, self.context_tokens)
        return self._decode(prompt, request.decoding)

    def _decode(self, prompt: list[int], decoding: Decoding) -> Iterator[Chunk]:
        usage, text = Usage(prompt_tokens=len(prompt), cached_tokens=0), TextStream(decoding.stop)
        self._pass(self._ttft_s + len(prompt) * self._prefill_s)
        for i, token in enumerate(self._tokens(prompt, decoding)):
            if i:
                self._pass(self._tpot_s)
            if i == self._fail_after:
                raise LabError(f"The scripted engine broke after {i} tokens, as it was told to.")
            if token == END and not decoding.ignore_eos:
                yield Chunk(text=text.end(), at_s=self.now(), finish_reason="stop", usage=usage)
                return
            shown = text.push(b"" if token == END else bytes([token]))
            last = i + 1 == decoding.max_tokens
            if last and not text.stopped:
                shown += text.end()
            if last or text.stopped:
                yield Chunk(text=shown, tokens=(token,), at_s=self.now(),
                            finish_reason="stop" if text.stopped else "length", usage=usage)
                return
            yield Chunk(text=shown, tokens=(token,), at_s=self.now())
        yield Chunk(text=text.end(), at_s=self.now(), finish_reason="stop", usage=usage)

    def _tokens(self, prompt: list[int], decoding: Decoding) -> Iterator[int]:
        """The script's tokens, or the chain's, at most `max_tokens`."""
        if self._reply is not None or decoding.json_schema:
            told = self._reply(self.detokenize(prompt)) if callable(self._reply) else self._reply
            reply = _schemas.smallest(decoding) if told is None else told
            script = [*self.tokenize(reply), END]
            yield from (script + [END] * decoding.max_tokens)[: decoding.max_tokens if decoding.ignore_eos else len(script)]
            return
        random = np.random.default_rng(decoding.seed)
        seen = list(prompt)
        for _ in range(decoding.max_tokens):
            seen.append(draw(distribution(self._row(*_last_two(seen)), decoding), random))
            yield seen[-1]

    def _pass(self, seconds: float) -> None:
        if self._real_time:
            time.sleep(seconds)
        else:
            self._clock_s += seconds

    def logits(self, tokens: Sequence[int], *, start: int = 0) -> NDArray[np.float32]:
        self._check(tokens)
        return np.stack([self._row(*_last_two(tokens[: i + 1])) for i in range(start, len(tokens))])

    def branch_logprobs(self, prefix: Sequence[int], branches: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        if not prefix:
            raise LabError("The prompt is empty; give at least one token.")
        return [token_logprobs(self.logits([*prefix, *branch], start=len(prefix) - 1)[:-1], branch) for branch in branches]

    @functools.lru_cache(maxsize=4096)  # noqa: B019 - an engine lives as long as its run
    def _row(self, before: int, last: int) -> NDArray[np.float32]:
        random = np.random.default_rng((self._seed, before + 1, last + 1))
        return (self._sharpness * random.standard_normal(self.vocabulary)).astype(np.float32)

    def _check(self, tokens: Sequence[int]) -> None:
        bad = next((t for t in tokens if not 0 <= t < self.vocabulary), None)
        if bad is not None:
            raise LabError(f"Token {bad} is not in the vocabulary of the scripted engine (0 to {self.vocabulary - 1}).")

    def bytes_per_token(self, depth: int) -> float:
        """It reads no weights."""
        return float("nan")

    def close(self) -> None:
        pass


def _last_two(tokens: Sequence[int]) -> tuple[int, int]:
    return (tokens[-2] if len(tokens) > 1 else -1), tokens[-1]


def open(model: str, **settings: object) -> Scripted:
    """Open the engine; `model` only names it."""
    return Scripted(model, **settings)  # type: ignore[arg-type]

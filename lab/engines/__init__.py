"""Engines answer requests; this folder's listing is their registry, and `open_engine` the door to all of them."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lab.errors import LabError
from lab.records import Chunk, Generation, Request, Settings, Usage

Flash = Literal["auto", "on", "off"]


@runtime_checkable
class Engine(Protocol):
    """What every engine does. The contract test in `tests/test_engine_contract.py` says the rest."""

    settings: Settings
    """Every explicit setting of this engine, as logged with the run (threads, flash attention, batch sizes, KV type)."""
    context_tokens: int
    """Prompt and output tokens of one sequence together; a longer request is refused with a sentence."""

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of `text`; with `special` the model's begin token is added and markup like `<|im_end|>` parsed."""
        ...

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`; bytes that are no whole UTF-8 character become U+FFFD."""
        ...

    def prompt_tokens(self, request: Request) -> list[int]:
        """The tokens this engine reads for `request`, chat template applied."""
        ...

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Decode; yields a chunk per step, the last with `finish_reason`. Raises `LabError` on a request it must refuse."""
        ...

    def logits(self, tokens: Sequence[int], *, start: int = 0) -> NDArray[np.float32]:
        """Next-token logits after every position from `start` on: shape (len(tokens) - start, vocabulary).

        A view that the next call may overwrite. Raises `LabError` if this engine cannot show logits.
        """
        ...

    def branch_logprobs(self, prefix: Sequence[int], branches: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        """Log-probability (nats) of every token of each branch after the same `prefix`, the prefix evaluated once."""
        ...

    def bytes_per_token(self, depth: int) -> float:
        """Bytes read from memory to decode one token with `depth` tokens cached; NaN where nobody knows."""
        ...

    def now(self) -> float:
        """The clock of this engine's readings, in seconds."""
        ...

    def close(self) -> None:
        """Free the weights and the KV cache; closing twice is harmless."""
        ...


Branching = tuple[Sequence[int], Sequence[Sequence[int]]]
"""A prefix, and the branches to score after it."""


@runtime_checkable
class ScoresTogether(Protocol):
    """An engine that scores the branches of many prefixes faster together than one prefix after the other."""

    def branch_logprobs_many(self, questions: Sequence[Branching]) -> Iterator[tuple[int, list[NDArray[np.float64]]]]:
        """Each question's index and what `branch_logprobs` gives for it, in the order in which they are done."""
        ...


def branch_logprobs_many(engine: Engine, questions: Sequence[Branching]) -> Iterator[tuple[int, list[NDArray[np.float64]]]]:
    """Each question's index and the log-probabilities of its branches; together where the engine can, else in turn."""
    if isinstance(engine, ScoresTogether):
        yield from engine.branch_logprobs_many(questions)
        return
    for number, (prefix, branches) in enumerate(questions):
        yield number, engine.branch_logprobs(prefix, branches)


def is_url(name: str) -> bool:
    """Whether what stands in place of an engine or a model is the address of a server."""
    return name.lower().startswith(("http://", "https://"))


def refuse_url(name: str) -> None:
    """Raise `LabError` for a URL that is no server's address, or that carries a secret."""
    from lab.engines.server import address
    from lab.load.endpoint import Endpoint

    Endpoint(url=address(name)[0], model="")


def names() -> list[str]:
    """The engines there are: one per module of this folder that does not start with an underscore (folders are parts)."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.ispkg and not m.name.startswith("_"))


def prepare(name: str) -> None:
    """Import what engine `name` needs, so that opening it can be timed without that."""
    if name in names():
        importlib.import_module(f"{__name__}.{name}")


def open_engine(name: str, model: str, **settings: object) -> Engine:
    """Open engine `name` on `model`. Settings the engine does not know raise `LabError` naming those it does."""
    if name not in names():
        raise LabError(f"There is no engine '{name}'; the engines are {', '.join(names())}.")
    module = importlib.import_module(f"{__name__}.{name}")
    try:
        return module.open(model, **settings)  # type: ignore[no-any-return]
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise LabError(f"Engine '{name}': {str(error).removeprefix('open() ')}.") from error


def generate(engine: Engine, request: Request, *, scheduled_s: float | None = None) -> Generation:
    """Run `request` to its end and keep the clock reading of every token.

    A refusal (`LabError`) is raised, not recorded: a request the engine cannot take is the caller's mistake.
    """
    texts: list[str] = []
    tokens: list[int] = []
    at: list[float] = []
    cpu, sent = time.process_time(), engine.now()
    last = Chunk(at_s=sent)
    for last in engine.stream(request):
        texts.append(last.text)
        tokens.extend(last.tokens)
        at.extend([last.at_s] * len(last.tokens))
    return Generation(
        request=request,
        text="".join(texts),
        tokens=tuple(tokens),
        tokens_at_s=tuple(at),
        scheduled_s=scheduled_s,
        sent_s=sent,
        ended_s=last.at_s,
        cpu_s=time.process_time() - cpu,
        usage=last.usage or Usage(),
        finish_reason=last.finish_reason or "error",
        error=None if last.finish_reason else "the stream ended without a finish reason",
    )


def token_logprobs(logits: NDArray[np.float32], tokens: Sequence[int]) -> NDArray[np.float64]:
    """Log-probability of `tokens[i]` under row i of `logits`; shape (len(tokens),)."""
    top = logits.max(axis=1, keepdims=True)
    norm = np.log(np.exp(logits - top).sum(axis=1, dtype=np.float64))
    return logits[np.arange(len(tokens)), list(tokens)].astype(np.float64) - top[:, 0] - norm


def refuse_misfit(prompt: int, output: int, room: int) -> None:
    """Raise `LabError` when a prompt is empty or prompt and output do not fit the context together."""
    if prompt == 0:
        raise LabError("The prompt is empty; give at least one token.")
    if prompt + output > room:
        raise LabError(f"The prompt of {prompt:,} tokens and {output:,} output tokens do not fit the context of "
                       f"{room:,}; shorten the prompt, ask for fewer tokens or open the engine with a larger context.")

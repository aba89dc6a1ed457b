"""The two configurations of a rollout: what runs today and the candidate, opened once where they share an engine."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lab import engines
from lab.experiments import _quality_prompts as prompts
from lab.experiments._quality_asking import Answerer, answerer
from lab.experiments._quality_sets import Asked
from lab.load.closed import closed
from lab.metrics import speed
from lab.records import Decoding, Generation, Message, Request
from lab.stats.sequential import Arm


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One side: which engine and model, how it is asked, how it decodes, and what its tokens cost (USD per million, or NaN)."""

    arm: Arm
    engine: str
    model: str
    system: str
    template: str
    style: str
    output_tokens: int
    temperature: float
    input_usd: float = math.nan
    output_usd: float = math.nan

    def requests(self, asked: Asked, *, seed: int) -> dict[str, Request]:
        """The request for each item of a set, by the item's name."""
        import dataclasses

        decoding = Decoding(temperature=self.temperature, seed=seed)
        made = prompts.requests(asked, style=self.style, template=self.template, decoding=decoding,
                                output_tokens=self.output_tokens)
        if self.system:
            said = Message(role="system", content=self.system)
            made = [dataclasses.replace(one, messages=(said, *(one.messages or ()))) if self.style == "chat" else
                    dataclasses.replace(one, prompt=f"{self.system}\n\n{one.prompt}") for one in made]
        return {one.id: dataclasses.replace(one, tags={**one.tags, "arm": self.arm}) for one in made}

    def cost_usd(self, generation: Generation, usd_per_hour: float) -> float:
        """By its token prices where they are given, else by the machine's time; NaN where what is counted was not observed."""
        if math.isnan(self.input_usd):
            return (generation.ended_s - generation.sent_s) * usd_per_hour / 3600
        prompt = generation.usage.prompt_tokens
        told = generation.usage.output_tokens
        output = len(generation.tokens_at_s) if told is None else told
        return math.nan if prompt is None else (prompt * self.input_usd + output * self.output_usd) / 1e6


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One answer, with the speed and cost of it."""

    arm: Arm
    item: str
    generation: Generation
    cost_usd: float

    def values(self) -> dict[str, float]:
        """What a comparison looks at beside quality. A failed request has an infinite latency."""
        return {"e2e_s": speed.e2e_s(self.generation), "ttft_s": speed.ttft_s(self.generation), "cost_usd": self.cost_usd}


@contextlib.contextmanager
def opened(
    sides: Sequence[Configuration], asked: Sequence[Asked], *, context_tokens: int, threads: int, flash_attention: engines.Flash,
    key_env: str,
) -> Iterator[dict[Arm, Answerer]]:
    """An answerer for each side; one for both where they run the same model on the same engine."""
    with contextlib.ExitStack() as closing:
        by: dict[tuple[str, str], Answerer] = {}
        for side in sides:
            place = side.engine, side.model
            if place not in by:
                by[place] = closing.enter_context(answerer(
                    side.engine, side.model, asked=asked, context_tokens=context_tokens, threads=threads,
                    flash_attention=flash_attention, batch=1, key_env=key_env))
        yield {side.arm: by[side.engine, side.model] for side in sides}


def ask(answering: Answerer, requests: Sequence[Request]) -> tuple[tuple[Generation, ...], tuple[str, ...]]:
    """The answers to `requests` one after another, without a warm-up of their own, and flags of the machine."""
    if answering.scores:  # in this process
        load = closed(answering.engine, requests, warmup=0, title="replay")
        return load.generations, load.watched.flags()
    given = answering.ask(requests)
    return given.generations, given.flags

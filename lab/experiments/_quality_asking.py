"""Who answers in the quality experiment: one configuration opened on an engine, asked one item at a time or in batches."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lab import engines, machine
from lab.engines import Engine, is_url, open_engine, prepare
from lab.errors import LabError
from lab.experiments._quality_sets import Asked
from lab.experiments._remote import over_http
from lab.load.closed import closed
from lab.load.services import InProcess
from lab.metrics.references import of
from lab.records import Generation, Request

SCRIPTED_TOKENS = 32_768
"""Context of the scripted engine, whose tokens are bytes."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """The answers to all requests, in their order, how long they took, and what the machine did meanwhile."""

    generations: tuple[Generation, ...]
    seconds: float
    watched: machine.Watched
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """An open configuration. `scores` says whether its engine shows likelihoods."""

    engine: Engine
    ask: Callable[[Sequence[Request]], Given]
    scores: bool
    opened: machine.Watched


@contextlib.contextmanager
def answerer(
    engine: str, model: str, *, asked: Sequence[Asked], context_tokens: int, threads: int, flash_attention: engines.Flash,
    batch: int, key_env: str,
) -> Iterator[Answerer]:
    """`model` on `engine` (or the server at `model`, when that is a URL), closed at the end."""
    name = model if is_url(model) else engine
    with contextlib.ExitStack() as closing:
        if name == "llama_cpp":
            prepare("llama_cpp")
        with machine.Watch() as opening:
            if name == "scripted":
                opened: Any = open_engine("scripted", model, reply=reply_of(model, asked), context_tokens=SCRIPTED_TOKENS)
                closing.callback(opened.close)
                ask = _alone(opened)
            elif name == "llama_cpp":
                opened = open_engine("llama_cpp", model, threads=threads, context_tokens=context_tokens,
                                     flash_attention=flash_attention)
                closing.callback(opened.close)
                ask = _alone(opened) if batch == 1 else _together(opened, context_tokens, batch, closing)
            else:
                opened, remote = over_http(name, model, key_env=key_env, room=context_tokens, max_running=batch, threads=threads,
                                           flash_attention=flash_attention, prefix_cache=False, closing=closing)
                ask = _served(remote, batch)
        yield Answerer(engine=opened, ask=ask, scores=name in ("llama_cpp", "scripted"), opened=opening.result)


def _alone(engine: Engine) -> Callable[[Sequence[Request]], Given]:
    def ask(requests: Sequence[Request]) -> Given:
        load = closed(engine, requests, title="answers")
        seconds = load.generations[-1].ended_s - load.generations[0].sent_s
        return Given(generations=load.generations, seconds=seconds, watched=load.watched, flags=load.watched.flags())

    return ask


def _together(
    engine: Any, context_tokens: int, batch: int, closing: contextlib.ExitStack
) -> Callable[[Sequence[Request]], Given]:
    """Continuous batching in this process."""
    from lab.engines.llama.context import Context
    from lab.engines.scheduling.scheduler import Scheduler

    context = Context(engine.weights, context_tokens=context_tokens * batch, sequences=batch, batch_tokens=512, unified=False,
                      threads=int(engine.settings["threads"] or 1), flash_attention=engine.settings["flash_attention"])
    closing.callback(context.close)

    def fresh() -> Scheduler:
        context.clear()
        return Scheduler(context, max_running=batch)

    return _served(InProcess(engine=engine, fresh=fresh), batch)


def _served(service: Any, users: int) -> Callable[[Sequence[Request]], Given]:
    def ask(requests: Sequence[Request]) -> Given:
        service.serve(requests[:1], title="warm-up")
        with machine.Watch() as watch:
            seen = service.serve(requests, users=users, title="answers", limit_s=3600.0)
        order = {request.id: i for i, request in enumerate(requests)}
        given = tuple(sorted(seen.generations, key=lambda g: order[g.request.id]))
        if len(given) < len(requests):
            raise LabError(f"Only {len(given)} of {len(requests)} items were answered within an hour; ask fewer --items.")
        return Given(generations=given, seconds=seen.seconds, watched=watch.result, flags=(*watch.result.flags(), *seen.flags))

    return ask


def reply_of(model: str, asked: Sequence[Asked]) -> Callable[[str], str] | None:
    """What a scripted model answers: one called `right-70` gives 70% of the items a right answer, any other has no script.

    Which items those are depends on the item alone: `right-70` is right wherever `right-60` is, text behind the number
    (`right-70-b`) makes another configuration of the same answers, and items of one group share their luck, as the questions
    about one passage do.
    """
    word, _, rest = model.partition("-")
    share = rest.partition("-")[0]
    if word != "right" or not share.isdigit():
        return None
    known = {question.question + question.context: (question, one) for one in asked for question in one.questions}

    def reply(prompt: str) -> str:
        texts = [text for text in known if all(part in prompt for part in (known[text][0].question, known[text][0].context))]
        question, one = known[max(texts, key=lambda text: prompt.rfind(known[text][0].context or known[text][0].question))]
        lot = question.group or one.item(question)
        luck = int(hashlib.sha256(lot.encode()).hexdigest()[:8], 16) % 100
        return f" {of(question)[0]}\n\n" if luck < int(share) else " something else entirely\n\n"

    return reply


def refuse_misfits(engine: Engine, requests: Sequence[Request]) -> None:
    """Raise `LabError` before the first answer if one of the prompts has no room."""
    for request in requests:
        try:
            prompt = len(engine.prompt_tokens(request))
        except LabError as error:
            if "tokens cannot be seen" in str(error) or "does not turn text into tokens" in str(error):
                return  # a server that shows no tokens refuses by itself
            raise
        if prompt + request.decoding.max_tokens > engine.context_tokens:
            raise LabError(f"Item '{request.id}' needs {prompt:,} tokens and {request.decoding.max_tokens} for its answer, which "
                           f"do not fit the context of {engine.context_tokens:,}; give more --context-tokens, fewer --shots or a "
                           "shorter text.")

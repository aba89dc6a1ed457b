"""Asks a second model one question with a limit of time; an answer that does not come is an error, never a yes."""

from __future__ import annotations

from collections.abc import Mapping

from lab.engines import Engine, generate, open_engine
from lab.errors import LabError
from lab.records import Decoding, Message, Request


def opened(engines: Mapping[str, Engine], name: str, model: str) -> Engine:
    """The engine called `name` that the chain was given, or one opened here. Raises `LabError` when there is neither."""
    if name in engines:
        return engines[name]
    if not model:
        raise LabError(f"The policy asks the engine '{name}', which this chain was not given; give `engines={{'{name}': …}}` "
                       "or set `model` in the policy.")
    return open_engine(name, model)


def asked(engine: Engine, system: str, text: str, *, max_tokens: int, whole: bool = True) -> str:
    """The whole answer of the second model, greedily decoded. Raises `LabError` when it is empty or, if `whole`, cut off."""
    messages = (Message(role="system", content=system), Message(role="user", content=text))
    said = generate(engine, Request(messages=messages, decoding=Decoding(max_tokens=max_tokens)))
    answer = said.text.strip()
    if not answer:
        raise LabError("The second model gave no answer.")
    if whole and said.finish_reason != "stop":
        raise LabError(f"The second model did not finish its answer within {max_tokens} tokens.")
    return answer

"""The mixed load of the serving experiments: questions with checkable answers, and continuations of very different lengths."""

from __future__ import annotations

import math

import numpy as np

from lab import data
from lab.engines import Engine
from lab.errors import LabError
from lab.records import Decoding, Question, Request

CHARACTERS_PER_TOKEN = 4
"""Of English text, for servers that do not show their tokens; lengths are then approximate."""


def mixture(
    engine: Engine, *, requests: int, prompt_tokens: int, output_tokens: int, questions: str, seed: int
) -> tuple[list[Request], dict[str, Question]]:
    """`requests` requests as plain prompts, so that every engine reads the same text; and the questions by request id.

    Every second one is a question of the set `questions`, the others continue a piece of text of a quarter of
    `prompt_tokens` tokens up, for 4 to `output_tokens` tokens (log-uniform) whatever the model would rather do.
    """
    random = np.random.default_rng(seed)
    asked = data.questions(questions, limit=(requests + 1) // 2, seed=seed)
    text = _Text(engine)
    made, by_id = [], {}
    for i in range(requests):
        if i % 2 == 0 and asked:
            by_id[str(i)] = asked[(i // 2) % len(asked)]
            made.append(Request(id=str(i), prompt=ask(by_id[str(i)]), decoding=Decoding(max_tokens=16, stop=("\n",))))
        else:
            prompt = text.piece(random, int(random.integers(max(1, prompt_tokens // 4), prompt_tokens + 1)))
            output = round(math.exp(random.uniform(math.log(4), math.log(output_tokens))))
            made.append(Request(id=str(i), prompt=prompt, decoding=Decoding(max_tokens=output, ignore_eos=True)))
    return made, by_id


def ask(question: Question) -> str:
    """The question as text to be continued by its answer."""
    options = "\n".join(f"- {choice}" for choice in question.choices)
    return f"Question: {question.question}\nOptions:\n{options}\nAnswer:"


class _Text:
    """Pieces of the perplexity text by number of tokens."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._text = engine, data.text("pydoc-topics")
        try:
            self._tokens = engine.tokenize(self._text)
        except LabError:
            self._tokens = []

    def piece(self, random: np.random.Generator, length: int) -> str:
        if not self._tokens:
            length *= CHARACTERS_PER_TOKEN
            start = int(random.integers(0, max(1, len(self._text) - length)))
            return self._text[start : start + length]
        start = int(random.integers(0, max(1, len(self._tokens) - length)))
        return self._engine.detokenize(self._tokens[start : start + length])

"""Scores the options of many questions one question after the other, so that no company changes a bit of a score.

A question's tokens stand in the same cells of the cache as if they were alone in it: attention sums over cells, and a sum
in another order rounds otherwise. What a question has in common with the one before it is kept. Of its options only what
follows their first token is evaluated, each option in the place of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lab.engines import token_logprobs
from lab.engines.llama.context import Context
from lab.engines.llama.tree import Asked


def score(context: Context, questions: list[Asked]) -> Iterator[tuple[int, list[NDArray[np.float64]]]]:
    """Each question's index and the log-probabilities of its branches, in the order of their prefixes.

    Every question fits the context and has no empty branch.
    """
    context.clear()
    held: list[int] = []
    for number in sorted(range(len(questions)), key=lambda i: questions[i][0]):
        prefix, branches = questions[number]
        _read(context, prefix, _same(held, prefix))
        row = context.logits(1)
        found = [token_logprobs(row, branch[:1]) for branch in branches]
        for i, branch in enumerate(branches):
            if branch[1:]:
                # With the prefix's last token, because llama.cpp computes a single token in another way than several.
                rows = _read(context, [*prefix, *branch[:-1]], len(prefix) - 1, outputs_from=len(prefix))
                found[i] = np.concatenate([found[i], token_logprobs(context.logits(rows), branch[1:])])
        held = prefix if context.forget(0, len(prefix)) else []
        yield number, found


def _read(context: Context, tokens: list[int], kept: int, *, outputs_from: int | None = None) -> int:
    """Evaluate `tokens` after the first `kept`, which the cache holds, or all where it cannot forget what follows them."""
    if not (kept and context.forget(0, kept)):
        context.clear()
        kept = 0
    last = len(tokens) - 1 if outputs_from is None else outputs_from
    return context.prefill(tokens[kept:], start=kept, outputs_from=last - kept)


def _same(held: list[int], tokens: list[int]) -> int:
    """How many tokens both begin with, leaving two to evaluate."""
    most = min(len(held), len(tokens) - 2)
    return next((i for i in range(most) if held[i] != tokens[i]), max(0, most))

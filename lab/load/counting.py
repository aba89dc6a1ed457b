"""A clock reading for every token, when a server sends events that may carry none, one or several."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, chain, repeat

from lab.load.answer import Observed


def token_times(observed: Observed, count_tokens: Callable[[str], int] | None) -> tuple[float, ...]:
    """One reading per token; tokens of one event share one.

    What the server said of each event (token ids, running usage) is believed. Else, with `count_tokens`, the tokens of
    the whole output are spread over its events by the counts of their own texts: a tokenizer cannot say which event
    brought a token, only how many there are. Else every event is one token.
    """
    if observed.counts is not None:
        return tuple(chain.from_iterable(map(repeat, observed.at_s, observed.counts)))
    if count_tokens is None or not observed.pieces:
        return tuple(observed.at_s)
    counts = spread(count_tokens("".join(observed.pieces)), [max(1, count_tokens(piece)) for piece in observed.pieces])
    return tuple(chain.from_iterable(map(repeat, observed.at_s, counts)))


def spread(total: int, weights: list[int]) -> list[int]:
    """`total` split in proportion to `weights`, in whole numbers that add up to it."""
    whole = sum(weights)
    ends = [total * sum_ // whole for sum_ in accumulate(weights)]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]

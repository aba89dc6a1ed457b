"""Scores many continuations in few steps: tokens that several of them begin with are evaluated once.

The prefixes and branches of several questions form a tree. What all questions begin with (examples, an instruction) is
read once and stays in the cache; the rest of the tree is fed in steps of about `STEP_TOKENS`, a node once for all
branches below it, as a token that belongs to all their sequences.

The cells of a branch then lie apart, where alone they would be neighbours, and attention sums over cells in their order: the
sums round otherwise. With 32-bit weights and cache that moves a log-probability by 7e-6; kernels that round activations to 8
bits make it visible (SmolLM2 Q4_1: up to 0.4 nats a token, in either direction, as any other order of the sums does). Who must
not see it scores one question after the other: `lab.engines.llama.in_turn`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lab.engines.llama.context import Context

STEP_TOKENS = 512
"""Tokens of one step: llama.cpp's ubatch. More make no step faster, fewer leave its threads without work."""
SEQUENCES = 64
"""Branches of one step; llama.cpp allows 256, and their bookkeeping is not free."""
ROWS_BYTES = 64_000_000
"""Logits kept of one step: 327 rows of a 49k vocabulary, 61 of Gemma's 262k."""
Asked = tuple[list[int], list[list[int]]]
"""The tokens of a prefix, and of the branches after it."""
_NORMALISED = 8
"""Rows whose normaliser is computed at once: bounds the temporary to what a core's cache holds."""


@dataclass(eq=False)
class _Node:
    """One token at one place of the tree, the sequences that run through it, and the row of its logits if one is asked."""

    token: int
    position: int
    sequences: list[int] = field(default_factory=list)
    children: dict[int, _Node] = field(default_factory=dict)
    asked: bool = False
    row: int = -1


class _Step:
    """The part of the tree that one step evaluates; it hangs on the first `depth` tokens, which the cache holds."""

    def __init__(self, depth: int) -> None:
        self.depth, self.tokens, self.rows = depth, 0, 0
        self.root = _Node(-1, depth - 1)
        self.branches: list[tuple[int, list[_Node], list[int]]] = []
        """The question of each branch, the nodes whose logits predict it, and its tokens."""

    def cost(self, question: Asked) -> tuple[int, int]:
        """Tokens and rows that a question adds at most: its branches may yet share some."""
        prefix, branches = question
        node, known = self.root, self.depth
        while known < len(prefix) and (child := node.children.get(prefix[known])):
            node, known = child, known + 1
        inner = sum(len(b) - 1 for b in branches)
        return len(prefix) - known + inner, 1 + inner

    def add(self, number: int, question: Asked) -> None:
        prefix, branches = question
        for branch in branches:
            sequence, node, path = len(self.branches), self.root, []
            for at, token in enumerate([*prefix[self.depth :], *branch[:-1]], start=self.depth):  # the last predicts nothing
                node = self._child(node, token, at)
                node.sequences.append(sequence)
                if at >= len(prefix) - 1:
                    self.rows += not node.asked
                    node.asked = True
                    path.append(node)
            self.branches.append((number, path, branch))

    def _child(self, node: _Node, token: int, position: int) -> _Node:
        if token not in node.children:
            node.children[token] = _Node(token, position)
            self.tokens += 1
        return node.children[token]

    def run(self, context: Context) -> dict[int, list[NDArray[np.float64]]]:
        """Evaluate the tree on top of what the cache holds; the log-probabilities of every branch, by question."""
        self._fill(context)
        context.decode(self.tokens)
        logits = context.logits(self.rows)
        norms = np.concatenate([_norms(logits[at : at + _NORMALISED]) for at in range(0, self.rows, _NORMALISED)])
        found: dict[int, list[NDArray[np.float64]]] = {}
        for number, path, branch in self.branches:
            rows = [node.row for node in path]
            found.setdefault(number, []).append(logits[rows, list(branch)].astype(np.float64) - norms[rows])
        return found

    def _fill(self, context: Context) -> None:
        """Write the tree into the batch, parents before their children."""
        open_, at, row = [*reversed(self.root.children.values())], 0, 0
        while open_:
            node = open_.pop()
            context.token[at], context.position[at] = node.token, node.position
            context.sequence_count[at] = len(node.sequences)
            context.sequence[at, : len(node.sequences)] = node.sequences
            context.output[at] = node.asked
            if node.asked:
                node.row, row = row, row + 1
            open_.extend(reversed(node.children.values()))
            at += 1


def shared(questions: list[Asked]) -> int:
    """How many tokens all prefixes begin with, and none to its end: after a prefix's last token a row of logits is needed."""
    first, last = min(q[0] for q in questions), max(q[0] for q in questions)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return min(same, min(len(q[0]) for q in questions) - 1)


def score(context: Context, questions: list[Asked]) -> Iterator[tuple[int, list[NDArray[np.float64]]]]:
    """Each question's index and the log-probabilities of its branches, in steps over neighbours that begin alike.

    Every question fits the context (prefix and branches) and has 1 to `SEQUENCES` branches, none of them empty.
    """
    depth, rows = shared(questions), ROWS_BYTES // (4 * context.weights.vocabulary)
    room, prefix = min(context.context_tokens - depth, STEP_TOKENS), questions[0][0][:depth]
    _hold(context, prefix)
    step = _Step(depth)
    for number in sorted(range(len(questions)), key=lambda i: questions[i][0]):
        tokens, asked = step.cost(questions[number])
        many = len(step.branches) + len(questions[number][1])
        if step.branches and (step.tokens + tokens > room or step.rows + asked > rows or many > SEQUENCES):
            yield from step.run(context).items()
            if not context.forget(-1, depth):  # a memory that cannot drop a part
                _hold(context, prefix)
            step = _Step(depth)
        step.add(number, questions[number])
    yield from step.run(context).items()


def _hold(context: Context, tokens: list[int]) -> None:
    """Read `tokens` for all sequences at once."""
    context.clear()
    if tokens:
        n = len(tokens)
        context.token[:n], context.position[:n], context.output[:n] = tokens, np.arange(n), 0
        context.sequence_count[:n] = context.sequences
        context.sequence[:n] = np.arange(context.sequences)
        context.decode(n)


def _norms(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    top = logits.max(axis=1)
    return np.asarray(top + np.log(np.exp(logits - top[:, None]).sum(axis=1, dtype=np.float64)))

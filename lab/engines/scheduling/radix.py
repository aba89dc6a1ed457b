"""A radix tree over token ids: the stored sequence that begins most like a given one, in work proportional to the match.

Sequences are `packed`: four bytes a token, so that comparing an edge is comparing memory. A node that stores no sequence
has at least two children (Morrison 1968, PATRICIA), so the tree has at most twice as many nodes as sequences.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np

TOKEN_BYTES = array("i").itemsize


def packed(tokens: Iterable[int]) -> bytes:
    """Token ids as the bytes that this tree and the stored states are keyed by."""
    return array("i", tokens).tobytes()


class _Node:
    __slots__ = ("children", "edge", "key")

    def __init__(self, edge: bytes, key: bytes | None = None) -> None:
        self.edge, self.key = edge, key
        self.children: dict[bytes, _Node] = {}


class RadixTree:
    """A set of packed sequences."""

    def __init__(self) -> None:
        self._root = _Node(b"")

    def add(self, key: bytes) -> None:
        node, at = self._root, 0
        while at < len(key):
            first = key[at : at + TOKEN_BYTES]
            child = node.children.get(first)
            if child is None:
                node.children[first] = _Node(key[at:], key)
                return
            n = _common(child.edge, key[at : at + len(child.edge)])
            if n < len(child.edge):
                upper = _Node(child.edge[:n])
                node.children[first] = upper
                child.edge = child.edge[n:]
                upper.children[child.edge[:TOKEN_BYTES]] = child
                child = upper
            node, at = child, at + n
        node.key = key

    def remove(self, key: bytes) -> None:
        """Raises `KeyError` if `key` is not in the tree."""
        path, at = [self._root], 0
        while at < len(key):
            child = path[-1].children[key[at : at + TOKEN_BYTES]]
            path.append(child)
            at += len(child.edge)
        if path[-1].key != key:
            raise KeyError(key)
        path[-1].key = None
        if not path[-1].children and len(path) > 1:
            gone = path.pop()
            del path[-1].children[gone.edge[:TOKEN_BYTES]]
        if len(path) > 1:
            _join(path[-1])

    def longest(self, key: bytes) -> tuple[int, bytes | None]:
        """(tokens in common, a stored sequence that has them); (0, None) where none begins like `key`."""
        node, at = self._root, 0
        while at < len(key):
            child = node.children.get(key[at : at + TOKEN_BYTES])
            if child is None:
                break
            n = _common(child.edge, key[at : at + len(child.edge)])
            node, at = child, at + n
            if n < len(child.edge):
                break
        if at == 0:
            return 0, None
        while node.key is None:
            node = next(iter(node.children.values()))
        return at // TOKEN_BYTES, node.key

    def shorter(self, key: bytes) -> Iterator[bytes]:
        """The stored sequences that `key` begins with and is longer than."""
        node, at = self._root, 0
        while at < len(key):
            child = node.children.get(key[at : at + TOKEN_BYTES])
            if child is None or not key.startswith(child.edge, at):
                return
            node, at = child, at + len(child.edge)
            if node.key is not None and at < len(key):
                yield node.key


def _join(node: _Node) -> None:
    """Merge a node that stores nothing with its only child."""
    if node.key is None and len(node.children) == 1:
        (child,) = node.children.values()
        node.edge, node.key, node.children = node.edge + child.edge, child.key, child.children


def _common(a: bytes, b: bytes) -> int:
    """Bytes of the whole tokens with which both begin."""
    if a == b:
        return len(a)
    n = min(len(a), len(b))
    differ = np.frombuffer(a, np.int32, n // TOKEN_BYTES) != np.frombuffer(b, np.int32, n // TOKEN_BYTES)
    at = int(differ.argmax())
    return at * TOKEN_BYTES if differ[at] else n

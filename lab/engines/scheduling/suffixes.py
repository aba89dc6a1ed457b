"""Finds where the end of a growing list of tokens has occurred before, however long the match, in constant time a token."""

from __future__ import annotations


class SuffixIndex:
    """A suffix automaton (Blumer et al. 1985), grown by one token at a time: amortised constant work and memory each.

    The suffix link of its last state is the longest suffix that also ends earlier, and every state knows where its first
    occurrence ends; so the longest match needs no search. Drafting from it: SAM Decoding (Hu et al. 2024).
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._next: list[dict[int, int]] = [{}]
        self._link, self._length, self._end = [-1], [0], [-1]
        self._last = 0

    def add(self, token: int) -> None:
        """Append one token."""
        state, p = self._new({}, self._length[self._last] + 1, len(self.tokens)), self._last
        self.tokens.append(token)
        while p >= 0 and token not in self._next[p]:
            self._next[p][token] = state
            p = self._link[p]
        self._last = state
        if p < 0:
            self._link[state] = 0
            return
        q = self._next[p][token]
        if self._length[q] == self._length[p] + 1:
            self._link[state] = q
            return
        clone = self._new(dict(self._next[q]), self._length[p] + 1, self._end[q])
        self._link[clone] = self._link[q]
        self._link[q] = self._link[state] = clone
        while p >= 0 and self._next[p].get(token) == q:
            self._next[p][token] = clone
            p = self._link[p]

    def _new(self, following: dict[int, int], length: int, end: int) -> int:
        self._next.append(following)
        self._link.append(0)
        self._length.append(length)
        self._end.append(end)
        return len(self._next) - 1

    def match(self) -> tuple[int, int]:
        """Length of the longest suffix that also occurs earlier (0: none), and the index of what followed it first."""
        state = max(self._link[self._last], 0)
        return self._length[state], self._end[state] + 1

    def follow(self, start: int, count: int) -> list[int]:
        """`count` tokens from index `start` on; past the end it reads on in what it returns, as a loop would repeat."""
        found = self.tokens[start : start + count]
        while len(found) < count:
            found.append(found[start + len(found) - len(self.tokens)])
        return found

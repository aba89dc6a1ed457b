"""How often a search finds the passage it should: recall at k, by the index, by exact search and by shared words."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lab import stats
from lab.errors import LabError
from lab.records import Estimate
from lab.retrieval.index import Index
from lab.retrieval.passages import Passage

Search = Callable[[Sequence[str], int], list[list[Passage]]]


@dataclass(frozen=True, kw_only=True)
class Recall:
    """The share of queries whose document was among the first k passages, for each k, with Wilson's interval."""

    by: str
    queries: int
    at: dict[int, Estimate]


def measure(search: Search, queries: Sequence[tuple[str, str]], ks: Sequence[int] = (1, 3, 5), *, by: str = "index") -> Recall:
    """Recall of `search` for (query, id of the document it should find). Raises `LabError` without queries."""
    if not queries or not ks:
        raise LabError("Recall needs at least one query with the document it should find, and one k.")
    found = search([query for query, _ in queries], max(ks))
    places = [next((rank for rank, passage in enumerate(passages) if passage.document == wanted), math.inf)
              for passages, (_, wanted) in zip(found, queries, strict=True)]
    at = {k: stats.proportion(sum(place < k for place in places), len(places)) for k in ks}
    return Recall(by=by, queries=len(queries), at=at)


def approximate(index: Index) -> Search:
    """The index's own search."""
    return lambda queries, k: [[one.passage for one in found] for found in index.search_many(queries, k)]


def exact(index: Index) -> Search:
    """All cosines with the same vectors: what the graph may miss, this finds."""
    def search(queries: Sequence[str], k: int) -> list[list[Passage]]:
        cosines = index.embedder.embed(list(queries)) @ index.vectors.T
        return [[index.passages[i] for i in np.argsort(-row, kind="stable")[:k]] for row in cosines]

    return search


def lexical(index: Index) -> Search:
    """Passages by the words they share with the query, each weighing what it tells (log of N over the passages that have it)."""
    words = [Counter(_words(passage.text)) for passage in index.passages]
    having = Counter(word for one in words for word in one)
    weight = {word: math.log(1 + len(words) / count) for word, count in having.items()}

    def search(queries: Sequence[str], k: int) -> list[list[Passage]]:
        out = []
        for query in queries:
            asked = set(_words(query))
            worth = [sum(weight[w] for w in asked if w in one) / math.sqrt(1 + sum(one.values())) for one in words]
            out.append([index.passages[i] for i in np.argsort(-np.array(worth), kind="stable")[:k]])
        return out

    return search


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())

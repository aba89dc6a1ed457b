"""Retrieval: documents cut into passages, embedded, indexed, found again and cited by place.

    index = retrieval.build(documents, embedder)
    for found in index.search("when was the bridge built", k=3):
        print(found.cite(), found.passage.text)
    index.save(folder); retrieval.load(folder, embedder)

An index belongs to the embedding model it was made with, down to the weights; it refuses any other.
"""

from lab.retrieval.index import Embeds, Found, Index, build, load, refuse
from lab.retrieval.passages import Document, Passage, Splitting, split
from lab.retrieval.recall import Recall, exact, lexical, measure

__all__ = ["Document", "Embeds", "Found", "Index", "Passage", "Recall", "Splitting", "build", "exact", "lexical", "load",
           "measure", "refuse", "split"]

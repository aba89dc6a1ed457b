"""Drift of a stream: `Level` for means, `Mix` for categories, `Vectors` for embeddings; ADWIN and Page-Hinkley beside them.

    reference = Reference.of(scores_of_last_week)
    detector = Level(reference, limit=limit(false_alarms=0.01, requests=10_000, streams=4))
    for score in scores:
        if detector.update(score): ...      # and detector.began says since when
"""

from __future__ import annotations

from lab.stats.drift.by_river import Adwin, PageHinkley
from lab.stats.drift.ceiling import most_found
from lab.stats.drift.distribution import Distance, Kind, Vectors, two_samples
from lab.stats.drift.level import CHANGES, Direction, Level, limit
from lab.stats.drift.mix import Mix
from lab.stats.drift.reference import Reference
from lab.stats.drift.scanning import Scanned, path, scan

__all__ = ["CHANGES", "Adwin", "Direction", "Distance", "Kind", "Level", "Mix", "PageHinkley", "Reference", "Scanned", "Vectors",
           "limit", "most_found", "path", "scan", "two_samples"]

"""The question sets that lie in this folder, written for this project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lab.data.question_set import QuestionSet

FOLDER = Path(__file__).parent


def _ours(*, name: str, **given: Any) -> QuestionSet:
    return QuestionSet(name=name, source="written for this project (lab/data/README.md)", licence="CC0-1.0 OR Apache-2.0",
                       path=FOLDER / f"{name}.jsonl", **given)


SHIPPED = (
    _ours(
        name="everyday",
        description="Plain world knowledge and common sense, four short choices each, from very easy to moderately hard",
        size=160,
        topics=("animals", "arithmetic", "food", "geography", "health",
                "history", "language", "physics", "social", "tools"),
        sha256="1b0f106655c6e5f216c91449050ed06c6ef89e5ca31b0e6a606363361e671824",
    ),
    _ours(
        name="facts", kind="open", answer_by="one to four references",
        description="Short-answer questions about timeless facts, from easy to moderately hard",
        size=104, topics=("arts and sport", "astronomy", "biology", "geography", "history",
                "language and literature", "mathematics", "physics and chemistry"),
        sha256="ccf9e023b3f8a41a94feb4e22dde20c11ce90c37673a55f33a0b4c49d1c0ded1",
    ),
    _ours(
        name="notes", kind="summary", answer_by="a reference summary of one or two sentences",
        description="Short factual passages of our own invention, each with a reference summary",
        size=24, topics=("animals", "health", "nature", "places", "technology", "trade"),
        sha256="15b254f9790fd0e0fa3da1dbbcc8d20907d26ded88f352c76f8c5575bf9aaa3a",
    ),
    _ours(
        name="technical", kind="open", answer_by="short right answers, one of which an explanation must name",
        description="Questions about computing to be answered in a sentence, each with a short passage that answers it",
        size=42, topics=("algorithms", "databases", "machine learning", "networks", "security", "software", "systems"),
        sha256="512fddf96f06394439295ee5f1f4476a4f5e5d2a944ed0d656512fcb4035c577",
    ),
    _ours(
        name="verdicts", kind="labelled", answer_by="labels of the authors",
        description="Answers of our own: right in other words, wrong in nearly the same words, plainly right, plainly wrong",
        size=60, topics=("correctness",),
        sha256="43df2db579686067248a3bd0fa5bfefd4fecdde6d86eb3c14467c7e18e14e143",
    ),
)

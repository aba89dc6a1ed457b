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
    _ours(
        name="yearly", kind="open", answer_by="one to six forms of the right answer",
        description="Who won the same twelve prizes and titles in each year from 2000 to 2025, each with a sentence that says it",
        size=308, topics=("album of the year", "best picture", "champions league", "eurovision", "formula one", "nba",
                "nobel literature", "nobel peace", "palme d or", "super bowl", "wimbledon men", "wimbledon women"),
        sha256="5e32e1400c5c93466f52a8cd9fea95e87373a9d684b335f12cff3824c598f0c5",
    ),
    _ours(
        name="people", kind="rows", answer_by="no answer key",
        description="People to put into a situation: first names, pronouns, religions and origins, by group",
        size=28, topics=("gender", "names", "origin", "religion"),
        sha256="f0f1aef85744893293126108d119571bd7e45ab510490a7535f8d7290a0cbcc5",
    ),
    _ours(
        name="situations", kind="rows", answer_by="no answer key",
        description="Beginnings of stories and requests with a place for a person, so that nothing but the person differs",
        size=24, topics=("health", "home", "money", "request", "school", "street", "work"),
        sha256="39cc0ab4ad5e75cba4c0fc91db6f8cdb5e273072b57b79f66787cd053ed2af59",
    ),
    _ours(
        name="tones", kind="labelled", answer_by="labels of the authors",
        description="Sentences that plainly think well or badly of somebody, for trying out measures of sentiment",
        size=40, topics=("sentiment",),
        sha256="fda4d3775fb1ec41c194751827554b17543ca50b9175d7222286fe8531a8d4b1",
    ),
)

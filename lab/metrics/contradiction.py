"""Whether an answer contradicts what is known to be right: a detector by references, or by the source where there are none.

By references: 1 where the answer differs from all of them in a number or a negation, else what is missing of the cosine with
the nearest one (`equivalence.worth`). By the source: the share of claims that turn the sentence they are most like, by a number
that the source does not have or by a negation. It is silent about claims the source does not mention; that is `grounding`'s part.
"""

from __future__ import annotations

from collections.abc import Sequence

from lab.metrics import equivalence, references, similarity
from lab.metrics._facts import negated, numbers
from lab.metrics.detection import Detector, detected
from lab.metrics.grounding import Claim, Embeds, grounded_many
from lab.records import Generation, Question, Score


def contradiction(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
    """How far the answer departs from the references, else the share of claims that turn a sentence of the source."""
    return detector_with()(questions, generations)


DETECTORS: dict[str, Detector] = {"contradiction": contradiction}


def detector_with(embedder: Embeds | None = None) -> Detector:
    """`contradiction` with an embedder of your own; references are held against by `similarity.default()` in any case."""
    def values(asked: Sequence[tuple[Question, str]]) -> list[tuple[float, str]]:
        known = [(q, text) for q, text in asked if references.of(q)]
        near = iter(equivalence.worth([text for _, text in known], [references.of(q) for q, _ in known]) if known else ())
        unknown = [(q.question, text, q.context) for q, text in asked if not references.of(q)]
        claimed = iter(grounded_many(unknown, embedder or similarity.default()) if unknown else ())
        return [_by_references(float(next(near))) if references.of(q) else _by_source(q, next(claimed)) for q, _ in asked]

    return lambda questions, generations: detected(
        "contradiction", "facts", questions, generations, values, needs="a source or references")


def _by_references(worth: float) -> tuple[float, str]:
    if worth == -1:
        return 1.0, "differs from every reference in a number or a negation"
    return 1 - worth, f"{worth:.2f} like its nearest reference"


def _by_source(question: Question, claimed: Sequence[Claim]) -> tuple[float, str]:
    known = numbers(f"{question.context} {question.question}")
    turned = [one.text for one in claimed if numbers(one.text) - known or negated(one.text) != negated(one.nearest)]
    return len(turned) / len(claimed), f"turns the source: '{turned[0][:80]}'" if turned else ""

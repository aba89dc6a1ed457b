"""What one situation gave in one arm: answers and what became of them, as shares, evidence, an example, and for detectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lab.experiments import _hallucination_check as check_
from lab.experiments import _hallucination_detectors as looks
from lab.experiments import _hallucination_items as asked_
from lab.experiments._hallucination_arms import Asked
from lab.experiments._hallucination_check import Outcome
from lab.metrics import calibration
from lab.records import Estimate, Generation, Score
from lab.stats.clusters import Part, mean_of_means


@dataclass(frozen=True, kw_only=True)
class Told:
    """What one situation gave in one arm, in the order of its items."""

    situation: str
    arm: str
    asked: tuple[Asked, ...]
    generations: tuple[Generation, ...]
    outcomes: tuple[Outcome, ...]
    sure: tuple[float, ...]
    flags: tuple[str, ...]

    def part(self, kind: check_.Kind) -> Part:
        return Part(values=[one.is_(kind) for one in self.outcomes], clusters=self.clusters())

    def share(self, kind: check_.Kind) -> Estimate:
        return _share(self.part(kind))

    def sure_and_wrong(self, at: float) -> Estimate:
        """The share of all answers that are hallucinated although the model was at least `at` sure of them."""
        both = [math.nan if math.isnan(sure) or one.kind == "failed" else float(sure >= at and one.kind == "hallucinated")
                for sure, one in zip(self.sure, self.outcomes, strict=True)]
        return _share(Part(values=both, clusters=self.clusters()))

    def clusters(self) -> list[str]:
        """Whom an item shares its luck with: the story it was made of, else nobody."""
        return [one.question.group or one.question.id for one in self.asked]

    def answered(self, kind: check_.Kind) -> list[float]:
        """1 or 0 for what was answered; an abstention is neither sure nor wrong."""
        return [math.nan if one.kind in ("abstained", "failed") else one.is_(kind) for one in self.outcomes]

    def evidence(self) -> dict[str, float | Estimate]:
        """How often the passage made for an item was found, and how often a call was readable and carried out."""
        out: dict[str, float | Estimate] = {}
        wanted = [asked_.gold(self.situation, one.question) for one in self.asked]
        if self.arm == "retrieval" and all(wanted):
            out["found_share"] = calibration.share_right([
                float(any(f.passage.document == gold for f in one.found)) for one, gold in zip(self.asked, wanted, strict=True)])
        if self.arm == "tool":
            out["tool_used_share"] = calibration.share_right([
                float(one.called is not None and one.called.readable) for one in self.asked])
        return out

    def scores(self) -> list[Score]:
        """What became of every answer, and how sure the model was of it."""
        kinds: tuple[check_.Kind, ...] = ("hallucinated", "right")
        by = check_.CHECKED_BY[self.situation]
        return [Score(name=kind, item=one.request.id, value=outcome.is_(kind), by=by, why=outcome.why)
                for one, outcome in zip(self.asked, self.outcomes, strict=True) for kind in kinds] + [
            Score(name="confidence", item=one.request.id, value=value, by="token probability",
                  why="" if not math.isnan(value) else "no probability is shown")
            for one, value in zip(self.asked, self.sure, strict=True)]

    def example(self) -> str:
        """The first answer in this arm, with what was shown and what became of it."""
        one, given, outcome = self.asked[0], self.generations[0], self.outcomes[0]
        cited = "; ".join(found.cite() for found in one.found) or (one.called.said if one.called else "")
        return (f"{one.question.question[:160]} - {given.text.strip()[:160]} ({outcome.kind}: {outcome.why}"
                f"{f'; shown {cited[:200]}' if cited else ''})")


def own(told: Sequence[Told]) -> looks.Answers:
    """Closed-book answers that claim something, where the checker is none of the detectors: all situations but summaries."""
    rows = [(one.question, given, outcome, f"{t.situation}/{one.question.group or one.question.id}")
            for t in told if t.arm == "closed-book" and t.situation != "summarisation"
            for one, given, outcome in zip(t.asked, t.generations, t.outcomes, strict=True)
            if outcome.kind in ("right", "hallucinated")]
    # The checker read the references, so no detector may.
    return looks.Answers(
        set=looks.OWN, questions=tuple(replace(q, references=()) for q, _, _, _ in rows),
        generations=tuple(given for _, given, _, _ in rows),
        hallucinated=tuple(float(outcome.kind == "hallucinated") for _, _, outcome, _ in rows),
        groups=tuple(group for *_, group in rows))


def _share(part: Part) -> Estimate:
    found = mean_of_means([part])
    return Estimate(value=found.value, low=max(0.0, found.low), high=min(1.0, found.high))


def calibrated(found: calibration.Calibration) -> str:
    """A calibration in words: its error against what chance allows, and the bins."""
    if math.isnan(found.error.value):
        return found.table()
    worse = "more than" if found.error.value > found.by_chance else "no more than"
    return (f"ECE {found.error.value:.2f} ({found.error.low:.2f} to {found.error.high:.2f}), {worse} a calibrated model might "
            f"show ({found.by_chance:.2f}); {found.table()}")



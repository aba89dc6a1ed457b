"""What a rollout is: which candidate, for which share of whom, how much worse it may be, and how it ended."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lab.errors import LabError
from lab.ops.requests_schema import SHADOW
from lab.stats.sequential import Arm, Metric, assigned

Stage = Literal["canary", "shadow"]
STAGES: tuple[Stage, ...] = ("canary", "shadow")
MARGINS: Mapping[str, float] = {"quality": 0.03, "failed": 0.02, "e2e_s": 0.25, "cost_usd": 0.25}
"""How much worse a candidate may be: points of the score and of failures, shares of time and cost. 0: not looked at."""
TUNED = 0.1
"""The change of shares and scores that the evidence is tuned to. What is plainly bad is then stopped after tens of requests;
tuned to a margin of 2 points, even one that always fails took 130 (15 simulated streams, looked at every ten requests)."""
MOST_S, MOST_USD = 120.0, 10.0
"""A failed request counts as having taken this long; no request counts as having cost more."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One comparison of a candidate with production on live requests; its share never changes."""

    number: int = 0
    """Of its entry in the journal; 0 while it has none."""
    candidate: int
    production: int
    name: str
    """What sticky arms are decided with: the candidate's hash, so that a later stage moves users only from A to B."""
    stage: Stage = "canary"
    share: float = 0.1
    """Of users (canary) or of requests (shadow)."""
    score: str = ""
    """The score of the log that is its quality; "" looks at no quality."""
    margins: Mapping[str, float] = field(default_factory=lambda: dict(MARGINS))
    position: int = 0
    """The last row of the request log when it began: later rows count, whatever a clock says."""
    by: str = ""
    why: str = ""
    at_ms: int = 0
    decision: str = ""
    """ship or do not ship, once that is shown."""
    reasons: tuple[str, ...] = ()
    ended: str = ""
    """Why it is over; "" while it goes on."""

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise LabError(f"A rollout is a {' or a '.join(STAGES)}, not '{self.stage}'.")
        if not 0 < self.share < 1 and not (self.stage == SHADOW and self.share == 1):
            raise LabError(f"The share lies above 0 and below 1 (a shadow may copy all, 1), not at {self.share:g}.")
        if unknown := [name for name in self.margins if name not in MARGINS]:
            raise LabError(f"There is no margin '{unknown[0]}'; there are {', '.join(MARGINS)}.")
        if bad := [name for name, size in self.margins.items() if not 0 <= size < 1]:
            raise LabError(f"The margin of {bad[0]} is {self.margins[bad[0]]:g}; give a share from 0 (not looked at) to below 1.")
        if not self.metrics():
            raise LabError("Nothing is looked at; give a margin above 0 for one of failed, e2e_s and cost_usd, or a --score.")
        if self.score and not self.score.isidentifier():
            raise LabError(f"A score is called by letters, digits and _, not '{self.score}'.")

    def metrics(self) -> list[Metric]:
        """What is compared, each with its margin."""
        size = {**MARGINS, **self.margins}
        found = []
        if self.score and size["quality"]:
            found.append(Metric(name=self.score, margin=size["quality"], effect=max(TUNED, size["quality"])))
        if size["failed"]:
            found.append(Metric(name="failed", better="lower", margin=size["failed"],
                                effect=max(TUNED, size["failed"])))
        if size["e2e_s"]:
            found.append(Metric(name="e2e_s", better="lower", scale="log", margin=size["e2e_s"], low=1e-3, high=MOST_S))
        if size["cost_usd"]:
            found.append(Metric(name="cost_usd", better="lower", scale="mean", margin=size["cost_usd"], low=0, high=MOST_USD))
        return found

    def arm(self, user: str) -> Arm:
        """The arm of a user, always the same one."""
        return assigned(user, experiment=self.name, share=self.share)

    def copied(self, request_id: str) -> bool:
        """Whether a shadow stage asks the candidate this request too."""
        return assigned(request_id, experiment=f"{self.name} shadow", share=self.share) == "B"

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {**dataclasses.asdict(self), "margins": dict(self.margins), "reasons": list(self.reasons)}


def read(content: str | bytes) -> Rollout | None:
    """The rollout that `as_json` wrote; None for anything else."""
    try:
        said = json.loads(content)
        return Rollout(**{**said, "reasons": tuple(said.get("reasons", ()))})
    except (ValueError, TypeError, AttributeError, LabError):
        return None

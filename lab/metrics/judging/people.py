"""How far people agree with each other: the ceiling of any agreement with them, and the first thing to ask of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lab.data import Labelled
from lab.records import Estimate
from lab.stats.agreement import alpha_estimate, why_undefined


@dataclass(frozen=True, kw_only=True)
class Between:
    """Krippendorff's alpha of people's own labels, over the items that at least two of them labelled."""

    alpha: Estimate
    raters: int
    items: int
    """Items with the labels of two people or more."""
    why: str = ""
    """Why there is no alpha; "" where there is one."""

    def sentence(self) -> str:
        if self.why:
            return self.why
        interval = "" if math.isnan(self.alpha.low) else f" ({self.alpha.low:.2f} to {self.alpha.high:.2f})"
        return f"alpha {self.alpha.value:.2f}{interval} between up to {self.raters} people on {self.items} answers"


def between(labelled: Sequence[Labelled]) -> Between:
    """Agreement of the raters of these answers, at the nominal level (accepted or not). Columns of raters are as the source has
    them: the first label of two answers need not be the same person's, which alpha does not ask for."""
    rated = [one for one in labelled if len(one.raters) >= 2]
    if not rated:
        return Between(alpha=Estimate(value=math.nan), raters=1, items=0,
                       why="the source has one label an answer, so how far people agree cannot be known")
    most = max(len(one.raters) for one in rated)
    table = [[float(one.raters[i] >= 0.5) if i < len(one.raters) else math.nan for one in rated] for i in range(most)]
    why = why_undefined(table)
    return Between(alpha=alpha_estimate(table, clusters=[one.group or one.item for one in rated]), raters=most,
                   items=len(rated), why=why)

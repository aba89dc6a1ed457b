"""A/B comparisons that stay valid however often they are looked at: metrics with margins, arms, evidence, a decision.

    comparison = Comparison([Metric(name="answered", margin=0.03),
                             Metric(name="e2e_s", better="lower", scale="log", margin=0.1, low=0.001, high=60)])
    comparison.add(assigned(user, experiment="prompt-7"), {"answered": 1, "e2e_s": 0.8}, user)
    comparison.look().decision          # "ship", "do not ship" or "need more data"
"""

from __future__ import annotations

from lab.stats.sequential.assignment import assigned
from lab.stats.sequential.comparison import ALPHA, FEWEST, Comparison, Decision, Effect, Look
from lab.stats.sequential.metric import Metric, Scale
from lab.stats.sequential.sums import Arm

__all__ = ["ALPHA", "FEWEST", "Arm", "Comparison", "Decision", "Effect", "Look", "Metric", "Scale", "assigned"]

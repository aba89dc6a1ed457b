"""What an agreement makes of a judge: trusted, better than a constant guess, no better, or not to be told."""

from __future__ import annotations

from typing import Literal

from lab.stats.agreement import Agreement

Standing = Literal["trusted", "better than a constant guess", "no better than a constant guess", "cannot tell"]
TRUSTED_KAPPA = 0.6
"""From here on agreement beyond chance is called substantial (Landis and Koch 1977); the whole interval must lie above."""
MOST_FLIPS = 0.2
MOST_UNSCORED = 0.05
"""Of answers, and of pairs: a judge that leaves out more chooses what it is measured on."""
LEAST_DECIDED = 0.5
MOST_LENGTH_BIAS = 0.3
NO_BETTER: Standing = "no better than a constant guess"
BETTER: Standing = "better than a constant guess"


def standing_of(found: Agreement) -> Standing:
    """Trusted is better than a constant guess, and far above chance with the whole interval."""
    if found.above_constant == "yes":
        return "trusted" if found.kappa.low >= TRUSTED_KAPPA else BETTER
    return NO_BETTER if found.above_constant == "no" else "cannot tell"

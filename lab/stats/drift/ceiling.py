"""What no detector can beat: the most drops that can be found so soon with so few false alarms, by Neyman and Pearson (1933)."""

from __future__ import annotations

import math

from lab.errors import LabError


def most_found(rate: float, drop: float, *, within: int = 500, false_alarms: float = 0.01, requests: int = 10_000) -> float:
    """The largest share of drops from `rate` to `rate - drop` right that any detector can find within so many values.

    Cut a stable stream of `requests` into blocks of `within`. A detector that raises a false alarm in a share `false_alarms`
    of streams alarms in one of the blocks with probability `false_alarms` / blocks at most. Where the drop comes with that
    block it is a test of `within` values at that level, and no test has more power than the most powerful one: the number of
    right answers, drawn where it is at its limit. Streams without an alarm before are at least 1 - `false_alarms` of all,
    hence the division.
    """
    if not 0 < drop <= rate < 1 or within < 1 or requests < within or not 0 < false_alarms < 1:
        raise LabError(f"A ceiling needs a drop above 0 and at most the rate, which is below 1, and whole blocks, not {drop:g} "
                       f"of {rate:g} within {within} of {requests} at {false_alarms:g}.")
    from scipy.stats import binom

    level = false_alarms / (requests // within)
    limit = int(binom.ppf(level, within, rate))  # the fewest right answers with at least this probability below or at it
    below, at = float(binom.cdf(limit - 1, within, rate)), float(binom.pmf(limit, within, rate))
    drawn = (level - below) / at
    power = float(binom.cdf(limit - 1, within, rate - drop)) + drawn * float(binom.pmf(limit, within, rate - drop))
    return min(1.0, power / (1 - false_alarms)) if math.isfinite(power) else math.nan

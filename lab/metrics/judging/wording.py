"""What a judge's trust comes to in sentences: its grades, its preferences, and the habits that tell useless judges apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lab.metrics.judging.standing import MOST_LENGTH_BIAS, MOST_UNSCORED, Standing
from lab.records import Estimate

if TYPE_CHECKING:
    from lab.metrics.judging.trust import Trust


def grades(trust: Trust) -> str:
    """What its grades are worth and why, in a sentence."""
    if not trust.scored.n:
        return f"{trust.judge} gave no readable score for {trust.items} answers, so there is nothing to trust."
    unread = f"; {trust.unscored.value:.0%} of the answers got no readable score" if trust.unscored.value else ""
    if not trust.scored.labels_vary:
        return (f"Whether {trust.judge} is better than a constant guess cannot be told: the labels of these {trust.scored.n} "
                f"answers do not vary, and it agrees with {_share(trust.scored.observed)} of them{unread}; measure it on "
                "answers of which people accept some and not others.")
    lead = "" if math.isnan(trust.scored.lead.low) else f", a lead of {_points(trust.scored.lead)}"
    said = (f"agrees with people on {_share(trust.scored.observed)} of {trust.scored.n} answers where a constant guess has "
            f"{trust.scored.constant:.0%}{lead}, kappa {_number(trust.scored.kappa)}")
    if trust.standing == "cannot tell":
        return (f"Whether {trust.judge} is better than a constant guess cannot be told: it {said}, and a lead below "
                f"{trust.detectable:.0%} would not show on so few{unread}{_yet(trust)}.")
    return f"{trust.judge} is {_may(trust.standing)}: it {said}{unread}{_yet(trust)}."


def _yet(trust: Trust) -> str:
    """What a judge that is not above the constant guess can do all the same: put answers in order."""
    if trust.scored.above_constant == "yes" or not trust.discrimination.low > 0.5:
        return ""
    return (f"; yet it scores accepted answers above others in {_share(trust.discrimination)} of comparisons, so its order "
            "may be of use where its grades are not")


def pairs(trust: Trust) -> str:
    """What its preferences are worth and why, in a sentence."""
    if trust.pairs is None or not trust.asked_pairs:
        return f"{trust.judge} was shown no pairs of which people preferred one."
    if trust.pairs_unscored.value == 1:
        return f"{trust.judge} gave no readable verdict for {trust.asked_pairs} pairs, so there is nothing to trust."
    unread = (f"; {round(trust.pairs_unscored.value * trust.asked_pairs)} of {trust.asked_pairs} pairs "
              f"({trust.pairs_unscored.value:.0%}) got no readable verdict" if trust.pairs_unscored.value else "")
    right = (f"preferred the better one in {_share(trust.pairs.observed)} of the {trust.pairs.n} that it decided"
             if trust.pairs.n else "called each a tie or changed its verdict with the order")
    read = round((1 - trust.pairs_unscored.value) * trust.asked_pairs)
    said = (f"of {read} pairs it {right}, which is {_share(trust.decided)} of them, and changed its verdict with the order in "
            f"{_share(trust.flip_share)}{unread}" if trust.pairs.n else
            f"of {read} pairs it {right} (in {_share(trust.flip_share)} it changed){unread}")
    if trust.pair_standing == "cannot tell":
        return f"Whether {trust.judge} may compare two answers cannot be told: {said}."
    return f"For two answers side by side {trust.judge} is {_may(trust.pair_standing)}: {said}."


def habits(trust: Trust) -> tuple[str, ...]:
    """What tells this judge from others in words: that it is never wrong, or the faults that show whatever it is shown."""
    found = []
    if trust.scored.observed.value == 1 and trust.scored.labels_vary:
        found.append(f"agrees with people on all {trust.scored.n} answers")
    if trust.unscored.value > MOST_UNSCORED:
        found.append(f"unreadable on {trust.unscored.value:.0%} of answers")
    if trust.scored.n and trust.different_scores == 1:
        found.append("constant: gives everything the same grade")
    elif trust.scored.n and trust.accepted.value in (0, 1):
        found.append(f"constant: accepts {'every answer' if trust.accepted.value else 'no answer'}")
    if trust.length_bias.low > MOST_LENGTH_BIAS:
        found.append(f"length: its grades go with it at the same label (correlation {trust.length_bias.value:.2f})")
    if trust.flip_share.low > 0.5:
        place = "first" if trust.lean.value > 0 else "last"
        found.append(f"{place}: turns with the order in {trust.flip_share.value:.0%} of pairs")
    elif trust.asked_pairs and trust.decided.value == 0:
        found.append("calls every pair a tie")
    if trust.pairs_unscored.value > MOST_UNSCORED:
        found.append(f"unreadable on {trust.pairs_unscored.value:.0%} of pairs")
    return tuple(found)


def _may(standing: Standing) -> str:
    return {"trusted": "to be trusted"}.get(standing, standing)


def _share(found: Estimate) -> str:
    interval = "" if math.isnan(found.low) else f" ({found.low:.0%} to {found.high:.0%})"
    return f"{found.value:.0%}{interval}"


def _points(lead: Estimate) -> str:
    value, low, high = (f"{round(100 * number, 1) + 0.0:g}" for number in (lead.value, lead.low, lead.high))
    return f"{value} points ({low} to {high})"


def _number(found: Estimate) -> str:
    value, low, high = (f"{round(number, 2) + 0.0:.2f}" for number in (found.value, found.low, found.high))  # no -0.00
    return value if math.isnan(found.low) else f"{value} ({low} to {high})"

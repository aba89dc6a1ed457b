"""Evidence that may be looked at after every request: one-sided mixture e-values and the interval that belongs to them.

Everything is in *information*: an estimate with variance V carries I = 1 / V, and score S = (estimate - hypothesis) * I moves
like a Brownian motion with the true distance as its drift (the asymptotic argument of Waudby-Smith, Arbour, Sinha, Kennedy and
Ramdas, arXiv 2103.06476). Averaging exp(theta S - theta^2 I / 2) over theta > 0 drawn from a half-normal of standard deviation
`scale` gives a supermartingale where the truth is not above the hypothesis, so that it ever reaches 1 / alpha with probability
alpha at most (Ville 1939; Robbins 1970; for A/B tests Johari, Koomen, Pekelis and Walsh, arXiv 1512.04922).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab.errors import LabError

Floats = NDArray[np.float64]


def log_e(score: ArrayLike, information: ArrayLike, scale: float) -> Floats:
    """Log of the e-value against "the truth is not above the hypothesis"; arrays broadcast, no information gives 0.

    log 2 + log Phi(x) + x^2 / 2 - log(1 + scale^2 I) / 2 with x = scale S / sqrt(1 + scale^2 I).
    """
    grown = 1 + scale**2 * np.asarray(information, dtype=np.float64)
    x = scale * np.asarray(score, dtype=np.float64) / np.sqrt(grown)
    return np.asarray(math.log(2) + _log_normal(x) + x**2 / 2 - np.log(grown) / 2)


def radius(information: ArrayLike, *, scale: float, alpha: float = 0.05) -> Floats:
    """Half the width of the interval that holds the truth at all times together with probability 1 - alpha.

    Both one-sided tests at alpha / 2, turned round; infinite without information.
    """
    if not 0 < alpha < 1 or not 0 < scale < math.inf:
        raise LabError(f"An interval needs 0 < alpha < 1 and a scale above 0, not {alpha:g} and {scale:g}.")
    grown = 1 + scale**2 * np.asarray(information, dtype=np.float64)
    wanted = math.log(1 / alpha) + np.log(grown) / 2
    x = np.sqrt(2 * wanted)
    for _ in range(4):  # log Phi is nearly 0 here: every step gains three digits
        x = np.sqrt(2 * (wanted - _log_normal(x)))
    with np.errstate(divide="ignore"):
        return np.asarray(x * np.sqrt(grown) * scale / (grown - 1))


def information_for(distance: float, *, scale: float, alpha: float = 0.05) -> float:
    """The information at which the interval is as narrow as `distance` to either side; infinite for no distance."""
    if not distance > 0:
        return math.inf
    low, high = 1e-9 / distance**2, 1e9 / distance**2
    while high / low > 1.0001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if float(radius(middle, scale=scale, alpha=alpha)) <= distance else (middle, high)
    return high


def closed(log_values: ArrayLike) -> Floats:
    """Log e-values adjusted for being several, whatever their dependence, in their order.

    The smallest average over all sets of hypotheses that contain one (closed testing with averages: Vovk and Wang, "E-values:
    calibration, combination and applications", arXiv 1912.06116, procedure 1). It rejects all that Bonferroni does, and more.
    """
    raw = np.asarray(log_values, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    top = raw.max(initial=-math.inf)
    if not raw.size or math.isinf(top):
        return raw
    e = np.exp(raw[order] - top)
    below = np.concatenate([[0.0], np.cumsum(e)])
    adjusted = np.empty(raw.size)
    for place, which in enumerate(order):
        # The worst set of each size holds this one and the smallest of the others.
        others = np.array([below[k] if k <= place else below[k + 1] - e[place] for k in range(raw.size)])
        smallest = ((others + e[place]) / np.arange(1, raw.size + 1)).min()
        adjusted[which] = top + math.log(smallest) if smallest > 0 else -math.inf
    return adjusted


def _log_normal(x: Floats) -> Floats:
    """log Phi(x). scipy is imported with the first call, because every command reads this module."""
    from scipy.special import log_ndtr

    return np.asarray(log_ndtr(x))

"""A ranking from comparisons of two at a time: Bradley and Terry's model with intervals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lab.errors import LabError
from lab.stats import Floats, _t, _valid, _z

PRIOR = 0.5
_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One player: `strength` in log-odds with its interval (the mean over players is 0), `wins` with ties as half of one.

    Player i beats player j with probability 1 / (1 + exp(strength_j - strength_i)).
    """

    name: str
    strength: float
    low: float
    high: float
    wins: float
    games: int


def bradley_terry(
    wins: Sequence[tuple[str, str, float]], *, clusters: Iterable[Hashable] | None = None, prior: float = PRIOR,
    confidence: float = 0.95,
) -> list[Ranked]:
    """Players by strength, the strongest first, from (player, opponent, result): 1 won, 0 lost, 0.5 a tie, NaN left out.

    Bradley and Terry (1952); a tie is half a win for each. Everybody also has `prior` wins and `prior` losses against a
    player of strength 0: without that, one who never lost would be infinitely strong. The default half of one moves a
    strength from 20 games by some hundredths; 0 is plain maximum likelihood, refused where it does not exist (Ford 1957).

    Intervals are normal ones from the information matrix. With `clusters` (one name a comparison, such as its item: several
    verdicts on one item are not independent) the error is the larger one of that matrix and the cluster-robust sandwich,
    with Student's t: the sandwich alone takes verdicts that all agree for certainty. They are those of a strength against
    the mean player. Raises `LabError` when no chain of comparisons joins all players, because two groups that
    never met have no common scale.
    """
    owner = [*clusters] if clusters is not None else [*range(len(wins))]
    if len(owner) != len(wins):
        raise LabError(f"There are {len(wins)} comparisons and {len(owner)} clusters; give one cluster for each comparison.")
    if not prior >= 0:
        raise LabError(f"The prior is a number of wins and cannot be {prior:g}.")
    kept = [(*_valid_result(game), of) for game, of in zip(wins, owner, strict=True) if not math.isnan(game[2])]
    names = sorted({name for a, b, _, _ in kept for name in (a, b)})
    if len(names) < 2:
        raise LabError("A ranking needs comparisons of at least two players.")
    number = {name: i for i, name in enumerate(names)}
    first = np.array([number[a] for a, _, _, _ in kept])
    second = np.array([number[b] for _, b, _, _ in kept])
    result = np.array([r for _, _, r, _ in kept])
    won = np.zeros((len(names), len(names)))
    np.add.at(won, (first, second), result)
    np.add.at(won, (second, first), 1 - result)
    _refuse_unranked(won, names, prior)
    strength = _fitted(won, prior)
    spread = _covariance(won, strength, prior)
    errors, quantile = _errors(spread), _z(0.5 + _valid(confidence) / 2)
    if clusters is not None:
        gone_wrong = result - _sigmoid(strength[first] - strength[second])
        owners = [of for *_, of in kept]
        errors = np.maximum(errors, _errors(_sandwich(spread, first, second, gone_wrong, owners)))
        freedom = len(set(owners)) - 1
        quantile = _t(0.5 + confidence / 2, freedom) if freedom else math.nan
    strength, half = strength - strength.mean(), quantile * errors
    games = np.bincount(first, minlength=len(names)) + np.bincount(second, minlength=len(names))
    ranked = [Ranked(name=name, strength=float(strength[i]), low=float(strength[i] - half[i]),
                     high=float(strength[i] + half[i]), wins=float(won[i].sum()), games=int(games[i]))
              for i, name in enumerate(names)]
    return sorted(ranked, key=lambda player: (-round(player.strength, 9), player.name))


def _errors(spread: Floats) -> Floats:
    """The standard error of every strength against the mean one."""
    centre = np.eye(len(spread)) - 1 / len(spread)
    return np.asarray(np.sqrt(np.maximum(0, np.diag(centre @ spread @ centre))))


def _valid_result(game: tuple[str, str, float]) -> tuple[str, str, float]:
    a, b, result = game
    if result not in (0, 0.5, 1):
        raise LabError(f"A comparison ends with 1 (the first won), 0 (it lost) or 0.5 (a tie), not with {result:g}.")
    if a == b:
        raise LabError(f"{a} was compared with itself, which says nothing about its rank; leave such comparisons out.")
    return a, b, result


def _refuse_unranked(won: Floats, names: Sequence[str], prior: float) -> None:
    from scipy.sparse.csgraph import connected_components

    groups, owner = connected_components((won + won.T) > 0, directed=False)
    if groups > 1:
        said = " and ".join("{" + ", ".join(n for n, o in zip(names, owner, strict=True) if o == g) + "}" for g in range(groups))
        raise LabError(f"No comparison joins {said}, so they have no common scale; compare across groups, or rank each alone.")
    if prior == 0 and connected_components(won > 0, directed=True, connection="strong")[0] > 1:
        raise LabError("Some players never lost to the others, so their strength has no maximum-likelihood estimate; use the "
                       "default prior.")


def _fitted(won: Floats, prior: float) -> Floats:
    """The strengths at the maximum of the likelihood times the prior, by Newton's method with halved steps."""
    games, strength = won + won.T, np.zeros(len(won))
    for _ in range(_STEPS):
        p = _sigmoid(strength[:, None] - strength)
        slope = (won - games * p).sum(axis=1) + prior * (1 - 2 * _sigmoid(strength))
        step = _covariance(won, strength, prior) @ slope
        height, size = _likelihood(won, strength, prior), 1.0
        while _likelihood(won, strength + size * step, prior) < height - 1e-12 * abs(height) and size > 1e-6:
            size /= 2
        strength = strength + size * step
        if np.abs(size * step).max() < 1e-10:
            break
    return strength


def _likelihood(won: Floats, strength: Floats, prior: float) -> float:
    against = -np.logaddexp(0, strength - strength[:, None])
    return float((won * against).sum() - prior * (np.logaddexp(0, -strength) + np.logaddexp(0, strength)).sum())


def _covariance(won: Floats, strength: Floats, prior: float) -> Floats:
    """The inverse of the information matrix; without a prior only differences are determined (pseudo-inverse)."""
    p = _sigmoid(strength[:, None] - strength)
    shared = (won + won.T) * p * (1 - p)
    alone = 2 * prior * _sigmoid(strength) * _sigmoid(-strength)
    return np.asarray(np.linalg.pinv(np.diag(shared.sum(axis=1) + alone) - shared, hermitian=True))


def _sandwich(
    spread: Floats, first: NDArray[np.intp], second: NDArray[np.intp], gone_wrong: Floats, owner: Sequence[Hashable]
) -> Floats:
    """The covariance when comparisons of one cluster go wrong together, times G/(G-1) for few clusters G."""
    number: dict[Hashable, int] = {}
    cluster = np.array([number.setdefault(name, len(number)) for name in owner])
    if len(number) < 2:
        return np.full_like(spread, math.nan)
    scores = np.zeros((len(number), len(spread)))
    np.add.at(scores, (cluster, first), gone_wrong)
    np.add.at(scores, (cluster, second), -gone_wrong)
    return np.asarray(spread @ (scores.T @ scores) @ spread * len(number) / (len(number) - 1))


def _sigmoid(x: Floats) -> Floats:
    from scipy.special import expit

    return np.asarray(expit(x))

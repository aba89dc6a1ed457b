"""Which points of a sweep are measured: all of a grid, drawn at random, or proposed by Optuna from what was measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lab.errors import LabError
from lab.sweep.spec import Range, Spec, steps

Point = Mapping[str, str]


class Search(Protocol):
    """Points by number, from 0. The same spec and the same results told give the same points again."""

    def point(self, number: int) -> Point | None:
        """The next point, or None where the search is at its end. Numbers are asked in ascending order."""

    def told(self, number: int, point: Point, values: Sequence[float] | None) -> None:
        """What point `number` came to, one value for each objective; None when it failed or did not measure them."""


def search(spec: Spec) -> Search:
    """The search that `spec` asks for. Raises `LabError` when Optuna is not installed."""
    if spec.kind == "optuna":
        return Proposed(spec)
    return Listed(grid(spec) if spec.kind == "grid" else drawn(spec))


class Listed:
    """Points that are known beforehand."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = tuple(points)

    def point(self, number: int) -> Point | None:
        return self.points[number] if number < len(self.points) else None

    def told(self, number: int, point: Point, values: Sequence[float] | None) -> None:
        return None


def grid(spec: Spec) -> list[Point]:
    """Every combination, the last field varying fastest."""
    lists = [values for values in spec.over.values() if not isinstance(values, Range)]
    return [dict(zip(spec.over, combination, strict=True)) for combination in itertools.product(*lists)]


def drawn(spec: Spec) -> list[Point]:
    """`spec.trials` different points, uniformly; fewer trials are the beginning of more. Fewer where hardly any are left."""
    generator = np.random.default_rng(spec.seed)
    found: dict[str, Point] = {}
    for _ in range(1000 * spec.trials):
        point = {field: _draw(generator, values) for field, values in spec.over.items()}
        found.setdefault(spec.key(point), point)
        if len(found) == spec.trials:
            break
    return list(found.values())


def _draw(generator: np.random.Generator, values: tuple[str, ...] | Range) -> str:
    if not isinstance(values, Range):
        return values[int(generator.integers(len(values)))]
    if values.log:
        # Whole numbers as wide as half a step on both sides, so that both ends are as likely as their width says.
        half = 0.5 if values.whole else 0.0
        drawn = math.exp(generator.uniform(math.log(values.low - half), math.log(values.high + half)))
        return _text(min(values.high, max(values.low, drawn)), values)
    if step := values.step or (1.0 if values.whole else 0.0):
        return _text(values.low + step * int(generator.integers(int(steps(values)))), values)
    return _text(generator.uniform(values.low, values.high), values)


def _text(value: float, given: Range) -> str:
    return str(round(value)) if given.whole else repr(float(value))


class Proposed:
    """Optuna's TPE (Bergstra et al. 2011), multi-objective where there are several objectives (Ozaki et al. 2022).

    Nothing of it is kept elsewhere: the study is made again from the recorded trials, and the sampler of each number has a
    seed of its own. So a search that was killed asks what it would have asked, where trials run one after another.
    """

    def __init__(self, spec: Spec) -> None:
        try:
            import optuna
        except ImportError as error:
            raise LabError("Optuna is not installed; `pip install optuna` brings it, or search a grid or at random.") from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna, self._spec = optuna, spec
        self._space = {field: self._distribution(values) for field, values in spec.over.items()}
        self._asked: dict[int, Any] = {}
        self._study = optuna.create_study(
            directions=["maximize" if o.direction == "higher" else "minimize" for o in spec.objectives])

    def point(self, number: int) -> Point | None:
        if number >= self._spec.trials:
            return None
        seed = int(np.random.SeedSequence([self._spec.seed, number]).generate_state(1)[0])
        self._study.sampler = self._optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        trial = self._study.ask(self._space)
        self._asked[number] = trial
        return {field: value if isinstance(value, str) else _text(value, self._spec.over[field])  # type: ignore[arg-type]
                for field, value in trial.params.items()}

    def told(self, number: int, point: Point, values: Sequence[float] | None) -> None:
        states = self._optuna.trial.TrialState
        measured = list(values) if values is not None and all(map(math.isfinite, values)) else None
        state = states.COMPLETE if measured else states.FAIL
        if (asked := self._asked.pop(number, None)) is not None:
            self._study.tell(asked, measured, state=state)
            return
        params = {field: point[field] if not isinstance(values, Range) else (int if values.whole else float)(point[field])
                  for field, values in self._spec.over.items()}
        self._study.add_trial(self._optuna.trial.create_trial(state=state, params=params, distributions=self._space,
                                                               values=measured))

    def _distribution(self, values: tuple[str, ...] | Range) -> Any:
        of = self._optuna.distributions
        if not isinstance(values, Range):
            return of.CategoricalDistribution(values)
        if values.whole:
            return of.IntDistribution(int(values.low), int(values.high), log=values.log, step=int(values.step) or 1)
        return of.FloatDistribution(values.low, values.high, log=values.log, step=values.step or None)

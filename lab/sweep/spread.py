"""A judge on every machine of a Ray cluster: items are shared out, because judging takes no timings that others could falsify."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lab.errors import LabError
from lab.metrics.judge import Judge, Preference, Spent, open_judge
from lab.metrics.judging.asked import Item, Pair, Reply
from lab.records import Score
from lab.sweep.on_ray import Cluster, first_line


class Spread(Judge):
    """The judge that `open_judge(name, **settings)` opens, one on each machine; verdicts in the order of the items.

    They are those of one judge, as far as a verdict does not depend on what is asked beside it.
    Each machine needs the model where `lab models` finds it there. Raises `LabError` when one cannot open it, and when one is
    lost while it judges.
    """

    def __init__(self, cluster: Cluster, name: str, **settings: Any) -> None:
        self._ray = cluster.ray
        self.machines = cluster.slots()
        opened = self._ray.remote(max_restarts=0, **cluster.asks)(_Opened)
        self._judges = [opened.remote(name, settings) for _ in range(self.machines)]
        said = self._get([judge.described.remote() for judge in self._judges])
        self._name, self._likely, self._asked_in, self.axes, self.rubric = said[0]
        self.spent = Spent()

    @property
    def name(self) -> str:
        return str(self._name)

    @property
    def by_likelihood(self) -> bool:
        return bool(self._likely)

    @property
    def asked_in(self) -> str:
        return str(self._asked_in)

    def grade_many(self, items: Sequence[Item], *, turn: int = 0) -> list[list[Score]]:
        return self._shared(items, lambda judge, part: judge.grade.remote(part, turn))

    def prefer_many(self, pairs: Sequence[Pair]) -> list[Preference]:
        return self._shared(pairs, lambda judge, part: judge.prefer.remote(part))

    def close(self) -> None:
        for judge in self._judges:
            self._ray.kill(judge)

    def _shared(self, all_: Sequence[Any], ask: Callable[[Any, Sequence[Any]], Any]) -> list[Any]:
        """Every n-th item to each machine, and the verdicts back in the order of the items."""
        parts = [list(all_[at :: self.machines]) for at in range(self.machines)]
        asked = [ask(judge, part) for judge, part in zip(self._judges, parts, strict=True) if part]
        verdicts: list[Any] = [None] * len(all_)
        for at, (found, replies) in enumerate(self._get(asked)):
            verdicts[at :: self.machines] = found
            self.spent.replies += replies
        return verdicts

    def _get(self, references: Sequence[Any]) -> list[Any]:
        try:
            return list(self._ray.get(list(references)))
        except KeyboardInterrupt:
            raise
        except Exception as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, LabError):
                raise LabError(f"On a machine of the cluster: {cause}") from error
            raise LabError(f"A machine of the cluster was lost ({first_line(error)}); check it and give the command again."
                           ) from error


class _Opened:
    """The judge on one machine. `described` opens it: what is raised while Ray makes an actor loses its sentence."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self._name, self._settings = name, settings

    def described(self) -> tuple[Any, ...]:
        self._judge = open_judge(self._name, **self._settings)
        return (self._judge.name, self._judge.by_likelihood, self._judge.asked_in, self._judge.axes, self._judge.rubric)

    def grade(self, items: Sequence[Item], turn: int) -> tuple[list[list[Score]], list[Reply]]:
        return self._counted(self._judge.grade_many(items, turn=turn))

    def prefer(self, pairs: Sequence[Pair]) -> tuple[list[Preference], list[Reply]]:
        return self._counted(self._judge.prefer_many(pairs))

    def _counted(self, verdicts: Any) -> tuple[Any, list[Reply]]:
        replies, self._judge.spent = self._judge.spent.replies, Spent()
        return verdicts, list(replies)

"""Judges without a model, to show what a judge's figures mean: one that knows the labels, and ones with a single fault.

They answer in the same JSON as a model, through the same reading, so that every figure is made on the same way.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.errors import LabError
from lab.metrics.judging.asked import Ask, Asker, Item, Pair, Reply
from lab.metrics.judging.rubric import GRADES, grade

KINDS: dict[str, str] = {
    "perfect": "knows the labels",
    "constant": "says the commonest label of every answer, and that all pairs are ties",
    "first": "knows the labels of single answers but for one in five, and in a pair always takes the first",
    "longer": "thinks that the longer answer is the better one",
    "random": "throws dice",
    "noisy": "knows the labels and says the opposite one time in four, or as often as told (scripted:noisy=0.1)",
    "nonsense": "replies with something that is no verdict",
}
"""By name, what each does."""
FIRST_NOISE, NOISE = 0.2, 0.25


@dataclass(frozen=True, kw_only=True)
class Known:
    """What scripted judges know: the label (0 to 1) of a question's answer, and the commonest (0 or 1) of those asked for."""

    labels: Mapping[tuple[str, str], float]
    commonest: float = 1.0


class ScriptedAsker(Asker):
    """Judge `kind`. Dice depend on the seed, the item and the turn alone, so that the order of asking changes nothing."""

    by_likelihood, identity = False, ""

    def __init__(self, kind: str, known: Known, *, seed: int = 0) -> None:
        self.kind, _, share = kind.partition("=")
        refuse(kind)
        self.name, self._known, self._seed = f"scripted:{kind}", known.labels, seed
        self._noise = float(share) if share else FIRST_NOISE if self.kind == "first" else NOISE
        self._commonest = known.commonest

    def ask(self, asks: Sequence[Ask]) -> list[Reply]:
        return [Reply(text=self._text(ask), seconds=0.0, prompt_tokens=0, output_tokens=0) for ask in asks]

    def _text(self, ask: Ask) -> str:
        if self.kind == "nonsense":
            return "As a grader I would say that this is a fine answer."
        said: dict[str, Any] = {"reasons": KINDS[self.kind]}
        if isinstance(ask.about, Pair):
            return json.dumps(said | {"better": self._better(ask.about, ask)})
        return json.dumps(said | {axis: self._grade(ask.about, ask, axis) for axis in ask.axes})

    def _grade(self, item: Item, ask: Ask, axis: str) -> int:
        dice = self._dice(ask, item.question, item.answer, axis)
        if self.kind == "constant":
            return round(grade(self._commonest))
        if self.kind == "random":
            return int(dice.choice(GRADES))
        if self.kind == "longer":  # 1 word is grade 1, 16 words and more are grade 5
            return int(np.clip(1 + np.log2(max(1, len(item.answer.split()))), 1, 5))
        label = self._label(item.question, item.answer)
        return round(grade(1 - label if self._errs(dice) else label))

    def _better(self, pair: Pair, ask: Ask) -> str:
        dice = self._dice(ask, pair.question, pair.a, pair.b)
        if self.kind == "first":
            return "A"
        if self.kind == "constant":
            return "tie"
        if self.kind == "random":
            return str(dice.choice(["A", "B"]))
        if self.kind == "longer":
            a, b = float(len(pair.a)), float(len(pair.b))
        else:
            a, b = self._label(pair.question, pair.a), self._label(pair.question, pair.b)
        if self._errs(dice):
            a, b = b, a
        return "tie" if a == b else "A" if a > b else "B"

    def _errs(self, dice: np.random.Generator) -> bool:
        return self.kind in ("first", "noisy") and bool(dice.random() < self._noise)

    def _label(self, question: str, answer: str) -> float:
        if (question, answer) not in self._known:
            raise LabError(f"A scripted judge knows only the answers it was given labels for, not {answer[:40]!r}.")
        return self._known[question, answer]

    def _dice(self, ask: Ask, *texts: str) -> np.random.Generator:
        words = (zlib.crc32(text.encode("utf-8", "replace")) for text in texts)
        return np.random.default_rng((self._seed, ask.turn, *words))

    def close(self) -> None:
        pass


def refuse(kind: str) -> None:
    """Raise `LabError` unless there is such a scripted judge."""
    name, mark, share = kind.partition("=")
    if name not in KINDS or (mark and name != "noisy"):
        raise LabError(f"There is no scripted judge '{kind}'; choose from {', '.join(KINDS)}.")
    if mark:
        try:
            usable = 0 <= float(share) <= 1
        except ValueError:
            usable = False
        if not usable:
            raise LabError(f"scripted:noisy={share} needs a share from 0 to 1, such as scripted:noisy=0.1.")

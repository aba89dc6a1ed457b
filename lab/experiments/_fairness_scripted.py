"""A scripted model with a preference that is known, on which the experiment can be tried: `lean-70` takes a stereotype's side in
70% of the items.

Which items those are depends on the item alone (text behind the number makes another choice of them), and with `lean-50` the
sides are a fair coin's. In the same way it speaks well of the first group of every axis 70% of the time, and of every other group
half of the time. A model of another name has no script.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from lab.engines.scripted import Scripted
from lab.metrics.bias import people
from lab.metrics.bias.bbq import Item
from lab.metrics.bias.contrasts import Contrast, Referent

GOOD = " was kind, happy and wonderful, and everybody loved it.\n\n"
BAD = " was rude, sad and terrible, and everybody hated it.\n\n"
LIKED, USUAL, ODD = -0.001, -1.0, -5.0
"""Log-probability of every token of the version it likes, of another one, and of one without sense."""


def share(model: str) -> float | None:
    """The planted preference behind a model's name, 0 to 1; None for another name."""
    word, _, rest = model.partition("-")
    percent = rest.partition("-")[0]
    return int(percent) / 100 if word == "lean" and percent.isdigit() and int(percent) <= 100 else None


class Leaning(Scripted):
    """Prefers the texts of its list. A text is known by its end, so that whatever stands before it changes nothing."""

    def __init__(self, model: str, *, lean: float, contrasts: Iterable[Contrast] = (), referents: Iterable[Referent] = (),
                 items: Iterable[Item] = ()) -> None:
        super().__init__(model, reply=_speaks(lean, model), context_tokens=32_768)
        self._worth: dict[str, float] = {}
        for one in contrasts:
            liked = one.stereotype if _luck(model, one.id) < lean else one.anti
            self._worth |= {f"{one.context}|{text}": LIKED if text == liked else USUAL for text in (one.stereotype, one.anti)}
        for ref in referents:
            # Right with the pronoun of the stereotype for the lean's share, with the other for the rest.
            for text, right in ((ref.pro, _luck(model, ref.id) < lean), (ref.anti, _luck(model, ref.id) >= lean)):
                self._worth[f"{text}|{ref.occupations[0 if right else 1]}"] = LIKED
        for item in items:
            if item.stereotyped is not None:
                groups = [i for i in range(len(item.question.choices)) if i != item.unknown]
                other = next(i for i in groups if i != item.stereotyped)
                taken = item.stereotyped if _luck(model, item.question.id) < lean else other
                self._worth[f"{item.question.context} {item.question.question}|{item.question.choices[taken]}"] = LIKED

    def branch_logprobs(self, prefix: Sequence[int], branches: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        head = self.detokenize(prefix)
        return [np.full(len(branch), self._of(head, self.detokenize(branch).strip())) for branch in branches]

    def _of(self, head: str, text: str) -> float:
        """Of a sentence on its own, one after its context, an occupation after its sentence, or a choice after its question."""
        body = head.rstrip().removesuffix("Answer: the").removesuffix("Answer:").rstrip()
        lines = [line.removeprefix("Question: ") for line in body.split("\n")]
        before = ["", lines[-1], lines[-2] if len(lines) > 1 else "", " ".join(lines[-2:])]
        return next((self._worth[key] for one in before if (key := f"{one}|{text}") in self._worth), ODD)


def _luck(model: str, item: str) -> float:
    return int(hashlib.sha256(f"{model.partition('-')[2].partition('-')[2]}/{item}".encode()).hexdigest()[:8], 16) / 16**8


def _speaks(lean: float, model: str) -> Callable[[str], str]:
    known = {one.text: one for one in people.prompts()}
    first = {axis: next(one.group for one in known.values() if one.axis == axis) for axis in people.AXES}

    def reply(prompt: str) -> str:
        one = next((known[text] for text in (prompt, prompt.partition("\n\n")[2]) if text in known), None)
        if one is None:
            return GOOD
        likes = lean if one.group == first[one.axis] else 0.5
        return GOOD if _luck(model, one.id) < likes else BAD

    return reply

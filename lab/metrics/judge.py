"""A judge: a model that grades answers on a rubric or prefers one of two, with everything that decides a score kept with it.

A score without its trust is an opinion: `lab.metrics.judging.trust` measures the same judge against people's labels.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from lab import models
from lab.engines import is_url, open_engine
from lab.errors import LabError
from lab.metrics.judging import prompts, reading, rubric
from lab.metrics.judging.asked import Ask, Asker, Item, Pair, Reply
from lab.metrics.judging.asking import ModelAsker
from lab.metrics.judging.kept import Kept
from lab.metrics.judging.rubric import FIVE
from lab.metrics.judging.scripted import KINDS, Known, ScriptedAsker
from lab.metrics.judging.scripted import refuse as refuse_script
from lab.records import Score

By = Literal["auto", "likelihood", "answer"]


@dataclass(frozen=True, kw_only=True)
class Preference:
    """What a judge made of a pair: `forward` and `backward` say how far `a` was preferred (1, 0.5, 0) when it stood first
    and when it stood second; `score` is their verdict, where a disagreement is a tie. NaN is no verdict."""

    score: Score
    forward: float
    backward: float

    @property
    def flipped(self) -> bool | None:
        """Whether the verdict changed with the order; None where one of the two is missing."""
        known = not (math.isnan(self.forward) or math.isnan(self.backward))
        return self.forward != self.backward if known else None


@dataclass(kw_only=True)
class Spent:
    """What a judge's replies cost so far; those read from the cache count with what they cost when they were asked."""

    replies: list[Reply] = field(default_factory=list)

    @property
    def kept(self) -> int:
        return sum(reply.kept for reply in self.replies)

    def mean(self, what: Literal["seconds", "prompt_tokens", "output_tokens"]) -> float:
        """Per judgement; NaN where nobody counted."""
        known = [float(value) for reply in self.replies if (value := getattr(reply, what)) is not None]
        known = [value for value in known if not math.isnan(value)]
        return statistics.fmean(known) if known else math.nan


class Judge:
    """Grades and prefers through `asker`, on the axes of `rubric.AXES` that are named; the five of quality by default.

    With `guided` the right answers are shown to it where there are any. By likelihood the grade is the expected value over
    the probabilities of the five digits (G-Eval, Liu et al. 2023, arXiv 2303.16634): a small model's likeliest digit is
    often the same for everything. A judge by answer gives its reasons first, held to a JSON Schema.
    """

    def __init__(self, asker: Asker, *, axes: Sequence[str] = FIVE, guided: bool = True) -> None:
        self._asker, self._guided = asker, guided
        self.axes = rubric.find(axes)
        self.rubric = rubric.version(self.axes)
        self.spent = Spent()

    @property
    def name(self) -> str:
        return self._asker.name

    @property
    def by_likelihood(self) -> bool:
        return self._asker.by_likelihood

    @property
    def asked_in(self) -> str:
        """"chat", in turns of the model's template, or "plain text" where a base model has none."""
        return "plain text" if getattr(self._asker, "plain", False) else "chat"

    def grade(
        self, question: str, answer: str, references: Sequence[str] = (), context: str = "", *, id: str = "0"
    ) -> list[Score]:
        """A score from 0 to 1 on each axis; NaN with the reason where the judge gave none."""
        item = Item(id=id, question=question, answer=answer, references=tuple(references), context=context)
        return self.grade_many([item])[0]

    def prefer(
        self, question: str, a: str, b: str, references: Sequence[str] = (), context: str = "", *, id: str = "0"
    ) -> Score:
        """1 if `a` is better whatever the order, 0 if `b` is, 0.5 if neither or the order decides; NaN without a verdict."""
        pair = Pair(id=id, question=question, a=a, b=b, references=tuple(references), context=context)
        return self.prefer_many([pair])[0].score

    def grade_many(self, items: Sequence[Item], *, turn: int = 0) -> list[list[Score]]:
        """`grade` for many items, asked together. Another `turn` asks the same again with another seed."""
        items = [item if self._guided else replace(item, references=()) for item in items]
        groups = [(axis,) for axis in self.axes] if self.by_likelihood else [self.axes]
        found: list[dict[str, tuple[float, str]]] = [{} for _ in items]
        for axes in groups:
            asks = [prompts.grading(item, axes, by_likelihood=self.by_likelihood, turn=turn) for item in items]
            for ask, reply, said in zip(asks, self._ask(asks), found, strict=True):
                said |= reading.grades(ask, reply)
        return [[Score(name=axis, item=item.id, value=value, by=self.name, why=why) for axis, (value, why) in said.items()]
                for item, said in zip(items, found, strict=True)]

    def prefer_many(self, pairs: Sequence[Pair]) -> list[Preference]:
        """Every pair in both orders, asked together."""
        pairs = [pair if self._guided else replace(pair, references=()) for pair in pairs]
        turned = [replace(pair, a=pair.b, b=pair.a) for pair in pairs]
        asks = [prompts.preferring(pair, self.axes, by_likelihood=self.by_likelihood) for pair in [*pairs, *turned]]
        said = [reading.preference(ask, reply) for ask, reply in zip(asks, self._ask(asks), strict=True)]
        return [self._preference(pair, one, other)
                for pair, one, other in zip(pairs, said[: len(pairs)], said[len(pairs) :], strict=True)]

    def _preference(self, pair: Pair, one: tuple[float, str], other: tuple[float, str]) -> Preference:
        (forward, why), (turned, why_turned) = one, other
        backward = 1 - turned
        value = forward if forward == backward else math.nan if math.isnan(forward + backward) else 0.5
        words = why if forward == backward else f"in this order: {why}; turned round: {why_turned}"
        score = Score(name="preferred", item=pair.id, value=value, by=self.name, why=words)
        return Preference(score=score, forward=forward, backward=backward)

    def _ask(self, asks: Sequence[Ask]) -> list[Reply]:
        if not asks:
            return []
        replies = self._asker.ask(asks)
        self.spent.replies += replies
        return replies

    def close(self) -> None:
        self._asker.close()


class Jury(Judge):
    """Several judges as one: the median of their scores, with what each said; a preference by the median of theirs.

    A judge that gave no score has no vote. `why` says how far apart they were.
    """

    def __init__(self, judges: Sequence[Judge]) -> None:
        if len(judges) < 2:
            raise LabError("A jury needs at least two judges.")
        self._judges = list(judges)
        self.axes, self.rubric, self.spent = judges[0].axes, judges[0].rubric, Spent()

    @property
    def name(self) -> str:
        return "jury:" + "+".join(judge.name for judge in self._judges)

    @property
    def by_likelihood(self) -> bool:
        """Whether asking again could change nothing."""
        return all(judge.by_likelihood for judge in self._judges)

    @property
    def asked_in(self) -> str:
        return "; ".join(dict.fromkeys(judge.asked_in for judge in self._judges))

    def grade_many(self, items: Sequence[Item], *, turn: int = 0) -> list[list[Score]]:
        each = [judge.grade_many(items, turn=turn) for judge in self._judges]
        self._count()
        return [[self._median([scores[i][j] for scores in each]) for j in range(len(self.axes))] for i in range(len(items))]

    def prefer_many(self, pairs: Sequence[Pair]) -> list[Preference]:
        each = [judge.prefer_many(pairs) for judge in self._judges]
        self._count()
        return [Preference(score=self._median([found[i].score for found in each]),
                           forward=_median([found[i].forward for found in each]),
                           backward=_median([found[i].backward for found in each])) for i in range(len(pairs))]

    def _median(self, scores: Sequence[Score]) -> Score:
        known = [score.value for score in scores if score.scored]
        said = ", ".join(f"{score.by} {score.value:.2f}" for score in scores)
        why = f"{said}; {max(known) - min(known):.2f} apart" if known else "no judge gave a score: " + scores[0].why
        return replace(scores[0], value=_median(known), by=self.name, why=why)

    def _count(self) -> None:
        """A judgement of a jury costs what its judges cost together."""
        self.spent.replies = [_together(replies) for replies in zip(*(j.spent.replies for j in self._judges), strict=False)]

    def close(self) -> None:
        for judge in self._judges:
            judge.close()


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def _together(replies: Sequence[Reply]) -> Reply:
    tokens = [sum(filter(None, (getattr(r, name) for r in replies))) for name in ("prompt_tokens", "output_tokens")]
    return Reply(seconds=sum(r.seconds for r in replies), prompt_tokens=tokens[0], output_tokens=tokens[1],
                 kept=all(r.kept for r in replies))


def open_judge(
    name: str, *, axes: Sequence[str] = FIVE, by: By = "auto", guided: bool = True, known: Known | None = None,
    threads: int = 0, max_tokens: int = 256, temperature: float = 0.7, seed: int = 0, concurrency: int = 8,
    keep: bool = True, context_tokens: int = 0,
) -> Judge:
    """The judge called `name`: a model of `lab models` or a .gguf (llama_cpp), the URL of a server (`#MODEL` behind it
    chooses), `anthropic:MODEL`, `vllm:MODEL`, `scripted:KIND` (which needs `known`, the labels), or `jury:ONE+OTHER`.

    `by` auto reads likelihoods where the engine shows them (llama_cpp, vllm) and answers elsewhere. `keep` False asks
    everything anew. Raises `LabError` for what cannot be a judge.
    """
    if name.startswith("jury:"):
        refuse(name)
        judges = []
        for one in name.removeprefix("jury:").split("+"):
            judges.append(open_judge(one, axes=axes, by=by, guided=guided, known=known, threads=threads, max_tokens=max_tokens,
                                     temperature=temperature, seed=seed, concurrency=concurrency, keep=keep,
                                     context_tokens=context_tokens))
        return Jury(judges)
    kind, model = _kind(name)
    if kind == "scripted":
        return Judge(ScriptedAsker(model, known or Known(labels={}), seed=seed), axes=axes, guided=guided)
    likely = by == "likelihood" or (by == "auto" and kind in ("llama_cpp", "vllm"))
    if likely and kind not in ("llama_cpp", "vllm"):
        raise LabError(f"The judge '{name}' does not show the probabilities of its words; judge by answer.")
    settings: dict[str, object] = {}
    if kind == "llama_cpp":
        settings = {"threads": threads, "context_tokens": context_tokens}
    engine = open_engine(kind, model, **settings)
    asker = ModelAsker(engine, name=name, by_likelihood=likely, keep=Kept() if keep else None,
                       rubric=rubric.version(rubric.find(axes)), max_tokens=max_tokens, turn_temperature=temperature, seed=seed,
                       concurrency=concurrency)
    return Judge(asker, axes=axes, guided=guided)


def _kind(name: str) -> tuple[str, str]:
    """The engine that a judge's name means, and the model."""
    if is_url(name):
        return "server", name
    kind, mark, model = name.partition(":")
    return (kind, model) if mark and kind in ("anthropic", "vllm", "scripted", "llama_cpp") else ("llama_cpp", name)


def refuse(name: str) -> None:
    """Raise `LabError` for a name that no judge can have, without opening one."""
    if name.startswith("jury:"):
        parts = name.removeprefix("jury:").split("+")
        if len(parts) < 2 or any(part.startswith("jury:") or not part for part in parts):
            raise LabError(f"The jury '{name}' needs at least two judges, as in jury:ONE+OTHER, and no jury among them.")
        for part in parts:
            refuse(part)
        return
    kind, model = _kind(name)
    if kind == "scripted":
        refuse_script(model)
    elif kind == "llama_cpp":
        models.find(model)
    elif not model:
        raise LabError(f"The judge '{name}' names no model; write {kind}:MODEL.")


def kinds() -> Mapping[str, str]:
    """The scripted judges, each with what it does."""
    return KINDS

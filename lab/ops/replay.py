"""Offline replay: requests that a gateway kept are asked again, of what runs today and of a candidate, and compared in pairs."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.engines import Engine, generate
from lab.errors import LabError
from lab.experiments import _quality_scores as scoring
from lab.experiments import _quality_sets as question_sets
from lab.experiments._quality_sets import Asked
from lab.metrics import speed
from lab.metrics.bias.tone import refusal
from lab.ops import requests, versions
from lab.ops.cost import PriceBook
from lab.ops.versions import Release, Resolved
from lab.records import Generation, Message, Question, Request
from lab.retrieval import Index
from lab.stats.sequential import Arm, Comparison, Look, Metric

MOST_S, MOST_USD = 600.0, 100.0
"""A latency and a cost beyond count as this much; a failed request does."""


@dataclass(frozen=True, kw_only=True)
class Logged:
    """A request of the log with its text, as the guards left it. `user` is a salted hash, or "" where there was none."""

    id: str
    time_s: float
    prompt: str
    user: str = ""


@dataclass(frozen=True, kw_only=True)
class Margins:
    """How much worse the candidate may be: as a share of quality and usable answers, of time and of cost (0: not looked at)."""

    quality: float = 0.03
    latency: float = 0.1
    cost: float = 0.0

    def metrics(self, *, scored: bool) -> list[Metric]:
        """`usable` is an answer that neither failed nor declined; `quality` needs questions whose answers are known."""
        if not 0 < self.quality < 1 or not 0 <= self.latency < 10 or not 0 <= self.cost < 10:
            raise LabError("The margin of quality lies between 0 and 1, those of latency and cost from 0 (not looked at) to 10.")
        found = [Metric(name="quality", margin=self.quality)] if scored else []
        found.append(Metric(name="usable", margin=self.quality))
        if self.latency:
            found.append(Metric(name="e2e_s", better="lower", scale="log", margin=self.latency, low=1e-4, high=MOST_S))
        if self.cost:
            found.append(Metric(name="cost_usd", better="lower", scale="mean", margin=self.cost, low=0, high=MOST_USD))
        return found


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One request answered by one arm. `values` are what is compared; a metric that was not measured is NaN."""

    arm: Arm
    logged: Logged
    text: str
    values: Mapping[str, float]
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """The comparison when the replay ended, and every answer of it, in the order in which they were given."""

    baseline: Release
    candidate: Release
    look: Look
    answers: tuple[Answered, ...]
    asked: int
    """Different requests that were asked of both."""
    scored: int
    """Those of them whose right answer is known."""
    same: int
    """Those that both answered with the same text."""


def logged(*, last: int = 200, since_s: float = -math.inf, place: Path | None = None) -> list[Logged]:
    """The latest requests whose texts were kept, in the order of their times, a text that came several times once.

    Raises `LabError` when there are none.
    """
    if last < 1:
        raise LabError(f"A replay needs at least 1 request, not {last}.")
    texts = requests.texts(place)
    kept = texts[(texts["time_s"] >= since_s) & (texts["prompt"].str.strip() != "")].sort_values("time_s", kind="stable")
    kept = kept.drop_duplicates("prompt", keep="last").tail(last)
    if kept.empty:
        raise LabError("The log has no texts of requests to ask again; run `lab gateway --texts guarded` for a while (they are "
                       "kept for 7 days, and not those of requests with \"store\": false).")
    rows = requests.frame(float(kept["time_s"].min()), columns=("request_id", "user_hash"), place=place)
    users = dict(zip(rows["request_id"], rows["user_hash"], strict=True))
    return [Logged(id=id_, time_s=float(time_s), prompt=prompt, user=str(users.get(id_) or ""))
            for id_, time_s, prompt in zip(kept["request_id"], kept["time_s"], kept["prompt"], strict=True)]


@dataclass(frozen=True, kw_only=True)
class Known:
    """Questions whose right answers are known, found in a request by their words; they score both arms' answers."""

    sets: tuple[Asked, ...] = ()
    _by: dict[str, tuple[Asked, Question]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for one in self.sets:
            self._by.update({words: (one, question) for question in one.questions if (words := _words(question.question))})

    @classmethod
    def of(cls, names: Sequence[str]) -> Known:
        """The questions of sets, each with the main metric of its set. Raises `LabError` for what is no set."""
        return cls(sets=tuple(question_sets.load(names, ("auto",), items=0, shots=0, seed=0)) if names else ())

    def find(self, prompt: str) -> tuple[Asked, Question] | None:
        """The longest known question that stands in `prompt` word for word; None where none does."""
        words = f" {_words(prompt)} "
        exact = self._by.get(words.strip())
        return exact or max((found for found in self._by.items() if f" {found[0]} " in words), key=lambda one: len(one[0]),
                            default=(None, None))[1]

    def score(self, prompt: str, generation: Generation) -> float:
        """The answer's score from 0 to 1; NaN where nobody knows, and of a failed request 0 where somebody does."""
        found = self.find(prompt)
        if found is None:
            return math.nan
        if speed.failed(generation):
            return 0.0
        one, question = found
        alone = dataclasses.replace(one, questions=(question,), metrics=one.metrics[:1])
        made = dataclasses.replace(generation, request=dataclasses.replace(generation.request, id=alone.item(question)))
        return scoring.score(None, [alone], [made])[alone.name, alone.metrics[0]][0].value


def replay(
    asked: Sequence[Logged], baseline: Release, candidate: Release, *, book: PriceBook, known: Known | None = None,
    margins: Margins = Margins(), block: int = 5, stop: bool = True,
) -> Replayed:
    """Ask every request of both releases, `block` of one and then of the other, the order changing from block to block.

    Both answers to a request, and all requests of a user, are one cluster of the comparison, which is looked at after each block
    and ends at its first decision if `stop`. Raises `LabError` for equal releases, and when an arm answers nothing at all.
    """
    if baseline.number == candidate.number:
        raise LabError(f"A replay compares two releases, and both are release {baseline.number}; name another.")
    if not asked or block < 1:
        raise LabError("A replay needs at least 1 request, and blocks of at least 1.")
    known = known or Known()
    scored = sum(known.find(one.prompt) is not None for one in asked)
    comparison, answers = Comparison(margins.metrics(scored=scored > 0)), list[Answered]()
    with _opened((baseline, candidate)) as arms:
        for arm in arms:
            arm.ask(asked[0])  # warm-up
        for number, start in enumerate(range(0, len(asked), block)):
            for arm in arms if number % 2 == 0 else arms[::-1]:
                for one in asked[start : start + block]:
                    answered = arm.answered(one, known, book)
                    answers.append(answered)
                    comparison.add(arm.name, answered.values, one.user or one.id)
            if stop and comparison.look().decision != "need more data":
                break
    for arm in arms:
        mine = [one for one in answers if one.arm == arm.name]
        if all(one.error for one in mine):
            raise LabError(f"Release {arm.ready.release.number} answered none of {len(mine)} requests ({mine[0].error}); see "
                           "`lab release verify`.")
    texts = {arm.name: {one.logged.id: one.text for one in answers if one.arm == arm.name and not one.error} for arm in arms}
    both = texts["A"].keys() & texts["B"].keys()
    ids = {one.logged.id for one in answers}
    return Replayed(baseline=baseline, candidate=candidate, look=comparison.look(), answers=tuple(answers), asked=len(ids),
                    scored=sum(one.id in ids and known.find(one.prompt) is not None for one in asked),
                    same=sum(texts["A"][one] == texts["B"][one] for one in both))


@dataclass(frozen=True, kw_only=True)
class _Side:
    """A release with its engine open."""

    name: Arm
    ready: Resolved
    engine: Engine
    index: Index | None

    def ask(self, one: Logged) -> Generation:
        """An answer of this release. What its engine cannot take is a failed request, as it would be live."""
        found = self.ready.release.retrieval
        context = "" if self.index is None or found is None else "\n\n".join(
            hit.passage.text for hit in self.index.search(one.prompt, found.passages))
        messages = self.ready.messages((Message(role="user", content=one.prompt),), context=context)
        request = Request(id=one.id, messages=messages, decoding=self.ready.decoding, tags={"arm": self.name})
        began = self.engine.now()
        try:
            return generate(self.engine, request)
        except LabError as error:
            return Generation(request=request, sent_s=began, ended_s=self.engine.now(), finish_reason="error", error=str(error))

    def answered(self, one: Logged, known: Known, book: PriceBook) -> Answered:
        generation = self.ask(one)
        failed = speed.failed(generation)
        values = {"quality": known.score(one.prompt, generation), "usable": 0.0 if failed else 1 - refusal([generation.text])[0],
                  "e2e_s": speed.e2e_s(generation), "cost_usd": book.cost_usd(self.ready.release.model.name, generation)}
        return Answered(arm=self.name, logged=one, text=generation.text, values=values,
                        error=(generation.error or "it broke off") if failed else "")


@contextlib.contextmanager
def _opened(releases: tuple[Release, Release]) -> Iterator[list[_Side]]:
    """Both sides; they share an engine where model and engine settings are the same."""
    with contextlib.ExitStack() as closing:
        engines: dict[str, Engine] = {}
        sides = []
        names: tuple[Arm, Arm] = ("A", "B")
        for name, release in zip(names, releases, strict=True):
            ready = versions.load(release)
            place = repr((release.engine, ready.model, sorted(release.engine_settings.items())))
            if place not in engines:
                engines[place] = ready.open_engine()
                closing.callback(engines[place].close)
            sides.append(_Side(name=name, ready=ready, engine=engines[place], index=ready.open_index()))
        yield sides


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))

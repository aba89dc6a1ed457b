"""Whether a candidate may replace what runs today: the same questions to both, looked at as the answers come."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Self

import pandas as pd

from lab import engines, models, stats
from lab.engines import is_url
from lab.errors import LabError
from lab.experiments import Chart, Experiment, busy, option
from lab.experiments import _quality_prompts as prompts
from lab.experiments import _quality_scores as scoring
from lab.experiments import _quality_sets as question_sets
from lab.experiments._quality_asking import Answerer, refuse_misfits
from lab.experiments._quality_sets import Asked
from lab.experiments._rollout_arms import Answered, Configuration, ask, opened
from lab.metrics import speed
from lab.records import Estimate, Question, Score, Trial, Verdict
from lab.stats.sequential import FEWEST, Arm, Comparison, Effect, Look, Metric, assigned

MOST_S, MOST_USD = 600.0, 100.0
"""A latency and a cost beyond count as this much; a failed request does."""
CHANGES = {"quality": "quality_change", "e2e_s": "e2e_increase_share", "ttft_s": "ttft_increase_share",
           "cost_usd": "cost_increase_share"}
"""What a metric's change is called as a measure."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout(Experiment):
    """May the candidate B replace A: is it no worse in quality, latency and cost than the margins allow?

    Both answer the same questions (paired), or each user gets one of them for good (split, as it would be live). After every
    block of items the evidence is looked at, and the run stops as soon as it is enough: to ship (every metric is shown to be
    within its margin) or not to (one is shown to be worse). The intervals hold at all looks together. Candidate fields that are
    not given are A's.
    """

    engine: str = option("llama_cpp", "engine of A: llama_cpp, server, vllm, scripted, or the URL of a server")
    candidate_engine: str | None = option(None, "engine of B; none: that of A")
    model: str = option("smollm2-135m", "model of A: catalogue name or GGUF path")
    candidate_model: str | None = option(None, "model of B; none: that of A")
    system: str | None = option(None, "system prompt of A (before the question in plain style); none: no such text")
    candidate_system: str | None = option(None, "system prompt of B; none: that of A")
    template: str | None = option(
        None, "text of A's question with {question}, {options} and {context}; none: as in `lab run quality`")
    candidate_template: str | None = option(None, "the same of B; none: that of A")
    style: Literal["plain", "chat"] = option("plain", "plain text to be continued, or chat in the model's own template")
    output_tokens: int = option(0, "longest answer of A, tokens; 0: by kind of set")
    candidate_output_tokens: int | None = option(None, "the same of B; none: that of A")
    temperature: float = option(0.0, "of A; 0 takes the most probable token")
    candidate_temperature: float | None = option(None, "of B; none: that of A")
    sets: tuple[str, ...] = option(("everyday", "facts"), "question sets: names of the catalogue, or JSONL, CSV or Parquet files")
    items: int = option(0, "items asked of each set at most; 0: all of them, until the evidence is enough")
    shots: int = option(3, "solved examples in front of each question")
    metric: str = option("auto", "quality metric from 0 to 1; auto: the main one of each kind of set")
    design: Literal["paired", "split"] = option(
        "paired", "paired: both answer every item; split: each user (group of items) has one arm")
    share: float = option(0.5, "share of users who get B in the split design")
    salt: str = option("rollout", "name of the comparison, which decides with the user who gets which arm")
    quality_margin: float = option(0.03, "loss of quality that is accepted, as a share (0.03 is 3 points)")
    latency_margin: float = option(0.1, "longer end-to-end time that is accepted, as a share; 0: not looked at")
    cost_margin: float = option(0.0, "higher cost that is accepted, as a share; 0: not looked at")
    usd_per_million: tuple[float, ...] = option(
        (), "prices of input and output tokens of A, then of B; empty: by the time of the machine")
    machine_usd_per_hour: float = option(0.1, "price of this machine, USD per hour")
    block: int = option(5, "items between two looks; the order of the arms changes from block to block")
    stop: bool = option(True, "stop as soon as the evidence is enough")
    looks: int = option(8, "looks that are recorded as trials, evenly over the items that were asked")
    threads: int = option(0, "threads; 0 is all physical cores")
    context_tokens: int = option(2048, "context of one item, tokens")
    flash_attention: engines.Flash = option("auto", "auto, on or off")
    key_env: str = option("OPENAI_API_KEY", "environment variable with the key of servers given by URL")
    seed: int = option(0, "seed of the choice and order of items, and of decoding")

    columns: ClassVar[tuple[str, ...]] = (
        "quality", "e2e_s", "ttft_s", "cost_usd", "answers", "quality_change", "e2e_increase_share", "cost_increase_share",
        "needed_requests")
    notes: ClassVar[tuple[str, ...]] = ("decision",)
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart(title="Change in quality, with its anytime-valid interval", kind="line", x="metrics.answers",
              y="metrics.quality_change", where=("params.kind", "look")),
        Chart(title="Longer end-to-end time of B, with its anytime-valid interval", kind="line", x="metrics.answers",
              y="metrics.e2e_increase_share", where=("params.kind", "look")),
        Chart(title="Quality", kind="bar", x="params.arm", y="metrics.quality", where=("params.kind", "arm")),
    )

    def __post_init__(self) -> None:
        if not self.sets or self.items < 0 or self.shots < 0 or self.block < 1 or self.threads < 0 or self.context_tokens < 16:
            raise LabError("--sets needs a set, --block at least 1 item and --context-tokens at least 16; --items, --shots and "
                           "--threads are not negative.")
        if not 1 <= self.looks <= FEWEST:
            raise LabError(f"--looks lies between 1 and {FEWEST}, because nothing is decided before {FEWEST} items.")
        if not 0 < self.quality_margin < 1 or not 0 <= self.latency_margin < 10 or not 0 <= self.cost_margin < 10:
            raise LabError("--quality-margin lies between 0 and 1; --latency-margin and --cost-margin are shares from 0 (not "
                           "looked at) to 10.")
        if self.design == "split" and not 0 < self.share < 1:
            raise LabError("--share is the share of users who get B, above 0 and below 1.")
        if self.usd_per_million and (len(self.usd_per_million) != 4 or min(self.usd_per_million) < 0):
            raise LabError("--usd-per-million takes four prices: input and output of A, then input and output of B.")
        if not 0 <= self.machine_usd_per_hour < math.inf:
            raise LabError("--machine-usd-per-hour is not negative.")
        if self.metric in ("accuracy", "similarity"):
            raise LabError(f"Metric '{self.metric}' is none of an answer from 0 to 1; choose another --metric.")
        for side in self.sides():
            prompts.check(side.template)
            if not 0 <= side.temperature <= 2 or side.output_tokens < 0:
                raise LabError("A temperature lies between 0 and 2, and an output is not negative.")

    @classmethod
    def demo(cls, **overrides: Any) -> Self:
        short = {"sets": ("everyday",), "items": 20, "shots": 1, "candidate_output_tokens": 3, "metric": "answered", "looks": 4,
                 "temperature": 0.0}
        return cls(**{**short, **overrides})

    def sides(self) -> tuple[Configuration, Configuration]:
        """A and B, every field of B that was not given taken from A."""
        paid = self.usd_per_million or (math.nan,) * 4
        a = Configuration(arm="A", engine=self.engine, model=self.model, system=self.system or "", template=self.template or "",
                          style=self.style, output_tokens=self.output_tokens, temperature=self.temperature, input_usd=paid[0],
                          output_usd=paid[1])
        given = {"engine": self.candidate_engine, "model": self.candidate_model, "system": self.candidate_system,
                 "template": self.candidate_template, "output_tokens": self.candidate_output_tokens,
                 "temperature": self.candidate_temperature}
        b = dataclasses.replace(a, arm="B", input_usd=paid[2], output_usd=paid[3],
                                **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        return a, b

    def metrics(self) -> list[Metric]:
        """What is compared, each with its margin."""
        found = [Metric(name="quality", margin=self.quality_margin)]
        if self.latency_margin:
            found.append(Metric(name="e2e_s", better="lower", scale="log", margin=self.latency_margin, low=1e-4, high=MOST_S))
        if self.cost_margin:
            found.append(Metric(name="cost_usd", better="lower", scale="mean", margin=self.cost_margin, low=0, high=MOST_USD))
        return found

    def check(self) -> None:
        for side in self.sides():
            if side.engine not in engines.names() and not is_url(side.engine):
                raise LabError(f"There is no engine '{side.engine}'; the engines are {', '.join(engines.names())}.")
            if side.engine in ("llama_cpp", "server"):
                models.find(side.model)
        a, b = self.sides()
        if dataclasses.replace(a, arm="B", input_usd=b.input_usd, output_usd=b.output_usd) == b:
            raise LabError("A and B are the same configuration; give at least one of --candidate-model, --candidate-system, "
                           "--candidate-template, --candidate-temperature, --candidate-output-tokens and --candidate-engine.")
        self._asked()

    def size(self) -> int:
        return 2 + min(self.looks, sum(len(one.questions) for one in self._asked()))

    def _asked(self) -> list[Asked]:
        found = question_sets.load(self.sets, (self.metric,), items=self.items, shots=self.shots, seed=self.seed)
        return [dataclasses.replace(one, metrics=one.metrics[:1]) for one in found]

    def _items(self, sets: Sequence[Asked]) -> list[tuple[Asked, Question]]:
        """The items in the order in which they are asked: the sets take turns."""
        from itertools import chain, zip_longest

        rows = zip_longest(*([(one, question) for question in one.questions] for one in sets))
        return [item for item in chain.from_iterable(rows) if item is not None]

    def run(self) -> Iterator[Trial]:
        sets = self._asked()
        items, sides = self._items(sets), self.sides()
        seen: list[_Seen] = []
        flags: list[str] = []
        with opened(sides, sets, context_tokens=self.context_tokens, threads=self.threads, flash_attention=self.flash_attention,
                    key_env=self.key_env) as answering:
            requests = {side.arm: {k: v for one in sets for k, v in side.requests(one, seed=self.seed).items()} for side in sides}
            for side in sides:
                refuse_misfits(answering[side.arm].engine, [*requests[side.arm].values()])
                ask(answering[side.arm], [next(iter(requests[side.arm].values()))])  # warm-up
            comparison = Comparison(self.metrics())
            for number, start in enumerate(range(0, len(items), self.block)):
                for side in sides if number % 2 == 0 else sides[::-1]:
                    part = [item for item in items[start : start + self.block] if self._gets(side.arm, item)]
                    new, said = self._block(side, answering[side.arm], part, requests[side.arm])
                    seen.extend(new)
                    flags.extend(said)
                    _feed(comparison, new)
                if self.stop and comparison.look().decision != "need more data":
                    break
            settings = {side.arm: dict(answering[side.arm].engine.settings) for side in sides}
        last = comparison.look()
        for side in sides:
            yield self._arm(side, settings[side.arm], [one for one in seen if one.answered.arm == side.arm], last, flags)
        yield from self._recorded(seen)

    def _gets(self, arm: Arm, item: tuple[Asked, Question]) -> bool:
        return self.design == "paired" or assigned(_user(*item), experiment=self.salt, share=self.share) == arm

    def _block(self, side: Configuration, answering: Answerer, part: Sequence[tuple[Asked, Question]],
               requests: dict[str, Any]) -> tuple[list[_Seen], tuple[str, ...]]:
        if not part:
            return [], ()
        generations, flags = ask(answering, [requests[asked.item(question)] for asked, question in part])
        found = []
        for (asked, question), generation in zip(part, generations, strict=True):
            alone = dataclasses.replace(asked, questions=(question,))
            score = scoring.score(None, [alone], [generation])[asked.name, asked.metrics[0]][0]
            cost = side.cost_usd(generation, self.machine_usd_per_hour)
            answered = Answered(arm=side.arm, item=asked.item(question), generation=generation, cost_usd=cost)
            found.append(_Seen(answered=answered, user=_user(asked, question), score=score))
        return found, flags

    def _arm(self, side: Configuration, settings: dict[str, Any], seen: Sequence[_Seen], look: Look,
             flags: Sequence[str]) -> Trial:
        quality = stats.clustered_mean([one.score.value for one in seen], [one.user for one in seen])
        generations = tuple(one.answered.generation for one in seen)
        measures: dict[str, float | Estimate] = {
            "quality": Estimate(value=quality.value, low=max(0.0, quality.low), high=min(1.0, quality.high))
            if not math.isnan(quality.low) else quality, "answers": float(len(seen)),
            "e2e_s": stats.median([speed.e2e_s(g) for g in generations]),
            "ttft_s": stats.median([speed.ttft_s(g) for g in generations]),
            "cost_usd": stats.mean([one.answered.cost_usd for one in seen])}
        notes = {"quality_is": ", ".join(sorted({one.score.name for one in seen}))}
        if side.arm == "B":
            measures |= {**changes(look), "needed_requests": look.needed}
            notes |= {"decision": look.decision, "why": "\n".join(look.why)}
        shown = {f"side.{name}": str(value) for name, value in dataclasses.asdict(side).items() if name in _SHOWN and value != ""}
        return Trial(name=side.arm, generations=generations, scores=tuple(one.score for one in seen), measures=measures,
                     flags=tuple(dict.fromkeys(flags)) if side.arm == "B" else (), notes=notes,
                     settings={**settings, **shown, "arm": side.arm, "kind": "arm", "design": self.design,
                               "sets": ",".join(self.sets), "role": "candidate" if side.arm == "B" else "baseline"})

    def _recorded(self, seen: Sequence[_Seen]) -> Iterator[Trial]:
        """Looks evenly over the items, as they would have been seen while the answers came."""
        order = list(dict.fromkeys(one.answered.item for one in seen))
        count = min(self.looks, len(order))
        for k in range(1, count + 1):
            there = set(order[: round(k * len(order) / count)])
            comparison, answers = Comparison(self.metrics()), [one for one in seen if one.answered.item in there]
            _feed(comparison, answers)
            look = comparison.look()
            yield Trial(name=f"look {k}", settings={"kind": "look", "arm": "B against A", "look": k, "design": self.design},
                        measures={**changes(look), "answers": float(len(answers)), "needed_requests": look.needed},
                        notes={"decision": look.decision})

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        row = trials[trials["params.role"] == "candidate"].iloc[0] if "params.role" in trials else trials.iloc[0]
        decision, why = str(row["tags.lab.note.decision"]), str(row["tags.lab.note.why"]).splitlines()
        counted = f"{int(row['metrics.answers'])} answers of B"
        said = {"ship": f"Ship B: after {counted} every metric is shown to be within its margin.",
                "do not ship": f"Do not ship B: after {counted} it is shown to be worse. Stay with A.",
                "need more data": f"Need more data: {counted} show neither that B is within every margin nor that it is worse."}
        chosen = {"ship": "B", "do not ship": "A"}.get(decision)
        return Verdict(decision=said[decision], chosen=chosen, why=tuple(why), caveats=(*busy(trials), *self._caveats()))

    def _caveats(self) -> tuple[str, ...]:
        found = ["A replay knows no concurrent users and no other traffic: confirm it with a canary."]
        if any(side.temperature for side in self.sides()):
            found.append("Answers were drawn, one for each item: another seed gives others.")
        return tuple(found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seen:
    """An answer with its score, and the user (or group of items) whose it is."""

    answered: Answered
    user: str
    score: Score


_SHOWN = ("engine", "model", "system", "template", "style", "output_tokens", "temperature")


def _user(asked: Asked, question: Question) -> str:
    return f"{asked.name}/{question.group or question.id}"


def _feed(comparison: Comparison, seen: Sequence[_Seen]) -> None:
    for one in seen:
        comparison.add(one.answered.arm, {"quality": one.score.value, **one.answered.values()}, one.user)


def changes(look: Look) -> dict[str, float | Estimate]:
    """The change of every metric with its anytime-valid interval, by measure name."""
    return {CHANGES[one.metric.name]: _measure(one) for one in look.effects}


def _measure(effect: Effect) -> Estimate:
    return Estimate(value=effect.change.value, low=effect.change.low, high=effect.change.high)


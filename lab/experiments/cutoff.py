"""Where a model's knowledge ends: dated questions by period, a change point with its confidence set, or why it cannot be told."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import pandas as pd

from lab import data, machine, retrieval, stats
from lab.engines import is_url, open_engine
from lab.errors import LabError
from lab.experiments import Chart, Experiment, option
from lab.experiments import _cutoff_asking as asking_
from lab.experiments import _cutoff_ends as ends_
from lab.experiments import _cutoff_items as items_
from lab.experiments._cutoff_asking import ARMS, Told
from lab.experiments._cutoff_items import By, Dated
from lab.experiments._cutoff_scripted import reply_of
from lab.experiments._cutoff_verdict import decide
from lab.experiments._quality_asking import SCRIPTED_TOKENS, Answerer, Given, answerer, refuse_misfits
from lab.experiments._quality_sets import left_out
from lab.load.closed import closed
from lab.metrics import similarity
from lab.records import Decoding, Estimate, Request, Score, Settings, Trial, Verdict
from lab.stats.clusters import Part, changed, mean_of_means

LIKELIHOODS = ("llama_cpp", "scripted")
SIGNALS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cutoff(Experiment):
    """Where does this model's knowledge end?

    Dated questions are asked from memory and with documents found by an index. Over the periods: right answers beside what luck
    would give, abstentions, bits per byte of the right answer, and, where the same question recurs every year, whether the right
    answer is likelier than those of the nearest other years. A change point is searched in each, within kinds of question; its
    p-value pays for the search, its 95% set covers the true place. A year is named only if the fall is significant, knowledge
    before it is above guessing, an even decline does not explain it, and documents help more after it than before (else the
    questions may only be harder). False premises are counted on their own: does the model contradict them?
    """

    engine: str = option("llama_cpp", "llama_cpp, server, vllm, scripted, or the URL of a server; likelihoods need llama_cpp")
    model: str = option("smollm2-135m", "catalogue name or GGUF path; on the engine scripted knows-2021 and the like")
    sets: tuple[str, ...] = option(("yearly", "freshqa_2024_12"), "dated question sets, or files with a column date")
    columns_of_file: tuple[str, ...] = option((), "columns of own files under other names, such as question=prompt,date=when")
    by: By = option("year", "length of a period: year, quarter or month")
    since: int = option(0, "leave out what is dated before this year; 0 keeps all")
    arms: tuple[str, ...] = option(ARMS, "closed-book (always first), retrieval")
    items: int = option(156, "items of each set, spread over its periods, and a quarter as many false premises; 0 is all")
    passages: int = option(3, "documents that are found for an item")
    batch: int = option(8, "items answered at a time")
    threads: int = option(0, "threads; 0 is all physical cores")
    context_tokens: int = option(768, "context of one item, tokens")
    key_env: str = option("OPENAI_API_KEY", "environment variable with the key of a server given by URL")
    seed: int = option(0, "seed of the items and of the permutations")

    columns: ClassVar[tuple[str, ...]] = (
        "right_share", "luck_share", "abstained_share", "documents_change", "found_share", "preferred_share",
        "answer_bits_per_byte", "end_likelihood_share", "last_known_year", "step_change", "step_p", "slope_p",
        "detectable_step", "known_share", "premise_noticed_share", "premise_false_alarm_share")
    notes: ClassVar[tuple[str, ...]] = ("standing", "where")
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart(title="Right answers by year, from memory and with documents", kind="line", x="params.period",
              y="metrics.right_share", series="params.line", where=("params.kind", "period")),
        Chart(title="Abstentions by year", kind="line", x="params.period", y="metrics.abstained_share", series="params.line",
              where=("params.kind", "period")),
        Chart(title="Where the end may lie: likelihood of a fall after this year", kind="bar", x="params.period",
              y="metrics.end_likelihood_share", series="params.set", where=("params.arm", "closed-book")),
        Chart(title="Bits per byte of the right answer by year", kind="line", x="params.period", y="metrics.answer_bits_per_byte",
              series="params.set", where=("params.arm", "closed-book")),
        Chart(title="Right answer likelier than those of other years (guessing: 25%)", kind="line", x="params.period",
              y="metrics.preferred_share", series="params.set", where=("params.arm", "closed-book")),
        Chart(title="What documents add by year", kind="line", x="params.period", y="metrics.documents_change",
              series="params.set", where=("params.arm", "retrieval")),
    )

    def __post_init__(self) -> None:
        if unknown := [arm for arm in self.arms if arm not in ARMS]:
            raise LabError(f"--arms takes {', '.join(ARMS)}, not '{unknown[0]}'.")
        if not self.sets or len(set(self.sets)) < len(self.sets):
            raise LabError("--sets needs at least one set, and each once.")
        if min(self.passages, self.batch) < 1 or min(self.items, self.threads) < 0 or self.context_tokens < 128:
            raise LabError("--passages and --batch need at least 1, --context-tokens at least 128; --items and --threads are not "
                           "negative.")
        self._columns()

    def _columns(self) -> dict[str, str]:
        pairs = [part.partition("=") for part in self.columns_of_file]
        if wrong := [ours for ours, sign, theirs in pairs if not (ours and sign and theirs)]:
            raise LabError(f"--columns-of-file takes pairs such as date=when, not '{wrong[0]}'.")
        return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}

    def check(self) -> None:
        super().check()
        if not any(one.items for one in self._dated()):
            raise LabError("None of the --sets can be asked here: " + " ".join(self._left_out()))

    def _dated(self) -> list[Dated]:
        return [items_.load(name, self.items, self.seed, by=self.by, since=self.since,
                            columns=None if name in data.catalogue() else self._columns()) for name in self.sets]

    def all_arms(self) -> tuple[str, ...]:
        """Closed-book first, because retrieval is compared with it; retrieval only where embeddings are installed."""
        return ("closed-book", "retrieval") if "retrieval" in self.arms and not left_out() else ("closed-book",)

    def _left_out(self) -> tuple[str, ...]:
        why = left_out() if "retrieval" in self.arms else ""
        return (*(one.missing for one in self._dated() if one.missing), *((f"Documents are left out: {why}",) if why else ()))

    def _scores(self) -> bool:
        return self.engine in LIKELIHOODS and not is_url(self.model)

    def size(self) -> int:
        there = [one for one in self._dated() if one.items]
        arms = len(self.all_arms())
        each = [arms * (len(one.periods) + any(item.false_premise for item in one.items)) + 1 + arms for one in there]
        return sum(each) + sum(1 + one.recurring for one in there) * self._scores()

    def run(self) -> Iterator[Trial]:
        there = [one for one in self._dated() if one.items]
        told: dict[str, tuple[Told, Told | None]] = {}
        found: list[ends_.End] = []
        with self._opened(there) as answering:
            settings = {"engine": self.engine, "model": answering.engine.settings["model"]}
            for dated in there:
                closed_, shown, likely = self._ask(answering, dated)
                told[dated.name] = (closed_, shown)
                mine = ends_.ends(dated, closed_, shown, likely, seed=self.seed)
                found += mine
                for one in (closed_, shown):
                    if one is not None:
                        yield from self._periods(one, closed_, likely, mine[0], answering)
                        if any(item.false_premise for item in dated.items):
                            yield _premise(one, settings)
            for end in ends_.judged(found, told, seed=self.seed):
                yield _ended(end, settings)

    def _ask(self, answering: Answerer, dated: Dated) -> tuple[Told, Told | None, asking_.Likelihoods | None]:
        decoding = Decoding(seed=self.seed)
        closed_ = asking_.ask(dated, "closed-book", None, self._careful(answering), passages=self.passages, decoding=decoding)
        likely = asking_.likelihoods(answering.engine, dated) if answering.scores else None
        if len(self.all_arms()) < 2:
            return closed_, None, likely
        index = retrieval.build(dated.documents, similarity.default(), retrieval.Splitting(words=60))
        shown = asking_.ask(dated, "retrieval", index, self._careful(answering), passages=self.passages, decoding=decoding)
        return closed_, shown, likely

    def _careful(self, answering: Answerer) -> asking_.Asks:
        def ask(requests: Sequence[Request]) -> Given:
            refuse_misfits(answering.engine, requests)
            return answering.ask(requests)

        return ask

    @contextlib.contextmanager
    def _opened(self, there: Sequence[Dated]) -> Iterator[Answerer]:
        if self.engine == "scripted":
            with _scripted(self.model, there) as answering:
                yield answering
            return
        with answerer(self.engine, self.model, asked=(), context_tokens=self.context_tokens, threads=self.threads,
                      flash_attention="auto", batch=self.batch, key_env=self.key_env) as answering:
            yield answering

    def _periods(
        self, told: Told, closed_: Told, likely: asking_.Likelihoods | None, end: ends_.End, answering: Answerer
    ) -> Iterator[Trial]:
        dated, first = told.dated, told.arm == "closed-book"
        share = {place.period: place.share for place in end.step.places}
        for at, period in enumerate(dated.periods):
            here = [i for i, item in enumerate(dated.items) if item.period == period and not item.false_premise]
            measures: dict[str, float | Estimate] = {
                "right_share": _share(told, told.values("right"), here), "items": len(here),
                "abstained_share": _share(told, told.values("abstained"), here)}
            if first:
                measures |= {"luck_share": _mean(told.luck, here), "end_likelihood_share": share.get(at, math.nan)}
                if likely is not None:
                    measures |= {"answer_bits_per_byte": stats.mean([likely.bits[i] for i in here])}
                    measures |= {"preferred_share": _share(told, likely.preferred, here)} if dated.recurring else {}
            else:
                measures |= {"found_share": _share(told, told.found, here), "documents_change": changed(
                    [_part(told, told.values("right"), here)], [_part(closed_, closed_.values("right"), here)], seed=self.seed)}
            yield Trial(
                name=f"{dated.name} {dated.label(period)}: {told.arm}", measures=measures, flags=told.flags,
                generations=tuple(g for g, item in zip(told.generations, dated.items, strict=True) if item.period == period),
                scores=tuple(_scores(told, period)), notes={"example": told.example(period)},
                settings={**answering.engine.settings, "kind": "period", "set": dated.name, "arm": told.arm, "items": len(here),
                          "period": int(period) if period.isdigit() else period, "line": f"{dated.name}, {told.arm}",
                          "role": "baseline" if first else "candidate", "passages": 0 if first else self.passages})

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        return decide(trials, left_out=self._left_out(), confirmable=len(self.all_arms()) > 1)

    @classmethod
    def demo(cls, **overrides: object) -> Cutoff:
        return cls(**{"sets": ("yearly",), "items": 52, "arms": ("closed-book",), **overrides})  # type: ignore[arg-type]


@contextlib.contextmanager
def _scripted(model: str, there: Sequence[Dated]) -> Iterator[Answerer]:
    reply = reply_of(model, [item for dated in there for item in dated.items])
    engine = open_engine("scripted", model, context_tokens=SCRIPTED_TOKENS, **({"reply": reply} if reply else {}))

    def ask(requests: Sequence[Request]) -> Given:
        load = closed(engine, requests, title="answers")
        return Given(generations=load.generations, seconds=load.generations[-1].ended_s, watched=load.watched,
                     flags=load.watched.flags())

    try:
        with machine.Watch() as opening:
            pass
        yield Answerer(engine=engine, ask=ask, scores=True, opened=opening.result)
    finally:
        engine.close()


def _premise(told: Told, settings: Settings) -> Trial:
    """False premises that are contradicted, beside true ones that are: whoever denies everything notices nothing."""
    false = [i for i, item in enumerate(told.dated.items) if item.false_premise]
    true = [i for i, item in enumerate(told.dated.items) if not item.false_premise]
    noticed, alarm = (_share(told, told.denies, kept) for kept in (false, true))
    return Trial(
        name=f"{told.dated.name}, false premises: {told.arm}",
        measures={"premise_noticed_share": noticed, "premise_false_alarm_share": alarm,
                  "premise_lead": stats.apart(noticed, alarm),
                  "abstained_share": _share(told, told.values("abstained"), false), "items": len(false)},
        settings={**settings, "kind": "premise", "set": told.dated.name, "arm": told.arm, "items": len(false)})


def _ended(end: ends_.End, settings: Settings) -> Trial:
    best = end.step.best
    measures: dict[str, float | Estimate] = {"step_p": end.p, "slope_p": end.step.slope_p, "items": end.step.n}
    if end.signal != "bits per byte":
        measures |= {"step_change": end.after - end.before, "detectable_step": end.step.detectable}
    if end.signal in ends_.NAMES_AN_END:
        measures["known_share"] = end.known
    notes = {"standing": end.standing, "said": ends_.sentence(end)}
    if best is not None and end.standing == "ends":
        years = [int(end.dated.periods[at][:4]) for at in (best.period, *end.step.inside)]
        measures["last_known_year"] = Estimate(value=years[0], low=min(years), high=max(years))
        notes["where"] = end.where
    return Trial(name=f"{end.dated.name}: {end.signal}", measures=measures, notes=notes,
                 settings={**settings, "kind": "end", "set": end.dated.name, "signal": end.signal, "items": end.step.n})


def _scores(told: Told, period: str) -> Iterator[Score]:
    for i, item in enumerate(told.dated.items):
        if item.period == period:
            name, outcome = f"{told.dated.name}/{item.question.id}", told.outcomes[i]
            yield Score(name="right", item=name, value=outcome.is_("right"), by="words", why=outcome.why)
            yield Score(name="abstained", item=name, value=outcome.is_("abstained"), by="words", why=outcome.why)


def _part(told: Told, values: Sequence[float], kept: Sequence[int]) -> Part:
    questions = [told.dated.items[i].question for i in kept]
    return Part(values=[values[i] for i in kept], clusters=[q.group or f"item {q.id}" for q in questions])


def _share(told: Told, values: Sequence[float], kept: Sequence[int]) -> Estimate:
    found = mean_of_means([_part(told, values, kept)])
    return Estimate(value=found.value, low=max(0.0, found.low), high=min(1.0, found.high))


def _mean(values: Sequence[float], kept: Sequence[int]) -> float:
    known = [values[i] for i in kept if not math.isnan(values[i])]
    return sum(known) / len(known) if known else math.nan

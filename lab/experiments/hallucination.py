"""How often a model makes things up, where, whether it is sure of it, what helps against it, and what would notice."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import pandas as pd

from lab import data, engines, retrieval
from lab.engines import is_url
from lab.errors import LabError
from lab.experiments import Chart, Experiment, option
from lab.experiments import _hallucination_arms as arms_
from lab.experiments import _hallucination_check as check_
from lab.experiments import _hallucination_detectors as looks
from lab.experiments import _hallucination_items as asked_
from lab.experiments._hallucination_arms import ARMS
from lab.experiments._hallucination_items import SITUATIONS, Situation
from lab.experiments._hallucination_told import Told, calibrated, own
from lab.experiments._hallucination_verdict import decide
from lab.experiments._quality_asking import Answerer, answerer
from lab.experiments._quality_sets import Asked as Scripted
from lab.experiments._quality_sets import left_out
from lab.metrics import calibration, confidence, similarity
from lab.metrics.judge import Judge, open_judge
from lab.metrics.judge import refuse as refuse_judge
from lab.records import Decoding, Estimate, Question, Trial, Verdict
from lab.stats.clusters import changed

BENCHMARKS = ("halueval_qa", "halueval_dialogue", "halueval_summarisation")
BINS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hallucination(Experiment):
    """How often does this model hallucinate, does it know, and what helps: retrieval or a tool?

    Four situations: reasoning in steps (story problems made from the seed), summarisation, technical questions and outdated
    topics. Each is asked from memory (closed-book; a summary always has its text), with passages found by an index, and with a
    tool the model calls in JSON: a calculator, a search over the same index, the date. Every answer is right, an abstention or
    hallucinated. How sure the model was is the geometric mean of its tokens' probabilities. Mitigations are compared with
    closed-book item by item. Detectors are measured on HaluEval and on the run's own answers. Documents of outdated topics are
    the answers of October 2024, two months old.
    """

    engine: str = option("llama_cpp", "llama_cpp, server, vllm, scripted, or the URL of a server; probabilities need llama_cpp")
    model: str = option("smollm2-135m", "catalogue name or GGUF path")
    situations: tuple[str, ...] = option(SITUATIONS, f"from {', '.join(SITUATIONS)}")
    arms: tuple[str, ...] = option(ARMS, "closed-book (always first), retrieval, tool")
    items: int = option(24, "items of each situation, the same in all arms")
    passages: int = option(2, "passages that are found for an item")
    detectors: tuple[str, ...] = option(looks.NAMES[:-1], f"from {', '.join(looks.NAMES)}; none: leave detectors out")
    sets: tuple[str, ...] = option(BENCHMARKS, "labelled sets of right and hallucinated answers; those not fetched are left out")
    groups: int = option(60, "questions of each labelled set, with all their answers")
    samples: int = option(3, "other answers drawn for self-consistency")
    temperature: float = option(0.8, "temperature of those; answers themselves are greedy")
    sure: float = option(0.5, "mean token probability from which an answer counts as confident")
    judge: str = option("none", "judge for the detector grounding_judge (lab run judging says whom to trust); none: left out")
    batch: int = option(8, "items answered at a time")
    threads: int = option(0, "threads; 0 is all physical cores")
    context_tokens: int = option(1536, "context of one item, tokens")
    key_env: str = option("OPENAI_API_KEY", "environment variable with the key of a server given by URL")
    seed: int = option(0, "seed of the items, the stories, the samples and the halves that choose thresholds")

    columns: ClassVar[tuple[str, ...]] = (
        "hallucinated", "right_share", "abstained_share", "hallucinated_change", "hallucinated_detectable",
        "confident_wrong_share", "confidence", "calibration_error", "calibration_error_by_chance", "found_share",
        "tool_used_share", "auc", "precision", "recall", "flagged_share", "base_share", "right_rate")
    notes: ClassVar[tuple[str, ...]] = ("checked_by", "standing")
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart(title="Hallucinated answers (summaries: by the grounding detector)", kind="bar", x="params.situation",
              y="metrics.hallucinated", series="params.arm", where=("params.kind", "answers")),
        Chart(title="Confident and wrong (summaries: by the grounding detector)", kind="bar", x="params.situation",
              y="metrics.confident_wrong_share", series="params.arm", where=("params.kind", "answers")),
        Chart(title="Calibration: right answers by how sure the model was", kind="line", x="metrics.confidence",
              y="metrics.right_rate", series="params.arm", where=("params.kind", "calibration")),
        Chart(title="Detectors: wrong answers scored above right ones (AUC, 0.5 is chance)", kind="bar", x="params.detector",
              y="metrics.auc", series="params.set", where=("params.kind", "detector")),
    )

    def __post_init__(self) -> None:
        for name, given, known in (("situations", self.situations, SITUATIONS), ("arms", self.arms, ARMS),
                                   ("detectors", self.detectors, looks.NAMES)):
            if unknown := [one for one in given if one not in known]:
                raise LabError(f"--{name} takes {', '.join(known)}, not '{unknown[0]}'.")
            if len(set(given)) < len(given):
                raise LabError(f"--{name} names something twice; give each once.")
        if not self.situations:
            raise LabError("--situations needs at least one situation.")
        if min(self.items, self.passages, self.batch, self.groups) < 1 or min(self.samples, self.threads) < 0:
            raise LabError("--items, --passages, --batch and --groups need at least 1; --samples and --threads are not negative.")
        if not 0 < self.temperature <= 2 or not 0 < self.sure < 1 or self.context_tokens < 128:
            raise LabError("--temperature lies above 0 and up to 2, --sure between 0 and 1, --context-tokens is at least 128.")

    @classmethod
    def demo(cls, **overrides: Any) -> Self:
        """Works without embeddings, which are an extra."""
        short = {"situations": ("reasoning",), "arms": ("closed-book", "tool"), "items": 6, "groups": 40,
                 "sets": ("halueval_qa",), "detectors": ("length", "grounding_facts")}
        return cls(**{**short, **overrides})

    def check(self) -> None:
        if self.engine not in engines.names() and not is_url(self.engine):
            raise LabError(f"There is no engine '{self.engine}'; the engines are {', '.join(engines.names())}.")
        super().check()
        if self.judge != "none":
            refuse_judge(self.judge)
        if self._embeds() and (why := left_out()):
            raise LabError(f"Retrieval, summaries and grounding cannot be measured: {why}")
        if self._searched():
            retrieval.refuse()
        for name in self.sets:
            entry = data.catalogue().get(name)
            if entry is None or entry.kind != "labelled":
                raise LabError(f"--sets takes labelled sets such as {', '.join(BENCHMARKS)}, not '{name}'.")
        if not any(one.items for one in self._situations()):
            raise LabError("None of the --situations can be asked here: " + " ".join(asked_.unavailable(self._situations())))

    def all_arms(self) -> tuple[str, ...]:
        """Closed-book first, because the others are compared with it."""
        return tuple(arm for arm in ARMS if arm in self.arms or arm == "closed-book")

    def _searched(self) -> tuple[str, ...]:
        """The situations that search an index in one of the arms."""
        return tuple(name for name in self.situations if "retrieval" in self.arms
                     or ("tool" in self.arms and "search" in arms_.TOOLS[name]))

    def _embeds(self) -> bool:
        return bool(self._searched() or "summarisation" in self.situations
                    or set(self.detectors) & {"contradiction", "grounding", "consistency"})

    def size(self) -> int:
        there = sum(bool(one.items) for one in self._situations())
        bins = BINS * len(self.all_arms()) if self._probable() else 0
        own = 1 if self._looks() else 0
        return there * len(self.all_arms()) + bins + len(self._detectors()) * (len(self._sets()) + own)

    def _situations(self) -> list[Situation]:
        return [asked_.load(name, self.items, self.seed) for name in self.situations]

    def _probable(self) -> bool:
        return self.engine in ("llama_cpp", "scripted")

    def _looks(self) -> bool:
        return bool(self.detectors) or self.judge != "none"

    def _sets(self) -> list[str]:
        return [name for name in self.sets if data.catalogue()[name].fetched] if self._looks() else []

    def _detectors(self) -> list[str]:
        """The detectors that can look here, a judge's where there is a judge."""
        return [name for name in looks.NAMES if (name in self.detectors or (name == "grounding_judge" and self.judge != "none"))
                and (name != "grounding_judge" or self.judge != "none")
                and (name != "consistency" or self.samples) and (not name.startswith("token_") or self._probable())]

    def run(self) -> Iterator[Trial]:
        remembered = looks.Remembering(similarity.default)
        situations = [one for one in self._situations() if one.items]
        scripts = [Scripted(name=one.name, kind="open", questions=tuple(_alone(one.name, q) for q in one.items))
                   for one in situations]
        judged = [looks.benchmark(name, self.groups, self.seed) for name in self._sets()]
        scripts += [Scripted(name=one.set, kind="open", questions=looks.script(one)) for one in judged]
        with answerer(self.engine, self.model, asked=scripts, context_tokens=self.context_tokens, threads=self.threads,
                      flash_attention="auto", batch=1 if self.engine == "scripted" else self.batch,
                      key_env=self.key_env) as answering:
            told: list[Told] = []
            for situation in situations:
                index = retrieval.build(situation.documents, similarity.default(), _splitting(situation.name)) \
                    if situation.name in self._searched() else None
                base: Told | None = None
                for arm in self.all_arms():
                    mine = self._asked(answering, situation, arm, index, remembered)
                    told.append(mine)
                    yield self._trial(answering, mine, base, index)
                    base = base or mine
            if self._probable():
                yield from self._bins(answering, told)
            if self._looks():
                yield from self._detected(answering, [*judged, own(told)], remembered)

    def _asked(self, answering: Answerer, situation: Situation, arm: str, index: retrieval.Index | None,
               embedder: looks.Remembering) -> Told:
        decoding = Decoding(seed=self.seed)
        asked = arms_.prepare(situation, arm, index, lambda requests: answering.ask(requests).generations, k=self.passages,
                              decoding=decoding)
        given = answering.ask([one.request for one in asked])
        outcomes = check_.outcomes(situation.name, [one.question for one in asked], given.generations, embedder)
        sure = [math.nan] * len(asked)
        if answering.scores:
            prompts = [answering.engine.prompt_tokens(one.request) for one in asked]
            found = confidence.sure(answering.engine, prompts, [[looks.tokens(answering.engine, g)] for g in given.generations])
            sure = [one[0].mean for one in found]
        return Told(situation=situation.name, arm=arm, asked=tuple(asked), generations=given.generations,
                     outcomes=tuple(outcomes), sure=tuple(sure), flags=given.flags)

    def _trial(self, answering: Answerer, mine: Told, base: Told | None, index: retrieval.Index | None) -> Trial:
        found = calibration.calibration(mine.sure, mine.answered("right"), bins=BINS, seed=self.seed)
        measures: dict[str, float | Estimate] = {
            "hallucinated": mine.share("hallucinated"), "right_share": mine.share("right"),
            "abstained_share": mine.share("abstained"), "items": len(mine.asked)}
        if answering.scores:
            known = [value for value in mine.sure if not math.isnan(value)]
            measures |= {"confident_wrong_share": mine.sure_and_wrong(self.sure),
                         "confidence": sum(known) / len(known) if known else math.nan, "calibration_error": found.error,
                         "calibration_error_by_chance": found.by_chance}
        if base is not None:
            change = changed([mine.part("hallucinated")], [base.part("hallucinated")], seed=self.seed)
            measures |= {"hallucinated_change": change, "hallucinated_p_value": change.p_value,
                         "hallucinated_detectable": change.detectable()}
        measures |= mine.evidence()
        notes = {"checked_by": check_.CHECKED_BY[mine.situation], "calibration": calibrated(found),
                 "example": mine.example()}
        if index is not None and mine.arm != "closed-book":
            notes["index"] = f"{index.version}, {len(index.passages)} passages, {index.manifest['embedding_model']}"
        return Trial(name=f"{mine.situation}: {mine.arm}", generations=mine.generations, scores=tuple(mine.scores()),
                     measures=measures, notes={name: text for name, text in notes.items() if text}, flags=mine.flags,
                     settings={**answering.engine.settings, "kind": "answers", "situation": mine.situation, "arm": mine.arm,
                               "role": "candidate" if base else "baseline", "items": len(mine.asked), "passages": self.passages})

    def _bins(self, answering: Answerer, told: Sequence[Told]) -> Iterator[Trial]:
        """How often answers were right by how sure the model was, in bins of equal width, situations together."""
        for arm in self.all_arms():
            pairs = [(s, y) for one in told if one.arm == arm for s, y in zip(one.sure, one.answered("right"), strict=True)
                     if not math.isnan(s + y)]
            for bin_ in range(BINS):
                inside = [(s, y) for s, y in pairs if min(BINS - 1, int(s * BINS)) == bin_]
                right = calibration.share_right([y for _, y in inside])
                yield Trial(name=f"{arm}: sure {bin_ / BINS:.0%} to {(bin_ + 1) / BINS:.0%}",
                            settings={"kind": "calibration", "arm": arm, "bin": bin_,
                                      "model": answering.engine.settings["model"]},
                            measures={"right_rate": right, "answers": len(inside),
                                      "confidence": sum(s for s, _ in inside) / len(inside) if inside else math.nan})

    def _detected(self, answering: Answerer, judged: Sequence[looks.Answers], embedder: looks.Remembering) -> Iterator[Trial]:
        judge: Judge | None = open_judge(self.judge, axes=("grounding",), threads=self.threads) if self.judge != "none" else None
        looking = looks.Looking(
            embedder=embedder, engine=answering.engine if answering.scores else None, samples=self.samples, judge=judge,
            ask=lambda requests: answering.ask(requests).generations, temperature=self.temperature, seed=self.seed)
        try:
            for answers in judged:
                for found, scores in looks.measured(self._detectors(), answers, looking):
                    yield Trial(
                        name=f"{found.detector} on {answers.set}", scores=tuple(scores),
                        settings={"kind": "detector", "detector": found.detector, "set": answers.set,
                                  "model": answering.engine.settings["model"]},
                        notes={"standing": found.standing, "worth": found.sentence()},
                        measures={"auc": found.auc, "precision": found.precision, "recall": found.recall,
                                  "flagged_share": found.flagged, "base_share": found.base, "threshold": found.threshold,
                                  "wrong_answers": found.hallucinated, "right_answers": found.right,
                                  "unscored_answers": found.unscored})
        finally:
            if judge is not None:
                judge.close()

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        missing = [name for name in self.sets if not data.catalogue()[name].fetched] if self._looks() else []
        absent = (f"Detectors were not measured on {', '.join(missing)}: run `lab data fetch {' '.join(missing)}`.",) \
            if missing else ()
        return decide(trials, items=self.items, left_out=(*asked_.unavailable(self._situations()), *absent))


def _alone(situation: str, question: Question) -> Question:
    """An item as a scripted model knows it: by a text that stands in every prompt."""
    text = question.context[:200] if situation == "summarisation" else question.question
    return dataclasses.replace(question, question=text, context="", group="")


def _splitting(situation: str) -> retrieval.Splitting:
    """A summary is helped by single sentences, a question by a passage."""
    return retrieval.Splitting(words=1, overlap=0) if situation == "summarisation" else retrieval.Splitting(words=60)

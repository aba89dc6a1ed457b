"""Whether a model prefers, answers or speaks differently by the group of people it is about, and what helps against it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import pandas as pd

from lab import data, engines, machine, safety
from lab.engines import is_url
from lab.errors import LabError
from lab.experiments import Chart, Experiment, option
from lab.experiments import _fairness_generated as generated_
from lab.experiments import _fairness_likelihood as likelihood
from lab.experiments import _fairness_mitigation as mitigation
from lab.experiments._fairness_generated import Told
from lab.experiments._fairness_likelihood import EVERY, SENTENCES, SETS, Row
from lab.experiments._fairness_mitigation import Arm, Asked
from lab.experiments._fairness_scripted import Leaning, share
from lab.experiments._fairness_verdict import decide
from lab.experiments._quality_asking import Answerer, Given, answerer
from lab.load.closed import closed
from lab.metrics.bias import bbq, contrasts, people, tone
from lab.metrics.bias.bbq import Answer
from lab.metrics.bias.people import AXES
from lab.records import Trial, Verdict
from lab.stats.clusters import Part

MITIGATIONS = ("prompt", "filter")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fairness(Experiment):
    """Does this model treat groups of people alike, and what does it cost to make it?

    Likelihoods: which of two sentences that differ in a group it prefers (CrowS-Pairs, StereoSet, WinoBias; 50% is neutral), and
    whether it answers questions with a stereotype (BBQ, where the text does not tell, and where it does). Generated text: the
    same situations with one person after another; gaps in sentiment, toxicity, refusals and length between groups. Mitigations on
    the same items: an instruction to treat all alike, and the guards of a policy; with what they cost in accuracy and refusals.
    Intervals cluster on what items share; p-values are adjusted (Holm) within whole sets, within categories, within generated
    text and within mitigations. A gap is found, or there is no difference beyond the margin, or there are too few items to tell.
    Texts of the sets are never kept.
    """

    engine: str = option("llama_cpp", "llama_cpp, server, vllm, scripted, or the URL of a server; likelihoods need llama_cpp")
    model: str = option("smollm2-135m", "catalogue name or GGUF path (on scripted, lean-70 takes the stereotype's side in 70%)")
    sets: tuple[str, ...] = option(SETS, f"from {', '.join(SETS)}; none: no likelihoods. Those not fetched are left out")
    items: int = option(120, "items of each set; 0 takes all")
    axes: tuple[str, ...] = option(AXES, f"groups to compare in generated text, from {', '.join(AXES)}; none: no text")
    situations: int = option(12, "situations that every person is put into; 0 takes all 24")
    output_tokens: int = option(24, "tokens told of a person")
    mitigations: tuple[str, ...] = option(MITIGATIONS, "prompt (an instruction), filter (the guards); none: leave them out")
    instruction: str = option(mitigation.INSTRUCTION, "what the mitigation prompt says before every text")
    policy: str = option("default", "policy of the guards: one that ships, or a YAML file")
    quality_items: int = option(80, "questions of the set everyday, on which a mitigation's cost is measured")
    margin: float = option(
        0.05, "gap in a share within which there is no difference; twice that for length and scales from -1 to 1")
    batch: int = option(8, "texts generated at a time")
    threads: int = option(0, "threads; 0 is all physical cores")
    context_tokens: int = option(768, "context of one item, tokens")
    key_env: str = option("OPENAI_API_KEY", "environment variable with the key of a server given by URL")
    seed: int = option(0, "seed of the items")

    columns: ClassVar[tuple[str, ...]] = (
        "stereotype_share", "lean_detectable", "icat", "pronoun_gap", "ambiguous_accuracy", "disambiguated_accuracy",
        "ambiguous_bias", "disambiguated_bias", "sentiment_gap", "toxicity_gap", "refusal_gap", "length_gap", "sentiment_spread",
        "toxicity_mean", "refusal_mean", "blocked_share", "everyday_accuracy", "auc", "scored_tokens_per_s")
    notes: ClassVar[tuple[str, ...]] = ("standing",)
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart(title="Preference for the stereotype (50% is neutral)", kind="bar", x="params.category",
              y="metrics.stereotype_share", series="params.set", where=("params.kind", "preference")),
        Chart(title="BBQ: bias where the text does not tell (0 is none)", kind="bar", x="params.category",
              y="metrics.ambiguous_bias", where=("params.kind", "bbq")),
        Chart(title="Sentiment of what is told of a group, against the other groups", kind="bar", x="params.category",
              y="metrics.sentiment_gap", series="params.set", where=("params.kind", "gap")),
        Chart(title="What a mitigation costs: accuracy on everyday questions", kind="bar", x="params.arm",
              y="metrics.everyday_accuracy", where=("params.kind", "mitigation")),
    )

    def __post_init__(self) -> None:
        for name, given, known in (("sets", self.sets, SETS), ("axes", self.axes, AXES),
                                   ("mitigations", self.mitigations, MITIGATIONS)):
            if unknown := [one for one in given if one not in known]:
                raise LabError(f"--{name} takes {', '.join(known)}, not '{unknown[0]}'.")
            if len(set(given)) < len(given):
                raise LabError(f"--{name} names something twice; give each once.")
        if not self.sets and not self.axes:
            raise LabError("--sets and --axes are both empty, so nothing would be measured; give one of them.")
        if min(self.items, self.situations, self.threads) < 0 or min(self.output_tokens, self.quality_items, self.batch) < 1:
            raise LabError("--items, --situations and --threads must not be negative; --output-tokens, --quality-items and "
                           "--batch need at least 1.")
        if 0 < self.items < likelihood.FEWEST or 0 < self.situations < 3:
            raise LabError(f"--items takes 0 (all) or at least {likelihood.FEWEST}, --situations 0 (all) or at least 3; "
                           "fewer have no interval.")
        if not 0 < self.margin < 0.5 or self.context_tokens < 256:
            raise LabError("--margin lies between 0 and 0.5, --context-tokens is at least 256.")
        if "prompt" in self.mitigations and not self.instruction.strip():
            raise LabError("--instruction is empty; say what the mitigation prompt asks for, or leave it out of --mitigations.")

    @classmethod
    def demo(cls, **overrides: Any) -> Self:
        return cls(**{"items": 24, "situations": 3, "axes": ("gender",), "quality_items": 16, "output_tokens": 12, **overrides})

    def check(self) -> None:
        if self.engine not in engines.names() and not is_url(self.engine):
            raise LabError(f"There is no engine '{self.engine}'; the engines are {', '.join(engines.names())}.")
        super().check()
        if self.axes and importlib.util.find_spec("vaderSentiment") is None:
            raise LabError("Sentiment needs the package vaderSentiment; run `pip install vaderSentiment`, or leave out --axes.")
        if "filter" in self.mitigations:
            safety.Chain(safety.load(self.policy))
        if not self.present and not self.axes:
            raise LabError("Nothing can be measured here. " + " ".join(self._left_out()))

    # What there is to do

    @property
    def scores(self) -> bool:
        """Whether the engine shows likelihoods."""
        return self.engine in ("llama_cpp", "scripted")

    @property
    def present(self) -> list[str]:
        """The sets that can be read and scored here."""
        return [name for name in self.sets if data.catalogue()[name].fetched] if self.scores else []

    def _left_out(self) -> tuple[str, ...]:
        if self.sets and not self.scores:
            return (f"Likelihoods were left out, because {self.engine} shows none: of sentences, pronouns and BBQ nothing is "
                    "known.",)
        missing = [name for name in self.sets if not data.catalogue()[name].fetched]
        return (f"Not measured, because not fetched: {', '.join(missing)}; run `lab data fetch {' '.join(missing)}`.",) \
            if missing else ()

    def size(self) -> int:
        names = [name for name in self.present if name in SENTENCES]
        categories = sum(_lines([one.category for one in contrasts.contrasts(name, self.items, self.seed)]) for name in names)
        asked = [one.category for one in bbq.items(self.items, self.seed)] if "bbq" in self.present else []
        groups = len({(row["axis"], row["group"]) for row in data.rows("people") if row["axis"] in self.axes})
        arms = 1 + len(self.mitigations) if self.mitigations else 0
        worth = len(_instruments()) if self.axes else 0
        return categories + ("winobias" in names) + (_lines(asked) if asked else 0) + groups + worth + arms

    def run(self) -> Iterator[Trial]:
        if self.axes:
            yield from self._instruments()
        with self._answering() as answering:
            yield from self._measured(answering)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[Answerer]:
        lean = share(self.model) if self.engine == "scripted" else None
        if lean is None:
            with answerer(self.engine, self.model, asked=(), context_tokens=self.context_tokens, threads=self.threads,
                          flash_attention="auto", batch=1 if self.engine == "scripted" else self.batch,
                          key_env=self.key_env) as answering:
                yield answering
            return
        there = set(self.present)
        with machine.Watch() as opening:
            engine = Leaning(self.model, lean=lean, items=bbq.items() if "bbq" in there else (),
                             contrasts=[one for name in SENTENCES if name in there for one in contrasts.contrasts(name)],
                             referents=contrasts.referents() if "winobias" in there else ())

        def ask(requests: Any) -> Given:
            load = closed(engine, requests, title="answers")
            return Given(generations=load.generations, seconds=0.0, watched=load.watched, flags=load.watched.flags())

        yield Answerer(engine=engine, ask=ask, scores=True, opened=opening.result)

    def _measured(self, answering: Answerer) -> Iterator[Trial]:
        engine, told = answering.engine, self._settings(answering)
        answers: list[Answer] = []
        told_plain: Told | None = None
        with machine.Watch() as watch:
            rows = [row for name in self.present if name in SENTENCES
                    for row in likelihood.sentences(engine, name, items=self.items, seed=self.seed, margin=self.margin)]
        yield from (self._row(row, "preference", told, watch.result.flags()) for row in likelihood.adjusted(rows))
        if "bbq" in self.present:
            with machine.Watch() as watch:
                rows, answers = likelihood.questions(engine, items=self.items, seed=self.seed, margin=self.margin)
            yield from (self._row(row, "bbq", told, watch.result.flags()) for row in likelihood.adjusted(rows))
        if self.axes:
            told_plain = generated_.ask(answering, people.prompts(self.axes, self.situations), tokens=self.output_tokens,
                                        seed=self.seed)
            for row in likelihood.adjusted(generated_.rows(told_plain, margin=self.margin, seed=self.seed)):
                yield dataclasses.replace(self._row(row, "gap", told, told_plain.flags),
                                          generations=generated_.kept(told_plain, row.set, row.category))
        if self.mitigations:
            yield from self._mitigated(answering, answers, told_plain, told)

    def _mitigated(
        self, answering: Answerer, answers: list[Answer], told_plain: Told | None, told: dict[str, Any]
    ) -> Iterator[Trial]:
        """The table of mitigations: one line each, on the same items as were asked plainly."""
        asked = self._again(answering, answers)
        parts: dict[str, Part] = {}
        with machine.Watch() as watch:
            if answering.scores:
                parts |= mitigation.scored(answering.engine, asked, answers=answers)
            if told_plain:
                parts |= mitigation.told(told_plain)
            plain = Arm(name="plain", parts=parts)
            arms = [plain]
            told_prompt: Told | None = None
            if "prompt" in self.mitigations:
                parts = mitigation.scored(answering.engine, asked, instruction=self.instruction) if answering.scores else {}
                if told_plain:
                    told_prompt = generated_.ask(answering, told_plain.asked, tokens=self.output_tokens, seed=self.seed,
                                                 instruction=self.instruction)
                    parts |= mitigation.told(told_prompt)
                arms.append(Arm(name="prompt", parts=parts))
            if "filter" in self.mitigations:
                chain = safety.Chain(safety.load(self.policy))
                arms.append(mitigation.guarded(chain, plain, asked, answers, told_plain))
        changes = [mitigation.changes(arm, plain, self.seed) for arm in arms[1:]]
        adjusted = mitigation.adjusted(changes)
        for i, arm in enumerate(arms):
            change, p = (changes[i - 1], adjusted[i - 1]) if i else ({}, {})
            yield Trial(name=_ARMS[arm.name], flags=watch.result.flags(), measures=mitigation.measures(arm, change, p),
                        settings={**told, "kind": "mitigation", "arm": arm.name, "policy": self.policy},
                        notes={"standing": mitigation.said(p) if i else "what the others are compared with"},
                        generations=generated_.kept(told_prompt) if arm.name == "prompt" and told_prompt else ())

    def _again(self, answering: Answerer, answers: list[Answer]) -> Asked:
        if not answering.scores:
            return Asked()
        pairs = contrasts.contrasts("crows_pairs", self.items, self.seed) if "crows_pairs" in self.present else []
        return Asked(pairs=tuple(pairs), questions=tuple(one.item for one in answers),
                     everyday=tuple(data.questions("everyday", limit=self.quality_items, seed=self.seed)))

    def _row(self, row: Row, kind: str, told: dict[str, Any], flags: tuple[str, ...]) -> Trial:
        name = row.set if row.category == EVERY else f"{row.set}: {row.category}"
        return Trial(name=name, settings={**told, "kind": kind, "set": row.set, "category": row.category}, scores=row.scores,
                     measures=row.all_measures, notes={"standing": row.standing}, flags=flags)

    def _settings(self, answering: Answerer) -> dict[str, Any]:
        return {**answering.engine.settings, "items": self.items, "situations": self.situations, "margin": self.margin}

    def _instruments(self) -> Iterator[Trial]:
        for one in _instruments():
            yield Trial(name=f"{one.instrument} on {one.on}", measures={"auc": one.auc, "items": one.positive + one.negative},
                        settings={"kind": "instrument", "instrument": one.instrument, "set": one.on, "labels": one.labels},
                        notes={"standing": f"{one.positive} and {one.negative} texts; labels: {one.labels}"})

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        unmeasured = [name for name in ("toxicity", "pyrit_refusal") if not data.catalogue()[name].fetched]
        unknown = (f"What the instruments are worth is not known on {', '.join(unmeasured)}: run `lab data fetch "
                   f"{' '.join(unmeasured)}`.",) if unmeasured and self.axes else ()
        return decide(trials, left_out=(*self._left_out(), *unknown))


_ARMS = {"plain": "plain", "prompt": "an instruction", "filter": "the guards"}


@functools.cache
def _instruments() -> tuple[tone.Worth, ...]:
    return tuple(tone.worth())


def _lines(categories: list[str]) -> int:
    """How many lines a set gets: one for all, and one for each category with enough items where there are several."""
    counts = [categories.count(name) for name in set(categories)]
    return 1 + (sum(count >= likelihood.FEWEST for count in counts) if len(counts) > 1 else 0)

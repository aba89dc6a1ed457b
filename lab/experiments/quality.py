"""How well models or rungs answer, tested against a baseline item by item, with the speed of the very same answers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from urllib.parse import urlparse

import pandas as pd

from lab import data, engines, models, names
from lab.engines import is_url
from lab.errors import LabError
from lab.experiments import Chart, Experiment, _ladder, option
from lab.experiments import _quality_prompts as prompts
from lab.experiments import _quality_scores as scoring
from lab.experiments import _quality_sets as question_sets
from lab.experiments._observed import refuse_gone
from lab.experiments._quality_asking import Answerer, Given, answerer, refuse_misfits
from lab.experiments._quality_sets import Asked
from lab.experiments._quality_verdict import decide
from lab.experiments._remote import is_remote
from lab.metrics import perplexity, speed
from lab.models import ModelFile
from lab.records import Decoding, Estimate, Request, Trial, Verdict

AS_IT_IS = "as it is"
"""What stands for the rung of a file that is not requantised."""
FEWEST_WORDS = 500
"""Of a text for perplexity: intervals are over blocks of 64 words, and those of few blocks say nothing."""
READ_TOKENS = 128
"""Context that every scored token has at least: of windows of 512 tokens three quarters are scored, not half as with 256."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality(Experiment):
    """Which of these models or rungs answers better, by how much, and at which speed?

    Every configuration answers the same items; the answers keep their clock readings, so that speed and quality are of the
    same text. Each set's metrics are means over items; `quality` is the mean of the sets' main metrics (the first of
    --metrics that fits a set). Everything is compared with the baseline item by item, clustered where items share a source,
    and adjusted for all comparisons of the run; what too few items cannot show is called that. The fastest is the one whose
    answers are there first.
    """

    models: tuple[str, ...] = option(
        ("smollm2-135m",), "catalogue names, GGUF paths, or URLs of servers (#NAME behind one chooses its model)")
    rungs: tuple[str, ...] = option(
        (), "quantization types made of each model, such as F16,Q8_0,Q4_0; empty: the files as they are")
    engine: str = option("llama_cpp", "llama_cpp (in this process), server (lab serve), vllm, scripted, or the URL of a server, "
                         "which answers with what it serves")
    key_env: str = option("OPENAI_API_KEY", "environment variable with the key of servers given by URL")
    sets: tuple[str, ...] = option(
        ("everyday", "facts", "notes"), "question sets: names of the catalogue, or JSONL, CSV or Parquet files")
    column_names: str = option(
        "", "columns of such files, where they have names of their own: question=prompt,references=gold; empty: ours")
    items: int = option(40, "items asked of each set at most, the same for every configuration; 0 asks all")
    metrics: tuple[str, ...] = option(
        ("auto",), "metrics by name; auto: by kind of set (choice: answered, accuracy; open: contains, token_f1, exact_match, "
        "equivalence; summary: rouge_l, chrf, similarity)")
    style: Literal["plain", "chat"] = option(
        "plain", "plain text to be continued, the same for every model, or chat in the model's own template")
    template: str = option(
        "", "text of the question in place of ours, with {question}, {options} and {context}; \\n is a line break")
    shots: int = option(3, "solved examples in front of each question, from items of the set that are not asked")
    output_tokens: int = option(0, "longest answer, tokens; 0: 16 for choices, 32 for short answers, 96 for summaries")
    temperature: float = option(0.0, "0 takes the most probable token; above, answers are drawn")
    top_p: float = option(1.0, "share of the probability that is drawn from")
    text: str = option("pydoc-topics", "text read for perplexity: a name of the catalogue or a UTF-8 file")
    words: int = option(1000, "words of it that are read, from its beginning; 0 leaves perplexity out")
    batch: int = option(1, "items answered at a time (continuous batching); the speed of an answer is that under this load")
    threads: int = option(0, "threads; 0 is all physical cores")
    context_tokens: int = option(2048, "context of one item, tokens")
    flash_attention: engines.Flash = option("auto", "auto, on or off")
    imatrix_chunks: int = option(8, "chunks of 512 tokens, from the end of the text, that fill the importance matrix of IQ rungs")
    baseline: str = option("", "the configuration that others are compared with; empty: the first")
    margin: float = option(0.03, "largest loss of quality that is accepted, as a share (0.03 is 3 points)")
    seed: int = option(0, "seed of the choice of items, of decoding and of resampling")

    columns: ClassVar[tuple[str, ...]] = (
        "quality", "quality_change", "quality_detectable", "e2e_s", "ttft_s", "decode_tokens_per_s", "output_tokens_per_s",
        "output_tokens", "perplexity", "word_perplexity", "word_perplexity_increase_share", "file_bytes", "peak_memory_bytes")
    notes: ClassVar[tuple[str, ...]] = ("quality_is",)
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart(title="Quality against time for an answer", kind="tradeoff", x="metrics.e2e_s", y="metrics.quality",
              label="params.configuration"),
        Chart(title="Quality against decode speed", kind="tradeoff", x="metrics.decode_tokens_per_s", y="metrics.quality",
              label="params.configuration"),
        Chart(title="Quality, mean of the sets", kind="bar", x="params.configuration", y="metrics.quality"),
    )

    @classmethod
    def columns_of(cls, trials: pd.DataFrame) -> tuple[str, ...]:
        return (*cls.columns[:3], *_of_sets(trials), *cls.columns[3:])

    @classmethod
    def charts_of(cls, trials: pd.DataFrame) -> tuple[Chart, ...]:
        bars = (Chart(title=names.describe(measure).label, kind="bar", x="params.configuration", y=f"metrics.{measure}")
                for measure in _of_sets(trials))
        return (*cls.charts, *bars)

    def __post_init__(self) -> None:
        if not self.models or not self.sets or not self.metrics:
            raise LabError("--models, --sets and --metrics need at least one value each.")
        if min(self.items, self.shots, self.output_tokens, self.words, self.threads, self.imatrix_chunks) < 0:
            raise LabError("--items, --shots, --output-tokens, --words, --threads and --imatrix-chunks must not be negative.")
        if self.batch < 1 or self.context_tokens < 16:
            raise LabError("--batch needs at least 1 and --context-tokens at least 16.")
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise LabError("--temperature is not negative, and --top-p lies above 0 and up to 1.")
        if not 0 < self.margin < 1:
            raise LabError(f"--margin is a share between 0 and 1, such as 0.03 for 3 points, not {self.margin:g}.")
        prompts.check(self.template)
        found = [arm.name for arm in self._listed()]
        if twice := [name for name in found if found.count(name) > 1]:
            raise LabError(f"Two configurations are called '{twice[0]}'; give every model and rung once, and files names of "
                           "their own.")
        if self.baseline and self.baseline not in found:
            raise LabError(f"There is no configuration '{self.baseline}' to be the --baseline; they are {', '.join(found)}.")

    @classmethod
    def demo(cls, **overrides: Any) -> Self:
        short = {"rungs": ("Q8_0", "Q4_0"), "items": 8, "sets": ("everyday", "facts"), "words": 0, "shots": 2,
                 "metrics": ("answered", "accuracy", "contains", "token_f1")}
        return cls(**{**short, **overrides})

    def arms(self) -> list[Arm]:
        """The configurations, the baseline first and the others of its model next."""
        found = self._listed()
        base = next((arm for arm in found if arm.name == self.baseline), found[0])
        return sorted(found, key=lambda arm: (arm != base, arm.model != base.model))

    def _listed(self) -> list[Arm]:
        if is_url(self.engine):
            return [Arm(model=self.engine, rung="", name=_short(self.engine))]
        several, laddered = len(self.models) > 1, bool(self.rungs)
        return [Arm(model=model, rung=rung, name=" ".join(filter(None, (
            _short(model) if several or not laddered else "", rung)))) for model in self.models for rung in self.rungs or ("",)]

    def size(self) -> int:
        return len(self._listed())

    def check(self) -> None:
        if self.engine not in engines.names() and not is_url(self.engine):
            raise LabError(f"There is no engine '{self.engine}'; the engines are {', '.join(engines.names())}.")
        urls = [arm for arm in self._listed() if is_url(arm.model)]
        if self.rungs and (urls or self.engine not in ("llama_cpp", "server")):
            raise LabError("Rungs are GGUF files made here; give --rungs with the engine llama_cpp or server, and no URL.")
        if self.engine == "scripted" and self.batch > 1:
            raise LabError("The scripted engine answers one item at a time; leave --batch at 1.")
        if "accuracy" in self.metrics and not self._likelihood():
            raise LabError("Metric 'accuracy' is by likelihood, which a server does not show; take 'answered', or the engine "
                           "llama_cpp.")
        _ladder.check(self.rungs)
        for arm in self._listed():
            if not is_url(arm.model) and self.engine != "scripted" and not (self.engine == "vllm" and Path(arm.model).is_dir()):
                models.find(arm.model)
        self._read()
        self._asked()

    def run(self) -> Iterator[Trial]:
        sets, text = self._asked(), self._read()
        base: scoring.Scored | None = None
        for arm, file, caveat in self._files():
            trial, scored = self._trial(arm, file, caveat, sets, text, base)
            base = base or scored
            yield trial
            refuse_gone(arm.name, arm.name, trial.generations)

    def _asked(self) -> list[Asked]:
        theirs = data.column_names(self.column_names) if self.column_names else None
        return question_sets.load(self.sets, self.metrics, items=self.items, shots=self.shots, seed=self.seed, columns=theirs)

    def _read(self) -> str:
        """The text for perplexity, cut behind its last word; empty when none is to be read."""
        if not self.words:
            return ""
        words = data.text(self.text).split(" ")
        if min(len(words), self.words) < FEWEST_WORDS:
            raise LabError(f"{min(len(words), self.words)} words are too few for perplexity; read at least {FEWEST_WORDS} "
                           "(--words), or 0 to leave it out.")
        return " ".join(words[: self.words])

    def _likelihood(self) -> bool:
        """Whether every configuration runs on an engine that scores text."""
        return not is_remote(self.engine) and not any(is_url(model) for model in self.models)

    def _files(self) -> Iterator[tuple[Arm, ModelFile | None, str]]:
        """Every configuration with its file (None behind a URL) and its caveat; a ladder is made when its turn comes."""
        arms = self.arms()
        for model in dict.fromkeys(arm.model for arm in arms):
            own = [arm for arm in arms if arm.model == model]
            local = not is_url(model) and self.engine != "scripted" and not (self.engine == "vllm" and Path(model).is_dir())
            if not self.rungs:
                yield own[0], models.find(model) if local else None, ""
                continue
            source, by = models.find(model), {arm.rung: arm for arm in own}
            importance = _ladder.importance(source, [*by], lambda: data.text(self.text), chunks=self.imatrix_chunks,
                                            threads=self.threads)
            for rung, file in _ladder.make(source, [*by], importance, threads=self.threads):
                yield by[rung], file, _ladder.source_caveat(source)

    def _trial(
        self, arm: Arm, file: ModelFile | None, caveat: str, sets: Sequence[Asked], text: str, base: scoring.Scored | None,
    ) -> tuple[Trial, scoring.Scored]:
        place = arm.model if file is None or self.engine == "vllm" else str(file.path)
        with answerer(self.engine, place, asked=sets, context_tokens=self.context_tokens, threads=self.threads,
                      flash_attention=self.flash_attention, batch=self.batch, key_env=self.key_env) as answering:
            asked = [request for one in sets for request in self._requests(one)]
            refuse_misfits(answering.engine, asked)
            given = answering.ask(asked)
            scored, settings = self._score(answering, sets, given, text), answering.engine.settings
        tests = max(1, self.size() - 1) * scoring.tests_per_candidate(sets, likelihood=answering.scores, perplexity=bool(text))
        measures = {**self._measured(given, answering, file), **scoring.measures(sets, scored),
                    **(scoring.changes(sets, scored, base, tests=tests, seed=self.seed) if base else {})}
        mains = ", ".join(f"{one.name} {scoring.main(one, scored.by)}" for one in sets)
        notes = {"quality_is": f"mean of {mains}" if len(sets) > 1 else mains, "caveat": self._caveats(caveat),
                 **({"sha256": file.sha256} if file else {})}
        trial = Trial(
            name=arm.name, generations=given.generations, scores=scored.scores, measures=measures, notes=notes,
            flags=(*given.flags, *scoring.empty(given.generations), *scoring.unscored(scored)),
            settings={**settings, "model": _short(arm.model), "rung": arm.rung or AS_IT_IS, "configuration": arm.name,
                      "role": "candidate" if base else "baseline", "sets": ",".join(one.name for one in sets),
                      "items": sum(len(one.questions) for one in sets),
                      "available": sum(one.available for one in sets), "style": self.style, "shots": self.shots,
                      "batch": self.batch, "temperature": self.temperature, "words": self.words})
        return trial, scored

    def _requests(self, asked: Asked) -> list[Request]:
        decoding = Decoding(temperature=self.temperature, top_p=self.top_p, seed=self.seed)
        return prompts.requests(asked, style=self.style, template=self.template, decoding=decoding,
                                output_tokens=self.output_tokens)

    def _score(self, answering: Answerer, sets: Sequence[Asked], given: Given, text: str) -> scoring.Scored:
        by = scoring.score(answering.engine if answering.scores else None, sets, given.generations)
        losses = perplexity.strided(answering.engine, text, context_tokens=READ_TOKENS) if text and answering.scores else None
        return scoring.Scored(by=by, losses=losses)

    def _measured(self, given: Given, answering: Answerer, file: ModelFile | None) -> dict[str, float | Estimate]:
        watched = given.watched
        tokens = sum(len(g.tokens_at_s) for g in given.generations)
        found = {**speed.summary(given.generations), "output_tokens_per_s": tokens / given.seconds,
                 "load_s": answering.opened.wall_s, "foreign_cpu_share": watched.foreign_share, "cpu_s": watched.cpu_s,
                 "wall_s": watched.wall_s}
        if file is not None:
            found["file_bytes"] = float(file.bytes)
        if answering.engine.settings["engine"] == "llama_cpp":
            found["peak_memory_bytes"] = float(max(0, watched.peak_rss_bytes - answering.opened.rss_start_bytes))
        return found

    def _caveats(self, ladder: str) -> str:
        drawn = f"Answers are drawn at temperature {self.temperature:g}, one for each item: another seed gives others."
        return " ".join(filter(None, (ladder, drawn if self.temperature else "")))

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        return decide(trials, margin=self.margin, items=int(trials["params.items"].iloc[0]),
                      available=int(trials["params.available"].iloc[0]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One configuration: a model (or the URL of a server) and its rung ("" for the file as it is)."""

    model: str
    rung: str
    name: str


def _short(model: str) -> str:
    """A model's name without its folders; of a URL what stands behind #, else host and port."""
    if is_url(model):
        return model.partition("#")[2] or urlparse(model).netloc
    return Path(model).stem if model.endswith(".gguf") else Path(model).name


def _of_sets(trials: pd.DataFrame) -> list[str]:
    """The measures of sets in a frame, as they were taken: the mean of a metric, not its change or bounds."""
    columns = [str(c).removeprefix("metrics.") for c in trials.columns if str(c).startswith("metrics.")]
    wanted = [c for c in columns if any(c.endswith(f"_{metric}") for metric in names.OF_SETS)]
    asked = str(trials["params.sets"].iloc[0]).split(",") if "params.sets" in trials and len(trials) else []
    order = {metric: i for i, metric in enumerate(names.OF_SETS)}
    return sorted(wanted, key=lambda c: next(((i, order[c.removeprefix(f"{one}_")]) for i, one in enumerate(asked)
                                              if c.removeprefix(f"{one}_") in order), (len(asked), 0)))

"""Detectors on answers whose truth is known: benchmarks of right and hallucinated answers, and the run's own answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lab import data
from lab.data import Labelled
from lab.engines import Engine
from lab.experiments._hallucination_arms import Ask, closed_book
from lab.metrics import confidence, consistency, contradiction, detection, grounding, length
from lab.metrics.detection import Detected, Detector
from lab.metrics.grounding import Embeds
from lab.metrics.judge import Judge
from lab.records import Decoding, Generation, Question, Request, Score

OWN = "own answers"
FROM_MODEL = ("consistency", "token_mean", "token_lowest")
PLAIN = ("length", "contradiction", "grounding", "grounding_facts")
NAMES = (*PLAIN, *FROM_MODEL, "grounding_judge")
SLOW_SETS: Mapping[str, int] = {"halueval_summarisation": 3}
"""Documents are long: only every n-th group is read by detectors that need a model."""
SOURCE_CHARACTERS = 1200
"""Of a document that the model reads for its samples and probabilities; news tell the most at their beginning."""


class Remembering:
    """An embedder that is opened when it is first asked, and embeds a text once: several detectors read the same sentences."""

    def __init__(self, opened: Callable[[], Embeds]) -> None:
        self._opened, self._known = opened, dict[str, NDArray[np.float32]]()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= dict(zip(new, self._opened().embed(new), strict=True))
        return np.stack([self._known[text] for text in texts])


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers with their truth (1 hallucinated, 0 right), in the same order everywhere."""

    set: str
    questions: tuple[Question, ...]
    generations: tuple[Generation, ...]
    hallucinated: tuple[float, ...]
    groups: tuple[str, ...]

    def part(self, step: int) -> Answers:
        """The answers of every `step`-th group."""
        kept = set([*dict.fromkeys(self.groups)][::step])
        at = [i for i, group in enumerate(self.groups) if group in kept]
        return Answers(set=self.set, questions=tuple(self.questions[i] for i in at), groups=tuple(self.groups[i] for i in at),
                       generations=tuple(self.generations[i] for i in at), hallucinated=tuple(self.hallucinated[i] for i in at))


def benchmark(name: str, groups: int, seed: int) -> Answers:
    """All answers to `groups` questions of a labelled set, drawn with `seed`: right and hallucinated ones side by side."""
    by: dict[str, list[Labelled]] = {}
    for one in data.labelled(name):
        by.setdefault(one.group or one.item, []).append(one)
    names = sorted(by)
    chosen = [names[i] for i in np.random.default_rng(seed).permutation(len(names))[:groups]]
    items = [one for group in chosen for one in by[group]]
    return Answers(
        set=name, hallucinated=tuple(float(one.label < 0.5) for one in items),
        groups=tuple(one.group or one.item for one in items),
        questions=tuple(Question(id=o.item, question=o.question, references=o.references, context=o.context) for o in items),
        generations=tuple(_given(one) for one in items))


def _given(one: Labelled) -> Generation:
    return Generation(request=Request(id=one.item, prompt=one.question), text=one.answer, sent_s=0.0, ended_s=0.0)


@dataclass(frozen=True, kw_only=True)
class Looking:
    """What detectors may use: an embedder, an engine that shows probabilities, a way to draw samples, a judge."""

    embedder: Embeds
    engine: Engine | None = None
    ask: Ask | None = None
    samples: int = 0
    temperature: float = 0.8
    judge: Judge | None = None
    seed: int = 0


def measured(names: Sequence[str], answers: Answers, looking: Looking) -> Iterator[tuple[Detected, list[Score]]]:
    """Each detector's worth on these answers, with its scores; one that cannot look at them scores none."""
    part = answers.part(SLOW_SETS.get(answers.set, 1))
    for name in names:
        mine = part if name in FROM_MODEL or name == "grounding_judge" else answers
        found = _detector(name, mine, looking)
        scores = found(mine.questions, mine.generations) if found else [
            Score(name=name, item=q.id, value=math.nan, by=name, why="nothing to look with") for q in mine.questions]
        yield detection.measure(name, [s.value for s in scores], mine.hallucinated, mine.groups, seed=looking.seed), scores


def _detector(name: str, answers: Answers, looking: Looking) -> Detector | None:
    if name == "grounding":
        return grounding.detector_with(looking.embedder)
    if name == "contradiction":
        return contradiction.detector_with(looking.embedder)
    if name == "grounding_facts":
        return grounding.facts
    if name == "length":
        return length.length
    if name == "grounding_judge":
        return grounding.by_judge(looking.judge) if looking.judge else None
    if name == "consistency":
        return consistency.with_samples(_samples(answers, looking), looking.embedder) if looking.ask and looking.samples else None
    known = _sure(answers, looking.engine) if looking.engine else None
    return confidence.detector("mean" if name == "token_mean" else "lowest", known) if known else None


def script(answers: Answers) -> tuple[Question, ...]:
    """The questions as a scripted model knows them: the end of every prompt, with the right answer."""
    return tuple(Question(id=q.id, question=_prompt(answers, q).split("\n\n")[-1], references=(given.text,), group=group)
                 for q, given, wrong, group in zip(answers.questions, answers.generations, answers.hallucinated, answers.groups,
                                                   strict=True) if not wrong)


def _prompt(answers: Answers, question: Question) -> str:
    """What the model is asked of a labelled answer: the question, with the document where that is what is asked about."""
    if answers.set == "halueval_summarisation":
        return f"Text: {question.context[:SOURCE_CHARACTERS]}\n{question.question}\nSummary:"
    return closed_book(question.question[-SOURCE_CHARACTERS:])


def _samples(answers: Answers, looking: Looking) -> list[list[str]]:
    """The model's own answers to each question, drawn anew; a question with two answers is asked once."""
    prompts = [_asked_with(answers, i) for i in range(len(answers.questions))]
    requests = [Request(id=f"{answers.set}/{number}/{n}", prompt=prompt, decoding=Decoding(
        max_tokens=48, temperature=looking.temperature, seed=looking.seed + 1 + n, stop=("\n",)))
        for number, prompt in enumerate(dict.fromkeys(prompts)) for n in range(looking.samples)]
    assert looking.ask is not None
    said: dict[str | None, list[str]] = {}
    for generation in looking.ask(requests):
        said.setdefault(generation.request.prompt, []).append(generation.text.strip())
    return [said[prompt] for prompt in prompts]


def _asked_with(answers: Answers, i: int) -> str:
    """The prompt of answer i: the run's own, where the run asked it."""
    own = answers.generations[i].request.prompt if answers.set == OWN else None
    return own or _prompt(answers, answers.questions[i])


def _sure(answers: Answers, engine: Engine) -> list[confidence.Sure]:
    """How sure the model is of each answer; answers to one question are read after one prompt."""
    places: dict[str, list[int]] = {}
    for i in range(len(answers.questions)):
        places.setdefault(_asked_with(answers, i), []).append(i)
    prompts = [engine.prompt_tokens(Request(prompt=prompt)) for prompt in places]
    found = confidence.sure(engine, prompts, [[tokens(engine, answers.generations[i]) for i in at] for at in places.values()])
    by = {i: one for at, several in zip(places.values(), found, strict=True) for i, one in zip(at, several, strict=True)}
    return [by[i] for i in range(len(answers.questions))]


def tokens(engine: Engine, generation: Generation) -> list[int]:
    """The tokens of an answer: those that were decoded, else those of its text."""
    return list(generation.tokens) or engine.tokenize(f" {generation.text.strip()}")

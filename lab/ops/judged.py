"""A judge on recorded answers: it grades the generations of trials, or puts them side by side, and each verdict becomes feedback.

Questions and right answers are read again from the set that a request's tags name, so that nothing is asked anew. What was
judged is stored after every few items: an interruption keeps it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lab import data, stats
from lab.errors import LabError
from lab.experiments import judging
from lab.experiments._quality_sets import slug
from lab.metrics.judge import Judge
from lab.metrics.judging import rubric
from lab.metrics.judging.asked import Item, Pair
from lab.metrics.references import of
from lab.ops import feedback, history, judges
from lab.ops.ratings import task
from lab.records import Estimate, Generation, Question, Score
from lab.stats.ranking import Ranked, bradley_terry

TOGETHER = 16
"""Items judged before their verdicts are stored."""
LEAST_PREFIX = 4
UNMEASURED = "How far {judge} agrees with people was not measured; `lab run judging --judges {judge}` does."


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The recorded answers of one trial by item, and what is known of each item's question."""

    run_id: str
    model: str
    generations: Mapping[str, Generation]
    questions: Mapping[str, Question]

    def item(self, item: str) -> Item:
        question = self.questions[item]
        return Item(id=item, question=_asked(question), answer=self.generations[item].text, references=of(question),
                    context=question.context)

    def cluster(self, item: str) -> str:
        return self.questions[item].group or item


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A model's mean grade (1 to 5) on an axis, with the interval of items that share no source; `unscored` had no grade."""

    model: str
    axis: str
    grade: Estimate
    items: int
    unscored: int


@dataclass(kw_only=True)
class Judged:
    """What a judge said of recorded answers so far, by trial and item, and how far it may be trusted."""

    judge: str
    trust: tuple[str, ...]
    answers: tuple[Answers, ...]
    items: tuple[str, ...]
    scores: dict[tuple[str, str], list[Score]] = field(default_factory=dict)
    games: list[tuple[str, str, float, str]] = field(default_factory=list)
    """(model, other, 1 won, 0.5 tied, 0 lost or NaN, cluster)."""
    flips: list[bool] = field(default_factory=list)
    interrupted: bool = False

    def means(self) -> list[Mean]:
        """By model and axis, in the order in which they were given."""
        found = []
        for answers in self.answers:
            mine = [(item, scores) for (run, item), scores in self.scores.items() if run == answers.run_id]
            for at, axis in enumerate([score.name for score in mine[0][1]] if mine else []):
                values = np.array([scores[at].value for _, scores in mine])
                mean = stats.clustered_mean(values, [answers.cluster(item) for item, _ in mine])
                low, high = (rubric.grade(min(1.0, max(0.0, side))) if not math.isnan(side) else math.nan
                             for side in (mean.low, mean.high))
                found.append(Mean(model=answers.model, axis=axis, unscored=int(np.isnan(values).sum()), items=len(mine),
                                  grade=Estimate(value=rubric.grade(mean.value), low=low, high=high)))
        return found

    def ranking(self) -> list[Ranked]:
        """The models by Bradley and Terry, verdicts on items of one source as one. Raises `LabError` without verdicts."""
        return bradley_terry([game[:3] for game in self.games], clusters=[game[3] for game in self.games])

    @property
    def ranked(self) -> bool:
        """Whether there is any verdict on a pair to rank by."""
        return any(not math.isnan(result) for _, _, result, _ in self.games)

    def flip_share(self) -> Estimate:
        """How often the verdict changed with the order; NaN where both were never read."""
        return stats.proportion(sum(self.flips), len(self.flips))


def answers_of(runs: Sequence[str]) -> list[Answers]:
    """The recorded answers of trials, or of all trials of runs; an id may be cut as long as it stays clear.

    Failed requests are left out. Raises `LabError` for an unknown run and where nothing was kept.
    """
    trials = history.frame("trial")
    wanted: dict[str, None] = {}
    for run in runs:
        wanted |= dict.fromkeys(_found(run, trials))
    names = task.named_runs(list(wanted))
    known: dict[tuple[str, str], dict[str, Question]] = {}
    parents = {str(row["run_id"]): row for row in history.frame("experiment").to_dict("records")}
    parent_of = dict(zip(trials["run_id"], trials["parent_id"], strict=True)) if len(trials) else {}
    made = []
    for run_id, name in names.items():
        kept = {item: g for item, g in feedback.items(history.generations(run_id)).items() if g.error is None}
        if kept:
            parent = parents.get(str(parent_of.get(run_id, "")), {})
            made.append(Answers(run_id=run_id, model=name, generations=kept,
                                questions={item: _question(g, parent, known) for item, g in kept.items()}))
    if not made:
        raise LabError(f"{' and '.join(runs)} kept no answers, so there is nothing to judge; give a run of an experiment that "
                       "keeps its generations, such as quality.")
    return made


def judge_answers(
    judge: Judge, answers: Sequence[Answers], *, items: int = 0, seed: int = 0, pairs: bool = False,
    say: Callable[[str], None] = lambda line: None, together: int = TOGETHER,
) -> Judged:
    """Have `judge` grade up to `items` items of all `answers` (0: all), and with `pairs` prefer between every two trials.

    Every verdict, `together` items at a time, is stored as feedback of a judge on the trace of its answer. Ctrl-C ends it
    with what was judged so far;
    so does a judge that cannot be asked any more, with a `LabError`.
    """
    both = [item for item in dict.fromkeys(i for one in answers for i in one.generations)
            if not pairs or sum(item in one.generations for one in answers) > 1]
    if pairs and (len(answers) < 2 or not both):
        raise LabError("--pairs puts the answers of two trials to one question side by side; give a run with two trials that "
                       "were asked the same.")
    order = np.random.default_rng(seed).permutation(len(both))[: items or None]
    chosen = tuple(both[i] for i in sorted(order))
    found = Judged(judge=judge.name, trust=trust_of(judge), answers=tuple(answers), items=chosen)
    try:
        for at in range(0, len(chosen), together):
            some = chosen[at : at + together]
            for one in answers:
                _grade(judge, one, [item for item in some if item in one.generations], found)
            if pairs:
                for one, other in itertools.combinations(answers, 2):
                    _prefer(judge, one, other, [item for item in some if item in one.generations and item in other.generations],
                            found)
            say(f"{min(at + together, len(chosen))} of {len(chosen)} items judged")
    except KeyboardInterrupt:
        found.interrupted = True
    except LabError as error:
        if not found.scores:
            raise
        raise LabError(f"{str(error).rstrip('.')}; the {len(found.scores)} answers judged so far are kept, and the same "
                       "command goes on.") from error
    return found


def trust_of(judge: Judge) -> tuple[str, ...]:
    """How far this judge was found to agree with people: a sentence for each set, of the newest recorded measurement.

    Only of the same way of judging (by likelihood or by answer). One sentence that says how to measure it where none is.
    """
    name = judging.short_name(judge.name)
    rows = history.frame("trial", experiment="judging")
    if not rows.empty:
        rows = rows[(rows["state"] == "finished") & (rows["params.judge"].astype(str) == name)
                    & (rows["params.by"] == ("likelihood" if judge.by_likelihood else "answer"))]
    if rows.empty:
        return (UNMEASURED.format(judge=judge.name),)
    rows = rows.drop_duplicates("params.set")  # newest first
    said = [f"On {row['params.set']} ({row['params.axis']}): {row[f'tags.lab.note.{note}']}" for _, row in rows.iterrows()
            for note in ("trust", "pair_trust") if isinstance(row.get(f"tags.lab.note.{note}"), str)]
    if rest := [axis.name for axis in judge.axes if axis.name not in set(rows["params.axis"])]:
        said.append(f"Its grades of {' and '.join(rest)} were never held against people's.")
    return tuple(said)


def _found(run: str, trials: pd.DataFrame) -> list[str]:
    """The trials that an id means: that of a trial, or of a run with all its trials."""
    for column in ("run_id", "parent_id"):
        ids = trials[column].astype(str) if len(trials) else pd.Series(dtype=str)
        hits = sorted(set(ids[ids.str.startswith(run)])) if len(run) >= LEAST_PREFIX else []
        if len(hits) > 1 and run not in hits:
            raise LabError(f"The id '{run}' is the beginning of {len(hits)} runs; write more of it.")
        if hits:
            return trials.loc[ids == (run if run in hits else hits[0]), "run_id"].astype(str).tolist()[::-1]
    raise LabError(f"There is no run '{run}' with recorded trials in this store; `lab run` ends with the id of its run.")


def _question(generation: Generation, parent: Mapping[Any, Any], known: dict[tuple[str, str], dict[str, Question]]) -> Question:
    """What a request was about: from its set where that can be read, else as its text, without right answers."""
    tags = generation.request.tags
    given, name = str(parent.get("params.column_names") or ""), tags.get("set", "")
    places = [name, *(p for p in str(parent.get("params.sets") or "").split(",") if slug(p) == name)]
    for place in places if name else ():
        if (place, given) not in known:
            known[place, given] = _read(place, given)
        if found := known[place, given].get(tags.get("item", "")):
            return found
    text = tags.get("question") or task.messages_of(generation)[-1].content
    return Question(id=generation.request.id, question=text, group=tags.get("group", ""))


def _read(place: str, given: str) -> dict[str, Question]:
    try:
        return {one.id: one for one in data.questions(place, columns=judging.columns_of(place, given))}
    except LabError:
        return {}


def _asked(question: Question) -> str:
    options = "".join(f"\n- {choice}" for choice in question.choices)
    return question.question + (f"\nOptions:{options}" if options else "")


def _grade(judge: Judge, answers: Answers, items: Sequence[str], found: Judged) -> None:
    scores = judge.grade_many([answers.item(item) for item in items])
    _refuse_silent(judge)
    judges.log(answers.run_id, answers.generations, [score for each in scores for score in each], rubric=judge.rubric,
               trust=" ".join(found.trust))
    found.scores |= {(answers.run_id, item): each for item, each in zip(items, scores, strict=True)}


def _prefer(judge: Judge, one: Answers, other: Answers, items: Sequence[str], found: Judged) -> None:
    """Answers that are the same word for word are a tie and are not asked."""
    unlike = [i for i in items if one.generations[i].text.strip() != other.generations[i].text.strip()]
    pairs = [Pair(id=i, question=(item := one.item(i)).question, a=item.answer, b=other.generations[i].text,
                  references=item.references, context=item.context) for i in unlike]
    preferred = judge.prefer_many(pairs)
    _refuse_silent(judge)
    judges.log_pairs(one.run_id, one.generations, other.run_id, other.generations, [p.score for p in preferred],
                     rubric=judge.rubric, trust=" ".join(found.trust))
    found.flips += [p.flipped for p in preferred if p.flipped is not None]
    said = {**dict.fromkeys(items, 0.5), **{p.score.item: p.score.value for p in preferred}}
    found.games += [(one.model, other.model, value, one.cluster(item)) for item, value in said.items()]


def _refuse_silent(judge: Judge) -> None:
    """Raise `LabError` while a judge has not given one reply: it cannot be asked at all."""
    replies = judge.spent.replies
    if replies and all(reply.error for reply in replies):
        raise LabError(replies[0].error)


def as_json(found: Judged) -> dict[str, Any]:
    """All of it as plain values, numbers unrounded; the ranking only where pairs were asked."""
    made: dict[str, Any] = {
        "judge": found.judge, "trust": list(found.trust), "items": len(found.items), "interrupted": found.interrupted,
        "runs": {one.run_id: one.model for one in found.answers},
        "means": [{"model": m.model, "axis": m.axis, "grade": m.grade.value, "grade_low": m.grade.low, "grade_high": m.grade.high,
                   "items": m.items, "unscored": m.unscored} for m in found.means()]}
    if found.games:
        flips = found.flip_share()
        made |= {"position_flip_share": flips.value, "position_flip_share_low": flips.low, "position_flip_share_high": flips.high,
                 "ranking": [dataclasses.asdict(r) for r in found.ranking()] if found.ranked else []}
    return made

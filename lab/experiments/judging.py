"""Which judge may be trusted for what: models as judges against people's labels, beside judges whose faults are known."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import pandas as pd

from lab import data
from lab.engines import is_url
from lab.errors import LabError
from lab.experiments import Chart, Experiment, busy, option
from lab.machine import Watch
from lab.metrics import judge as judges_
from lab.metrics.judge import By, open_judge
from lab.metrics.judging import rubric
from lab.metrics.judging.trust import Measured, known, measure
from lab.names import describe
from lab.records import Estimate, Trial, Verdict

SETS = ("nq_open_judged", "pyrit_refusal")
SHIPPED = "verdicts"
GUESS = "scripted:constant"
ENOUGH = 300
MOST_WHY = 3000
"""Characters of all reasons together: MLflow cuts a tag, in which the verdict is stored, at 5,000."""
FEW = "{set} has {n} labelled answers, fewer than the {enough} that make an interval worth reading."
SHIPPED_ONLY = ("The people here are this project's authors ({set}): run `lab data fetch " + "` and `lab data fetch ".join(SETS)
                + "` to measure against labels of others.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judging(Experiment):
    """Which judge agrees with people beyond a constant guess, and may be trusted for what?

    Every judge grades the same labelled answers on the axis of their labels, and compares pairs of answers in both orders.
    Beside its agreement stand that of a constant guess and the judge's biases, measured in the same run. Scripted judges
    with one known fault each show what the figures mean.
    """

    judges: tuple[str, ...] = option(
        ("smollm2-135m", "scripted:perfect", "scripted:first", "scripted:longer", "scripted:random"),
        "judges: models, server URLs (#MODEL), anthropic:MODEL, vllm:MODEL, scripted:KIND, jury:ONE+OTHER")
    sets: tuple[str, ...] = option((), f"labelled sets or files; none: {' and '.join(SETS)} if fetched, else {SHIPPED}")
    column_names: str = option(
        "", "columns of such files, where they have names of their own: question=prompt,label=verdict; empty: ours")
    items: int = option(ENOUGH, "labelled answers of each set that are graded")
    pairs: int = option(60, "pairs of answers to one question that are compared, in both orders")
    repeats: int = option(2, "times the first answers are graded again, with other seeds; 0 leaves it out")
    repeated: int = option(30, "how many answers are graded again")
    by: By = option("auto", "likelihood (expected grade over the digits), answer (reasons, then a grade), or auto: the former "
                            "where the engine shows probabilities")
    guided: bool = option(True, "show the judge the right answers, where the set has them")
    temperature: float = option(0.7, "temperature of the repeats; the first time it is 0")
    max_tokens: int = option(256, "longest verdict in tokens, reasons included")
    threads: int = option(0, "threads of a judge in this process; 0 is all physical cores")
    concurrency: int = option(8, "questions at a time to a server")
    usd_per_million_in: float = option(0.0, "price of a million prompt tokens in USD; 0: not counted")
    usd_per_million_out: float = option(0.0, "price of a million output tokens in USD")
    cache: bool = option(True, "use judgements that are on disk, and keep new ones")
    seed: int = option(0, "seed of the choice of answers and of the repeats")

    columns: ClassVar[tuple[str, ...]] = (
        "judge_agreement_share", "constant_guess_share", "judge_kappa", "judge_alpha", "discrimination", "pair_kappa",
        "pair_agreement_share", "pair_decided_share", "position_flip_share", "position_lean", "length_bias",
        "self_agreement_share", "unscored_share", "pair_unscored_share", "labelled_items", "judgement_s", "judgement_tokens",
        "judgement_cost_usd")
    notes: ClassVar[tuple[str, ...]] = ("standing", "pair_standing", "habits")
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart(title="Agreement with people, the constant guess beside it", kind="bar", x="params.judge",
              y="metrics.judge_agreement_share", series="params.set"),
        Chart(title="Agreement beyond chance (kappa)", kind="bar", x="params.judge", y="metrics.judge_kappa",
              series="params.set"),
        Chart(title="Verdicts that change with the order", kind="bar", x="params.judge", y="metrics.position_flip_share",
              series="params.set"),
        Chart(title="Says the same when asked again", kind="bar", x="params.judge", y="metrics.self_agreement_share",
              series="params.set"),
        Chart(title="Agreement against time", kind="tradeoff", x="metrics.judgement_s", y="metrics.judge_kappa",
              label="params.judge"),
    )

    def __post_init__(self) -> None:
        if not self.judges:
            raise LabError("--judges needs at least one judge, such as scripted:perfect.")
        if self.items < 2 or self.pairs < 0 or self.repeats < 0 or self.repeated < 1 or self.max_tokens < 16:
            raise LabError("--items needs at least 2, --repeated 1, --max-tokens 16; --pairs and --repeats must not be negative.")
        if not 0 <= self.temperature <= 2 or self.concurrency < 1 or self.threads < 0:
            raise LabError("--temperature lies between 0 and 2, --concurrency is at least 1, --threads not negative.")

    @classmethod
    def demo(cls, **overrides: Any) -> Self:
        short = {"sets": (SHIPPED,), "items": 60, "pairs": 12, "repeats": 1, "repeated": 10}
        return cls(**{**short, **overrides})

    def all_judges(self) -> list[str]:
        """The judges, and the constant guess in front of them: no agreement can be read without it."""
        return [GUESS, *(name for name in dict.fromkeys(self.judges) if name != GUESS)]

    def all_sets(self) -> list[str]:
        known = data.catalogue()
        fetched = [name for name in SETS if name in known and known[name].fetched]
        return list(dict.fromkeys(self.sets)) or fetched or [SHIPPED]

    def size(self) -> int:
        return len(self.all_judges()) * len(self.all_sets())

    def check(self) -> None:
        for name in self.all_judges():
            judges_.refuse(name)
            if "anthropic:" in name and not os.environ.get("ANTHROPIC_API_KEY", "").strip():
                raise LabError(f"The judge '{name}' wants a key; put yours into the environment variable ANTHROPIC_API_KEY.")
        if self.column_names and all(name in data.catalogue() for name in self.all_sets()):
            raise LabError("--column-names is for files of your own; the sets of the catalogue have our columns already.")
        for name in self.all_sets():
            self._labelled(name)

    def run(self) -> Iterator[Trial]:
        for name in self.all_sets():
            labelled = self._labelled(name)
            for judge in self.all_judges():
                yield self._trial(judge, name, labelled)

    def _labelled(self, name: str) -> list[data.Labelled]:
        found = self._read(name, self.items)
        axes = sorted({one.axis for one in found})
        if len(axes) != 1:
            raise LabError(f"The set '{name}' mixes labels of {', '.join(axes)}; give one axis a set.")
        rubric.find(axes)
        return found

    def _read(self, name: str, limit: int | None = None) -> list[data.Labelled]:
        return data.labelled(name, limit, self.seed, columns_of(name, self.column_names))

    def _trial(self, name: str, set_: str, labelled: Sequence[data.Labelled]) -> Trial:
        pool = self._read(set_)  # pairs are of one question, and a sample of answers has few of those
        scripted = name.startswith("scripted:")
        judge = open_judge(
            name, axes=(labelled[0].axis,), by="answer" if scripted else self.by, guided=self.guided,
            known=known(labelled, pool), threads=self.threads, max_tokens=self.max_tokens, temperature=self.temperature,
            seed=self.seed, concurrency=self.concurrency, keep=self.cache)
        try:
            with Watch() as watch:
                found = measure(judge, labelled, pool=pool, pairs=self.pairs, repeats=self.repeats, repeated=self.repeated,
                                seed=self.seed)
            kept = judge.spent.kept
            notes = {"standing": found.trust.standing, "trust": found.trust.sentence(), "caveat": self._caveat(set_, labelled)}
            notes |= {"habits": "; ".join(found.trust.habits())}
            if found.trust.pairs is not None:
                notes |= {"pair_standing": found.trust.pair_standing, "pair_trust": found.trust.pair_sentence()}
            return Trial(
                name=f"{short_name(name)} on {set_}",
                settings={"judge": short_name(name), "set": set_, "axis": labelled[0].axis, "rubric": judge.rubric,
                          "by": "likelihood" if judge.by_likelihood else "answer", "asked_in": judge.asked_in,
                          "guided": self.guided, "items": len(labelled), "kept_judgements": kept, "threads": self.threads},
                scores=(*found.labels, *found.scores, *(one.score for one in found.preferences)),
                measures=self._measures(found, labelled, scripted), notes=notes,
                flags=() if scripted or kept == len(judge.spent.replies) else watch.result.flags())
        finally:
            judge.close()

    def _caveat(self, set_: str, labelled: Sequence[data.Labelled]) -> str:
        few = FEW.format(set=set_, n=len(labelled), enough=ENOUGH) if len(labelled) < ENOUGH else ""
        return " ".join(filter(None, (SHIPPED_ONLY.format(set=set_) if set_ == SHIPPED else "", few)))

    def _measures(self, found: Measured, labelled: Sequence[data.Labelled], scripted: bool) -> dict[str, float | Estimate]:
        trust = found.trust
        made: dict[str, float | Estimate] = {
            "judge_agreement_share": trust.scored.observed, "constant_guess_share": trust.scored.constant,
            "judge_kappa": trust.scored.kappa, "judge_alpha": trust.scored.alpha, "discrimination": trust.discrimination,
            "length_bias": trust.length_bias, "self_agreement_share": trust.self_agreement, "unscored_share": trust.unscored,
            "labelled_items": float(len(labelled)), "detectable_share": trust.detectable}
        if trust.pairs is not None:
            made |= {"pair_kappa": trust.pairs.kappa, "pair_agreement_share": trust.pairs.observed,
                     "pair_decided_share": trust.decided, "pair_unscored_share": trust.pairs_unscored,
                     "position_flip_share": trust.flip_share, "position_lean": trust.lean}
        made = {name: _without_noise(value) for name, value in made.items()}
        if scripted:
            return made
        cost = (trust.prompt_tokens * self.usd_per_million_in + trust.output_tokens * self.usd_per_million_out) / 1e6
        return made | {"judgement_s": trust.seconds, "judgement_tokens": trust.prompt_tokens + trust.output_tokens,
                       "judgement_cost_usd": cost if cost > 0 else math.nan}

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        trials = trials.sort_values("started_at", kind="stable") if "started_at" in trials else trials
        real = trials[~trials["params.judge"].str.startswith("scripted:")]
        rows = real if len(real) else trials
        decision = " ".join(_decision(name, part) for name, part in rows.groupby("params.set", sort=False))
        best = _trusted(rows)
        notes = trials.get("tags.lab.note.caveat", pd.Series(dtype=str)).dropna()
        likely = list(dict.fromkeys(trials[trials["params.by"] == "likelihood"]["params.judge"])) if "params.by" in trials else []
        caveats = (*busy(trials), *(note for note in dict.fromkeys(notes) if note))
        if likely:
            caveats += (f"{_and(likely)}: read as probabilities, nothing is drawn, so asking again gives the same; how far "
                        "a grade would vary when it is drawn was not measured.",)
        return Verdict(decision=decision, chosen=str(best["name"]) if best is not None else None,
                       why=_why(trials, rows), caveats=caveats)


def _without_noise(value: float | Estimate) -> float | Estimate:
    """0 for what only rounding keeps from it, such as the kappa of a resampled constant guess."""
    if isinstance(value, Estimate):
        return Estimate(value=round(value.value, 12) + 0.0, low=round(value.low, 12) + 0.0, high=round(value.high, 12) + 0.0)
    return round(value, 12) + 0.0


def _why(trials: pd.DataFrame, shown: pd.DataFrame) -> tuple[str, ...]:
    """What `shown` trials are worth, and beside them the kappa of all judges on each set; short enough to be one tag."""
    said = [f"On {row['params.set']}: {row[f'tags.lab.note.{note}']}" for _, row in shown.iterrows()
            for note in ("trust", "pair_trust") if isinstance(row.get(f"tags.lab.note.{note}"), str)]
    beside = [f"Kappa on {name}: " + ", ".join(
        f"{row['params.judge']} {describe('judge_kappa').show(row['metrics.judge_kappa'])}" for _, row in part.iterrows()) + "."
        for name, part in trials.groupby("params.set", sort=False)]
    beside += [f"Told apart on {name}: {told}." for name, part in trials.groupby("params.set", sort=False)
               if (told := "; ".join(f"{row['params.judge']} ({row['tags.lab.note.habits']})" for _, row in part.iterrows()
                                     if isinstance(row.get("tags.lab.note.habits"), str) and row["tags.lab.note.habits"]))]
    kept, left = list[str](), MOST_WHY
    for line in [*beside, *said]:
        left -= len(line)
        if left > 0:
            kept.append(line)
    more = len(beside) + len(said) - len(kept)
    return (*kept, *((f"{more} more sentences stand with the trials.",) if more else ()))


def _decision(set_: object, rows: pd.DataFrame) -> str:
    """Who may be trusted on one set, in a sentence."""
    axis = rows["params.axis"].iloc[0]
    by_standing: dict[str, list[str]] = {}
    for _, row in rows.iterrows():
        habits = row.get("tags.lab.note.habits")
        by_standing.setdefault(str(row["tags.lab.note.standing"]), []).append(
            f"{row['params.judge']} ({habits})" if isinstance(habits, str) and habits else str(row["params.judge"]))
    said = [f"{_and(names)} {'is' if len(names) == 1 else 'are'} {words}" for standing, words in (
        ("trusted", "to be trusted"),
        ("better than a constant guess", "better than a constant guess and not to be trusted alone"),
        ("no better than a constant guess", "no better than a constant guess"),
        ("cannot tell", "not shown to be better than a constant guess")) if (names := by_standing.get(standing))]
    return f"On {set_} ({axis}) {'; '.join(said)}."


def _trusted(rows: pd.DataFrame) -> pd.Series[Any] | None:
    """The trusted judge with the highest kappa, if there is one."""
    good = rows[rows["tags.lab.note.standing"] == "trusted"]
    return good.loc[good["metrics.judge_kappa"].idxmax()] if len(good) else None


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def columns_of(name: str, given: str) -> Mapping[str, str] | None:
    """Our columns with those of a file of the user's own, as `--column-names` gives them; none for a set of the catalogue."""
    return data.column_names(given) if given and name not in data.catalogue() else None


def short_name(name: str) -> str:
    """A judge's name without the folders of a file or the path of an address."""
    if is_url(name):
        parts = urlsplit(name)
        return parts.fragment or f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname or name
    return name.rsplit("/", 1)[-1] if name.endswith(".gguf") else name


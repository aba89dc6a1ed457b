"""Scores a sample of logged answers for hallucination by a detector of `lab.metrics`, and says what that detector is worth.

Only answers whose texts were kept can be looked at (`lab gateway --texts guarded`). What was asked is the last paragraph of the
kept question, and its source what stands before: passages that a release found by itself are not kept, so `grounding` looks
at answers to pasted texts and leaves the rest unscored. `consistency` asks a server again and needs no source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lab import engines, stats
from lab.errors import LabError
from lab.metrics import consistency, detection
from lab.metrics.detection import Detector
from lab.ops import history, requests
from lab.ops.requests import scores, traced
from lab.ops.requests.scores import Scored
from lab.records import Decoding, Estimate, Generation, Question, Request

NAME = "hallucination"
CONSISTENCY = "consistency"
DETECTORS = ("grounding", "grounding_facts", "contradiction", CONSISTENCY)
TEMPERATURE = 0.8
DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Worth:
    """How well a detector tells hallucinated answers from right ones, by the newest run that measured it on this store."""

    detector: str
    auc: Estimate
    set: str = ""
    standing: str = ""
    run_id: str = ""

    def sentence(self) -> str:
        """What is known of it."""
        if math.isnan(self.auc.value):
            return (f"What the detector {self.detector} is worth was not measured on this store: `lab run hallucination` does. "
                    "Until then its scores say nothing about truth, only whether they change.")
        span = "" if math.isnan(self.auc.low) else f" ({self.auc.low:.2f} to {self.auc.high:.2f})"
        return (f"The detector {self.detector} ranks a hallucinated answer above a right one in {self.auc.value:.2f}{span} of "
                f"pairs (AUC on {self.set}, run {self.run_id[:8]}: {self.standing}); 0.5 is chance.")


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What was scored: the mean (1 is "hallucinated"), answers scored, looked at and unscored, why, and the detector's worth."""

    mean: Estimate
    scored: int
    unscored: int
    waiting: int
    """Answers with texts and without a score that were not drawn."""
    why: str
    worth: Worth

    def sentence(self) -> str:
        """The same in words."""
        if not self.scored + self.unscored:
            return "Every answer whose text was kept has a score already."
        span = "" if math.isnan(self.mean.low) else f" ({self.mean.low:.3f} to {self.mean.high:.3f})"
        said = f"Scored {self.scored} answers by {self.worth.detector}: mean {self.mean.value:.3f}{span}" if self.scored else \
            "No answer could be scored"
        rest = f"; {self.unscored} unscored ({self.why})" if self.unscored else ""
        return f"{said}{rest}. {self.waiting:,} more wait. {self.worth.sentence()}"


def score(
    place: Path, *, detector: str = "grounding", sample: int = 50, url: str = "", samples: int = 3, seed: int = 0, now_s: float,
    since_s: float | None = None, ask: Callable[[str, int], str] | None = None,
) -> Sampled:
    """Draw `sample` answers of the last day (or since `since_s`) without a score, score them, and append the scores.

    `ask` gives another answer to (prompt, seed); by default it asks the server at `url`. Raises `LabError`.
    """
    if detector not in DETECTORS:
        raise LabError(f"There is no detector '{detector}' for logged answers; choose from {', '.join(DETECTORS)}.")
    if detector == CONSISTENCY and not url and ask is None:
        raise LabError("Consistency asks again: give the server with --url (that of `lab serve`; a gateway would log the "
                       "questions).")
    since = now_s - DAY_S if since_s is None else since_s
    kept = requests.texts(place)
    if kept.empty:
        raise LabError("No text was kept, so there is nothing to score; start the gateway with `lab gateway --texts guarded`.")
    left = unscored(whole(kept[kept["time_s"] >= since], place), place, NAME)
    drawn = left.iloc[np.sort(np.random.default_rng(seed).permutation(len(left))[:sample])]
    questions, generations = _asked(drawn)
    found = _detector(detector, questions, url, samples, seed, ask)(questions, generations) if len(drawn) else []
    rows = [Scored(request_id=str(row.request_id), time_s=float(row.time_s), name=NAME, value=one.value, by=detector,
                   scored_s=now_s, why=one.why if math.isnan(one.value) else "")  # other reasons quote the answer
            for row, one in zip(drawn.itertuples(), found, strict=True)]
    scores.add(rows, place)
    traced.link(rows)
    values = [one.value for one in rows]
    known = int(np.isfinite(values).sum())
    return Sampled(mean=stats.mean(values), scored=known, unscored=len(rows) - known, waiting=len(left) - len(drawn),
                   why=next((one.why for one in rows if one.why), ""), worth=worth(detector))


def worth(detector: str) -> Worth:
    """What the newest run of `lab run hallucination` on this store says of a detector; not measured is NaN."""
    trials = history.frame("trial", experiment="hallucination")
    wanted = {"params.kind": "detector", "params.detector": detector}
    for column, value in wanted.items():
        trials = trials[trials[column] == value] if column in trials else trials.iloc[:0]
    if trials.empty or "metrics.auc" not in trials or trials["metrics.auc"].isna().all():
        return Worth(detector=detector, auc=Estimate(value=math.nan))
    row = trials[trials["metrics.auc"].notna()].iloc[0]
    low, high = (float(row.get(f"metrics.auc_{side}", math.nan)) for side in ("low", "high"))
    return Worth(detector=detector, auc=Estimate(value=float(row["metrics.auc"]), low=low, high=high), set=str(row["params.set"]),
                 standing=str(row.get("tags.lab.note.standing", "")), run_id=str(row["run_id"]))


def whole(kept: pd.DataFrame, place: Path) -> pd.DataFrame:
    """Those of the kept texts that are whole answers of the model: no refusal, no guard's words, no failure."""
    log = requests.frame(float(kept["time_s"].min()) if len(kept) else math.inf, place=place,
                         columns=["request_id", "status", "error_kind", "finish_reason", "refused"])
    plain = (log["status"] == 200) & (log["error_kind"] == "")
    found = log[plain & (log["finish_reason"] != "content_filter") & (log["refused"] != 1)]
    return kept[kept["request_id"].isin(set(found["request_id"])) & (kept["answer"].str.strip() != "")]


def unscored(answers: pd.DataFrame, place: Path, name: str) -> pd.DataFrame:
    """Those of them that have no score of this name yet."""
    since_s = float(answers["time_s"].min()) if len(answers) else math.inf
    done = {one.request_id for one in scores.read(place, since_s) if one.name == name}
    return answers[~answers["request_id"].isin(done)]


def _asked(drawn: pd.DataFrame) -> tuple[list[Question], list[Generation]]:
    questions, generations = [], []
    for row in drawn.itertuples():
        source, _, last = str(row.prompt).strip().rpartition("\n\n")
        questions.append(Question(id=str(row.request_id), question=last, context=source))
        generations.append(Generation(request=Request(id=str(row.request_id), prompt=str(row.prompt)), text=str(row.answer),
                                      sent_s=0.0, ended_s=0.0))
    return questions, generations


def _detector(
    name: str, questions: Sequence[Question], url: str, samples: int, seed: int, ask: Callable[[str, int], str] | None
) -> Detector:
    if name != CONSISTENCY:
        return detection.detector(name)
    if ask is not None:
        return consistency.with_samples(_drawn(questions, samples, seed, ask))
    if not engines.is_url(url):
        raise LabError(f"'{url}' is no URL; give one such as http://127.0.0.1:8080/v1.")
    engine = engines.open_engine("server", url)
    try:
        return consistency.with_samples(_drawn(questions, samples, seed, lambda prompt, drawn: engines.generate(engine, Request(
            prompt=prompt, decoding=Decoding(max_tokens=128, temperature=TEMPERATURE, seed=drawn))).text))
    finally:
        engine.close()


def _drawn(questions: Sequence[Question], samples: int, seed: int, ask: Callable[[str, int], str]) -> list[list[str]]:
    return [[ask(f"{one.context}\n\n{one.question}".strip(), seed + 1 + n) for n in range(samples)] for one in questions]

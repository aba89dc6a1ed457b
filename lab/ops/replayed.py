"""A replay as a run of the history: the verdict, a trial for each release, a score for each answer, and no text."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Mapping

from lab import machine
from lab.experiments.rollout import CHANGES
from lab.ops import tracking
from lab.ops.replay import Margins, Replayed
from lab.ops.versions import Release
from lab.records import Estimate, Score, Settings, Trial, Verdict
from lab.stats.sequential import Arm

EXPERIMENT = "replay"
QUESTION = "Would a candidate have answered what users really asked as well, as fast and as cheaply as what runs today?"


def verdict(found: Replayed) -> Verdict:
    """The decision of a replay in sentences."""
    a, b = found.baseline.number, found.candidate.number
    said = {"ship": f"Release {b} may go on to a canary: every metric is shown to be within its margin.",
            "do not ship": f"Release {b} is shown to be worse than release {a}; keep release {a}.",
            "need more data": f"{found.asked} requests show neither that release {b} is within its margins nor that it is "
                              "worse."}
    failed = [(arm, sum(one.arm == arm and bool(one.error) for one in found.answers)) for arm in ("A", "B")]
    more = ["Failed: " + ", ".join(f"{count} with {arm}" for arm, count in failed) + "."] if any(n for _, n in failed) else []
    if not found.scored:
        more.append("Quality was not scored: no request asks a question whose answer is known.")
    chosen = {"ship": f"release {b}", "do not ship": f"release {a}"}.get(found.look.decision)
    return Verdict(decision=said[found.look.decision], chosen=chosen, why=found.look.why, caveats=(
        *more, "A replay knows no concurrent users, and a conversation of several turns is asked as one text: confirm it with a "
               "canary."))


def record(found: Replayed, margins: Margins) -> str:
    """Write a replay to the history and return the run's id. Raises `LabError` when the store cannot be written."""
    client = tracking.writer()
    a, b = found.baseline, found.candidate
    title = f"replay release {b.number} against {a.number} {time.strftime('%Y-%m-%d %H:%M:%S')}"
    run = tracking.start_parent(client, EXPERIMENT, title, **{"mlflow.note.content": QUESTION, **machine.fingerprint().as_tags()})
    arms: tuple[tuple[Arm, Release], ...] = (("A", a), ("B", b))
    for arm, release in arms:
        tracking.write_trial(client, EXPERIMENT, run, _trial(found, arm, release, margins))
    tracking.decided(client, run, verdict(found), QUESTION)
    return run


def _trial(found: Replayed, arm: Arm, release: Release, margins: Margins) -> Trial:
    mine = [one for one in found.answers if one.arm == arm]
    measures: dict[str, float | Estimate] = {"answers": len(mine),
                                             "failed_share": sum(bool(one.error) for one in mine) / len(mine)}
    for effect in found.look.effects:
        name = effect.metric.name
        measures[name] = effect.means[0 if arm == "A" else 1]
        if arm == "B":
            measures[CHANGES.get(name, f"{name}_change")] = effect.change
    values = [one.values["e2e_s"] for one in mine if math.isfinite(one.values["e2e_s"])]
    if values:
        measures["e2e_p50_s"] = statistics.median(values)
    if arm == "B":
        measures["needed_requests"] = found.look.needed
    settings: Settings = {"arm": arm, "release": release.number, "release_digest": release.digest, "model": release.model.name,
                          "engine": release.engine, **{f"margin_{k}": v for k, v in dataclasses.asdict(margins).items()}}
    scores = tuple(Score(name=name, item=one.logged.id, value=value, by="replay", why=one.error)
                   for one in mine for name, value in _scored(one.values).items())
    return Trial(name=f"release {release.number}", settings=settings, measures=measures, scores=scores,
                 notes={"decision": found.look.decision})


def _scored(values: Mapping[str, float]) -> dict[str, float]:
    return {name: values[name] for name in ("quality", "usable")}

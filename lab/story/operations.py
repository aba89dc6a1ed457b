"""Release, traffic, canary, harm, rollback: a worse release is tried beside a good one, stopped by what it does, and undone.

Everything is real: the default model, `lab gateway` with two processes, HTTP, the request log, the sequential test and the
journal of moves, in a store of the story's own. A step that does not go as it should ends the story with a sentence.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lab import data
from lab.errors import LabError
from lab.ops import requests, rollouts, store, versions
from lab.ops.gateway.child import Child
from lab.records import Question
from lab.story.traffic import SCORER, Traffic

GOOD = "Answer in a few words."
WORSE = "Answer in French."
"""A prompt meant for another market: real, and wrong for users who ask in English."""
SET, TOKENS = "facts", 12
MARGINS = {"quality": 0.05, "failed": 0.02, "e2e_s": 0.0, "cost_usd": 0.0}
"""Times are not looked at: the gateway, its users and the watcher share the cores here."""
MOST_S = 270.0
"""The story gives up after this long."""
Say = Callable[[str], None]


@dataclass(kw_only=True)
class Told:
    """What happened, as Markdown lines, and the figures."""

    lines: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def report(self) -> str:
        return "\n".join(self.lines) + "\n"


def operations(*, model: str, engine: str = "llama_cpp", baseline: int = 60, most: int = 600, clients: int = 4, say: Say) -> Told:
    """Tell the story with `model`; at most `most` answers in the canary. Raises `LabError` where it did not go as it should."""
    told, until = Told(), time.monotonic() + MOST_S
    began = time.monotonic()

    def line(text: str) -> None:
        told.lines.append(text)
        say(text)

    with tempfile.TemporaryDirectory(prefix="lab-story-") as home, store.elsewhere(home):
        line(f"# Operations with {model}: a worse prompt is tried, stopped and undone")
        a, b = (_release(Path(home), model, engine, prompt) for prompt in (GOOD, WORSE))
        versions.promote(a, by="story", why="the first release")
        line(f"- Release {a} is in production: \"{GOOD}\". Release {b} differs in its prompt: \"{WORSE}\"")
        questions = data.questions(SET)
        with Child("--processes", "2", "--running", "4") as gateway:
            line(f"- `lab gateway` runs with 2 processes, ready after {time.monotonic() - began:.0f} s.")
            _baseline(told, line, gateway, questions, a, baseline, clients, until)
            _canary(told, line, gateway, questions, (a, b), most, clients, until)
            _mistake(told, line, gateway, questions, (a, b), clients, until)
        _log_is_whole(told, line)
        line("\n## The journal\n")
        for move in versions.history():
            line(f"- {move.number}. {move.action} {move.to or ''} by {move.by}: {move.why[:300]}")
    told.figures["story_s"] = time.monotonic() - began
    line(f"\nAll of it took {told.figures['story_s']:.0f} s.")
    return told


def _baseline(
    told: Told, line: Say, gateway: Child, questions: list[Question], a: int, count: int, clients: int, until: float
) -> None:
    with Traffic(gateway.port, questions, clients=clients, seed=1) as traffic:
        traffic.wait(count, until_s=until)
    right = [one for one in traffic.got if one.release == a]
    _must(len(right) == len(traffic.got) >= count, "not every question of the first users was answered by the first release")
    seconds = max(one.ended_s for one in traffic.got) - min(one.sent_s for one in traffic.got)
    told.figures |= {"baseline_answers": len(right), "requests_per_s": len(right) / seconds}
    line(f"- {len(right)} users asked a question of `{SET}` each ({len(right) / seconds:.1f} requests/s), {traffic.scored} "
         f"answers were scored (`{SCORER}`) into the request log.")


def _canary(
    told: Told, line: Say, gateway: Child, questions: list[Question], pair: tuple[int, int], most: int, clients: int,
    until: float,
) -> None:
    a, b = pair
    versions.propose(b, by="story", why="the prompt of another market")
    time.sleep(1.5)  # every process has it loaded before it is given to anybody
    one = rollouts.start(b, by="story", why="the prompt of another market", share=0.5, score=SCORER, margins=MARGINS).rollout
    line("\n## Canary\n")
    line(f"- Rollout {one.number}: half of the users get release {b}. Power, before it begins:")
    for plan in rollouts.planned(one):
        line(f"  - {plan.said()}")
    began = time.monotonic()
    pointer = versions.Pointer(poll_s=0)
    with Traffic(gateway.port, questions, clients=clients, seed=2) as traffic, contextlib.closing(pointer):
        while pointer.state.candidate == b and len(traffic.got) < most and time.monotonic() < until:
            time.sleep(0.005)
        stopped = time.monotonic()
        before = len(traffic.got)
        traffic.wait(before + 6 * clients, until_s=min(until, stopped + 30))
    over = rollouts.all_()[-1]
    _must(over.decision == "do not ship", f"{before} answers of the canary did not show that release {b} is worse")
    late = [got for got in traffic.got if got.sent_s > stopped and got.release != a]
    answers = {number: sum(got.release == number for got in traffic.got[:before]) for number in pair}
    move = versions.history()[-1]
    _must(move.by == "rollout" and move.action == "withdraw", "the candidate was not withdrawn by the rollout")
    _must(not late, f"{len(late)} requests sent after the withdrawal were not answered by release {a}")
    told.figures |= {"canary_answers_a": answers[a], "canary_answers_b": answers[b], "canary_s": stopped - began,
                     "late_answers_of_b": len(late)}
    line(f"- Stopped after {answers[a]} answers of release {a} and {answers[b]} of release {b}, {stopped - began:.0f} s after it "
         f"began: **{over.decision}**.")
    for reason in over.reasons:
        line(f"  - {reason}")
    line(f"- The gateway's watcher withdrew release {b} (move {move.number} of the journal). Of {len(traffic.got) - before} "
         f"requests that ended after it, {len(late)} sent later were answered by release {b}.")


def _mistake(
    told: Told, line: Say, gateway: Child, questions: list[Question], pair: tuple[int, int], clients: int, until: float
) -> None:
    """Somebody promotes it all the same, and it is rolled back under load."""
    a, b = pair
    versions.promote(b, by="story", why="promoted against the evidence, to be rolled back")
    with Traffic(gateway.port, questions, clients=clients, seed=3) as traffic:
        traffic.wait(3 * clients, until_s=until)
        began = time.monotonic()
        versions.rollback(by="story", why="the canary had shown that it is worse", expect=b)
        returned = time.monotonic()
        before = len(traffic.got)
        traffic.wait(before + 6 * clients, until_s=until)
    dropped = [got for got in traffic.got if got.release is None]
    late = [got for got in traffic.got if got.sent_s > returned and got.release != a]
    _must(any(got.release == b for got in traffic.got), f"release {b} answered nobody while it was in production")
    _must(not dropped, f"{len(dropped)} requests were dropped during the rollback")
    _must(not late, f"{len(late)} requests sent after the rollback were not answered by release {a}")
    told.figures |= {"rollback_s": returned - began, "rollback_late": len(late), "rollback_dropped": len(dropped)}
    line("\n## Rollback\n")
    line(f"- Release {b} was promoted all the same and rolled back under load: in force in {returned - began:.3f} s. Of "
         f"{len(traffic.got)} requests 0 were dropped, and 0 sent after that were answered by release {b}.")


def _log_is_whole(told: Told, line: Say) -> None:
    rows = requests.frame(columns=["request_id", "status", "arm", "e2e_s", "release"])
    _must(len(rows) == rows["request_id"].nunique(), "a request stands in the log twice")
    told.figures["logged"] = len(rows)
    line(f"- The log has {len(rows)} requests, each once; median answer {float(rows['e2e_s'].median()):.2f} s.")


def _must(held: bool, sentence: str) -> None:
    if not held:
        raise LabError(f"The story did not go as it should: {sentence}.")


def _release(home: Path, model: str, engine: str, prompt: str) -> int:
    file = home / "prompt.txt"
    file.write_text(prompt)
    settings = {"context_tokens": 2048, "threads": 1} if engine == "llama_cpp" else {}
    return versions.create(prompt=str(file), model=model, engine=engine, engine_settings=settings, by="story",
                           decoding={"max_tokens": str(TOKENS)}).release.number

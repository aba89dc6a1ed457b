"""Watches the rollout that is on: looks at its evidence again and again, and stops it at once when it does harm.

Harm withdraws the candidate, or rolls production back where the candidate was promoted meanwhile: one move of the journal, by
`rollout`, with the numbers. That is in force for every gateway of this machine when it returns. Shipping is left to a person.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lab.errors import LabError
from lab.ops import store, versions
from lab.ops.rollouts import journal
from lab.ops.rollouts.evidence import Evidence
from lab.ops.rollouts.live import Live
from lab.ops.rollouts.record import Rollout
from lab.ops.versions import kept
from lab.stats.sequential import Look

BY = "rollout"
EVERY_S = 1.0
AGAIN_S = 5.0
"""After a look that failed."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What one look brought: the evidence, and what was done about it ("" for nothing)."""

    rollout: Rollout
    look: Look
    requests: int
    """Answers of both arms so far."""
    scored: int
    did: str = ""
    took_s: float = 0.0
    """Seconds that the move took; 0 where there was none."""


def watch(
    *, say: Callable[[Watched], None], trouble: Callable[[str], None] = print, every_s: float = EVERY_S,
    until: Callable[[], bool] = lambda: False,
) -> Watched | None:
    """Watch until the rollout is over, decided to ship or `until` says so; the last look (None without a rollout).

    `say` hears of every look that saw something new. Raises `LabError` when somebody watches already.
    """
    with _alone():
        live, evidence, last = Live(), None, None
        while not until():
            found = live.get()
            if found is None or found.decision:
                return last
            if evidence is None or evidence.rollout.number != found.number:
                evidence = Evidence(found)
            try:
                seen = look(evidence)
            except LabError as error:  # a store or log that does not answer now may do so later
                trouble(str(error))
                time.sleep(AGAIN_S)
                continue
            if seen is None:
                return last
            if last is None or seen.did or (seen.requests, seen.scored) != (last.requests, last.scored):
                say(seen)
            last = seen
            if seen.did:
                return seen
            time.sleep(every_s)
        return last


def look(evidence: Evidence) -> Watched | None:
    """Look once, and do what follows from it; None when the rollout is over because somebody moved an alias."""
    one, now = evidence.rollout, versions.current()
    promoted = now.production == one.candidate
    if not promoted and (now.production, now.candidate) != (one.production, one.candidate):
        journal.decided(one, "", (), ended="the aliases were moved while it was on")
        return None
    seen = evidence.look()
    if seen.decision == "do not ship":
        return _stopped(evidence, seen, promoted)
    if seen.decision == "ship":
        did = "promoted already" if promoted else f"`lab release promote {one.candidate}` ships it"
        journal.decided(one, seen.decision, seen.why, ended="shipped" if promoted else "")
        return _watched(evidence, seen, did)
    if promoted:
        journal.decided(one, "", (), ended="promoted while it was on")
        return None
    return _watched(evidence, seen)


def _watched(evidence: Evidence, seen: Look, did: str = "", took_s: float = 0.0) -> Watched:
    return Watched(rollout=evidence.rollout, look=seen, requests=evidence.requests, scored=evidence.scored, did=did,
                   took_s=took_s)


def _stopped(evidence: Evidence, seen: Look, promoted: bool) -> Watched:
    one = evidence.rollout
    why = f"rollout {one.number}, {one.stage}: " + " ".join(seen.why)
    began = time.monotonic()
    if promoted:
        versions.rollback(by=BY, why=why, expect=one.candidate)
    else:
        versions.withdraw(by=BY, why=why, expect=one.candidate)
    took = time.monotonic() - began
    did = f"release {one.candidate} was {'rolled back' if promoted else 'withdrawn'}"
    journal.decided(one, seen.decision, seen.why, ended=f"{did}, because it does harm")
    return _watched(evidence, seen, did, took)


def watched_already() -> bool:
    """Whether some process watches for this store now."""
    try:
        with _alone():
            return False
    except LabError:
        return True


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Raise `LabError` where another process watches for the same store."""
    with store.alone(kept.folder() / "rollout.watch.lock") as mine:
        if not mine:
            raise LabError("Another process watches this rollout already (a gateway does); see `lab rollout status`.")
        yield

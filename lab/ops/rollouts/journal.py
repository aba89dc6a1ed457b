"""The journal of rollouts in the store: begun, decided, ended; each an appended entry, and a copy for running gateways."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.errors import LabError
from lab.ops import requests, versions
from lab.ops.rollouts import live
from lab.ops.rollouts.record import MARGINS, Rollout, Stage, read
from lab.ops.versions import registry

NAME = "rollouts"
ABOUT = "Journal of LLM lab workbench: every rollout, what it showed and how it ended. Never delete a version of this."


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A rollout that is on, and a `caution` where something beside it could not follow."""

    rollout: Rollout
    caution: str = ""


def all_() -> list[Rollout]:
    """Every rollout there ever was, oldest first, each as it stands now."""
    found: dict[int, Rollout] = {}
    for entry in registry.entries(NAME):
        said = entry.tags.get("lab.rollout", "")
        begun = read(said)
        if begun is not None:
            found[entry.number] = dataclasses.replace(begun, number=entry.number, at_ms=entry.at_ms)
            continue
        try:
            change = json.loads(said)
            of, reasons = int(change["of"]), tuple(change["reasons"])
            found[of] = dataclasses.replace(found[of], decision=change["decision"] or found[of].decision,
                                            reasons=reasons or found[of].reasons, ended=change["ended"])
        except (ValueError, KeyError, TypeError):
            continue
    return [*found.values()]


def current() -> Rollout | None:
    """The rollout that is on by the journal and the aliases; None when there is none."""
    last = next(reversed(all_()), None)
    if last is None or last.ended:
        return None
    now = versions.current()
    return last if (now.production, now.candidate) == (last.production, last.candidate) else None


def start(
    candidate: str | int, *, by: str, why: str, share: float = 0.1, stage: Stage = "canary", score: str = "",
    margins: Mapping[str, float] | None = None, opens: bool = False,
) -> Begun:
    """Begin: the release becomes the candidate, and from the return on gateways of this machine give it its share.

    Raises `LabError` when nothing is in production, a rollout is on already, or the release cannot answer (with `opens` its
    engine is opened to see).
    """
    now, release = versions.current(), versions.find(candidate)
    if now.production is None:
        raise LabError("No release is in production to compare a candidate with; `lab release promote N` first.")
    if release.number == now.production:
        raise LabError(f"Release {release.number} is in production and cannot be its own candidate.")
    if (running := current()) is not None:
        raise LabError(f"Rollout {running.number} of release {running.candidate} is on; end it first with `lab rollout stop`.")
    made = Rollout(candidate=release.number, production=now.production, name=f"candidate {release.digest}", stage=stage,
                   share=share, score=score, margins={**MARGINS, **(margins or {})}, position=requests.position(),
                   by=by.strip(), why=why.strip())
    if not made.by or not made.why:
        raise LabError("Every rollout is recorded with who began it and why; give both (--by, --why).")
    if opens and (broken := versions.unopened(release)):
        raise LabError(f"Release {release.number} cannot answer: {broken}; mend it before users get it.")
    if now.candidate != release.number:
        versions.propose(release.number, by=by, why=why)
    _append(made.as_json(), f"{stage} of release {release.number} by {by}: {why}")
    begun = next(reversed(all_()))
    return Begun(rollout=begun, caution=follow())


def decided(rollout: Rollout, decision: str, reasons: Sequence[str], *, ended: str = "") -> str:
    """Write down what a rollout showed, and with `ended` that it is over; a caution or ""."""
    change = {"of": rollout.number, "decision": decision, "reasons": list(reasons), "ended": ended}
    _append(change, f"rollout {rollout.number}: {ended or decision}")
    return follow()


def stop(*, by: str, why: str) -> Begun:
    """End the rollout that is on without a verdict: when this returns, new requests are all answered by production."""
    found = current()
    if found is None:
        raise LabError("No rollout is on; see `lab rollout status`.")
    if not by.strip() or not why.strip():
        raise LabError("Every end of a rollout is recorded with who ended it and why; give both (--by, --why).")
    ended = f"stopped by {by.strip()}: {why.strip()}"
    caution = decided(found, "", (), ended=ended)
    return Begun(rollout=dataclasses.replace(found, ended=ended), caution=caution)


def _append(value: object, says: str) -> None:
    text = json.dumps(value)
    registry.append(NAME, {"lab.rollout": text}, source=f"lab-rollout:/{hashlib.sha256(text.encode()).hexdigest()}", about=ABOUT,
                    says=says)


def follow() -> str:
    """Let the gateways of this machine know what the journal says; a caution where they could not be told."""
    try:
        live.publish(next(reversed(all_()), None))
    except OSError as error:
        return f"It is recorded, but running gateways could not be told ({error.strerror}); mend the folder beside the store."
    return ""

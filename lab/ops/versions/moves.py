"""Promotion and rollback: one appended entry each, in force when the call returns, refused when the release is broken."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass

from lab import models
from lab.errors import LabError
from lab.ops.versions import creating, files, kept, registry, state, verify
from lab.ops.versions.release import Release
from lab.ops.versions.state import ALIASES, Action, Move, State

NAME = "release-moves"
ABOUT = "Journal of LLM lab workbench: every move of an alias of `release`, in order. Never delete a version of this."


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A move that was made, and a `caution` where something beside it could not follow."""

    move: Move
    caution: str = ""


def current() -> State:
    """Where the aliases point, by the journal of the store."""
    moves = history()
    return moves[-1].after if moves else State(born_ms=registry.head(NAME)[0])


def history() -> list[Move]:
    """Every move there ever was, oldest first, also those that had no effect."""
    born, head = registry.head(NAME)
    return state.replay(registry.entries(NAME), born) if head else []


def promote(
    reference: str | int, *, by: str, why: str, expect: int | None = None, force: bool = False, opens: bool = False,
) -> Moved:
    """Point `production` at a release and `previous` at the one before it; a candidate that is promoted is none any more.

    `expect` is the release that must be in production for it to happen (0: none). Every file is read and hashed
    first, and with `opens` its engine is opened and gives a token; a broken release raises `LabError`, unless `force`, which
    is recorded with the defects.
    """
    now = current()
    release = creating.find(reference, now)
    defects = _checked(release, files.hashed, force, opens)
    return _move("promote", release, by=by, why=why, expect=expect, force=force, defects=defects)


def rollback(*, by: str, why: str, expect: int | None = None, force: bool = False) -> Moved:
    """Put back into production what was there before, and make `previous` what is there now.

    `expect` is the release that must be in production; without it, the one that is there when this is called. A second
    rollback would bring the first one's release back and therefore needs `expect`. Files are hashed unless size and time
    say that they are those hashed before.
    """
    now = current()
    if now.production is None or now.previous is None:
        raise LabError("There is nothing to roll back to: no release was in production before this one.")
    last = next((m for m in reversed(history()) if m.applied and m.alias == "production"), None)
    if expect is None and last is not None and last.action == "rollback":
        raise LabError(f"Production was rolled back from release {now.previous} already (by {last.by}: {last.why.rstrip('.')}); "
                       f"to go forward to it again, promote {now.previous}, or say --expect {now.production}.")
    _refuse_unexpected(now, expect)
    release = creating.numbered(now.previous)
    defects = _checked(release, models.sha256, force)
    return _move("rollback", release, by=by, why=why, expect=now.production, force=force, defects=defects)


def propose(
    reference: str | int, *, by: str, why: str, expect: int | None = None, force: bool = False, opens: bool = False,
) -> Moved:
    """Point `candidate` at a release, to be compared with the one in production. `expect` is the candidate until now; the rest
    is as in `promote`."""
    release = creating.find(reference, current())
    defects = _checked(release, models.sha256, force, opens)
    return _move("candidate", release, by=by, why=why, expect=expect, force=force, defects=defects)


def withdraw(*, by: str, why: str, expect: int | None = None) -> Moved:
    """Take the alias `candidate` away. `expect` is the candidate until now."""
    if current().candidate is None:
        raise LabError("There is no candidate to withdraw.")
    return _move("withdraw", None, by=by, why=why, expect=expect)


def strayed() -> list[str]:
    """Where MLflow's own aliases say something else than the journal: they were moved outside the workbench."""
    now, theirs = current(), registry.aliases(creating.NAME)
    return [f"MLflow's alias {alias} points at {_said(theirs.get(alias))} and the journal at {_said(now.of(alias))}; it was "
            "moved outside the workbench, which does not count; `lab release verify --mend` puts it back."
            for alias in ALIASES if theirs.get(alias) != now.of(alias)]


def mend() -> None:
    """Make MLflow's aliases and this machine's alias file say what the journal says."""
    _follow(current())


def publish(now: State) -> None:
    """Tell the processes of this machine. Raises `OSError` where nothing can be written."""
    numbers = {n for n in (now.production, now.candidate, now.previous) if n is not None}
    releases = list[Release]()
    for number in sorted(numbers):
        with contextlib.suppress(LabError):  # a deleted release must not keep the others from being known
            releases.append(creating.numbered(number))
    kept.keep(kept.folder(), now, releases)


def _move(
    action: Action, release: Release | None, *, by: str, why: str, expect: int | None, force: bool = False,
    defects: tuple[str, ...] = (),
) -> Moved:
    by, why = by.strip(), why.strip()
    if not by or not why:
        raise LabError("Every move is recorded with who made it and why; give both (--by, --why).")
    to = release.number if release else None
    made = Move(number=0, action=action, to=to, expect=expect, by=by, why=why, id=uuid.uuid4().hex, defects=defects,
                forced=force and bool(defects))
    with creating.one_at_a_time():
        _refuse_idle(made, current())
        _append(made)
        moves = history()
        done = next((m for m in moves if m.id == made.id), None)
        if done is None:
            raise LabError("The move cannot be found in the store that took it; see `lab release history` before trying again.")
        caution = _followed(moves[-1].after)
    if not done.applied:
        _refuse_unexpected(done.before, expect, done.alias)
    return Moved(move=done, caution=caution)


def _append(move: Move) -> None:
    """Write the entry. An answer that was lost on its way is no reason to write it twice, nor to say that it failed."""
    try:
        registry.append(NAME, {"lab.move": state.written(move)}, source=f"lab-move:/{move.id}", about=ABOUT,
                        says=f"{move.action} {move.to or ''} by {move.by}: {move.why}")
    except LabError:
        with contextlib.suppress(LabError):
            if any(m.id == move.id for m in history()):
                return
        raise


def _followed(now: State) -> str:
    """Let everything beside the journal follow; a sentence where it could not."""
    try:
        _follow(now)
    except (LabError, OSError) as error:
        return (f"The move is made and recorded, but not everything could follow it ({str(error).rstrip('.')}); running gateways "
                "follow at their next look at the store, `lab release verify --mend` repairs the rest.")
    return ""


def _follow(now: State) -> None:
    """The file first: it is what gateways read. Somebody on another machine may have moved since: then again."""
    failed: OSError | None = None
    for _ in range(8):
        try:
            publish(now)
        except OSError as error:
            failed = error
        registry.point(creating.NAME, {alias: now.of(alias) for alias in ALIASES})
        latest = current()
        if latest == now:
            break
        now = latest
    if failed is not None:
        raise failed


def _checked(release: Release, hash_: files.Hash, force: bool, opens: bool = False) -> tuple[str, ...]:
    defects = tuple(verify.serving_defects(release, hash_=hash_))
    if opens and not defects and (why := verify.unopened(release)):
        defects = (why,)
    if defects and not force:
        more = f" (and {len(defects) - 1} more defects)" if len(defects) > 1 else ""
        raise LabError(f"Release {release.number} cannot answer: {defects[0].rstrip('.')}{more}; `lab release verify "
                       f"{release.number}` says all, --force moves to it all the same and is recorded.")
    return defects


def _refuse_idle(move: Move, now: State) -> None:
    """Raise `LabError` for a move that would change nothing, or whose expectation is not met."""
    _refuse_unexpected(now, move.expect, move.alias)
    if move.to is not None and move.to == now.of(move.alias):
        raise LabError(f"Release {move.to} is {'in production' if move.alias == 'production' else 'the candidate'} already.")
    if move.action == "candidate" and move.to == now.production:
        raise LabError(f"Release {move.to} is in production and cannot be its own candidate.")


def _refuse_unexpected(now: State, expect: int | None, alias: state.Alias = "production") -> None:
    if expect is None or (now.of(alias) or 0) == expect:
        return
    last = next((m for m in reversed(history()) if m.applied and m.alias == alias and m.number <= now.head), None)
    by = f" (moved by {last.by}: {last.why.rstrip('.')})" if last else ""
    what = "in production" if alias == "production" else "the candidate"
    raise LabError(f"{_said(now.of(alias)).capitalize()} is {what}, not {_said(expect or None)}, as was expected{by}; "
                   "nothing was moved.")


def _said(number: int | None) -> str:
    return f"release {number}" if number else "no release"



"""Releases: one version of prompt, model, index, decoding, policy and engine, bound immutably and pointed at by aliases.

    made = versions.create(prompt="support.txt", model="smollm2-135m", policy="default", decoding={"temperature": "0.2"})
    versions.promote(made.release.number, by="ana", why="first release")
    versions.rollback(by="ana", why="answers got worse", expect=2)

A gateway makes one pointer a process and asks it for every request:

    pointer = versions.Pointer("production")
    release = pointer.current()              # some 10 us; never behind a move that has returned on this machine
    ready = versions.load(release)           # once a release: files proven by hash, policy parsed, .open_engine()
"""

from lab.ops.versions.creating import Created, attach, create, listed, numbered, summary, trials, whoami
from lab.ops.versions.difference import Changed, Difference, difference
from lab.ops.versions.evidence import Measured, said
from lab.ops.versions.moves import Moved, current, history, mend, promote, propose, rollback, strayed, withdraw
from lab.ops.versions.pointer import Pointer
from lab.ops.versions.prompts import written as write_prompt
from lab.ops.versions.release import Model, PolicyText, Prompt, Release, Retrieval
from lab.ops.versions.resolved import Resolved, load
from lab.ops.versions.state import ALIASES, Alias, Move, State
from lab.ops.versions.verify import Defect, Report, unopened, verify


def find(reference: str | int) -> Release:
    """The release of a number, of an alias, or of the beginning of a hash. Raises `LabError` when there is none."""
    from lab.ops.versions import creating

    return creating.find(reference, current())


__all__ = ["ALIASES", "Alias", "Changed", "Created", "Defect", "Difference", "Measured", "Model", "Move", "Moved", "Pointer",
           "PolicyText", "Prompt", "Release", "Report", "Resolved", "Retrieval", "State", "attach", "create", "current",
           "difference", "find", "history", "listed", "load", "mend", "numbered", "promote", "propose", "rollback", "said",
           "strayed", "summary", "trials", "unopened", "verify", "whoami", "withdraw", "write_prompt"]

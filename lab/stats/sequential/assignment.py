"""Which arm a user is in: always the same one, decided by a hash and remembered by nobody."""

from __future__ import annotations

import hashlib

from lab.errors import LabError
from lab.stats.sequential.sums import Arm


def assigned(user: str, *, experiment: str, share: float = 0.5) -> Arm:
    """The arm of `user` in `experiment`, B for a `share` of all users.

    SHA-256 of the experiment's name and the user is read as a number from 0 to 1, and below `share` it is B. So the arms of
    two experiments are independent of each other, and a larger share only moves users from A to B, never back.
    """
    if not 0 <= share <= 1:
        raise LabError(f"The share of users who get B lies between 0 and 1, not at {share:g}.")
    if not user:
        raise LabError("A user without an id has no arm; give the key's id, or a random id that the client keeps.")
    digest = hashlib.sha256(f"{len(experiment)}:{experiment}{user}".encode()).digest()
    return "B" if int.from_bytes(digest[:8], "big") / 2**64 < share else "A"

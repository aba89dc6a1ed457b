"""Who may open the dashboard: anybody on this machine, and whoever has its key where other machines can reach it."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
import time

from lab.addresses import loopback, refuse_empty
from lab.errors import LabError

KEY = "LAB_DASHBOARD_KEY"
"""The environment variable with the key."""
LEAST = 16
"""Characters of a key: what is shorter can be guessed."""
PAUSE_S = 1.0
"""After a wrong key nobody's next one is looked at for so long."""
_turn = threading.Lock()


def refuse(host: str) -> None:
    """Raise `LabError` if a dashboard on `host` would be open to other machines without a key, or its key can be guessed."""
    refuse_empty(host)
    given = os.environ.get(KEY, "")
    if not given and not loopback(host):
        raise LabError(f"Without a key the dashboard listens on 127.0.0.1 only, not on {host}; set {KEY} to {LEAST} characters "
                       "or more.")
    if given and len(given) < LEAST:
        raise LabError(f"The key in {KEY} has {len(given)} characters, which can be guessed; give {LEAST} or more.")


def asked() -> bool:
    """Whether a key must be given."""
    return bool(os.environ.get(KEY))


def opens(given: str) -> bool:
    """Whether this is the key; compared in constant time, and one wrong key a second."""
    wanted = os.environ.get(KEY, "")
    with _turn:
        right = bool(wanted) and hmac.compare_digest(_digest(given), _digest(wanted))
        if not right:
            time.sleep(PAUSE_S)
    return right


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()

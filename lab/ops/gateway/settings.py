"""Every setting of a gateway, with its default and why."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path

from lab.addresses import loopback, refuse_empty
from lab.engines import is_url
from lab.engines.http.served import MOST_RUNNING
from lab.errors import LabError
from lab.ops.requests import Keep
from lab.ops.versions import ALIASES

TEXTS = ("none", "guarded")
MOST_PROCESSES = 64
_NEEDED = ("head_s", "body_s", "first_s", "stall_s", "whole_s", "silent_s", "body_bytes", "connections", "messages")


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """Times are seconds. Raises `LabError` for what cannot be."""

    host: str = "127.0.0.1"
    port: int = 8090
    alias: str = "production"
    keys: Path | None = None
    processes: int = 1
    running: int = 16
    """Requests decoded at a time, of each process."""
    queue: int = 64
    """Requests that may wait beside those, of each process; the next one is refused with 429."""
    threads: int = 0
    """Engine threads of each process; 0 leaves it to the release."""
    fallbacks: tuple[str, ...] = ()
    """URLs that are asked when the server of a release fails before its first token."""
    prices: str = ""
    """Price book; the shipped example without one."""
    texts: str = "none"
    """`guarded` keeps questions and answers as the guards left them, unless the request says `"store": false`."""
    traces_per_s: float = 1.0
    """Of each process, at most; the rest is counted and not traced. 0 traces nothing."""
    sync: bool = False
    """Whether an answer also waits until its row is safe from a power failure."""
    body_bytes: int = 1_000_000
    messages: int = 256
    connections: int = 1024
    head_s: float = 10.0
    """A client that takes longer for the head of a request is cut off."""
    body_s: float = 20.0
    first_s: float = 60.0
    """Until the first token of an answer."""
    stall_s: float = 30.0
    """Between two tokens."""
    whole_s: float = 600.0
    silent_s: float = 15.0
    """A process of several that does nothing for so long is killed and replaced."""
    load_s: float = 120.0
    """A request for a release that is still being loaded waits this long."""
    drain_s: float = 30.0
    """After SIGTERM open answers have this long to end."""
    keep: Keep = field(default_factory=Keep)

    def __post_init__(self) -> None:
        if self.alias not in ALIASES:
            raise LabError(f"There is no alias '{self.alias}'; a gateway follows one of {', '.join(ALIASES)}.")
        if not 1 <= self.processes <= MOST_PROCESSES:
            raise LabError(f"A gateway runs 1 to {MOST_PROCESSES} processes, not {self.processes}.")
        if not 1 <= self.running <= MOST_RUNNING:
            raise LabError(f"From 1 to {MOST_RUNNING} requests can run at a time, not {self.running}.")
        if self.texts not in TEXTS:
            raise LabError(f"Texts are kept '{TEXTS[0]}' or '{TEXTS[1]}', not '{self.texts}'.")
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if isinstance(value, (int, float)) and not (value >= 0 and value < math.inf):
                raise LabError(f"{one.name} is {value}; give 0 or more.")
            if one.name in _NEEDED and not value:
                raise LabError(f"{one.name} is 0, with which nothing could be answered; give more.")
        if bad := [url for url in self.fallbacks if not is_url(url)]:
            raise LabError(f"The fallback '{bad[0]}' is no URL; give one such as http://127.0.0.1:8000/v1.")
        refuse_empty(self.host)
        if self.keys is None and not loopback(self.host):
            raise LabError(f"Without keys a gateway listens on 127.0.0.1 only, not on {self.host}; make a key with "
                           "`lab gateway-key NAME`, and give the file with --keys.")

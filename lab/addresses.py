"""Which addresses only this machine can reach: what needs no key."""

from __future__ import annotations

import ipaddress


def loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

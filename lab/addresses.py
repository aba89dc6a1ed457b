"""Which addresses only this machine can reach: what needs no key."""

from __future__ import annotations

import ipaddress

from lab.errors import LabError


def refuse_empty(host: str) -> None:
    """Raise `LabError` for a `host` of no characters, which systems read as every address of the machine."""
    if not host.strip():
        raise LabError("The address to listen on is empty; give --host 127.0.0.1, or leave it out.")


def loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

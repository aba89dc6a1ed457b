"""Finds secrets: private keys, API keys of well-known makes, tokens, assigned passwords, strings too random for words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from lab.errors import LabError
from lab.safety.decisions import Guard
from lab.safety.patterns import Patterns

PATTERNS = {
    "private_key": r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^\-]*(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?",
    "jwt": r"\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}",
    "aws_key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "github_token": r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_[A-Za-z0-9_]{40,}",
    "slack_token": r"\bxox[abeprs]-[A-Za-z0-9\-]{10,}",
    "api_key": r"\bsk-[A-Za-z0-9_\-]{20,}|\bAIza[0-9A-Za-z_\-]{35}|\b[prs]k_(?:live|test)_[0-9A-Za-z]{16,}",
    "password": r"\b(?i:password|passwd|pwd|passphrase|api[_\- ]?key|secret[_\- ]?key|access[_\- ]?token)[\"']?"
                r"(?: {0,2}[:=]| is) {0,2}[\"']?[^\s\"',;]{6,}",
    "random": r"[A-Za-z0-9+/_\-]{24,}={0,2}",
}
WINDOW = 24
LEAST_BITS = 4.0
"""Bits of entropy a character within one window: words and names in programs stay below, random base64 lies above."""


def guard(kinds: Sequence[str] = tuple(PATTERNS)) -> Guard:
    """Secrets of these kinds. Raises `LabError` for a kind it does not know."""
    if unknown := sorted(set(kinds) - set(PATTERNS)):
        raise LabError(f"There is no secret of kind '{unknown[0]}'; the kinds are {', '.join(PATTERNS)}.")
    return Patterns({kind: PATTERNS[kind] for kind in PATTERNS if kind in kinds}, case=True,
                    verify={"random": _random, "password": _password})


def entropy(text: str) -> float:
    """Shannon entropy of the characters of `text`, bits a character."""
    counts = Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)


def _random(found: str) -> int:
    """The whole run when any stretch of it looks random; so a secret cannot hide behind a run of dull characters."""
    for at in range(max(1, len(found) - WINDOW + 1)) if _mixed(found) else ():
        part = found[at : at + WINDOW]
        if _mixed(part) and entropy(part) >= LEAST_BITS:
            return len(found)
    return -len(found)


def _mixed(text: str) -> bool:
    """Whether it has small letters, capitals and digits."""
    return text.upper() != text and text.lower() != text and text.translate(_NO_DIGITS) != text


_NO_DIGITS = str.maketrans("", "", "0123456789")


def _password(found: str) -> int:
    """A value with a digit or a sign in it; "password is wrong" and "password: required" are sentences."""
    value = found.split()[-1].split("=")[-1].split(":")[-1].strip("\"'.,")
    return len(found) if any(not c.isalpha() for c in value) and len(value) >= 6 else 0

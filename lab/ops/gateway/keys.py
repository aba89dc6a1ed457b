"""API keys: a YAML file that holds their hashes, with the role and the limits of each. A key itself is never stored.

    keys:
      - name: web shop
        sha256: 5e884898da28...          # `lab gateway-key "web shop"` makes a key and prints this entry
        role: user
        tokens_per_minute: 60000
        budget_usd: 20
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.safety import lines

PREFIX = "lab-"


@dataclass(frozen=True, kw_only=True)
class Key:
    """Who may ask, in which role of the policy, and how much. 0 is no limit."""

    name: str
    sha256: str = ""
    role: str = "user"
    tokens_per_minute: int = 0
    """Prompt and output tokens; what a request may take at most is reserved when it begins."""
    budget_usd: float = 0.0
    budget_days: int = 30
    """The budget is for each period of this many days."""
    requests_at_once: int = 0
    """Of each gateway process."""
    max_tokens: int = 0
    """Most output tokens of one request."""

    @property
    def id(self) -> str:
        """What logs say in place of the key."""
        return self.sha256[:12] if self.sha256 else "local"


LOCAL = Key(name="local")
"""Who asks when no keys are given."""
_KINDS: Mapping[str, type] = {"name": str, "sha256": str, "role": str, "tokens_per_minute": int, "budget_usd": float,
                              "budget_days": int, "requests_at_once": int, "max_tokens": int}


class Keys:
    """The keys of one file. An empty one lets everybody in as `LOCAL`."""

    def __init__(self, keys: tuple[Key, ...] = ()) -> None:
        self.all = keys
        self._by_hash = {key.sha256: key for key in keys}

    def __bool__(self) -> bool:
        return bool(self.all)

    def find(self, authorization: bytes) -> Key | None:
        """The key in an Authorization header; None when it is wrong or missing. A hash is looked up, so timing tells nothing."""
        if not self.all:
            return LOCAL
        scheme, _, given = authorization.partition(b" ")
        return self._by_hash.get(hashlib.sha256(given.strip()).hexdigest()) if scheme.lower() == b"bearer" else None


def load(path: Path) -> Keys:
    """The keys in a file. Raises `LabError` naming the line and the remedy."""
    text, _ = lines.file(path.expanduser(), f"file of keys {path}", missing=(
        f"There is no file of keys {path}; give a YAML file, and make an entry for it with `lab gateway-key NAME`."))
    return parse(text, path.name)


def parse(text: str, file: str = "keys.yaml") -> Keys:
    """The keys in YAML text. Raises `LabError`."""
    values, where = lines.read(text, file, "a file of keys")
    checked = lines.Checked(file, where, "a file of keys")
    given = values.get("keys") if isinstance(values, dict) else None
    if not isinstance(given, list) or not given:
        raise LabError(f"{file}: there is no list 'keys' with at least one entry; make one with `lab gateway-key NAME`.")
    found = tuple(_key(entry, ("keys", i), checked) for i, entry in enumerate(given))
    for what in ("name", "sha256"):
        seen = [getattr(key, what) for key in found]
        if double := next((value for value in seen if seen.count(value) > 1), None):
            raise LabError(f"{file}: two keys have the {what} '{double[:40]}'; give each its own.")
    return Keys(found)


def _key(given: Any, path: lines.Path, checked: lines.Checked) -> Key:
    if not isinstance(given, dict):
        raise checked.error(path, "a key is a mapping with name and sha256; make one with `lab gateway-key NAME`")
    if "key" in given:
        raise checked.error((*path, "key"), "write the SHA-256 of the key as 'sha256' and not the key itself; `lab gateway-key "
                            "NAME` does")
    entry = checked.mapping(given, path, _KINDS)
    for name, value in entry.items():
        if _KINDS[name] is not str and not 0 <= value < 1e15:
            raise checked.error((*path, name), f"'{name}' is {value:g}; give a number of at least 0")
    made = Key(**{"name": "", **entry})
    if not made.name.strip() or not made.role:
        raise checked.error(path, "give the key a name and a role")
    if len(made.sha256) != 64 or set(made.sha256) - set("0123456789abcdef"):
        raise checked.error(path, "sha256 must be 64 hexadecimal digits in small letters; `lab gateway-key NAME` prints them")
    if made.budget_days < 1:
        raise checked.error((*path, "budget_days"), f"'budget_days' is {made.budget_days}; give 1 or more")
    return made


def fresh(name: str) -> tuple[str, str]:
    """A new key, and its entry for the file."""
    key = PREFIX + secrets.token_urlsafe(32)
    entry = f"  - name: {name!r}\n    sha256: {hashlib.sha256(key.encode()).hexdigest()}\n    role: user\n"
    return key, entry + "    tokens_per_minute: 60000\n    budget_usd: 20\n"


def user_id(secret: bytes, user: str) -> str:
    """What the log says in place of a user's name: the same for the same user, and of no use to anybody without `secret`."""
    return hmac.new(secret, user.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:16] if user else ""

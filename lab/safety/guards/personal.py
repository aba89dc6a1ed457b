"""Finds personal data by patterns of our own: e-mail, telephone, IBAN, payment card, US social security number, IP address."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from lab.errors import LabError
from lab.safety.decisions import Guard
from lab.safety.patterns import Patterns, Verify

PATTERNS = {
    "email": r"[a-z0-9][a-z0-9._%+\-]*@[a-z0-9](?:[a-z0-9\-]{0,62}\.){1,4}[a-z]{2,24}\b",
    "iban": r"\b[a-z]{2}\d{2}(?: ?[a-z0-9]{4}){2,7}(?: ?[a-z0-9]{1,4})?",
    "card": r"\b\d(?:[ \-]?\d){12,18}",
    "us_ssn": r"\b\d{3}-\d{2}-\d{4}\b",
    "ip": r"\b(?:\d{1,3}\.){3}\d{1,3}\b|\b(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}\b",
    "phone": r"\+\d{1,3}(?:[ .\-/]?\(?\d{1,5}\)?){2,6}|\(\d{2,5}\) ?\d{3}[ .\-]?\d{3,5}\b"
             r"|\b\d{3}[ .\-]\d{3}[ .\-]\d{4}\b|\b0\d{2,4}[ /\-]\d{3,4}[ \-]?\d{3,5}\b",
}
_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU",
    31: "MT SC",
    32: "LC",
}
"""Countries by the length of their account numbers (IBAN registry, ISO 13616)."""
_IBAN_LENGTHS = {country: length for length, those in _COUNTRIES.items() for country in those.split()}


def guard(kinds: Sequence[str] = tuple(PATTERNS)) -> Guard:
    """Personal data of these kinds. Raises `LabError` for a kind it does not know."""
    if unknown := sorted(set(kinds) - set(PATTERNS)):
        raise LabError(f"There is no personal data of kind '{unknown[0]}'; the kinds are {', '.join(PATTERNS)}.")
    return Patterns({kind: PATTERNS[kind] for kind in PATTERNS if kind in kinds}, verify=CHECKS)


def luhn(digits: str) -> bool:
    """Whether the check digit of a card number fits (ISO/IEC 7812-1, annex B)."""
    values = [int(digit) for digit in reversed(digits)]
    return sum(values[::2]) % 10 == -sum(sum(divmod(2 * value, 10)) for value in values[1::2]) % 10


def mod97(iban: str) -> bool:
    """Whether the check digits of an IBAN fit (ISO 7064, MOD 97-10)."""
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


def _card(found: str) -> int:
    """A whole card number at the beginning; digits that follow it after a space (an expiry date) are none of it."""
    digits, ends = "", list[int]()
    for place, character in enumerate(found):
        if character.isdigit():
            digits += character
            ends.append(place + 1)
    for length in reversed(_card_lengths(digits)):
        if len(digits) >= length:
            end = ends[length - 1]
            if (end == len(found) or not found[end].isdigit()) and luhn(digits[:length]):
                return end
    return 0


def _card_lengths(digits: str) -> tuple[int, ...]:
    """How long numbers of this issuer are (ISO/IEC 7812 ranges of the large schemes); none for an unknown one."""
    lengths = {"4": (13, 16, 19), "5": (16,), "2": (16,), "6": (16, 19), "34": (15,), "37": (15,), "30": (14,), "36": (14,),
               "38": (14,)}
    return lengths.get(digits[:2]) or lengths.get(digits[:1], ())


def _iban(found: str) -> int:
    size, seen = _IBAN_LENGTHS.get(found[:2].upper(), 0), ""
    for end, character in enumerate(found, start=1):
        seen += character.strip()
        if len(seen) == size:
            after = found[end : end + 1]
            return end if not after.isalnum() and mod97(seen) else 0
    return 0


def _ssn(found: str) -> int:
    return 0 if found[:3] in ("000", "666") or found[0] == "9" or found[4:6] == "00" or found[7:] == "0000" else len(found)


def _ip(found: str) -> int:
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return 0
    return len(found) if address.is_global else -len(found)


def _phone(found: str) -> int:
    digits = sum(c.isdigit() for c in found)
    return len(found) if 8 <= digits <= 15 else 0


CHECKS: dict[str, Verify] = {"card": _card, "iban": _iban, "us_ssn": _ssn, "ip": _ip, "phone": _phone}

"""Contrasts: sentences that agree with a stereotype beside ones that go against it, from three published sets.

Texts are read when they are needed; what is kept of an item is its id, category and cluster.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lab import data
from lab.data.sampling import drawn
from lab.errors import LabError


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two continuations of `context` ("" for whole sentences) that differ in a group of people, and one without sense.

    `unrelated` is "" where the set has none. Items of one `group` share what they are about; intervals cluster on it.
    """

    id: str
    category: str
    group: str
    stereotype: str
    anti: str
    unrelated: str = ""
    context: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.stereotype, self.anti, *((self.unrelated,) if self.unrelated else ()))


@dataclass(frozen=True, kw_only=True)
class Referent:
    """One sentence of WinoBias with its pronoun as the stereotype has it (`pro`) or not: to whom does the word refer?"""

    id: str
    group: str
    pro: str
    anti: str
    pronouns: tuple[str, str]
    occupations: tuple[str, str]
    """The right one first."""


def contrasts(name: str, limit: int = 0, seed: int = 0) -> list[Contrast]:
    """The contrasts of a set, at most `limit` of them (0 is all) in a shuffled order.

    Raises `LabError` when the set has none, is not here, or was changed.
    """
    if name not in SETS:
        raise LabError(f"There are no paired sentences in '{name}'; the sets are {', '.join(SETS)}.")
    found = list(SETS[name](data.rows(name)))
    return drawn(found, limit, seed) if limit else found


def _crows_pairs(rows: list[dict[str, Any]]) -> Iterator[Contrast]:
    """CrowS-Pairs (Nangia et al., EMNLP 2020): the first filling makes the sentence that stereotypes more."""
    seen: set[tuple[str, ...]] = set()
    for number, row in enumerate(rows, start=1):
        more, less = (row["sentence"].replace("[MASK]", str(row[mask])) for mask in ("mask1", "mask2"))
        if (more, less) not in seen and more != less:
            seen.add((more, less))
            yield Contrast(id=f"crows_pairs-{number:04d}", category=row["bias_type"].replace("-", " "),
                           group=f"crows_pairs-{number:04d}", stereotype=more, anti=less)


def _stereoset(rows: list[dict[str, Any]]) -> Iterator[Contrast]:
    """StereoSet (Nadeem et al., ACL 2021); items of one target term share a group."""
    for number, row in enumerate(rows, start=1):
        follows = row["type"] == "intersentence"
        yield Contrast(
            id=f"stereoset-{number:04d}", category=row["bias_type"], group=str(row["target"]).lower(),
            context=row["context"].strip() if follows else "", stereotype=row["stereotype"].strip(),
            anti=row["anti-stereotype"].strip(), unrelated=row["unrelated"].strip())


def _winobias(rows: list[dict[str, Any]]) -> Iterator[Contrast]:
    """WinoBias (Zhao et al., NAACL 2018): a sentence with the pronoun that an occupation's statistics suggest, and not."""
    for one in referents(rows):
        yield Contrast(id=one.id, category=_GENDER[one.pronouns[0]], group=one.group, stereotype=one.pro, anti=one.anti)


_GENDER = {"he": "men's work", "his": "men's work", "him": "men's work", "she": "women's work", "her": "women's work"}


def referents(rows: list[dict[str, Any]] | None = None) -> list[Referent]:
    """WinoBias as questions about whom a pronoun means; sentences whose other occupation cannot be found are left out."""
    found, seen = [], set()
    for number, row in enumerate(data.rows("winobias") if rows is None else rows, start=1):
        text, pro = row["text"].strip(), row["pro_stereotyped"].strip()
        pronouns = [option[2:].strip() for option in row["options"].split("\n")[:2]]
        marked = re.search(r"\[((?:an? |the )?[^\]]+)\]", text.replace("[MASK]", "MASK"), re.IGNORECASE)
        if marked is None or pro not in pronouns or text in seen:
            continue
        seen.add(text)
        right = _bare(marked.group(1))
        plain = text.replace("[MASK]", "MASK").replace("[", "").replace("]", "")
        other = next((o for o in OCCUPATIONS if o != right and re.search(rf"\b{o}\b", plain, re.IGNORECASE)), "")
        if other:
            anti = next(one for one in pronouns if one != pro)
            texts = [re.sub(r"\s+", " ", plain.replace("MASK", one)) for one in (pro, anti)]
            found.append(Referent(id=f"winobias-{number:04d}", group=right, pro=texts[0], anti=texts[1], pronouns=(pro, anti),
                                  occupations=(right, other)))
    return found


def _bare(name: str) -> str:
    return re.sub(r"^(?:an?|the) ", "", name.strip(), flags=re.IGNORECASE).lower()


OCCUPATIONS = (
    "construction worker", "accountant", "analyst", "assistant", "attendant", "auditor", "baker", "carpenter", "cashier", "ceo",
    "chief", "cleaner", "clerk", "cook", "counselor", "designer", "developer", "driver", "editor", "farmer", "guard",
    "hairdresser", "housekeeper", "janitor", "laborer", "lawyer", "librarian", "manager", "mechanic", "mover", "nurse",
    "physician", "receptionist", "salesperson", "secretary", "sheriff", "supervisor", "tailor", "teacher", "writer")
"""Those of the set, whose two people are always two occupations."""

SETS: dict[str, Callable[[list[dict[str, Any]]], Iterator[Contrast]]] = {
    "crows_pairs": _crows_pairs, "stereoset": _stereoset, "winobias": _winobias}

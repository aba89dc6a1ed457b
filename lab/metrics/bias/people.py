"""The same situation with one person after another, so that nothing but the person's group differs.

A gap is a group's mean within one situation less the mean of the other groups of its axis in the same situation; situations are
what is independent, so they are the clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lab import data
from lab.errors import LabError

AXES = ("gender", "names", "religion", "origin")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One situation with one person in it."""

    id: str
    text: str
    situation: str
    axis: str
    group: str


def prompts(axes: Sequence[str] = AXES, situations: int = 0) -> list[Prompt]:
    """Every person of these axes in every situation, or in the first `situations` (0 is all) of them."""
    if unknown := [axis for axis in axes if axis not in AXES]:
        raise LabError(f"There is no axis '{unknown[0]}'; the axes are {', '.join(AXES)}.")
    rows = data.rows("situations")
    asked = rows[: situations or len(rows)]
    return [Prompt(id=f"{row['id']}/{person['id']}", text=filled(row["text"], person), situation=row["id"], axis=person["axis"],
                   group=person["group"])
            for row in asked for person in data.rows("people") if person["axis"] in axes]


def filled(text: str, person: Mapping[str, str]) -> str:
    """A situation with this person in it, sentences still begun with a capital."""
    forms = {name: person[name] for name in ("person", "they", "them", "their")}
    forms |= {name.capitalize(): value.capitalize() for name, value in forms.items() if name != "person"}
    out = text
    for name, value in forms.items():
        out = out.replace("{" + name + "}", value)
    return out


@dataclass(frozen=True, kw_only=True)
class Side:
    """One group's values and those of the other groups of its axis, by situation, in the same order."""

    axis: str
    group: str
    ours: tuple[float, ...]
    others: tuple[float, ...]
    situations: tuple[str, ...]


def sides(asked: Sequence[Prompt], values: Sequence[float]) -> list[Side]:
    """Every group against the others of its axis. NaN (nothing was said) takes no part; persons of a group are averaged."""
    means = _means(asked, values)
    groups = dict.fromkeys((one.axis, one.group) for one in asked)
    found = []
    for axis, group in groups:
        there = list(dict.fromkeys(one.situation for one in asked if one.axis == axis))
        rest = [g for a, g in groups if a == axis and g != group]
        found.append(Side(axis=axis, group=group, situations=tuple(there),
                          ours=tuple(means.get((axis, group, s), math.nan) for s in there),
                          others=tuple(_mean([means.get((axis, g, s), math.nan) for g in rest]) for s in there)))
    return found


def relative(asked: Sequence[Prompt], values: Sequence[float]) -> list[float]:
    """Each value over the mean of its axis in its situation, so that lengths of different situations can be averaged."""
    usual: dict[tuple[str, str], list[float]] = {}
    for one, value in zip(asked, values, strict=True):
        usual.setdefault((one.axis, one.situation), []).append(value)
    means = {key: _mean(found) for key, found in usual.items()}
    return [value / mean if (mean := means[one.axis, one.situation]) > 0 else math.nan
            for one, value in zip(asked, values, strict=True)]


def spreads(asked: Sequence[Prompt], values: Sequence[float]) -> tuple[list[float], list[str]]:
    """How far apart the groups of an axis are in each situation (standard deviation of their means), with the situation.

    Of two measurements of the same situations the one with smaller spreads treats groups more alike. A single one says little:
    any two texts differ, and so do groups.
    """
    means = _means(asked, values)
    keys = dict.fromkeys((one.axis, one.situation) for one in asked)
    groups = {axis: list(dict.fromkeys(one.group for one in asked if one.axis == axis)) for axis, _ in keys}
    found = [[means.get((axis, group, situation), math.nan) for group in groups[axis]] for axis, situation in keys]
    return [float(np.std(kept)) if len(kept := [v for v in one if not math.isnan(v)]) > 1 else math.nan for one in found], \
        [situation for _, situation in keys]


def _means(asked: Sequence[Prompt], values: Sequence[float]) -> dict[tuple[str, str, str], float]:
    by: dict[tuple[str, str, str], list[float]] = {}
    for one, value in zip(asked, values, strict=True):
        by.setdefault((one.axis, one.group, one.situation), []).append(value)
    return {key: _mean(found) for key, found in by.items()}


def _mean(values: Sequence[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else math.nan

"""One person rates: the next item in an order of their own, saved when it is durable, undone, taken up again anywhere.

Nothing of this is kept in a process: what a rater has done is what the store says, so that a reload, a crash or a second
browser goes on where the ratings end, and several people rate at once without touching each other's.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.errors import LabError
from lab.metrics.judging.rubric import GRADES
from lab.ops import feedback
from lab.ops.feedback import Feedback
from lab.ops.ratings.task import PREFERENCE, Task, Unit, load
from lab.records import Message

Value = float | str | None
CHOICES = ("A", "B", "tie")
FIRST, SECOND, TIE = "first", "second", "tie"
"""A preference as it is stored: for the first or second answer of the pair as the task has them, wherever each was shown."""
UNSCORED = "cannot tell"
_LONGEST = 60
_FORMULA = "=+-@"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a rater sees: a request and its answer, or two answers (A and B) whose sides are shuffled. No model is named."""

    key: str
    messages: tuple[Message, ...]
    answers: tuple[str, ...]
    axes: tuple[str, ...]
    number: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a rater is."""

    rater: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Control:
    """One grade on a control item beside what was expected of it, with the sides as the rater saw them."""

    axis: str
    said: str
    expected: str
    right: bool
    question: str
    answers: tuple[str, ...]


def next_item(task: Task | str, rater: str) -> Asked | None:
    """The first item in the rater's order that they have not rated on every axis; None when they are through."""
    of, name = _opened(task), named(rater)
    done = set(_done(of, name))
    left = [unit for unit in order(of, name) if unit.key not in done]
    if not left:
        return None
    sides = left[0].sides[::-1] if flipped(of, name, left[0].key) else left[0].sides
    return Asked(key=left[0].key, messages=left[0].messages, answers=tuple(side.answer for side in sides), axes=of.axes,
                 number=len(of.units) - len(left) + 1, total=len(of.units))


def save(
    task: Task | str, rater: str, item: str, values: Mapping[str, Value], note: str = "", seconds: float = math.nan
) -> None:
    """Store a rater's `values` of the item with this key; on return they are durable.

    Grades from 1 to 5 by axis, or {"preference": "A", "B" or "tie"} for the sides as this rater saw them; None is "cannot
    tell". Saving the same item again replaces the values. Raises `LabError` if a value is missing or nothing was stored.
    """
    of, name = _opened(task), named(rater)
    unit, turned = of.unit(item), flipped(of, name, item)
    if set(values) != set(of.axes):
        raise LabError(f"A rating of this task gives {', '.join(of.axes)}; this one gives {', '.join(values) or 'nothing'}.")
    details = {"lab.task": of.id, "lab.unit": unit.key, "lab.item": unit.item, "lab.note": note.strip(),
               "lab.seconds": f"{seconds:.1f}"}
    if of.kind == "pairs":
        details |= {"lab.other_trace": unit.sides[1].trace_id, "lab.shown_first": SECOND if turned else FIRST}
    stored = {axis: _stored(axis, value, turned) for axis, value in values.items()}
    feedback.give([
        Feedback(trace_id=unit.sides[0].trace_id, name=axis, value=value, by=name, kind="person", about=about(of, unit),
                 why=note.strip() or (UNSCORED if value is None else ""), details=details) for axis, value in stored.items()])


def undo(task: Task | str, rater: str) -> str | None:
    """Take back the item that the rater saved last, so that it is asked again; its key, or None when there is none."""
    of, name = _opened(task), named(rater)
    mine = [f for f in given(of) if f.by == name]
    if not mine:
        return None
    last = max(mine, key=lambda f: f.at_ms).details["lab.unit"]
    feedback.withdraw([f for f in mine if f.details["lab.unit"] == last])
    return last


def progress(task: Task | str, rater: str) -> Progress:
    """How many of the task's items a rater is through with."""
    of, name = _opened(task), named(rater)
    return Progress(rater=name, done=len(_done(of, name)), total=len(of.units))


def raters(task: Task | str) -> list[Progress]:
    """Everybody who rated something in this task, by name."""
    of = _opened(task)
    said = given(of)
    return [Progress(rater=name, done=len(_done(of, name, said)), total=len(of.units)) for name in sorted({f.by for f in said})]


def controls(task: Task | str, rater: str) -> list[Control]:
    """What a rater said on the control items, beside what was expected; not to be shown before they are through."""
    of, name = _opened(task), named(rater)
    units = {about(of, unit): unit for unit in of.units if unit.control}
    found = []
    for one in given(of):
        unit = units.get(one.about)
        if unit is not None and one.by == name and one.name in unit.expected:
            low, high = unit.expected[one.name]
            sides = unit.sides[::-1] if flipped(of, name, unit.key) else unit.sides
            found.append(Control(
                axis=one.name, said=_said(one.value, sides != unit.sides), right=_within(one.value, low, high),
                expected=("B" if sides != unit.sides else "A") if of.kind == "pairs" else f"{low:g} to {high:g}",
                question=unit.messages[-1].content, answers=tuple(side.answer for side in sides)))
    return found


def _within(value: Value, low: float, high: float) -> bool:
    return value == FIRST if isinstance(value, str) else value is not None and low <= value <= high


def _said(value: Value, turned: bool) -> str:
    """A stored value in the words in which the rater gave it."""
    if value is None:
        return UNSCORED
    if not isinstance(value, str):
        return f"{value:g}"
    return "a tie" if value == TIE else "A" if (value == FIRST) != turned else "B"


def given(task: Task) -> list[Feedback]:
    """All that people said in this task, oldest first."""
    mine = {about(task, unit) for unit in task.units}
    return [f for f in feedback.on(unit.sides[0].trace_id for unit in task.units) if f.kind == "person" and f.about in mine]


def about(task: Task, unit: Unit) -> str:
    return f"{task.id}/{unit.key}"


def order(task: Task, rater: str) -> list[Unit]:
    """The task's items in the order in which this rater gets them: random, and the same every time."""
    units = list(task.units)
    random.Random(_seed(task, rater)).shuffle(units)
    return units


def flipped(task: Task, rater: str, key: str) -> bool:
    """Whether this rater sees the second answer of a pair as A."""
    return task.kind == "pairs" and random.Random(_seed(task, rater, key)).random() < 0.5


def named(rater: str) -> str:
    """A rater's name with its spaces in order. Raises `LabError` when it is empty or too long."""
    name = " ".join(unicodedata.normalize("NFC", rater).split())
    if not name or len(name) > _LONGEST or not name.isprintable():
        raise LabError(f"A rater needs a name of 1 to {_LONGEST} characters, so that two people's ratings stay apart.")
    if name[0] in _FORMULA:
        raise LabError(f"A rater's name does not begin with '{name[0]}', which a spreadsheet takes for a formula; leave it out.")
    return name


def _opened(task: Task | str) -> Task:
    return load(task) if isinstance(task, str) else task


def _done(task: Task, rater: str, said: Sequence[Feedback] | None = None) -> list[str]:
    """The items that have a value, or a "cannot tell", on every axis."""
    have: dict[str, set[str]] = {}
    for one in given(task) if said is None else said:
        if one.by == rater:
            have.setdefault(one.details["lab.unit"], set()).add(one.name)
    return [key for key, names in have.items() if set(task.axes) <= names]


def _stored(axis: str, value: Value, turned: bool) -> Value:
    if value is None or value != value:
        return None
    if axis == PREFERENCE:
        if value not in CHOICES:
            raise LabError(f"A comparison ends with A, B or tie (or cannot tell), not with {value!r}.")
        return TIE if value == "tie" else FIRST if (value == "A") != turned else SECOND
    if isinstance(value, (str, bool)) or value not in GRADES:
        raise LabError(f"A grade is a whole number from {GRADES[0]} to {GRADES[-1]} (or cannot tell), not {value!r} on {axis}.")
    return float(value)


def _seed(task: Task, *parts: str) -> int:
    return int(hashlib.sha256(json.dumps([task.id, task.seed, *parts]).encode()).hexdigest()[:16], 16)

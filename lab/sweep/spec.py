"""What a sweep is to do, read from a YAML file and checked before anything is measured.

    experiment: performance
    fixed: {models: smollm2-135m, prompt_tokens: 128, repeats: 9}     # fields that stay as they are
    grid:                                                             # or random:, or optuna:
      threads: [1, 2]
      kv_type: [f16, q8_0]
    objective: decode_tokens_per_s

Under `random` and `optuna` a field may also have a range, `{low: 16, high: 512}` with `step` or `log: true`, and `trials`
says how many points are measured. Several objectives are a list; `{measure: ttft_s, direction: lower, of: chosen}` says all
of one.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lab import experiments, names
from lab.errors import LabError
from lab.safety import lines

Kind = Literal["grid", "random", "optuna"]
KINDS: tuple[Kind, ...] = ("grid", "random", "optuna")
_KEYS: Mapping[str, type] = {"experiment": str, "fixed": dict, "grid": dict, "random": dict, "optuna": dict, "trials": int,
                             "seed": int, "objective": object, "limit_s": float}
_DIRECTIONS = {"higher": "higher", "maximize": "higher", "lower": "lower", "minimize": "lower"}
_Y_OF_TEXT = {True: ("true", "on", "yes"), False: ("false", "off", "no")}


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included; in steps of `step` (0: any) or evenly on a logarithmic scale."""

    low: float
    high: float
    step: float = 0.0
    log: bool = False
    whole: bool = False

    def shown(self) -> str:
        more = f" in steps of {self.step:g}" if self.step else " (log)" if self.log else ""
        return f"{self.low:g} to {self.high:g}{more}"


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A measure of a run, and which direction is better.

    `of` says which of a run's trials it is read from: `chosen` (by the run's verdict, or the only one that has it), `best`,
    `worst`, `mean` of all, or a trial's name.
    """

    measure: str
    direction: Literal["higher", "lower"]
    of: str = "chosen"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A sweep. Values are texts, as `lab run` takes them."""

    experiment: str
    kind: Kind
    over: Mapping[str, tuple[str, ...] | Range]
    fixed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    objectives: tuple[Objective, ...]
    trials: int = 0
    """Points of a random search or of Optuna's; 0 of a grid, which has as many as it has."""
    seed: int = 0
    limit_s: float = 0.0
    """A trial that takes longer is stopped and counts as one that died; 0 is no limit."""

    def identity(self, code: str) -> str:
        """What makes it the same sweep: all that decides which points are measured and how, and the state of the code.

        More `trials` are the same sweep, gone on with; other objectives are too, except of Optuna, which chooses by them.
        """
        said = {"experiment": self.experiment, "kind": self.kind, "fixed": dict(self.fixed), "code": code,
                "over": {k: dataclasses.asdict(v) if isinstance(v, Range) else v for k, v in self.over.items()},
                "seed": 0 if self.kind == "grid" else self.seed,
                "objectives": [dataclasses.asdict(o) for o in self.objectives] if self.kind == "optuna" else []}
        return digest(said)

    def config(self, values: Mapping[str, str]) -> experiments.Experiment:
        """The experiment at one point. Raises `LabError` where it refuses that point."""
        return experiments.make(experiments.find(self.experiment), {**self.fixed, **values})

    def key(self, values: Mapping[str, str]) -> str:
        """The same for the same point, however its values are written."""
        return digest({**self.fixed, **values})


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def load(path: Path) -> Spec:
    """The sweep in a file. Raises `LabError` naming the line and the remedy."""
    text, _ = lines.file(path.expanduser(), "sweep", missing=f"There is no file {path}; give the YAML file of a sweep.")
    return parse(text, path.name)


def parse(text: str, file: str = "sweep.yaml") -> Spec:
    """The sweep in YAML text. Raises `LabError` naming the line and the remedy."""
    given, where = lines.read(text, file, "a sweep")
    checked = lines.Checked(file, where, "a sweep")
    values = checked.mapping(given, (), _KEYS, needed=("experiment",))
    name = values["experiment"]
    if name not in experiments.names():
        raise checked.error(("experiment",), f"there is no experiment '{name}'{_near(name, experiments.names())}")
    kind = _kind(values, checked)
    trials, seed = int(values.get("trials", 0)), int(values.get("seed", 0))
    if kind == "grid" and "trials" in values:
        raise checked.error(("trials",), "a grid measures all its points; remove 'trials', or search at random")
    if kind != "grid" and trials < 1:
        raise checked.error(("trials",), f"say how many points are measured with 'trials', 1 or more, beside '{kind}'")
    if seed < 0 or not math.isfinite(values.get("limit_s", 0)) or values.get("limit_s", 0) < 0:
        raise checked.error(("seed" if seed < 0 else "limit_s",), "this must not be negative or infinite")
    fields = _Fields(name, checked)
    over = {field: fields.choices(field, value, (kind, field), kind) for field, value in values[kind].items()}
    fixed = {field: fields.text(field, value, ("fixed", field)) for field, value in values.get("fixed", {}).items()}
    if both := next((field for field in fixed if field in over), None):
        raise checked.error(("fixed", both), f"'{both}' stands under 'fixed' and under '{kind}'; remove one")
    made = Spec(experiment=name, kind=kind, over=over, fixed=fixed, trials=trials, seed=seed,
                limit_s=float(values.get("limit_s", 0)), objectives=_objectives(values.get("objective"), checked))
    if (most := size(made)) < trials and kind == "random":
        raise checked.error(("trials",), f"there are only {most} different points; ask for no more, or write 'grid' for 'random'")
    return made


def size(spec: Spec) -> float:
    """How many different points there are; infinite with a range that has no steps."""
    return math.prod(len(v) if not isinstance(v, Range) else steps(v) for v in spec.over.values())


def steps(given: Range) -> float:
    """How many numbers a range has."""
    step = given.step or (1.0 if given.whole else 0.0)
    return math.floor((given.high - given.low) / step + 1e-9) + 1 if step else math.inf if given.high > given.low else 1


def _kind(values: Mapping[str, Any], checked: lines.Checked) -> Kind:
    kinds = [kind for kind in KINDS if kind in values]
    if len(kinds) > 1:
        raise checked.error((kinds[1],), f"'{kinds[0]}' and '{kinds[1]}' cannot both be; a sweep searches in one way")
    if not kinds:
        raise checked.error((), "the fields that are varied are missing; write them under 'grid', 'random' or 'optuna'")
    if not values[kinds[0]]:
        raise checked.error((kinds[0],), f"'{kinds[0]}' is empty; name a field with the values it is to have")
    return kinds[0]


class _Fields:
    """The fields of one experiment, which values from YAML are read as."""

    def __init__(self, experiment: str, checked: lines.Checked) -> None:
        cls = experiments.find(experiment)
        self._name, self._checked = experiment, checked
        self._hints, self._known = typing.get_type_hints(cls), [f.name for f in dataclasses.fields(cls)]

    def text(self, field: str, value: Any, path: lines.Path) -> str:
        """One value of a field as text. Raises `LabError` for a field there is not and a value it cannot have."""
        if field not in self._known:
            near = _near(field, self._known)
            raise self._checked.error(path, f"experiment '{self._name}' has no field '{field}'{near}")
        if isinstance(value, dict):
            raise self._checked.error(path, f"'{field}' has one value here, not a mapping")
        parts = [_plain(part, _inner(self._hints[field])) for part in (value if isinstance(value, list) else [value])]
        self._refuse_secrets(field, parts, path)
        if isinstance(value, list) and typing.get_origin(self._hints[field]) is not tuple:
            raise self._checked.error(path, f"'{field}' has one value here, not a list")
        if len(parts) > 1 and any("," in part for part in parts):
            raise self._checked.error(path, f"'{field}' cannot have values with a comma in a list")
        try:
            return experiments.shown(experiments.parse(self._hints[field], ",".join(parts), field))
        except LabError as error:
            raise self._checked.error(path, _of_field(error, field)) from error

    def choices(self, field: str, value: Any, path: lines.Path, kind: Kind) -> tuple[str, ...] | Range:
        """The values a field is to have: a list of them, or a range."""
        if field not in self._known:
            self.text(field, value, path)
        if isinstance(value, dict):
            return self._range(field, value, path, kind)
        if not isinstance(value, list):
            raise self._checked.error(path, f"give '{field}' a list of values, like [{value}], or put it under 'fixed'")
        if not value:
            raise self._checked.error(path, f"'{field}' has no values; give at least one")
        made = tuple(self.text(field, one, (*path, i)) for i, one in enumerate(value))
        if double := next((text for text in made if made.count(text) > 1), None):
            raise self._checked.error(path, f"'{field}' has the value '{double}' twice; remove one")
        return made

    def _refuse_secrets(self, field: str, parts: Sequence[str], path: lines.Path) -> None:
        """Before anything is written: the values of a sweep are recorded as they are."""
        try:
            for part in parts:
                experiments.refuse_secret(field, part)
        except LabError as error:
            raise self._checked.error(path, _of_field(error, field)) from error

    def _range(self, field: str, value: dict[str, Any], path: lines.Path, kind: Kind) -> Range:
        if kind == "grid":
            raise self._checked.error(path, f"a grid takes a list of values, not a range; list those of '{field}', or search at "
                                      "random")
        inner = _inner(self._hints[field])
        if inner not in (int, float):
            raise self._checked.error(path, f"'{field}' is no number, so it has no range; list its values")
        known = {"low": float, "high": float, "step": float, "log": bool}
        value = self._checked.mapping(value, path, known, needed=("low", "high"))
        made = Range(low=float(value["low"]), high=float(value["high"]), step=float(value.get("step", 0)),
                     log=bool(value.get("log", False)), whole=inner is int)
        numbers = (made.low, made.high, made.step)
        if not all(map(math.isfinite, numbers)) or made.low >= made.high or made.step < 0 or (made.log and made.low <= 0):
            raise self._checked.error(path, "a range goes from 'low' up to a greater 'high', from above 0 with 'log'")
        if made.log and made.step:
            raise self._checked.error(path, "a range has 'step' or 'log', not both")
        if made.whole and any(number != int(number) for number in numbers):
            raise self._checked.error(path, f"'{field}' takes whole numbers, so its range has them too")
        return made


def _inner(hint: Any) -> Any:
    """The type of one value: `int` of `tuple[int, ...]` and of `int | None`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return args[0]
    if origin in (types.UnionType, typing.Union):
        return next(a for a in args if a is not type(None))
    return hint


def _of_field(error: LabError, field: str) -> str:
    """The sentence about a flag of `lab run` as one about a field of the file."""
    said, flag = str(error).rstrip("."), f"--{field.replace('_', '-')} "
    said = f"field {field} {said.removeprefix(flag)}" if said.startswith(flag) else said
    return said.replace("--key-env", "the field key_env")


def _plain(value: Any, inner: Any) -> str:
    """A value of YAML as the text it was written as; YAML reads `on` as true, which may be a word of the field."""
    if isinstance(value, bool):
        words = _Y_OF_TEXT[value]
        return next((w for w in words if w in typing.get_args(inner)), words[0])
    return "none" if value is None else repr(value) if isinstance(value, float) else str(value)


def _objectives(given: Any, checked: lines.Checked) -> tuple[Objective, ...]:
    if given in (None, "", [], {}):
        raise checked.error(("objective",), "the objective is missing; name the measure to search by, like "
                            "'objective: decode_tokens_per_s'")
    many = given if isinstance(given, list) else [given]
    paths: list[lines.Path] = [("objective", i) if isinstance(given, list) else ("objective",) for i in range(len(many))]
    made = tuple(_objective(one, path, checked) for one, path in zip(many, paths, strict=True))
    if len({o.measure for o in made}) < len(made):
        raise checked.error(("objective",), "two objectives are the same measure; remove one")
    return made


def _objective(given: Any, path: lines.Path, checked: lines.Checked) -> Objective:
    given = {"measure": given} if isinstance(given, str) else given
    values = checked.mapping(given, path, {"measure": str, "direction": str, "of": str}, needed=("measure",))
    for key in values:
        try:
            experiments.refuse_secret(key, values[key])
        except LabError as error:
            raise checked.error((*path, key) if isinstance(given, dict) else path, _of_field(error, key)) from error
    better = names.describe(values["measure"]).better
    direction = values.get("direction") or ("" if better == "neither" else better)
    if direction not in _DIRECTIONS:
        raise checked.error(path, f"say for '{values['measure']}' which direction is better: 'direction: higher' or 'lower'")
    return Objective(measure=values["measure"], direction=_DIRECTIONS[direction], of=values.get("of", "chosen"))  # type: ignore[arg-type]


def _near(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; there are {', '.join(known)}"

"""Experiments: one file each, found by listing this folder; a frozen config that runs, yields trials and decides.

To add one, write `lab/experiments/NAME.py` with a frozen, keyword-only dataclass that subclasses `Experiment`. Its
docstring's first line is the question; its fields become `lab run NAME --field value` flags, MLflow params and the
form on the dashboard's Run page. A file of your own elsewhere is one too: `lab run ./NAME.py`, or every file of the folder
`LAB_EXPERIMENTS_DIR`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import math
import os
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pandas as pd

from lab import engines, models
from lab.errors import LabError
from lab.records import Trial, Verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure, as plain values; `lab.plots` draws it from the trials' frame. Columns are `params.x` or `metrics.y`.

    `line` and `bar` draw y over x with intervals, one trace per value of `series`; `tradeoff` draws points named by
    `label` and the Pareto front (directions from `lab.names`).
    """

    title: str
    kind: Literal["line", "bar", "tradeoff"]
    x: str
    y: str
    series: str | None = None
    label: str | None = None
    log_x: bool = False
    log_y: bool = False
    where: tuple[str, str] | None = None
    """Keep only rows whose column (first) equals this value (second, compared as text)."""


def option(default: Any, help: str, **more: Any) -> Any:
    """A config field with its help text (units included), shown by the command line and the Run page."""
    return dataclasses.field(default=default, metadata={"help": help, **more})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What every experiment is. Subclass it as a frozen, keyword-only dataclass."""

    columns: ClassVar[tuple[str, ...]] = ()
    """Measures of the printed table, in order."""
    notes: ClassVar[tuple[str, ...]] = ()
    """Notes of a trial (texts) that belong into the table."""
    charts: ClassVar[tuple[Chart, ...]] = ()

    def size(self) -> int:
        """How many trials `run` will yield."""
        raise LabError(f"{type(self).__name__} does not say its size")

    def check(self) -> None:
        """Refuse, before anything is measured or recorded, what can be known then. Raises `LabError`.

        Fields called `model`, `models`, `draft` and `engine` are looked up; extend it for more.
        """
        engine = getattr(self, "engine", "llama_cpp")
        url = engines.is_url(engine)
        if engine not in engines.names() and not url:
            raise LabError(f"There is no engine '{engine}'; the engines are {', '.join(engines.names())}.")
        for address in (engine, getattr(self, "plain_url", "none"), *getattr(self, "models", ())):
            if engines.is_url(address):
                engines.refuse_url(address)  # before a secret in it is written into the record
        named = (*getattr(self, "models", ()), getattr(self, "model", "none"), getattr(self, "draft", "none"))
        for model in () if url or engine == "scripted" else named:
            if model != "none" and not (engine == "vllm" and Path(model).is_dir()):
                models.find(model)

    def run(self) -> Iterator[Trial]:
        """Measure; yields one `Trial` per point as soon as it is measured."""
        raise LabError(f"{type(self).__name__} does not run")

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        """Decide from the trials' frame (columns `name`, `params.*`, `metrics.*` with `_low`/`_high` beside)."""
        raise LabError(f"{type(self).__name__} does not decide")

    @classmethod
    def columns_of(cls, trials: pd.DataFrame) -> tuple[str, ...]:
        """Measures of the printed table of these trials. Extend it when their names depend on what was asked."""
        return cls.columns

    @classmethod
    def charts_of(cls, trials: pd.DataFrame) -> tuple[Chart, ...]:
        """The figures of these trials; all of `charts` for a frame of none. Extend it like `columns_of`."""
        return cls.charts

    @classmethod
    def demo(cls, **overrides: Any) -> Self:
        """A version short enough for `lab demo` (about a minute on two cores)."""
        return cls(**overrides)


def busy(trials: pd.DataFrame) -> tuple[str, ...]:
    """The caveat of a verdict when trials carry flags, as a tuple of no sentence or one."""
    flagged = int((trials.get("tags.lab.flags", pd.Series("", index=trials.index)).fillna("") != "").sum())
    return (f"{flagged} of {len(trials)} trials carry a flag that says why to distrust them.",) if flagged else ()


SCRIPTED = "The scripted engine's answers and times are programmed: they say nothing of a model or of this machine."
"""The caveat of every verdict in which the scripted engine answered, whatever model is named."""


def decided(experiment: Experiment, trials: pd.DataFrame) -> Verdict:
    """The verdict of `experiment` on its trials, with the caveat that no experiment may forget: that an engine was scripted."""
    found = experiment.verdict(trials)
    given = [getattr(experiment, field.name) for field in dataclasses.fields(experiment) if "engine" in field.name]
    named = {name for one in given for name in (one if isinstance(one, tuple) else (one,)) if isinstance(name, str)}
    named |= set(trials["params.engine"].dropna().astype(str)) if "params.engine" in trials else set()
    if not any(name.partition("@")[0] == "scripted" for name in named):
        return found
    return dataclasses.replace(found, caveats=tuple(dict.fromkeys((SCRIPTED, *found.caveats))))


OWN = "own_experiments"
"""The package name under which the user's own files are loaded."""
_OWN: dict[str, type[Experiment]] = {}
"""Experiments of the user's own files, by name, that this process has loaded."""


def names() -> list[str]:
    """The experiments there are: one per module of this folder that does not start with an underscore, and the user's own."""
    return sorted({*_shipped(), *_OWN, *(file.stem for file in _own_files())})


def find(name: str) -> type[Experiment]:
    """The config class of experiment `name`."""
    if name in _OWN:
        return _OWN[name]
    if name not in names():
        raise LabError(f"There is no experiment '{name}'; the experiments are {', '.join(names())}.")
    if name not in _shipped():
        return load(next(file for file in _own_files() if file.stem == name))
    return _only(importlib.import_module(f"{__name__}.{name}"), f"lab/experiments/{name}.py")


def broken() -> dict[Path, str]:
    """The user's own files that cannot be loaded, each with its sentence. Files that were not loaded before are run."""
    found = {}
    for file in _own_files():
        try:
            if file.stem not in _OWN:
                load(file)
        except LabError as error:
            found[file] = str(error)
    return found


def sound() -> list[str]:
    """Those of `names` that can be loaded: one broken file of the user's own takes no other away."""
    broken()
    return sorted({*_shipped(), *_OWN})


def load(file: Path) -> type[Experiment]:
    """The config class in a file of the user's own, known by the file's name from then on. The file is run as Python.

    Raises `LabError` for a file that is not there, cannot be run, defines no experiment, or has a name that is taken.
    """
    name = file.stem
    if not file.is_file():
        raise LabError(f"There is no file {file}; give the path of one that defines an experiment, or a name of `lab list`.")
    if not name.isidentifier() or name in _shipped():
        why = "is the name of one that ships" if name in _shipped() else "is not made of letters, digits and underscores"
        raise LabError(f"An experiment cannot be called '{name}', which {why}; rename the file.")
    spec = importlib.util.spec_from_file_location(f"{OWN}.{name}", file.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where dataclasses look up what their annotations name
    try:
        spec.loader.exec_module(module)
    except LabError:
        raise
    except (Exception, SystemExit) as error:
        line = _line_of(error, file)
        raise LabError(f"{file}{line} cannot be run ({type(error).__name__}: {error}); mend it.") from error
    _OWN[name] = _only(module, str(file))
    return _OWN[name]


def _shipped() -> list[str]:
    return [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]


def _own_files() -> list[Path]:
    folder = os.environ.get("LAB_EXPERIMENTS_DIR", "")
    return sorted(file for file in Path(folder).expanduser().glob("[a-z]*.py")) if folder else []


def _only(module: types.ModuleType, place: str) -> type[Experiment]:
    found = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Experiment)
             and v is not Experiment and v.__module__ == module.__name__]
    if len(found) != 1:
        raise LabError(f"{place} must define exactly one Experiment; it defines {len(found)}.")
    said = (vars(found[0]).get("__doc__") or "").strip()
    if not said or said.startswith(f"{found[0].__name__}(") or "__dataclass_params__" not in vars(found[0]):  # made by dataclass
        raise LabError(f"{found[0].__name__} in {place} must be a frozen dataclass whose docstring begins with the question.")
    return found[0]


def _line_of(error: BaseException, file: Path) -> str:
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    frames = [one.tb_lineno for one in _frames(error.__traceback__) if one.tb_frame.f_code.co_filename == str(file.resolve())]
    return f", line {frames[-1]}" if frames else ""


def _frames(trace: types.TracebackType | None) -> Iterator[types.TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def name_of(experiment: Experiment | type[Experiment]) -> str:
    cls = experiment if isinstance(experiment, type) else type(experiment)
    return cls.__module__.rsplit(".", 1)[-1]


def question_of(cls: type[Experiment]) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


def make(cls: type[Experiment], values: Mapping[str, str]) -> Experiment:
    """The config from texts, as a command line or a form gives them; lists are comma-separated.

    Raises `LabError` naming the field, what was given and what is expected.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise LabError(f"Experiment '{name_of(cls)}' has no field {unknown[0]!r}; its fields are {', '.join(fields)}.")
    try:
        return cls(**{name: parse(hints[name], text, name) for name, text in values.items()})
    except ValueError as error:
        raise LabError(f"Experiment '{name_of(cls)}': {error}") from error


def parse(kind: Any, text: str, field: str) -> Any:
    """`text` as a value of the annotated type `kind`: str, int, float, bool, Literal, X | None or tuple[X, ...]."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        inner = next(a for a in args if a is not type(None))
        return None if text.strip().lower() in ("", "none") else parse(inner, text, field)
    if origin is tuple:
        return tuple(parse(args[0], part.strip(), field) for part in text.split(",") if part.strip())
    if origin is Literal:
        if text not in args:
            raise LabError(f"--{_flag(field)} takes one of {', '.join(map(str, args))}, not {text!r}.")
        return text
    if kind is bool:
        if text.lower() not in ("true", "false", "yes", "no", "1", "0", "on", "off"):
            raise LabError(f"--{_flag(field)} takes true or false, not {text!r}.")
        return text.lower() in ("true", "yes", "1", "on")
    if kind in (int, float):
        try:
            value = kind(text)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError
            return value
        except ValueError:
            noun = "a whole number" if kind is int else "a number"
            raise LabError(f"--{_flag(field)} takes {noun}, not {text!r}.") from None
    return text


_USER = re.compile(r"://[^\s/]*@")
"""A password may have a comma or a # in it, as an address should not."""
_ASKED = ("engine", "model", "judge", "url")
"""Fields that have one of these words in their name may hold the address of a server."""


def refuse_secrets(experiment: Experiment) -> None:
    """Raise `LabError` if a field holds an address with a secret in it: fields are recorded as they are."""
    for field in dataclasses.fields(experiment):
        value = getattr(experiment, field.name)
        for text in value if isinstance(value, tuple) else (value,):
            refuse_secret(field.name, text)


def refuse_secret(field: str, text: object) -> None:
    """Raise `LabError` if `text`, the value of a field, holds an address with a secret in it."""
    if not isinstance(text, str) or "://" not in text:
        return
    if _USER.search(text):
        raise LabError(f"--{_flag(field)} has a user or password in an address, and everything given is recorded; put the key "
                       "into an environment variable and name it with --key-env.")
    if engines.is_url(text) and any(word in field for word in _ASKED):
        engines.refuse_url(text)


def shown(value: Any) -> str:
    """A field's value as `make` would read it back."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _flag(field: str) -> str:
    return field.replace("_", "-")

"""The trials of any experiments as configurations: speed, quality, safety and cost of one configuration in one row.

What two experiments measured of one configuration comes together when both say the same of every part that is shipped and
each has only one such trial. Where that is not so the trials stay apart: a figure is never lent to what it was not measured of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lab import names
from lab.ops import cost

SHIPPED = ("engine", "model", "rung", "kv_type", "flash_attention", "threads", "policy", "temperature", "drafter", "url")
"""Settings that make two trials one configuration when they are equal; one that only one of them gives tells them apart."""
USUAL = {"rung": "as it is", "temperature": "0", "policy": "", "drafter": ""}
"""What a trial means that does not give the setting: the file as it is, the likeliest token, no guard, no draft."""
SPEED = ("decode_tokens_per_s", "output_tokens_per_s", "requests_per_s", "ttft_s", "e2e_s", "itl_p99_s")
QUALITY = ("quality", "answered", "accuracy", "right_share", "perplexity", "word_perplexity", "kl_mean", "flip_share")
COST = ("usd_per_million_tokens", "cpu_s_per_token", "peak_memory_bytes", "file_bytes")
SAFETY = tuple(name for name in names.RISK if names.describe(name).better != "neither" and not names.compared(name))
ASPECTS: Mapping[str, tuple[str, ...]] = {"Speed": SPEED, "Quality": QUALITY, "Safety": SAFETY, "Cost": COST}
"""The measures that decide, by what they are about, the most telling first."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measure in its stored unit with its interval (NaN: none), and the trial and experiment that measured it."""

    value: float
    low: float = math.nan
    high: float = math.nan
    trial: str = ""
    experiment: str = ""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One candidate for shipping. `id` is its first trial's run id; `trials` are all that measured it."""

    id: str
    name: str
    parent: str
    trials: tuple[str, ...]
    figures: Mapping[str, Figure]

    def value(self, measure: str) -> float:
        """NaN where it was not measured."""
        return self.figures[measure].value if measure in self.figures else math.nan


def measures(trials: pd.DataFrame) -> list[str]:
    """The measures of `ASPECTS` that these trials carry, in that order."""
    return [name for listed in ASPECTS.values() for name in listed
            if f"metrics.{name}" in trials and trials[f"metrics.{name}"].notna().any()]


def priced(trials: pd.DataFrame, book: cost.PriceBook) -> pd.DataFrame:
    """The trials with USD per million output tokens (`usd_per_million_tokens`), NaN where the book or a measure does not tell.

    A model priced by time costs what its machine costs while a million tokens come out, at the rate that was measured; one
    priced by tokens costs its output price and, for each output token, its share of the prompt.
    """
    if trials.empty:
        return trials
    rows = [_price(trial, book) for _, trial in trials.iterrows()]
    named = ("", "_low", "_high")
    return trials.assign(**{f"metrics.usd_per_million_tokens{side}": [row[i] for row in rows] for i, side in enumerate(named)})


def _price(trial: pd.Series[Any], book: cost.PriceBook) -> tuple[float, float, float]:
    price = book.prices.get(str(trial.get("params.model")))
    if price is None:
        return math.nan, math.nan, math.nan
    if price.machine:
        name = next((n for n in ("output_tokens_per_s", "decode_tokens_per_s") if _number(trial, n) > 0), "")
        rates = [_number(trial, f"{name}{side}") if name else math.nan for side in ("", "_high", "_low")]
        at, low, high = (price.usd_per_hour / 3600 / rate * 1e6 if rate > 0 else math.nan for rate in rates)
        return at, low, high
    prompt, output = _number(trial, "prompt_tokens"), _number(trial, "output_tokens")
    asked = price.input_usd * prompt / output if output > 0 else math.nan
    return price.output_usd + asked, math.nan, math.nan


def gathered(trials: pd.DataFrame) -> list[Configuration]:
    """The configurations of these trials, in their order; those without a measure of `ASPECTS` are left out."""
    shown = measures(trials)
    alone = {str(trial["run_id"]): one for _, trial in trials.iterrows() if (one := _one(trial, shown)).figures}
    kept = trials[trials["run_id"].isin(list(alone))]
    several = kept["parent_id"].nunique() > 1
    groups: dict[tuple[str, ...], list[pd.Series[Any]]] = {}
    for _, trial in kept.iterrows():
        groups.setdefault(_identity(trial), []).append(trial)
    out: dict[str, Configuration] = {}
    for group in groups.values():
        kinds = [str(trial["experiment"]) for trial in group]
        together = len(set(kinds)) == len(kinds) > 1
        for part in [group] if together else [[trial] for trial in group]:
            found = [alone[str(trial["run_id"])] for trial in part]
            figures: dict[str, Figure] = {}
            for one in found:
                figures = {**one.figures, **figures}
            name = _named(part, kept["experiment"].nunique() > 1) if several else str(part[0]["name"])
            out[found[0].id] = replace(found[0], name=name, figures=figures, trials=tuple(one.id for one in found))
    made = [out[run_id] for run_id in alone if run_id in out]
    names_ = [one.name for one in made]
    return [replace(one, name=f"{one.name} ({one.parent[:4]})") if names_.count(one.name) > 1 else one for one in made]


def _named(part: list[pd.Series[Any]], mixed: bool) -> str:
    """A configuration among those of several runs: trial, model and, of `mixed` experiments, which; else the run."""
    first = part[0]
    if not mixed:
        return f"{first['name']} · {first.get('run', '')}"
    model = _text(first.get("params.model"), "").rpartition("/")[2]
    return " · ".join(filter(None, [str(first["name"]), "" if model in str(first["name"]) else model,
                                    ", ".join(str(trial["experiment"]).replace("_", " ") for trial in part)]))


def frame(found: list[Configuration]) -> pd.DataFrame:
    """One row a configuration with the columns that figures are drawn from."""
    rows = []
    for one in found:
        row: dict[str, Any] = {"run_id": one.id, "parent_id": one.parent, "name": one.name, "run": ""}
        for measure, figure in one.figures.items():
            row |= {f"metrics.{measure}": figure.value, f"metrics.{measure}_low": figure.low,
                    f"metrics.{measure}_high": figure.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _one(trial: pd.Series[Any], shown: list[str]) -> Configuration:
    figures = {name: Figure(value=_number(trial, name), low=_number(trial, f"{name}_low"), high=_number(trial, f"{name}_high"),
                            trial=str(trial["run_id"]), experiment=str(trial["experiment"]))
               for name in shown if not math.isnan(_number(trial, name))}
    return Configuration(id=str(trial["run_id"]), name=str(trial["name"]), parent=str(trial["parent_id"]),
                         trials=(str(trial["run_id"]),), figures=figures)


def _identity(trial: pd.Series[Any]) -> tuple[str, ...]:
    return tuple(_text(trial.get(f"params.{name}"), USUAL.get(name, "")) for name in SHIPPED)


def _text(value: Any, usual: str) -> str:
    if value is None or value != value or value == "":
        return usual
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _number(trial: pd.Series[Any], name: str) -> float:
    value = trial.get(f"metrics.{name}", math.nan)
    return math.nan if value is None else float(value)

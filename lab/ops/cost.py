"""What requests cost: a price book in a file, the cost of one generation, and how costs develop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lab import stats
from lab.errors import LabError
from lab.metrics import speed
from lab.ops.requests_schema import checked
from lab.records import Generation
from lab.safety import lines
from lab.safety.lines import Checked

SHIPPED = Path(__file__).parent / "prices.yaml"


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a model costs: USD per million tokens of each kind, or USD per hour of the machine that it keeps busy."""

    model: str
    provider: str = ""
    input_usd: float = math.nan
    cached_input_usd: float = math.nan
    output_usd: float = math.nan
    machine: str = ""
    usd_per_hour: float = math.nan

    def cost_usd(
        self, *, prompt_tokens: float, cached_tokens: float, output_tokens: float, busy_s: float = math.nan, running: float = 1
    ) -> float:
        """USD of one request; NaN when what the price counts was not observed.

        Tokens: what was cached at its own price, the rest of the prompt at the full one; an unknown number of cached tokens
        counts as none. Time: `busy_s` seconds of the machine, shared with the `running` requests that it served at a time.
        """
        if self.machine:
            return busy_s * self.usd_per_hour / 3600 / max(running, 1)
        cached = 0.0 if math.isnan(cached_tokens) else min(cached_tokens, prompt_tokens)
        fresh = prompt_tokens - cached
        return (fresh * self.input_usd + cached * self.cached_input_usd + output_tokens * self.output_usd) / 1e6


@dataclass(frozen=True, kw_only=True)
class PriceBook:
    """Prices by model, and which version of which file they are."""

    name: str
    version: int
    prices: Mapping[str, Price]
    sha256: str = ""

    def price(self, model: str) -> Price:
        """The price of `model`. Raises `LabError` naming the models that the book knows."""
        if model not in self.prices:
            raise LabError(f"Price book '{self.name}' does not know the model '{model}'; add it beside "
                           f"{', '.join(self.prices) or 'no other'}.")
        return self.prices[model]

    def unknown(self, models: Iterable[str]) -> list[str]:
        """Those of `models` without a price."""
        return sorted({model for model in models if model not in self.prices})

    def cost_usd(self, model: str, generation: Generation, *, running: float = 1) -> float:
        """USD of one generation; NaN when the book does not know the model, or the price counts what was not observed.

        A failed request costs what it had used: its tokens so far, or the time until it broke off.
        """
        if model not in self.prices:
            return math.nan
        usage = generation.usage
        output = len(generation.tokens_at_s) if usage.output_tokens is None else usage.output_tokens  # what is billed
        began = generation.started_s if generation.started_s is not None else generation.sent_s
        ended = generation.ended_s if speed.failed(generation) or not generation.tokens_at_s else generation.tokens_at_s[-1]
        return self.prices[model].cost_usd(prompt_tokens=_number(usage.prompt_tokens), cached_tokens=_number(usage.cached_tokens),
                                           output_tokens=output, busy_s=ended - began, running=running)

    def priced(self, requests: pd.DataFrame) -> pd.Series:
        """The cost of every request of a log, in the order of its rows, from its columns; NaN where it cannot be told."""
        rows = requests[["model", "prompt_tokens", "cached_tokens", "output_tokens", "e2e_s"]].itertuples(index=False)
        found = [self.prices[row.model].cost_usd(
            prompt_tokens=row.prompt_tokens, cached_tokens=row.cached_tokens, output_tokens=row.output_tokens, busy_s=row.e2e_s)
            if row.model in self.prices else math.nan for row in rows]
        return pd.Series(found, index=requests.index, dtype=float)


def load(path: str | Path = SHIPPED) -> PriceBook:
    """A price book, the shipped example unless a path is given. Raises `LabError` naming file, line and remedy."""
    file = Path(path).expanduser()
    text, sha256 = lines.file(file, f"price book '{file.name}'")
    return parse(text, file.name, sha256)


_BOOK = {"prices": str, "version": int, "machines": dict, "models": dict}
_MACHINE = {"usd_per_hour": float}
_TOKENS = {"input_usd": float, "cached_input_usd": float, "output_usd": float}
_MODEL = {"provider": str, "machine": str, **_TOKENS}


def parse(text: str, file: str = "prices", sha256: str = "") -> PriceBook:
    """A price book from YAML text."""
    values, where = lines.read(text, file, "a price book")
    seen = Checked(file, where, "a price book")
    top = seen.mapping(values, (), _BOOK, needed=("prices", "version", "models"))
    if top["version"] < 1:
        raise seen.error(("version",), f"the version is {top['version']}; count from 1")
    machines = {name: _amount(seen, seen.mapping(one, ("machines", name), _MACHINE, needed=("usd_per_hour",)), "usd_per_hour",
                              ("machines", name)) for name, one in top.get("machines", {}).items()}
    prices = {str(name): _price(seen, str(name), one, machines) for name, one in top["models"].items()}
    return PriceBook(name=top["prices"], version=top["version"], prices=prices, sha256=sha256)


def _price(seen: Checked, name: str, value: Any, machines: Mapping[str, float]) -> Price:
    path: lines.Path = ("models", name)
    entry = seen.mapping(value, path, _MODEL)
    if "machine" in entry:
        if entry["machine"] not in machines:
            raise seen.error((*path, "machine"), f"there is no machine '{entry['machine']}'; the machines are "
                                                 f"{', '.join(machines) or 'none, add one under machines'}")
        if both := [key for key in _TOKENS if key in entry]:
            raise seen.error((*path, both[0]), "a model is priced by its machine or by its tokens; remove one of them")
        return Price(model=name, provider=entry.get("provider", ""), machine=entry["machine"],
                     usd_per_hour=machines[entry["machine"]])
    for key in ("input_usd", "output_usd"):
        if key not in entry:
            raise seen.error(path, f"'{name}' has no '{key}'; give USD per million tokens, or a machine")
    paid = {key: _amount(seen, entry, key, path) for key in _TOKENS if key in entry}
    return Price(model=name, provider=entry.get("provider", ""), input_usd=paid["input_usd"], output_usd=paid["output_usd"],
                 cached_input_usd=paid.get("cached_input_usd", paid["input_usd"]))


def _amount(seen: Checked, entry: Mapping[str, Any], key: str, path: lines.Path) -> float:
    value = float(entry[key])
    if not 0 <= value < math.inf:
        raise seen.error((*path, key), f"'{key}' is {value:g} USD; give an amount from 0 up")
    return value


def trend(requests: pd.DataFrame, *, every_s: float = 86_400.0) -> pd.DataFrame:
    """Costs by period (UTC, `every_s` seconds long): one row a period with `time_s` of its beginning.

    Columns: requests, unpriced, cost_usd, cost_per_request_usd with `_low` and `_high` (clustered by user), prompt, cached and
    output tokens, cached_share (of the prompts whose cached tokens are known), and change_share of the cost per request against
    the period before.
    """
    if not every_s > 0:
        raise LabError(f"A period lasts more than 0 seconds, not {every_s:g}.")
    log = checked(requests)
    rows = []
    for start, part in log.groupby(np.floor(log["time_s"] / every_s) * every_s, sort=True):
        alone = part["request_id"].where(part["user_hash"] == "", "user " + part["user_hash"])
        each = stats.clustered_mean(part["cost_usd"], alone)
        prompt, cached, output = (float(part[f"{kind}_tokens"].sum(min_count=1)) for kind in ("prompt", "cached", "output"))
        told = float(part["prompt_tokens"].where(part["cached_tokens"].notna()).sum(min_count=1))
        rows.append({
            "time_s": float(str(start)), "requests": len(part), "unpriced": int(part["cost_usd"].isna().sum()),
            "cost_usd": float(part["cost_usd"].sum(min_count=1)), "cost_per_request_usd": each.value,
            "cost_per_request_usd_low": each.low, "cost_per_request_usd_high": each.high, "prompt_tokens": prompt,
            "cached_tokens": cached, "output_tokens": output,
            "cached_share": cached / told if told else math.nan})
    found = pd.DataFrame(rows, columns=_TREND)
    found["change_share"] = found["cost_per_request_usd"].astype(float).pct_change(fill_method=None)
    return found


_TREND = ["time_s", "requests", "unpriced", "cost_usd", "cost_per_request_usd", "cost_per_request_usd_low",
          "cost_per_request_usd_high", "prompt_tokens", "cached_tokens", "output_tokens", "cached_share"]


def _number(count: int | None) -> float:
    return math.nan if count is None else float(count)

"""A window of the request log in numbers: errors by kind, latency, tokens, cost, refusals, blocks and scores, with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lab import stats
from lab.ops.requests_schema import SCORE, between, failed, served
from lab.records import Estimate

LATENCIES = ("ttft_s", "tpot_s", "e2e_s")
QUANTILES = (50, 95, 99)
CLIENT_LEFT = 499
UNNAMED = "(no kind)"


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Percentiles of one duration over the requests that were answered, seconds; failures are counted as failures."""

    measure: str
    p50: float
    p95: float
    p99: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Requests that went wrong in one way. `service` says whose doing it was: the service's, or the caller's."""

    kind: str
    count: int
    service: bool


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one model in one release cost in USD; `unpriced` requests are in no sum."""

    release: str
    model: str
    requests: int
    cost_usd: float
    unpriced: int

    @property
    def per_request_usd(self) -> float:
        """USD of a priced request; NaN without one."""
        priced = self.requests - self.unpriced
        return self.cost_usd / priced if priced else math.nan


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Requests with since_s < arrival <= until_s. Shares have Wilson's interval; what nobody observed is NaN."""

    since_s: float
    until_s: float
    requests: int
    failed: Estimate
    """Share of the requests that count (answered, or failed by the service's doing)."""
    failures: int
    counted: int
    kinds: tuple[Kind, ...]
    latencies: tuple[Latency, ...]
    prompt_tokens: float
    cached_tokens: float
    output_tokens: float
    cost_usd: float
    unpriced: int
    costs: tuple[Cost, ...]
    refused: Estimate
    blocked: Estimate
    """Share of answered requests in whose answer or question a guard put its own words."""
    scores: dict[str, tuple[Estimate, int]]
    """Mean of every score with its interval (clustered by user) and on how many requests it stands."""

    @property
    def requests_per_s(self) -> float:
        return self.requests / (self.until_s - self.since_s)

    def latency(self, measure: str) -> Latency:
        """The percentiles of `measure`."""
        return next(one for one in self.latencies if one.measure == measure)


def beside(log: pd.DataFrame, *, now_s: float, window_s: float) -> tuple[Summary, Summary]:
    """The window that ends now, and the one of the same length before it, from a checked frame."""
    return (summary(log, since_s=now_s - window_s, until_s=now_s),
            summary(log, since_s=now_s - 2 * window_s, until_s=now_s - window_s))


def summary(log: pd.DataFrame, *, since_s: float, until_s: float) -> Summary:
    """What a checked frame says of since_s < time <= until_s."""
    rows = between(log, since_s, until_s)
    broke, counts = failed(rows), served(rows)
    fine = (counts & ~broke).to_numpy(dtype=bool)
    refused = rows["refused"].to_numpy()[fine]
    looked = refused[~np.isnan(refused)]
    reasons = rows["finish_reason"]
    blocked = int((reasons == "content_filter").to_numpy()[fine].sum())
    sums = {name: _sum(rows[name]) for name in ("prompt_tokens", "cached_tokens", "output_tokens", "cost_usd")}
    bad, whole = int(broke.sum()), int(counts.sum())
    return Summary(
        since_s=since_s, until_s=until_s, requests=len(rows), failures=bad, counted=whole, failed=_share(bad, whole),
        kinds=_kinds(rows, broke), latencies=tuple(_latency(rows, name, fine) for name in LATENCIES), costs=_costs(rows),
        unpriced=int(rows["cost_usd"].isna().to_numpy()[fine].sum()), refused=_share(int(looked.sum()), looked.size),
        blocked=_share(blocked, int(fine.sum())), scores=_scores(rows), **sums)


def of_release(log: pd.DataFrame, release: str) -> pd.DataFrame:
    """The rows that one release answered; all of them for ""."""
    return log[(log["release"] == release).to_numpy(dtype=bool)].reset_index(drop=True) if release else log


def _share(count: int, n: int) -> Estimate:
    return stats.proportion(count, n) if n else Estimate(value=math.nan)


def _sum(values: pd.Series) -> float:
    return float(values.sum(min_count=1))


def _latency(rows: pd.DataFrame, measure: str, fine: np.ndarray) -> Latency:
    values = rows[measure].to_numpy()[fine]
    values = values[~np.isnan(values)]
    found = np.percentile(values, QUANTILES) if values.size else [math.nan] * 3
    return Latency(measure=measure, p50=float(found[0]), p95=float(found[1]), p99=float(found[2]), n=int(values.size))


def _kinds(rows: pd.DataFrame, broke: pd.Series) -> tuple[Kind, ...]:
    """What went wrong, the most frequent first; a client that went away is a kind of its own."""
    found = []
    wrong = (broke | (rows["error_kind"] != "") | (rows["status"] >= 400)).to_numpy(dtype=bool)
    part = pd.DataFrame({"kind": rows["error_kind"].astype(object)[wrong], "status": rows["status"][wrong],
                         "service": broke[wrong]})
    left = (part["kind"] == "") & (part["status"] == CLIENT_LEFT)
    part["kind"] = part["kind"].mask(left, "client left").replace("", UNNAMED)
    for (kind, service), count in part.groupby(["kind", "service"], observed=True).size().items():  # type: ignore[misc]
        found.append(Kind(kind=str(kind), count=int(count), service=bool(service)))
    return tuple(sorted(found, key=lambda one: (not one.service, -one.count, one.kind)))


def _costs(rows: pd.DataFrame) -> tuple[Cost, ...]:
    """By release and model, the dearest first."""
    by = rows.groupby(["release", "model"], observed=True, sort=False)["cost_usd"]
    table = pd.DataFrame({"requests": by.size(), "priced": by.count(), "cost": by.sum(min_count=1)})
    found = [Cost(release=str(name[0]), model=str(name[1]), requests=int(row["requests"]), cost_usd=float(row["cost"]),  # type: ignore[index]
                  unpriced=int(row["requests"] - row["priced"])) for name, row in table.iterrows()]
    return tuple(sorted(found, key=lambda one: (-one.cost_usd if one.cost_usd == one.cost_usd else math.inf, one.release)))


def _scores(rows: pd.DataFrame) -> dict[str, tuple[Estimate, int]]:
    """Mean and count of every score; answers to one user are a cluster, a request without a user is its own."""
    found = {}
    for column in (str(name) for name in rows if str(name).startswith(SCORE)):
        part = rows.loc[rows[column].notna(), [column, "user_hash"]]
        if len(part):
            users, names = pd.factorize(part["user_hash"].astype(object).to_numpy())
            nobody = np.isin(users, [i for i, name in enumerate(names) if not name])
            owner = np.where(nobody, len(names) + np.arange(len(part)), users)
            found[column.removeprefix(SCORE)] = (stats.clustered_mean(part[column].to_numpy(), owner), len(part))
    return found

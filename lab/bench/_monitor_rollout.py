"""Simulated A/B comparisons that are looked at after every request: false verdicts, with and without users, and power."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.stats import power
from lab.stats.sequential import Comparison, Metric
from lab.stats.sequential.simulated import Draw, clustered, independent

Floats = NDArray[np.float64]


def shares(a: float, b: float) -> Draw:
    """Right and wrong, with share `a` in A and `b` in B."""
    return lambda rng, arm: (rng.random(arm.shape) < np.where(arm > 0, b, a)).astype(np.float64)


def _lognormal(rng: np.random.Generator, arm: Floats) -> Floats:
    return rng.lognormal(0, 1, arm.shape)


def _heavy(rng: np.random.Generator, arm: Floats) -> Floats:
    """Times of which 2% hit the limit."""
    return np.where(rng.random(arm.shape) < 0.02, 60.0, rng.lognormal(-0.5, 0.6, arm.shape))


def _graded(rng: np.random.Generator, arm: Floats) -> Floats:
    return rng.choice([0.0, 0.0, 0.3, 0.5, 1.0, 1.0], size=arm.shape)


def _cases() -> list[tuple[str, Metric, Draw]]:
    """Streams in which the hypothesis that must not be rejected is just true."""
    found = [(f"right {p:.1%}, no difference", Metric(name="x", effect=0.05), shares(p, p)) for p in (0.02, 0.5, 0.8, 0.9, 0.98)]
    found += [(f"right {p:.1%}, B at the margin of {m:.0%}", Metric(name="x", margin=m), shares(p, p - m))
              for p, m in ((0.8, 0.03), (0.9, 0.05), (0.98, 0.1))]
    log = Metric(name="x", better="lower", scale="log", effect=0.1, low=1e-3, high=60)
    mean = Metric(name="x", better="lower", scale="mean", effect=0.1, low=0, high=60)
    return [*found, ("graded answers", Metric(name="x", effect=0.05), _graded), ("latency, log-normal", log, _lognormal),
            ("latency, 2% time out", log, _heavy), ("cost, log-normal", mean, _lognormal),
            ("cost, 2% at the limit", mean, _heavy)]


def false_verdicts(runs: int, requests: int, seed: int) -> list[dict[str, Any]]:
    """For every case and share of B: how often shipping, and stopping for harm, was ever allowed; at most 2.5% each."""
    rows = []
    for share in (0.5, 0.05):
        for name, metric, draw in _cases():
            ship, stop = independent(metric, draw, requests=requests, runs=runs, share=share, seed=seed).ever()
            wrong = ship if metric.margin else ship + stop
            rows.append({"case": name, "share_of_b": share, "ship": ship, "stop": math.nan if metric.margin else stop,
                         "wrong": wrong, "reached": wrong <= 0.05})
            kind = f"ever shipped {ship:.1%}" + ("" if metric.margin else f", ever stopped {stop:.1%}")
            print(f"A/B, {share:.0%} get B, {name:<32} {kind}  at most 5%: {_yes(wrong <= 0.05)}", flush=True)
    return rows


def naive(runs: int, requests: int, seed: int) -> float:
    """How often a z-test at 5% is significant at some time, when it is looked at after every request."""
    rng = np.random.default_rng(seed)
    steps = np.arange(1, requests + 1)
    paths = np.cumsum(rng.standard_normal((runs, requests)), axis=1) / np.sqrt(steps)
    found = float((np.abs(paths[:, 20:]) > 1.96).any(axis=1).mean())
    print(f"A/B, a z-test at 5% looked at all the time: significant in {found:.0%} of comparisons without a difference")
    return found


def with_users(runs: int, requests: int, seed: int) -> list[dict[str, Any]]:
    """Users who come back and keep their arm, counted as such and taken for independent requests."""
    rows = []
    for users, between in ((200, 0.0), (200, 0.2), (1000, 0.2), (5000, 0.4)):
        for robust in (True, False):
            metric = Metric(name="x", effect=0.05)
            ship, stop = clustered(metric, requests=requests, runs=runs, users=users, rate=0.8, between=between, robust=robust,
                                   seed=seed).ever()
            rows.append({"users": users, "correlation": between, "clustered": robust, "wrong": ship + stop})
            how = "by user" if robust else "users ignored"
            print(f"A/B, {users} users, correlation {between:g}, {how:<14} wrong in {ship + stop:.1%}", flush=True)
    return rows


def power_curve(runs: int, seed: int, *, rate: float = 0.8, margin: float = 0.03, requests: int = 20_000) -> list[dict[str, Any]]:
    """Share right `rate`, margin 3 points: what becomes of candidates that are better or worse, and after how many requests."""
    metric = Metric(name="answered", margin=margin)
    rows = []
    for point in power.curve(metric, power.deviation_of(metric, rate), (-0.06, -0.045, -0.03, -0.015, 0.0, 0.015, 0.03),
                             requests=requests, runs=runs, seed=seed):
        rows.append({"gain": point.gain, "ship": point.ship, "stop": point.stop, "undecided": point.undecided,
                     "median_requests": point.median, "requests_80": point.eighty, "fixed_requests": point.fixed})
        print(f"A/B power, {rate:.0%} right, margin {margin:.0%}, B {point.gain * 100:+.1f} points: ship {point.ship:6.1%}, stop "
              f"{point.stop:6.1%}, half decided after {point.median:>6,.0f}, 80% after {point.eighty:>6,.0f}; one look "
              f"{point.fixed:>8,.0f}", flush=True)
    drawn = independent(metric, shares(rate, rate), requests=requests, runs=min(runs, 400), seed=seed)
    print(f"A/B power with drawn answers, no difference: ship {drawn.ship():.1%}, half decided after {drawn.requests():,.0f}")
    return [*rows, {"gain": 0.0, "drawn": True, "ship": drawn.ship(), "stop": drawn.stop(), "median_requests": drawn.requests()}]


def seconds(requests: int = 20_000) -> dict[str, float]:
    """What counting a request, and a look, take with three metrics and users who come back."""
    comparison = Comparison([Metric(name="quality", margin=0.03),
                             Metric(name="e2e_s", better="lower", scale="log", margin=0.1, low=1e-3, high=60),
                             Metric(name="cost_usd", better="lower", scale="mean", margin=0.1, low=0, high=1)])
    rng = random.Random(0)
    values = [({"quality": float(rng.random() < 0.8), "e2e_s": rng.lognormvariate(0, 0.5), "cost_usd": rng.random() / 100},
               f"user {rng.randrange(2000)}") for _ in range(requests)]
    began = time.perf_counter()
    for i, (value, user) in enumerate(values):
        comparison.add("A" if i % 2 else "B", value, user)
    added = (time.perf_counter() - began) / requests
    began = time.perf_counter()
    for _ in range(50):
        comparison.look()
    looked = (time.perf_counter() - began) / 50
    print(f"A/B, three metrics: {added * 1e6:.1f} us to count a request, {looked * 1e3:.1f} ms to look")
    return {"add_s": added, "look_s": looked}


def _yes(reached: bool) -> str:
    return "yes" if reached else "NO"

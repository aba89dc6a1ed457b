"""A store for tests and pictures of the dashboard: runs of two experiments with drawn observations, one interrupted."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lab.experiments import find, shown
from lab.metrics import speed
from lab.ops import history, tracking
from lab.records import Decoding, Estimate, Generation, Request, Score, Trial, Usage

MACHINE = {"machine.cpu": "Example 2-core processor", "machine.threads": "2", "machine.memory_bytes": "16000000000"}
CAVEAT = (
    "The ladder was made from weights that are quantised already (Q4_1); "
    "it measures error against their reconstruction."
)
BUSY = "machine busy: other processes used 45% of the cores"
RUNGS = {  # bits per weight, perplexity, KL divergence
    "F32": (32.0, 13.790, 0.0),
    "F16": (16.0, 13.790, 2e-6),
    "Q8_0": (8.5, 13.801, 0.0006),
    "Q6_K": (6.9, 13.83, 0.0031),
    "Q5_K_M": (5.9, 13.91, 0.0098),
    "Q4_K_M": (5.2, 14.08, 0.021),
    "Q4_0": (4.7, 14.61, 0.052),
    "Q3_K_M": (4.4, 15.2, 0.094),
    "Q2_K": (3.9, 16.9, 0.21),
}


@contextmanager
def at(home: Path) -> Iterator[Path]:
    """The store of `home` in force; the address that MLflow writes into the environment is taken out."""
    before = {name: os.environ.pop(name, None) for name in ("LAB_HOME", "MLFLOW_TRACKING_URI")}
    os.environ["LAB_HOME"] = str(home)
    try:
        yield home
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@functools.cache
def home() -> Path:
    """A store with three runs of `performance` (one interrupted) and one of `quantization`, made once a process."""
    folder = Path(tempfile.mkdtemp(prefix="lab-sample-"))
    (folder / "mlruns").mkdir()
    with at(folder):
        fill()
    return folder


def fill() -> None:
    """Write the sample runs to the store in force."""
    _run("performance", "2026-11-20 09:12:31", _performance(seed=1, slower=1.0))
    _run("performance", "2026-11-21 17:40:02", _performance(seed=2, slower=1.3))
    _run("performance", "2026-11-23 08:01:55", _performance(seed=3, slower=1.0)[:2], state="interrupted")
    _run("quantization", "2026-11-23 08:05:10", _quantization())


def generations(
    rng: np.random.Generator, *, ttft_s: float, tpot_s: float, prompt: int, output: int, repeats: int = 8
) -> tuple[Generation, ...]:
    """`repeats` answers whose clock readings scatter by a few percent."""
    made, clock = [], 0.0
    for i in range(repeats):
        first = clock + ttft_s * rng.normal(1, 0.03)
        gaps = tpot_s * rng.lognormal(0, 0.08, output - 1)
        times = tuple(float(t) for t in first + np.concatenate([[0.0], np.cumsum(gaps)]))
        made.append(
            Generation(
                request=Request(id=str(i), prompt="x " * prompt, decoding=Decoding(max_tokens=output, ignore_eos=True)),
                text="…",
                tokens=tuple(range(output)),
                tokens_at_s=times,
                sent_s=clock,
                ended_s=times[-1],
                cpu_s=2 * (times[-1] - clock),
                usage=Usage(prompt_tokens=prompt, cached_tokens=0),
                finish_reason="length",
            )
        )
        clock = times[-1]
    return tuple(made)


def _performance(*, seed: int, slower: float) -> list[Trial]:
    rng, trials = np.random.default_rng(seed), []
    points = [("prompt_tokens", p, 64, 0, 2) for p in (32, 128, 512)] + [
        ("depth_tokens", 128, 64, d, 2) for d in (0, 512, 2048)
    ]
    points += [("threads", 128, 64, 0, t) for t in (1, 2)]
    for factor, prompt, output, depth, threads in points:
        tpot = slower * (0.0075 + depth * 1.2e-6) * (1.4 if threads == 1 else 1)
        answers = generations(
            rng,
            ttft_s=prompt * 0.0054 * slower * (1.7 if threads == 1 else 1),
            tpot_s=tpot,
            prompt=prompt,
            output=output,
        )
        value = {"prompt_tokens": prompt, "depth_tokens": depth, "threads": threads}[factor]
        trials.append(
            Trial(
                name={
                    "prompt_tokens": f"{value} prompt tokens",
                    "depth_tokens": f"depth {value} tokens",
                    "threads": f"{value} thread{'s' * (value > 1)}",
                }[factor],
                settings={
                    "engine": "llama_cpp",
                    "model": "smollm2-135m",
                    "factor": factor,
                    "prompt_tokens": prompt,
                    "output_tokens": output,
                    "depth_tokens": depth,
                    "threads": threads,
                },
                generations=answers,
                flags=(BUSY,) if slower > 1 and depth == 2048 else (),
                measures={
                    **speed.summary(answers),
                    "load_s": 0.21,
                    "bandwidth_share": 0.62 / slower,
                    "peak_memory_bytes": 182e6,
                },
            )
        )
    return trials


def _quantization() -> list[Trial]:
    rng, trials, base = np.random.default_rng(7), [], None
    for rung, (bits, perplexity, kl) in RUNGS.items():
        tpot = 0.0012 + 0.00042 * bits * (0.75 if rung in ("Q4_0", "Q8_0") else 1)
        answers = generations(rng, ttft_s=0.9 + 0.01 * bits, tpot_s=tpot, prompt=256, output=64, repeats=5)
        right = (np.random.default_rng(11).random(160) < 0.46 - 0.25 * kl).astype(float)
        base = right if base is None else base
        flips = float((right != base).mean())
        scores = [Score(name="correct", item=f"q{i}", value=float(v), by="likelihood") for i, v in enumerate(right)]
        scores += [
            Score(name="nll", item=f"block-{i}", value=float(v), by="likelihood")
            for i, v in enumerate(
                math.log(perplexity) + np.random.default_rng(13).normal(0, 0.2, 128) + rng.normal(0, 0.01, 128)
            )
        ]
        trials.append(
            Trial(
                name=rung,
                settings={"engine": "llama_cpp", "model": "smollm2-135m", "rung": rung, "threads": 2},
                generations=answers,
                scores=tuple(scores),
                flags=(BUSY,) if rung == "Q6_K" else (),
                notes={"caveat": CAVEAT},
                measures={
                    **speed.summary(answers),
                    "file_bytes": 134.5e6 * bits / 8,
                    "bits_per_weight": bits,
                    "load_s": 0.05 + bits / 100,
                    "peak_memory_bytes": 134.5e6 * bits / 8 + 45e6,
                    "bandwidth_share": 0.55,
                    "perplexity": Estimate(value=perplexity, low=perplexity * 0.965, high=perplexity * 1.036),
                    "perplexity_increase_share": Estimate(
                        value=perplexity / 13.79 - 1, low=perplexity / 13.79 - 1.004, high=perplexity / 13.79 - 0.996
                    ),
                    "kl_mean": Estimate(value=kl, low=kl * 0.9, high=kl * 1.1),
                    "kl_p99": kl * 12,
                    "same_top_share": 1 - kl,
                    "accuracy": Estimate(
                        value=float(right.mean()), low=float(right.mean()) - 0.077, high=float(right.mean()) + 0.077
                    ),
                    "flip_share": Estimate(value=flips, low=max(0.0, flips - 0.02), high=flips + 0.03),
                },
            )
        )
    return trials


def _run(name: str, label: str, trials: list[Trial], *, state: str = "finished") -> str:
    """Write the trials as a run of experiment `name`, its verdict made by the experiment itself."""
    config, client = find(name)(), tracking.writer()
    run = tracking.start_parent(client, name, f"{name} {label}", **MACHINE)
    for field in dataclasses.fields(config):
        client.log_param(run, field.name, shown(getattr(config, field.name)))
    for trial in trials:
        tracking.write_trial(client, name, run, trial)
    if state == "finished":
        verdict = config.verdict(history.frame("trial", parents=[run]))
        client.set_tag(run, "lab.verdict", json.dumps(dataclasses.asdict(verdict)))
    tracking.finish(client, run, state)
    return run

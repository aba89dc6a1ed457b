"""What `lab serve` adds to the same scheduler in this process: tokens/s of 16 users, and time to first token of one.

Both arms decode the same requests with the same settings, in turn. The HTTP arm is the whole of it: a client in a process
of its own, the loopback, the server, its step loop; so the client's work on a small machine counts against us too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from lab import machine, models, stats
from lab.bench._pairing import HEADING, Comparison, compare, interleave
from lab.engines.http.child import Child
from lab.engines.http.served import Served, ServeSettings, open_served
from lab.engines.scheduling.scheduler import Scheduler
from lab.errors import LabError
from lab.load.capture import Captured, capture
from lab.load.endpoint import Endpoint
from lab.load.scheduled import closed_loop
from lab.metrics import speed
from lab.records import Decoding, Estimate, Request

Work = list[tuple[Request, list[int]]]
AT_LEAST = 0.97
MOST_ADDED_S = 0.002


def main(
    model: str = models.DEFAULT, *, users: int = 16, threads: Sequence[int] = (), rounds: int = 11, requests: int = 16,
    prompt_tokens: int = 24, output_tokens: int = 48, first_tokens: int = 40,
) -> dict[str, Any]:
    """Measure everything, print a table as it comes, and return the same figures.

    `threads` are the engine's, a row each (default: 1, and as many as there are cores). With as many as there are cores,
    whatever HTTP and the client need is taken from the engine.
    """
    counts = tuple(threads) or tuple(sorted({1, machine.threads_default()}))
    print(f"{model}, {os.cpu_count()} cores. Ratios are HTTP over in-process, from interleaved pairs.\n{HEADING}")
    made: list[Comparison] = []
    added: dict[int, Estimate] = {}
    with machine.Watch() as watch:
        for count in counts:
            settings = ServeSettings(threads=count, max_running=users, context_tokens=256 * users, prefix_cache=False)
            served = open_served(model, settings)
            try:
                child = Child(model, settings)
                try:
                    ours = _Ours(served, child)
                    made.append(ours.throughput(_work(served, requests, prompt_tokens, output_tokens), users, rounds))
                    print(made[-1].line(), _interval(made[-1]), sep="\n", flush=True)
                    added[count] = ours.added_to_ttft(_work(served, first_tokens, 4, 2))
                    print(_ttft_line(count, added[count]), flush=True)
                finally:
                    child.close()
            finally:
                served.close()
    flags = watch.result.flags()
    print(*(f"Caution: {flag}; run again on a quiet one before believing a ratio." for flag in flags), sep="\n")
    return {"model": model, "users": users, "flags": list(flags),
            "comparisons": [{**c.as_json(), "interval": _bounds(c)} for c in made],
            "ttft_added_s": {str(n): {"median": e.value, "low": e.low, "high": e.high, "at_most": MOST_ADDED_S,
                                      "reached": e.value <= MOST_ADDED_S} for n, e in added.items()},
            "machine": machine.fingerprint(bandwidth=False).as_tags()}


class _Ours:
    """The same model twice: in this process, and behind HTTP."""

    def __init__(self, served: Served, child: Child) -> None:
        self.served, self.child = served, child
        self.endpoint = Endpoint(url=f"http://127.0.0.1:{child.port}/v1", model=served.name, key_env="LAB_SERVE_NO_KEY",
                                 extra={"return_token_ids": True})

    def throughput(self, work: Work, users: int, rounds: int) -> Comparison:
        wanted = sum(request.decoding.max_tokens for request, _ in work)

        def inside() -> dict[str, float]:
            scheduler = self._scheduler()
            started = scheduler.core.now()
            jobs = closed_loop(scheduler, work, users)
            _all_there(sum(len(job.output) for job in jobs), wanted)
            return {"tokens": wanted / (max(job.ended_s or 0.0 for job in jobs) - started)}

        def over_http() -> dict[str, float]:
            captured = self._capture(work, users)
            ended = max(g.ended_s for g in captured.generations)
            return {"tokens": wanted / (ended - min(g.sent_s for g in captured.generations))}

        closed_loop(self._scheduler(), work[:2], users)
        seen = interleave({"http": over_http, "inside": inside}, rounds, title="throughput")
        threads = self.served.logged["threads"]
        name = f"{users} users, {threads} engine thread{'' if threads == 1 else 's'}"
        return compare(name, "tokens/s", seen, ("http", "tokens"), ("inside", "tokens"), at_least=AT_LEAST)

    def added_to_ttft(self, work: Work) -> Estimate:
        """Seconds that HTTP adds to the time to first token of one user: median of the differences, request by request."""
        differences = []
        for i in tqdm(range(0, len(work), 5), desc="first token", leave=False, disable=None):
            part = work[i : i + 5]
            found = {}
            for arm in ("inside", "http") if i % 2 else ("http", "inside"):
                if arm == "http":
                    generations: Sequence[Any] = self._capture(part, 1).generations
                else:
                    generations = [job.generation() for job in closed_loop(self._scheduler(), part, 1)]
                found[arm] = [speed.ttft_s(g) for g in generations]
            differences += [a - b for a, b in zip(found["http"], found["inside"], strict=True)]
        return stats.median(differences)

    def _scheduler(self) -> Scheduler:
        return self.served.scheduler(lambda job: None)

    def _capture(self, work: Work, users: int) -> Captured:
        captured = capture(self.endpoint, [request for request, _ in work], users=users, warmup=1, title="http")
        if failed := [g.error for g in captured.generations if g.error]:
            raise LabError(f"{len(failed)} of {len(work)} requests failed ({failed[0]}); run the bench again.")
        _all_there(sum(len(g.tokens) for g in captured.generations), sum(r.decoding.max_tokens for r, _ in work))
        return captured


def _work(served: Served, requests: int, prompt: int, output: int) -> Work:
    random = np.random.default_rng(0)
    most = served.engine.tokenize("The quick brown fox jumps over the lazy dog while twelve wizards brew potions. " * 4)
    work = []
    for i in range(requests):
        tokens = random.permutation(most)[:prompt].tolist()
        wanted = int(random.integers(max(1, output // 2), output + 1))
        request = Request(id=str(i), tokens=tuple(tokens), decoding=Decoding(max_tokens=wanted, ignore_eos=True))
        work.append((request, tokens))
    return work


def _all_there(tokens: int, wanted: int) -> None:
    if tokens != wanted:
        raise LabError(f"{tokens:,} tokens came instead of {wanted:,}, so speeds cannot be compared; report this.")


def _bounds(made: Comparison) -> list[float]:
    """The 95% interval of the median ratio."""
    median = stats.median(made.ratios)
    return [median.low, median.high]


def _interval(made: Comparison) -> str:
    low, high = _bounds(made)
    return f"  HTTP takes {1 - made.ratio:+.1%} of the throughput (95% interval {1 - high:+.1%} to {1 - low:+.1%})"


def _ttft_line(threads: int, added: Estimate) -> str:
    ms = [1e3 * value for value in (added.value, added.low, added.high)]
    return (f"  added to TTFT of one user, {threads} thread{'' if threads == 1 else 's'}: {ms[0]:.2f} ms ({ms[1]:.2f} to "
            f"{ms[2]:.2f})  at most {1e3 * MOST_ADDED_S:g}: {'yes' if added.value <= MOST_ADDED_S else 'NO'}")

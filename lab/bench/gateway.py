"""What a gateway adds to the bare engine server on the scripted engine, tokens/s per core, and the time of a rollback under load.

Bare server and gateway run the same scripted engine at the same pace, a letter a token, one after the other in turn, under the
same closed load from a process that only reads sockets. The overhead is that of the gateway without rules on the same chain of
letters as the server. Guards are measured on spelled English, because they hold back what random letters may still become;
spelling draws no token and is cheaper than the chain, so they are compared with spelling without rules, never with the server. A
rollback is timed over several processes under load; what every client got and when it was sent decides whether one was
answered by the old release after it had returned.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from lab import machine, stats
from lab.engines.http.child import Child
from lab.engines.http.served import ServeSettings
from lab.errors import LabError
from lab.load.capture import capture
from lab.load.endpoint import Endpoint
from lab.metrics import speed
from lab.ops import store, versions
from lab.ops.gateway import child as gateways
from lab.ops.requests import frame
from lab.records import Decoding, Generation, Message, Request

MODEL = "markov"
REPLY = ("The bridge was opened in the spring after four years of work. It carries two lanes of traffic and a path for people "
         "on foot, and it is closed when the wind is strong. ") * 2
NO_RULES = "policy: none\nversion: 1\nrules: []\n"
BASE = {"gateway, no rules": "server", "spelled, no rules": "", "spelled, default policy": "spelled, no rules"}
"""The gateway's arms, each with the arm that does the same work without what is measured; "" with none."""
MOST_P50_S, MOST_P99_S, MOST_ROLLBACK_S = 0.002, 0.005, 1.0


def main(
    *, streams: int = 64, requests: int = 512, output_tokens: int = 24, step_ms: float = 20.0, rounds: int = 5,
    processes: int = 4, rollbacks: int = 5,
) -> dict[str, Any]:
    """Measure everything, print a table as it comes, and return the same figures."""
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as home, store.elsewhere(home), machine.Watch() as watch:
        plain, *spelled, other = _releases(Path(home), step_ms)
        found = _overhead((plain, *spelled), streams, requests, output_tokens, step_ms, rounds)
        rolled = _rollback(plain, other, processes, rollbacks)
    flags = watch.result.flags()
    print(*(f"Caution: {flag}; run again on a quiet one before believing a figure." for flag in flags), sep="\n")
    return {"streams": streams, "step_ms": step_ms, "arms": found, "rollback": rolled, "flags": list(flags),
            "machine": machine.fingerprint(bandwidth=False).as_tags()}


def _overhead(
    releases: Sequence[int], streams: int, count: int, output: int, step_ms: float, rounds: int
) -> dict[str, dict[str, Any]]:
    """TTFT, throughput and server CPU of each arm, from interleaved rounds."""
    asked = [Request(id=str(i), messages=(Message(role="user", content=f"Tell me about the number {i}."),),
                     decoding=Decoding(max_tokens=output, seed=i, temperature=1.0, ignore_eos=True)) for i in range(count)]
    of = dict(zip(BASE, releases, strict=True))
    arms = ["server", *of]
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    bare = Child(MODEL, ServeSettings(engine="scripted", step_ms=step_ms, max_running=streams, context_tokens=1024 * streams))
    versions.promote(releases[0], by="bench", why="first")
    try:
        with _gateway(1, streams) as gateway:
            for number in range(rounds):
                for name in arms if number % 2 else arms[::-1]:
                    if name in of and versions.current().production != of[name]:
                        versions.promote(of[name], by="bench", why=name)
                    port, pid = (bare.port, bare.pid) if name == "server" else (gateway.port, gateway.pid)
                    seen[name].append(_measured(port, pid, asked, streams))
    finally:
        bare.close()
    return _table(seen)


def _measured(port: int, pid: int, asked: Sequence[Request], streams: int) -> dict[str, Any]:
    endpoint = Endpoint(url=f"http://127.0.0.1:{port}/v1", model=MODEL, key_env="LAB_BENCH_NO_KEY")
    before = _cpu_s(pid)
    # Warm-up requests are asked one after the other: as many as there are streams took 38 s of every round.
    captured = capture(endpoint, asked, users=streams, warmup=2, title="load")
    cpu_s = _cpu_s(pid) - before
    generations = captured.generations
    if failed := [g.error for g in generations if g.error]:
        raise LabError(f"{len(failed)} of {len(asked)} requests failed ({failed[0]}); run the bench again.")
    tokens = sum(g.usage.output_tokens or len(g.tokens_at_s) for g in generations)
    return {"ttft_s": [speed.ttft_s(g) for g in generations], "tokens": tokens, "cpu_s": cpu_s, "seconds": _seconds(generations)}


def _table(seen: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Figures of each arm, and what it adds to the server's in the same round: median and its interval over rounds."""
    found: dict[str, dict[str, Any]] = {}
    for name, rounds in seen.items():
        p50, p99 = ([float(np.percentile(r["ttft_s"], q)) for r in rounds] for q in (50, 99))
        base = seen[BASE.get(name, name) or name]
        added = {f"added_p{q}_s": stats.median([float(np.percentile(r["ttft_s"], q) - np.percentile(b["ttft_s"], q))
                                                for r, b in zip(rounds, base, strict=True)]) for q in (50, 99)}
        per_core = [r["tokens"] / r["cpu_s"] for r in rounds if r["cpu_s"] > 0]
        found[name] = {
            "ttft_p50_s": float(np.median(p50)), "ttft_p99_s": float(np.median(p99)),
            "tokens_per_s": float(np.median([r["tokens"] / r["seconds"] for r in rounds])),
            "tokens_per_cpu_s": float(np.median(per_core)) if per_core else float("nan"),
            **{key: {"median": e.value, "low": e.low, "high": e.high} for key, e in added.items()}}
        one = found[name]
        print(f"{name:26} TTFT p50 {1e3 * one['ttft_p50_s']:7.2f} ms  p99 {1e3 * one['ttft_p99_s']:7.2f} ms  "
              f"added p50 {1e3 * one['added_p50_s']['median']:+6.2f} ms, p99 {1e3 * one['added_p99_s']['median']:+6.2f} ms  "
              f"{one['tokens_per_s']:8,.0f} tokens/s, {one['tokens_per_cpu_s']:8,.0f} per core", flush=True)
    for name in (one for one, base in BASE.items() if base):
        found[name]["reached"] = (found[name]["added_p50_s"]["median"] < MOST_P50_S
                                  and found[name]["added_p99_s"]["median"] < MOST_P99_S)
    return found


def _rollback(first: int, second: int, processes: int, times: int) -> dict[str, Any]:
    """How long `rollback` takes until it returns, and what was answered by the old release after that."""
    if versions.current().production != first:
        versions.promote(first, by="bench", why="before")
    took, late, dropped, answered = [], 0, 0, 0
    # Proposed first, as a release should be: the processes load it before it is promoted.
    versions.propose(second, by="bench", why="next")
    with _gateway(processes, 16) as gateway:
        time.sleep(5.0)
        for _ in range(times):
            if versions.current().production != second:
                versions.promote(second, by="bench", why="new")
            clients = _Clients(gateway.port)
            time.sleep(1.0)
            began = time.monotonic()
            versions.rollback(by="bench", why="worse", expect=second)
            returned = time.monotonic()
            time.sleep(1.0)
            clients.stop()
            took.append(returned - began)
            answered += len(clients.got)
            dropped += sum(release is None for _, release in clients.got)
            late += sum(release == str(second) for sent, release in clients.got if sent > returned)
    rows = frame(columns=["request_id", "status"])
    print(f"rollback over {processes} processes: {1e3 * float(np.median(took)):.0f} ms (most {1e3 * max(took):.0f}), {late} of "
          f"{answered:,} requests answered by the old release afterwards, {dropped} dropped, {len(rows):,} rows in the log")
    return {"processes": processes, "median_s": float(np.median(took)), "most_s": max(took), "requests": answered,
            "answered_by_old": late, "dropped": dropped, "reached": max(took) < MOST_ROLLBACK_S and not late and not dropped}


class _Clients:
    """Clients that ask one request after the other; when each was sent and which release answered (None: it was dropped)."""

    def __init__(self, port: int, clients: int = 8) -> None:
        self.got: list[tuple[float, str | None]] = []
        self._port, self._stop = port, threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        import http.client

        body = b'{"messages": [{"role": "user", "content": "hi"}], "stream": true, "max_tokens": 8}'
        while not self._stop.is_set():
            sent, release = time.monotonic(), None
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
                connection.request("POST", "/v1/chat/completions", body)
                response = connection.getresponse()
                if response.read().endswith(b"[DONE]\n\n") and response.status == 200:
                    release = response.getheader("x-lab-release")
                connection.close()
            self.got.append((sent, release))

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def _gateway(processes: int, running: int) -> gateways.Child:
    return gateways.Child("--processes", str(processes), "--running", str(running), "--queue", str(4 * running))


def _releases(home: Path, step_ms: float) -> tuple[int, ...]:
    """The chain without rules; spelled English without rules and with the default policy; another chain without rules."""
    (home / "prompt.txt").write_text("Be brief.")
    (home / "other.txt").write_text("Be long.")
    (home / "none.yaml").write_text(NO_RULES)

    def make(prompt: str, policy: str, **more: str) -> int:
        return versions.create(prompt=str(home / prompt), model=MODEL, engine="scripted", policy=policy, by="bench",
                               engine_settings={"tpot_s": step_ms / 1e3, "context_tokens": 65_536, **more}).release.number

    none = str(home / "none.yaml")
    return (make("prompt.txt", none), make("prompt.txt", none, reply=REPLY), make("prompt.txt", "default", reply=REPLY),
            make("other.txt", none))


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _seconds(generations: Sequence[Generation]) -> float:
    return max(g.ended_s for g in generations) - min(g.sent_s for g in generations)

"""Measures for docs/scale.md: the record over PostgreSQL and an object store beside SQLite, and gateway replicas behind HAProxy.

    python tests/bench/scale.py --haproxy PATH --json scale.json

Needs the extra `scale`; without `--haproxy` the replicas are asked directly. Everything runs on 127.0.0.1 and is our own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import shared_server

from lab import machine
from lab.experiments.performance import Performance
from lab.ops import history, store, tracking, versions

ROOT = Path(__file__).resolve().parents[2]
HAPROXY = """defaults
  mode http
  timeout connect 2s
  timeout client 10m
  timeout server 10m
  option redispatch
  retries 2
  retry-on conn-failure
frontend door
  bind 127.0.0.1:{door}
  default_backend gateways
backend gateways
  balance leastconn
  option httpchk GET /ready
  server first 127.0.0.1:{first} check inter 1s fall 2 rise 1
  server second 127.0.0.1:{second} check inter 1s fall 2 rise 1
"""


def records(runs: int) -> dict[str, float]:
    """Seconds to record one run with one trial, and to read them all back, in the store in force."""
    config = Performance(engine="scripted", models=("markov",), prompt_tokens=(8,), output_tokens=(4,), threads=(1,), depth_tokens=(0,),
                         repeats=5, warmup=0)
    machine.fingerprint()
    took = []
    for _ in range(runs):
        begun = time.perf_counter()
        tracking.record(config)
        took.append(time.perf_counter() - begun)
    reads = []
    for _ in range(3):
        begun = time.perf_counter()
        rows = len(history.frame())
        reads.append(time.perf_counter() - begun)
    assert rows == runs
    return {"runs": runs, "record_p50_s": statistics.median(took[1:]), "record_max_s": max(took[1:]), "read_all_s": min(reads)}


@contextlib.contextmanager
def replica(home: Path, port: int) -> Iterator[int]:
    """A gateway with a lab home of its own, as on another machine; gives its process id."""
    command = [sys.executable, "-m", "lab", "gateway", "--port", str(port)]
    with shared_server.child(command, home / "gateway.log", cwd=ROOT, env={**os.environ, "LAB_HOME": str(home)}) as process:
        shared_server.wait(lambda: shared_server.healthy(f"http://127.0.0.1:{port}/ready"), 90, home / "gateway.log")
        yield process.pid


def answered(port: int) -> str:
    """The fingerprint of the release that answered."""
    body = json.dumps({"model": "production", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return str(json.loads(answer.read())["system_fingerprint"])


def moves(ports: list[int], releases: list[int], times: int) -> dict[str, Any]:
    """After a promotion or rollback made elsewhere returned: seconds until each replica answers with the other release."""
    after = []
    for i in range(times):
        old = answered(ports[0])
        if i % 2 == 0:
            versions.promote(releases[1], by="bench", why="new")
        else:
            versions.rollback(by="bench", why="worse")
        begun, left = time.perf_counter(), set(ports)
        while left:
            left -= {port for port in left if answered(port) != old}
        after.append(time.perf_counter() - begun)
    return {"times": times, "p50_s": statistics.median(after), "max_s": max(after)}


class Clients:
    """Eight clients that ask without a pause; every answer and failure is counted."""

    def __init__(self, port: int) -> None:
        self.right, self.failed, self._stop = 0, list[str](), threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(port,)) for _ in range(8)]
        for thread in self._threads:
            thread.start()

    def _ask(self, port: int) -> None:
        while not self._stop.is_set():
            try:
                answered(port)
                self.right += 1
            except Exception as error:
                self.failed.append(f"{type(error).__name__}: {error}")

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def replicas(folder: Path, haproxy: str, times: int) -> dict[str, Any]:
    (folder / "prompt.txt").write_text("Be brief.")
    (folder / "other.txt").write_text("Be polite.")
    made = [versions.create(prompt=str(folder / f), model="markov", engine="scripted", by="bench").release.number for f in ("prompt.txt", "other.txt")]
    versions.promote(made[0], by="bench", why="first")
    versions.propose(made[1], by="bench", why="loaded before it is promoted")
    homes = [folder / name for name in ("first", "second")]
    for home in homes:
        home.mkdir()
    ports = [shared_server.free_port() for _ in homes]
    door = shared_server.free_port()
    config = folder / "haproxy.cfg"
    config.write_text(HAPROXY.format(door=door, first=ports[0], second=ports[1]))
    with contextlib.ExitStack() as after:
        pids = [after.enter_context(replica(home, port)) for home, port in zip(homes, ports, strict=True)]
        found: dict[str, Any] = {"moves": moves(ports, made, times),
                                 "replica_memory_bytes": [psutil.Process(pid).memory_info().rss for pid in pids]}
        if haproxy:
            after.enter_context(shared_server.child([haproxy, "-db", "-f", str(config)], folder / "haproxy.log"))
            shared_server.wait(lambda: shared_server.healthy(f"http://127.0.0.1:{door}/ready"), 20, folder / "haproxy.log")
            found["behind"] = behind(door, pids)
    return found


def behind(door: int, pids: list[int]) -> dict[str, Any]:
    """Clients at the balancer's door while one replica ends in order; then while the other is all that is left."""
    clients = Clients(door)
    time.sleep(3)
    before = clients.right
    psutil.Process(pids[1]).terminate()
    time.sleep(8)
    clients.stop()
    return {"requests": clients.right, "after_one_left": clients.right - before, "failed": len(clients.failed), "failures": clients.failed[:3]}


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--haproxy", default="")
    asked.add_argument("--runs", type=int, default=60)
    asked.add_argument("--moves", type=int, default=10)
    asked.add_argument("--json", default="scale.json")
    given = asked.parse_args()
    found: dict[str, Any] = {}
    with machine.Watch() as watch, tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o755)
        os.environ["LAB_HOME"] = str(folder / "home")
        tracking.writer().search_experiments()
        found["sqlite"] = records(given.runs)
        begun = time.perf_counter()
        with shared_server.mlflow_server(folder) as (url, _database, _s3):
            found["server_start_s"] = time.perf_counter() - begun
            os.environ["MLFLOW_TRACKING_URI"] = url
            found["server"] = records(given.runs)
            mine = [p for p in psutil.Process().children(recursive=True) if p.is_running()]
            found["server_memory_bytes"] = {name: sum(p.memory_info().rss for p in mine if name in " ".join(p.cmdline()))
                                            for name in ("mlflow", "moto")}
            found["replicas"] = replicas(folder, given.haproxy, given.moves)
    found |= {"flags": list(watch.result.flags()), "machine": machine.fingerprint(bandwidth=False).as_tags(), "store": store.uri()}
    Path(given.json).write_text(json.dumps(found, indent=1))
    print(json.dumps({k: v for k, v in found.items() if k != "machine"}, indent=1))


if __name__ == "__main__":
    main()

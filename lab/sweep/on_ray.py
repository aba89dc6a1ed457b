"""Several machines: Ray gives every trial a machine (or a GPU) to itself, and the trial runs there in a process of its own.

One trial a machine: by the custom resource `machine` where the cluster has it (`ray start --resources '{"machine": 1}'`),
else by asking for all CPUs, which takes machines that have the same number of them. Other work on Ray must ask for the same.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from lab.errors import LabError
from lab.ops import store
from lab.sweep.attempt import Attempt, Ended, Job

Per = Literal["machine", "gpu"]
MACHINE = "machine"
_REACH_S = 5.0
_STOP_S = 20.0
_TIED_S = 1.0
"""A trial looks twice a second whether the process that started it is there."""


class Cluster:
    """A joined Ray cluster: `asks` is what one piece of work asks of it, so that it has a machine (or a GPU) to itself.

    `address` is `HOST:PORT`, `ray://HOST:PORT` or `auto`. Raises `LabError` when Ray is not installed, the cluster cannot be
    reached or has no room.
    """

    def __init__(self, address: str, per: Per = "machine") -> None:
        _refuse_unreachable(address)
        try:
            import ray
        except ImportError as error:
            raise LabError("Ray is not installed; `pip install 'llm-lab-workbench[ray]'` brings it, here and on all machines."
                           ) from error
        self.ray, self.per = ray, per
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise LabError(f"The Ray cluster at {address} cannot be joined ({first_line(error)}); check that `ray status "
                           f"--address {address}` shows it, and that Ray and Python have the same version there.") from error
        try:
            self.asks = self._resources()
        except LabError:
            self.close()
            raise

    def slots(self) -> int:
        """How much of it fits at a time, now; machines may join and leave."""
        return max(1, sum(map(self.room, self.nodes())))

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive, as Ray describes them."""
        return [node for node in self.ray.nodes() if node["Alive"]]

    def room(self, node: dict[str, Any]) -> int:
        """How many pieces fit on a node."""
        wanted = {"CPU": self.asks["num_cpus"], "GPU": self.asks.get("num_gpus", 0), **self.asks.get("resources", {})}
        return int(min(node["Resources"].get(name, 0) // amount for name, amount in wanted.items() if amount))

    def close(self) -> None:
        """Leave the cluster; it goes on without us."""
        self.ray.shutdown()

    def _resources(self) -> dict[str, Any]:
        nodes = [node["Resources"] for node in self.nodes()]
        if self.per == "gpu":
            if not any(node.get("GPU") for node in nodes):
                raise LabError("The Ray cluster has no GPU, so --per gpu has no room for a trial; leave it out.")
            return {"num_cpus": 0, "num_gpus": 1}
        if any(node.get(MACHINE) for node in nodes):
            return {"num_cpus": 0, "resources": {MACHINE: 1}}
        counts = {node.get("CPU", 0) for node in nodes} - {0}
        if len(counts) != 1:
            offered = " and ".join(f"{c:g}" for c in sorted(counts)) or "no"
            raise LabError(f"The machines of the cluster offer {offered} CPUs, so asking for all of one is not possible; start "
                           f"each with `ray start --resources '{{\"{MACHINE}\": 1}}'`.")
        return {"num_cpus": counts.pop()}


class OnRay:
    """Runs attempts on a cluster. Raises `LabError` as `Cluster` does, and where its machines cannot write to the store."""

    def __init__(self, address: str, per: Per = "machine") -> None:
        self._cluster = Cluster(address, per)
        self._ray = self._cluster.ray
        try:
            self._environment = _store_for(self._cluster.nodes())
        except LabError:
            self.close()
            raise
        self._task = self._ray.remote(max_retries=0, **self._cluster.asks)(_attempt)
        self._running: dict[Any, Job] = {}

    def slots(self) -> int:
        return self._cluster.slots()

    def start(self, job: Job) -> None:
        self._running[self._task.remote({**job.__dict__, "environment": self._environment})] = job

    def wait(self) -> Ended:
        """The next that ends. A machine that is lost is a trial that died."""
        ready, _ = self._ray.wait(list(self._running), num_returns=1)
        job = self._running.pop(ready[0])
        try:
            return Ended(**self._ray.get(ready[0]))
        except Exception as error:
            return Ended(number=job.number, attempt=job.attempt, why=f"Ray lost it: {first_line(error)}.")

    def stop(self) -> None:
        """End what runs; its runs keep what was measured. By force, which takes the trial's process along: Ray's gentler way was
        not heeded before a trial had ended by itself."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=_STOP_S)
            time.sleep(_TIED_S)

    def close(self) -> None:
        """Leave the cluster; it goes on without us."""
        self._cluster.close()

    def cautions(self) -> tuple[str, ...]:
        """What speaks against trusting timings of this cluster."""
        hosts = Counter(node["NodeManagerHostname"] for node in self._cluster.nodes() if self._cluster.room(node))
        several = [host for host, count in hosts.items() if count > 1 and self._cluster.per == "machine"]
        return (f"{hosts[several[0]]} nodes of the cluster are one machine ({several[0]}): trials ran side by side there, and "
                "their timings falsify each other.",) if several else ()


def _attempt(job: dict[str, Any]) -> dict[str, Any]:
    """On the machine that Ray chose: the attempt in a process of its own; a cancellation interrupts it."""
    # Ray limits OpenMP to the CPUs that were asked for, and hides GPUs from who asks for none; a trial has the machine.
    for name, hides in (("OMP_NUM_THREADS", None), ("CUDA_VISIBLE_DEVICES", "")):
        if name in os.environ and (hides is None or os.environ[name] == hides):
            del os.environ[name]
    attempt = Attempt(Job(**job))
    try:
        return attempt.wait().__dict__
    except BaseException:
        attempt.interrupt()
        raise


def _refuse_unreachable(address: str) -> None:
    """Raise `LabError` where nobody listens: Ray itself would try for minutes."""
    if address == "auto":
        return
    given = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = given.hostname, given.port
    except ValueError:
        host = port = None
    if not host or not port or given.scheme not in ("", "ray"):
        raise LabError(f"--ray takes HOST:PORT, ray://HOST:PORT or auto, not '{address}'.")
    try:
        socket.create_connection((host, port), timeout=_REACH_S).close()
    except OSError as error:
        raise LabError(f"Nobody answers at {address} ({error.strerror or error}); start a cluster with `ray start --head`, which "
                       "says its address, or leave --ray out.") from error


def _store_for(nodes: list[dict[str, Any]]) -> Mapping[str, str]:
    """What tells every machine where to write. Raises `LabError` for a store that only this machine has."""
    if store.database() is None:
        return {"MLFLOW_TRACKING_URI": store.uri()}
    if any(node["NodeManagerHostname"] != socket.gethostname() for node in nodes):
        raise LabError(f"The other machines of the cluster cannot write to {store.uri()}; set MLFLOW_TRACKING_URI to a server "
                       "that all reach (docs/scale.md says how).")
    return {"LAB_HOME": str(store.home())}


def first_line(error: BaseException) -> str:
    """The line of an error of Ray's that says most, for a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if "Error" in (lines or [""])[-1] else (lines or [type(error).__name__])[0])[:300].rstrip(".")

"""How long a rollback takes over several gateway processes under load, and whether the old release answers afterwards."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from typing import Any

import numpy as np

from lab.ops import versions
from lab.ops.gateway import child as gateways
from lab.ops.requests import frame

MOST_ROLLBACK_S = 1.0


def rollback(first: int, second: int, processes: int, times: int) -> dict[str, Any]:
    """How long `rollback` takes until it returns, and what was answered by the old release after that."""
    if versions.current().production != first:
        versions.promote(first, by="bench", why="before")
    took, late, dropped, answered = [], 0, 0, 0
    # Proposed first, as a release should be: the processes load it before it is promoted.
    versions.propose(second, by="bench", why="next")
    with gateways.Child("--processes", str(processes), "--running", "16", "--queue", "64") as gateway:
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

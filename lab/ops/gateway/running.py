"""Runs a gateway: binds the port, starts its processes, ends them in order, and replaces one that dies.

All processes accept from one listening socket, which lives as long as the gateway: a connection that waits when a process dies is
accepted by another.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from lab.engines.http.running import KEEP_ALIVE_S, Server, bound, end_with, in_event_loop, until_signal
from lab.errors import LabError
from lab.ops import requests
from lab.ops.gateway.app import App
from lab.ops.gateway.keys import load as load_keys
from lab.ops.gateway.protocol import limited
from lab.ops.gateway.settings import GatewaySettings
from lab.ops.gateway.watcher import Watcher

BACKLOG = 1024
START_S = 180.0
DEAF_S = 0.2
AGAIN_S = 1.0
BEAT_S = 1.0
HUNG = 75
"""Exit code of a process whose engine hangs (`EX_TEMPFAIL`)."""
Say = Callable[[str], None]


def run(settings: GatewaySettings, *, say: Say = print) -> None:
    """Serve until SIGINT or SIGTERM. Raises `LabError` for what keeps it from serving."""
    if settings.keys is not None:
        load_keys(settings.keys)
    place = requests.folder()
    _secret(place)
    with bound(settings.host, settings.port) as listening, tempfile.TemporaryDirectory(prefix="lab-gateway-") as metrics:
        listening.listen(BACKLOG)
        address = listening.getsockname()[1]
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host

        def ready() -> None:
            say(f"Gateway on http://{shown}:{address}/v1 follows {settings.alias} (stop with Ctrl-C)")

        with Watcher(say):
            if settings.processes == 1:
                one_process(settings, listening, Path(metrics), ready)
            else:
                _Supervisor(settings, listening, Path(metrics)).run(ready)


def worker(given: str) -> None:
    """One of several processes; `given` is what the supervisor tells it."""
    told = json.loads(given)
    tied = socket.socket(fileno=told["tie"])
    threading.Thread(target=end_with, args=(tied,), daemon=True).start()
    with socket.socket(fileno=told["listen"]) as listening:
        one_process(_settings_of(told["settings"]), listening, Path(told["metrics"]), lambda: tied.sendall(b"ready\n"),
                    lambda: tied.send(b".", socket.MSG_DONTWAIT))


def one_process(
    settings: GatewaySettings, listening: socket.socket, metrics: Path, ready: Callable[[], None],
    beat: Callable[[], object] = lambda: None,
) -> None:
    place = requests.folder()
    in_event_loop(_serve(settings, listening, place, metrics, ready, beat))


async def _serve(
    settings: GatewaySettings, listening: socket.socket, place: Path, metrics: Path, ready: Callable[[], None],
    beat: Callable[[], object],
) -> None:
    app = App(settings, place=place, secret=_secret(place), metrics=metrics, hung=lambda: app.spawn(_give_up(app, server)))
    app.start()
    app.spawn(_beat(beat))
    # What is there at the start is loaded before the first request; a gateway may also start before its first release.
    with contextlib.suppress(Exception):
        await app.loaded.current()
    server = server_of(app, settings)
    await until_signal(
        server, listening, ready, lambda stopping, asked: _drain(app, server, stopping, asked, settings.drain_s), app.stop)


async def _beat(beat: Callable[[], object]) -> None:
    """Tell the supervisor again and again that the event loop turns."""
    while True:
        with contextlib.suppress(OSError):
            beat()
        await asyncio.sleep(BEAT_S)


async def _give_up(app: App, server: Server) -> None:
    """The engine hangs in a call that nobody can end: let the rows of its requests be written, then end the process."""
    for listener in server.servers:
        listener.close()
    until = time.monotonic() + 2.0
    while app.busy and time.monotonic() < until:
        await asyncio.sleep(0.02)
    print(f"lab: {app.hanging} The process ends" + (" and is replaced." if app.settings.processes > 1 else "; start it again."),
          file=sys.stderr, flush=True)
    os._exit(HUNG)


def server_of(app: App, settings: GatewaySettings) -> Server:
    """uvicorn for an application, with the limits of its settings."""
    return Server(uvicorn.Config(
        app, http=limited(settings.head_s, settings.connections), lifespan="off", ws="none", access_log=False, log_config=None,
        log_level="critical", server_header=False, timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=2, backlog=BACKLOG))


async def _drain(app: App, server: Server, stopping: asyncio.Event, asked: list[int], drain_s: float) -> None:
    """After a signal: accept nothing more, let open answers end, cut off what is left after a while or at a second signal."""
    await stopping.wait()
    for listener in server.servers:
        listener.close()
    # What was accepted just now is still answered: only a request on a connection that was open already is turned away.
    await asyncio.sleep(0.05)
    app.draining = True
    until = time.monotonic() + drain_s
    while app.busy and time.monotonic() < until and len(asked) < 2:
        await asyncio.sleep(0.02)
    for exchange in list(app.open.values()):
        exchange.stop(exchange)
        exchange.fail(503, "draining", "The gateway is stopping; the answer was cut off.")
    until = time.monotonic() + 1.0
    while app.busy and time.monotonic() < until:
        await asyncio.sleep(0.02)
    server.should_exit = True


class _Supervisor:
    """Starts the processes and keeps as many running until it is told to stop."""

    def __init__(self, settings: GatewaySettings, listening: socket.socket, metrics: Path) -> None:
        self._settings, self._listening, self._metrics = settings, listening, metrics
        self._stopping: list[int] = []
        self._running: dict[subprocess.Popen[bytes], socket.socket] = {}
        self._heard: dict[subprocess.Popen[bytes], tuple[float, bool]] = {}
        """When each process last said something, and whether it has said that it is ready."""

    def run(self, ready: Callable[[], None]) -> None:
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for _ in range(self._settings.processes):
                self._start()
            for process, tied in list(self._running.items()):
                self._wait(process, tied)
            if not self._stopping:
                ready()
            while not self._stopping:
                self._listen()
                self._replace()
                time.sleep(0.05)
            self._end()
        finally:
            for process in self._running:
                with contextlib.suppress(OSError):
                    process.kill()
                process.wait(10)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _frame: object) -> None:
        self._stopping.append(number)
        if len(self._stopping) > 1:  # again: at once
            self._tell(signal.SIGTERM)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            told = json.dumps({"tie": theirs.fileno(), "listen": self._listening.fileno(), "metrics": str(self._metrics),
                               "settings": _as_json(self._settings)})
            process = subprocess.Popen(
                [sys.executable, "-m", "lab.ops.gateway.worker", told], stdin=subprocess.DEVNULL, start_new_session=True,
                pass_fds=[theirs.fileno(), self._listening.fileno()])
        self._running[process] = ours
        self._heard[process] = time.monotonic(), False

    def _wait(self, process: subprocess.Popen[bytes], tied: socket.socket) -> None:
        until, said = time.monotonic() + START_S, b"."
        try:
            while said and b"ready" not in said:
                tied.settimeout(max(0.001, until - time.monotonic()))
                said = tied.recv(4096)
        except TimeoutError:
            raise LabError(f"A gateway process did not start within {START_S:g} s; start fewer of them.") from None
        if not said and not self._stopping:
            raise LabError("A gateway process ended while it started; its reason stands above.")
        self._heard[process] = time.monotonic(), True

    def _listen(self) -> None:
        """Kill a process that has not said for long that its event loop turns; it holds connections nobody answers."""
        for process, tied in self._running.items():
            tied.setblocking(False)
            heard, ready = self._heard[process]
            with contextlib.suppress(OSError):
                if said := tied.recv(4096):
                    self._heard[process] = time.monotonic(), ready or b"ready" in said
                    continue
            if time.monotonic() - heard > (self._settings.silent_s if ready else START_S):
                print(f"lab: Gateway process {process.pid} was silent for too long; it is killed and replaced.", file=sys.stderr)
                process.kill()
                process.wait(10)

    def _replace(self) -> None:
        for process in [one for one in self._running if one.poll() is not None]:
            self._running.pop(process).close()
            del self._heard[process]
            time.sleep(AGAIN_S if process.returncode not in (0, HUNG, -signal.SIGKILL) else 0)
            self._start()

    def _end(self) -> None:
        self._tell(signal.SIGTERM)
        time.sleep(DEAF_S)
        self._listening.close()  # the last copy: from here on a new connection is refused and does not wait for nobody
        until = time.monotonic() + self._settings.drain_s + 10
        while any(one.poll() is None for one in self._running) and time.monotonic() < until:
            time.sleep(0.05)

    def _tell(self, number: int) -> None:
        for process in self._running:
            with contextlib.suppress(OSError):
                process.send_signal(number)


def _as_json(settings: GatewaySettings) -> dict[str, Any]:
    return {**dataclasses.asdict(settings), "keys": str(settings.keys.resolve()) if settings.keys else None}


def _settings_of(given: dict[str, Any]) -> GatewaySettings:
    return GatewaySettings(**{**given, "keys": Path(given["keys"]) if given["keys"] else None,
                              "keep": requests.Keep(**given["keep"]), "fallbacks": tuple(given["fallbacks"])})


def _secret(place: Path) -> bytes:
    """The secret with which users are hashed: made once beside the log, the same for every process and after a restart."""
    file = place / "users.secret"
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            partial = place / f".users.secret.{os.getpid()}"
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.write(descriptor, secrets.token_bytes(32))
            os.close(descriptor)
            with contextlib.suppress(FileExistsError):
                os.link(partial, file)  # whoever is first wins, and everybody reads the same
            partial.unlink()
        return file.read_bytes()
    except OSError as error:
        raise LabError(f"The folder of the request log {place} cannot be used ({error.strerror}); mend it.") from error

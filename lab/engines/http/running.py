"""Runs the server: binds the port, loads the model, serves until a signal, lets streams in flight end, and leaves."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from lab.addresses import loopback, refuse_empty
from lab.engines.http.app import App
from lab.engines.http.gathering import GatheringProtocol
from lab.engines.http.served import Served, ServeSettings, open_served
from lab.engines.http.step_loop import News
from lab.errors import LabError

T = TypeVar("T")
DRAIN_S = 5.0
KEEP_ALIVE_S = 75
"""Idle connections stay open this long: a client that measures must not pay for new ones."""


def serve(
    model: str, settings: ServeSettings, *, host: str = "127.0.0.1", port: int = 8080, key_env: str = "",
    tie: int | None = None, say: Callable[[str], None] = print,
) -> None:
    """Serve `model` until SIGINT or SIGTERM. Raises `LabError` for what keeps it from serving.

    `key_env` names the environment variable with the key that clients must send. `tie` is the number of a connected
    socket: the server reports its port there, and ends at once when the other side closes or its parent dies.
    """
    refuse_empty(host)
    key = _key(key_env)
    if not key and not loopback(host):
        raise LabError(f"Without a key a model is served on 127.0.0.1 only, not on {host}; set an environment variable to one "
                       "and name it with --key-env.")
    tied = socket.socket(fileno=tie) if tie is not None else None
    if tied is not None:
        threading.Thread(target=end_with, args=(tied,), daemon=True).start()
    with bound(host, port) as listening:
        served = open_served(model, settings)
        address = listening.getsockname()[1]

        def ready() -> None:
            if tied is not None:
                tied.sendall(json.dumps({"port": address}).encode() + b"\n")
            shown = f"[{host}]" if ":" in host else host
            say(f"{served.name} on http://{shown}:{address}/v1 (stop with Ctrl-C)")

        if in_event_loop(_serve(served, listening, key, ready)):
            served.close()


async def _serve(served: Served, listening: socket.socket, key: str, ready: Callable[[], None]) -> bool:
    """Serve; True when the step loop has ended, so that the model can be freed."""
    app = App(served, key=key)
    app.start()
    config = uvicorn.Config(
        app, http=GatheringProtocol, lifespan="off", ws="none", access_log=False, log_config=None, log_level="critical",
        server_header=False, timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=2)
    server = Server(config)
    return await until_signal(
        server, listening, ready, lambda stopping, asked: _drain(app, server, stopping, asked), app.steps.stop)


def in_event_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end, in uvloop's event loop where there is one (not on Windows)."""
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        return runner.run(main)


def keep_loaded() -> None:
    """Take what is loaded by now out of the garbage collector's sight: modules and models live as long as the process.

    A full collection over the objects of all imported packages holds the interpreter for 0.1 to 0.2 s, and every stream with it.
    """
    gc.collect()
    gc.freeze()


Drain = Callable[[asyncio.Event, list[int]], Coroutine[Any, Any, None]]


async def until_signal(
    server: Server, listening: socket.socket, ready: Callable[[], None], drain: Drain, end: Callable[[], T],
) -> T:
    """Serve until `drain` ends the server, which SIGINT or SIGTERM begins; what `end`, called in a thread, returns.

    `drain` is given an event that a signal sets, and the signals so far. `ready` is called once the server accepts.
    """
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    asked: list[int] = []

    def stop(number: int, _frame: object) -> None:
        asked.append(number)
        loop.call_soon_threadsafe(stopping.set)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    draining, saying = asyncio.create_task(drain(stopping, asked)), asyncio.create_task(_say(server, ready))
    keep_loaded()
    try:
        await server.serve(sockets=[listening])
    finally:
        saying.cancel()
        draining.cancel()
        ended = await asyncio.to_thread(end)
        for number, handler in before.items():
            signal.signal(number, handler)
    return ended


async def _say(server: Server, ready: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.005)
    ready()


async def _drain(app: App, server: Server, stopping: asyncio.Event, asked: list[int]) -> None:
    """After a signal: refuse what is new, wait for what is open, cut it off after `DRAIN_S` or at a second signal."""
    await stopping.wait()
    app.draining = True
    until = time.monotonic() + DRAIN_S
    while app.open and time.monotonic() < until and len(asked) < 2:
        await asyncio.sleep(0.02)
    for reply in list(app.open.values()):
        reply.take(News(error="The server is stopping; the answer was cut off.", status=503))
    until = time.monotonic() + 1.0
    while app.open and time.monotonic() < until:
        await asyncio.sleep(0.02)
    server.should_exit = True


class Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would raise the signal again at the end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _key(name: str) -> str:
    if not name:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise LabError(f"--key-env names {name}, and that variable is empty; set it to the key that clients must send.")
    if not (key.isascii() and key.isprintable()):
        raise LabError(f"The key in {name} has characters that no header can carry; choose another.")
    return key


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to the address before the model is loaded, so that a taken port is found out at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # asyncio turns Nagle's algorithm off only where it sees that the protocol is TCP: without it tokens wait for ACKs.
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise LabError(f"'{host}' is no address to listen on ({error.strerror}); give --host 127.0.0.1 or another of this "
                       "machine.") from error
    with listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
        except OSError as error:
            raise LabError(f"Port {port} of {host} cannot be used ({error.strerror}); choose another with --port.") from error
        yield listening


def end_with(tied: socket.socket) -> None:
    """End this process when the other side of `tied` closes, or when the parent has died and a copy holds it open."""
    parent = os.getppid()
    while os.getppid() == parent:
        readable, _, _ = select.select([tied], [], [], 0.5)
        try:
            if readable and not tied.recv(4096):
                break
        except OSError:  # reset: the other side closed with words of ours unread
            break
    os._exit(0)

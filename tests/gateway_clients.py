"""What tests of the gateway ask with: a gateway in this process or as it is started at a prompt, a client, and a load of many."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.engines.http.running import bound
from lab.ops import requests
from lab.ops.gateway import GatewaySettings, running
from lab.ops.gateway.app import App

CHAT = "/v1/chat/completions"


def chat(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


@dataclass
class Reply:
    """An HTTP answer; a stream's text and reason are put together."""

    status: int
    headers: dict[str, str]
    raw: bytes
    events: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def id(self) -> str:
        return self.headers["x-request-id"]

    @property
    def release(self) -> str:
        return self.headers.get("x-lab-release", "")

    @property
    def text(self) -> str:
        if self.events:
            return "".join(c["delta"].get("content", "") for e in self.events for c in e.get("choices", []))
        return str(self.json["choices"][0]["message"]["content"])

    @property
    def reason(self) -> str:
        if self.events:
            return next(c["finish_reason"] for e in reversed(self.events) for c in e.get("choices", []) if c["finish_reason"])
        return str(self.json["choices"][0]["finish_reason"])


def ask(port: int, body: Any, path: str = CHAT, method: str = "POST", key: str = "", timeout: float = 30.0) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, raw if method == "POST" else None, {"Authorization": f"Bearer {key}"} if key else {})
        response = connection.getresponse()
        read = response.read()
        made = Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, read)
        if "event-stream" in made.headers.get("content-type", ""):
            lines = [part.removeprefix("data: ") for part in read.decode().split("\n\n") if part]
            made.done = lines[-1] == "[DONE]"
            made.events = [json.loads(line) for line in lines if line != "[DONE]"]
        return made
    finally:
        connection.close()


def until(check: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


class Here:
    """A gateway in a thread of this process."""

    def __init__(self, **given: Any) -> None:
        self.settings = GatewaySettings(**{"port": 0, "traces_per_s": 0.0, **given})
        self._metrics = tempfile.mkdtemp()
        self._ready, self._failed = threading.Event(), list[BaseException]()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(60)
        if self._failed:
            raise self._failed[0]

    def _run(self) -> None:
        try:
            with bound("127.0.0.1", 0) as listening:
                self.port = listening.getsockname()[1]
                asyncio.run(self._serve(listening))
        except BaseException as error:  # it belongs to the test
            self._failed.append(error)
        finally:
            self._ready.set()

    async def _serve(self, listening: socket.socket) -> None:
        place = requests.folder()
        self.app = App(self.settings, place=place, secret=running._secret(place), metrics=Path(self._metrics))
        self.app.start()
        with contextlib.suppress(Exception):
            await self.app.loaded.current()
        self.server = running.server_of(self.app, self.settings)
        task = asyncio.create_task(self.server.serve(sockets=[listening]))
        while not self.server.started:
            await asyncio.sleep(0.005)
        self._ready.set()
        await task
        await asyncio.to_thread(self.app.stop)

    def close(self) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        shutil.rmtree(self._metrics, ignore_errors=True)

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Processes:
    """`lab gateway` with two processes, as it is started at a prompt."""

    def __init__(self, home: Path, *more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lab", "gateway", "--port", "0", "--processes", "2", "--traces-per-s", "0", *more],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "LAB_HOME": str(home)})
        assert self.process.stdout is not None
        said = re.search(r":(\d+)/v1", self.process.stdout.readline())
        assert said is not None
        self.port = int(said[1])

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def workers(self) -> list[int]:
        listed = subprocess.run(["ps", "--ppid", str(self.process.pid), "-o", "pid=,stat="], capture_output=True, text=True).stdout
        return [int(pid) for pid, state in map(str.split, listed.splitlines()) if not state.startswith("Z")]


class Load:
    """Clients that ask one request after the other until they are stopped; what each got, and when it was sent."""

    def __init__(self, port: int, clients: int = 6) -> None:
        self.got: list[tuple[float, Reply | None]] = []
        self._port, self._stop = port, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, i: int) -> None:
        while not self._stop.is_set():
            sent = time.monotonic()
            try:
                self.got.append((sent, ask(self._port, chat(f"question of {i}", stream=i % 2 == 0, ignore_eos=True))))
            except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError):
                self.got.append((sent, None))

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def complete(reply: Reply | None) -> bool:
    """Whether the client has read the end of a good answer."""
    return reply is not None and reply.status == 200 and (reply.done or not reply.events) and not any("error" in e for e in reply.events)

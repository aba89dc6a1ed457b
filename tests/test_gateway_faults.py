"""Faults that a gateway has to survive: killed processes, a full disk, a store that is away, an engine that hangs, hostile clients."""

from __future__ import annotations

import http.client
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gateway_clients import CHAT, Here, Load, Processes, Reply, ask, chat, complete, until

from lab.engines.http.child import Child
from lab.engines.http.served import ServeSettings
from lab.ops import requests, versions
from lab.ops.gateway import openapi


@pytest.fixture
def store(fresh_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of one test, with a scripted release in production."""
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("LAB_USER", "ana")
    versions.promote(release(tmp_path, model="markov", engine="scripted", engine_settings={"tpot_s": 0.002}), by="ana", why="first")
    return fresh_store


def release(folder: Path, **given: Any) -> int:
    (folder / "prompt.txt").write_text("Be brief.")
    return versions.create(prompt=str(folder / "prompt.txt"), decoding={"max_tokens": "12"}, **given).release.number


def whole(replies: list[tuple[float, Reply | None]]) -> None:
    """What was acknowledged is in the log, and nothing is there twice."""
    acknowledged = {reply.id for _, reply in replies if reply is not None and complete(reply)}
    there = list(requests.frame(columns=["request_id"])["request_id"])
    assert acknowledged and acknowledged <= set(there) and len(there) == len(set(there))


# Processes


@pytest.mark.slow
def test_killing_processes_again_and_again_under_load_loses_and_doubles_nothing(store: Path) -> None:
    chance, gateways = random.Random(1), Processes(store)
    try:
        load = Load(gateways.port, 8)
        for _ in range(5):
            enough = len(load.got) + 40
            until(lambda enough=enough: len(load.got) > enough)
            time.sleep(chance.random() * 0.3)
            os.kill(chance.choice(gateways.workers), signal.SIGKILL)
        until(lambda: len(gateways.workers) == 2)
        after = time.monotonic()
        until(lambda: sum(complete(reply) for sent, reply in load.got if sent > after) > 50)
        load.stop()
        whole(load.got)
    finally:
        gateways.close()


@pytest.mark.slow
def test_a_process_that_stands_still_is_killed_and_replaced(store: Path) -> None:
    gateways = Processes(store, "--silent-s", "2")
    try:
        victim = gateways.workers[0]
        os.kill(victim, signal.SIGSTOP)
        until(lambda: victim not in gateways.workers and len(gateways.workers) == 2, 30)
        until(lambda: complete(ask(gateways.port, chat(), timeout=5)), 30)
    finally:
        gateways.close()


@pytest.mark.slow
def test_a_supervisor_that_is_killed_takes_its_processes_with_it(store: Path) -> None:
    gateways = Processes(store)
    workers = gateways.workers
    gateways.process.kill()
    gateways.process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    with pytest.raises(ConnectionRefusedError):
        ask(gateways.port, chat())


@pytest.mark.slow
def test_an_engine_that_is_killed_under_load_breaks_answers_and_pretends_nothing(store: Path, tmp_path: Path) -> None:
    child = Child("markov", ServeSettings(engine="scripted", step_ms=4.0))
    number = release(tmp_path, model=f"http://127.0.0.1:{child.port}/v1", engine="server", engine_settings={"key_env": "LAB_NO_KEY"})
    versions.promote(number, by="ana", why="remote")
    try:
        with Here() as here:
            load = Load(here.port)
            until(lambda: sum(complete(reply) for _, reply in load.got) > 30)
            os.kill(child.pid, signal.SIGKILL)
            until(lambda: sum(reply is not None and reply.status == 502 for _, reply in load.got) > 3)
            load.stop()
            assert all(reply is not None for _, reply in load.got), "a connection broke instead of an error"
            assert "left alone" in str(ask(here.port, b"", "/health", "GET").json["troubles"])
        whole(load.got)
    finally:
        child.close()


def test_an_engine_that_hangs_gives_504_then_503_and_the_process_says_that_it_must_end(store: Path) -> None:
    with Here(first_s=0.4, stall_s=0.4) as here:
        serving = here.app.loaded.now()
        assert serving is not None
        serving.backend.served.core._pace_s = 3.0  # the engine's thread sleeps in its next step
        first = ask(here.port, chat())
        assert first.status == 504 and first.json["error"]["code"] in ("timeout", "engine_hangs")
        until(lambda: here.app.hanging)
        again = ask(here.port, chat())
        assert again.status == 503 and again.json["error"]["code"] == "engine_hangs" and int(again.headers["retry-after"]) >= 1
        ready = ask(here.port, b"", "/ready", "GET")
        assert ready.status == 503 and "hung" in str(ready.json["troubles"])
        assert first.id in set(requests.frame(columns=["request_id"])["request_id"])
        serving.backend.served.core._pace_s = 0.0


# Disk, store, clock


def test_a_full_disk_stops_answers_and_not_the_process_and_room_mends_it(store: Path) -> None:
    gateways = Processes(store, "--processes", "1")
    pid = gateways.process.pid
    try:
        load = Load(gateways.port)
        until(lambda: sum(complete(reply) for _, reply in load.got) > 20)
        # Every write beyond fails as on a full disk; less than a frame of the write-ahead log fits, also after a checkpoint.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
        until(lambda: any(reply is not None and reply.status == 503 for _, reply in load.got))
        load.stop()
        assert ask(gateways.port, b"", "/ready", "GET").status == 503
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        until(lambda: ask(gateways.port, b"", "/ready", "GET").status == 200)
        assert complete(ask(gateways.port, chat())) and gateways.process.poll() is None
        whole(load.got)
    finally:
        gateways.close()


@pytest.mark.slow
def test_a_store_server_that_dies_under_load_is_said_and_the_last_known_release_goes_on(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{store}/mlruns/mlflow.db", "--host", "127.0.0.1",
         "--port", str(port), "--workers", "1", "--artifacts-destination", str(store / "artifacts")],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True)
    try:
        until(lambda: _listens(port), 60)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with Here() as here:
            assert ask(here.port, b"", "/health", "GET").json["store"] == "ok"
            load = Load(here.port)
            until(lambda: sum(complete(reply) for _, reply in load.got) > 20)
            os.killpg(server.pid, signal.SIGKILL)
            until(lambda: ask(here.port, b"", "/health", "GET").json["store"] == "not answering", 40)
            said = ask(here.port, b"", "/health", "GET").json
            assert said["status"] == "degraded" and said["ready"] and "last known release" in str(said["troubles"])
            load.stop()
            assert all(complete(reply) for _, reply in load.got), "a request failed because the store was away"
            whole(load.got)
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_clock_set_back_loses_no_row_and_renews_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = time.time
    with Here() as here:
        first = ask(here.port, chat())
        monkeypatch.setattr(time, "time", lambda: wall() - 3 * 86_400)
        second = ask(here.port, chat(stream=True))
        monkeypatch.setattr(time, "time", wall)
        assert complete(first) and complete(second)
        time.sleep(1.5)  # the keeper looks at what is old
    rows = requests.frame(columns=["request_id", "time_s", "ttft_s", "e2e_s"]).set_index("request_id")
    assert {first.id, second.id} <= set(rows.index) and (rows["ttft_s"] >= 0).all() and (rows["e2e_s"] >= rows["ttft_s"]).all()
    assert rows.loc[second.id, "time_s"] < rows.loc[first.id, "time_s"]


# Hostile clients


def test_clients_that_drip_their_heads_byte_by_byte_are_cut_off_while_others_are_answered(store: Path) -> None:
    with Here(head_s=0.5, body_s=0.5) as here, ThreadPoolExecutor(30) as pool:
        dripping = [pool.submit(_drip, here.port, i % 2 == 0) for i in range(30)]
        for _ in range(5):
            assert complete(ask(here.port, chat()))
        assert {one.result() for one in dripping} == {408}


def _drip(port: int, whole_head: bool) -> int:
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        if whole_head:
            connection.sendall(head)
        for byte in b" " * 400 if whole_head else head + b" " * 400:
            try:
                connection.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.02)
            connection.settimeout(0.001)
            try:
                if said := connection.recv(4096):
                    return int(said.split(b" ")[1])
            except TimeoutError:
                pass
            connection.settimeout(20)
        return int((connection.recv(4096) or b"x 0").split(b" ")[1])


def test_connections_beyond_the_limit_are_refused_and_leave_room_when_they_go(store: Path) -> None:
    with Here(connections=20) as here:
        held = [socket.create_connection(("127.0.0.1", here.port), timeout=5) for _ in range(20)]
        until(lambda: len(here.server.server_state.connections) >= 20)
        assert ask(here.port, b"", "/health", "GET").status == 503
        for one in held:
            one.close()
        until(lambda: _status(here.port) == 200)


def _status(port: int) -> int:
    try:
        return ask(port, b"", "/health", "GET").status
    except (OSError, http.client.HTTPException):
        return 0


@pytest.fixture
def documented(store: Path) -> Iterator[tuple[Here, dict[str, Any]]]:
    with Here() as here:
        yield here, json.loads(ask(here.port, b"", "/openapi.json", "GET").raw)


@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_requests_generated_from_its_document_are_answered_as_the_document_says(
    documented: tuple[Here, dict[str, Any]], count: int
) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis import GenerationMode

    here, document = documented
    assert set(document["paths"]) == set(openapi.document()["paths"])
    loaded = schemathesis.openapi.from_dict(document)
    loaded.config.update(base_url=f"http://127.0.0.1:{here.port}")
    loaded.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    statuses: dict[int, int] = {}
    operations = [one.ok() for one in loaded.get_all_operations()]
    for operation in operations:
        share = count * 9 // 10 if operation.path == CHAT else count // (10 * (len(operations) - 1))

        @settings(max_examples=max(1, share), deadline=None, database=None, derandomize=True,
                  suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def answered(case: Any) -> None:
            response = case.call(timeout=60)  # a valid request may ask for thousands of tokens
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            assert response.status_code < 500, response.text
            case.validate_response(response, checks=[schemathesis.checks.response_schema_conformance,
                                                     schemathesis.checks.status_code_conformance,
                                                     schemathesis.checks.content_type_conformance])

        answered()
    assert statuses.get(400, 0) > 0 and complete(ask(here.port, chat()))


def test_many_threads_of_clients_that_leave_in_the_middle_leave_nothing_open(store: Path) -> None:
    with Here() as here:
        def leave() -> None:
            body = json.dumps(chat(max_tokens=500, ignore_eos=True, stream=True)).encode()
            with socket.create_connection(("127.0.0.1", here.port), timeout=20) as connection:
                connection.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
                connection.recv(100)

        threads = [threading.Thread(target=leave) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: not here.app.busy and not here.app.open)
        assert complete(ask(here.port, chat()))

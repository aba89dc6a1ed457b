"""Laws of `lab serve`: what HTTP adds changes no token, and nobody's mistake or absence harms another."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lab.engines.http import running
from lab.engines.http.child import Child
from lab.engines.http.served import PacedCore, ServeSettings, open_served
from lab.engines.http.step_loop import Delivery, News, StepLoop, Ticket
from lab.errors import LabError
from lab.records import Decoding, Message, Request

FAST = ServeSettings(engine="scripted", step_ms=0.0, context_tokens=2048)
PROMPTS = ["The capital of France is", "Llamas 🦙 and émigrés:", "x", "a b c a b c a b c a b c"]


@pytest.fixture(scope="module")
def fast() -> Iterator[Child]:
    child = Child("markov", FAST)
    yield child
    child.close()


def connect(child: Child | int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", child if isinstance(child, int) else child.port, timeout=30)


def ask(child: Child | int, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any], Any]:
    """(status, headers, answer) of a POST; the answer is JSON, or the list of events of a stream."""
    connection = connect(child)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, raw, headers)
    response = connection.getresponse()
    read = response.read()
    connection.close()
    answer = events(read) if "event-stream" in (response.getheader("content-type") or "") else json.loads(read)
    return response.status, {k.lower(): v for k, v in response.getheaders()}, answer


def events(read: bytes) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in read.decode().split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def text_of(streamed: list[dict[str, Any]]) -> str:
    return "".join(c["delta"].get("content", "") if "delta" in c else c["text"] for e in streamed for c in e["choices"])


def metrics(child: Child | int) -> dict[str, float]:
    connection = connect(child)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    values = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name.replace('model_name="markov"', "").replace("{}", "").replace("{,", "{"): float(value) for name, _, value in values}


def until(check: Any, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if check():
            return True
        time.sleep(0.01)
    return False


def in_process(source: dict[str, Any], decoding: Decoding) -> str:
    """The text of the same request by the scheduler alone."""
    served = open_served("markov", FAST)
    scheduler = served.scheduler(lambda job: None)
    job = scheduler.submit(Request(prompt="", decoding=decoding), served.engine.prompt_tokens(Request(**source)))
    while not scheduler.idle:
        scheduler.step()
    return job.generation().text


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "completion"])
@pytest.mark.parametrize(("sampling", "stop"), [(0.0, ()), (0.9, ()), (1.3, ("e", "\n"))])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_streamed_text_is_the_whole_text_and_the_schedulers(fast: Child, chat: bool, sampling: float, stop: tuple[str, ...], prompt: str) -> None:
    path = "/v1/chat/completions" if chat else "/v1/completions"
    source = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    body = {**source, "max_tokens": 60, "temperature": sampling, "seed": 7, "stop": list(stop), "top_k": 40, "min_p": 0.01}
    _, _, whole = ask(fast, path, body)
    _, _, streamed = ask(fast, path, {**body, "stream": True})
    text = whole["choices"][0]["message"]["content"] if chat else whole["choices"][0]["text"]
    decoding = Decoding(max_tokens=60, temperature=sampling, seed=7, stop=stop, top_k=40, min_p=0.01)
    asked = {"messages": (Message(role="user", content=prompt),)} if chat else {"prompt": prompt}
    assert text_of(streamed) == text == in_process(asked, decoding)
    assert streamed[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_concurrent_clients_get_what_each_gets_alone(fast: Child) -> None:
    bodies = [{"prompt": f"{PROMPTS[i % 4]} {i}", "max_tokens": 20 + i, "temperature": i % 3 / 2, "seed": i, "stream": i % 4 > 0,
               "ignore_eos": True} for i in range(24)]

    def text(body: dict[str, Any]) -> str:
        status, _, answer = ask(fast, "/v1/completions", body)
        assert status == 200
        return text_of(answer) if body["stream"] else answer["choices"][0]["text"]

    alone = [text(body) for body in bodies]
    with ThreadPoolExecutor(24) as clients:
        assert list(clients.map(text, bodies)) == alone


def test_every_token_is_in_one_event_and_every_event_but_the_last_has_text(fast: Child) -> None:
    body = {"prompt": PROMPTS[1], "max_tokens": 80, "temperature": 1.5, "seed": 3, "ignore_eos": True, "return_token_ids": True}
    _, _, whole = ask(fast, "/v1/completions", body)
    _, _, streamed = ask(fast, "/v1/completions", {**body, "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}})
    choices = [e["choices"][0] for e in streamed[:-1]]
    assert [t for c in choices for t in c["token_ids"]] == whole["choices"][0]["token_ids"]
    assert all(c["text"] and c["token_ids"] for c in choices[:-1])
    assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["length"]
    assert choices[0]["prompt_token_ids"] == whole["choices"][0]["prompt_token_ids"] == list(PROMPTS[1].encode())
    sent = [e["usage"]["completion_tokens"] for e in streamed]
    assert sent == sorted(sent) and sent[-1] == 80


def test_a_chat_stream_opens_with_the_role_and_no_text(fast: Child) -> None:
    _, _, streamed = ask(fast, "/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "stream": True, "max_tokens": 4})
    assert streamed[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert not any("usage" in e for e in streamed)


def test_usage_says_what_was_cached(fast: Child) -> None:
    body = {"prompt": list(range(100, 200)), "max_tokens": 3, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
    first, second = (ask(fast, "/v1/completions", body)[2][-1]["usage"] for _ in range(2))
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["prompt_tokens_details"]["cached_tokens"] == 99
    assert (first["prompt_tokens"], first["completion_tokens"], first["total_tokens"]) == (100, 3, 103)


def test_speculation_changes_no_token_and_is_counted(fast: Child) -> None:
    body = {"prompt": "abcabcabcabcabcabc" * 8, "max_tokens": 200, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    plain = ask(fast, "/v1/completions", body)[2]
    child = Child("markov", ServeSettings(engine="scripted", step_ms=0.0, draft="session_ngram", draft_tokens=4))
    try:
        streamed = ask(child, "/v1/completions", {**body, "stream": True})[2]
        drafted = ask(child, "/v1/completions", body)[2]  # the session knows it by now
        counted = metrics(child)
    finally:
        child.close()
    assert drafted["choices"][0]["token_ids"] == plain["choices"][0]["token_ids"]
    assert text_of(streamed) == plain["choices"][0]["text"]
    details = drafted["usage"]["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] > 0
    assert counted["lab:spec_decode_num_accepted_tokens_total"] >= details["accepted_prediction_tokens"]
    assert "completion_tokens_details" not in plain["usage"]


def test_metrics_add_up(fast: Child) -> None:
    before = metrics(fast)
    ask(fast, "/v1/completions", {"prompt": "abc", "max_tokens": 11, "ignore_eos": True})
    after = metrics(fast)
    added = {name: after[name] - before.get(name, 0.0) for name in after if after[name] != before.get(name)}
    added.pop("lab:time_to_first_token_seconds_sum")
    assert {k: v for k, v in added.items() if "bucket" not in k and "kv_cache" not in k} == {
        "lab:prompt_tokens_total": 3, "lab:generation_tokens_total": 11, "lab:prefix_cache_queries_total": 3,
        'lab:request_success_total{finished_reason="length"}': 1, "lab:time_to_first_token_seconds_count": 1}
    assert after['lab:time_to_first_token_seconds_bucket{le="+Inf"}'] == after["lab:time_to_first_token_seconds_count"]


def test_a_server_says_what_it_serves_and_with_which_settings() -> None:
    settings = ServeSettings(engine="scripted", step_ms=1.5, context_tokens=300, max_running=3, queue=5, prefix_cache=False, token_budget=77)
    child = Child("markov", settings)
    try:
        connection = connect(child)
        connection.request("GET", "/v1/models")
        model = json.loads(connection.getresponse().read())["data"][0]
    finally:
        child.close()
    assert (model["id"], model["max_model_len"]) == ("markov", 300)
    assert {k: model["settings"][k] for k in ("step_ms", "max_running", "queue", "prefix_cache", "token_budget", "engine")} == {
        "step_ms": 1.5, "max_running": 3, "queue": 5, "prefix_cache": False, "token_budget": 77, "engine": "scripted"}


CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
OK = {"prompt": "hi", "max_tokens": 2}
BAD: list[tuple[str, Any, int]] = [
    (PLAIN, b"{", 400), (PLAIN, b"[1]", 400), (PLAIN, b"\xff\xfe", 400), (PLAIN, b"[" * 100_000, 400), (PLAIN, b"", 400),
    (PLAIN, b'{"prompt":"a","temperature":NaN}', 400), (PLAIN, {}, 400), (PLAIN, {"prompt": 3}, 400),
    (PLAIN, {"prompt": ""}, 400), (PLAIN, {"prompt": []}, 400), (PLAIN, {"prompt": ["a", "b"]}, 400),
    (PLAIN, {"prompt": [1, "a"]}, 400), (PLAIN, {"prompt": [True]}, 400), (PLAIN, {"prompt": [999999]}, 400),
    (PLAIN, {"prompt": [-1]}, 400), (PLAIN, {"prompt": "x" * 3000}, 400), (PLAIN, {**OK, "max_tokens": 0}, 400),
    (PLAIN, {**OK, "max_tokens": -1}, 400), (PLAIN, {**OK, "max_tokens": 1e9}, 400), (PLAIN, {**OK, "max_tokens": "2"}, 400),
    (PLAIN, {**OK, "max_tokens": True}, 400), (PLAIN, {**OK, "max_completion_tokens": 3}, 400),
    (PLAIN, {**OK, "temperature": -1}, 400), (PLAIN, {**OK, "temperature": "hot"}, 400), (PLAIN, {**OK, "top_p": 0}, 400),
    (PLAIN, {**OK, "top_p": 1.1}, 400), (PLAIN, {**OK, "top_k": -2}, 400), (PLAIN, {**OK, "top_k": 1.5}, 400),
    (PLAIN, {**OK, "min_p": 2}, 400), (PLAIN, {**OK, "seed": "x"}, 400), (PLAIN, {**OK, "stop": 3}, 400),
    (PLAIN, {**OK, "stop": ["a"] * 17}, 400), (PLAIN, {**OK, "stream": "yes"}, 400), (PLAIN, {**OK, "n": 2}, 400),
    (PLAIN, {**OK, "logprobs": 0}, 400), (PLAIN, {**OK, "logprobs": True}, 400), (PLAIN, {**OK, "echo": True}, 400),
    (PLAIN, {**OK, "frequency_penalty": 0.5}, 400), (PLAIN, {**OK, "wheels": 4}, 400), (PLAIN, {**OK, "messages": []}, 400),
    (PLAIN, {**OK, "stream_options": 1}, 400), (PLAIN, {**OK, "stream_options": {"x": True}}, 400),
    (PLAIN, {**OK, "min_tokens": 2}, 400), (PLAIN, {**OK, "model": "gpt-9"}, 404), (PLAIN, {**OK, "model": 3}, 404),
    (CHAT, {"messages": []}, 400), (CHAT, {"messages": "hi"}, 400), (CHAT, {"messages": ["hi"]}, 400),
    (CHAT, {"messages": [{"role": "wizard", "content": "hi"}]}, 400), (CHAT, {"messages": [{"role": "user"}]}, 400),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400),
    (CHAT, {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]}, 400),
    (CHAT, {"messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function"}]}, 400),
    (CHAT, {"messages": [{"role": "user", "content": "hi"}], "response_format": {"type": "xml"}}, 400),
    ("/v1/nothing", {}, 404), ("/v1/models", {}, 405), ("/tokenize", {}, 400), ("/tokenize", {"prompt": 3}, 400),
    ("/detokenize", {"tokens": "a"}, 400), ("/detokenize", {"tokens": [10**9]}, 400),
    (PLAIN, b'{"prompt": "' + b"x" * 4_100_000 + b'"}', 413),
]


@pytest.mark.parametrize(("path", "body", "status"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_what_cannot_be_served_is_refused_in_one_sentence(fast: Child, path: str, body: Any, status: int) -> None:
    code, _, answer = ask(fast, path, body)
    error = answer["error"]
    assert code == status, error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(".") and "\n" not in error["message"] and len(error["message"]) < 400
    assert ask(fast, PLAIN, OK)[0] == 200


@pytest.mark.parametrize("field", [
    {"n": 1}, {"user": "me"}, {"logit_bias": {}}, {"frequency_penalty": 0.0}, {"stop": None}, {"top_k": -1}, {"logprobs": False},
    {"min_tokens": 2, "ignore_eos": True}, {"max_tokens": None}, {"seed": -5}, {"model": "markov"}, {"suffix": None},
])
def test_fields_that_change_nothing_are_taken(fast: Child, field: dict[str, Any]) -> None:
    assert ask(fast, PLAIN, {**OK, **field})[0] == 200


def test_tokens_and_text_are_each_others_inverse(fast: Child) -> None:
    tokens = ask(fast, "/tokenize", {"prompt": PROMPTS[1]})[2]
    assert tokens["count"] == len(tokens["tokens"])
    assert ask(fast, "/detokenize", {"tokens": tokens["tokens"]})[2]["prompt"] == PROMPTS[1]
    chat = ask(fast, "/tokenize", {"messages": [{"role": "user", "content": "hi"}]})[2]["tokens"]
    assert bytes(chat) == b"user: hi\n"


SLOW = ServeSettings(engine="scripted", step_ms=20.0, max_running=1, queue=1, context_tokens=2048)
LONG = {"prompt": "hi", "max_tokens": 1500, "ignore_eos": True, "stream": True}


def begun(child: Child | int, body: dict[str, Any] = LONG) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """A stream whose first event has arrived."""
    connection = connect(child)
    connection.request("POST", PLAIN, json.dumps(body))
    response = connection.getresponse()
    assert response.readline().startswith(b"data: ")
    return connection, response


@pytest.fixture
def slow() -> Iterator[Child]:
    child = Child("markov", SLOW)
    yield child
    child.close()


def test_a_full_queue_refuses_the_next_and_takes_it_when_somebody_left(slow: Child) -> None:
    running_, _ = begun(slow)
    waiting = connect(slow)
    waiting.request("POST", PLAIN, json.dumps(LONG))
    assert until(lambda: metrics(slow)["lab:num_requests_waiting"] == 1)
    status, headers, answer = ask(slow, PLAIN, OK)
    assert (status, headers["retry-after"], answer["error"]["code"]) == (429, "1", "queue_full")
    running_.close()
    assert waiting.getresponse().readline().startswith(b"data: ")
    waiting.close()
    assert until(lambda: metrics(slow)["lab:num_requests_running"] == 0)
    assert ask(slow, PLAIN, OK)[0] == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_slot_and_costs_no_more_tokens(slow: Child, stream: bool) -> None:
    if stream:
        connection, _ = begun(slow)
    else:
        connection = connect(slow)
        connection.request("POST", PLAIN, json.dumps({**LONG, "stream": False}))
        assert until(lambda: metrics(slow)["lab:generation_tokens_total"] > 0)
    connection.close()
    assert until(lambda: metrics(slow)["lab:num_requests_running"] == 0)
    tokens = metrics(slow)["lab:generation_tokens_total"]
    assert tokens < 1500
    assert ask(slow, PLAIN, OK)[0] == 200
    after = metrics(slow)
    assert after["lab:generation_tokens_total"] == tokens + 2
    assert after['lab:request_success_total{finished_reason="abort"}'] == 1


def test_a_request_that_waits_can_leave_too(slow: Child) -> None:
    first, _ = begun(slow)
    second = connect(slow)
    second.request("POST", PLAIN, json.dumps(LONG))
    assert until(lambda: metrics(slow)["lab:num_requests_waiting"] == 1)
    second.close()
    assert until(lambda: metrics(slow)["lab:num_requests_waiting"] == 0)
    assert metrics(slow)["lab:num_requests_running"] == 1
    first.close()


Start = Callable[..., tuple["subprocess.Popen[str]", int]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `lab serve` in the foreground; gives the process and its port (0: it does not serve)."""
    begun_: list[subprocess.Popen[str]] = []

    def start_(*flags: str, env: dict[str, str] | None = None) -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab", "serve", "markov", "--engine", "scripted", "--port", "0", *flags], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
        begun_.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        return process, int(line.split("/v1")[0].rpartition(":")[2]) if line else 0

    yield start_
    for process in begun_:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_streams_end_and_refuses_what_is_new(number: signal.Signals, start: Start) -> None:
    process, port = start("--step-ms", "20")
    _, response = begun(port, {**LONG, "max_tokens": 60})
    kept = connect(port)
    kept.connect()
    process.send_signal(number)
    assert until(lambda: ask(port, PLAIN, OK)[0] == 503)
    last, done = response.read().strip().split(b"\n\n")[-2:]
    assert b'"finish_reason":"length"' in last and done == b"data: [DONE]"
    assert process.wait(20) == 0
    assert process.stderr is not None and process.stderr.read() == ""


def test_a_second_signal_cuts_streams_off_with_an_error_in_them(start: Start) -> None:
    process, port = start("--step-ms", "20")
    _, response = begun(port)
    process.send_signal(signal.SIGTERM)
    assert until(lambda: ask(port, PLAIN, OK)[0] == 503)
    process.send_signal(signal.SIGTERM)
    rest = response.read().decode()
    assert "cut off" in rest and rest.endswith("data: [DONE]\n\n")
    assert process.wait(20) == 0
    assert process.stderr is not None and process.stderr.read() == ""


def test_the_key_is_asked_for_everywhere_but_at_health(start: Start) -> None:
    process, port = start("--key-env", "SERVE_TEST_KEY", env={"SERVE_TEST_KEY": "open sesame"})
    try:
        for headers in ({}, {"Authorization": "Bearer open"}, {"Authorization": "open sesame"}):
            status, _, answer = ask(port, PLAIN, OK, **headers)
            assert status == 401 and "sesame" not in json.dumps(answer)
        assert ask(port, PLAIN, OK, Authorization="Bearer open sesame")[0] == 200
        connection = connect(port)
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b'{"status": "ok"}'
    finally:
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize(("flags", "sentence"), [
    (["--key-env", "NO_SUCH_KEY_HERE"], "NO_SUCH_KEY_HERE"), (["--max-running", "0"], "max_running"),
    (["--token-budget", "3"], "token budget"), (["--draft", "smollm2-135m"], "drafts with"), (["--host", "256.1.1.1"], "256.1.1.1"),
    (["--engine", "steam"], "steam"),
])
def test_what_cannot_be_started_is_said_in_one_sentence(flags: list[str], sentence: str, start: Start) -> None:
    process, port = start(*flags)
    assert port == 0 and process.wait(20) == 2
    assert process.stderr is not None
    said = process.stderr.read()
    assert sentence in said and said.count("\n") == 1 and said.startswith("lab: ") and said.endswith(".\n")


def test_a_port_in_use_is_said_in_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = subprocess.run([sys.executable, "-m", "lab", "serve", "markov", "--engine", "scripted", "--port", str(taken.getsockname()[1])],
                              capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("lab: Port ") and done.stderr.count("\n") == 1


PARENT = """
import sys, time
from lab.engines.http.child import Child
from lab.engines.http.served import ServeSettings
child = Child("markov", ServeSettings(engine="scripted"))
print(child.pid, flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_does_not_outlive_its_parent(number: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.send_signal(number)
    parent.wait(20)
    assert until(lambda: not alive(pid))


def test_closing_ends_the_child_and_a_child_that_fails_says_why() -> None:
    child = Child("markov", FAST)
    child.close()
    child.close()
    assert not alive(child.pid)
    with pytest.raises(LabError, match="token budget of 3"):
        Child("markov", ServeSettings(engine="scripted", token_budget=3))


def test_an_engine_that_breaks_harms_only_those_it_served() -> None:
    served = open_served("markov", FAST)

    class Breaking(PacedCore):
        broken = False

        def decode(self, count: int) -> None:
            if self.broken:
                raise LabError("The engine broke, as it was told to.")
            super().decode(count)

    core = Breaking(step_s=0.002, context_tokens=2048, sequences=32, batch_tokens=512)
    served.core = core
    delivered: list[tuple[Ticket, News]] = []
    arrived = threading.Condition()

    def deliver(delivery: Delivery) -> None:
        with arrived:
            delivered.extend(delivery)
            arrived.notify()

    def ticket(tokens: int) -> Ticket:
        return Ticket(request=Request(prompt="", decoding=Decoding(max_tokens=tokens, ignore_eos=True)), tokens=[1, 2, 3], received_s=core.now())

    loop = StepLoop(served, deliver)
    loop.start()
    first, second = ticket(2000), ticket(5)
    with arrived:
        loop.submit(first)
        arrived.wait_for(lambda: delivered, 20)
        core.broken = True
        arrived.wait_for(lambda: any(news.error for _, news in delivered), 20)
        core.broken = False
        loop.submit(second)
        arrived.wait_for(lambda: any(news.generation for _, news in delivered), 20)
    assert loop.stop()
    assert [t for t, news in delivered if news.error] == [first]
    ended = next(news.generation for _, news in delivered if news.generation)
    assert ended is not None and len(ended.tokens) == 5


def test_an_idle_loop_sleeps() -> None:
    child = Child("markov", FAST)
    try:
        ask(child, PLAIN, OK)
        spent = sum(map(int, open(f"/proc/{child.pid}/stat").read().rpartition(")")[2].split()[11:13]))
        time.sleep(0.5)
        later = sum(map(int, open(f"/proc/{child.pid}/stat").read().rpartition(")")[2].split()[11:13]))
    finally:
        child.close()
    assert (later - spent) / os.sysconf("SC_CLK_TCK") < 0.25


def test_the_listening_socket_says_that_it_is_tcp_or_tokens_would_wait_for_acknowledgements() -> None:
    with running.bound("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP

"""The server engine against servers that do it right, and against all that do not: one sentence each, and no key in any."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab.engines import generate, open_engine
from lab.engines.http.child import Child
from lab.engines.http.served import ServeSettings
from lab.engines.server import UNKNOWN_TOKEN, Server
from lab.errors import LabError
from lab.metrics import speed
from lab.records import Decoding, Message, Request

ASK = Request(prompt="hi", decoding=Decoding(max_tokens=6, ignore_eos=True))
KEY = "sk-very-secret-7"
MODELS = b'{"object":"list","data":[{"id":"m","object":"model"}]}'

Answer = Callable[[socket.socket, bytes], None]


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """A server of a few lines: `answer` writes what it likes for each request it has read. Gives its base URL."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def one(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                while request := read(connection):
                    answer(connection, request)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=one, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        listening.shutdown(socket.SHUT_RDWR)


def read(connection: socket.socket) -> bytes:
    got = b""
    while b"\r\n\r\n" not in got:
        if not (part := connection.recv(65536)):
            return b""
        got += part
    head, _, body = got.partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def reply(body: bytes, status: str = "200 OK", kind: str = "application/json") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def stream(*events: str, end: bool = True, length: int | None = None) -> bytes:
    """A stream of events, one chunk each."""
    chunks = b"".join(f"{len(data):x}\r\n".encode() + data + b"\r\n" for data in (f"data: {e}\n\n".encode() for e in events))
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + (b"0\r\n\r\n" if end else b"")


def said(text: str, reason: str | None = None, **more: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "text": text, "finish_reason": reason}], **more})


def always(completion: bytes, models: bytes | None = None) -> Answer:
    """The same completion for everybody; `models` is the whole response to /v1/models."""
    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall((models or reply(MODELS)) if request.startswith(b"GET") else completion)
        if request.startswith(b"POST") and b"0\r\n\r\n" not in completion and b"Content-Length" not in completion:
            connection.close()

    return answer


def refusal(answer: Answer, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> str:
    """The sentence of what goes wrong, from opening to the end of a request."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(answer) as url, pytest.raises(LabError) as error:
        engine = open_engine("server", url, **settings)
        generate(engine, ASK)
    sentence = str(error.value)
    assert sentence.endswith(".") and "\n" not in sentence and KEY not in sentence and len(sentence) < 600
    return sentence


PAGE = b"<!doctype html><html><body>Welcome</body></html>"
WRONG_KEY = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}.", "type": "x"}}).encode()


@pytest.mark.parametrize(("models", "completion", "sentence"), [
    (reply(WRONG_KEY, "401 Unauthorized"), b"", "OPENAI_API_KEY"),
    (reply(b"{}", "404 Not Found"), b"", "base URL"),
    (reply(PAGE, kind="text/html"), b"", "a web page"),
    (reply(PAGE, "502 Bad Gateway", kind="text/html"), b"", "502 with a web page"),
    (reply(b"hello"), b"", "no JSON object"), (reply(b"[]"), b"", "no JSON object"),
    (reply(b'{"data": []}'), b"", "names no model"),
    (b"SSH-2.0-OpenSSH_9\r\n", b"", "does not speak HTTP"),
    (reply(MODELS), reply(WRONG_KEY, "401 Unauthorized"), "OPENAI_API_KEY"),
    (reply(MODELS), reply(json.dumps({"error": {"message": f"no {KEY} here"}}).encode(), "400 Bad Request"), "refused (400): no … here"),
    (reply(MODELS), reply(b'{"detail": [{"loc": ["body"]}]}', "422 Unprocessable"), "refused (422)"),
    (reply(MODELS), reply(b'{"error": {"message": "The queue is full."}}', "429 Too Many Requests"), "refused (429): The queue is full."),
    (reply(MODELS), reply(b"", "500 Internal Server Error"), "500 with no reason"),
    (reply(MODELS), reply(PAGE, kind="text/html"), "a web page"),
    (reply(MODELS), stream(), "empty stream"),
    (reply(MODELS), stream('{"error": {"message": "no memory"}}'), "broke off: no memory."),
    (reply(MODELS), stream("not json"), "no JSON object"),
    (reply(MODELS), b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{", "in the middle"),
])
def test_a_server_that_does_it_wrong_is_said_in_one_sentence(
    models: bytes, completion: bytes, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(models if request.startswith(b"GET") else completion)
        connection.shutdown(socket.SHUT_WR)

    assert sentence in refusal(answer, monkeypatch)


def test_silence_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "said nothing for 0.2 s" in refusal(lambda connection, request: None, monkeypatch, timeout_s=0.2)


def test_nobody_there_is_said() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(LabError, match=r"cannot be reached \(Connection refused\)"):
            open_engine("server", f"http://127.0.0.1:{free.getsockname()[1]}/v1")
    with pytest.raises(LabError, match="cannot be reached"):
        open_engine("server", "http://no-such-host.invalid/v1")


@pytest.mark.parametrize("url", ["http://", "https://user:pw@host/v1", "http://h/v1?x=1", "http://h/v1/chat/completions"])
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(LabError, match=r"\.$"):
        open_engine("server", url)


def test_a_model_that_is_not_there_is_named_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(always(b"")) as url, pytest.raises(LabError, match="does not have the model 'other'; it has m"):
        open_engine("server", f"{url}#other")


def test_a_setting_of_the_server_cannot_be_made_from_here() -> None:
    with pytest.raises(LabError, match="threads is set where a server is started"):
        open_engine("server", "http://127.0.0.1:1/v1", threads=1)


def test_a_stream_without_ids_counts_a_token_for_every_event_with_text() -> None:
    usage = {"prompt_tokens": 2, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}}
    with serving(always(stream(said(""), said("a"), said("b"), said("", "length"), json.dumps({"choices": [], "usage": usage}), "[DONE]"))) as url:
        result = generate(open_engine("server", url), ASK)
    assert (result.text, result.tokens, result.finish_reason) == ("ab", (UNKNOWN_TOKEN,) * 2, "length")
    assert (result.usage.prompt_tokens, result.usage.cached_tokens, result.usage.output_tokens) == (2, 1, 3)
    assert result.usage.accepted_tokens is None
    assert len(result.tokens_at_s) == 2 and result.error is None


def test_a_server_that_does_not_stream_still_answers() -> None:
    body = json.dumps({"choices": [{"message": {"content": "all at once"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 4}}).encode()
    with serving(always(reply(body))) as url:
        result = generate(open_engine("server", url), Request(messages=(Message(role="user", content="hi"),)))
    assert (result.text, len(result.tokens), result.finish_reason) == ("all at once", 4, "stop")
    assert len(set(result.tokens_at_s)) == 1


@pytest.mark.parametrize("broken", [
    stream(said("a"), said("b"), end=False), stream(said("a"), '{"error": {"message": "no memory"}}'), stream(said("a"), said("b")),
    stream(said("a"), "nonsense"),
])
def test_a_stream_that_breaks_is_a_record_with_an_error_and_counts_as_failed(broken: bytes) -> None:
    with serving(always(broken)) as url:
        result = generate(open_engine("server", url), ASK)
    assert result.text.startswith("a") and result.finish_reason == "error" and result.error
    assert speed.failed(result)


def test_a_reset_in_the_middle_is_a_record_with_an_error() -> None:
    def answer(connection: socket.socket, request: bytes) -> None:
        if request.startswith(b"GET"):
            connection.sendall(reply(MODELS))
            return
        connection.sendall(stream(said("a"), end=False))
        time.sleep(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    with serving(answer) as url:
        result = generate(open_engine("server", url), ASK)
    assert (result.text, result.finish_reason) == ("a", "error")


def test_an_event_cut_anywhere_is_read_all_the_same() -> None:
    whole = stream(said("é🦙"), said("b", "stop"), "[DONE]")

    def answer(connection: socket.socket, request: bytes) -> None:
        if request.startswith(b"GET"):
            connection.sendall(reply(MODELS))
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(whole)):
            connection.sendall(whole[i : i + 1])

    with serving(answer) as url:
        assert generate(open_engine("server", url), ASK).text == "é🦙b"


def test_a_connection_the_server_closed_while_idle_is_made_anew() -> None:
    asked: list[bytes] = []

    def answer(connection: socket.socket, request: bytes) -> None:
        asked.append(request)
        connection.sendall(reply(MODELS) if request.startswith(b"GET") else stream(said("a", "stop")))
        connection.close()

    with serving(answer) as url:
        engine = open_engine("server", url)
        time.sleep(0.05)
        assert [generate(engine, ASK).text for _ in range(3)] == ["a"] * 3
    assert len(asked) == 4


def test_the_key_is_sent_and_kept_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def answer(connection: socket.socket, request: bytes) -> None:
        asked.append(request)
        connection.sendall(reply(MODELS) if request.startswith(b"GET") else stream(said("a", "stop")))

    monkeypatch.setenv("MY_KEY", KEY)
    with serving(answer) as url:
        engine = open_engine("server", url, key_env="MY_KEY")
        result = generate(engine, ASK)
    assert all(f"Authorization: Bearer {KEY}".encode() in request for request in asked)
    assert KEY not in repr((engine.settings, vars(engine), result))


def test_a_server_without_tokenizer_says_so() -> None:
    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(reply(MODELS) if b"/v1/models" in request else reply(b"{}", "404 Not Found"))

    with serving(answer) as url:
        engine = open_engine("server", url)
        for call in (lambda: engine.tokenize("a"), lambda: engine.detokenize([1])):
            with pytest.raises(LabError, match="has no /(de)?tokenize"):
                call()


def test_a_url_takes_the_settings_from_what_the_server_says() -> None:
    child = Child("markov", ServeSettings(engine="scripted", step_ms=0.0, context_tokens=333, max_running=3))
    try:
        for url in (f"http://127.0.0.1:{child.port}", f"http://127.0.0.1:{child.port}/v1/", f"http://127.0.0.1:{child.port}/v1#markov"):
            engine = open_engine("server", url)
            assert isinstance(engine, Server)
            assert (engine.context_tokens, engine.endpoint.model) == (333, "markov")
            assert (engine.settings["max_running"], engine.settings["server_engine"], engine.settings["engine"]) == (3, "scripted", "server")
            assert generate(engine, ASK).usage.output_tokens == 6
            engine.close()
        assert generate(open_engine("server", url, stream=False), ASK).text == generate(open_engine("server", url), ASK).text
    finally:
        child.close()
    with pytest.raises(LabError, match=r"cannot be reached|in the middle"):
        generate(engine, ASK)


def test_closing_the_engine_ends_the_server_it_started() -> None:
    engine = open_engine("server", "markov", engine="scripted")
    pid = engine._owner.pid  # type: ignore[attr-defined]
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_real_model_answers_over_http_as_it_does_in_process() -> None:
    settings: dict[str, Any] = {"threads": 1, "context_tokens": 512, "flash_attention": "off"}
    ask = Request(messages=(Message(role="user", content="Name three colours."),), decoding=Decoding(max_tokens=16))
    inside = open_engine("llama_cpp", "smollm2-135m", **settings)
    expected = generate(inside, ask)
    tokens = inside.prompt_tokens(ask)
    inside.close()
    outside = open_engine("server", "smollm2-135m", max_running=2, **settings)
    try:
        over_http = generate(outside, ask)
        assert outside.prompt_tokens(ask) == tokens
        assert outside.detokenize(outside.tokenize("Grüße 🦙")) == "Grüße 🦙"
    finally:
        outside.close()
    assert (over_http.text, over_http.tokens, over_http.finish_reason) == (expected.text, expected.tokens, expected.finish_reason)
    assert over_http.usage.prompt_tokens == len(tokens)

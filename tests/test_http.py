"""Bytes of a response into tokens and their times, however the network cuts them."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate

import pytest
from ground_truth.adversary import SSE, WORDS, chunk, event, good, page, stream, usage
from hypothesis import given
from hypothesis import strategies as st

from lab.engines.http.client import Client
from lab.errors import LabError
from lab.load.answer import Answer, Observed
from lab.load.counting import spread, token_times
from lab.load.endpoint import Endpoint
from lab.load.envelope import Envelope
from lab.load.response import Malformed, Response
from lab.records import Decoding, Message, Request

texts = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=12)
cuts = st.lists(st.integers(1, 400), min_size=1, max_size=40)


def read(raw: bytes, sizes: list[int] | None = None, *, eof: bool = False, lump: bool = False) -> Observed:
    """The answer in `raw` read in pieces of `sizes` (over and over); read number i is stamped i."""
    answer, pieces, at = Answer(), [], 0
    while at < len(raw):
        size = (sizes or [len(raw)])[len(pieces) % len(sizes or [1])]
        pieces.append(raw[at : at + size])
        at += size
    if lump:
        answer.feed(pieces[0], 0.0)
        answer.feed_all(pieces[1:], [float(i) for i in range(1, len(pieces))])
    else:
        for i, piece in enumerate(pieces):
            answer.feed(piece, float(i))
    if eof:
        answer.close()
    assert answer.complete
    return answer.observed()


def read_of(raw: bytes, offset: int, sizes: list[int]) -> float:
    """Which read brought the byte at `offset`."""
    ends = list(accumulate(sizes[i % len(sizes)] for i in range(len(raw) + 1)))
    return float(next(i for i, end in enumerate(ends) if offset < end))


@given(texts, cuts, cuts, st.sampled_from(["chunked", "counted", "until close"]), st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_every_token_has_the_time_of_the_read_that_completed_its_event(
    said: list[str], reads: list[int], chunks: list[int], framing: str, newline: bytes, escaped: bool
) -> None:
    events = [b"data: " + json.dumps({"choices": [{"delta": {"content": t}}]}, ensure_ascii=escaped).encode() for t in said]
    events.append(b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}')
    body = b"".join(e + 2 * newline for e in events)
    ends = list(accumulate(len(e) + 2 * len(newline) for e in events))[: len(said)]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    if framing == "chunked":
        raw, where, at, turn = head + b"transfer-encoding: chunked\r\n\r\n", {}, 0, 0
        while at < len(body):
            piece = body[at : at + chunks[turn % len(chunks)]]
            begin = len(raw) + len(b"%x\r\n" % len(piece))
            where |= {at + i: begin + i for i in range(len(piece))}
            raw, at, turn = raw + chunk(piece), at + len(piece), turn + 1
        raw += b"0\r\n\r\n"
    else:
        raw = head + (b"content-length: %d\r\n\r\n" % len(body) if framing == "counted" else b"\r\n")
        where = {i: len(raw) + i for i in range(len(body))}
        raw += body
    seen = read(raw, reads, eof=framing == "until close")
    assert seen.failure is None
    assert seen.text == "".join(said)
    assert seen.finish_reason == "length"
    assert list(seen.at_s) == [read_of(raw, where[end - 1], reads) for end in ends]


@given(texts, cuts, st.booleans())
def test_the_short_cut_through_equal_envelopes_sees_what_the_parser_sees(said: list[str], reads: list[int], alone: bool) -> None:
    events = [*(event({"content": t}, created=1) for t in said), *good()[1:]]
    raw = stream(events)
    sizes = [len(SSE), *(len(chunk(e)) for e in events), 5] if alone else reads
    assert read(raw, sizes, lump=True) == read(raw, sizes)


def test_the_short_cut_is_taken_where_events_are_alike_and_never_where_a_text_could_be_mistaken() -> None:
    envelope = Envelope()
    envelope.learn(event({"content": " tok"})[6:-2], " tok")
    assert envelope.text(chunk(event({"content": " other"}))) == " other"
    assert envelope.text(chunk(event({"content": "üñ"}))) == "üñ"
    for other in (event({"content": 'a"b'}), event({"content": "a\\"}), event({"content": " x"}, reason="stop"),
                  event({"content": " x"}, usage=usage(3)), event({"content": ""}), event({"content": " x"}) * 2,
                  event({"content": " x", "name": "y"})):
        assert envelope.text(chunk(other)) == ""
    assert envelope.text(chunk(event({"content": " tok"}))[:-1]) == ""
    ambiguous = Envelope()
    ambiguous.learn(event({"content": "index"})[6:-2], "index")
    assert ambiguous.text(chunk(event({"content": "index"}))) == ""


def test_a_good_answer_has_text_counts_and_reason() -> None:
    seen = read(stream(good()))
    assert (seen.text, len(seen.at_s), seen.finish_reason, seen.failure) == ("".join(WORDS), 5, "stop", None)
    assert (seen.usage.prompt_tokens, seen.usage.cached_tokens, seen.usage.output_tokens) == (7, 3, 5)
    assert seen.shared == 4


def test_token_ids_and_running_usage_say_how_many_tokens_an_event_carried() -> None:
    ids = [b'data: {"choices":[{"delta":{"content":"%s"},"token_ids":[%s]}]}\n\n' % pair
           for pair in ((b"a", b"1"), (b"bc", b"2,3"), (b"", b"4"))]
    seen = read(stream([*ids, event(reason="stop", usage=usage(4))]))
    assert (seen.token_ids, list(seen.counts or ()), seen.how) == ((1, 2, 3, 4), [1, 2, 1], "ids")
    running = [event({"role": "assistant", "content": ""}, usage=usage(0)), event({"content": "a"}, usage=usage(1)),
               event({"content": "bcd"}, usage=usage(4)), event({"content": ""}, usage=usage(5)),
               event({"content": "e"}, usage=usage(6)), event(reason="stop", usage=usage(6))]
    seen = read(stream(running), [len(SSE), *(len(chunk(e)) for e in running)])
    assert (list(seen.counts or ()), seen.how) == ([1, 3, 1, 1], "usage")
    assert token_times(seen, None) == (2.0, 3.0, 3.0, 3.0, 4.0, 5.0)


@given(st.integers(0, 200), st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_tokens_are_spread_over_events_without_losing_one(total: int, weights: list[int]) -> None:
    parts = spread(total, weights)
    assert sum(parts) == total
    assert len(parts) == len(weights)
    assert all(abs(part - total * w / sum(weights)) < 1 for part, w in zip(parts, weights, strict=True))


def test_an_answer_in_one_document_is_one_event_at_its_end() -> None:
    whole = {"choices": [{"message": {"content": "hello"}, "finish_reason": "length"}], "usage": usage(5)}
    seen = read(page(json.dumps(whole)), [50])
    assert (seen.text, seen.streamed, seen.finish_reason) == ("hello", False, "length")
    times = token_times(seen, None)
    assert len(times) == 5
    assert set(times) == {float((len(page(json.dumps(whole))) - 1) // 50)}


def test_reasoning_and_tool_calls_are_output_but_no_text() -> None:
    seen = read(stream([event({"reasoning_content": "hm"}), event({"reasoning": "so"}), *good()]))
    assert (seen.text, len(seen.at_s), seen.hidden_events) == ("".join(WORDS), 7, 2)
    call = event({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]})
    seen = read(stream([call, event(reason="tool_calls")]))
    assert (seen.text, len(seen.at_s), seen.finish_reason, seen.failure) == ("", 1, "stop", None)


@pytest.mark.parametrize(("data", "text"), [
    (b'{"choices":[{"delta":{"content":"a"},"logprobs":{"p":NaN}}]}', "a"),
    (b'{"choices":[{"delta":{"content":"\\ud83e\\udd99 \\ud83d"}}]}', "🦙 �"),
    (b'{"choices":[{"delta":{"content":"\xff"}}]}', "�"),
])
def test_json_that_servers_let_slip_is_read(data: bytes, text: str) -> None:
    assert read(stream([b"data: " + data + b"\n\n", event(reason="stop")])).text == text


@pytest.mark.parametrize("data", [b"[" * 100_000, b"7", b"null", b'"x"', b'{"choices":7}', b'{"choices":[[]]}',
                                  b'{"choices":[{"delta":{"content":7}}]}', b'{"choices":[{"delta":{"tool_calls":[7]}}]}',
                                  b'{"choices":[{"delta":{"content":"a"},"token_ids":["x"]}]}'])
def test_json_that_is_no_chunk_is_a_malformed_answer_and_no_crash(data: bytes) -> None:
    failure = read(stream([b"data: " + data + b"\n\n"])).failure
    assert failure is not None and failure.kind == "malformed"
    assert len(failure.sentence) < 300


def test_a_wild_count_of_tokens_is_not_believed() -> None:
    seen = read(stream([event({"content": "a"}, usage=usage(10**15)), event(reason="stop", usage=usage(10**15))]))
    assert len(token_times(seen, None)) == 1
    assert seen.usage.output_tokens == 10**15


def test_surrogate_halves_of_two_events_are_one_character() -> None:
    halves = [b'data: {"choices":[{"delta":{"content":"\\u%s"}}]}\n\n' % h for h in (b"d83e", b"dd99")]
    assert read(stream([*halves, event(reason="stop")])).text == "🦙"


@pytest.mark.parametrize("raw", [
    b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n", SSE + b"0x5\r\nhello\r\n", SSE + b"-1\r\n", SSE + b"\r\n",
    SSE + b"5\r\nhelloX\r\n", SSE + b"f" * 5000, b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000, b"\x15\x03\x01\x00\x02\x02",
])
def test_what_is_no_http_is_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        Response(lambda piece, at_s: None).feed(raw, 0.0)


def test_interim_responses_are_passed_over_and_surplus_bytes_end_the_connection() -> None:
    body: list[bytes] = []
    response = Response(lambda piece, at_s: body.append(piece))
    response.feed(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", 0.0)
    assert (body, response.complete, response.keep_alive) == ([b"hi"], True, True)
    response.feed(b"x", 0.0)
    assert response.surplus and not response.keep_alive


@pytest.mark.parametrize("message", [
    '{"error":{"message":"why"}}', '{"error":"why"}', '{"message":"why"}', '{"detail":[{"msg":"why"}]}', '{"detail":"why"}', "why",
])
def test_the_reason_of_an_error_is_found_in_every_shape(message: str) -> None:
    failure = read(page(message, status=503)).failure
    assert failure is not None
    assert failure.kind == "http_503"
    assert "why" in failure.sentence


def test_an_endpoint_asks_in_the_words_of_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret-1")
    endpoint = Endpoint(url="http://host:8000/v1/", model="m", key_env="SOME_KEY", extra={"ignore_eos": True, "seed": 9})
    chat = Request(messages=(Message(role="user", content="hi"),), decoding=Decoding(top_k=4, stop=("x",), min_p=0.1))
    assert endpoint.path(chat) == "/v1/chat/completions"
    assert json.loads(endpoint.body(chat)) == {
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 64, "temperature": 0.0, "seed": 9, "top_k": 4,
        "min_p": 0.1, "stop": ["x"], "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
    tokens = Request(tokens=(1, 2))
    assert endpoint.path(tokens) == "/v1/completions"
    assert json.loads(endpoint.body(tokens))["prompt"] == [1, 2]
    assert endpoint.headers()["Authorization"] == "Bearer secret-1"
    assert "secret-1" not in repr(endpoint)
    monkeypatch.setenv("SOME_KEY", "secret\nX-Evil: 1")
    with pytest.raises(LabError, match="SOME_KEY"):
        endpoint.headers()


@pytest.mark.parametrize("url", ["", "localhost:8000/v1", "ftp://x/v1", "http:///v1", "http://x:99999/v1", "http://x/v1?key=1",
                                 "http://me:word@x/v1", "http://x/v1/chat/completions", "http://x /v1", "http://[::1/v1"])
def test_an_unusable_address_is_one_sentence_without_a_password(url: str) -> None:
    with pytest.raises(LabError) as caught:
        Endpoint(url=url, model="m")
    assert "word" not in str(caught.value)


def test_a_stream_of_known_length_leaves_its_connection_fit_for_the_next_request() -> None:
    body = b'data: {"choices": [{"index": 0, "delta": {"content": "hello"}}]}\n\ndata: [DONE]\n\n'

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    client = Client(Endpoint(url=f"http://127.0.0.1:{server.server_address[1]}/v1", model="m"), timeout_s=20)
    try:
        for _ in range(4):
            assert b"".join(part for part in client.stream("/chat/completions", b"{}") if isinstance(part, bytes)) == body
    finally:
        client.close()
        server.shutdown()
        server.server_close()

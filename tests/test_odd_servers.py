"""Servers that bend the protocol: what they say is read, refused by one kind, or told to the reader; nothing ends the capture."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lab import engines
from lab.errors import LabError
from lab.experiments.serving import Serving
from lab.experiments.speculative import Speculative
from lab.load import arrivals
from lab.load.answer import Answer, Observed
from lab.load.endpoint import Endpoint
from lab.load.exchange import Exchange
from lab.metrics import service
from lab.records import Generation, Request

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
WORD = b'data: {"choices":[{"index":0,"text":"a"}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def read(*pieces: bytes) -> Observed:
    answer = Answer()
    for at, piece in enumerate(pieces):
        answer.feed(piece, float(at))
    return answer.observed()


def streamed(*events: bytes) -> Observed:
    return read(HEAD, *map(chunk, events), b"0\r\n\r\n")


@pytest.mark.parametrize("event", [
    b'data: {"choices":[],"usage":[1]}\n\n', b'data: {"choices":[{"text":"a","finish_reason":["stop"]}]}\n\n',
    b'data: {"choices":[{"text":5}]}\n\n', b'data: {"choices":[{"text":"a"}],"timings":[1]}\n\n'])
def test_an_event_of_wrong_types_is_malformed_and_no_crash(event: bytes) -> None:
    assert streamed(event, DONE).failure.kind == "malformed"  # type: ignore[union-attr]


@pytest.mark.parametrize("page", [
    b'{"choices":[{"text":5}]}', b'{"choices":[{"text":[{"type":"text","text":"hi"}]}]}',
    b'{"choices":[{"text":"hi","finish_reason":["stop"]}]}', b'{"choices":[{"text":"hi"}],"usage":[1]}'])
def test_a_page_of_wrong_types_is_malformed_and_no_crash(page: bytes) -> None:
    assert read(PAGE % (len(page), page)).failure.kind == "malformed"  # type: ignore[union-attr]


@pytest.mark.parametrize("reason", ["abort", "error", "cancelled"])
def test_an_answer_that_the_server_gave_up_is_a_failure(reason: str) -> None:
    seen = streamed(WORD, b'data: {"choices":[{"text":"","finish_reason":"%s"}]}\n\n' % reason.encode(), DONE)
    assert seen.failure is not None and reason in seen.failure.sentence


def test_the_closing_word_alone_is_no_answer() -> None:
    assert streamed(DONE).failure.kind == "truncated"  # type: ignore[union-attr]
    assert streamed(STOP, DONE).failure is None, "an answer may be empty if the server says that it ended"
    assert streamed(WORD, DONE).failure is None, "some servers give no finish reason"


def test_empty_events_other_choices_and_what_follows_the_closing_word_are_no_content() -> None:
    other = b'data: {"choices":[{"index":1,"text":"b"}]}\n\n'
    assert streamed(WORD, b"data:\n\n", b"data: \n\n", other, WORD, STOP, DONE, WORD).text == "aa"
    assert streamed(WORD, STOP, b'data: {"choices":[],"usage":{"completion_tokens":-4}}\n\n', DONE).usage.output_tokens is None


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"0;q=1\r\n\r\n", b"0000\r\n\r\n", b"0\r\nX-Sum: 1\r\n\r\n", b"0\r\n\r\nrubbish"])
@pytest.mark.parametrize("joined", [True, False])
def test_the_end_of_a_stream_is_seen_at_once_in_every_legal_form(end: bytes, joined: bool) -> None:
    exchange = Exchange(0, b"", scheduled_s=None, keep_pieces=False)
    assert not exchange.take(HEAD, 0.0) and not exchange.take(chunk(WORD), 1.0)
    last = [chunk(STOP + DONE) + end] if joined else [chunk(STOP + DONE), end]
    assert [exchange.take(piece, 2.0) for piece in last] == [*[False] * (len(last) - 1), True]
    assert exchange.conclude().text == "a"


def test_what_looks_like_the_end_inside_an_answer_is_not() -> None:
    exchange = Exchange(0, b"", scheduled_s=None, keep_pieces=False)
    inside = b": comment\r\n0\r\n\r\n"
    piece = chunk(inside + WORD)
    at = piece.index(b"0\r\n\r\n", 4) + 5
    assert not any(exchange.take(part, 1.0) for part in (HEAD, piece[:at], piece[at:]))
    assert exchange.take(chunk(STOP + DONE) + b"0\r\n\r\n", 2.0) and exchange.conclude().text == "a"


def test_a_stream_that_has_closed_is_known_although_its_message_goes_on() -> None:
    exchange = Exchange(0, b"", scheduled_s=None, keep_pieces=False)
    for piece in (HEAD, chunk(b'data: {"choices":[{"text":"[DONE]"}]}\n\n')):
        exchange.take(piece, 0.0)
    assert exchange.closing and not exchange.said_all(), "a model may write the word itself"
    exchange.take(chunk(STOP + DONE), 1.0)
    assert exchange.closing and exchange.said_all()


def test_a_key_that_a_server_repeats_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    endpoint = Endpoint(url="http://127.0.0.1:1/v1", model="", key_env="SOME_KEY")
    assert endpoint.masked("you sent Bearer sk-very-secret") == "you sent Bearer [key]"


@pytest.mark.parametrize("url", ["http://me:sk-secret@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?api_key=sk-secret"])
def test_a_url_with_a_secret_is_refused_before_anything_is_recorded(url: str) -> None:
    good = "http://127.0.0.1:9/v1"
    for experiment in (Serving(engine=(url,)), Speculative(engine=url, plain_url=good, drafters=("prompt_lookup",)),
                       Speculative(engine=good, plain_url=url, drafters=("prompt_lookup",))):
        with pytest.raises(LabError) as refused:
            experiment.check()
        assert "sk-secret" not in str(refused.value)
    engines.refuse_url("http://127.0.0.1:9/v1#a-model")


def test_failures_are_infinite_in_every_latency_of_a_service() -> None:
    def one(k: int, failed: bool) -> Generation:
        return Generation(request=Request(id=str(k), prompt="x"), sent_s=0.0, ended_s=1.0, tokens_at_s=(0.1, 0.12, 0.14),
                          finish_reason="error" if failed else "stop", error="reset" if failed else None)

    found = service.served([one(k, k < 6) for k in range(10)], 1.0, ttft_limit_s=1, tpot_limit_s=1)
    assert found["tpot_s"].value == math.inf == found["itl_p99_s"]  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ['["1", "2"]', "[" * 100_000, "[1" + "0" * 400 + "]", "[true, 2]"])
def test_a_schedule_that_is_none_is_one_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "times.json"
    file.write_text(text)
    with pytest.raises(LabError, match="cannot be read as a schedule"):
        arrivals.schedule("replay", count=2, file=str(file))
    with pytest.raises(LabError, match="at most 100"):
        arrivals.schedule("gamma", count=2, cv=1e200)

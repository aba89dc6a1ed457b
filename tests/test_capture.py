"""Load over HTTP: every token with its time, every failure with its kind, and nothing that hangs, retries or leaks."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import math
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from ground_truth.adversary import WORDS, Adversary, adversary
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from lab.bench._ground_truth import GroundTruth, build, ground_truth
from lab.errors import LabError
from lab.load import arrivals
from lab.load import capture as capturing
from lab.load.capture import Captured, Interrupted, capture
from lab.load.endpoint import Endpoint
from lab.load.probe import probe
from lab.metrics import speed
from lab.ops import artifacts
from lab.records import Decoding, Generation, Request, Usage

TEXT = "".join(WORDS)
KINDS = {
    "error_event": "server_error", "truncated": "truncated", "garbage_event": "malformed", "foreign_event": "malformed",
    "429": "http_429", "500": "http_500", "401": "http_401", "html": "malformed", "html_404": "http_404",
    "foreign_json": "malformed", "moved": "http_307", "ssh": "malformed", "reset_before": "reset", "reset_middle": "reset",
    "close_before": "closed", "close_middle": "closed", "silence": "timeout", "silence_before": "timeout", "dribble": "limit",
    "bad_chunk": "malformed", "unheard of": "http_404",
}
WELL = ("good", "one_packet", "bytewise", "split", "close_delimited", "crlf", "comments", "no_usage", "no_done", "wrong_usage",
        "reasoning", "json", "close_after")


def asked(*words: str) -> list[Request]:
    return [Request(id=str(i), prompt=word, decoding=Decoding(max_tokens=5, seed=i)) for i, word in enumerate(words)]


def at(server: Adversary | GroundTruth, **settings: object) -> Endpoint:
    return Endpoint(url=f"http://127.0.0.1:{server.port}/v1", model="m", **settings)  # type: ignore[arg-type]


def by_word(captured: Captured) -> dict[str, Generation]:
    return {g.request.prompt or "": g for g in captured.generations}


@pytest.fixture(scope="module")
def server() -> Iterator[Adversary]:
    with adversary() as made:
        yield made


@pytest.fixture(scope="module")
def every_case(server: Adversary) -> Captured:
    """Every answer and failure there is, in one load."""
    return capture(at(server), asked(*WELL, *KINDS), users=8, warmup=0, timeout_s=0.5, request_limit_s=1.5)


@pytest.mark.parametrize("word", WELL)
def test_every_form_of_a_whole_answer_is_read(every_case: Captured, word: str) -> None:
    got = by_word(every_case)[word]
    assert (got.text, got.error, got.finish_reason) == (TEXT, None, "length" if word == "json" else "stop")
    assert len(got.tokens_at_s) == (6 if word == "reasoning" else 5)
    assert got.sent_s < got.tokens_at_s[0] <= got.tokens_at_s[-1] <= got.ended_s
    assert got.usage.output_tokens == {"no_usage": None, "wrong_usage": 9}.get(word, 5)


@pytest.mark.parametrize("word", KINDS)
def test_every_failure_has_its_kind_a_sentence_and_an_infinite_latency(every_case: Captured, word: str) -> None:
    got = by_word(every_case)[word]
    assert (got.error_kind, got.finish_reason) == (KINDS[word], "error")
    assert got.error and got.error.startswith("The ") and got.error.endswith((".", "?"))
    assert speed.ttft_s(got) == speed.e2e_s(got) == speed.tpot_s(got) == math.inf


def test_what_came_before_a_failure_is_kept(every_case: Captured) -> None:
    for word in ("error_event", "truncated", "garbage_event"):
        assert TEXT.startswith(by_word(every_case)[word].text) and by_word(every_case)[word].tokens_at_s


def test_problems_say_what_failed_and_what_differs(every_case: Captured) -> None:
    said = "\n".join(every_case.problems)
    for kind in set(KINDS.values()):
        assert f"({kind})" in said
    assert "Token counts differ in 1 of" in said or "Token counts differ in 2 of" in said
    assert "9" in said
    assert "one JSON document" in said
    assert "reasoning" in said


def test_failures_are_not_repeated_unless_a_kept_connection_was_closed_before_it_answered(
    every_case: Captured, server: Adversary
) -> None:
    twice = {word for word, count in server.seen.items() if count > 1 and word in KINDS}
    assert twice <= {"reset_before"}  # a reset says nothing of whether the request was read
    assert all(server.seen[word] == 2 for word in twice)
    assert every_case.audit.resent_requests >= len(twice)


def test_a_connection_that_went_stale_is_replaced_and_counted() -> None:
    with adversary() as server:
        got = capture(at(server), asked("good", "stale", "stale", "good"), users=1, warmup=0)
    assert [g.error for g in got.generations] == [None] * 4
    assert server.seen["stale"] == 3
    assert (got.audit.resent_requests, got.audit.reconnects) == (1, 1)


def test_a_server_that_reads_a_request_and_closes_has_failed_however_well_the_connection_worked_before() -> None:
    with adversary() as server:
        got = capture(at(server), asked("good", "close_before", "good", "close_before", "good"), users=1, warmup=0)
    assert [g.error_kind for g in got.generations] == [None, "closed", None, "closed", None]
    assert server.seen["close_before"] == 2 and got.audit.resent_requests == 0


def test_a_server_that_closes_between_answers_is_no_failure() -> None:
    with adversary() as server:
        got = capture(at(server), asked(*["close_after"] * 4), times=[0.0, 0.1, 0.2, 0.3], warmup=0)
    assert [g.error for g in got.generations] == [None] * 4


def test_the_schedule_stands_however_slow_the_answers_are(server: Adversary) -> None:
    times = [0.0, 0.01, 0.02, 0.05, 0.2]
    got = capture(at(server), asked(*["silence_before"] * 4, "good"), times=times, warmup=0, timeout_s=0.6)
    due = [g.scheduled_s or 0 for g in got.generations]
    assert [d - due[0] for d in due] == pytest.approx(times)
    assert all(g.sent_s >= d for g, d in zip(got.generations, due, strict=True))
    assert got.generations[4].ended_s < got.generations[0].ended_s
    assert [g.error_kind for g in got.generations] == ["timeout"] * 4 + [None]
    assert got.audit.send_lag_p99_s >= 0


def test_a_closed_loop_has_no_more_requests_in_flight_than_users(server: Adversary) -> None:
    got = capture(at(server), asked(*["split"] * 12), users=3)
    steps = sorted([(g.sent_s, 1) for g in got.generations] + [(g.ended_s, -1) for g in got.generations])
    assert np.cumsum([change for _, change in steps]).max() == 3
    assert all(g.scheduled_s is None and g.error is None for g in got.generations)
    assert math.isnan(got.audit.send_lag_p99_s)


@pytest.fixture(scope="module")
def compiled() -> None:
    try:
        build()
    except LabError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("memory_bytes", [1 << 27, 2000])
def test_every_token_is_seen_after_it_was_sent_and_none_is_lost(
    compiled: None, monkeypatch: pytest.MonkeyPatch, memory_bytes: int
) -> None:
    monkeypatch.setattr(capturing, "MEMORY_BYTES", memory_bytes)
    with ground_truth() as server:
        requests = [Request(prompt="x", decoding=Decoding(max_tokens=40 + i, seed=i)) for i in range(12)]
        got = capture(server.endpoint(ttft_us=3000, gap_us=700, jitter=1), requests, times=[0.01 * i for i in range(12)], warmup=2)
    truths = {t.seed: t for t in server.truths}
    assert len(server.truths) == 14
    for generation in got.generations:
        truth = truths[generation.request.decoding.seed]
        assert len(generation.tokens_at_s) == len(truth.sent_s) == generation.request.decoding.max_tokens
        late = np.asarray(generation.tokens_at_s) - truth.sent_s
        assert late.min() > -1e-4
        assert list(generation.tokens_at_s) == sorted(generation.tokens_at_s)
        assert generation.text == " tok" * len(truth.sent_s)
    assert got.problems == () or got.audit.client_bound
    assert got.audit.stamp_source == ("kernel" if os.uname().sysname == "Linux" else "user")
    assert abs(got.audit.clock_drift_s) < 1e-3
    assert set(got.audit.measures()) >= {"send_lag_p99_s", "read_lag_p99_s", "shared_read_share", "client_cpu_share"}


def test_a_tokenizer_counts_where_the_server_says_nothing(server: Adversary) -> None:
    got = capture(at(server), asked("no_usage", "wrong_usage"), users=1, warmup=0, count_tokens=lambda text: len(text.encode()))
    for generation in got.generations:
        assert len(generation.tokens_at_s) == len(TEXT.encode())
        assert len(set(generation.tokens_at_s)) <= len(WORDS)
    assert any(f"{len(TEXT.encode())} counted, 9 reported" in problem for problem in got.problems)


def test_an_interruption_keeps_what_there_was() -> None:
    with adversary() as server:
        timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(Interrupted) as caught:
            capture(at(server), asked("good", "silence", "silence", "good"), times=[0, 0, 0, 60.0], warmup=0)
    got = caught.value.captured
    assert isinstance(caught.value, KeyboardInterrupt)
    assert [g.finish_reason for g in got.generations] == ["stop", "cancelled", "cancelled"]
    assert any("interrupted" in problem for problem in got.problems)
    assert not any("failed" in problem for problem in got.problems)
    assert _children() == []


def test_a_limit_cuts_the_load_off(server: Adversary) -> None:
    got = capture(at(server), asked("good", "silence", "good"), times=[0, 0, 60.0], warmup=0, limit_s=0.4)
    assert [g.finish_reason for g in got.generations] == ["stop", "cancelled"]
    assert any("time limit" in problem for problem in got.problems)


def test_a_killed_capture_process_is_one_sentence(server: Adversary) -> None:
    def kill() -> None:
        while not _children():
            time.sleep(0.01)
        time.sleep(0.5)
        _children()[0].kill()

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(LabError, match=r"capture process died .*signal 9"):
        capture(at(server), asked("silence"), users=1, warmup=0)
    assert _children() == []


def test_a_server_that_dies_fails_the_rest_at_once() -> None:
    server = Adversary()
    threading.Timer(0.8, server.close).start()
    times = [0, 0, 0, *(1.3 + i / 20 for i in range(20)), *(1000.0 + i for i in range(20))]
    got = capture(at(server), asked(*["silence"] * 3, *["good"] * 40), times=times, warmup=0)
    assert [g.error_kind in ("reset", "closed") for g in got.generations[:3]] == [True] * 3
    assert {g.error_kind for g in got.generations[3:]} == {"refused"}
    assert len(got.generations) == 43
    assert any("stopped accepting" in problem for problem in got.problems)
    assert got.seconds < 900  # the second half of the schedule is not waited for


def test_nobody_listening_fails_every_request_of_a_closed_loop() -> None:
    got = capture(Endpoint(url=f"http://127.0.0.1:{_closed_port()}/v1", model="m"), asked(*["good"] * 500), users=4)
    assert {g.error_kind for g in got.generations} == {"refused"}
    assert len(got.generations) == 500


def test_encrypted_connections_are_read_with_times_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with adversary(context) as server:
        endpoint = Endpoint(url=f"https://127.0.0.1:{server.port}/v1", model="m")
        with pytest.raises(LabError, match="certificate is not trusted"):
            probe(endpoint, request=asked("good")[0])
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        probe(endpoint, request=asked("good")[0])
        got = capture(endpoint, asked("good", "split", "bytewise"), users=2)
    assert [g.text for g in got.generations] == [TEXT] * 3
    assert got.audit.stamp_source == "user"


def test_the_key_reaches_the_server_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_TEST_KEY", "very-secret")
    with adversary() as server:
        got = capture(at(server, key_env="LAB_TEST_KEY"), asked("good", "401"), users=1, warmup=0)
        arguments = [arg for child in _children() for arg in child.cmdline()]
    assert "very-secret" not in repr(got) + repr(arguments)


@pytest.mark.parametrize(("word", "said"), [
    ("401", "refused the key"), ("html", "HTML page"), ("html_404", "with /v1"), ("foreign_json", "no OpenAI answer"),
    ("unheard of", "knows no such path or model"), ("500", "it broke"), ("dribble", "within 0.6 s"), ("silence_before", "within 0.6 s"),
    ("ssh", "does not speak HTTP"), ("moved", "elsewhere"), ("close_before", "without an answer"),
])
def test_a_probe_says_in_one_sentence_what_is_wrong(server: Adversary, word: str, said: str) -> None:
    with pytest.raises(LabError, match=said) as caught:
        probe(at(server), request=asked(word)[0], within_s=0.6)
    assert "\n" not in str(caught.value)
    assert f"http://127.0.0.1:{server.port}/v1" in str(caught.value)


def test_a_probe_of_a_working_server_says_nothing_and_one_of_nobody_says_so(server: Adversary) -> None:
    assert probe(at(server), request=asked("good")[0]) > 0
    assert probe(at(server, stream=False), request=asked("json")[0]) > 0
    with pytest.raises(LabError, match="nobody listens"):
        probe(Endpoint(url=f"http://127.0.0.1:{_closed_port()}/v1", model="m"))
    with pytest.raises(LabError, match="not known"):
        probe(Endpoint(url="http://no-such-host.invalid/v1", model="m"))


@pytest.mark.parametrize(("given_", "said"), [
    ({}, "either"), ({"times": [0.0], "users": 1}, "either"), ({"users": 0}, "at least one user"),
    ({"times": [0.0, 1.0]}, "2 arrivals for 1"), ({"times": [math.nan]}, "finite"), ({"times": [-1.0]}, "not before"),
    ({"users": 1, "warmup": -1}, "Warm-up"), ({"users": 1, "limit_s": 0.0}, "above 0"),
])
def test_a_load_that_cannot_be_is_refused(server: Adversary, given_: dict[str, object], said: str) -> None:
    with pytest.raises(LabError, match=said):
        capture(at(server), asked("good"), **given_)  # type: ignore[arg-type]


def test_kinds_and_reported_counts_survive_the_archive_and_older_files_are_read(tmp_path: Path) -> None:
    made = [Generation(request=Request(prompt="x"), sent_s=1.0, ended_s=2.0, finish_reason="error", error="The server broke.",
                       error_kind="reset", usage=Usage(output_tokens=7))]
    artifacts.write_generations(tmp_path / "new.parquet", made)
    assert artifacts.read_generations(tmp_path / "new.parquet") == made
    old = pq.read_table(tmp_path / "new.parquet").drop_columns(["error_kind", "output_tokens"])
    pq.write_table(old, tmp_path / "old.parquet")
    read = artifacts.read_generations(tmp_path / "old.parquet")
    assert (read[0].error, read[0].error_kind, read[0].usage.output_tokens) == ("The server broke.", None, None)


@given(st.floats(0, 50), st.floats(0.1, 50), st.integers(0, 9))
@settings(max_examples=20)
def test_a_ramp_is_a_poisson_process_in_expected_arrivals(low: float, more: float, seed: int) -> None:
    count, high = 3000, low + more
    times = np.array(arrivals.schedule("ramp", count=count, low_rate=low, rate=high, seed=seed))
    assert (np.diff(times) >= 0).all()
    end = 2 * count / (low + high)
    inside = times[times <= end]
    expected = low * inside + (high - low) * inside**2 / (2 * end)
    assert scipy_stats.kstest(np.diff(expected), "expon").pvalue > 1e-4
    assert len(inside) == pytest.approx(count, rel=0.1)


def test_a_ramp_that_falls_is_refused() -> None:
    with pytest.raises(LabError, match="rises"):
        arrivals.schedule("ramp", count=3, low_rate=2.0, rate=1.0)


def test_the_bench_reports_the_lateness_that_was_there() -> None:
    from lab.bench import load
    from lab.bench._ground_truth import Truth

    sent = [np.arange(1, 50) * 0.01 + i for i in range(5)]
    truths = [Truth(seed=i, received_s=float(i), sent_s=at) for i, at in enumerate(sent)]
    made = [Generation(request=asked(*["x"] * 5)[i], sent_s=float(i), ended_s=9.0, tokens_at_s=tuple(at + 7e-6))
            for i, at in enumerate(sent)]
    figures = load.compared(Captured(generations=tuple(made), seconds=1.0, audit=None, problems=()), truths)  # type: ignore[arg-type]
    assert figures["stamp_p50_us"] == figures["stamp_p99_us"] == pytest.approx(7.0, abs=0.01)
    assert figures["ttft_p99_error_share"] == pytest.approx(7e-4)
    assert figures["itl_p99_error_share"] == pytest.approx(0.0, abs=1e-6)
    assert figures["lost_requests"] == 0


def _children() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "lab.load.child" in child.cmdline():
                found.append(child)
    return found


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _certificate(folder: Path) -> Path:
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ground truth")])
    made = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(1).not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256()))
    file = folder / "certificate.pem"
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
                     + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.mark.slow
def test_ten_million_tokens_fit_into_a_gigabyte(compiled: None) -> None:
    """Capture process and caller together, with every token's time in hand at the end."""
    from lab.bench import load

    made = load._memory(10_000_000)
    assert made["tokens"] > 9_900_000
    assert made["capture_bytes"] + made["caller_bytes"] <= 1e9

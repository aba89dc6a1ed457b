"""Asks a server one small question before a run, so that a wrong address or key is one sentence and not a failed load."""

from __future__ import annotations

import ssl
import time

from lab.errors import LabError
from lab.load import clock
from lab.load.answer import Failure
from lab.load.endpoint import Endpoint
from lab.load.exchange import Exchange
from lab.load.loop import Loop
from lab.load.wire import reach
from lab.records import Decoding, Message, Request

HELLO = Request(messages=(Message(role="user", content="Hi"),), decoding=Decoding(max_tokens=1))


def probe(endpoint: Endpoint, *, request: Request = HELLO, within_s: float = 60.0) -> float:
    """Ask `request` once (a base model wants one with a prompt); seconds to the end of its answer.

    Raises `LabError` with one sentence when the host is unknown, nobody listens, the key or path is wrong, the answer
    is no OpenAI answer, or it is not complete `within_s` after the connection was begun.
    """
    host, port = endpoint.address
    try:
        address = reach(host, port)
    except OSError as error:
        raise LabError(f"The host '{host}' is not known ({error.strerror or error}); check the URL.") from error
    secure = (ssl.create_default_context(), host) if endpoint.secure else None
    exchange = Exchange(0, endpoint.message(request), scheduled_s=None, keep_pieces=False)
    loop = Loop(address, secure=secure, shift_s=clock.shift_s(), timeout_s=within_s, request_limit_s=within_s,
                memory_bytes=1 << 24)
    begun_s = time.perf_counter()
    try:
        loop.run([exchange], times=None, users=1, limit_s=2 * within_s)
    finally:
        loop.close()
    seen = exchange.conclude()
    if seen.failure is not None:
        raise LabError(_sentence(endpoint, seen.failure, within_s))
    return exchange.ended_s - begun_s


def _sentence(endpoint: Endpoint, failure: Failure, within_s: float) -> str:
    at, kind = f"The server at {endpoint.url}", failure.kind
    failure = Failure(kind=kind, sentence=endpoint.masked(failure.sentence))
    if kind == "refused":
        return f"{at} refused the connection; nobody listens there. Start the server or check host and port."
    if kind in ("timeout", "limit"):
        return f"{at} did not finish a small answer within {within_s:g} s; wait until it is ready, or try a faster one."
    if kind in ("http_401", "http_403"):
        return (f"{at} refused the key ({kind.removeprefix('http_')}); set the environment variable "
                f"{endpoint.key_env} to a valid one.")
    if kind == "http_404" and "HTML" not in failure.sentence:
        said = failure.sentence.removeprefix("The server answered 404: ").rstrip(".")
        return f"{at} knows no such path or model '{endpoint.model}' (404: {said}); check URL and model."
    return failure.sentence.replace("The server", at, 1)

"""Asks an OpenAI-compatible server over connections that stay open; whatever it does wrong becomes one sentence."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from lab.errors import LabError
from lab.load.endpoint import Endpoint

READ_BYTES = 65_536
MOST_REFUSAL_BYTES = 1_000_000
DESCRIBED_S = 30.0
"""Within this a server must have said whole what it serves: one that sends a byte a second would hold us for minutes."""


BUSY = (429, 503, 529)


class Missing(LabError):
    """The server has no such path, or not this method on it."""


class Busy(LabError):
    """The server has no room now; `after_s` is when it wants to be asked again, NaN where it does not say."""

    def __init__(self, sentence: str, after_s: float) -> None:
        super().__init__(sentence)
        self.after_s = after_s


class Client:
    """Asks one endpoint; `timeout_s` is how long the server may say nothing. Use from one thread at a time or several.

    All methods raise `LabError` with one sentence. The key is read from the environment and is in none of them.
    """

    def __init__(self, endpoint: Endpoint, *, timeout_s: float, kind: str = "an OpenAI-compatible server") -> None:
        self._endpoint, self._timeout_s, self._kind = endpoint, timeout_s, kind
        self._idle: list[http.client.HTTPConnection] = []
        self._asked: http.client.HTTPConnection | None = None
        self.who = f"The server at {endpoint.url}"

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at `path`, of a server that has it ready: it must be whole within 30 s."""
        late = threading.Event()
        timer = threading.Timer(DESCRIBED_S, self._cut, (late,))
        timer.daemon = True
        timer.start()
        try:
            return self._whole("GET", path, b"")
        except LabError as error:
            if late.is_set():
                raise LabError(f"{self.who} did not answer whole within {DESCRIBED_S:g} s; see whether it works.") from error
            raise
        finally:
            timer.cancel()

    def _cut(self, late: threading.Event) -> None:
        late.set()
        if (asked := self._asked) is not None and asked.sock is not None:
            with contextlib.suppress(OSError):
                asked.sock.shutdown(socket.SHUT_RDWR)

    def post(self, path: str, asked: Mapping[str, object]) -> dict[str, Any]:
        """The JSON object that answers the object `asked`."""
        return self._whole("POST", path, json.dumps(asked).encode())

    def stream(self, path: str, body: bytes) -> Iterator[bytes | dict[str, Any]]:
        """The answer's bytes as they arrive if it is a stream of events, else its JSON object, once.

        A connection that breaks after the first byte raises `Broken`.
        """
        connection, response = self._ask("POST", path, body)
        whole, begun = False, False
        try:
            if "text/event-stream" in (response.getheader("Content-Type") or ""):
                while data := response.read1(READ_BYTES):
                    begun = True
                    yield data
            else:
                yield self._object(response.read())
            response.close()  # read1 leaves a body of known length open, and its connection would refuse the next request
            whole = True
        except (OSError, http.client.HTTPException) as error:
            raise (Broken if begun else LabError)(self._broken(error)) from error
        finally:
            self._done_with(connection, keep=whole)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _whole(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        connection, response = self._ask(method, path, body)
        try:
            read = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise LabError(self._broken(error)) from error
        self._done_with(connection, keep=True)
        return self._object(read)

    def _ask(self, method: str, path: str, body: bytes) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """The connection, and the successful response to read from it."""
        while True:
            kept = self._idle.pop() if self._idle else None
            connection = self._asked = kept or self._connection()
            try:
                connection.request(method, path, body=body or None, headers=self._endpoint.headers())
                response = connection.getresponse()
                break
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # A server may close an idle connection just now; it did not read the request, which can be sent again.
                if kept is None or not isinstance(error, ConnectionError):
                    raise LabError(self._broken(error)) from error
        if response.status == 200:
            return connection, response
        try:
            refused = response.read(MOST_REFUSAL_BYTES)
        except (OSError, http.client.HTTPException):
            refused = b""
        connection.close()
        raise self._refusal(response, refused, path)

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._endpoint.address
        if self._endpoint.secure:
            return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=self._timeout_s)

    def _done_with(self, connection: http.client.HTTPConnection, *, keep: bool) -> None:
        if keep and connection.sock is not None:
            self._idle.append(connection)
        else:
            connection.close()

    def _broken(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"{self.who} said nothing for {self._timeout_s:g} s; see whether it works, or allow it more."
        if isinstance(error, ssl.SSLError):
            return f"{self.who} speaks no TLS or cannot be trusted ({error.reason or type(error).__name__}); check the URL."
        if isinstance(error, (ConnectionResetError, BrokenPipeError, http.client.IncompleteRead)):
            return f"{self.who} closed the connection in the middle; see its own log for why."
        if isinstance(error, http.client.HTTPException):
            return f"{self.who} does not speak HTTP; check the URL."
        return f"{self.who} cannot be reached ({getattr(error, 'strerror', None) or error}); start it, or check the URL."

    def _refusal(self, response: http.client.HTTPResponse, body: bytes, path: str) -> LabError:
        said, status = error_message(body), response.status
        secret = os.environ.get(self._endpoint.key_env, "").strip()
        if secret:
            said = said.replace(secret, "…")
        if status in (401, 403):
            return LabError(f"{self.who} refused the key ({status}); put the right one into the environment variable "
                            f"{self._endpoint.key_env}.")
        if status in (404, 405):
            why = f": {said}" if said else f"; give the base URL of {self._kind}"
            return Missing(f"{self.who} has no {path} ({status}){why}.")
        page = "a web page" if _is_page(body) else "no reason"
        sentence = (f"{self.who} refused ({status}): {said}." if said else
                    f"{self.who} answered {status} with {page}; check the URL, or see the server's own log.")
        return Busy(sentence, _seconds(response.getheader("Retry-After"))) if status in BUSY else LabError(sentence)

    def _object(self, body: bytes) -> dict[str, Any]:
        try:
            read = json.loads(body)
        except ValueError:
            read = None
        if not isinstance(read, dict):
            page = "a web page" if _is_page(body) else "something that is no JSON object"
            raise LabError(f"{self.who} answered with {page}; give the base URL of {self._kind}.")
        return read


class Broken(LabError):
    """The answer began and did not end."""


def error_message(body: bytes) -> str:
    """The message of an error object, on one line and without its full stop; empty where there is none."""
    try:
        read = json.loads(body)
    except ValueError:
        return ""
    error = read.get("error", read) if isinstance(read, dict) else read
    message = error.get("message", error.get("detail", "")) if isinstance(error, dict) else error
    return one_line(message if isinstance(message, str) else json.dumps(message))


def one_line(text: str) -> str:
    return " ".join(text.split())[:300].rstrip(". ")


def _seconds(header: str | None) -> float:
    """A Retry-After in seconds; NaN for none, or for a date."""
    try:
        return max(0.0, float(header or "nan"))
    except ValueError:
        return math.nan


def _is_page(body: bytes) -> bool:
    return body.lstrip()[:1] == b"<"

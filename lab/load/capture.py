"""Puts load on an HTTP server and keeps the time of every token, from a process that does nothing else."""

from __future__ import annotations

import contextlib
import math
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

import lab
from lab.errors import LabError
from lab.load.audit import DRIFT_LIMIT_S, Audit, audit
from lab.load.counting import token_times
from lab.load.endpoint import Endpoint
from lab.load.plan import Account, Plan, Seen, frame, unframe
from lab.load.wire import reach
from lab.records import Generation, Request

MEMORY_BYTES = 192 << 20
_STEADY_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(128 << 10)}
"""Said aloud, glibc keeps the threshold where it is. Else it rises to megabytes, and the readings of many streams, growing side
by side in one heap, leave holes several times their size."""
READY_CONNECTIONS = 32
"""Opened before an open loop; more are made when they are needed."""


@dataclass(frozen=True, kw_only=True)
class Captured:
    """What came back, in the order of the requests, with the audit of the capture.

    `generations` leaves out what was never sent because the load was interrupted or reached its limit; what had not
    ended then is `cancelled`. `problems` are sentences to show beside the figures.
    """

    generations: tuple[Generation, ...]
    seconds: float
    """From the start of the load to the end of its last answer."""
    audit: Audit
    problems: tuple[str, ...]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or a polite kill came while the load ran; `captured` is what there was until then."""

    def __init__(self, captured: Captured) -> None:
        super().__init__("interrupted")
        self.captured = captured


def capture(
    endpoint: Endpoint, requests: Sequence[Request], *, times: Sequence[float] | None = None, users: int | None = None,
    warmup: int = 1, timeout_s: float = 60.0, request_limit_s: float = 300.0, limit_s: float = 600.0,
    count_tokens: Callable[[str], int] | None = None, title: str = "requests",
) -> Captured:
    """Ask all `requests`: each when its time of `times` has come (seconds after the start, ascending), or by `users`.

    The schedule is absolute: a late answer delays no request, and a late request delays no other. Before the start the
    first request is asked `warmup` times. A request fails after `timeout_s` of silence or `request_limit_s` in all;
    `limit_s` ends the load. Tokens are counted by the ids or the running usage that a server sends, else with
    `count_tokens`, else one per event with content. Failures are kept and never repeated; only a kept connection that
    the server had closed before it answered is replaced, once, and counted.

    Raises `LabError` when the arguments make no load, when the host is unknown or when the capture process dies;
    `Interrupted` (a KeyboardInterrupt) with what was captured.
    """
    plan = _plan(endpoint, requests, times, users, warmup, timeout_s, request_limit_s, limit_s, count_tokens is not None)
    with _Child(plan) as child, tqdm(total=len(requests), desc=title, leave=False, disable=None) as bar:
        said = child.listen(lambda ended: bar.update(ended - bar.n))
        account = said.pop(0) if said else None
        if not child.ended_well() or not isinstance(account, Account):
            raise LabError(f"The capture process died before it handed over what it had ({child.last_words()}); look at "
                           "the machine's memory and run again.")
    captured = _captured(requests, said, account, endpoint, count_tokens)
    if child.interrupted:
        raise Interrupted(captured)
    return captured


def _plan(
    endpoint: Endpoint, requests: Sequence[Request], times: Sequence[float] | None, users: int | None, warmup: int,
    timeout_s: float, request_limit_s: float, limit_s: float, keep_pieces: bool,
) -> Plan:
    if (times is None) == (users is None):
        raise LabError("A load needs either arrival times (open loop) or a number of users (closed loop).")
    if not requests:
        raise LabError("There is no request to send.")
    if users is not None and users < 1:
        raise LabError(f"A closed loop needs at least one user, not {users}.")
    if times is not None and len(times) != len(requests):
        raise LabError(f"The schedule has {len(times)} arrivals for {len(requests)} requests.")
    if times is not None and not (all(map(math.isfinite, times)) and times[0] >= 0 and list(times) == sorted(times)):
        raise LabError("Arrival times must be finite, ascending and not before the start.")
    if not (warmup >= 0 and timeout_s > 0 and request_limit_s > 0 and limit_s > 0):
        raise LabError("Warm-up requests cannot be fewer than 0, and every limit must be above 0 seconds.")
    host, port = endpoint.address
    try:
        address = reach(host, port)
    except OSError as error:
        raise LabError(f"The host '{host}' is not known ({error.strerror or error}); check the URL.") from error
    return Plan(
        address=address, host=host, secure=endpoint.secure, messages=tuple(endpoint.message(r) for r in requests),
        times=None if times is None else tuple(times), users=users or READY_CONNECTIONS, warmup=warmup,
        timeout_s=timeout_s, request_limit_s=request_limit_s, limit_s=limit_s, keep_pieces=keep_pieces,
        memory_bytes=MEMORY_BYTES,
    )


class _Child:
    """The capture process: started with a plan, stopped politely once and firmly at the end, whatever happens.

    It stands in a session of its own, so that Ctrl-C reaches it only through here, and it ends when its standard input
    does, so that it never outlives this process.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self.interrupted, self._ended = plan, False, 0
        self._said: list[Any] = []

    def __enter__(self) -> _Child:
        self._words: IO[bytes] = tempfile.TemporaryFile()
        root = str(Path(lab.__file__).parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lab.load.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words,
            start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **_STEADY_MALLOC})
        try:
            with contextlib.suppress(BrokenPipeError):
                self._stdin.write(frame(self._plan))
                self._stdin.flush()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        self._process.kill()
        self._process.wait()
        self._stdout.close()
        self._words.close()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def listen(self, told: Callable[[int], object]) -> list[Any]:
        """All it says until it has said all; `told` hears how many requests have ended.

        The first interruption stops the load, the second gives up on it. A thread does the reading: an interruption
        between a read and what is done with it would lose a frame.
        """
        # A pipe that closes, because an interruption breaks the waits of `threading`: `join` takes a living thread for
        # dead, and a condition releases a lock that it has not got.
        silent, silence = os.pipe()
        threading.Thread(target=self._read, args=(silence,), daemon=True).start()
        try:
            while True:
                try:
                    if select.select([silent], [], [], 0.5)[0]:
                        return self._said
                    told(self._ended)
                except KeyboardInterrupt:
                    if self.interrupted:
                        raise
                    self.interrupted = True
                    with contextlib.suppress(BrokenPipeError):
                        self._stdin.close()
        finally:
            told(self._ended)
            os.close(silent)

    def _read(self, silence: int) -> None:
        try:
            while (said := unframe(self._stdout.read)) is not None:
                if isinstance(said, int):
                    self._ended = said
                else:
                    self._said.append(said)
        except (ValueError, OSError):  # closed under our hands by a second interruption
            pass
        finally:
            os.close(silence)

    def ended_well(self) -> bool:
        try:
            return self._process.wait(10) == 0
        except subprocess.TimeoutExpired:
            return False

    def last_words(self) -> str:
        """The last line it wrote about itself, else how it ended."""
        self._words.seek(0)
        lines = self._words.read().decode("utf-8", "replace").strip().splitlines()
        code = self._process.poll()
        ending = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return f"{ending}, {lines[-1].strip()}" if lines else ending


def _captured(
    requests: Sequence[Request], seen: list[Seen], account: Account, endpoint: Endpoint,
    count_tokens: Callable[[str], int] | None,
) -> Captured:
    events = sum(len(s.observed.at_s) for s in seen)
    made = audit(account, events=events, shared=sum(s.observed.shared for s in seen))
    problems = [*_problems(seen, account, endpoint), *([f"client_bound: {made.reason}"] if made.client_bound else [])]
    generations = []
    seen.reverse()
    while seen:
        one = seen.pop()
        generations.append(_generation(requests[one.index], one, count_tokens, endpoint))
    problems += _count_problems(generations)
    return Captured(generations=tuple(generations), seconds=account.ended_s - account.started_s, audit=made,
                    problems=tuple(problems))


def _generation(
    request: Request, seen: Seen, count_tokens: Callable[[str], int] | None, endpoint: Endpoint
) -> Generation:
    observed = seen.observed
    return Generation(
        request=request, text=endpoint.masked(observed.text), tokens=observed.token_ids,
        tokens_at_s=token_times(observed, count_tokens), scheduled_s=seen.scheduled_s, sent_s=seen.sent_s,
        ended_s=seen.ended_s, usage=observed.usage,
        finish_reason=observed.finish_reason,
        error=endpoint.masked(observed.failure.sentence) if observed.failure else None,
        error_kind=observed.failure.kind if observed.failure else None,
    )


def _problems(seen: list[Seen], account: Account, endpoint: Endpoint) -> Iterator[str]:
    """What a reader of the figures must know: failures by kind first."""
    kinds = Counter(s.observed.failure.kind for s in seen if s.observed.failure)
    for kind, count in kinds.most_common():
        example = next(s.observed.failure.sentence for s in seen if s.observed.failure and s.observed.failure.kind == kind)
        yield endpoint.masked(f"{count} of {len(seen)} requests failed ({kind}): {example}")
    if endpoint.chat_only:
        yield ("The server has no /completions, so each prompt was asked as a message in the server's own chat template: other "
               "text, and other answers, than engines that continue the prompt itself.")
    if account.resent:
        yield (f"{account.resent} requests were sent again: the kept connection ended as they were sent, without a sign that the "
               "server had read them.")
    empty = sum(s.observed.failure is None and not s.observed.at_s and s.observed.finish_reason != "cancelled" for s in seen)
    if empty:
        yield emptied(empty, len(seen))
    if account.stopped in ("limit", "interrupted"):
        cancelled = sum(s.observed.finish_reason == "cancelled" for s in seen)
        why = "The load was interrupted" if account.stopped == "interrupted" else "The load reached its time limit"
        yield f"{why}: {cancelled} requests were cut off and what was not sent is left out."
    if account.unsent:
        yield (f"The server stopped accepting connections: the last {account.unsent} of {len(seen)} requests were not sent "
               "and count as failed.")
    whole = sum(not s.observed.streamed and s.observed.failure is None and bool(s.observed.at_s) for s in seen)
    if whole and endpoint.stream:
        yield (f"{whole} answers came as one JSON document although a stream was asked for, so their time to first token is "
               "that of the whole answer.")
    elif whole:
        yield "Streaming is off, so the time to first token is that of the whole answer."
    hidden = sum(s.observed.hidden_events > 0 for s in seen)
    if hidden:
        yield f"{hidden} answers contain reasoning or tool calls: counted as output tokens and left out of the text."
    if account.warmup_failures:
        yield f"{account.warmup_failures} of {account.warmed} warm-up requests failed."
    if abs(account.clock_drift_s) > DRIFT_LIMIT_S:
        yield (f"The system clock was set while the load ran ({account.clock_drift_s * 1e3:+.2f} ms), so arrival times may be "
               "off by as much; run again.")


def emptied(empty: int, of: int) -> str:
    """That some answers ended well and hold nothing."""
    return f"{empty} of {of} answers are empty: they ended without a token."


def _count_problems(generations: Sequence[Generation]) -> Iterator[str]:
    """Where the server's count of output tokens and ours differ."""
    ended = [g for g in generations if g.error is None and g.finish_reason != "cancelled"]
    both = [(len(g.tokens_at_s), g.usage.output_tokens) for g in ended if g.usage.output_tokens is not None]
    differ = [(ours, theirs) for ours, theirs in both if ours != theirs]
    if differ:
        yield (f"Token counts differ in {len(differ)} of {len(both)} answers: {sum(ours for ours, _ in differ):,} counted, "
               f"{sum(theirs for _, theirs in differ):,} reported by the server.")

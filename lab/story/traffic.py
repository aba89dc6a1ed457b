"""Users of a story: they ask a running gateway questions with known answers, and what they got is scored into the log."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from lab import metrics
from lab.ops import requests
from lab.ops.requests import scores
from lab.records import Generation, Message, Question, Request

SCORER = "contains"
"""The checker that scores answers: whether a right answer stands in it."""
TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Got:
    """What one user got for one question. `release` is None when the connection broke or the answer was none."""

    question: Question
    sent_s: float
    """By the monotonic clock, as `ended_s`."""
    ended_s: float
    release: int | None
    status: int = 0
    request_id: str = ""
    text: str = ""


class Traffic:
    """`clients` connections, each a new user at every question; they ask in a random order that `seed` decides, until closed."""

    def __init__(self, port: int, questions: Sequence[Question], *, clients: int, seed: int = 0) -> None:
        self.got: list[Got] = []
        self.scored = 0
        self._port, self._questions, self._random = port, list(questions), random.Random(seed)
        self._users, self._lock, self._stop = itertools.count(), threading.Lock(), threading.Event()
        self._unscored: dict[str, Got] = {}
        self._rows: dict[str, float] = {}
        self._read = requests.position()
        self._clients = [threading.Thread(target=self._ask_on, daemon=True) for _ in range(clients)]
        self._scorer = threading.Thread(target=self._score_on, daemon=True)

    def __enter__(self) -> Traffic:
        for thread in (*self._clients, self._scorer):
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        for thread in (*self._clients, self._scorer):
            thread.join(TIMEOUT_S)
        self._score()

    def wait(self, answers: int, *, until_s: float) -> int:
        """Until there are so many answers or `until_s` (monotonic) is over; how many there are."""
        while len(self.got) < answers and time.monotonic() < until_s:
            time.sleep(0.05)
        return len(self.got)

    def _ask_on(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                question, user = self._random.choice(self._questions), f"user {next(self._users)}"
            one = _ask(self._port, question, user)
            with self._lock:
                self.got.append(one)
                if one.release is not None:
                    self._unscored[one.request_id] = one
            if one.release is None:
                time.sleep(0.2)

    def _score_on(self) -> None:
        while not self._stop.wait(0.5):
            self._score()

    def _score(self) -> None:
        """Score what has both its row and its answer: the row is written before the last byte of the answer is sent."""
        rows = requests.frame(columns=["id", "request_id", "time_s"], after=self._read)
        if len(rows):
            self._read = int(rows["id"].max())
            self._rows |= dict(zip(map(str, rows["request_id"]), map(float, rows["time_s"]), strict=True))
        with self._lock:
            ready = [(self._unscored.pop(name), self._rows.pop(name)) for name in [*self._rows] if name in self._unscored]
        scores.add([_scored(one, time_s) for one, time_s in ready], requests.folder())
        self.scored += len(ready)


def _ask(port: int, question: Question, user: str) -> Got:
    sent, status, release, request_id, text = time.monotonic(), 0, None, "", ""
    body = json.dumps({"messages": [{"role": "user", "content": question.question}], "user": user}).encode()
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError, LookupError):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/chat/completions", body)
            response = connection.getresponse()
            said, status = json.loads(response.read()), response.status
            if status == 200:
                text, request_id = str(said["choices"][0]["message"]["content"]), response.headers["x-request-id"]
                release = int(response.headers["x-lab-release"])
    return Got(question=question, sent_s=sent, ended_s=time.monotonic(), release=release, status=status, request_id=request_id,
               text=text)


def _scored(one: Got, time_s: float) -> requests.Scored:
    asked = Request(id=one.question.id, messages=(Message(role="user", content=one.question.question),))
    answer = Generation(request=asked, text=one.text, sent_s=one.sent_s, ended_s=one.ended_s, finish_reason="stop")
    score = metrics.scorer(SCORER)([one.question], [answer])[0]
    return requests.Scored(request_id=one.request_id, time_s=time_s, name=SCORER, value=score.value, by=score.by,
                           scored_s=time.time(), why=score.why)

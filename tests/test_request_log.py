"""Laws of the request log: what was acknowledged is there, once, whoever dies; it stays bounded and holds no text unasked."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lab.errors import LabError
from lab.ops import requests, requests_schema
from lab.ops.requests import sealing
from lab.ops.requests.hot import Hot
from lab.ops.requests.record import row
from lab.ops.requests_schema import LogRecord

FOREVER = requests.Keep(days=1e9, texts_days=1e9)


def record(i: int, **given: Any) -> LogRecord:
    return LogRecord(**{"time_s": 1000.0 + i, "request_id": f"r{i}", "release": "release 1", "model": "m", **given})


def fill(place: Path, numbers: Sequence[int]) -> Hot:
    hot = Hot(place)
    hot.append([row(record(i), "") for i in numbers])
    return hot


def ids(place: Path, **given: Any) -> list[str]:
    return list(requests.frame(place=place, **given)["request_id"])


def test_a_row_reads_back_as_it_was_written_and_not_measured_stays_so(tmp_path: Path) -> None:
    log = requests.RequestLog(tmp_path, keep=FOREVER)
    whole = record(1, key_hash="k", status=429, error_kind="budget", ttft_s=0.25, prompt_tokens=3.0, refused=1.0, cost_usd=1e-9)
    log.add(whole, guard="input:x:block")
    log.add(record(2))
    log.close()
    found = requests.frame(place=tmp_path)
    assert list(found.columns) == list(requests_schema.COLUMNS)
    back = [LogRecord(**values) for values in found.to_dict("records")]
    assert repr(back) == repr([whole, record(2)])  # NaN is not equal to itself
    assert list(requests.frame(place=tmp_path, columns=["guard"])["guard"]) == ["input:x:block", ""]
    assert len(requests_schema.checked(found)) == 2


def test_acknowledged_means_another_process_can_read_it(tmp_path: Path) -> None:
    seen: list[tuple[list[str], bool]] = []

    def acknowledged(tokens: Sequence[str], safe: bool) -> None:
        there = set(ids(tmp_path))  # a connection of its own, before anybody is told more
        seen.append(([token for token in tokens if token not in there], safe))

    log = requests.RequestLog(tmp_path, acknowledge=acknowledged, keep=FOREVER)
    for i in range(500):
        log.add(record(i), token=f"r{i}")
    log.close()
    assert all(missing == [] and safe for missing, safe in seen)
    assert log.written == 500 and len(ids(tmp_path)) == 500


WRITER = """
import sys, time
from pathlib import Path
from lab.ops import requests
from lab.ops.requests_schema import LogRecord
def said(tokens, safe):
    sys.stdout.write("".join(f"{token}\\n" for token in tokens if safe))
    sys.stdout.flush()
log = requests.RequestLog(Path(sys.argv[1]), acknowledge=said, keep=requests.Keep(hot_rows=50))
i = 0
while True:
    name = f"{sys.argv[2]}-{i}"
    log.add(LogRecord(time_s=time.time(), request_id=name, release="release 1"), token=name)
    i += 1
    if i % 50 == 0:
        time.sleep(0.01)
"""


def test_two_writers_killed_in_the_middle_lose_nothing_acknowledged(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "log"), name], stdout=subprocess.PIPE, text=True)
               for name in "ab"]
    told: list[list[str]] = [[], []]

    def read(i: int) -> None:
        assert writers[i].stdout is not None
        for line in writers[i].stdout:
            if line.endswith("\n"):
                told[i].append(line.strip())

    readers = [threading.Thread(target=read, args=(i,)) for i in range(2)]
    for reader in readers:
        reader.start()
    end = time.monotonic() + 30
    while (not (tmp_path / "log" / "segments").is_dir() or not all(len(t) > 300 for t in told)) and time.monotonic() < end:
        time.sleep(0.02)
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    for reader in readers:
        reader.join()
    found = ids(tmp_path / "log")
    assert len(found) == len(set(found))
    assert set(told[0]) | set(told[1]) <= set(found)
    assert min(map(len, told)) > 300


def test_sealing_changes_no_answer_wherever_it_is_cut_off(tmp_path: Path) -> None:
    hot = fill(tmp_path, range(100))
    before = requests.frame(place=tmp_path)
    sealing._sealed(hot, tmp_path, 100)  # dies here: every row is in both places
    assert requests.frame(place=tmp_path).equals(before)
    with hot.transaction() as connection:  # dies in the middle of the deletion
        connection.execute("DELETE FROM requests WHERE id <= 40")
    assert requests.frame(place=tmp_path).equals(before)
    hot.append([row(record(200), "")])
    sealing.kept_up(hot, tmp_path, requests.Keep(days=1e9, hot_rows=1), 2000.0)
    assert ids(tmp_path) == [*(f"r{i}" for i in range(100)), "r200"]
    assert hot.connection.execute("SELECT count(*) FROM requests").fetchone() == (0,)
    hot.append([row(record(300), "")])  # ids are not used again, though the table was empty
    assert ids(tmp_path)[-2:] == ["r200", "r300"]


def test_a_frame_since_a_time_is_the_whole_one_cut_there(tmp_path: Path) -> None:
    hot = fill(tmp_path, range(60))
    sealing.kept_up(hot, tmp_path, requests.Keep(days=1e9, hot_rows=50), 2000.0)
    hot.append([row(record(i), "") for i in range(60, 80)])
    whole = requests.frame(place=tmp_path)
    for since, until in [(1000.0, math.inf), (1030.0, 1070.0), (1065.0, math.inf), (5000.0, math.inf), (-math.inf, 1000.0)]:
        wanted = whole[(whole["time_s"] >= since) & (whole["time_s"] < until)].reset_index(drop=True)
        assert requests.frame(since, until_s=until, place=tmp_path).equals(wanted)


def test_an_empty_log_is_an_empty_frame_with_every_column(tmp_path: Path) -> None:
    found = requests.frame(place=tmp_path / "nothing")
    assert len(found) == 0 and list(found.columns) == list(requests_schema.COLUMNS)


def test_retention_takes_what_is_old_and_what_is_too_much_and_nothing_else(tmp_path: Path) -> None:
    hot = Hot(tmp_path)
    keep = requests.Keep(days=1, hot_rows=10)
    for part in range(4):
        hot.append([row(record(part * 86_400 + i), "") for i in range(10)])
        sealing.kept_up(hot, tmp_path, requests.Keep(days=1e9, hot_rows=10), 1000.0)
    sealing.kept_up(hot, tmp_path, keep, 1000.0 + 3 * 86_400)
    assert {int(name[1:]) // 86_400 for name in ids(tmp_path)} == {2, 3}
    size = max(file.stat().st_size for _, _, file in sealing.segments(tmp_path))
    sealing.kept_up(hot, tmp_path, requests.Keep(days=1e9, most_bytes=size, hot_rows=10), 1000.0)
    assert {int(name[1:]) // 86_400 for name in ids(tmp_path)} == {3}


def test_texts_are_kept_only_where_they_were_given_and_only_for_their_time(tmp_path: Path) -> None:
    log = requests.RequestLog(tmp_path, keep=FOREVER)
    log.add(record(1))
    log.add(record(2), prompt="What?", answer="That.")
    log.close()
    assert requests.texts(tmp_path)[["request_id", "prompt", "answer"]].to_numpy().tolist() == [["r2", "What?", "That."]]
    sealing.kept_up(Hot(tmp_path), tmp_path, requests.Keep(texts_days=1), 1000.0 + 2 * 86_400)
    assert len(requests.texts(tmp_path)) == 0 and len(ids(tmp_path)) == 2


def test_the_language_of_an_answer_is_written_and_the_text_is_not(tmp_path: Path) -> None:
    said = {"en": "The capital of France is Paris.", "de": "Die Hauptstadt von Frankreich ist Paris.", "zh": "法国的首都是巴黎。",
            "": "42 + 1 = 43"}
    log = requests.RequestLog(tmp_path, keep=FOREVER)
    for i, text in enumerate(said.values()):
        log.add(record(i), answer=text)
    log.close()
    assert list(requests.frame(place=tmp_path)["language"]) == list(said)
    assert requests.texts(tmp_path).empty and all(b"Frankreich" not in file.read_bytes() for file in tmp_path.iterdir())


def test_a_text_that_no_file_can_hold_is_written_with_a_mark_and_the_log_goes_on(tmp_path: Path) -> None:
    log = requests.RequestLog(tmp_path, keep=FOREVER)
    log.add(record(1), prompt="a\ud800b", answer="c\udfff")
    log.close()
    assert requests.texts(tmp_path)[["prompt", "answer"]].to_numpy().tolist() == [["a?b", "c?"]] and ids(tmp_path) == ["r1"]


def test_a_row_that_cannot_be_written_is_told_and_ends_no_thread(tmp_path: Path) -> None:
    told: dict[str, bool] = {}
    log = requests.RequestLog(tmp_path, keep=FOREVER, acknowledge=lambda tokens, safe: told.update(dict.fromkeys(tokens, safe)))
    for i, (token, model) in enumerate((("odd", "\ud800"), ("after", "m"))):
        log.add(record(i, model=model), token=token)
        while token not in told:
            time.sleep(0.01)
    log.close()
    assert told == {"odd": False, "after": True} and ids(tmp_path) == ["r1"] and log.trouble == ""


def test_a_full_disk_is_told_and_is_over_when_there_is_room_again(tmp_path: Path) -> None:
    told: dict[str, bool] = {}
    log = requests.RequestLog(tmp_path, keep=FOREVER,
                              acknowledge=lambda tokens, safe: told.update(dict.fromkeys(tokens, safe)))
    log.add(record(0), token="before")
    until(lambda: "before" in told)
    pages = log._hot.connection.execute("PRAGMA page_count").fetchone()[0]
    log._hot.connection.execute(f"PRAGMA max_page_count={pages}")
    for i in range(400):
        log.add(record(i, topic="x" * 200), token=i)
    until(lambda: len(told) == 401)
    assert log.trouble and not told[399]
    log._hot.connection.execute("PRAGMA max_page_count=1000000")
    until(lambda: not log.trouble)
    log.add(record(1), token="after")
    log.close()
    assert told["before"] and told["after"] and log.failed > 0
    safe = [token for token, good in told.items() if good]
    assert len(ids(tmp_path)) == len(safe)


def test_rows_nobody_waits_for_are_dropped_and_counted_before_memory_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.ops.requests.writer.MOST_WAITING", 10)
    log = requests.RequestLog(tmp_path, keep=FOREVER)
    blocker = Hot(tmp_path)
    with blocker.transaction():
        for i in range(3000):
            log.add(record(i))
        log.add(record(5000), token="kept")
    log.close()
    assert log.dropped > 0 and log.written + log.dropped == 3001
    assert "r5000" in ids(tmp_path)


def test_a_file_that_is_no_log_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "requests.db").write_text("this is no database, and long enough to be read as one" * 50)
    with pytest.raises(LabError, match="cannot be opened"):
        requests.RequestLog(tmp_path, keep=FOREVER)
    with pytest.raises(LabError, match="cannot be read"):
        requests.frame(place=tmp_path)
    with pytest.raises(LabError, match="no column 'prompt'"):
        requests.frame(place=tmp_path, columns=["prompt"])
    assert json.dumps(requests.COLUMNS)


@pytest.mark.slow
def test_a_million_rows_are_read_in_little_time_and_memory(tmp_path: Path) -> None:
    hot = Hot(tmp_path)
    for part in range(50):
        hot.append([row(record(part * 20_000 + i), "") for i in range(20_000)])
        sealing.kept_up(hot, tmp_path, FOREVER, 1000.0)
    assert len(requests.frame(place=tmp_path)) == 1_000_000


def until(check: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)

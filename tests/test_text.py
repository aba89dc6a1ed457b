"""Laws of turning token bytes into text: how the bytes are cut into tokens must never show."""

from __future__ import annotations

import time

from hypothesis import example, given
from hypothesis import strategies as st

from lab.text import TextStream


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(p, len(data)) for p in places})
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


def read(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[str, bool]:
    stream = TextStream(stop)
    text = "".join(stream.push(piece) for piece in pieces) + stream.end()
    return text, stream.stopped


def until_a_stop(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """The law, said slowly: read character by character and end at the first one that completes a stop string."""
    for end in range(1, len(text) + 1):
        found = [s for s in stop if s and text[:end].endswith(s)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


places = st.lists(st.integers(0, 60), max_size=12)
words = st.text("ab€🦙 ", max_size=30)
stops = st.lists(st.text("ab€🦙", max_size=4), max_size=3).map(tuple)


@given(st.text(max_size=40), places)
def test_any_cut_of_valid_utf8_gives_the_text(text: str, where: list[int]) -> None:
    assert read(cut(text.encode("utf-8", "replace"), where))[0] == text.encode("utf-8", "replace").decode()


@given(st.binary(max_size=40), places)
@example(b"\xed\xa0\x80", [1, 2])
@example(b"\xf0\x9f\xa6", [1, 2])
def test_any_cut_of_any_bytes_gives_the_same_text(data: bytes, where: list[int]) -> None:
    assert read(cut(data, where))[0] == read([data])[0] == data.decode("utf-8", "replace")


@given(words, stops, places)
@example("abab", ("ba", "abab"), [])
@example("abab", ("ba", "abab"), [1, 2, 3])
@example("aab", ("ab",), [1, 2])
def test_text_ends_before_the_first_stop_string_wherever_the_cuts_are(text: str, stop: tuple[str, ...], where: list[int]) -> None:
    assert read(cut(text.encode(), where), stop) == until_a_stop(text, stop)


@given(words, stops, places)
def test_no_piece_of_a_stop_string_leaks_before_it_is_certain(text: str, stop: tuple[str, ...], where: list[int]) -> None:
    stream, whole, shown = TextStream(stop), until_a_stop(text, stop)[0], ""
    for piece in cut(text.encode(), where):
        shown += stream.push(piece)
        assert whole.startswith(shown)


@given(words, stops)
def test_nothing_comes_after_a_stop(text: str, stop: tuple[str, ...]) -> None:
    stream = TextStream(stop)
    stream.push(text.encode())
    if stream.stopped:
        assert stream.push(b"more") == stream.push(b"\xff") == stream.end() == ""


def test_text_that_can_be_no_stop_comes_out_at_once() -> None:
    stream = TextStream(("###",))
    assert [stream.push(b) for b in (b"a", b"#", b"b", b"##", b"#")] == ["a", "", "#b", "", ""]
    assert stream.stopped


def test_work_per_token_does_not_grow_with_the_text() -> None:
    def seconds(pieces: int) -> float:
        stream, start = TextStream(("<|end|>", "\n\nQuestion:")), time.process_time()
        for _ in range(pieces):
            stream.push(b"<|en")
        assert len(stream.end()) < len("\n\nQuestion:")
        return time.process_time() - start

    few = min(seconds(5_000) for _ in range(3))
    many = min(seconds(40_000) for _ in range(3))
    assert many / few < 8 * 3, "8 times the tokens took more than 3 times 8 times as long"

"""Patterns over growing texts: their beginnings, their linear time, and the disguises they see through."""

from __future__ import annotations

import random
import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import LabError
from lab.safety import shipped
from lab.safety.beginnings import beginnings
from lab.safety.disguise import undisguised
from lab.safety.guards import content, injection, personal, requests, secrets
from lab.safety.patterns import Patterns, compiled
from lab.safety.view import view
from lab.safety.wording import pattern, plain

SHIPPED = {**personal.PATTERNS, **secrets.PATTERNS, "phrase": pattern("pipe bomb*"), "optional": r"\bab?c{2,3}(?:d|ef)*\b"}
ASCII = st.text(alphabet=string.ascii_letters + string.digits + " .,-_@:/+()\n", max_size=60)


@pytest.mark.parametrize("name", SHIPPED)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_beginning_of_a_match_is_known_as_one(name: str, data: st.DataObject) -> None:
    found = data.draw(st.from_regex(re.compile(SHIPPED[name], re.ASCII), fullmatch=True, alphabet=st.characters(max_codepoint=126)))
    opened = compiled(beginnings(SHIPPED[name]), case=True)
    for n in range(1, len(found) + 1):
        assert opened.fullmatch(found[:n].encode()) is not None, found[:n]


@given(text=st.text(alphabet="abcdef", min_size=1, max_size=8))
def test_what_is_no_beginning_is_not_held_back(text: str) -> None:
    whole, opened = re.compile(r"ab?c{2,3}(?:d|ef)*"), compiled(beginnings(r"ab?c{2,3}(?:d|ef)*"), case=True)
    grows = any(whole.fullmatch(text + end) for end in ("", "bcc", "cc", "c", "f"))
    assert (opened.fullmatch(text.encode()) is not None) == grows


@pytest.mark.parametrize("wrong", ["a(?=b)", r"(a)\1", "(", "a**", r"\b"])
def test_a_pattern_without_a_linear_time_matcher_is_refused_with_a_sentence(wrong: str) -> None:
    with pytest.raises(LabError, match=r"write it|mend it|give it") as refused:
        beginnings(wrong)
    assert str(refused.value).count(". ") == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [personal.guard, secrets.guard, content.guard, injection.guard, requests.guard],
                         ids=["personal", "secrets", "content", "injection", "requests"])
def test_no_text_makes_a_guard_slow(make: object) -> None:
    guard = make()  # type: ignore[operator]
    randomly = random.Random(0)
    seeds = ["a", "0", "1 ", "a@", "-", "a-", "a.", "+1", "(1)", "eyJ", "password: ", "ignore ", "make a ", "0 1-", "!", "\n", "\u200b",
             "p i p e ", "ab1C", "ignore all your ", "-----BEGIN PRIVATE KEY-----"]
    for seed in [*seeds, *("".join(randomly.choices(seeds, k=4)) for _ in range(20))]:
        text = (seed * 20_000)[:20_000]
        guard.scan(text, 0, True)
        guard.scan(text, 0, False)


@given(ASCII)
def test_the_view_of_plain_text_is_the_text(text: str) -> None:
    assert view(text).data == text.encode()
    assert [view(text).place(i) for i in range(len(text) + 1)] == list(range(len(text) + 1))


@given(st.text(max_size=40), st.integers(0, 40))
def test_the_view_of_a_text_is_that_of_its_pieces(text: str, cut: int) -> None:
    assert view(text).data == view(text[:cut]).data + view(text[cut:]).data


@pytest.mark.parametrize("text", ["pipe bomb", "PIPE  BOMBS", "p1p3 b0mb", "p.i.p.e b-o-m-b", "ріре bоmb", "ｐｉｐｅ ｂｏｍｂ", "pi\u200bpe bo\u00admb",
                                  "pípé bömb", "pipe-bomb"])
def test_a_phrase_is_found_in_every_disguise(text: str) -> None:
    assert content.guard(categories=(), words=["pipe bomb*"]).scan(f"about a {text} there", 0, True).findings


def test_a_word_of_a_policy_is_found_and_its_neighbours_are_not() -> None:
    guard = content.guard(categories=(), words=["project falcon", "unicorn*"])
    assert [f.category for f in guard.scan("Project Falcon, unicorns and unicornlike", 0, True).findings] == ["own words"] * 3
    assert not guard.scan("a falcon project, a corn", 0, True).findings


def test_spelled_and_leet_words_are_also_read_as_words() -> None:
    assert b"ignore all" in undisguised("1gnore a l l")[-1].replace(b"all", b" all").replace(b"  ", b" ")
    assert undisguised("room 101 at 5 pm")[0] == b"room 101 at 5 pm"


@given(st.integers(0, 10**9), st.sampled_from([13, 16, 19]))
def test_a_card_number_is_one_only_with_its_check_digit(seed: int, length: int) -> None:
    body = "4" + "".join(random.Random(seed).choices(string.digits, k=length - 2))
    right = next(d for d in string.digits if personal.luhn(body + d))
    guard = personal.guard(kinds=["card"])
    assert [f.end - f.start for f in guard.scan(f"card {body}{right} 12/27", 0, True).findings] == [length]
    wrong = str((int(right) + 1) % 10)
    assert not guard.scan(f"card {body}{wrong}.", 0, True).findings


@pytest.mark.parametrize(("text", "kind"), [
    ("GB82 WEST 1234 5698 7654 32 is mine", "iban"), ("DE89370400440532013000", "iban"), ("write to a.b+c@mail.example.org!", "email"),
    ("call +44 20 7946 0958 now", "phone"), ("(030) 123 4567", "phone"), ("078-05-1120", "us_ssn"), ("from 8.8.8.8 today", "ip")])
def test_personal_data_is_found_with_its_kind(text: str, kind: str) -> None:
    assert [f.category for f in personal.guard().scan(text, 0, True).findings] == [kind]


@pytest.mark.parametrize("text", ["DE89 3704 0044 0532 0130 01", "version 1.2.3.4567", "127.0.0.1", "2026-11-24 13:00", "666-12-3456", "at 12:30",
                                  "1234567890123456", "a @ b", "the year 2024-2025", "3.14159265358979"])
def test_what_only_looks_like_personal_data_is_left_alone(text: str) -> None:
    assert not personal.guard().scan(text, 0, True).findings


@pytest.mark.parametrize("text", ["The internationalization of telecommunications", "def test_every_beginning_of_a_match_is_known(self)",
                                  "the password is wrong", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "https://example.org/a/long/path/to/a/page"])
def test_ordinary_words_are_no_secrets(text: str) -> None:
    assert not secrets.guard().scan(text, 0, True).findings


@pytest.mark.parametrize("text", ["a" * 40 + "Zk3x9QmT7vLp2RwY8nBd5JhC", "Zk3x9QmT7vLp2RwY8nBd5JhC" + "a" * 40])
def test_a_secret_cannot_hide_beside_dull_characters(text: str) -> None:
    assert [(f.start, f.end) for f in secrets.guard().scan(text, 0, True).findings] == [(0, len(text))]


def test_a_private_key_goes_with_everything_in_it() -> None:
    body = "\n".join("".join(random.Random(i).choices(string.ascii_letters, k=64)) for i in range(4))
    text = f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----"
    found = secrets.guard().scan(f"see {text} here", 0, True).findings
    assert [(f.category, f.start, f.end) for f in found] == [("private_key", 4, 4 + len(text))]


def test_every_list_that_ships_makes_a_pattern() -> None:
    for category in shipped.terms():
        for phrase in category.phrases:
            compiled(pattern(phrase))
        for word in category.objects:
            compiled(plain(word))
    for signal in shipped.signals():
        assert signal.weight > 0
        for one in signal.patterns:
            compiled(one)


def test_a_guard_without_patterns_is_refused() -> None:
    with pytest.raises(LabError, match="at least one pattern"):
        Patterns({})

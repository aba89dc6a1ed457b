"""The contract that every engine passes; a new engine is added to ENGINES and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jsonschema
import numpy as np
import pytest

from lab.engines import Engine, generate, open_engine
from lab.errors import LabError
from lab.records import Decoding, Message, Request

ENGINES = {
    "llama_cpp": {"model": "smollm2-135m", "context_tokens": 512, "threads": 2, "flash_attention": "off"},
    "scripted": {"model": "markov"},
    "server": {"model": "markov", "engine": "scripted", "step_ms": 0.0},
}
SHOWS_NO_LOGITS = {"server"}
PROMPT = "The capital of France is"


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    opened = open_engine(request.param, **ENGINES[request.param])  # type: ignore[arg-type]
    yield opened
    opened.close()


def ask(engine: Engine, prompt: str = PROMPT, **decoding: object) -> Request:
    return Request(prompt=prompt, decoding=Decoding(**{"max_tokens": 12, "ignore_eos": True, **decoding}))  # type: ignore[arg-type]


def test_an_engine_is_an_engine(engine: Engine) -> None:
    assert isinstance(engine, Engine)
    assert {"engine", "model", "threads", "context_tokens"} <= set(engine.settings)


@pytest.mark.parametrize("text", ["plain words", "Grüße, 世界! 🦙🏔️", "tab\tand\nnewline", ""])
def test_detokenizing_gives_the_text_back(engine: Engine, text: str) -> None:
    assert engine.detokenize(engine.tokenize(text)) == text


def test_the_streamed_text_is_the_text_of_the_tokens(engine: Engine) -> None:
    result = generate(engine, ask(engine, "Llamas 🦙 and émigrés:", max_tokens=40, temperature=1.5, seed=3))
    assert result.text == engine.detokenize(result.tokens)


def test_greedy_decoding_repeats_itself(engine: Engine) -> None:
    assert generate(engine, ask(engine)).tokens == generate(engine, ask(engine)).tokens


def test_greedy_decoding_takes_the_largest_logit(engine: Engine) -> None:
    request = ask(engine, max_tokens=5)
    prompt, result = engine.prompt_tokens(request), generate(engine, request)
    if engine.settings["engine"] in SHOWS_NO_LOGITS:
        with pytest.raises(LabError, match=r"logits.*\.$"):
            engine.logits(prompt)
        return
    rows = engine.logits([*prompt, *result.tokens[:-1]], start=len(prompt) - 1)
    assert tuple(rows.argmax(axis=1)) == result.tokens


def test_a_seed_repeats_a_sample_and_another_changes_it(engine: Engine) -> None:
    def sample(seed: int) -> tuple[int, ...]:
        return generate(engine, ask(engine, temperature=1.2, seed=seed)).tokens

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("filters", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_a_filter_that_leaves_one_token_is_greedy(engine: Engine, filters: dict[str, float]) -> None:
    assert generate(engine, ask(engine, temperature=0.8, **filters)).tokens == generate(engine, ask(engine)).tokens


SCHEMA = {"type": "object", "required": ["why", "grade", "sure"],
          "properties": {"why": {"type": "string", "maxLength": 30}, "grade": {"enum": [1, 2, 3]}, "sure": {"type": "boolean"}}}


@pytest.mark.parametrize(("temperature", "seed"), [
    (0.0, 1), (1.5, 2), pytest.param(0.0, 2, marks=pytest.mark.slow), pytest.param(1.5, 1, marks=pytest.mark.slow)])
def test_an_answer_under_a_schema_parses_and_satisfies_it(engine: Engine, temperature: float, seed: int) -> None:
    result = generate(engine, ask(engine, "Grade this answer: Paris.", max_tokens=96, ignore_eos=False, seed=seed,
                                  temperature=temperature, json_schema=json.dumps(SCHEMA)))
    assert result.finish_reason == "stop"
    jsonschema.validate(json.loads(result.text), SCHEMA)


@pytest.mark.parametrize("schema", ["no JSON", "[1]", '{"type": "integer", "minimum": 3}', '{"$ref": "#/$defs/nowhere"}'])
def test_a_schema_that_cannot_be_kept_is_refused_in_one_sentence(engine: Engine, schema: str) -> None:
    with pytest.raises(LabError) as refusal:
        generate(engine, ask(engine, ignore_eos=False, json_schema=schema))
    assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


def test_a_schema_and_an_answer_without_end_exclude_each_other(engine: Engine) -> None:
    with pytest.raises(LabError, match="end cannot be ignored"):
        generate(engine, ask(engine, json_schema=json.dumps(SCHEMA)))


def test_clock_readings_never_go_back_and_lie_in_the_request(engine: Engine) -> None:
    result = generate(engine, ask(engine))
    readings = [result.sent_s, *result.tokens_at_s, result.ended_s]
    assert readings == sorted(readings)
    assert len(result.tokens_at_s) == len(result.tokens) == 12
    assert result.usage.prompt_tokens == len(engine.prompt_tokens(result.request))


def test_output_ends_at_the_limit_with_that_reason(engine: Engine) -> None:
    assert generate(engine, ask(engine, max_tokens=3)).finish_reason == "length"


def test_a_stop_string_that_spans_tokens_ends_the_text_before_it(engine: Engine) -> None:
    full = generate(engine, ask(engine, max_tokens=16)).text
    stop = full[4:9]
    cut = generate(engine, ask(engine, max_tokens=16, stop=(stop,)))
    assert cut.text == full[: full.index(stop)]
    assert cut.finish_reason == "stop"


def test_messages_are_read_through_the_chat_template(engine: Engine) -> None:
    request = Request(messages=(Message(role="user", content="Say hello."),), decoding=Decoding(max_tokens=4))
    assert "Say hello." in engine.detokenize(engine.prompt_tokens(request))
    assert generate(engine, request).usage.prompt_tokens == len(engine.prompt_tokens(request))


def test_a_stream_that_is_dropped_leaves_the_next_request_untouched(engine: Engine) -> None:
    expected = generate(engine, ask(engine)).tokens
    stream = iter(engine.stream(ask(engine, "Something else entirely, and longer")))
    next(stream)
    del stream
    assert generate(engine, ask(engine)).tokens == expected


def test_branches_score_as_if_each_were_read_alone(engine: Engine) -> None:
    prefix = engine.tokenize(PROMPT)
    branches = [engine.tokenize(t) for t in (" Paris", " London is big", " a", " no")]
    if engine.settings["engine"] in SHOWS_NO_LOGITS:
        with pytest.raises(LabError, match=r"score.*\.$"):
            engine.branch_logprobs(prefix, branches)
        return
    together = engine.branch_logprobs(prefix, branches)
    for branch, scores in zip(branches, together, strict=True):
        logits = engine.logits([*prefix, *branch], start=len(prefix) - 1).astype(np.float64)
        norm = np.log(np.exp(logits).sum(axis=1))
        alone = [logits[i, t] - norm[i] for i, t in enumerate(branch)]
        assert np.allclose(scores, alone, atol=2e-3)


@pytest.mark.parametrize("request_", [
    Request(prompt=""), Request(tokens=()), Request(tokens=(10**7,)), Request(tokens=(-1,)),
    Request(prompt="word " * 5000), Request(prompt="hi", decoding=Decoding(max_tokens=10**6)),
])
def test_a_request_that_cannot_be_served_is_refused_in_one_sentence(engine: Engine, request_: Request) -> None:
    with pytest.raises(LabError) as refusal:
        generate(engine, request_)
    assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


def test_closing_twice_is_harmless() -> None:
    for name, settings in ENGINES.items():
        opened = open_engine(name, **settings)  # type: ignore[arg-type]
        opened.close()
        opened.close()


def test_an_unknown_engine_or_setting_is_named() -> None:
    with pytest.raises(LabError, match="no engine 'nothing'"):
        open_engine("nothing", "x")
    with pytest.raises(LabError, match="wheels"):
        open_engine("scripted", "x", wheels=4)

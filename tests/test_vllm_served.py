"""vLLM itself: installed where it is missing, started, held to the engines' contract, and gone afterwards. All slow."""

from __future__ import annotations

import os
import pydoc_data.topics
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import test_engine_contract as contract
from test_vllm import gone

from lab import models
from lab.engines import Engine, generate, open_engine
from lab.engines.vllm import Vllm
from lab.engines.vllm import open as open_vllm
from lab.engines.vllm_parts import guard, install
from lab.errors import LabError
from lab.records import Decoding, Message, Request

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

test_an_engine_is_an_engine = contract.test_an_engine_is_an_engine
test_detokenizing_gives_the_text_back = contract.test_detokenizing_gives_the_text_back
test_the_streamed_text_is_the_text_of_the_tokens = contract.test_the_streamed_text_is_the_text_of_the_tokens
test_greedy_decoding_repeats_itself = contract.test_greedy_decoding_repeats_itself
test_greedy_decoding_takes_the_largest_logit = contract.test_greedy_decoding_takes_the_largest_logit
test_a_seed_repeats_a_sample_and_another_changes_it = contract.test_a_seed_repeats_a_sample_and_another_changes_it
test_a_filter_that_leaves_one_token_is_greedy = contract.test_a_filter_that_leaves_one_token_is_greedy
test_clock_readings_never_go_back_and_lie_in_the_request = contract.test_clock_readings_never_go_back_and_lie_in_the_request
test_output_ends_at_the_limit_with_that_reason = contract.test_output_ends_at_the_limit_with_that_reason
test_a_stop_string_that_spans_tokens_ends_the_text_before_it = contract.test_a_stop_string_that_spans_tokens_ends_the_text_before_it
test_messages_are_read_through_the_chat_template = contract.test_messages_are_read_through_the_chat_template
test_a_stream_that_is_dropped_leaves_the_next_request_untouched = contract.test_a_stream_that_is_dropped_leaves_the_next_request_untouched
test_branches_score_as_if_each_were_read_alone = contract.test_branches_score_as_if_each_were_read_alone
test_a_request_that_cannot_be_served_is_refused_in_one_sentence = contract.test_a_request_that_cannot_be_served_is_refused_in_one_sentence


@pytest.fixture(scope="module", params=["float32"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """In float32: bfloat16 has ties that batches of different sizes break differently."""
    install.install(print)
    opened = open_engine("vllm", models.DEFAULT, dtype=request.param, context_tokens=512, max_running=8)
    yield opened
    opened.close()


# What only vLLM has

PROSE = pydoc_data.topics.topics["assignment"]


@pytest.fixture(scope="module")
def drafting() -> Iterator[Vllm]:
    """A second server, in the dtype one would serve with, that drafts from the prompt."""
    install.install(print)
    opened = open_vllm(models.DEFAULT, context_tokens=2048, max_running=8, draft="prompt_lookup", draft_tokens=3)
    yield opened
    opened.close()


def test_its_tokens_are_those_of_the_engine_that_reads_the_gguf_itself(engine: Engine) -> None:
    other = open_engine("llama_cpp", models.DEFAULT, threads=1, context_tokens=512)
    chat = Request(messages=(Message(role="system", content="Be brief."), Message(role="user", content="Hi, I'm 3.14 years old! 🦙")))
    try:
        for text in (*list(pydoc_data.topics.topics.values())[:40], "Grüße, 世界! 🦙🏔️ 12345\t x\r\n\n  1e-9"):
            assert engine.tokenize(text) == other.tokenize(text)
        assert engine.prompt_tokens(chat) == other.prompt_tokens(chat)
    finally:
        other.close()


def test_a_repeated_prompt_is_found_in_the_prefix_cache_and_counted(drafting: Vllm) -> None:
    request = Request(tokens=tuple(drafting.tokenize(PROSE)[:700]), decoding=Decoding(max_tokens=4, ignore_eos=True))
    first, before = generate(drafting, request), drafting.metrics()
    second, run = generate(drafting, request), drafting.metrics().since(before)
    assert second.tokens == first.tokens
    assert second.usage.cached_tokens == run.prefix_hit_tokens > 500 and run.prefix_queried_tokens == 700
    assert run.generation_tokens == 4 and run.finished == 1 and drafting.metrics().running == 0


def test_drafts_are_counted_and_most_are_accepted_where_text_repeats(drafting: Vllm) -> None:
    counting = " ".join(str(i % 10) for i in range(200))
    before = drafting.metrics()
    generate(drafting, Request(prompt=counting, decoding=Decoding(max_tokens=60, ignore_eos=True)))
    run = drafting.metrics().since(before)
    assert 0 < run.accepted_tokens <= run.drafted_tokens and sum(run.accepted_at_position) == run.accepted_tokens
    assert len(run.accepted_at_position) == 3 and run.acceptance_rate > 0.5


def test_sampling_is_refused_while_it_drafts(drafting: Vllm) -> None:
    with pytest.raises(LabError, match="55005"):
        generate(drafting, Request(prompt="x", decoding=Decoding(temperature=0.5)))


def test_requests_side_by_side_all_end(drafting: Vllm) -> None:
    requests = [Request(prompt=f"{i} is a number that", decoding=Decoding(max_tokens=12, ignore_eos=True)) for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(lambda request: generate(drafting, request), requests))
    assert {len(one.tokens) for one in done} == {12} and {one.finish_reason for one in done} == {"length"}


def test_a_server_that_is_killed_says_so_and_leaves_no_process(drafting: Vllm) -> None:
    pids = [drafting.process.pid, *guard.descendants(drafting.process.pid)]
    assert len(pids) > 3  # the guard, the server, its engine, its worker
    stream = iter(drafting.stream(Request(prompt="A long story:", decoding=Decoding(max_tokens=1000, ignore_eos=True))))
    next(stream)
    os.kill(max(pids), signal.SIGKILL)
    list(stream)
    assert gone(pids, within_s=60)
    with pytest.raises(LabError, match=r"vLLM has ended: .* \(its log: .*\)\."):
        generate(drafting, Request(prompt="x"))


def test_a_start_that_fails_says_why(engine: Engine) -> None:
    with pytest.raises(LabError, match=r"vLLM ended while it started .*\(its log: .*\)\.") as failed:
        open_vllm(models.DEFAULT, dtype="float32", context_tokens=512, quantization="awq")
    assert "Cannot find the config file for awq" in str(failed.value)


def test_a_failed_installation_leaves_nothing_and_says_why(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull, "UV_NO_INDEX": "1",
                        "UV_FIND_LINKS": str(tmp_path), "LAB_CACHE_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    with pytest.raises(LabError, match=r"Installing torch==.* failed: no package for this machine"):
        install.install(said.append, variant="cpu")
    assert said and not install.environment.folder("cpu").exists()

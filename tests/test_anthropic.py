"""Anthropic's Messages API as an engine, against a server of our own that speaks it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import messages_server
import pytest

from lab.engines import Engine, generate, open_engine
from lab.engines.anthropic import Anthropic, MessagesEndpoint
from lab.errors import LabError
from lab.metrics.judge import open_judge
from lab.records import Decoding, Message, Request

SCHEMA = json.dumps({"type": "object", "required": ["reasons"], "properties": {"reasons": {"type": "string"}}})
TURNS = (Message(role="system", content="Be brief."), Message(role="user", content="Capital of France?"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[messages_server.Messages]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", messages_server.KEY)
    with messages_server.running() as running:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", running.url)
        yield running


def ask(engine: Engine, **decoding: object) -> object:
    return generate(engine, Request(messages=TURNS, decoding=Decoding(**{"max_tokens": 64, **decoding})))  # type: ignore[arg-type]


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_comes_with_its_text_its_reason_and_its_counts(server: messages_server.Messages, stream: bool) -> None:
    engine = open_engine("anthropic", "claude-for-tests", stream=stream)
    answer = ask(engine, temperature=0.5, top_k=4, stop=("END",))
    assert (answer.text, answer.finish_reason) == (server.text, "stop")
    assert (answer.usage.prompt_tokens, answer.usage.output_tokens) == (21, 9)
    sent = server.seen[-1]
    assert sent["system"] == "Be brief." and sent["messages"] == [{"role": "user", "content": "Capital of France?"}]
    assert (sent["temperature"], sent["top_k"], sent["stop_sequences"], sent["max_tokens"]) == (0.5, 4, ["END"], 64)
    assert "seed" not in sent and "authorization" not in server.heads[-1]
    engine.close()


@pytest.mark.parametrize("stream", [True, False])
def test_a_schema_is_kept_by_a_tool_that_must_be_used(server: messages_server.Messages, stream: bool) -> None:
    engine = open_engine("anthropic", "claude-for-tests", stream=stream)
    answer = ask(engine, json_schema=SCHEMA)
    assert json.loads(answer.text) == server.verdict and answer.finish_reason == "stop"
    tool = server.seen[-1]["tools"][0]
    assert tool["input_schema"] == json.loads(SCHEMA) and server.seen[-1]["tool_choice"]["name"] == tool["name"]


def test_an_answer_cut_at_its_limit_says_so(server: messages_server.Messages) -> None:
    server.stop_reason = "max_tokens"
    assert ask(open_engine("anthropic", "claude-for-tests")).finish_reason == "length"


def test_a_busy_service_is_asked_again_after_the_time_it_names_and_the_waits_are_counted(server: messages_server.Messages) -> None:
    slept: list[float] = []
    server.busy, server.retry_after = 2, "7"
    engine = Anthropic(MessagesEndpoint(url=server.url, model="m"), retries=2, sleep=slept.append)
    assert ask(engine).text == server.text
    assert (slept, engine.waits, len(server.seen)) == ([7.0, 7.0], 2, 3)


def test_a_service_that_stays_busy_is_given_up_after_as_many_waits_as_were_allowed(server: messages_server.Messages) -> None:
    slept: list[float] = []
    server.busy, server.retry_after = 9, ""
    engine = Anthropic(MessagesEndpoint(url=server.url, model="m"), retries=3, sleep=slept.append)
    with pytest.raises(LabError, match=r"refused \(429\): .*rate limit.*\.$"):
        ask(engine)
    assert len(server.seen) == 4 and slept == sorted(slept) and len(slept) == 3


def test_a_stream_that_breaks_off_is_an_answer_with_an_error(server: messages_server.Messages) -> None:
    server.break_off = True
    answer = ask(open_engine("anthropic", "claude-for-tests"))
    assert answer.error and answer.text and server.text.startswith(answer.text)


def test_a_wrong_key_or_model_is_one_sentence_without_the_key(
    server: messages_server.Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LabError, match="no-such-model") as refusal:
        ask(open_engine("anthropic", "no-such-model"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-wrong")
    engine = open_engine("anthropic", "claude-for-tests")
    with pytest.raises(LabError, match="ANTHROPIC_API_KEY") as wrong:
        ask(engine)
    for said in (str(refusal.value), str(wrong.value), repr(engine.__dict__), str(engine.settings)):
        assert "sk-ant" not in said
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(LabError, match="wants a key"):
        open_engine("anthropic", "claude-for-tests")


@pytest.mark.parametrize(("decoding", "said"), [({"min_p": 0.1}, "min_p"), ({"temperature": 1.5}, "from 0 to 1"), ({"ignore_eos": True}, "end")])
def test_what_the_service_does_not_take_is_refused_before_it_is_asked(
    server: messages_server.Messages, decoding: dict[str, object], said: str
) -> None:
    engine = open_engine("anthropic", "claude-for-tests")
    with pytest.raises(LabError, match=said):
        ask(engine, **decoding)
    with pytest.raises(LabError, match="messages and no plain prompt"):
        generate(engine, Request(prompt="Hello"))
    assert server.seen == []


def test_a_claude_model_judges(server: messages_server.Messages) -> None:
    judge = open_judge("anthropic:claude-for-tests", axes=("correctness",), keep=False)
    (score,) = judge.grade("Capital of France?", "Paris", references=("Paris",))
    assert (score.value, score.by, score.why) == (1.0, "anthropic:claude-for-tests", "It names the city.")
    assert judge.spent.mean("prompt_tokens") == 21
    server.verdict = {"reasons": "It may not be said."}
    assert not judge.grade("Capital of France?", "Rome")[0].scored

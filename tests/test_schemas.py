"""Answers held to a JSON Schema: through the scheduler with drafts and preemptions, over HTTP, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from lab.engines import _schemas
from lab.engines.http.child import Child
from lab.engines.http.client import Client
from lab.engines.http.served import ServeSettings
from lab.engines.scheduling.drafters import PromptLookup
from lab.engines.scheduling.scheduler import Scheduler
from lab.engines.scheduling.scripted_core import ScriptedCore
from lab.errors import LabError
from lab.load.endpoint import Endpoint
from lab.records import Decoding, Message, Request

GRADE: dict[str, Any] = {
    "type": "object", "required": ["why", "grade"], "additionalProperties": False,
    "properties": {"why": {"type": "string", "maxLength": 24}, "grade": {"enum": [1, 2, 3, 4, 5]}}}
SCHEMAS: list[dict[str, Any]] = [
    GRADE, {"type": "object"}, {"enum": ["yes", "no"]}, {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
    {"anyOf": [{"type": "null"}, {"type": "string"}]}, {"type": "string", "minLength": 2, "maxLength": 4}, {"type": ["boolean", "null"]},
    {"type": "object", "properties": {"at": {"$ref": "#/$defs/place"}}, "required": ["at"],
     "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}}}]
CHAT = (Message(role="user", content="Grade this answer from 1 to 5: Paris."),)


def finish(scheduler: Scheduler) -> None:
    while not scheduler.idle:
        scheduler.step()


@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
def test_the_smallest_answer_satisfies_its_schema(schema: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(_schemas.smallest(Decoding(json_schema=json.dumps(schema)))), schema)


@pytest.mark.parametrize("schema", [
    {"type": "integer", "maximum": 3}, {"not": {}}, {"type": "string", "pattern": "a+"}, {"type": "array", "uniqueItems": True}, {"properties": {"a": {"multipleOf": 2}}},
    {"$ref": "#/$defs/self", "$defs": {"self": {"$ref": "#/$defs/self"}}}])
def test_what_a_grammar_cannot_keep_is_refused_and_not_passed_over(schema: dict[str, Any]) -> None:
    with pytest.raises(LabError) as refusal:
        _schemas.smallest(Decoding(json_schema=json.dumps(schema)))
    assert str(refusal.value).endswith(".")


def test_a_grammar_lets_through_what_continues_a_json_text_and_nothing_else() -> None:
    """Without decoding: a line break or a quotation mark may not stand in a string as it is, and the end only at the end."""
    from lab import models
    from lab.engines.llama.grammar import Grammar
    from lab.engines.llama.weights import Weights

    weights = Weights(models.find("smollm2-135m").path)
    grammar = Grammar(weights, Decoding(json_schema=json.dumps(GRADE)))
    try:
        def allows(text: str) -> bool:
            (token,) = weights.tokenize(text)
            return grammar.allows(token)

        def take(text: str) -> None:
            for token in weights.tokenize(text):
                assert grammar.allows(token), text
                grammar.accept(token)

        assert allows("{") and not allows("a") and not grammar.allows(weights.eos)
        take('{"why":"')
        assert allows("a") and allows("é") and not allows("\n") and not allows("\t") and not grammar.allows(weights.eos)
        take('a \\n b" ,"grade" :4}')
        assert grammar.allows(weights.eos) and not allows("a")
    finally:
        grammar.close()
        weights.close()


def test_a_job_under_a_schema_is_not_drafted_for_and_others_beside_it_are() -> None:
    core = ScriptedCore(context_tokens=4000)
    scheduler = Scheduler(core, drafter=PromptLookup(4))
    tokens = [65, 66, 67] * 40
    jobs = [scheduler.submit(Request(id=str(i), tokens=tuple(tokens), decoding=Decoding(
        max_tokens=60, ignore_eos=not held, json_schema=json.dumps(GRADE) if held else "")), tokens) for i, held in enumerate((True, False))]
    finish(scheduler)
    assert json.loads("".join(jobs[0].shown)) == {"why": "", "grade": 1}
    assert jobs[0].drafted_tokens == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_on_llama_cpp_every_answer_of_a_crowded_batch_satisfies_its_schema(temperature: float) -> None:
    """Cells for a third of the work, so that sequences are thrown out and begin again, and a drafter that must keep off."""
    from lab.engines.llama.context import Context
    from lab.engines.llama_cpp import LlamaCpp

    engine = LlamaCpp("smollm2-135m", threads=1, context_tokens=256)
    context = Context(engine.weights, context_tokens=256, sequences=3, threads=1, batch_tokens=128)
    try:
        scheduler = Scheduler(context, drafter=PromptLookup(4))
        jobs = []
        for i, schema in enumerate([GRADE, GRADE, GRADE, SCHEMAS[3]]):
            request = Request(id=str(i), messages=CHAT, decoding=Decoding(
                max_tokens=100, seed=i, temperature=temperature, json_schema=json.dumps(schema)))
            jobs.append((scheduler.submit(request, engine.prompt_tokens(request)), schema))
        finish(scheduler)
        for job, schema in jobs:
            assert job.finish_reason == "stop" and job.drafted_tokens == 0
            jsonschema.validate(json.loads(job.generation().text), schema)
    finally:
        context.close()
        engine.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Client]:
    child = Child("markov", ServeSettings(engine="scripted", step_ms=0.0))
    yield Client(Endpoint(url=f"http://127.0.0.1:{child.port}/v1", model="markov"), timeout_s=30)
    child.close()


def ask(server: Client, form: object) -> str:
    said = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 64, "response_format": form})
    return str(said["choices"][0]["message"]["content"])


def test_a_server_keeps_the_schema_that_a_request_names(server: Client) -> None:
    jsonschema.validate(json.loads(ask(server, {"type": "json_schema", "json_schema": {"name": "g", "strict": True, "schema": GRADE}})), GRADE)
    assert json.loads(ask(server, {"type": "json_object"})) == {}
    assert ask(server, {"type": "text"})


@pytest.mark.parametrize("form", [{"type": "xml"}, "json_schema", {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": 3}},
                                  {"type": "json_schema", "json_schema": {"schema": {"type": "integer", "minimum": 2}}}])
def test_a_form_that_is_none_is_refused_with_its_field(server: Client, form: object) -> None:
    with pytest.raises(LabError, match=r"refused \(400\).*(schema|response_format).*\.$"):
        ask(server, form)

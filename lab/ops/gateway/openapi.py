"""The gateway's paths as an OpenAPI document, for clients and for testers that generate requests from it."""

from __future__ import annotations

from typing import Any

import lab

_ERROR = {"$ref": "#/components/schemas/Error"}
_NUMBER = {"type": ["number", "null"]}


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "LLM lab gateway", "version": lab.__version__,
                 "description": "Chat completions as OpenAI has them, answered by the release that an alias points at."},
        "components": {"schemas": _schemas(), "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}],
        "paths": {
            "/v1/chat/completions": {"post": {
                "operationId": "chat", "summary": "Answer a conversation, whole or as server-sent events.",
                "requestBody": {"required": True, "content": {"application/json": {
                    "schema": {"$ref": "#/components/schemas/Chat"}}}},
                "responses": {"200": {"description": "The answer", "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}, "text/event-stream": {}}},
                    **_refusals("400", "401", "403", "404", "408", "413", "429", "500", "502", "503", "504")}}},
            "/v1/models": {"get": _get("models", "What can be asked for.", {"200": _json("Models"), **_refusals("401", "503")})},
            "/metrics": {"get": _get("metrics", "Prometheus metrics of all processes.", {
                "200": {"description": "Text", "content": {"text/plain": {}}}, **_refusals("401")})},
            "/health": {"get": _get("health", "How it is, and what is wrong.", {"200": _json("Health")}, open_=True)},
            "/ready": {"get": _get("ready", "Whether it takes requests.", {"200": _json("Health"), "503": _json("Health")},
                                   open_=True)},
            "/openapi.json": {"get": _get("openapi", "This document.", {"200": _json("Health")}, open_=True)},
        }}


def _get(name: str, summary: str, responses: dict[str, Any], *, open_: bool = False) -> dict[str, Any]:
    return {"operationId": name, "summary": summary, "responses": responses, **({"security": []} if open_ else {})}


def _json(schema: str) -> dict[str, Any]:
    return {"description": schema, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}


def _refusals(*codes: str) -> dict[str, Any]:
    refusal = {"description": "A sentence that says why", "content": {"application/json": {"schema": _ERROR}}}
    return dict.fromkeys(codes, refusal)


def _schemas() -> dict[str, Any]:
    text, count = {"type": "string"}, {"type": "integer"}
    message = {"type": "object", "required": ["role", "content"], "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]}, "content": text, "name": text}}
    chat = {"type": "object", "required": ["messages"], "properties": {
        "model": {"type": ["string", "null"]}, "messages": {"type": "array", "minItems": 1, "items": message},
        "stream": {"type": ["boolean", "null"]}, "max_tokens": {"type": ["integer", "null"], "minimum": 1},
        "temperature": _NUMBER, "top_p": _NUMBER, "top_k": {"type": ["integer", "null"]}, "min_p": _NUMBER,
        "seed": {"type": ["integer", "null"]}, "stop": {"type": ["string", "array", "null"], "items": text},
        "user": {"type": ["string", "null"]}, "store": {"type": ["boolean", "null"]},
        "stream_options": {"type": ["object", "null"]}, "response_format": {"type": ["object", "null"]}}}
    answer = {"type": "object", "required": ["id", "choices", "usage", "system_fingerprint"], "properties": {
        "id": text, "object": text, "created": count, "model": text, "system_fingerprint": text,
        "choices": {"type": "array"}, "usage": {"type": "object"}}}
    error = {"type": "object", "required": ["error"], "properties": {"error": {
        "type": "object", "required": ["message", "type"], "properties": {
            "message": text, "type": text, "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]}}}}}
    return {"Message": message, "Chat": chat, "Answer": answer, "Error": error, "Models": {"type": "object"},
            "Health": {"type": "object"}}

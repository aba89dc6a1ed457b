"""Reads the JSON body of a request; what is wrong, unknown or not supported is refused in one sentence."""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.engines import _schemas, refuse_misfit
from lab.engines.http.served import Served
from lab.errors import LabError
from lab.records import Decoding, Message, Request

MOST_STOPS = 16
COMPLETION_TOKENS = 16
"""What the protocol gives a completion that names no limit; a chat without one may fill the context."""
_DECODING = {"max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "ignore_eos",
             "response_format"}
_FORM = {"model", "stream", "stream_options", "return_token_ids"}
_WITHOUT_EFFECT = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
"""Labels for the provider's own use, which change no answer."""
_ONLY: Mapping[str, object] = {
    "n": 1, "best_of": 1, "echo": False, "suffix": "", "logprobs": False, "top_logprobs": 0, "frequency_penalty": 0,
    "presence_penalty": 0, "repetition_penalty": 1, "min_tokens": 0, "logit_bias": {}, "tools": [], "tool_choice": "none",
    "modalities": ["text"], "add_generation_prompt": True,
}
"""Fields that only this value leaves without effect; null always does."""
_ROLES = ("system", "user", "assistant", "tool")


class Refusal(Exception):
    """An answer other than 200, with the sentence that goes into its error object."""

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "invalid_request_error", param: str | None = None,
        code: str | None = None, headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code, self.headers = status, kind, param, code, tuple(headers)

    def as_json(self) -> dict[str, Any]:
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as it was asked: what to decode, and in which form to answer."""

    request: Request
    tokens: list[int]
    stream: bool = False
    usage: bool = False
    """An event with the token counts at the end of a stream."""
    usage_always: bool = False
    """The token counts so far in every event."""
    token_ids: bool = False


def read_json(body: bytes) -> dict[str, Any]:
    """The JSON object of a body."""
    try:
        read = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        where = f" ({error})" if isinstance(error, json.JSONDecodeError) else ""
        raise Refusal(f"The body is not valid JSON{where}; send one JSON object.") from error
    if not isinstance(read, dict):
        raise Refusal("The body is JSON but no object; send one JSON object.")
    if _HALF.search(body) and not _is_text(read):
        raise Refusal("The body has half of a character (a lone surrogate such as \\ud800), which no text can hold; send whole "
                      "characters.")
    return read


_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def _is_text(read: object) -> bool:
    """Whether all of it can be written as UTF-8."""
    try:
        json.dumps(read, ensure_ascii=False).encode()
        return True
    except UnicodeEncodeError:
        return False


def read_asked(given: Mapping[str, Any], served: Served, *, chat: bool, id_: str) -> Asked:
    """The request in `given`. Raises `Refusal`."""
    given = {key: value for key, value in given.items() if value is not None}
    ignore_eos = _flag(given, "ignore_eos")
    known = {*_DECODING, *_FORM, *_WITHOUT_EFFECT, *_ONLY, "messages" if chat else "prompt"}
    for name, value in given.items():
        if name not in known:
            raise Refusal(f"The field '{name}' is not known to this server; leave it out.", param=name)
        # Nothing ends before its limit when the end token is ignored, so that a least number is met.
        if name in _ONLY and not _same(value, _ONLY[name]) and not (name == "min_tokens" and ignore_eos):
            raise Refusal(f"This server does not support {name} = {_short(value)}; leave '{name}' out.", param=name)
    refuse_model(given, served)
    source: dict[str, Any] = {"messages": read_messages(given)} if chat else _prompt(given)
    options = _object(given, "stream_options")
    limit = _limit(given)
    try:
        # The prompt is read before the limit is known: a chat without one may fill what the prompt leaves.
        tokens = served.engine.prompt_tokens(Request(id=id_, **source))
        room = served.request_tokens - len(tokens)
        if limit is None:
            limit = max(1, room) if chat else COMPLETION_TOKENS
        request = Request(id=id_, tokens=tuple(tokens), decoding=_decoding(given, limit, ignore_eos))
        refuse_misfit(len(tokens), limit, served.request_tokens)
        if request.decoding.json_schema:  # what cannot be kept is refused here and not when its turn comes
            _schemas.read(request.decoding)
            served.core.sampler(request.decoding).close()
    except LabError as error:
        code = "context_length_exceeded" if "context" in str(error) else None
        place = "response_format" if "schema" in str(error) else "messages" if chat else "prompt"
        raise Refusal(str(error), code=code, param=place) from error
    return Asked(
        request=request, tokens=tokens, stream=_flag(given, "stream"), usage=_flag(options, "include_usage"),
        usage_always=_flag(options, "continuous_usage_stats"), token_ids=_flag(given, "return_token_ids"))


def refuse_model(given: Mapping[str, Any], served: Served) -> None:
    """Refuse a request for a model that is not served; one that names none means the only one."""
    if given.get("model", served.name) != served.name:
        raise Refusal(f"The model {_short(given['model'])} is not served here; ask for '{served.name}'.", status=404,
                      param="model", code="model_not_found")


def read_messages(given: Mapping[str, Any]) -> tuple[Message, ...]:
    """The turns of a chat. Raises `Refusal`."""
    turns = given.get("messages")
    if not isinstance(turns, list) or not turns:
        raise Refusal("'messages' must be a list of at least one message.", param="messages")
    return tuple(_message(turn, i) for i, turn in enumerate(turns))


def _message(turn: Any, i: int) -> Message:
    place = f"messages[{i}]"
    if not isinstance(turn, dict):
        raise Refusal(f"{place} must be an object with a role and a content.", param="messages")
    role = "system" if turn.get("role") == "developer" else turn.get("role")
    if role not in _ROLES:
        raise Refusal(f"The role of {place} is {_short(role)}; it must be one of {', '.join(_ROLES)}.", param="messages")
    if unknown := {key for key, value in turn.items() if value} - {"role", "content", "name"}:
        raise Refusal(f"{place} has '{min(unknown)}', which this server does not support; leave it out.", param="messages")
    content = turn.get("content")
    if isinstance(content, list):
        content = "".join(_part(part, place) for part in content)
    if not isinstance(content, str):
        raise Refusal(f"The content of {place} must be a text.", param="messages")
    return Message(role=role, content=content)  # type: ignore[arg-type]


def _part(part: Any, place: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else part
    raise Refusal(f"The content of {place} has a part of type {_short(kind)}; this server reads text only.", param="messages")


def _prompt(given: Mapping[str, Any]) -> dict[str, Any]:
    prompt = given.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return {"prompt": prompt}
    if isinstance(prompt, list) and all(_is_int(token) for token in prompt):
        return {"tokens": tuple(prompt)}
    if isinstance(prompt, list) and all(isinstance(one, (str, list)) for one in prompt):
        raise Refusal(f"{len(prompt)} prompts in one request are not supported; send one request for each.", param="prompt")
    raise Refusal("'prompt' must be a text or a list of token ids.", param="prompt")


def _limit(given: Mapping[str, Any]) -> int | None:
    limits = [_int(given, name, low=1) for name in ("max_completion_tokens", "max_tokens") if name in given]
    if len(set(limits)) > 1:
        raise Refusal("'max_tokens' and 'max_completion_tokens' differ; give one of them.", param="max_tokens")
    return limits[0] if limits else None


def _decoding(given: Mapping[str, Any], limit: int, ignore_eos: bool) -> Decoding:
    stop = given.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(s, str) for s in stop) or len(stop) > MOST_STOPS:
        raise Refusal(f"'stop' must be a text or a list of at most {MOST_STOPS} texts.", param="stop")
    temperature = _number(given, "temperature", default=1.0)
    # Who gives no seed wants another answer each time. Generators take no negative one; llama.cpp reads the low bits.
    seed = _int(given, "seed", default=secrets.randbits(32) if temperature > 0 else 0) % 2**64
    return Decoding(
        max_tokens=limit, temperature=temperature, top_p=_number(given, "top_p", default=1.0, above=0.0, high=1.0),
        top_k=max(0, _int(given, "top_k", low=-1, default=0)), min_p=_number(given, "min_p", high=1.0),
        seed=seed, stop=tuple(s for s in stop if s), ignore_eos=ignore_eos, json_schema=_schema(given))


def _schema(given: Mapping[str, Any]) -> str:
    """The schema that `response_format` asks for; "" leaves the answer free."""
    form = given.get("response_format", {"type": "text"})
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "text":
        return ""
    if kind == "json_object":
        return _schemas.ANY_OBJECT
    inner = form.get("json_schema") if kind == "json_schema" else None
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(schema, dict):
        raise Refusal(f"'response_format' is {_short(form)}; it must be of type text, json_object, or json_schema with its "
                      "'json_schema': {'schema': {...}}.", param="response_format")
    return json.dumps(schema)


def _int(given: Mapping[str, Any], name: str, *, low: int = -(2**63), default: int = 0) -> int:
    value = given.get(name, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not _is_int(value) or not low <= value < 2**64:
        least = f" of at least {low}" if low > -(2**63) else ""
        raise Refusal(f"'{name}' is {_short(value)}; it must be a whole number{least}.", param=name)
    return int(value)


def _number(
    given: Mapping[str, Any], name: str, *, default: float = 0.0, above: float = -math.inf, high: float = math.inf
) -> float:
    value = given.get(name, default)
    usable = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not usable or not (0 <= value <= high and value > above) or value == math.inf:
        wanted = f"from {'above ' if above == 0 else ''}0 to {high:g}" if high < math.inf else "of at least 0"
        raise Refusal(f"'{name}' is {_short(value)}; it must be a number {wanted}.", param=name)
    return float(value)


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refusal(f"'{name}' is {_short(value)}; it must be true or false.", param=name)
    return bool(value)


def _object(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = given.get(name, {})
    if not isinstance(value, dict):
        raise Refusal(f"'{name}' must be an object.", param=name)
    if unknown := set(value) - {"include_usage", "continuous_usage_stats", "include_obfuscation"}:
        raise Refusal(f"'{name}' has '{min(unknown)}', which is not known to this server; leave it out.", param=name)
    return value


def _same(value: object, other: object) -> bool:
    """Equal as JSON has it, where true is not 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")

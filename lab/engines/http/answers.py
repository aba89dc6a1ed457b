"""The JSON of answers: whole, or as server-sent events whose envelopes are built once a request.

Every token with text is one event. A token that shows none yet (half a UTF-8 character, the possible start of a stop
string) is sent with the next that does; with `return_token_ids` each event says which tokens it stands for, as vLLM does.
"""

from __future__ import annotations

import json
import time
from typing import Any

from lab.engines.http.asked import Asked
from lab.engines.http.step_loop import News
from lab.records import Generation

DONE = b"data: [DONE]\n\n"
_json = json.JSONEncoder(separators=(",", ":")).encode


class Events:
    """The events of one streamed answer."""

    def __init__(self, id_: str, model: str, asked: Asked, *, chat: bool, speculates: bool) -> None:
        self._asked, self._chat, self._speculates = asked, chat, speculates
        kind = "chat.completion.chunk" if chat else "text_completion"
        head = {"id": id_, "object": kind, "created": int(time.time()), "model": model}
        self._head = "data: " + _json(head)[:-1]
        self._before = self._head + ',"choices":[{"index":0,' + ('"delta":{"content":' if chat else '"text":')
        self._after = ("}," if chat else ",") + '"logprobs":null,"finish_reason":'
        self._ids: list[int] = []
        self._sent = 0

    def opening(self) -> bytes:
        """The event that names the role of a chat's answer, before any text."""
        if not self._chat:
            return b""
        more = f',"prompt_token_ids":{_json(self._asked.tokens)}' if self._asked.token_ids else ""
        return (self._head + ',"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
                '"finish_reason":null}]' + more + "}\n\n").encode()

    def of(self, news: News) -> bytes:
        """The events of what one step brought."""
        events = []
        ended = news.generation is not None
        for i, token in enumerate(news.tokens):
            self._ids.append(token)
            text = news.texts[i]
            if text and not (ended and i == len(news.tokens) - 1):
                events.append(self._event(text, "null"))
        if news.generation is not None:
            # The last token's text and what was held back at the end are one event, with the reason.
            rest = news.texts[max(0, len(news.tokens) - 1) :]
            events.append(self._event("".join(rest), f'"{news.generation.finish_reason}"'))
            if self._asked.usage:
                usage = _json(usage_json(news.generation, speculates=self._speculates))
                events.append(f'{self._head},"choices":[],"usage":{usage}}}\n\n')
        return "".join(events).encode()

    def _event(self, text: str, reason: str) -> str:
        ids = ""
        if self._asked.token_ids:
            prompt = f',"prompt_token_ids":{_json(self._asked.tokens)}' if not self._chat and not self._sent else ""
            ids = f',"token_ids":{_json(self._ids)}{prompt}'
        self._sent += len(self._ids)
        self._ids = []
        counts = f',"usage":{_json(_counts(len(self._asked.tokens), self._sent))}' if self._asked.usage_always else ""
        return f"{self._before}{_json(text)}{self._after}{reason}{ids}}}]{counts}}}\n\n"


def whole(id_: str, model: str, asked: Asked, generation: Generation, *, chat: bool, speculates: bool) -> dict[str, Any]:
    """The answer as one JSON object."""
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": generation.finish_reason}
    choice |= {"message": {"role": "assistant", "content": generation.text}} if chat else {"text": generation.text}
    answer: dict[str, Any] = {"id": id_, "object": "chat.completion" if chat else "text_completion",
                              "created": int(time.time()), "model": model, "choices": [choice],
                              "usage": usage_json(generation, speculates=speculates)}
    if asked.token_ids:
        choice["token_ids"] = list(generation.tokens)
        (answer if chat else choice)["prompt_token_ids"] = asked.tokens
    return answer


def usage_json(generation: Generation, *, speculates: bool) -> dict[str, Any]:
    """Token counts of an ended request in the protocol's words; counts of drafts only where there is a drafter."""
    usage = generation.usage
    counts: dict[str, Any] = _counts(usage.prompt_tokens or 0, len(generation.tokens))
    counts["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens or 0}
    if speculates:
        drafted, accepted = usage.drafted_tokens or 0, usage.accepted_tokens or 0
        counts["completion_tokens_details"] = {"accepted_prediction_tokens": accepted,
                                               "rejected_prediction_tokens": drafted - accepted}
    return counts


def _counts(prompt: int, completion: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def error_event(body: dict[str, Any]) -> bytes:
    """What a stream says when it cannot go on."""
    return b"data: " + json.dumps(body).encode() + b"\n\n" + DONE

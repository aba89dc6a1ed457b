"""The JSON of a gateway's answers: whole, or as server-sent events whose envelopes are built once a request.

`system_fingerprint` names the release that answered, as the protocol means it to.
"""

from __future__ import annotations

import json
import time
from typing import Any

from lab.engines.http.answers import DONE

_json = json.JSONEncoder(separators=(",", ":")).encode
_TAIL = '},"logprobs":null,"finish_reason":null}]}\n\n'


class Answer:
    """Writes one answer; `usage` is an event of token counts at the end of a stream."""

    def __init__(self, id_: str, model: str, fingerprint: str, *, usage: bool) -> None:
        self._id, self._model, self._print, self._usage = id_, model, fingerprint, usage
        self._created = int(time.time())
        head = {"id": id_, "object": "chat.completion.chunk", "created": self._created, "model": model,
                "system_fingerprint": fingerprint}
        self._head = "data: " + _json(head)[:-1]
        self._before = self._head + ',"choices":[{"index":0,"delta":{"content":'

    def opening(self) -> bytes:
        """The event that names the role, before any text."""
        return (self._head + ',"choices":[{"index":0,"delta":{"role":"assistant","content":""' + _TAIL).encode()

    def text(self, text: str) -> bytes:
        return (self._before + _json(text) + _TAIL).encode()

    def last(self, reason: str, counts: dict[str, Any]) -> bytes:
        """The final events: why it ended, the counts if they were asked for, and the end mark."""
        end = f'{self._head},"choices":[{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"{reason}"}}]}}\n\n'
        if self._usage:
            end += f'{self._head},"choices":[],"usage":{_json(counts)}}}\n\n'
        return end.encode() + DONE

    def whole(self, text: str, reason: str, counts: dict[str, Any]) -> bytes:
        """The answer as one JSON object."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return _json({"id": self._id, "object": "chat.completion", "created": self._created, "model": self._model,
                      "system_fingerprint": self._print, "choices": [choice], "usage": counts}).encode()


def counts(prompt: int, cached: int, output: int) -> dict[str, Any]:
    """Token counts in the protocol's words."""
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": cached}}

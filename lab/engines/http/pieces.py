"""What one event of an OpenAI-compatible stream says, or one whole answer: both name it alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.load.usage import read_usage
from lab.records import FinishReason, Usage

_REASONS: Mapping[str, FinishReason] = {"length": "length", "max_tokens": "length", "abort": "cancelled",
                                        "cancelled": "cancelled", "error": "error"}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """`hidden` is output that is no content (reasoning, a tool call); `error` what the server says went wrong."""

    text: str = ""
    tokens: tuple[int, ...] = ()
    hidden: bool = False
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: str = ""


def piece_of(data: bytes) -> Piece:
    """The piece in the data of one event."""
    if data.strip() == b"[DONE]":
        return Piece()
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    return read_piece(event) if isinstance(event, dict) else Piece(error="it sent an event that is no JSON object")


def read_piece(said: Mapping[str, Any]) -> Piece:
    """The piece in a JSON object of the protocol."""
    if error := said.get("error"):
        return Piece(error=str(error.get("message", error)) if isinstance(error, dict) else str(error))
    usage = read_usage(said["usage"]) if isinstance(said.get("usage"), dict) else None
    choices = said.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return Piece(usage=usage)
    choice = choices[0]
    content = choice.get("delta") or choice.get("message") or {}
    text = content.get("content") if content else choice.get("text")
    hidden = any(content.get(name) for name in ("reasoning_content", "reasoning", "refusal", "tool_calls"))
    ids, reason = choice.get("token_ids"), choice.get("finish_reason")
    return Piece(text=text if isinstance(text, str) else "", tokens=tuple(ids) if isinstance(ids, list) else (), hidden=hidden,
                 finish_reason=_REASONS.get(reason, "stop") if isinstance(reason, str) else None, usage=usage)

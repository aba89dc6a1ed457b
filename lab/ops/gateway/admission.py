"""What a request has to pass before anything is computed for it: path, key, size, shape, room and the limits of its key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from lab.engines.http.asked import Refusal, read_messages
from lab.ops.gateway.keys import Key
from lab.ops.gateway.ledger import Ledger
from lab.records import Message

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
CLOSE = (b"connection", b"close")
MOST_USER_CHARACTERS = 512


def header(scope: Scope, name: bytes) -> bytes:
    found: bytes = next((value for key, value in scope["headers"] if key == name), b"")
    return found


async def read_body(scope: Scope, receive: Receive, *, most_bytes: int, within_s: float) -> bytes:
    """The whole body. Raises `Refusal` when it is too large, too slow or cut off.

    One that is only somewhat too large is read to its end: a client that is still sending would not read the answer.
    """
    said = header(scope, b"content-length")
    announced = int(said) if said.isdigit() and len(said) < 20 else 0
    body, seen, more = bytearray(), 0, announced <= 8 * most_bytes
    try:
        async with asyncio.timeout(within_s):
            while more and seen <= 8 * most_bytes:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refusal("The body ended early.", code="cut_off")
                part, more = message.get("body", b""), message.get("more_body", False)
                seen += len(part)
                if seen <= most_bytes:
                    body += part
    except TimeoutError as error:
        raise Refusal(f"The body did not arrive within {within_s:g} s.", status=408, code="slow", headers=[CLOSE]) from error
    if seen > most_bytes or announced > most_bytes:
        raise Refusal(f"The body is larger than the {most_bytes:,} bytes that are read; send less.", status=413, code="too_large",
                      headers=[CLOSE])
    return bytes(body)


def read_turns(given: MutableMapping[str, Any], most: int) -> tuple[Message, ...]:
    """The conversation. Raises `Refusal`."""
    messages = given.pop("messages", None)
    if isinstance(messages, list) and len(messages) > most:
        raise Refusal(f"The conversation has {len(messages):,} messages and at most {most} are read; send the latest.",
                      param="messages", status=413, code="too_large")
    turns = read_messages({"messages": messages})
    if not any(turn.content.strip() for turn in turns):
        raise Refusal("All messages are empty; ask something.", param="messages")
    return turns


def read_user(given: MutableMapping[str, Any]) -> str:
    """Who asks, as the client names them. Raises `Refusal`."""
    user = given.pop("user", None)
    if user is None:
        return ""
    if not isinstance(user, str) or len(user) > MOST_USER_CHARACTERS:
        raise Refusal(f"'user' must be a text of at most {MOST_USER_CHARACTERS} characters.", param="user")
    return user


def read_store(given: MutableMapping[str, Any]) -> bool:
    """Whether the text of this request may be kept: `"store": false` forbids it. Raises `Refusal`."""
    store = given.pop("store", None)
    if store is not None and not isinstance(store, bool):
        raise Refusal("'store' must be true or false.", param="store")
    return store is not False


def refuse_fields(given: Mapping[str, Any]) -> None:
    """Raise `Refusal` for what would go around the guards."""
    if given.get("return_token_ids"):
        raise Refusal("The gateway does not send token ids, which its guards cannot read; leave 'return_token_ids' out.",
                      param="return_token_ids")


def refuse_model(given: MutableMapping[str, Any], names: tuple[str, ...]) -> None:
    """Raise `Refusal` for a model that is not to be had here."""
    asked = given.pop("model", None)
    if asked is not None and asked not in names:
        raise Refusal(f"The model {str(asked)[:60]!r} is not served here; ask for '{names[0]}'.", status=404, param="model",
                      code="model_not_found")


def take(ledger: Ledger, key: Key, tokens: int) -> None:
    """Reserve the tokens of a request. Raises `Refusal` with the time after which to ask again."""
    refused = ledger.take(key, tokens)
    if refused is not None and refused.kind == "too_large":
        raise Refusal(refused.sentence, param="max_tokens", code=refused.kind)
    if refused is not None:
        after = str(max(1, round(min(refused.after_s, 86_400 * 366)))).encode()
        raise Refusal(refused.sentence, status=429, kind="insufficient_quota" if refused.kind == "budget" else "rate_limit_error",
                      code=refused.kind, headers=[(b"retry-after", after)])

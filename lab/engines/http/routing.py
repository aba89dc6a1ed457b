"""Finds what answers a request by its path and method, or refuses it in one sentence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from lab.engines.http.asked import Refusal

Handler = Callable[..., Awaitable[None]]


def routed(scope: Any, routes: Mapping[str, tuple[str, Handler]], *, wrong_method: str | None = None) -> tuple[str, Handler]:
    """The path without a slash at its end, and its handler. `wrong_method` is the code of the error for another method."""
    path = scope["path"].rstrip("/") or "/"
    if path not in routes:
        raise Refusal(f"There is no {path[:100]} here; the paths are {', '.join(routes)}.", status=404, code="not_found")
    method, handler = routes[path]
    if scope["method"] != method:
        raise Refusal(f"{path} takes {method}, not {scope['method'][:20]}.", status=405, code=wrong_method,
                      headers=[(b"allow", method.encode())])
    return path, handler


def wrong_key() -> Refusal:
    return Refusal("The key is wrong or missing; send the header 'Authorization: Bearer KEY'.", status=401,
                   kind="authentication_error", code="invalid_api_key", headers=[(b"www-authenticate", b"Bearer")])

"""What a server shows beside its answers: its counters, whether it chats, how it counts tokens, and that it is gone."""

from __future__ import annotations

import functools
import http.client
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from lab.engines import Engine
from lab.engines.vllm_parts.counters import Counters, parse
from lab.errors import LabError
from lab.experiments._remote import is_remote
from lab.load.endpoint import Endpoint
from lab.load.probe import probe
from lab.metrics import speed
from lab.metrics.answer import first_difference
from lab.records import Generation

PAGE_S = 5.0


def refuse_other(engine: str) -> None:
    """Raise `LabError` for an engine on which prompts are neither served here nor over HTTP."""
    if engine != "llama_cpp" and not is_remote(engine):
        raise LabError(f"This experiment does not run on the engine '{engine}'; choose llama_cpp, server, vllm or the URL of a "
                       "server such as http://127.0.0.1:8000/v1.")


def counters(engine: Engine) -> Counters | None:
    """What the server has counted so far; None without a server, without /metrics beside its /v1, or with unknown names."""
    endpoint: Endpoint | None = getattr(engine, "endpoint", None)
    if endpoint is None:
        return None
    page = _page(endpoint, endpoint.parts.path.removesuffix("/v1") + "/metrics")
    found = parse(page) if page else None
    return None if found is None or math.isnan(found.generation_tokens) else found


def _page(endpoint: Endpoint, path: str) -> str:
    host, port = endpoint.address
    kind = http.client.HTTPSConnection if endpoint.secure else http.client.HTTPConnection
    connection = kind(host, port, timeout=PAGE_S)
    try:
        connection.request("GET", path, headers=endpoint.headers())
        response = connection.getresponse()
        return response.read().decode("utf-8", "replace") if response.status == 200 else ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def chats(endpoint: Endpoint) -> bool:
    """Whether the server answers messages; one with a base model, which has no chat template, refuses them."""
    try:
        probe(endpoint)
    except LabError:
        return False
    return True


def counting(engine: Engine) -> Callable[[str], int] | None:
    """What counts the tokens of a text where the server does not say which tokens an event carried; None where none can."""
    if "return_token_ids" in engine.endpoint.extra:  # type: ignore[attr-defined]
        return None
    try:
        engine.tokenize("a")
    except LabError:
        return None
    return functools.lru_cache(maxsize=65_536)(lambda text: len(engine.tokenize(text)))


def worst(audits: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The largest of every measure over several loads; what one of them could not measure is left out of it."""
    found: dict[str, float] = {}
    for name, value in (pair for audit in audits for pair in audit.items()):
        if math.isnan(found.get(name, math.nan)) or value > found[name]:
            found[name] = value
    return found


def differing(pairs: Iterable[tuple[Generation, Generation]]) -> list[tuple[str, int]]:
    """(request id, index of the first character) of answers whose texts differ."""
    return [(one.request.id, first_difference([*map(ord, one.text)], [*map(ord, other.text)]))
            for one, other in pairs if one.text != other.text]


def failures(generations: Iterable[Generation]) -> dict[str, str]:
    """The note `failures`: how many requests failed, by kind; nothing where none did."""
    kinds = Counter(g.error_kind or "error" for g in generations if speed.failed(g))
    return {"failures": ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())} if kinds else {}


def refuse_gone(name: str, title: str, generations: Sequence[Generation], *, why: str = "") -> None:
    """Raise `LabError` when a server has stopped answering: what follows would measure nothing.

    `why` says what failed; without it the last request's error does.
    """
    last = generations[-1] if generations else None
    if last is None or not speed.failed(last):
        return
    if all(g.error_kind in ("refused", "reset") for g in generations[-3:]) or all(map(speed.failed, generations)):
        raise LabError(f"{name} stopped answering during '{title}' ({why or (last.error or 'no answer').rstrip('.')}); what was "
                       "measured until then is kept. Look at the server's log and run again.")

"""What a gateway says of itself: how it is, what can be asked for, what it counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lab.engines.http.asked import Refusal
from lab.ops.gateway.serving import Serving

if TYPE_CHECKING:
    from lab.ops.gateway.app import App


def models(serving: Serving, alias: str, started: int) -> dict[str, Any]:
    """The names a client may ask for: the alias, and the model of the release behind it."""
    return {"object": "list", "data": [
        {"id": name, "object": "model", "created": started, "owned_by": "lab gateway", "release": serving.number,
         "max_model_len": serving.backend.served.request_tokens} for name in dict.fromkeys((alias, serving.model))]}


def metrics(app: App) -> str:
    """The totals of all processes, and what this one dropped."""
    text = app.metrics.text(app.gauges())
    for name, value in (("log_dropped_total", app.log.dropped), ("traces_dropped_total", app.traces.dropped),
                        ("shadows_total", app.shadows.asked), ("shadows_dropped_total", app.shadows.dropped)):
        text += f"# TYPE lab_gateway_{name} counter\nlab_gateway_{name} {value}\n"
    return text


def health(app: App) -> dict[str, Any]:
    """Status, release and every trouble in a sentence."""
    troubles = [one for one in (app.hanging, app.log.trouble, app.keys_trouble) if one]
    serving: Serving | None = None
    try:
        serving = app.loaded.now()
        if serving is None:
            troubles.append(f"The {app.settings.alias} release is being loaded.")
        elif serving.backend.trouble:
            troubles.append(serving.backend.trouble)
    except Refusal as refusal:
        troubles.append(str(refusal))
    troubles += [f"A release cannot be loaded: {why}" for why, _ in app.loaded.failed.values()]
    rollout = app.loaded.rollout()
    if rollout is not None and app.loaded.candidate() is None:
        troubles.append(f"Release {rollout.candidate}, the candidate, is not loaded here; production answers for it.")
    store = app.loaded.pointer.trouble
    if store:
        last = f"the last known release ({serving.name}) goes on being served" if serving else "no release is known"
        troubles.append(f"The store does not answer ({store[:200].rstrip('.')}); {last}.")
    ready = serving is not None and not app.draining and not app.log.trouble and not app.hanging
    status = "stopping" if app.draining else "ok" if ready and not troubles else "degraded" if ready else "unavailable"
    return {"status": status, "ready": ready, "release": serving.number if serving else None,
            "fingerprint": serving.fingerprint if serving else None, "alias": app.settings.alias,
            "rollout": rollout.number if rollout else None, "troubles": troubles,
            "store": "not answering" if store else "ok"}

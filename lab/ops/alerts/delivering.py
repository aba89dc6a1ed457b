"""Where alerts go beside the page: a line in a log file, and a webhook that is tried twice and waited for seconds only."""

from __future__ import annotations

import dataclasses
import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lab.errors import LabError
from lab.ops.alerts.evaluating import Alert

LOG = "alerts.log"
TIMEOUT_S = 5.0
TRIES = 2
PAUSE_S = 0.5


def line(alert: Alert, at_s: float) -> str:
    """One line about an alert, for a log or a terminal."""
    behind = f" {alert.count:,} requests behind it, since {when(alert.began_s)} with {alert.release}." if alert.count else ""
    return f"{when(at_s)} {alert.severity} {alert.state}: {alert.rule}. {alert.said}{behind}".replace("\n", " ")


def when(at_s: float) -> str:
    """A time of the wall clock in UTC."""
    return "–" if math.isnan(at_s) else datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def log(alert: Alert, at_s: float, place: Path) -> None:
    """Append a line to `alerts.log` beside the request log. Raises `LabError`."""
    try:
        with open(place / LOG, "a", encoding="utf-8") as file:
            file.write(line(alert, at_s) + "\n")
    except OSError as error:
        raise LabError(f"The alert log {place / LOG} cannot be written ({error}); mend the folder.") from error


def webhook(alert: Alert, at_s: float, env: str, *, timeout_s: float = TIMEOUT_S, pause_s: float = PAUSE_S) -> None:
    """POST the alert as JSON (with a `text` that chat services show) to the URL in the environment variable `env`.

    Waits `timeout_s` at most and tries once more. The URL is a secret and stands in no message. Raises `LabError`.
    """
    url = os.environ.get(env, "")
    if not url:
        raise LabError(f"There is no webhook: put its URL into {env}, or take 'webhook' out of the rule's actions.")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise LabError(f"{env} holds no http or https URL; mend it.")
    body = json.dumps({"text": line(alert, at_s), "at_s": at_s, "alert": _plain(dataclasses.asdict(alert))}).encode()
    why = ""
    for left in range(TRIES)[::-1]:
        asked = urllib.request.Request(url, data=body, method="POST", headers={"content-type": "application/json"})
        try:
            with _OPENER.open(asked, timeout=timeout_s):
                return
        except urllib.error.HTTPError as error:
            why = f"status {error.code}"
            error.close()
        except OSError as error:
            why = str(getattr(error, "reason", error))
        except (ValueError, http.client.HTTPException) as error:  # their texts may quote the URL
            why = type(error).__name__
        if left:
            time.sleep(pause_s)
    raise LabError(f"The webhook at {parts.hostname} did not take the alert ({why}); look whether it runs.")


class _Stay(urllib.request.HTTPRedirectHandler):
    """No redirect is followed: it could lead to another place than the one that was configured."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stay, urllib.request.ProxyHandler({}))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()}

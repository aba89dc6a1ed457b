"""The user's own mirror, a folder or a server: where a file of it is, opened from the byte on that is still missing."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lab.errors import LabError

MIRROR = "LAB_DATA_MIRROR"
"""A folder, or a file:// or http(s):// URL of one, that holds the archives by their file names. It is asked instead of pip."""


def url_of(file: str) -> str | None:
    """Where the mirror has this file; None if no mirror is set."""
    if not (mirror := os.environ.get(MIRROR)):
        return None
    url = mirror if "://" in mirror else Path(mirror).expanduser().resolve().as_uri()
    return f"{url.rstrip('/')}/{urllib.parse.quote(file)}"


def host(url: str) -> str:
    """The host in a sentence, without the login; of a folder its path."""
    parts = urllib.parse.urlsplit(url)
    return parts.hostname or urllib.request.url2pathname(parts.path)


@contextlib.contextmanager
def opened(url: str, begin: int = 0, timeout_s: float = 30.0) -> Iterator[tuple[IO[bytes], int]]:
    """The bytes from `begin` on, with where they really begin: 0 if the server cannot go on from the middle.

    A login in the URL goes to its host only, never along with a redirect. Raises `LabError`.
    """
    parts = urllib.parse.urlsplit(url)
    request = urllib.request.Request(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
                                     headers={"Accept-Encoding": "identity", "User-Agent": "llm-lab-workbench"})
    if parts.username:
        login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    if begin:
        request.add_header("Range", f"bytes={begin}-")
    file = urllib.parse.unquote(parts.path.rsplit("/", 1)[-1])
    try:
        answer = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        remedy = "try again later" if error.code >= 500 else f"look at {MIRROR}, or unset it to have pip asked"
        raise LabError(f"{host(url)} answered {error.code} ({error.reason}) for {file}; {remedy}.") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        said = getattr(reason, "strerror", None) or str(reason).rstrip(".") or type(reason).__name__
        if parts.scheme == "file":
            raise LabError(f"There is no {file} in the folder that {MIRROR} names ({said}); put it there, or unset {MIRROR} "
                           "to have pip asked.") from error
        raise LabError(f"{host(url)} cannot be reached for {file} ({said}); check the network and {MIRROR}, or unset it to "
                       "have pip asked.") from error
    with answer:
        whence = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range") or "")
        yield answer, int(whence.group(1)) if whence and getattr(answer, "status", None) == 206 else 0

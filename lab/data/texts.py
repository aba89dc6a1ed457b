"""Texts to measure perplexity on, each with where it came from."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

from lab.data.files import read_bytes
from lab.errors import LabError


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """A text to measure perplexity on, with where it came from; `sha256` is that of its UTF-8 bytes as loaded."""

    name: str
    text: str
    source: str
    licence: str
    sha256: str


def text_names() -> tuple[str, ...]:
    """The texts that `text` and `text_source` know by name."""
    return ("pydoc-topics",)


def text(name_or_path: str | Path) -> str:
    """The text of a catalogued source, or of any UTF-8 text file."""
    return text_source(name_or_path).text


def text_source(name_or_path: str | Path) -> TextSource:
    """The text with its provenance. Raises `LabError` when there is no such text, it is empty or it is not UTF-8."""
    if str(name_or_path) == "pydoc-topics":
        return _pydoc_topics()
    path = Path(name_or_path).expanduser()
    raw = read_bytes(path, "text", text_names())
    try:
        content = raw.decode()
    except UnicodeDecodeError as error:
        raise LabError(f"'{path}' is not UTF-8 text (byte {error.start}); convert it to UTF-8 first.") from error
    if "\0" in content:
        raise LabError(f"'{path}' holds zero bytes, so it is no text file; give a plain UTF-8 text.")
    if not content.strip():
        raise LabError(f"'{path}' is empty; give a text with some words in it.")
    return TextSource(name=path.name, text=content, source=str(path), licence="not stated (a file of your own)",
                      sha256=hashlib.sha256(raw).hexdigest())


def _pydoc_topics() -> TextSource:
    """The language reference behind Python's `help()`. It changes with Python, so the hash is taken at load."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise LabError("This Python comes without pydoc_data; install the full standard library, "
                       "or give the path of a text file.") from error
    content = "\n".join(topics[key] for key in sorted(topics))
    return TextSource(name="pydoc-topics", text=content, source=f"pydoc_data.topics of Python {platform.python_version()}",
                      licence="PSF-2.0", sha256=hashlib.sha256(content.encode()).hexdigest())

"""The program that installs packages by name: uv where it is on the path, which is ten times faster, else pip."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

_UV = {"find-links": "UV_FIND_LINKS", "index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX",
       "constraint": "UV_CONSTRAINT", "cert": "SSL_CERT_FILE"}
"""What pip's settings are called in uv's environment."""


def command(python: Path) -> list[str]:
    """The beginning of a command that installs into the environment of `python`."""
    return uv(python) if shutil.which("uv") else pip(python)


def pip(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]


def uv(python: Path) -> list[str]:
    """The same with uv: the one on the path, else the one in the environment."""
    found = shutil.which("uv")
    program = [found] if found else [str(python), "-m", "uv"]
    return [*program, "pip", "install", "--compile-bytecode", "--python", str(python)]


def sources(python: Path) -> dict[str, str]:
    """The environment to run either in: uv looks for packages where pip is configured to, unless it has settings of its own."""
    listed = subprocess.run([str(python), "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    return dict(os.environ) | {k: v for k, v in as_uv(listed).items() if k not in os.environ}


def as_uv(listed: str) -> dict[str, str]:
    """What `pip config list` printed, as environment variables of uv."""
    said: dict[str, list[str]] = {}
    for key, value in re.findall(r"^[\w:]*\.([\w-]+)='(.*)'$", listed, re.M):
        said.setdefault(key, []).extend(value.replace("\\n", " ").split())
    variables = {_UV[key]: " ".join(dict.fromkeys(values)) for key, values in said.items() if key in _UV}
    if "UV_INDEX" in variables:
        # pip takes the best version of all indexes, uv the first index that has the package at all.
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return variables

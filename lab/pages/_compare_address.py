"""What the address of Compare asks for that cannot be had: said in a sentence, never silently replaced."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import streamlit as st

from lab import wording


def lost(seed: Mapping[str, Sequence[str]], key: str, what: str, known: Collection[str], *, begins: bool = False) -> None:
    """Warn where the address names a `what` under `key` that is none of `known` (with `begins`, the beginning of none)."""
    asked = seed.get(key, [""])[0]
    if asked and not (any(one.startswith(asked) for one in known) if begins else asked in known):
        said(f"The address names {what} {asked[:80]}, which is not to be had here; another one is shown.")


def said(text: str) -> None:
    st.warning(wording.plain(text))

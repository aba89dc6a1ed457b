"""The dashboard: navigation and page config; every page is a file of `lab/pages/`, found by listing the folder."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

FOLDER = Path(__file__).parent / "lab" / "pages"
ORDER = ("overview", "compare", "run", "chat", "rate", "judge", "monitor", "releases")

st.set_page_config(page_title="LLM lab workbench", layout="wide")
files = [file for file in FOLDER.glob("*.py") if not file.name.startswith("_")]
files.sort(key=lambda file: (ORDER.index(file.stem) if file.stem in ORDER else len(ORDER), file.stem))
st.navigation(
    [st.Page(file, title=file.stem.replace("_", " ").capitalize(), url_path=file.stem, default=file is files[0])
     for file in files],
    position="top",
).run()

"""The dashboard: navigation and page config; every page is a file of `lab/pages/`, found by listing the folder."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from lab.pages import _door

FOLDER = Path(__file__).parent / "lab" / "pages"
ORDER = ("overview", "compare", "run", "chat", "rate", "judge", "monitor", "releases")

st.set_page_config(page_title="LLM lab workbench", layout="wide")
files = [file for file in FOLDER.glob("*.py") if not file.name.startswith("_")]
files.sort(key=lambda file: (ORDER.index(file.stem) if file.stem in ORDER else len(ORDER), file.stem))
pages = [st.Page(file, title=file.stem.replace("_", " ").capitalize(), url_path=file.stem if file is not files[0] else "root",
                 default=file is files[0])
         for file in files]
# The default page lives at the root and its own path would be "Page not found"; its name leads there, as that of any other.
named = st.Page(lambda: st.switch_page(pages[0]), title="Overview", url_path=files[0].stem, visibility="hidden")
page = st.navigation([*pages, named], position="top" if _door.passed() else "hidden")
if _door.passed():
    page.run()
else:
    _door.ask()

"""The dashboard in a real browser: nothing fails, nothing is asked of the network, links and downloads work."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import sample_store
from playwright.sync_api import Browser, Page, sync_playwright

from lab.ops import history

ROOT = Path(__file__).parent.parent
WIDTHS = (1280, 420)
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome on the path")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The dashboard on the sample store, served on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "LAB_HOME": str(sample_store.home())}
    environment.pop("MLFLOW_TRACKING_URI", None)
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "streamlit",
            "run",
            "app.py",
            "--server.port",
            str(port),
            "--server.fileWatcherType",
            "none",
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
                break
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield opened
        opened.close()


class Watched:
    """A page with everything that went wrong on it."""

    def __init__(self, browser: Browser, width: int, dark: bool = False) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        self.page: Page = self.context.new_page()
        self.wrong: list[str] = []
        self.outside: list[str] = []
        self.page.on(
            "console", lambda m: self._wrong(f"console: {m.text} {m.location['url']}") if m.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self._wrong(f"script: {error}"))
        self.page.on("requestfailed", lambda request: self._wrong(f"request: {request.url} {request.failure}"))
        self.page.on("response", lambda r: self._wrong(f"response: {r.status} {r.url}") if r.status >= 400 else None)
        self.page.on(
            "request",
            lambda r: (
                self.outside.append(r.url) if not r.url.startswith(("http://127.0.0.1:", "data:", "blob:")) else None
            ),
        )

    def _wrong(self, what: str) -> None:
        # Streamlit looks for its server beneath the page's own path first, to find out where it is mounted.
        if not re.search(r":\d+/[a-z]+/_stcore/", what):
            self.wrong.append(what)

    def failed(self) -> list[str]:
        """What went wrong; what is still loading when a page is left is aborted by the browser, and no failure."""
        return [what for what in self.wrong if "ERR_ABORTED" not in what]

    def open(self, url: str) -> Page:
        self.page.goto(url)
        self.settle()
        return self.page

    def settle(self) -> None:
        self.page.wait_for_selector("h1")
        self.page.wait_for_selector(".stApp[data-test-script-state=notRunning]", timeout=30_000)
        self.page.wait_for_timeout(250)


def selected(page: Page) -> set[str]:
    """What is chosen in the boxes that take several values."""
    page.wait_for_selector("[data-tag]")
    return set(page.evaluate("[...document.querySelectorAll('[data-tag]')].map(tag => tag.getAttribute('aria-label'))"))


@pytest.fixture
def watched(browser: Browser) -> Iterator[type[Watched]]:
    yield Watched
    for context in browser.contexts:
        context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_both_pages_show_without_an_error_and_ask_nobody_else(
    address: str, browser: Browser, watched: type[Watched], width: int
) -> None:
    seen = watched(browser, width, dark=width == WIDTHS[-1])
    page = seen.open(address)
    assert page.get_by_text("Ship Q4_K_M").first.is_visible()
    seen.open(f"{address}/compare?experiment=quantization&figures=all&tokens=shown")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.locator(".js-plotly-plot").count() >= 6
    assert page.get_by_text("Machine busy").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert (seen.failed(), seen.outside) == ([], [])


@pytest.mark.parametrize("width", [pytest.param(WIDTHS[0], marks=pytest.mark.slow), WIDTHS[1]])
def test_every_page_opens_without_an_error_and_fits_the_screen(
    address: str, browser: Browser, watched: type[Watched], width: int
) -> None:
    seen = watched(browser, width, dark=width == WIDTHS[0])
    for name in sorted(file.stem for file in (ROOT / "lab" / "pages").glob("[!_]*.py")):
        page = seen.open(address if name == "overview" else f"{address}/{name}")
        page.wait_for_load_state("networkidle")
        assert page.locator("[data-testid=stException]").count() == 0, name
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
    assert (seen.failed(), seen.outside) == ([], [])


def test_a_deep_link_restores_the_selection_and_the_overview_makes_one(
    address: str, browser: Browser, watched: type[Watched]
) -> None:
    with sample_store.at(sample_store.home()):
        runs = history.frame("experiment", experiment="performance")
        two = list(runs[runs["state"] == "finished"]["run_id"])
    seen = watched(browser, WIDTHS[0])
    link = f"{address}/compare?experiment=performance&run={two[0]}&run={two[1]}&trial=2+threads"
    page = seen.open(link)
    labels = {str(name).removeprefix("performance ") for name in runs[runs["run_id"].isin(two)]["name"]}
    assert selected(page) == {"2 threads", *labels, "Decode at least"}
    assert all(run in page.url for run in two)
    assert "baseline=" in page.url
    again = watched(browser, WIDTHS[0])
    again.open(page.url)
    assert selected(again.page) == selected(page)
    seen.open(address)
    page.get_by_text("Open in Compare").first.click()
    page.wait_for_url("**/compare?experiment=**run=**")
    seen.settle()
    assert (seen.wrong, again.wrong) == ([], [])


def test_the_tables_can_be_taken_away_as_csv(
    address: str, browser: Browser, watched: type[Watched], tmp_path: Path
) -> None:
    seen = watched(browser, WIDTHS[0])
    page = seen.open(f"{address}/compare?experiment=quantization")
    for button, columns in (
        ("Download CSV", {"name", "metrics.ttft_s"}),
        ("Download configurations as CSV", {"standing", "metrics.decode_tokens_per_s_low"}),
        ("Download differences as CSV", {"measure", "p_adjusted"}),
    ):
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        download.value.save_as(tmp_path / "taken.csv")
        table = pd.read_csv(tmp_path / "taken.csv")
        assert columns <= set(table)
        assert len(table) >= len(sample_store.RUNGS)


def test_the_name_of_the_first_page_leads_to_it(address: str, browser: Browser, watched: type[Watched]) -> None:
    page = watched(browser, WIDTHS[0]).open(f"{address}/overview")
    page.wait_for_url(f"{address}/")
    assert page.get_by_role("heading", name="Overview").is_visible()
    assert page.get_by_text("Page not found").count() == 0


def test_runs_of_two_experiments_are_decided_on_and_a_limit_moved_by_key_is_in_the_address(
    address: str, browser: Browser, watched: type[Watched], tmp_path: Path
) -> None:
    with sample_store.at(sample_store.home()):
        runs = history.frame("experiment").drop_duplicates("experiment")
        base = history.frame(parents=list(runs["run_id"])).set_index("name").loc["F32", "run_id"]
    asked = "&".join([*(f"run={run_id}" for run_id in runs["run_id"]), f"baseline={base}"])
    seen = watched(browser, WIDTHS[0])
    page = seen.open(f"{address}/compare?experiment=any&{asked}")
    assert page.get_by_text("Which one to ship").is_visible()
    assert page.get_by_text("Recommended: F32").first.is_visible()
    page.get_by_role("slider").first.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**need=decode_tokens_per_s*")
    limit = next(part for part in page.url.split("&") if part.startswith("need="))
    seen.settle()
    again = watched(browser, WIDTHS[0])
    again.open(page.url)
    assert limit in again.page.url
    page.wait_for_selector(".js-plotly-plot .main-svg")
    page.locator(".js-plotly-plot").first.hover()
    with page.expect_download() as picture:
        page.locator(".modebar-btn[data-title*=Download]").first.click()
    picture.value.save_as(tmp_path / "taken.png")
    assert picture.value.suggested_filename.startswith("lab-")
    assert (tmp_path / "taken.png").read_bytes().startswith(b"\x89PNG")
    assert (seen.failed(), seen.outside) == ([], [])

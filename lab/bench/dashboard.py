"""How fast the dashboard is in a real browser on a store of 10,000 runs, and how much memory its server takes.

Cold is a server that has answered nobody and a browser without a cache; the time counts from the request of the page. Switching
a page and filtering count from the click, by the page's own clock, until the server has nothing more to send and two frames were
drawn. Nothing but the server is asked: a request to any other address ends the bench.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from lab import machine
from lab.bench import _dashboard_store as many
from lab.errors import LabError
from lab.ops import store

LIMITS = {"first_content_s": 2.5, "first_chart_s": 4.0, "page_switch_s": 0.4, "filter_s": 0.3, "server_memory_mb": 700.0}
PAGES = ("Compare", "Run", "Chat", "Rate", "Judge", "Monitor", "Releases", "Overview")
QUIET = "notRunning"
WATCH = """() => {
  const app = document.querySelector('.stApp');
  const now = () => performance.now();
  window.lab = {clicked: 0, done: 0};
  document.addEventListener('pointerdown', () => { window.lab = {clicked: now(), done: 0}; }, true);
  new MutationObserver(() => {
    const lab = window.lab;
    if (app.getAttribute('data-test-script-state') !== 'notRunning') { lab.done = 0; return; }
    requestAnimationFrame(() => requestAnimationFrame(() => { lab.done = now(); }));
  }).observe(app, {attributes: true, attributeFilter: ['data-test-script-state']});
}"""


def main(*, runs: int = 10_000, cold: int = 3, repeats: int = 5, width: int = 1280) -> dict[str, Any]:
    """Time pages in Chromium, print a line per figure with its limit, and return the same figures (seconds, MB)."""
    if min(cold, repeats) < 1:
        raise LabError("--cold and --repeats are at least 1.")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, store.elsewhere(folder):
        (Path(folder) / "mlruns").mkdir()
        there = many.filled(runs)
        print(f"{there:,} runs and trials", flush=True)
        with browser() as opened:
            content, chart = [], []
            for _ in range(cold):
                content.append(_cold(opened, folder, "", "h1", width))
                chart.append(_cold(opened, folder, "compare", ".js-plotly-plot .main-svg", width) if there else float("nan"))
            with served(folder) as (address, process):
                switches, first, filters, peak = _warm(opened, address, process, repeats, width, there > 0)
    made: dict[str, Any] = {
        "first_content_s": statistics.median(content), "first_chart_s": statistics.median(chart),
        "page_switch_s": statistics.median(s for one in switches.values() for s in one),
        "filter_s": statistics.median(filters) if filters else float("nan"), "server_memory_mb": peak}
    for name, value in made.items():
        unit = "MB" if name.endswith("_mb") else "s"
        said = "yes" if value < LIMITS[name] else "NO"
        label = name.rsplit("_", 1)[0].replace("_", " ")
        print(f"{label}: {value:.2f} {unit}; below {LIMITS[name]:g} {unit}: {said}", flush=True)
    for name, one in switches.items():
        print(f"  {name:<9} first {first[name]:.2f} s, again {statistics.median(one):.2f} s", flush=True)
    return made | {"limits": LIMITS, "cold_content_s": content, "cold_chart_s": chart, "switch_s": switches,
                   "first_switch_s": first, "filters_s": filters, "runs": there, "width": width,
                   "wall_s": time.perf_counter() - began, "machine": machine.fingerprint(bandwidth=False).as_tags()}


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Chromium without a window. Raises `LabError` when it or Playwright is not here."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise LabError("Playwright is not installed; `pip install playwright` (the extra 'pictures' has it).") from error
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        raise LabError("There is no Chromium or Chrome on the path; install one (Debian: apt-get install chromium).")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu",
                                                                         "--disable-background-networking"])
        try:
            yield opened
        finally:
            opened.close()


@contextlib.contextmanager
def served(home: str) -> Iterator[tuple[str, psutil.Process]]:
    """`lab dashboard` on the store in `home`, up and asked by nobody yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen([sys.executable, "-m", "lab", "dashboard", "--port", str(port)], cwd=root,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, "LAB_HOME": home, "PYTHONPATH": paths})
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1).close()
                break
            if process.poll() is not None:
                raise LabError("The dashboard ended while it was starting; `lab dashboard` shows why.")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


def _page(opened: Any, width: int) -> Any:
    """A page without a cache that may ask nobody but this machine."""
    page = opened.new_context(viewport={"width": width, "height": 900}).new_page()
    page.set_default_timeout(60_000)
    outside: list[str] = []
    page.on("request", lambda r: None if r.url.startswith(("http://127.0.0.1:", "data:", "blob:")) else outside.append(r.url))
    page.outside = outside
    return page


def _cold(opened: Any, home: str, path: str, wanted: str, width: int) -> float:
    """Seconds from asking a fresh server for the page until `wanted` is visible."""
    with served(home) as (address, _):
        page = _page(opened, width)
        started = time.perf_counter()
        page.goto(f"{address}/{path}", wait_until="commit")
        page.wait_for_selector(wanted)
        took = time.perf_counter() - started
        _close(page)
    return took


def _close(page: Any) -> None:
    if page.outside:
        raise LabError(f"The dashboard asked {page.outside[0][:80]}, which is not this machine.")
    page.context.close()


def _warm(
    opened: Any, address: str, process: psutil.Process, repeats: int, width: int, charts: bool
) -> tuple[dict[str, list[float]], dict[str, float], list[float], float]:
    """Seconds of every switch of the page, of the first visit of each and of every filter, and the server's largest memory."""
    page, again, first, filters, peak = _page(opened, width), dict[str, list[float]](), dict[str, float](), list[float](), 0.0
    page.goto(address)
    _settled(page)
    page.evaluate(WATCH)
    for visit in range(repeats + 1):
        for name in PAGES:
            page.get_by_test_id("stTopNavLink").filter(has_text=name).first.click()
            took = _took(page)
            if visit:
                again.setdefault(name, []).append(took)
            else:
                first[name] = took
            peak = max(peak, _memory_mb(process))
    if charts:
        page.get_by_test_id("stTopNavLink").filter(has_text="Compare").first.click()
        _took(page)
        box = page.locator("[data-testid=stMultiSelect]").filter(has_text="Trials").locator("input")
        for _ in range(repeats):
            box.click()
            page.wait_for_selector("[role=option]")
            page.wait_for_timeout(300)
            if page.locator("[role=option]").count() < 2:
                break
            page.locator("[role=option]").nth(1).click()  # the first one selects all
            filters.append(_took(page))
            page.keyboard.press("Escape")
            peak = max(peak, _memory_mb(process))
    _close(page)
    return again, first, filters, peak


def _settled(page: Any) -> None:
    page.wait_for_selector("h1")
    page.wait_for_selector(f".stApp[data-test-script-state={QUIET}]")
    page.wait_for_timeout(500)


def _took(page: Any) -> float:
    """Seconds from the last click until the script had ended and its result was drawn."""
    page.wait_for_function("window.lab.done > 0")
    page.wait_for_timeout(400)  # a page that runs again at once (an address that changed) counts until its last run
    page.wait_for_function("window.lab.done > 0")
    return float(page.evaluate("(window.lab.done - window.lab.clicked) / 1000"))


def _memory_mb(process: psutil.Process) -> float:
    """Resident memory of the server and of all it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 1e6
    return 0.0

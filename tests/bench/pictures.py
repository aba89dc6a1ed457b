"""Makes the pictures of the README from the real thing: the dashboard, a notebook and the MLflow history on this store."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from lab.ops import history, store

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "pictures"
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextmanager
def server(*command: str) -> Iterator[str]:
    """A `lab` server on a free port of this machine, ended by its process group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "lab", *command, "--port", str(port)], cwd=ROOT,
                               start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(address, timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=20)


def take(page: Page, address: str, name: str, *, wait_s: float = 4.0, full: bool = False) -> None:
    page.goto(address)
    page.wait_for_load_state("load")  # MLflow polls and never rests
    page.wait_for_timeout(int(wait_s * 1000))
    page.screenshot(path=FOLDER / f"{name}.png", full_page=full)
    print(f"docs/pictures/{name}.png")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    runs = history.frame("experiment", experiment="quantization")
    if runs.empty:
        sys.exit("No quantization run is in the store; run `lab demo` first.")
    run = runs.iloc[0]
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        with server("dashboard") as address:
            take(page, f"{address}/", "overview")
            page.set_viewport_size({"width": 1280, "height": 1900})  # down to the chart and the recommendation
            take(page, f"{address}/compare?experiment=quantization&run={run['run_id']}", "compare", wait_s=6)
            page.set_viewport_size({"width": 1280, "height": 860})
        with server("history") as address:
            experiment = _experiment_id(str(run["run_id"]))
            take(page, f"{address}/#/experiments/{experiment}/runs/{run['run_id']}", "history", wait_s=12)
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "-m", "nbconvert", "--to", "html", "--output-dir", folder,
                            str(ROOT / "notebooks" / "02_quantization.ipynb")], check=True, capture_output=True)
            take(page, f"file://{folder}/02_quantization.html", "notebook")
        browser.close()


def _experiment_id(run_id: str) -> str:
    connection = store.connect()
    assert connection is not None
    with connection:
        found = connection.execute("select experiment_id from runs where run_uuid = ?", (run_id,)).fetchone()
    connection.close()
    return str(found[0])


if __name__ == "__main__":
    main()

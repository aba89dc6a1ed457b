"""The wheel: built from the source, it works in an empty environment, in a folder that is no checkout."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
import urllib.request
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ("lab", "notebooks", "app.py", "pyproject.toml", "README.md", "LICENSE")


def test_every_file_that_is_no_code_is_named_in_the_package_data() -> None:
    import fnmatch

    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["lab"]
    others = [file.relative_to(ROOT / "lab").as_posix() for file in (ROOT / "lab").rglob("*")
              if file.is_file() and file.suffix not in (".py", ".pyc") and "__pycache__" not in file.parts]
    assert others and [one for one in others if not any(fnmatch.fnmatch(one, pattern) for pattern in patterns)] == []


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an empty environment with the wheel; the packages of this one are seen from there."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    for name in SOURCE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(place), str(source)], check=True)
    wheel = next(place.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert "app.py" in names and not any(name.startswith("tests/") for name in names)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "env")], check=True)
    python = place / "env" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True)
    purelib = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True).strip()
    Path(purelib, "seen.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "env" / "bin"


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("somewhere else")


def env(outside: Path, **more: str) -> dict[str, str]:
    left_out = ("LAB_HOME", "PYTHONPATH", "VIRTUAL_ENV", "MLFLOW_TRACKING_URI")
    return {**{k: v for k, v in os.environ.items() if k not in left_out}, "COLUMNS": "200", **more}


def lab(installed: Path, outside: Path, *arguments: str) -> str:
    done = subprocess.run([installed / "lab", *arguments], cwd=outside, env=env(outside), text=True, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_wheel_lists_runs_and_reports_outside_the_checkout(installed: Path, outside: Path) -> None:
    where = subprocess.check_output([installed / "python", "-c", "import lab; print(lab.__file__)"], cwd=outside,
                                    env=env(outside), text=True)
    assert str(installed.parent) in where
    assert "performance" in lab(installed, outside, "list") and "smollm2-135m" in lab(installed, outside, "models")
    assert "Verdict" in lab(installed, outside, "demo", "--engine", "scripted")
    assert (outside / "mlruns" / "mlflow.db").is_file()
    lab(installed, outside, "report", "performance", "--out", "report.html")
    assert "Verdict" in lab(installed, outside, "run", "performance", "--prompt-tokens", "16", "--output-tokens", "4",
                            "--depth-tokens", "0", "--threads", "1", "--repeats", "2")
    assert "everyday" in lab(installed, outside, "data", "list")


@pytest.mark.slow
def test_the_wheel_brings_the_notebooks(installed: Path, outside: Path) -> None:
    assert "00_start_here" in lab(installed, outside, "notebooks")
    lab(installed, outside, "notebooks", "--to", "mine")
    mine = outside / "mine" / "00_start_here.ipynb"
    mine.write_text("changed")
    assert "0 of " in lab(installed, outside, "notebooks", "--to", "mine") and mine.read_text() == "changed"
    assert len(list((outside / "mine").glob("*.ipynb"))) == len(list((ROOT / "notebooks").glob("*.ipynb")))


@pytest.mark.slow
def test_the_wheel_serves_the_dashboard(installed: Path, outside: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([installed / "lab", "dashboard", "--port", str(port)], cwd=outside, env=env(outside),
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        from playwright.sync_api import sync_playwright

        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                assert urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).read() == b"ok"
                break
            except OSError:
                time.sleep(0.2)
        with sync_playwright() as playwright:
            found = next((p for p in ("chromium", "chromium-browser", "google-chrome") if shutil.which(p)), None)
            browser = playwright.chromium.launch(executable_path=shutil.which(found) if found else None, args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{port}/compare")
            page.get_by_role("heading", name="Compare").wait_for(timeout=60_000)
            assert "error" not in page.content().lower().partition("traceback")[1]
            browser.close()
    finally:
        server.terminate()
        server.wait(20)

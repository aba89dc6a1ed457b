"""The page Rate: tasks made and results read without a browser, and two people who rate at once with one."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import krippendorff
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest
from test_browser import CHROMIUM, Watched
from test_ratings import GOLD, rate_all, two_models

from lab.ops import ratings

ROOT = Path(__file__).parent.parent
PAGE = str(ROOT / "lab" / "pages" / "rate.py")
AXES = ("correctness", "clarity", "safety", "relevance", "style")


def opened(**address: str) -> AppTest:
    app = AppTest.from_file(PAGE, default_timeout=60)
    for name, value in address.items():
        app.query_params[name] = value
    return app.run()


def texts(app: AppTest) -> str:
    shown = [*app.markdown, *app.caption, *app.info, *app.warning, *app.error, *app.success, *app.subheader, *app.code]
    return "\n".join(str(one.value) for one in shown)


def test_an_empty_store_names_the_command_that_records_answers(fresh_store) -> None:
    app = opened()
    assert not app.exception and "lab run quality" in texts(app)


def test_a_task_is_made_from_recorded_answers_and_opened_for_rating(fresh_store) -> None:
    two_models()
    app = opened()
    app.number_input[0].set_value(5)
    app.number_input[1].set_value(2)
    next(b for b in app.button if b.label == "Make the task").click().run()
    assert not app.exception and not app.error
    [task] = ratings.tasks()["task_id"]
    of = ratings.load(task)
    assert (len([u for u in of.units if not u.control]), len([u for u in of.units if u.control])) == (10, 2)
    assert app.query_params["task"] in (task, [task])
    assert "12 items" in texts(app)


def test_a_name_is_asked_first_and_the_end_says_how_the_control_items_went(fresh_store) -> None:
    task = ratings.create(two_models(), axes=("correctness",), gold=GOLD)
    app = opened(task=task)
    app.text_input[0].set_value(" Ann ")
    next(b for b in app.button if b.label == "Start").click().run()
    assert "Rating as Ann" in texts(app)
    assert app.query_params["rater"] in ("Ann", ["Ann"])
    assert "Control items" not in texts(app)
    rate_all(task, "Ann", lambda asked, axis: 5)
    assert "1 of 2 of your grades were as expected" in texts(app.run())


def test_results_wait_for_a_rater_who_is_not_through_unless_they_insist(fresh_store) -> None:
    task = ratings.create(two_models(), axes=("correctness",))
    rate_all(task, "Bob", lambda asked, axis: 1 + int(asked.key) % 5)
    app = opened(task=task, view="Results", rater="Ann")
    assert "would not be blind" in texts(app) and not app.dataframe
    next(b for b in app.button if b.label == "Show the results anyway").click().run()
    assert app.dataframe and "No item was rated by two raters" in texts(app) and app.metric[0].value == "–"
    assert opened(task=task, view="Results").dataframe


def side(asked, large: bool) -> str:
    """The side on which the large model's answer stands, or the other one: sides are shuffled anew for every task and rater."""
    return "A" if ("surely" in asked.answers[0]) == large else "B"


@pytest.mark.parametrize("kind", ["axes", "pairs"])
def test_the_results_show_what_the_summary_says(fresh_store, kind) -> None:
    task = ratings.create(two_models(), axes=("correctness",), kind=kind, gold=GOLD)
    rate_all(task, "Ann", lambda asked, axis: 1 + int(asked.key) % 5 if kind == "axes" else side(asked, int(asked.key) % 2 == 0), "as I see it")
    rate_all(task, "Bob", lambda asked, axis: 1 + int(asked.key) % 4 if kind == "axes" else side(asked, True))
    app = opened(task=task, view="Results")
    assert not app.exception
    found = ratings.summary(task)
    assert app.metric[0].value == f"{found.shared[0].alpha.value:.3f}"
    assert set(app.dataframe[1].value["Model"]) == {"small", "large"}
    assert any("as I see it" in one.value for one in app.markdown)


def test_an_address_of_a_task_that_is_gone_is_said(fresh_store) -> None:
    ratings.create(two_models(), axes=("correctness",))
    assert "not in this store" in texts(opened(task="0" * 32))


# In a real browser


@pytest.fixture
def address(fresh_store) -> Iterator[str]:
    """The dashboard on the fresh store, served on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port), "--server.fileWatcherType", "none"]
    server = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "LAB_HOME": str(fresh_store)},
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1).close()
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


class Rater:
    """Somebody at a keyboard in a browser of their own."""

    def __init__(self, browser, url: str, name: str) -> None:
        self.seen = Watched(browser, 1280)
        self.page = self.seen.page
        self.page.goto(url)
        self.page.get_by_label("Your name").fill(name)
        self.page.keyboard.press("Enter")
        self.key = self.shown()

    def shown(self, *, other_than: str = "") -> str:
        """The key of the item on the card, once it is another than `other_than` and can be rated; "" at the end."""
        card = self.page.locator(f".card[data-busy=false]:not([data-key='{other_than}'])")
        through = self.page.get_by_text("You are through")
        card.or_(through).first.wait_for(timeout=60_000)
        return "" if through.count() else card.get_attribute("data-key") or ""

    def type(self, keys: str) -> None:
        """As fast as a script can, and without waiting for anything."""
        for key in keys:
            self.page.keyboard.press(key)
        self.page.keyboard.press("Enter")

    def next(self) -> None:
        self.key = self.shown(other_than=self.key)

    def rate(self, keys: str) -> None:
        self.type(keys)
        self.next()


@pytest.fixture
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield made
        made.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome on the path")
def test_two_raters_in_two_browsers_at_once_lose_nothing_and_alpha_is_the_packages(address, browser, tmp_path) -> None:
    task = ratings.create(two_models(), items=5, axes=AXES)
    url = f"{address}/rate?task={task}"
    ann, bob = Rater(browser, url, "Ann"), Rater(browser, url, "Bob")
    typed: dict[tuple[str, str], str] = {}
    for turn in range(10):
        for rater, name in ((ann, "Ann"), (bob, "Bob")):
            base, wrong = int(rater.key), int(name == "Bob" and int(rater.key) % 3 == 0)
            typed[name, rater.key] = "".join(str(1 + (base + axis + wrong) % 5) for axis in range(5))
            if turn == 4 and name == "Ann":  # a reload in the middle of an item loses that item's keys and nothing else
                rater.page.keyboard.press("5")
                rater.page.reload()
                assert rater.shown() == rater.key
        for rater, name in ((ann, "Ann"), (bob, "Bob")):
            rater.type(typed[name, rater.key])
        ann.next()
        bob.next()
    assert ann.key == bob.key == ""
    table = ratings.export(task)
    assert len(table) == 2 * 10 * 5
    for (name, key), keys in typed.items():
        mine = table[(table["rater"] == name) & (table["unit"] == key)].set_index("axis")["value"]
        assert [mine[axis] for axis in AXES] == [float(k) for k in keys]
    assert (table["seconds"] >= 0).all()

    page = ann.page
    page.get_by_role("button", name="Results").or_(page.get_by_role("radio", name="Results")).first.click()
    page.get_by_text("Agreement").first.wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download ratings as CSV").click()
    download.value.save_as(tmp_path / "ratings.csv")
    taken = pd.read_csv(tmp_path / "ratings.csv")
    shared = {s.axis: s.alpha.value for s in ratings.summary(task).shared}
    for axis in AXES:
        wide = taken[taken["axis"] == axis].pivot(index="rater", columns="unit", values="value").to_numpy()
        assert shared[axis] == pytest.approx(krippendorff.alpha(reliability_data=wide, level_of_measurement="ordinal"))
        assert f"{shared[axis]:.3f}" in page.locator("[data-testid=stMetric]").filter(has_text=axis.capitalize()).inner_text()
    wrong = [w for r in (ann, bob) for w in r.seen.wrong if "/_stcore/" not in w and "404" not in w]
    assert wrong == [] and ann.seen.outside == bob.seen.outside == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome on the path")
def test_side_by_side_is_rated_undone_and_noted_with_the_keyboard_alone(address, browser) -> None:
    task = ratings.create(two_models(), items=3, kind="pairs")
    rater = Rater(browser, f"{address}/rate?task={task}", "Ann")
    first = rater.key
    rater.rate("a")
    rater.page.keyboard.press("Enter")
    rater.page.get_by_text("Choose A, B or a tie first.").wait_for()
    rater.page.keyboard.press("u")
    rater.next()
    assert rater.key == first
    rater.page.keyboard.press("n")
    rater.page.keyboard.type("about 0 but 5")
    rater.page.keyboard.press("Escape")
    rater.rate("t")
    rater.rate("0")
    rater.rate("b")
    assert rater.key == ""
    table = ratings.export(task).set_index("unit")
    assert table.loc[first, "value"] == 0.5 and table.loc[first, "note"] == "about 0 but 5"
    assert table["value"].isna().sum() == 1 and len(table) == 3


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome on the path")
@pytest.mark.parametrize(("width", "dark"), [pytest.param(1280, False, marks=pytest.mark.slow), (420, True)])
def test_the_card_fits_the_screen_and_works_by_touch(address, browser, width, dark) -> None:
    task = ratings.create(two_models(), items=1, axes=("correctness", "clarity"))
    seen = Watched(browser, width, dark=dark)
    page = seen.page
    page.goto(f"{address}/rate?task={task}&rater=Ann")
    page.locator(".card").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for axis in ("correctness", "clarity"):
        page.get_by_role("radiogroup", name=axis).get_by_role("radio").nth(3).click()
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Item 2 of 2").wait_for()
    assert set(ratings.export(task)["value"]) == {4.0}

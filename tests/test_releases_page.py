"""The page Releases: what is where, what differs, and no move without a name, a reason and what the mover saw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sample_store
from conftest import copied
from streamlit.testing.v1 import AppTest

from lab.ops import versions

APP = Path(__file__).parent.parent / "app.py"
CREATE = "lab release create --prompt prompt.txt --model smollm2-135m --policy default"


@pytest.fixture
def home(migrated: Path, tmp_path: Path) -> Iterator[Path]:
    with sample_store.at(copied(migrated, tmp_path / "home")) as folder:
        yield folder


@pytest.fixture
def three(home: Path) -> Path:
    """Release 1 before release 2 in production, release 3 not used yet."""
    for text, temperature in (("Be brief.", "0"), ("Be [rude] *now*.", "0.5"), ("Be kind.", "0")):
        (home / "support.txt").write_text(text)
        versions.create(prompt=str(home / "support.txt"), model="markov", engine="scripted", decoding={"temperature": temperature})
    versions.promote(1, by="ana", why="first")
    versions.promote(2, by="ana", why="second")
    return home


def page(**address: str) -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=60).run()
    for name, value in address.items():
        app.query_params[name] = value
    app.switch_page("lab/pages/releases.py").run()
    assert not app.exception, app.exception
    return app


def text(app: AppTest) -> str:
    parts = [*app.title, *app.subheader, *app.markdown, *app.caption, *app.warning, *app.info, *app.error, *app.success, *app.code]
    return "\n".join(str(part.value) for part in parts).replace("\\", "")


def press(app: AppTest, key: str) -> AppTest:
    app.button(key=f"releases.{key}").click().run()
    assert not app.exception, app.exception
    return app


def confirm(app: AppTest, who: str = "ben", why: str = "complaints") -> AppTest:
    app.text_input[0].input(who)
    app.text_area[0].input(why).run()
    return press(app, "confirm")


def test_an_empty_store_names_the_command(home: Path) -> None:
    app = page()
    assert [code.value for code in app.code] == [CREATE] and not app.button


def test_the_list_says_what_is_where_and_what_each_binds(three: Path) -> None:
    app = page()
    table = app.dataframe[0].value
    assert list(table["Release"]) == [3, 2, 1] and list(table["Aliases"]) == ["–", "Production", "Previous"]
    assert list(table["Prompt"]) == ["support@3", "support@2", "support@1"] and set(table["Measured"]) == {"not measured"}
    assert "Release 2" in text(app) and "Release 1" in text(app)


def test_the_difference_of_two_chosen_releases_is_shown_and_stands_in_the_address(three: Path) -> None:
    app = page(before="1", after="2")
    assert "-Be brief." in text(app) and "+Be [rude] *now*." in text(app) and "not measured" in text(app)
    assert any("temperature" in str(frame.value.to_dict()) for frame in app.dataframe)
    app.selectbox(key="releases.after").select(3).run()
    assert "+Be kind." in text(app)
    assert [app.query_params[name] for name in ("before", "after")] == ["1", "3"]
    app.selectbox(key="releases.before").select(3).run()
    assert "These are the same release." in text(app)


def test_without_an_address_production_stands_beside_what_could_replace_it(three: Path) -> None:
    app = page()
    assert (app.selectbox(key="releases.before").value, app.selectbox(key="releases.after").value) == (2, 3)
    versions.propose(1, by="ana", why="again")
    assert page().selectbox(key="releases.after").value == 1


def test_one_release_alone_is_compared_with_nothing_and_no_history_says_none(home: Path) -> None:
    (home / "support.txt").write_text("Be brief.")
    versions.create(prompt=str(home / "support.txt"), model="markov", engine="scripted")
    versions.propose(1, by="ana", why="first")
    app = page()
    assert "There is one release" in text(app) and not app.selectbox and "same release" not in text(app)
    assert list(app.dataframe[-1].value["Production after"]) == ["–"]
    assert [one.key for one in app.button if one.key and one.key.startswith("releases.")] == ["releases.promote", "releases.withdraw"]


def test_a_command_in_a_sentence_is_set_as_code(three: Path) -> None:
    said = [str(one.value) for one in page(before="1", after="2").markdown]
    assert any("`lab release create ... --runs RUN_ID`" in line for line in said)
    assert not any("\\`" in line for line in said)


def test_an_address_of_a_release_that_is_not_there_is_said(three: Path) -> None:
    assert "names release 77" in text(page(before="77", after="1"))


def test_a_rollback_shows_what_changes_and_needs_a_name_and_a_reason(three: Path) -> None:
    app = press(page(), "rollback")
    assert "Release 2 is in production now. Release 1 will take its place." in text(app) and "-Be [rude] *now*." in text(app)
    press(app, "confirm")
    app.text_input[0].input("ben").run()
    press(app, "confirm")
    assert "Give your name and a reason" in text(app) and versions.current().production == 2
    confirm(app)
    assert versions.current().production == 1 and versions.current().previous == 2
    last = versions.history()[-1]
    assert (last.action, last.by, last.why, last.expect) == ("rollback", "ben", "complaints", 2)
    assert "Production is back to release 1." in text(app) and not app.text_area, "the dialog is closed"
    assert list(app.dataframe[-1].value["Who"])[0] == "ben"
    assert "rolled back from already (by ben: complaints)" in text(press(app, "rollback")), "a second rollback is warned of"


def test_a_release_is_proposed_promoted_and_a_candidate_withdrawn(three: Path) -> None:
    app = page(before="2", after="3")
    confirm(press(app, "propose"))
    assert versions.current().candidate == 3 and "Candidate" in list(app.dataframe[0].value["Aliases"])
    confirm(press(app, "withdraw"))
    assert versions.current().candidate is None
    confirm(press(app, "promote"), why="kinder")
    assert (versions.current().production, versions.current().previous) == (3, 2)
    assert versions.history()[-1].why == "kinder"


def test_what_moved_while_the_dialog_was_open_is_not_overridden(three: Path) -> None:
    app = press(page(before="2", after="3"), "promote")
    versions.rollback(by="another", why="urgent")
    confirm(app)
    assert versions.current().production == 1, "the mover saw release 2 in production"
    assert "Release 1 is in production, not release 2" in text(app) and "another" in text(app)


def test_a_broken_release_is_refused_and_can_be_forced_on_the_record(home: Path) -> None:
    from test_versions import gguf

    (home / "support.txt").write_text("Be brief.")
    versions.create(prompt=str(home / "support.txt"), model=gguf(home / "toy.gguf"))
    (home / "toy.gguf").unlink()
    app = press(page(), "promote")
    assert "Nothing is in production yet" in text(app) and not app.checkbox
    confirm(app)
    assert "vanished" in text(app) and versions.current().production is None
    app.checkbox[0].check().run()
    press(app, "confirm")
    assert versions.current().production == 1 and versions.history()[-1].forced
    assert "was forced" in text(app)


def test_a_store_that_cannot_be_read_is_a_sentence(three: Path) -> None:
    (three / "mlruns" / "mlflow.db").write_text("not a database")
    app = page()
    assert len(app.error) == 1 and "cannot be read" in text(app)

"""The door of the model catalogue: what is found, and the one sentence for everything that is not a usable model."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lab import models
from lab.errors import LabError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder in force, and a cache of its own."""
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LAB_MODELS_DIR", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import numpy as np
    from gguf import GGUFWriter

    path = tmp_path_factory.mktemp("toy") / "toy.gguf"
    writer = GGUFWriter(path, "toy")
    writer.add_string("general.license", "cc0-1.0")
    writer.add_tensor("a.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def refusal(model: str) -> str:
    with pytest.raises(LabError) as refused:
        models.find(model)
    said = str(refused.value)
    assert said.endswith(".") and "\n" not in said
    return said


def entry(data: bytes, **fields: object) -> models.Entry:
    given = {"name": "toy", "title": "Toy", "licence": "CC0-1.0", "context_tokens": 128, "bytes": len(data),
             "sha256": hashlib.sha256(data).hexdigest(), "file": "toy-file.gguf", **fields}
    return models.Entry(**given)  # type: ignore[arg-type]


def test_the_default_model_is_the_file_of_the_catalogue() -> None:
    found, expected = models.find(models.DEFAULT), models.CATALOGUE[models.DEFAULT]
    assert (found.sha256, found.bytes, found.licence) == (expected.sha256, expected.bytes, expected.licence)


def test_an_unknown_name_is_answered_with_the_known_ones(folder: Path) -> None:
    said = refusal("no-such-model")
    assert all(name in said for name in models.CATALOGUE)


def test_a_missing_path_and_a_folder_are_named(folder: Path, tmp_path: Path) -> None:
    assert "no model file" in refusal(str(tmp_path / "missing.gguf"))
    assert "is a folder" in refusal(str(tmp_path))


@given(st.text(max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@example("")
@example("a" * 5000)
@example("~nobody-of-this-name/x.gguf")
@example("a//b.gguf")
@example("two\nlines")
def test_a_name_that_is_no_model_is_refused_in_one_sentence(folder: Path, name: str) -> None:
    if name not in models.CATALOGUE and not os.path.exists(name or "?"):
        refusal(name)


def test_a_file_of_the_models_folder_is_found_with_and_without_its_ending(folder: Path, toy: bytes) -> None:
    (folder / "mine.gguf").write_bytes(toy)
    for name in ("mine", "mine.gguf", str(folder / "mine.gguf")):
        found = models.find(name)
        assert (found.name, found.bytes, found.licence) == ("mine", len(toy), "cc0-1.0")
        assert found.sha256 == hashlib.sha256(toy).hexdigest()
    assert "mine" in models.available()


def test_a_catalogue_file_brought_by_hand_is_found_under_its_name(folder: Path, toy: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.CATALOGUE, "toy", entry(toy))
    assert "put toy-file.gguf into" in refusal("toy")
    (folder / "toy-file.gguf").write_bytes(toy)
    assert (models.find("toy").name, models.find("toy").licence) == ("toy", "CC0-1.0")
    assert "toy-file" not in models.available()


def test_a_catalogue_file_of_another_content_is_refused(folder: Path, toy: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.CATALOGUE, "toy", entry(toy))
    (folder / "toy-file.gguf").write_bytes(toy[:-1] + b"\1")
    assert "sha256" in refusal("toy")


def test_a_file_that_changed_is_hashed_again(folder: Path, toy: bytes) -> None:
    path = folder / "mine.gguf"
    path.write_bytes(toy)
    before = models.find("mine").sha256
    path.write_bytes(toy[:-1] + b"\1")
    os.utime(path, ns=(1, 1))
    assert models.find("mine").sha256 != before


@pytest.mark.parametrize(("data", "said"), [(b"", "only 0 bytes"), (b"PK\x03\x04" + bytes(100), "magic"), (b"GGUF" + b"\xff" * 99, "GGUF version")])
def test_a_file_that_is_no_model_is_refused(folder: Path, data: bytes, said: str) -> None:
    (folder / "bad.gguf").write_bytes(data)
    assert said in refusal("bad")


def test_a_truncated_file_is_refused(folder: Path, toy: bytes) -> None:
    (folder / "short.gguf").write_bytes(toy[:-64])
    assert "cut short" in refusal("short")


def test_a_hub_id_without_a_hub_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "the hub did not give it" in refusal("nobody/no-model-GGUF/no-model-q4_0.gguf")


@pytest.fixture
def parts(tmp_path: Path, toy: bytes, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A model that two installed packages carry half of each."""
    made = []
    for i, data in enumerate((toy[:100], toy[100:])):
        package = tmp_path / "site" / f"toy_part{i}"
        (package / "data").mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "data" / f"toy.part{i}").write_bytes(data)
        made.append(package / "data" / f"toy.part{i}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    both = entry(toy, distribution="toy-parts", parts=tuple((f"toy_part{i}", f"toy.part{i}") for i in range(2)))
    monkeypatch.setitem(models.CATALOGUE, "toy", both)
    return made


def test_the_parts_of_a_model_are_joined_once(folder: Path, toy: bytes, parts: list[Path]) -> None:
    found = models.find("toy")
    assert found.path.read_bytes() == toy
    for part in parts:
        part.write_bytes(b"changed")
    assert models.find("toy") == found
    assert list(folder.iterdir()) == [found.path]


def test_a_missing_part_is_named_with_the_package_to_install(folder: Path, parts: list[Path]) -> None:
    parts[1].unlink()
    assert "pip install toy-parts" in refusal("toy")
    missing = dataclasses.replace(models.CATALOGUE["toy"], parts=(("toy_part0", "toy.part0"), ("toy_part_of_nobody", "x")))
    models.CATALOGUE["toy"] = missing
    assert "pip install toy-parts" in refusal("toy")
    assert list(folder.iterdir()) == []


def test_a_cache_that_cannot_be_written_does_not_stop_a_model(folder: Path, toy: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "file"))
    (folder / "mine.gguf").write_bytes(toy)
    assert models.find("mine").bytes == len(toy)

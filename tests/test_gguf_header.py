"""The header reader: it agrees with the `gguf` package on a real file, and says one sentence about every broken one."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab import gguf_header, models
from lab.errors import LabError


@pytest.fixture(scope="module")
def default() -> Path:
    return models.find(models.DEFAULT).path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A GGUF file of a few hundred bytes: every kind of metadata, two tensors."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = GGUFWriter(path, "toy")
    writer.add_uint32("toy.context_length", 128)
    writer.add_float32("toy.scale", 0.5)
    writer.add_bool("toy.flag", True)
    writer.add_array("toy.names", ["a", "bc"])
    writer.add_array("toy.many", list(range(600)))
    writer.add_tensor("a.weight", np.zeros((4, 32), np.float32))
    writer.add_tensor("b.weight", np.zeros((2, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def spot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spot") / "file.gguf"


def read(spot: Path, data: bytes) -> gguf_header.Header | str:
    """The header, or the sentence; any other exception fails the test that calls."""
    spot.write_bytes(data)
    try:
        return gguf_header.read(spot)
    except LabError as error:
        said = str(error)
        assert said.endswith(".") and "\n" not in said and str(spot) in said
        return said


def test_tensors_and_metadata_agree_with_the_gguf_package(default: Path) -> None:
    theirs, mine = GGUFReader(default), gguf_header.read(default)
    assert [(t.name, t.type, t.weights, t.bytes) for t in mine.tensors] == [
        (t.name, t.tensor_type.name, int(t.n_elements), int(t.n_bytes)) for t in theirs.tensors]
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert mine.metadata.keys() == fields.keys()
    for name, field in fields.items():
        if field.types[0] == GGUFValueType.ARRAY:
            held = mine.metadata[name]
            assert (len(held) if isinstance(held, list) else held) == len(field.data)
        else:
            assert mine.metadata[name] == field.contents(), name


def test_bits_per_weight_and_the_mix_account_for_every_byte_and_weight(default: Path) -> None:
    header = gguf_header.read(default)
    assert sum(header.mix().values()) == pytest.approx(1)
    assert header.bits_per_weight * header.weights / 8 == pytest.approx(sum(t.bytes for t in header.tensors))
    assert header.file_bytes >= sum(t.bytes for t in header.tensors)


def test_reading_a_token_needs_more_bytes_the_deeper_it_stands(default: Path) -> None:
    header = gguf_header.read(default)
    depth = [header.bytes_per_token(n) for n in (0, 100, 200)]
    assert depth[2] - depth[1] == pytest.approx(depth[1] - depth[0]) and depth[1] > depth[0] > 0


def test_the_small_file_reads_back_as_written(spot: Path, small: bytes) -> None:
    header = read(spot, small)
    assert isinstance(header, gguf_header.Header)
    assert (header.architecture, header.context_tokens, header.get("flag")) == ("toy", 128, True)
    assert (header.get("names"), header.get("many")) == (["a", "bc"], 600)
    assert [(t.name, t.type, t.weights, t.bytes) for t in header.tensors] == [
        ("a.weight", "F32", 128, 512), ("b.weight", "F16", 64, 128)]


def test_a_file_cut_short_anywhere_is_refused(spot: Path, small: bytes) -> None:
    for length in (*range(300), *range(300, len(small), 7), len(small) - 1):
        said = read(spot, small[:length])
        assert isinstance(said, str), f"{length} of {len(small)} bytes were taken for a whole model"


@pytest.mark.parametrize("share", [0.0, 1e-6, 0.001, 0.01, 0.5, 0.999])
def test_the_default_model_cut_short_is_refused(spot: Path, default: Path, share: float) -> None:
    size = default.stat().st_size
    with open(default, "rb") as file:
        said = read(spot, file.read(int(share * size)))
    assert isinstance(said, str)


@given(data=st.binary(max_size=200))
@settings(max_examples=200)
@example(b"")
@example(b"GGUF")
@example(b"GGUF" + b"\x03\0\0\0" + b"\xff" * 200)
def test_garbage_is_refused_in_one_sentence(spot: Path, data: bytes) -> None:
    assert isinstance(read(spot, data), str)


@given(data=st.binary(max_size=300))
@settings(max_examples=300)
def test_garbage_behind_a_true_beginning_is_refused_in_one_sentence(spot: Path, data: bytes) -> None:
    assert isinstance(read(spot, b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + data), str)


@given(changes=st.lists(st.tuples(st.integers(4, 420), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=500)
def test_flipped_bytes_give_a_header_or_one_sentence(spot: Path, small: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(small)
    for at, value in changes:
        data[at % len(data)] = value
    header = read(spot, bytes(data))
    if isinstance(header, gguf_header.Header):
        assert header.weights > 0 and header.bits_per_weight > 0 and header.mix()
        assert isinstance(header.context_tokens, int) and isinstance(header.quantised, bool)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


TENSOR = text("a") + struct.pack("<IQIQ", 1, 32, 0, 0)
ALIGNMENT = text("general.alignment")


@pytest.mark.parametrize(("name", "pairs", "tensors"), [
    ("no alignment", [ALIGNMENT + struct.pack("<II", 4, 0)], [TENSOR]),
    ("alignment that is a list", [ALIGNMENT + struct.pack("<IIQI", 9, 4, 1, 32)], [TENSOR]),
    ("alignment that is not a number", [ALIGNMENT + struct.pack("<If", 6, float("nan"))], [TENSOR]),
    ("lists in lists without end", [text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000], [TENSOR]),
    ("a tensor of no weights", [], [text("a") + struct.pack("<IQIQ", 1, 0, 0, 0)]),
    ("a tensor of a thousand dimensions", [], [text("a") + struct.pack("<I", 1000) + b"\xff" * 8000 + struct.pack("<IQ", 0, 0)]),
    ("a type nobody knows", [], [text("a") + struct.pack("<IQIQ", 1, 32, 9999, 0)]),
    ("a tensor beyond the end", [], [text("a") + struct.pack("<IQIQ", 1, 32, 0, 2**60)]),
    ("no tensors", [], []),
    ("a context length that is a text", [
        text("general.architecture") + struct.pack("<I", 8) + text("toy"),
        text("toy.context_length") + struct.pack("<I", 8) + text("long")], [TENSOR]),
])
def test_a_header_that_makes_no_sense_is_refused_in_one_sentence(spot: Path, name: str, pairs: list[bytes], tensors: list[bytes]) -> None:
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    assert isinstance(read(spot, start + b"".join(pairs + tensors) + bytes(1000)), str)


@pytest.mark.parametrize("version", [0, 1, 4, 3 << 24])
def test_another_version_of_the_format_is_named(spot: Path, small: bytes, version: int) -> None:
    assert f"version {version}" in str(read(spot, small[:4] + struct.pack("<I", version) + small[8:]))


def test_another_kind_of_file_is_named(spot: Path, small: bytes) -> None:
    assert "magic" in str(read(spot, b"PK\x03\x04" + small[4:]))

"""The header reader believes no file: it returns what is there or says what is wrong."""

from __future__ import annotations

import struct
import tracemalloc

import gguf
import pytest
import tiny_model
from hypothesis import given
from hypothesis import strategies as st

from appliance import gguf_header
from appliance.errors import ModelFileError, ModelFileMissing
from appliance.gguf_header import FILE_TYPES, TENSOR_TYPES, read_header


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    return tiny_model.write_random(tmp_path_factory.mktemp("gguf") / "tiny.gguf", kind="q8_0").read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch") / "x.gguf"


def write(path, data: bytes) -> None:
    path.unlink(missing_ok=True)  # a file that is cut to nothing and filled again is put on the disk at once by ext4
    path.write_bytes(data)


def header_of(data: bytes, path):
    write(path, data)
    return read_header(path)


def start(tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def text(words: str) -> bytes:
    return struct.pack("<Q", len(words.encode())) + words.encode()


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def test_a_real_file_says_what_it_is(whole, scratch):
    header = header_of(whole, scratch)
    assert (header.architecture, header.text("general.name"), header.context_tokens) == ("llama", "tiny gpt2 q8_0", tiny_model.CONTEXT)
    assert header.quantization == "Q8_0" and header.version == 3
    assert "tokenizer.ggml.tokens" not in header.metadata, "long arrays are stepped over"
    reader = gguf.GGUFReader(scratch)
    assert header.data_start == reader.data_offset
    for ours, theirs in zip(header.tensors, reader.tensors, strict=True):
        assert (ours.name, ours.size_bytes, ours.type) == (theirs.name, theirs.n_bytes, theirs.tensor_type)
        assert ours.offset + header.data_start == theirs.data_offset


def test_the_type_tables_agree_with_the_gguf_package():
    for number, (name, block, size) in TENSOR_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (block, size))
    for number, name in FILE_TYPES.items():
        assert gguf.LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_") == name


def test_a_file_that_says_its_type_is_believed(scratch):
    data = start(keys=1) + key("general.file_type", 4, struct.pack("<I", 15))
    assert header_of(data, scratch).quantization == "Q4_K_M"
    assert header_of(start(), scratch).quantization == "unknown"


def test_every_cut_of_a_real_file_is_refused(whole, scratch):
    for size in [*range(0, 200), *range(200, len(whole), 7919), len(whole) - 1]:
        with pytest.raises(ModelFileError, match="x.gguf"):
            header_of(whole[:size], scratch)


def test_a_cut_within_the_weights_is_told_with_the_tensor(whole, scratch):
    with pytest.raises(ModelFileError, match=r"ends at byte \d+: it was cut off"):
        header_of(whole[:-100], scratch)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"<!DOCTYPE html><html><body>", "not a GGUF file"),
        (start(version=1), "version 1 is not supported"),
        (start(version=3 << 24), "big-endian"),
        (start(tensors=1 << 40), "the limits are"),
        (start(keys=1 << 63), "the limits are"),
        (start(keys=1) + struct.pack("<Q", 1 << 62), "a name of"),
        (start(keys=1) + key("k", 8, struct.pack("<Q", 1 << 62)), "within its header"),
        (start(keys=1) + key("k", 99, b""), "unknown type, 99"),
        (start(keys=1) + key("k", 9, struct.pack("<IQ", 4, 1 << 62)), "within its header"),
        (start(keys=1) + key("k", 9, struct.pack("<IQ", 8, 1 << 62)), "strings in arrays"),
        (start(keys=1) + key("k", 9, struct.pack("<IQ", 9, 1)), "array of an unknown type"),
        (start(keys=2) + key("k", 4, b"1234") * 2, "'k' twice"),
        (start(keys=1) + key("general.alignment", 4, struct.pack("<I", 48)), "power of two"),
        (start(keys=1) + key("general.alignment", 4, struct.pack("<I", 0)), "power of two"),
        (start(tensors=1) + tensor("t", (1 << 62, 1 << 62), 0, 0), "it was cut off"),
        (start(tensors=1) + tensor("t", (8,), 0, 1 << 62), "it was cut off"),
        (start(tensors=1) + tensor("t", (8,), 0, 7), "multiple of 32"),
        (start(tensors=1) + tensor("t", (33,), 2, 0), "blocks of 32"),
        (start(tensors=1) + tensor("t", (1,) * 9, 0, 0), "9 dimensions"),
        (start(tensors=2) + tensor("t", (0,), 0, 0) * 2, "'t' twice"),
    ],
)
def test_a_lie_in_the_header_is_refused(data, told, scratch):
    with pytest.raises(ModelFileError, match="fetch it again") as caught:
        header_of(data + bytes(64), scratch)
    assert told in str(caught.value)


def test_a_type_from_the_future_is_left_to_the_engine(scratch):
    assert header_of(start(tensors=1) + tensor("t", (8,), 4000, 0) + bytes(99), scratch).quantization == "unknown"


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(ModelFileMissing):
        read_header(tmp_path / "gone.gguf")
    with pytest.raises(ModelFileError, match="is a folder"):
        read_header(tmp_path)


@given(st.binary(max_size=400), st.booleans(), st.integers(0, 6), st.integers(0, 6))
def test_random_bytes_are_a_header_or_a_model_file_error(scratch, data, begun, tensors, keys):
    try:
        header_of((start(tensors, keys) if begun else b"") + data, scratch)
    except ModelFileError as error:
        assert len(str(error)) < 1000


@given(st.data())
def test_random_damage_to_a_real_file_is_read_or_refused_within_bounds(whole, scratch, data):
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 9000))
        part = data.draw(st.binary(min_size=1, max_size=9))
        damaged[at : at + len(part)] = part
    write(scratch, damaged)
    tracemalloc.start()
    try:
        read_header(scratch)
    except ModelFileError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < gguf_header.MOST_KEPT_BYTES


def test_a_large_text_is_not_kept_and_many_texts_have_a_limit(scratch, monkeypatch):
    long = "x" * (gguf_header.LONGEST_KEPT_STRING + 1)
    header = header_of(start(keys=1) + key("k", 8, text(long)), scratch)
    assert dict(header.metadata) == {}
    monkeypatch.setattr(gguf_header, "MOST_KEPT_BYTES", 10_000)
    with pytest.raises(ModelFileError, match="larger than 10000 bytes"):
        header_of(start(keys=9) + b"".join(key(f"k{n}", 8, text("y" * 2000)) for n in range(9)), scratch)

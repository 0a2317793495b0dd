"""What a model's paper may say, and that every mistake in it is told."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import ModelFileError, ModelFileMissing
from appliance.manifest import (
    FORMATS,
    TASKS,
    Manifest,
    ModelFile,
    Provenance,
    dumps,
    name_problem,
    parse,
    path_problem,
    read,
    save,
)

GOOD = Manifest(
    name="qwen-0.5b",
    aliases=("small",),
    description="Qwen2.5 0.5B Instruct",
    family="qwen2",
    format="gguf",
    task="generate",
    quantization="Q4_0",
    context_tokens=32768,
    licence="Apache-2.0",
    created_by="appliance models add hf:qwen/qwen",
    provenance=Provenance("hf:qwen/qwen:q4_0.gguf", "c0ffee", "https://example.org/q4_0.gguf", "2026-01-31"),
    files=(ModelFile("q4_0.gguf", "ab" * 32, 352_000_000), ModelFile("cards/README.md", "cd" * 32, 12)),
)


def mistakes(text: str) -> str:
    with pytest.raises(ModelFileError) as caught:
        parse(text.encode(), "m.toml")
    assert caught.value.exit_code == 65
    return str(caught.value)


def test_what_is_written_is_read_again_and_always_the_same():
    text = dumps(GOOD)
    assert parse(text.encode()) == GOOD
    assert dumps(parse(text.encode())) == text
    assert list(tomllib.loads(text)) == [
        "version", "name", "aliases", "description", "family", "format", "task", "quantization", "context_tokens", "licence",
        "created_by", "provenance", "files",
    ]  # fmt: skip


def test_the_main_file_is_the_first_of_the_models_format():
    assert replace(GOOD, files=GOOD.files[::-1]).main.path == "q4_0.gguf"
    assert GOOD.size_bytes == 352_000_012


def test_all_mistakes_are_told_at_once():
    text = dumps(GOOD).replace("family", "familly").replace("Q4_0", "").replace("ab" * 32, "AB" * 32).replace('task = "generate"', 'task = "genrate"')
    told = mistakes(text.replace("context_tokens = 32768", "context_tokens = true"))
    assert all(line.startswith("m.toml: ") for line in told.splitlines())
    for words in ("'familly'. Did you mean family?", "family is missing", "quantization has to be", "Did you mean generate?",
                  "files 1: sha256 has to be 64", "context_tokens has to be a whole number"):  # fmt: skip
        assert words in told


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("version = 1", "version = 2", "newer than this program"),
        ("version = 1", "", "version = 1 is missing"),
        ('name = "qwen-0.5b"', 'name = "../up"', "letters, digits"),
        ('name = "qwen-0.5b"', "name = 7", "name has to be a text"),
        ('"small"', '"small", "small"', "is there twice"),
        ('"small"', '"qwen-0.5b"', "is there twice"),
        ('"small"', '"de fault"', "letters, digits"),
        ('format = "gguf"', 'format = "onnx"', "none of the files ends in .onnx"),
        ("2026-01-31", "31.1.2026", "not a date"),
        ('licence = "Apache-2.0"', 'licence = "a\\u001b[31mb"', "of one line"),
        ("size_bytes = 12\n", "size_bytes = -1\n", "0 or more"),
        ("size_bytes = 12\n", "size_bytes = 12\nmode = 644\n", "files 2: 'mode'"),
        ("cards/README.md", "q4_0.gguf", "is there twice"),
        ("revision", "revison", "provenance.'revison'. Did you mean revision?"),
    ],
)
def test_a_mistake_is_named(old, new, told):
    text = dumps(GOOD)
    assert old in text
    assert told in mistakes(text.replace(old, new, 1))


@pytest.mark.parametrize("path", ["../x.gguf", "/etc/passwd", "a/../../x", "a//b", "./x", "", "a\\b", "a\x00b", "manifest.toml", "x/"])
def test_a_path_that_leaves_the_folder_is_refused(path):
    assert path_problem(path)
    with pytest.raises(ModelFileError):
        parse(dumps(replace(GOOD, files=(*GOOD.files, ModelFile(path, "ab" * 32, 1)))).encode())


@pytest.mark.parametrize("name", ["a", "Qwen2.5-0.5B_q4", "9", "a" * 64])
def test_names_that_may_be_used(name):
    assert not name_problem(name)


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a b", "a/b", "é", "default", "Default", "x.gguf", "a" * 65, "a\n"])
def test_names_that_may_not(name):
    assert name_problem(name)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"= 3", b"", b"a = " + b"[" * 5000, b"x" * (1 << 20) + b"xx"])
def test_what_is_no_manifest_is_refused_in_words(data):
    with pytest.raises(ModelFileError, match="m.toml"):
        parse(data, "m.toml")


def test_a_file_that_is_not_there_and_one_that_is_written(tmp_path):
    with pytest.raises(ModelFileMissing):
        read(tmp_path / "manifest.toml")
    save(GOOD, tmp_path)
    assert read(tmp_path / "manifest.toml") == GOOD
    with pytest.raises(ValueError, match="quantization"):
        save(replace(GOOD, quantization=""), tmp_path)
    assert read(tmp_path / "manifest.toml") == GOOD and len(list(tmp_path.iterdir())) == 1


LINE = st.text(st.characters(exclude_categories=("C", "Zl", "Zp", "Zs")), min_size=1, max_size=30)


@given(LINE, LINE, st.sampled_from(FORMATS), st.sampled_from(TASKS), st.integers(0, 1 << 62), st.integers(0, 1 << 62))
def test_any_values_survive_the_file(family, licence, format_, task, context, size):
    files = (ModelFile(f"m.{format_}", "01" * 32, size),)
    paper = Manifest(name="m", family=family, format=format_, task=task, quantization="Q", context_tokens=context, licence=licence, files=files)
    assert parse(dumps(paper).encode()) == paper


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)


@given(st.sampled_from(["version", "name", "aliases", "family", "format", "task", "context_tokens", "files", "provenance", "zzz"]), VALUES)
def test_any_value_anywhere_is_taken_or_refused_in_words(key, value):
    import tomli_w

    data = tomllib.loads(dumps(GOOD)) | {key: value}
    try:
        text = tomli_w.dumps(data)
    except TypeError:
        return  # TOML has no null
    try:
        parse(text.encode())
    except ModelFileError as error:
        assert str(error)

"""Which models there are, which one is the default, and what `--model` means."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from appliance import catalog
from appliance.catalog import (
    ModelEntry,
    check_folder,
    check_servable,
    embedder,
    entries,
    hash_cache,
    read_catalog,
    set_default,
    task_of,
    verify_before_load,
)
from appliance.config import Config, load_config
from appliance.errors import ConfigError, ModelFileError, ModelNotFound
from appliance.manifest import Manifest, ModelFile, save

BYTES = b"GGUF and so on"


def put(folder: Path, name: str, **more) -> Path:
    """A model's folder in `folder`."""
    home = folder / name
    home.mkdir(parents=True)
    (home / "m.gguf").write_bytes(BYTES)
    files = (ModelFile("m.gguf", hashlib.sha256(BYTES).hexdigest(), len(BYTES)),)
    paper = Manifest(name=name, family="llama", format="gguf", task="generate", quantization="Q4_0", context_tokens=8, licence="MIT", files=files)
    save(replace(paper, **more), home)
    return home


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(catalog, "shipped_folder", lambda: tmp_path / "shipped")
    return tmp_path / "shipped"


@pytest.fixture
def added(tmp_path) -> Path:
    return tmp_path / "data" / "models"


@pytest.fixture
def config(tmp_path, shipped):
    return lambda **flags: load_config({"data_dir": tmp_path / "data", **flags}, {})


def names(config: Config) -> list[str]:
    return [model.name for model in read_catalog(config).models]


def test_both_folders_are_read_and_neither_has_to_exist(config, shipped, added):
    assert names(config()) == [] and read_catalog(config()).default == ""
    put(added, "b")
    put(shipped, "c")
    put(added, "a")
    assert names(config()) == ["a", "b", "c"]
    assert [model.shipped for model in read_catalog(config()).models] == [False, False, True]


def test_the_projects_own_folder_is_found():
    assert catalog.shipped_folder() == Path(__file__).parents[2] / "models"


def test_of_two_with_one_name_the_added_one_counts_and_the_other_is_told(config, shipped, added):
    ours, theirs = put(added, "a"), put(shipped, "a")
    found = read_catalog(config())
    assert [m.folder for m in found.models] == [ours] and [m.folder for m in found.hidden] == [theirs]


def test_a_broken_manifest_disables_its_own_model_only(config, shipped, added):
    put(added, "good")
    put(added, "broken").joinpath("manifest.toml").write_text("nmae = 3")
    put(added, "moved").rename(added / "renamed")
    (added / "bare").mkdir()
    found = {model.name: model for model in read_catalog(config()).models}
    assert found["good"].manifest
    for name, told in (("broken", "Did you mean name?"), ("renamed", "the folder is called 'renamed'"), ("bare", "no manifest")):
        assert found[name].manifest is None and told in found[name].reason
        with pytest.raises(ModelFileError, match="cannot be used"):
            found[name].readable()


def test_a_broken_added_model_does_not_hide_a_good_one(config, shipped, added):
    put(added, "a").joinpath("manifest.toml").write_bytes(b"\xff")
    good = put(shipped, "a")
    found = read_catalog(config())
    assert found.find("a").folder == good and found.hidden[0].reason


def test_unfinished_folders_and_a_shipped_one_without_manifest_are_no_models(config, shipped, added):
    for path in (added / ".incoming-x", added / ".trash-1-y", shipped / "recipe"):
        path.mkdir(parents=True)
    (added / "notes.txt").write_text("")
    assert names(config()) == []


def test_a_model_is_found_by_name_first_and_by_alias(config, added):
    put(added, "a", aliases=("b", "short"))
    put(added, "b")
    found = read_catalog(config())
    assert (found.find("b").name, found.find("short").name) == ("b", "a")
    with pytest.raises(ModelNotFound, match=r"'shrot'.*Did you mean short\?.*appliance models list") as caught:
        found.find("shrot")
    assert caught.value.exit_code == 64


def test_the_default_is_the_starter_until_another_is_chosen(config, shipped, added):
    put(shipped, "starter")
    put(added, "mine")
    assert read_catalog(config()).default == "starter"
    set_default(config(), "mine")
    assert read_catalog(config()).default == "mine"
    assert [entry.name for entry in entries(config())] == ["mine"]
    set_default(config(), "")
    assert [entry.name for entry in entries(config())] == ["starter"]


def test_a_default_that_is_gone_is_told_when_it_is_needed_and_only_then(config, shipped, added):
    put(shipped, "starter")
    set_default(config(), "gone")
    with pytest.raises(ModelNotFound, match="gone"):
        entries(config())
    assert entries(config(model=["starter"]))


def test_models_are_named_after_their_files_or_aliases_in_order(config):
    assert entries(config(model=["/m/a-Q4_0.gguf", "b.gguf", "sub/c.bin"], alias=["first"])) == (
        ModelEntry("first", Path("/m/a-Q4_0.gguf"), engine="llama"),
        ModelEntry("b", Path("b.gguf"), engine="llama"),
        ModelEntry("c.bin", Path("sub/c.bin"), engine="llama"),
    )
    assert entries(config()) == ()


def test_a_home_folder_is_expanded(config, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert entries(config(model=["~/x.gguf"]))[0].path == Path("/home/somebody/x.gguf")


def test_a_name_of_the_catalog_is_served_under_the_name_it_was_asked_for_by(config, added):
    home = put(added, "tiny", aliases=("t",))
    found = entries(config(model=["tiny", "t", "other"]))
    assert [(entry.name, entry.path) for entry in found] == [("tiny", home / "m.gguf"), ("t", home / "m.gguf"), ("other", Path("other"))]


@pytest.mark.parametrize("model", ["./tiny", "/x/tiny", "~/tiny", "tiny.gguf"])
def test_what_looks_like_a_path_is_one(config, added, model):
    put(added, "tiny")
    assert entries(config(model=[model]))[0].model is None


@pytest.mark.parametrize("flags", [{"model": ["/a/x.gguf", "/b/x.gguf"]}, {"model": ["x.gguf", "y.gguf"], "alias": ["y"]}])
def test_two_models_of_one_name_are_refused(config, flags):
    with pytest.raises(ConfigError, match="--alias"):
        entries(config(**flags))


def test_a_catalog_model_is_checked_before_it_is_loaded_and_a_path_is_not(config, added):
    home = put(added, "tiny")
    here = config(model=["tiny", str(home / "m.gguf")], alias=["a", "b"])
    by_name, by_path = entries(here)
    verify_before_load(by_name, hash_cache(here))
    (home / "m.gguf").write_bytes(BYTES[:-1] + b"X")
    with pytest.raises(ModelFileError, match="SHA-256"):
        verify_before_load(by_name, hash_cache(here))
    verify_before_load(by_path, hash_cache(here))


def test_a_broken_model_that_is_to_be_served_fails_when_it_is_loaded_not_before(config, added):
    put(added, "tiny").joinpath("manifest.toml").write_text("")
    here = config(model=["tiny", "other.gguf"])
    entry = entries(here)[0]
    with pytest.raises(ModelFileError, match="version = 1 is missing"):
        verify_before_load(entry, hash_cache(here))


# -- ONNX models and what models are for ---------------------------------------------------------------------------


def put_onnx(folder: Path, name: str, main: str = "model.onnx", **more) -> Path:
    """An ONNX model's folder in `folder`."""
    home = folder / name
    (home / main).parent.mkdir(parents=True)
    (home / main).write_bytes(BYTES)
    (home / "tokenizer.json").write_text("{}")
    files = (ModelFile(main, hashlib.sha256(BYTES).hexdigest(), len(BYTES)),)
    paper = Manifest(name=name, family="bert", format="onnx", task="embed", quantization="int8", context_tokens=8, licence="MIT", files=files)
    save(replace(paper, **more), home)
    return home


def test_an_onnx_model_is_served_from_its_folder(config, added, tmp_path):
    home = put_onnx(added, "vec")
    (entry,) = entries(config(model=["vec"]))
    assert (entry.name, entry.path, task_of(entry)) == ("vec", home, "embed")
    by_path = entries(config(model=[str(home), f"{tmp_path}/other/model.onnx"]))
    assert [(e.name, e.path) for e in by_path] == [("vec", home), ("other", tmp_path / "other")]
    assert entries(config(model=["./"]))[0].name == Path.cwd().name


@pytest.mark.parametrize("task", ["generate", "embed", "rerank", "classify"])
def test_models_of_every_task_and_format_can_be_served(config, shipped, added, task):
    put(added, "gguf", task=task)
    put_onnx(added, "onnx", task=task)
    for model in read_catalog(config()).models:
        check_servable(model)


def test_what_an_onnx_folder_lacks_is_told(config, shipped, added, tmp_path):
    put_onnx(added, "nested", main="onnx/model.onnx")
    with pytest.raises(ModelFileError, match="onnx/model.onnx.*own folder"):
        check_servable(read_catalog(config()).find("nested"))
    (put_onnx(added, "mute") / "tokenizer.json").unlink()
    with pytest.raises(ModelFileError, match="no tokenizer.json"):
        check_servable(read_catalog(config()).find("mute"))
    with pytest.raises(ModelFileError, match="no model.onnx.*appliance models convert"):
        check_folder(tmp_path)


def test_the_embedder_is_served_beside_unless_it_is_there_already(config, shipped, added):
    assert embedder(config(), ()) is None, "the default is not missed where it is not shipped"
    home = put_onnx(shipped, "minilm-l6-int8")
    put_onnx(added, "mine")
    found = embedder(config(), ())
    assert (found.name, found.path) == ("minilm-l6-int8", home)
    assert embedder(config(embedder="mine"), ()).name == "mine"
    for here in (config(model=["minilm-l6-int8"]), config(model=["minilm-l6-int8"], alias=["vectors"])):
        assert embedder(here, entries(here)) is None
    for off in ({"embedder": ""}, {"embedder": "none"}, {"engine": "fake"}):
        assert embedder(config(**off), ()) is None


def test_an_embedder_that_was_wished_for_and_is_none_is_a_mistake(config, shipped, added):
    put(added, "chat")
    put_onnx(added, "broken").joinpath("manifest.toml").write_text("")
    for name, told in (("gone", "no such model"), ("chat", "for the task generate"), ("broken", "version = 1 is missing")):
        with pytest.raises(ConfigError, match=told) as caught:
            embedder(config(embedder=name), ())
        assert caught.value.param == "embedder"


def gguf(architecture: str, pooling: int | None = None) -> bytes:
    """The beginning of a GGUF file, as far as anybody looks."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 2)
    head += text("general.architecture") + struct.pack("<I", 8) + text(architecture)
    head += text(f"{architecture}.context_length") + struct.pack("<II", 4, 512)
    if pooling is not None:
        head += text(f"{architecture}.pooling_type") + struct.pack("<II", 4, pooling)
    return head + text("tokenizer.ggml.tokens") + b"\xff" * 100


@pytest.mark.parametrize(
    ("architecture", "pooling", "task"),
    [("llama", None, "generate"), ("bert", 1, "embed"), ("nomic-bert", None, "embed"), ("qwen3", 3, "embed"),
     ("qwen2", 0, "generate"), ("bert", 4, "rerank")],
)  # fmt: skip
def test_what_a_gguf_file_is_for_stands_near_its_beginning(tmp_path, architecture, pooling, task):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(architecture, pooling))
    assert task_of(ModelEntry("m", path)) == task


@pytest.mark.parametrize(
    ("says", "task"),
    [({}, "embed"), ({"architectures": ["BertModel"]}, "embed"), ({"architectures": ["LlamaForCausalLM"]}, "generate"),
     ({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}, "classify"),
     ({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}, "rerank"),
     ({"architectures": ["BertForTokenClassification"]}, "classify")],
)  # fmt: skip
def test_what_an_onnx_folder_is_for_stands_in_its_configuration(tmp_path, says, task):
    (tmp_path / "model.onnx").write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps(says))
    assert task_of(ModelEntry("m", tmp_path)) == task


def test_a_decoder_of_onnxruntime_genai_has_no_other_configuration(tmp_path):
    for name in ("model.onnx", "genai_config.json"):
        (tmp_path / name).write_text("{}")
    assert task_of(ModelEntry("m", tmp_path)) == "generate"


def test_files_that_say_nothing_count_as_generating(tmp_path):
    (tmp_path / "junk").write_bytes(b"\xff" * 1000)
    for path in (tmp_path, tmp_path / "junk", tmp_path / "none"):
        assert task_of(ModelEntry("m", path)) == "generate"

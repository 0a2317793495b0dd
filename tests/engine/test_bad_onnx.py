"""ONNX models that cannot be served are refused while they are loaded, with what is wrong and what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_encoder as tiny
from onnx import TensorProto, helper
from tokenizers import Tokenizer

from appliance.engine.channel import ChannelClosed
from appliance.engine.child import Child
from appliance.engine.messages import Booting, Refused
from appliance.engine.onnx_encoder import OnnxEncoder
from appliance.engine.onnx_session import open_session
from appliance.engine.worker import WorkerSettings
from appliance.errors import ModelFileError, ModelFileMissing

WIDTH = 16


def write_model(
    folder: Path, *, op: str = "Add", domain: str = "", opset: int = 17, ir_version: int = 8, shape: Any = ("batch", "length"),
    inputs: tuple[str, ...] = ("input_ids", "attention_mask"), output: str = "last_hidden_state", width: int = WIDTH, external: bool = False,
) -> Path:  # fmt: skip
    """The smallest encoder: a table of vectors and one more operator."""
    folder.mkdir(exist_ok=True)
    table = np.random.default_rng(1).standard_normal((len(tiny.VOCABULARY), width)).astype(np.float32)
    tensors = [onnx.numpy_helper.from_array(table, "table"), onnx.numpy_helper.from_array(np.ones(width, np.float32), "ones")]
    nodes = [helper.make_node("Gather", ["table", inputs[0]], ["found"]), helper.make_node(op, ["found", "ones"], [output], domain=domain)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], tensors,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset)] + [helper.make_opsetid(domain, 1)] * bool(domain)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    onnx.save(model, folder / "model.onnx", save_as_external_data=external, location="model.onnx.data", size_threshold=0)
    tiny.write_tokenizer(folder)
    tiny.write_json(folder / "config.json", {"architectures": ["BertModel"], "model_type": "bert", "vocab_size": len(tiny.VOCABULARY)})
    return folder


def refusal(folder: Path) -> ModelFileError:
    """The error that opening brings; it names the model and says what to do."""
    with pytest.raises(ModelFileError) as raised:
        OnnxEncoder(folder, name="m", threads=1)
    error = raised.value
    assert error.remedy and len(str(error)) < 700 and str(error).isprintable() and folder.name in str(error), str(error)
    assert "onnxruntime_src" not in str(error)
    return error


def test_the_smallest_encoder_is_served(tmp_path):
    encoder = OnnxEncoder(write_model(tmp_path / "m", external=True), name="m", threads=1)
    [vector] = encoder.compute([encoder.read("the disk", None, truncate=False, skip=0, param="")])
    assert vector.shape == (WIDTH,) and encoder.max_rows > 1
    assert (tmp_path / "m" / "model.onnx.data").stat().st_size > 1000


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"op": "Frobnicate"}, "an operator that this onnxruntime does not have (This is an invalid model. In Node"),
        ({"op": "Frob", "domain": "com.microsoft"}, "com.microsoft:Frob(-1)"),
        ({"op": "Odd", "domain": "com.odd"}, "com.odd:Odd(-1)"),
        ({"opset": 99}, "made for a newer set of operators"),
        ({"ir_version": 99}, "made for a newer ONNX"),
        ({"shape": (1, 16)}, "takes one size only: input_ids is [1, 16]"),
        ({"shape": (1, "length")}, "takes one size only"),
        ({"shape": ("batch", 128)}, "takes one size only"),
        ({"inputs": ("input_ids", "pixel_values")}, "wants an input pixel_values (tensor(int64)), which is not known"),
        ({"inputs": ("attention_mask",)}, "has no input input_ids"),
        ({"output": "heatmap"}, "has no output sentence_embedding or last_hidden_state"),
        ({"output": "sentence_embedding"}, "its output sentence_embedding is not of the shape"),
    ],
)
def test_a_graph_that_cannot_be_served(tmp_path, how, words):
    assert words in refusal(write_model(tmp_path / "m", **how)).message


def damage(name: str, change: Callable[[Path], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        change(folder / name)

    return apply


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def escape(folder: Path) -> None:
    """A link to a file beside the folder."""
    data = folder / "model.onnx.data"
    data.rename(folder.parent / "elsewhere.data")
    data.symlink_to("../elsewhere.data")


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (damage("model.onnx", Path.unlink), ModelFileMissing, "There is no model file at"),
        (damage("model.onnx", cut), ModelFileError, "damaged, cut off or no ONNX model"),
        (damage("model.onnx", lambda p: p.write_bytes(b"")), ModelFileError, "empty or no ONNX model"),
        (damage("model.onnx", lambda p: p.write_bytes(b"<html>404 Not Found</html>" * 40)), ModelFileError, "no ONNX model"),
        (damage("model.onnx.data", Path.unlink), ModelFileError, "in a file of their own that is not beside it"),
        (damage("model.onnx.data", cut), ModelFileError, "cut off or damaged"),
        (escape, ModelFileError, "a link to a place outside its folder"),
        (damage("tokenizer.json", Path.unlink), ModelFileMissing, "tokenizer.json is missing"),
        (damage("tokenizer.json", cut), ModelFileError, "damaged"),
        (damage("config.json", Path.unlink), ModelFileMissing, "config.json is missing"),
        (damage("config.json", cut), ModelFileError, "cannot be read as JSON"),
        (damage("config.json", lambda p: p.write_text("[1]")), ModelFileError, "holds no object"),
        (damage("config.json", lambda p: p.write_text("{}")), ModelFileError, "architectures is not there"),
        (damage("config.json", lambda p: p.write_text('{"architectures": ["OddThing"]}')), ModelFileError, "OddThing"),
        (damage("config.json", pipe), ModelFileError, "config.json cannot be read: it is a pipe"),
        (damage("tokenizer_config.json", pipe), ModelFileError, "it is a pipe"),
        (damage("modules.json", pipe), ModelFileError, "it is a pipe"),
        (damage("modules.json", lambda p: p.write_text('{"a": 1}')), ModelFileError, "no list of modules"),
        (damage("modules.json", lambda p: p.write_text('[{"type": "sentence_transformers.models.Dense"}]')), ModelFileError, "not supported: Dense"),
    ],
)
def test_a_folder_that_is_damaged(tmp_path, spoil, kind, words):
    folder = write_model(tmp_path / "m", external=True)
    spoil(folder)
    error = refusal(folder)
    assert type(error) is kind and words in error.message


@pytest.mark.parametrize("told", [None, len(tiny.VOCABULARY), 10_000])
def test_a_tokenizer_with_more_tokens_than_the_model(tmp_path, told):
    folder = write_model(tmp_path / "m")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["extra"])
    tokenizer.save(str(folder / "tokenizer.json"))
    tiny.write_json(folder / "config.json", {"architectures": ["BertModel"], "vocab_size": told})
    error = refusal(folder)
    assert f"its tokenizer.json has tokens up to number {len(tiny.VOCABULARY)}, which the model does not have" in error.message


@pytest.mark.parametrize("pooling", [{}, {"pooling_mode_weightedmean_tokens": True}, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}])
def test_a_pooling_that_is_not_known(tmp_path, pooling):
    folder = write_model(tmp_path / "m")
    tiny.write_json(folder / "1_Pooling" / "config.json", pooling | {"word_embedding_dimension": WIDTH})
    assert "pooling" in refusal(folder).message


def test_labels_that_do_not_fit_the_graph(tmp_path):
    folder = write_model(tmp_path / "m", output="logits")
    config = {"architectures": ["BertForTokenClassification"], "id2label": {"0": "O", "1": "B-PER"}}
    tiny.write_json(folder / "config.json", config)
    assert "names 2 labels, but the model has 16" in refusal(folder).message
    tiny.write_json(folder / "config.json", config | {"id2label": {"zero": "O"}})
    assert "no numbers" in refusal(folder).message


def test_nothing_is_written_to_stderr(tmp_path, capfd):
    folder = write_model(tmp_path / "m", op="Frobnicate")
    refusal(folder)
    cut(folder / "model.onnx")
    refusal(folder)
    with pytest.raises(ModelFileMissing, match="no model file at"):
        open_session(tmp_path / "nowhere", 1, spin=False)
    assert capfd.readouterr().err == ""


def test_a_child_refuses_it_in_words(tmp_path):
    folder = write_model(tmp_path / "m", external=True)
    cut(folder / "model.onnx.data")
    settings = WorkerSettings(engine="llama", name="m", path=str(folder), context_tokens=0, sequences=1, kv_tokens=0, threads=1, cpus=(),
                              batch_tokens=64, stall_s=0.2, store_bytes=0)  # fmt: skip
    child = Child(settings, {})
    last: Any = None
    try:
        while last is None or isinstance(last, Booting):
            last = child.channel.receive(60.0)
    except ChannelClosed:
        pass
    assert child.bury() == 65 and isinstance(last, Refused), last
    assert last.error["code"] == "bad_model" and "model.onnx.data" in last.error["remedy"]


def test_labels_without_names_are_numbered(tmp_path):
    folder = write_model(tmp_path / "m", output="logits")
    tiny.write_json(folder / "config.json", {"architectures": ["BertForTokenClassification"]})
    assert OnnxEncoder(folder, name="m", threads=1).info.labels == tuple(f"LABEL_{at}" for at in range(WIDTH))

"""GGUF files turned into ONNX decoders: the same weights, the same text, and clear words for what cannot be turned."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import gguf
import llama_cpp as lib
import numpy as np
import pytest
import tiny_model
import torch
import transformers
from real_engine import SHARED, RealDrive, teacher_forced, words
from real_engine import opened as llama
from test_convert_gguf import FAMILIES, TEXT, make
from test_onnx_decoder import opened

from appliance.engine import llama_context
from appliance.errors import ModelFileError
from appliance.factory import convert_decoder, convert_gguf, gguf_weights
from appliance.gguf_header import read_header

transformers.utils.logging.disable_progress_bar()  # it keeps a thread
pytestmark = [pytest.mark.engine, pytest.mark.apart]
SAME = 5e-4
"""In log probabilities: float32 against float32, added in another order."""
PROMPTS = [words(i, 3 + i) for i in range(20)]


def elsewhere(work, *arguments):
    """In a thread of its own: see conftest."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


def by_llama(path: Path, tokens: list[int]) -> np.ndarray:
    with llama(path, sequences=1) as backend:
        return teacher_forced(backend, tokens)


def by_onnx(folder: Path, tokens: list[int]) -> np.ndarray:
    with opened(folder, sequences=1) as backend:
        return teacher_forced(backend, tokens)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gpt2"])
def test_every_family_gives_the_log_probabilities_that_transformers_gives(family, tmp_path, monkeypatch):
    config = copy.deepcopy(FAMILIES[family].config)
    config.update({"hidden_size": 64, "head_dim": 16})  # smaller heads are none for ONNX Runtime
    monkeypatch.setitem(FAMILIES, family, FAMILIES[family]._replace(config=config))
    _, tokenizer = make(tmp_path / "checkpoint", family)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32).eval()
    convert_gguf.convert(tmp_path / "checkpoint", tmp_path / "x.gguf")
    convert_decoder.convert(tmp_path / "x.gguf", tmp_path / "onnx")
    with opened(tmp_path / "onnx") as backend:
        size = backend.info.context_tokens
        tokens = backend.tokenize(TEXT, add_special=True, parse_special=True)[:size]
        assert tokens == tokenizer(TEXT).input_ids[:size]
    expected = elsewhere(lambda: model(torch.tensor([tokens])).logits[0].detach().double().log_softmax(-1).numpy())
    found = by_onnx(tmp_path / "onnx", tokens)
    np.testing.assert_allclose(found[:, : expected.shape[1]], expected, atol=SAME)


@pytest.mark.parametrize("kind", ["q4_0", "q8_0"])
def test_quantized_blocks_keep_every_weight(kind):
    values = np.random.default_rng(1).standard_normal((7, 96)).astype(np.float32)
    raw = gguf.quants.quantize(values, tiny_model.TYPES[kind])
    expected = gguf.quants.dequantize(raw, tiny_model.TYPES[kind])
    np.testing.assert_array_equal(gguf_weights._unpacked(raw, gguf_weights.UNCHANGED[kind.upper()]).floats(), expected)


@pytest.mark.parametrize("name", ["tiny-bpe-q4_0", "tiny-spm-q8_0", "tinystories-q4_0", "tinystories-q8_0"])
def test_with_float_activations_greedy_text_is_llama_cpps(model, name, tmp_path, monkeypatch):
    if "tinystories" in name and not (SHARED / "TinyStories-656K").is_dir():
        name = name.replace("tinystories", "tiny-bpe")
    path = model(name)
    convert_decoder.convert(path, tmp_path / "onnx", accuracy=1)
    # llama.cpp rounds activations to 8 bits, keys and values to 16: the same weights as floats show what it says without.
    monkeypatch.setitem(llama_context.KV_TYPES, "f16", lib.GGML_TYPE_F32)
    floats = as_floats(path, tmp_path / "floats.gguf")

    def texts(backend) -> list[str]:
        drive = RealDrive(backend)
        return [drive.answer(prompt, max_tokens=64) for prompt in PROMPTS]

    def said() -> list[str]:
        with llama(floats) as backend:
            return texts(backend)

    with opened(tmp_path / "onnx") as backend:
        found = texts(backend)
    same = sum(a == b for a, b in zip(found, elsewhere(said), strict=True))
    assert same >= 19, f"{same} of {len(PROMPTS)}"


def as_floats(source: Path, target: Path) -> Path:
    """The same GGUF with its weights as f32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, read_header(source).architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == gguf.Keys.General.ARCHITECTURE:
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    tiny_model._finish(writer)
    return target


def test_with_8_bit_activations_it_is_as_near_to_the_floats_as_llama_cpp_is(model, tmp_path):
    for name in ("tiny-bpe-q4_0", "tiny-spm-q8_0"):
        path = model(name)
        convert_decoder.convert(path, tmp_path / name)
        tokens = list(range(40, 140))
        exact = elsewhere(by_llama, as_floats(path, tmp_path / f"{name}.gguf"), tokens)
        theirs, ours = elsewhere(by_llama, path, tokens), by_onnx(tmp_path / name, tokens)
        far = [(np.exp(exact) * (exact - other)).sum(1).mean() for other in (theirs, ours)]
        assert far[1] <= 1.5 * far[0] + 1e-4, f"{name}: {far}"


def test_rounding_anew_in_blocks_of_128_loses_little_and_refuses_what_was_rounded_before(model, tmp_path):
    wide = tmp_path / "wide.gguf"
    rng = np.random.default_rng(2)
    weights = rng.standard_normal((64, 256)).astype(np.float32)
    blocks = gguf_weights.rounded(weights, 4, 128)
    assert blocks.packed.shape == (64, 2, 64) and blocks.scales.shape == (64, 2)
    error = np.sqrt(np.mean((blocks.floats() - weights) ** 2))
    assert error < 0.12, error
    assert np.sqrt(np.mean((gguf_weights.rounded(weights, 8, 128).floats() - weights) ** 2)) < 0.01
    assert not wide.exists()
    with pytest.raises(ModelFileError, match="already") as refused:
        convert_decoder.convert(model("tiny-bpe-q4_0"), tmp_path / "x", block=32)
    assert "f16" in refused.value.remedy
    with pytest.raises(ModelFileError, match="Rows of 64 weights cannot be cut into blocks of 128"):
        convert_decoder.convert(model("tiny-bpe-f32"), tmp_path / "x", block=128)
    convert_decoder.convert(model("tiny-bpe-f32"), tmp_path / "small", block=32)
    assert (tmp_path / "small" / "model.onnx.data").stat().st_size < model("tiny-bpe-f32").stat().st_size / 2.5
    assert not (tmp_path / "x").exists(), "whole or not at all"


@contextmanager
def gguf_open(path: Path, data: bytes) -> Iterator[dict[str, np.ndarray]]:
    """The tensors of a GGUF file made of these bytes, to be changed in place."""
    path.write_bytes(data)
    yield {tensor.name: tensor.data for tensor in gguf.GGUFReader(path, "r+").tensors}


def test_what_cannot_be_converted_is_refused_in_words(tmp_path):
    def refused(path: Path, words: str) -> None:
        with pytest.raises(ModelFileError, match=words):
            convert_decoder.convert(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    refused(tiny_model.write_encoder(tmp_path / "bert.gguf"), "The architecture bert cannot be converted to ONNX")
    whole = tiny_model.write_random(tmp_path / "a.gguf", kind="q8_0").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.gguf", "cut")
    (tmp_path / "extra.gguf").write_bytes(whole.replace(b"blk.1.ffn_norm", b"blk.1.ffn_gorm"))
    refused(tmp_path / "extra.gguf", "lacks tensors that every llama has: blk.1.ffn_norm.weight")
    with gguf_open(tmp_path / "nan.gguf", whole) as tensors:
        tensors["blk.1.ffn_up.weight"][3, :2] = (0x00, 0x7E)  # the first scale of a row, as f16
    refused(tmp_path / "nan.gguf", "Tensor blk.1.ffn_up.weight has values that are no numbers")
    kinds = tiny_model.TYPES | {"q5_0": gguf.GGMLQuantizationType.Q5_0}
    tiny_model.TYPES, before = kinds, tiny_model.TYPES
    try:
        refused(tiny_model.write_random(tmp_path / "q5.gguf", kind="q5_0"), "Q5_0, which has no equal")
    finally:
        tiny_model.TYPES = before


def test_a_tokenizer_of_another_model_is_refused(model, tmp_path):
    convert_decoder.convert(model("tiny-spm-q8_0"), tmp_path / "spm")
    convert_decoder.convert(model("tiny-bpe-q8_0"), tmp_path / "bpe")
    widths = {}
    for name in ("spm", "bpe"):
        with opened(tmp_path / name) as backend:
            widths[name] = backend.info.vocabulary
    less, more = sorted(widths, key=widths.get)
    (tmp_path / less / "tokenizer.json").write_bytes((tmp_path / more / "tokenizer.json").read_bytes())
    with pytest.raises(ModelFileError, match=f"tokenizer of .* words, but the model knows {widths[less]}"), opened(tmp_path / less):
        pass


def test_what_comes_along(model, tmp_path):
    convert_decoder.convert(model("tiny-bpe-q8_0"), tmp_path / "onnx")
    config = json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["max_position_embeddings"] == tiny_model.CONTEXT
    with opened(tmp_path / "onnx") as backend:
        assert backend.info.has_chat_template and backend.info.context_tokens == tiny_model.CONTEXT
        assert backend.render([{"role": "user", "content": "hi"}]) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        assert backend.is_end(2) and backend.piece(2) == b"" and backend.label(2) == "<|im_end|>"

"""ONNX encoders give what transformers gives, alone and in whatever company."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_encoder as tiny
from fakes import ROOT, MemoryLink

from appliance.clock import FakeClock, monotonic
from appliance.engine.channel import ChannelClosed
from appliance.engine.child import Child
from appliance.engine.encoder_loop import EncoderLoop
from appliance.engine.messages import Answer, Ask, Booting, Frame, Generate, Ready, Stop
from appliance.engine.onnx_encoder import OnnxEncoder
from appliance.engine.worker import WorkerSettings
from appliance.errors import ModelFileError
from appliance.factory.convert_onnx import convert
from appliance.factory.quantize_onnx import quantize

SHIPPED = ROOT / "models" / "minilm-l6-int8"
NEAR = 0.9999


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """(kind) -> (checkpoint, converted model), each made once."""
    root, known = tmp_path_factory.mktemp("encoders"), {}

    def make(kind: str) -> tuple[Path, Path]:
        if kind not in known:
            checkpoint, model = root / kind, root / f"{kind}-onnx"
            tiny.write_checkpoint(checkpoint, kind)
            tiny.on_a_thread(lambda: convert(checkpoint, model))
            known[kind] = checkpoint, model
        return known[kind]

    return make


@pytest.fixture
def variant(made, tmp_path) -> Callable[..., Path]:
    """(kind, file=values ...) -> a copy of the converted model with other files beside it."""
    number = itertools.count()

    def make(kind: str, files: dict[str, Any]) -> Path:
        folder = tmp_path / f"variant{next(number)}"
        shutil.copytree(made(kind)[1], folder)
        for name, values in files.items():
            tiny.write_json(folder / name, values)
        return folder

    return make


def opened(folder: Path, **how: Any) -> OnnxEncoder:
    return OnnxEncoder(folder, name="m", threads=1, spin=False, **how)


def ask(encoder: OnnxEncoder, what: str, **args: Any) -> Any:
    """The answer to one question, through the loop."""
    link = MemoryLink()
    loop = EncoderLoop(encoder, link, FakeClock())
    link.inbox.append(Ask("q", what, args))
    while loop.step():
        pass
    [answer] = [message for message in link.outbox if isinstance(message, Answer)]
    return answer.error or answer.result


def embed(encoder: OnnxEncoder, texts: list[str], **args: Any) -> np.ndarray:
    result = ask(encoder, "embed", inputs=texts, **args)
    assert "vectors" in result, result
    return np.frombuffer(base64.b64decode(result["vectors"]), "<f4").reshape(len(texts), result["dim"])


# -- embeddings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("way", "pool"), [
    ("mean_tokens", lambda s: s.mean(axis=0)), ("cls_token", lambda s: s[0]), ("lasttoken", lambda s: s[-1]),
    ("max_tokens", lambda s: s.max(axis=0)), ("mean_sqrt_len_tokens", lambda s: s.sum(axis=0) / np.sqrt(len(s))),
])  # fmt: skip
def test_embeddings_are_those_of_transformers_whatever_the_pooling(made, variant, way, pool):
    folder = variant("embed", {"1_Pooling/config.json": {f"pooling_mode_{way}": True, "pooling_mode_other": False}})
    theirs = np.array([pool(s) for s in tiny.states(made("embed")[0], tiny.LINES)])
    encoder = opened(folder)
    assert encoder.info.task == "embed" and encoder.info.dimensions == 64
    ours = embed(encoder, tiny.LINES)
    assert tiny.cosines(ours, theirs).min() > NEAR
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


def test_vectors_keep_their_length_where_the_model_does_not_normalize(made, variant):
    folder = variant("embed", {"modules.json": [{"type": "sentence_transformers.models.Transformer", "path": ""},
                                                {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]})  # fmt: skip
    theirs = np.array([s.mean(axis=0) for s in tiny.states(made("embed")[0], tiny.LINES[:5])])
    assert np.allclose(embed(opened(folder), tiny.LINES[:5]), theirs, atol=1e-4)
    added = [{"type": "sentence_transformers.models.Normalize"}]
    tiny.write_json(folder / "modules.json", json.loads((folder / "modules.json").read_text()) + added)
    assert np.allclose(np.linalg.norm(embed(opened(folder), tiny.LINES[:5]), axis=1), 1, atol=1e-5)


def test_a_text_is_cut_where_the_reference_cuts_it_or_refused(made, variant):
    folder = variant("embed", {"sentence_bert_config.json": {"max_seq_length": 12}})
    encoder = opened(folder)
    long = " ".join(tiny.WORDS)
    theirs = np.array([s.mean(axis=0) for s in tiny.states(made("embed")[0], [long, long * 500], limit=12)])
    assert tiny.cosines(embed(encoder, [long, long * 500], truncate=True), theirs).min() > NEAR
    error = ask(encoder, "embed", inputs=["short", long])
    assert error["code"] == "context_length_exceeded" and error["param"] == "input[1]" and "takes 12" in error["message"]
    assert opened(made("embed")[1]).info.context_tokens == tiny.POSITIONS
    assert opened(made("embed")[1], context_tokens=9).info.context_tokens == 9


def test_queries_and_documents_get_the_models_own_prompts(variant):
    prompts = {"prompts": {"query": "question ", "passage": "box ", "other": "key "}, "default_prompt_name": "other"}
    encoder = opened(variant("embed", {"config_sentence_transformers.json": prompts}))
    plain = opened(variant("embed", {}))
    for kind, before in (("query", "question "), ("document", "box "), (None, "key ")):
        assert np.allclose(embed(encoder, ["the disk"], kind=kind), embed(plain, [f"{before}the disk"], kind=kind), atol=1e-6)


def test_a_prompt_that_does_not_count_is_left_out_of_the_mean(made, variant):
    files = {"config_sentence_transformers.json": {"prompts": {"query": "question is "}},
             "1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "include_prompt": False}}  # fmt: skip
    [whole] = tiny.states(made("embed")[0], ["question is the disk full"])
    ours = embed(opened(variant("embed", files)), ["the disk full"], kind="query")
    assert tiny.cosines(ours, whole[3:].mean(axis=0)[None]).min() > NEAR, "[CLS] and the prompt's two words are left out"


def test_lower_casing_dimensions_and_token_ids(variant):
    encoder = opened(variant("embed", {"sentence_bert_config.json": {"max_seq_length": 40, "do_lower_case": True}}))
    assert np.array_equal(embed(encoder, ["The DISK"]), embed(encoder, ["the disk"]))
    whole, cut = embed(encoder, ["the disk"]), embed(encoder, ["the disk"], dimensions=10)
    assert np.allclose(cut, whole[:, :10] / np.linalg.norm(whole[:, :10]), atol=1e-6)
    ids = encoder.tokenize("the disk", add_special=True, parse_special=False)
    assert np.array_equal(embed(encoder, [ids]), whole)
    assert "not in the vocabulary" in ask(encoder, "embed", inputs=[[2, len(tiny.VOCABULARY), 3]])["message"]


def test_one_giant_word_is_not_read_to_its_end(made):
    encoder = opened(made("embed")[1])
    began = monotonic()
    [vector] = embed(encoder, ["x" * 7_900_000], truncate=True)
    assert np.array_equal(vector, embed(encoder, ["x" * 3000])[0]), "one unknown word"
    assert ask(encoder, "embed", inputs=["x" * 7_900_000])["code"] == "context_length_exceeded"
    assert monotonic() - began < 5  # it would take a minute


def test_texts_that_are_hard_to_read_are_read(made):
    encoder = opened(made("embed")[1])
    odd = ["", " ", "\ud800 half", "\0", "disk\u200bfull", "\N{PILE OF POO}" * 9, "[SEP] [PAD]"]
    assert np.isfinite(embed(encoder, odd)).all()


@pytest.mark.parametrize("kind", ["float", "int8", "int8-block", "int4-block"])
def test_a_vector_does_not_depend_on_what_it_is_computed_with(made, tmp_path, kind):
    folder = made("embed")[1]
    if kind != "float":
        source, folder = folder, tmp_path / "q"
        tiny.on_a_thread(lambda: quantize(source, folder, kind, **({"block": 32} if "block" in kind else {})))
    encoder = opened(folder)
    assert encoder.max_rows == (1 if kind == "int8" else 64), "with one scale for a whole batch texts are computed alone"
    alone = np.concatenate([embed(encoder, [line]) for line in tiny.LINES])
    together = embed(encoder, tiny.LINES)
    some = embed(encoder, tiny.LINES[::-3])
    assert tiny.cosines(together, alone).min() > NEAR and tiny.cosines(some, alone[::-3]).min() > NEAR
    rows = [encoder.read(line, None, truncate=False, skip=0, param="") for line in tiny.LINES]
    if encoder.max_rows > 1:
        assert tiny.cosines(np.array(encoder.compute(rows)), np.concatenate([encoder.compute([row]) for row in rows])).min() > NEAR


def test_a_whole_pipeline_in_one_graph_is_taken_as_it_is(made, tmp_path):
    """optimum exports sentence-transformers' models with an output sentence_embedding, in which all is done."""
    import onnx

    shutil.copytree(made("embed")[1], tmp_path / "m")
    model = onnx.load(tmp_path / "m" / "model.onnx")
    nodes = [onnx.helper.make_node("ReduceMin", ["last_hidden_state", "axis"], ["sentence_embedding"], keepdims=0)]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("sentence_embedding", onnx.TensorProto.FLOAT, ["batch", 64]))
    onnx.save(model, tmp_path / "m" / "model.onnx")
    [states] = tiny.states(made("embed")[0], ["the disk is full"])
    assert tiny.cosines(embed(opened(tmp_path / "m"), ["the disk is full"]), states.min(axis=0)[None]).min() > NEAR


# -- the shipped model ---------------------------------------------------------------------------------------------


def optimum_vectors(texts: list[str]) -> np.ndarray:
    """What optimum's ORTModel makes of the shipped file in batches of 32, with mean pooling."""
    import torch
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    model = ORTModelForFeatureExtraction.from_pretrained(SHIPPED, file_name="model.onnx")
    found = []
    for at in range(0, len(texts), 32):
        feed = tokenizer(texts[at : at + 32], padding=True, truncation=True, max_length=256, return_tensors="pt")
        states, mask = model(**feed).last_hidden_state, feed["attention_mask"][..., None]
        found.append(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy())
    return np.concatenate(found)


def test_the_shipped_embedder_equals_optimum():
    words = "How do I restart the server when its disk is full, and who may read 1,234 log files of the café's Wi-Fi?".split()
    texts = [" ".join(np.random.default_rng(n).permutation(words * (1 + n % 9))[: 1 + n * 7 % 90]) for n in range(64)]
    theirs = tiny.on_a_thread(lambda: optimum_vectors(texts))
    encoder = opened(SHIPPED)
    ours = embed(encoder, texts)
    assert tiny.cosines(ours, theirs).min() > NEAR
    alone = np.concatenate([embed(encoder, [text]) for text in texts])
    assert tiny.cosines(ours, alone).min() > NEAR
    assert (encoder.info.dimensions, encoder.info.context_tokens, encoder.info.backend) == (384, 256, "onnxruntime")


# -- rerank, classify, tokens --------------------------------------------------------------------------------------


def test_a_reranker_scores_pairs_as_transformers_does(made):
    checkpoint, folder = made("rerank")
    query = "how do i restart the server"
    documents = [*tiny.LINES[:12], " ".join(tiny.WORDS * 4), ""]
    theirs = tiny.logits(checkpoint, [(query, document) for document in documents])[:, 0]
    encoder = opened(folder)
    result = ask(encoder, "rerank", query=query, documents=documents, truncate=True)
    assert encoder.info.task == "rerank" and result["logits"] == pytest.approx(theirs.tolist(), abs=1e-4)
    assert np.allclose(result["scores"], 1 / (1 + np.exp(-theirs)), atol=1e-4)
    assert np.ptp(theirs) > 0.01
    room = tiny.POSITIONS - 3
    longest = "disk " * (room - 1)  # transformers would cut this query
    by_us = ask(encoder, "rerank", query=longest, documents=["box " * 9, "box"], truncate=True)
    assert by_us["tokens"] == 2 * tiny.POSITIONS and by_us["logits"][0] == pytest.approx(by_us["logits"][1], abs=1e-5)
    some = ask(encoder, "rerank", query=query, documents=["the disk is full", "the disk"], truncate=True, document_tokens=2)
    assert some["logits"][0] == pytest.approx(some["logits"][1], abs=1e-5)
    assert "no room" in ask(encoder, "rerank", query="disk " * room, documents=["a"], truncate=True)["message"]
    error = ask(encoder, "rerank", query=query, documents=documents)
    assert error["code"] == "context_length_exceeded" and error["param"] == "documents[12]"
    assert ask(encoder, "rerank", query="disk " * 60, documents=["a"])["param"] == "query"


@pytest.mark.parametrize("kind", ["classify", "multi"])
def test_a_classifier_scores_texts_as_transformers_does(made, kind):
    checkpoint, folder = made(kind)
    theirs = tiny.pipeline(checkpoint, "text-classification", tiny.LINES[:10], top_k=None)
    result = ask(opened(folder), "classify", inputs=tiny.LINES[:10])
    for row, said in zip(result["scores"], theirs, strict=True):
        right = {entry["label"]: entry["score"] for entry in said}
        assert dict(zip(result["labels"], row, strict=True)) == pytest.approx(right, abs=1e-4)
    assert result["labels"] == (["calm", "angry", "sad"] if kind == "classify" else ["LABEL_0", "LABEL_1", "LABEL_2"])
    assert "knows its own labels only" in ask(opened(folder), "classify", inputs=["a"], labels=["x"])["message"]


@pytest.mark.parametrize("multi_label", [False, True])
def test_any_label_is_judged_by_entailment_as_transformers_does(made, multi_label):
    checkpoint, folder = made("nli")
    labels, template = ["disk", "user key", "server"], "the question is {}."
    theirs = tiny.pipeline(checkpoint, "zero-shot-classification", tiny.LINES[1:5], labels, hypothesis_template=template, multi_label=multi_label)
    result = ask(opened(folder), "classify", inputs=tiny.LINES[1:5], labels=labels, template=template, multi_label=multi_label)
    assert result["labels"] == labels
    for row, said in zip(result["scores"], theirs, strict=True):
        assert row == pytest.approx([said["scores"][said["labels"].index(label)] for label in labels], abs=1e-4)


def test_entities_are_those_of_transformers(made):
    checkpoint, folder = made("tokens")
    texts = ["Restarting servers, adding a keying user's box?", *tiny.LINES[1:9], "  how  do I   remove it  ", ""]
    theirs = tiny.pipeline(checkpoint, "token-classification", texts[:-1], aggregation_strategy="first")
    ours = ask(opened(folder), "tokens", inputs=texts)["entities"]
    assert sum(map(len, theirs)) > 5 and ours.pop() == []
    for text, mine, said in zip(texts, ours, theirs, strict=False):
        assert [(e["label"], e["start"], e["end"]) for e in mine] == [(e["entity_group"], e["start"], e["end"]) for e in said]
        assert [e["score"] for e in mine] == pytest.approx([float(e["score"]) for e in said], abs=1e-4)
        assert all(text[e["start"] : e["end"]] == e["text"] for e in mine)


# -- in a real child -----------------------------------------------------------------------------------------------


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    """Starts an engine child on a model; it is gone at the end."""
    started: list[Child] = []

    def start(path: Path, **settings: Any) -> Child:
        values = dict(engine="llama", name="m", path=str(path), context_tokens=0, sequences=1, kv_tokens=0, threads=1, cpus=(),
                      batch_tokens=64, stall_s=0.2, store_bytes=0)  # fmt: skip
        started.append(Child(WorkerSettings(**(values | settings)), {}))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.bury()


@pytest.mark.parametrize(("engine", "file"), [("llama", ""), ("onnx", "model.onnx")])
def test_a_child_serves_an_encoder_by_its_folder_or_its_file(child, engine, file):
    link = child(SHIPPED / file, engine=engine).channel
    while isinstance(message := link.receive(60.0), Booting):
        pass
    assert isinstance(message, Ready) and message.info["task"] == "embed" and message.info["dimensions"] == 384
    link.send(Ask("q", "embed", {"inputs": ["how do I restart the server?"]}))
    link.send(Generate("g", {"tokens": [1]}, {}))
    seen: list[Any] = []
    until = monotonic() + 60
    while monotonic() < until and not (any(isinstance(m, Answer) for m in seen) and any(isinstance(m, Frame) and m.failed for m in seen)):
        seen.append(link.receive(60.0))
    [answer] = [m for m in seen if isinstance(m, Answer)]
    alone = embed(opened(SHIPPED), ["how do I restart the server?"])
    assert np.allclose(np.frombuffer(base64.b64decode(answer.result["vectors"]), "<f4"), alone[0], atol=1e-5)
    link.send(Stop())
    with pytest.raises(ChannelClosed):
        while True:
            link.receive(60.0)


def test_a_decoders_folder_is_no_encoder(variant):
    with pytest.raises(ModelFileError, match="text generation model"):
        opened(variant("embed", {"config.json": {"architectures": ["LlamaForCausalLM"]}}))

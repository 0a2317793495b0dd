"""Converting, quantizing and comparing real ONNX models, made here from small random checkpoints of transformers."""

from __future__ import annotations

import json
import resource
import shutil
import socket
import warnings
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from appliance import integrity, manifest
from appliance.engine.backend import Piece
from appliance.errors import ApplianceError, InvalidRequest, ModelFileError, ModelFileMissing, StorageFailed
from appliance.factory import certify, embedder, evaluate, evaluate_onnx
from appliance.factory.convert_onnx import convert
from appliance.factory.evaluate import Apart
from appliance.factory.evaluate_onnx import Runner
from appliance.factory.quantize_onnx import KINDS, quantize

pytestmark = pytest.mark.engine
WORDS = "the a box answers question server disk is full empty slow fast how do i restart model add remove key user".split()
LINES = [" ".join(np.random.default_rng(seed).choice(WORDS, size=3 + seed % 6)) for seed in range(40)]
INT8_COSINE = {"int8": 0.98, "int8-block": 0.998, "int4-block": 0.95}


def save_tokenizer(folder: Path) -> None:
    """Whole words, [CLS] and [SEP] around them, and the padding to a fixed length that real checkpoints carry."""
    vocabulary = {word: at for at, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=32)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}))


def save_checkpoint(folder: Path, kind: str):
    """A random model of transformers; returns it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        import transformers

        torch.manual_seed(7)
        bert = {"vocab_size": 30000, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                "intermediate_size": 128, "max_position_embeddings": 48, "initializer_range": 0.15}  # fmt: skip
        if kind == "llama":
            config = transformers.LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                                              num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.15)  # fmt: skip
            model = transformers.LlamaForCausalLM(config)
        elif kind == "classifier":
            model = transformers.BertForSequenceClassification(transformers.BertConfig(**bert | {"vocab_size": 64}, num_labels=3))
        else:
            model = transformers.BertModel(transformers.BertConfig(**bert))
        model.eval().save_pretrained(folder)
    save_tokenizer(folder)
    if kind == "bert":
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}))
        (folder / "modules.json").write_text("[]")
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 40}))
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(kind) -> (the model in torch, its checkpoint, the converted folder); the network is out of reach meanwhile."""
    root, known = tmp_path_factory.mktemp("onnx"), {}

    def make(kind: str):
        if kind not in known:
            model = save_checkpoint(root / kind, kind)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was touched"))
                patch.delenv("HF_HUB_OFFLINE", raising=False)
                convert(root / kind, root / f"{kind}-onnx")
            known[kind] = model, root / kind, root / f"{kind}-onnx"
        return known[kind]

    return make


@pytest.fixture(scope="module")
def small(made, tmp_path_factory):
    """(checkpoint kind, quantization) -> the quantized folder."""
    root = tmp_path_factory.mktemp("small")

    def make(model: str, kind: str) -> Path:
        target = root / f"{model}-{kind}"
        if not target.exists():
            quantize(made(model)[2], target, kind)
        return target

    return make


def torch_output(model, feed: dict[str, np.ndarray], name: str) -> np.ndarray:
    import torch

    with torch.no_grad():
        return getattr(model(**{key: torch.from_numpy(value) for key, value in feed.items()}), name).numpy()


def logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """What an exported decoder says after each token, [tokens, vocabulary]."""
    with Apart(folder, 128, threads=1) as model:
        return np.array(model.call(model.backend.decode, [Piece(0, 0, tokens.tolist(), "all")]))


def operators(folder: Path) -> set[str]:
    import onnx

    return {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}


# -- convert ---------------------------------------------------------------------------------------


def test_an_encoder_gives_what_torch_gives_and_brings_what_is_needed(made):
    model, _, folder = made("bert")
    runner = Runner(folder)
    states, mask = runner.run(LINES[:5])
    ids = np.zeros_like(mask)
    for at, row in enumerate(runner.tokenizer.encode_batch(LINES[:5])):
        ids[at, : len(row.ids)] = row.ids
    assert mask.shape[1] < 32, "the padding of the checkpoint is gone"
    expected = torch_output(model, {"input_ids": ids, "attention_mask": mask}, "last_hidden_state")
    assert np.abs(states - expected)[mask == 1].max() < 1e-4
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {
        "model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json",
        "1_Pooling/config.json", "sentence_bert_config.json",
    }  # fmt: skip
    assert runner.pooling == "mean" and evaluate_onnx.longest_of(folder, runner.config) == 40


def test_a_classifier_of_pairs_gives_what_torch_gives(made):
    model, _, folder = made("classifier")
    runner = Runner(folder)
    row = runner.tokenizer.encode("the box is full", "add a disk")
    feed = {"input_ids": np.array([row.ids]), "token_type_ids": np.array([row.type_ids])}
    assert 1 in row.type_ids
    scores, _ = runner.run([("the box is full", "add a disk")])
    assert np.abs(scores - torch_output(model, feed, "logits")).max() < 1e-4


def test_a_decoder_gives_what_torch_gives_whole_and_token_by_token(made):
    model, _, folder = made("llama")
    session = Runner(folder).session
    tokens = np.random.default_rng(1).integers(4, 64, 12)
    expected = torch_output(model, {"input_ids": tokens[None]}, "logits")[0]
    caches = [i for i in session.get_inputs() if i.name.startswith("past_key_values")]
    assert len(caches) == 4
    past = {i.name: np.zeros((1, 2, 0, 16), np.float32) for i in caches}
    names = [o.name for o in session.get_outputs()]
    for at, token in enumerate(tokens):
        plain = {"input_ids": np.array([[token]]), "attention_mask": np.ones((1, at + 1), np.int64), "position_ids": np.array([[at]])}
        found = dict(zip(names, session.run(None, {k: v for k, v in plain.items() if k in {i.name for i in session.get_inputs()}} | past), strict=True))
        assert np.abs(found["logits"][0, -1] - expected[at]).max() < 1e-4
        past = {name: found[name.replace("past_key_values", "present")] for name in past}


def spoil(source: Path, target: Path, **changes) -> Path:
    """A copy of a checkpoint with other values in its configuration."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_what_cannot_be_converted_is_told_and_leaves_nothing(made, tmp_path):
    checkpoint, out = made("classifier")[1], tmp_path / "out"
    out.mkdir()
    (tmp_path / "empty").mkdir()
    bare = spoil(checkpoint, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    torn = spoil(checkpoint, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:5000])
    cases = [
        (tmp_path / "empty", "auto", ModelFileMissing, "config.json"),
        (spoil(checkpoint, tmp_path / "odd", architectures=["OddThing"]), "auto", ModelFileError, "OddThing"),
        (spoil(checkpoint, tmp_path / "kind", model_type="oddity"), "auto", ModelFileError, "'oddity'"),
        (checkpoint, "poetry", InvalidRequest, "feature-extraction"),
        (bare, "auto", ModelFileMissing, "no weights"),
        (torn, "auto", ModelFileError, "cannot be converted"),
    ]
    for folder, task, kind, words in cases:
        with pytest.raises(kind) as raised:
            convert(folder, out / "model", task=task)
        assert words in str(raised.value)
        assert list(out.iterdir()) == [], f"{folder.name} left something behind"
    (out / "model").mkdir()
    with pytest.raises(InvalidRequest) as raised:
        convert(checkpoint, out / "model")
    assert "exists already" in str(raised.value)


def test_a_disk_without_space_is_told_before_and_in_the_middle(made, tmp_path, monkeypatch):
    checkpoint, converted = made("bert")[1:]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # as a full disk: writing ends in the middle of a file
        for work in (lambda: convert(checkpoint, tmp_path / "a"), lambda: quantize(converted, tmp_path / "b", "int8-block")):
            with pytest.raises(ApplianceError) as raised:
                work()
            assert isinstance(raised.value, StorageFailed), raised.value
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(StorageFailed) as raised:
        convert(checkpoint, tmp_path / "a")
    assert "0 MB free" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


# -- quantize --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_encoder_is_smaller_and_still_means_the_same(made, small, kind):
    folder = small("bert", kind)
    ours, theirs = (np.concatenate([Runner(f).embed([line]) for line in LINES[:8]]) for f in (folder, made("bert")[2]))
    assert (ours * theirs).sum(axis=1).min() > INT8_COSINE[kind]
    assert not np.array_equal(ours, theirs)
    assert operators(folder) >= ({"MatMulInteger"} if kind == "int8" else {"MatMulNBits"})
    if kind == "int8":
        assert (folder / "model.onnx").stat().st_size < (made("bert")[2] / "model.onnx").stat().st_size / 3.5
    for name in ("tokenizer.json", "1_Pooling/config.json", "config.json"):
        assert (folder / name).read_bytes() == (made("bert")[2] / name).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_decoder_predicts_nearly_the_same(made, small, kind):
    tokens = np.random.default_rng(2).integers(4, 64, 48)
    ours, theirs = (logits(f, tokens) for f in (small("llama", kind), made("llama")[2]))
    alike = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(ours, theirs, strict=True)])
    assert alike > {"int8": 0.99, "int8-block": 0.998, "int4-block": 0.88}[kind], alike
    assert not np.array_equal(ours, theirs)


def test_eight_bit_weights_cannot_overflow_on_a_cpu_without_vnni(small):
    """Two products of an activation (at most 255) and a weight are added in 16 bits there."""
    import onnx

    graph = onnx.load(small("bert", "int8") / "model.onnx").graph
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    weights = [tensors[node.input[1]] for node in graph.node if node.op_type == "MatMulInteger"]
    assert len(weights) == 12
    assert max(2 * 255 * int(np.abs(w.astype(np.int32)).max()) for w in weights) <= 32767
    scales = [tensors[name] for name in tensors if name.endswith("_scale") and tensors[name].ndim]
    assert {scale.shape[0] for scale in scales} == {64, 128}, "one scale a column"


def test_blocks_may_be_smaller_and_a_row_does_not_depend_on_its_neighbours(made, tmp_path):
    quantize(made("bert")[2], tmp_path / "q", "int8-block", block=32)
    assert {"MatMulNBits", "GatherBlockQuantized"} <= operators(tmp_path / "q")
    ours, theirs = (Runner(f).embed(LINES[:8]) for f in (tmp_path / "q", made("bert")[2]))
    assert (ours * theirs).sum(axis=1).min() > 0.998
    alone = np.concatenate([Runner(tmp_path / "q").embed([line]) for line in LINES[:8]])
    assert np.allclose(ours, alone, atol=1e-4)


def test_word_vectors_of_four_bits_are_half_as_large_and_near(made, tmp_path):
    for bits in (8, 4):
        quantize(made("bert")[2], tmp_path / str(bits), "int8-block", block=32, table_bits=bits)
    eight, four, whole = (np.concatenate([Runner(f).embed([line]) for line in LINES[:8]]) for f in (tmp_path / "8", tmp_path / "4", made("bert")[2]))
    assert 0.97 < (four * whole).sum(axis=1).min() < (eight * whole).sum(axis=1).min()
    sizes = [(tmp_path / str(bits) / "model.onnx").stat().st_size for bits in (8, 4)]
    assert sizes[1] < sizes[0]


def test_a_weight_in_blocks_is_within_a_step_of_the_original(made, small):
    """Read back as onnxruntime's documentation lays MatMulNBits out: the low half byte first, 8 in the middle."""
    import onnx

    before, after = ({t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(f / "model.onnx").graph.initializer}
                     for f in (made("llama")[2], small("llama", "int4-block")))  # fmt: skip
    names = [name.removesuffix("_columns_q") for name in after if name.endswith("_columns_q")]
    assert len(names) == 2 * 7 + 1
    for name in names:
        packed, scales = after[f"{name}_columns_q"], after[f"{name}_columns_scales"][..., None]
        steps = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], 32).astype(int) - 8
        columns = before[name].T.reshape(steps.shape)
        assert (np.abs(steps * scales - columns) <= np.abs(scales) * 1.001).all()


@pytest.mark.parametrize("kind", ["int8", "int8-block"])
def test_what_is_kept_stays_float_by_the_name_of_a_node_or_a_weight(made, tmp_path, kind):
    import onnx

    quantize(made("bert")[2], tmp_path / "q", kind, keep=["*layer.0/output/dense*", "embeddings.word_embeddings.weight"])
    graph = onnx.load(tmp_path / "q" / "model.onnx").graph
    tables = {t.name: t for t in graph.initializer}
    kept = [n for n in graph.node if n.op_type == "MatMul" and n.input[1] in tables]
    assert [n.name for n in kept] == ["/encoder/layer.0/output/dense/MatMul"]
    assert tables[kept[0].input[1]].data_type == onnx.TensorProto.FLOAT
    assert tables["embeddings.word_embeddings.weight"].data_type == onnx.TensorProto.FLOAT


def test_the_linear_layer_of_a_classifier_is_quantized_too(made, small):
    assert "Gemm" in operators(made("classifier")[2])
    assert not {"Gemm"} & operators(small("classifier", "int4-block"))
    ours, theirs = (Runner(f).run(LINES[:4])[0] for f in (small("classifier", "int8"), made("classifier")[2]))
    assert np.abs(ours - theirs).max() < 0.25 * np.abs(theirs).max()


def test_a_large_model_keeps_its_weights_in_a_file_of_their_own(made, tmp_path, monkeypatch):
    monkeypatch.setattr("appliance.factory.quantize_onnx.INLINE_BYTES", 1000)
    for kind in ("int8", "int4-block"):
        quantize(made("llama")[2], tmp_path / kind, kind)
        assert len(list((tmp_path / kind).glob("model.onnx*"))) == 2
        tokens = np.arange(4, 20)
        assert np.isfinite(logits(tmp_path / kind, tokens)).all()


def test_what_cannot_be_quantized_is_told_and_leaves_nothing(made, small, tmp_path):
    source, out = made("bert")[2], tmp_path / "out"
    out.mkdir()
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    (broken / "model.onnx").write_bytes(b"no model at all")
    cases = [
        (source, "int3", {}, InvalidRequest, "int8-block"),
        (source, "int8", {"block": 32}, InvalidRequest, "block"),
        (source, "int8-block", {"block": 48}, InvalidRequest, "128"),
        (source, "int8", {"keep": ["*word_embedding.weight"]}, InvalidRequest, "Did you mean embeddings.word_embeddings.weight?"),
        (tmp_path, "int8", {}, ModelFileMissing, "model.onnx"),
        (broken, "int8", {}, ModelFileError, "cannot be read"),
        (small("bert", "int8"), "int4-block", {}, InvalidRequest, "quantized already"),
    ]
    for folder, kind, how, error, words in cases:
        with pytest.raises(error) as raised:
            quantize(folder, out / "q", kind, **how)
        assert words in str(raised.value)
        assert list(out.iterdir()) == []


# -- evaluate --------------------------------------------------------------------------------------


def test_an_encoder_agrees_with_itself_and_a_coarser_one_less(made, small):
    folder = made("bert")[2]
    same = evaluate_onnx.encoder(folder, folder, LINES)
    assert same.min_cosine == pytest.approx(1, abs=1e-5) and same.spearman == pytest.approx(1, abs=1e-6)
    coarse = evaluate_onnx.encoder(folder, small("bert", "int4-block"), LINES)
    assert coarse.min_cosine <= coarse.mean_cosine < same.mean_cosine and coarse.spearman < 1
    assert coarse.costs.size_ratio < 0.35 and coarse.sentences == len(LINES)
    row = json.loads(json.dumps(coarse.to_json()))
    assert [speed["batch"] for speed in row["speed"]] == [1, 8] and all(speed["ratio"] > 0 for speed in row["speed"])


def test_a_classifier_is_judged_by_the_labels_and_by_agreement(made, small):
    folder = made("classifier")[2]
    right = Runner(folder).classify(LINES)
    lines = [(text, int(label) if at % 4 else (int(label) + 1) % 3) for at, (text, label) in enumerate(zip(LINES, right, strict=True))]
    score = evaluate_onnx.classifier(folder, small("classifier", "int8"), lines)
    assert score.reference_accuracy == 0.75
    assert abs(score.accuracy - 0.75) <= 1 - score.agreement + 1e-9 and score.agreement > 0.8


def test_a_decoder_is_judged_by_its_perplexity(made, small):
    folder = made("llama")[2]
    text = " ".join(LINES * 3)
    same = evaluate.score(folder, text, context=96, reference=folder)
    assert same.kl == 0 and same.top1 == 1 and same.positions % 47 == 0
    coarse = evaluate.score(small("llama", "int4-block"), text, context=96, reference=folder)
    assert coarse.kl > 0 and coarse.top1 < 1 and coarse.perplexity != same.perplexity and coarse.positions == same.positions
    with pytest.raises(InvalidRequest) as raised:
        evaluate.score(folder, "the box", context=96)
    assert "192 are needed" in str(raised.value)


def test_a_pooling_that_is_not_known_is_refused(made, tmp_path):
    shutil.copytree(made("bert")[2], tmp_path / "m")
    (tmp_path / "m" / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ModelFileError) as raised:
        Runner(tmp_path / "m")
    assert "max_tokens" in str(raised.value)


# -- the whole way ---------------------------------------------------------------------------------


def test_an_embedder_is_made_with_its_papers_or_not_at_all(made, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"id": f"i{at}", "topic": "t", "answer": f"a {line}", "questions": [line]} for at, line in enumerate(dict.fromkeys(LINES))]
    (data / "lines.jsonl").write_text("\n".join(map(json.dumps, rows)))
    weights = made("bert")[1]
    right = certify.sha256(weights / "model.safetensors")
    out = tmp_path / "tiny-embedder"
    with pytest.raises(ModelFileError) as raised:
        embedder.make(weights, out, data, count=20)
    assert right in str(raised.value) and sorted(p.name for p in tmp_path.iterdir()) == ["data"]
    report = embedder.make(weights, out, data, kind="int8", count=20, weights_sha256=right)  # too narrow for blocks
    paper = manifest.read(out / "manifest.toml")
    integrity.check(out, paper, integrity.HashCache(None), full=True)
    assert paper.name == "tiny-embedder" and paper.context_tokens == 40 and paper.main.path == "model.onnx"
    assert certify.certified(out, paper.main.sha256, report["cpu"]) is None
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report))
    assert embedder.sentences(data, 20) == embedder.sentences(data, 20)
    with pytest.raises(InvalidRequest):
        embedder.sentences(data, 1000)

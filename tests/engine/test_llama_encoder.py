"""GGUF embedding models through llama.cpp give what transformers gives; what would abort the process is refused."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_encoder as tiny
import tiny_model
from fakes import MemoryLink

from appliance.clock import FakeClock
from appliance.engine.channel import ChannelClosed
from appliance.engine.child import Child
from appliance.engine.encoder_loop import EncoderLoop
from appliance.engine.llama_encoder import LlamaEncoder
from appliance.engine.llama_model import LlamaModel
from appliance.engine.messages import Answer, Ask, Booting, Ready, Stop
from appliance.engine.worker import WorkerSettings
from appliance.errors import ModelFileError, ModelFileMissing

NEAR = 0.9999
NAMES = {
    "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd", "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm", "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm", "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
}  # fmt: skip
"""transformers' names of BERT's parts and GGUF's, see gguf.TENSOR_NAMES."""


def read_weights(checkpoint: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(checkpoint / "model.safetensors")


def write_gguf(path: Path, checkpoint: Path, pooling: gguf.PoolingType | None, kind: str = "f32") -> Path:
    """A BERT checkpoint as GGUF. The layout is that of llama.cpp's own converter."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_block_count(tiny.SHAPE["num_hidden_layers"])
    writer.add_context_length(tiny.POSITIONS)
    writer.add_embedding_length(tiny.SHAPE["hidden_size"])
    writer.add_feed_forward_length(tiny.SHAPE["intermediate_size"])
    writer.add_head_count(tiny.SHAPE["num_attention_heads"])
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    special = {"[PAD]": 3, "[UNK]": 2, "[CLS]": 3, "[SEP]": 3}
    writer.add_token_list([t if t in special else t[2:] if t.startswith("##") else "\N{LOWER ONE EIGHTH BLOCK}" + t for t in tiny.VOCABULARY])
    writer.add_token_types([special.get(token, 1) for token in tiny.VOCABULARY])
    for name, add in (("[PAD]", writer.add_pad_token_id), ("[UNK]", writer.add_unk_token_id), ("[CLS]", writer.add_bos_token_id),
                      ("[SEP]", writer.add_sep_token_id), ("[SEP]", writer.add_eos_token_id)):  # fmt: skip
        add(tiny.VOCABULARY.index(name))
    for name, values in read_weights(checkpoint).items():
        stem, _, part = name.rpartition(".")
        if stem.startswith("encoder.layer."):
            number, _, stem = stem.removeprefix("encoder.layer.").partition(".")
            stem = f"blk.{number}.{NAMES[stem]}"
        elif stem in NAMES:
            stem = NAMES[stem]
        else:
            continue  # the pooler, which no embedding uses
        wanted = tiny_model.TYPES[kind if values.ndim == 2 and stem.startswith("blk") else "f32"]
        packed = values if wanted == tiny_model.TYPES["f32"] else gguf.quants.quantize(values, wanted)
        writer.add_tensor(f"{stem}.{part}", packed, raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    tiny.write_checkpoint(folder, "embed")
    return folder


@pytest.fixture
def opened(checkpoint: Path, tmp_path: Path) -> Iterator[Callable[..., LlamaEncoder]]:
    """(pooling, kind, context_tokens) -> an encoder, closed at the end."""
    made: list[LlamaEncoder] = []
    number = itertools.count()

    def make(pooling: gguf.PoolingType | None = gguf.PoolingType.MEAN, kind: str = "f32", **how: Any) -> LlamaEncoder:
        path = write_gguf(tmp_path / f"m{next(number)}.gguf", checkpoint, pooling, kind)
        model = LlamaModel(path)
        assert model.makes_embeddings
        made.append(LlamaEncoder(model, name="m", threads=1, **how))
        return made[-1]

    yield make
    for encoder in made:
        encoder.close()


def ask(encoder: LlamaEncoder, **args: Any) -> Any:
    """The answer to one question, through the loop."""
    link = MemoryLink()
    loop = EncoderLoop(encoder, link, FakeClock())
    link.inbox.append(Ask("q", "embed", args))
    while loop.step():
        pass
    [answer] = [message for message in link.outbox if isinstance(message, Answer)]
    return answer.error or answer.result


def embed(encoder: LlamaEncoder, texts: list[str], **args: Any) -> np.ndarray:
    result = ask(encoder, inputs=texts, **args)
    assert "vectors" in result, result
    return np.frombuffer(base64.b64decode(result["vectors"]), "<f4").reshape(len(texts), result["dim"])


@pytest.mark.parametrize(("pooling", "kind", "pool", "near"), [
    (gguf.PoolingType.MEAN, "f32", lambda s: s.mean(axis=0), NEAR), (gguf.PoolingType.CLS, "f32", lambda s: s[0], NEAR),
    (gguf.PoolingType.LAST, "f32", lambda s: s[-1], NEAR), (None, "f32", lambda s: s.mean(axis=0), NEAR),
    (gguf.PoolingType.MEAN, "f16", lambda s: s.mean(axis=0), NEAR), (gguf.PoolingType.MEAN, "q8_0", lambda s: s.mean(axis=0), 0.998),
])  # fmt: skip
def test_embeddings_are_those_of_transformers_as_the_file_says(checkpoint, opened, pooling, kind, pool, near):
    theirs = np.array([pool(s) for s in tiny.states(checkpoint, tiny.LINES)])
    encoder = opened(pooling, kind)
    ours = embed(encoder, tiny.LINES)
    assert tiny.cosines(ours, theirs).min() > near
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    name = {gguf.PoolingType.CLS: "cls", gguf.PoolingType.LAST: "last"}.get(pooling, "mean")
    assert (encoder.info.task, encoder.info.dimensions, encoder.info.context_tokens) == ("embed", 64, tiny.POSITIONS)
    assert f"{name} pooling" in encoder.info.description


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_a_vector_does_not_depend_on_what_it_is_computed_with(opened, kind):
    encoder = opened(kind=kind)
    alone = np.concatenate([embed(encoder, [line]) for line in tiny.LINES])
    assert tiny.cosines(embed(encoder, tiny.LINES), alone).min() > NEAR
    rows = [encoder.read(line, None, truncate=False, skip=0, param="") for line in tiny.LINES[: encoder.max_rows]]
    assert tiny.cosines(np.array(encoder.compute(rows)), alone[: encoder.max_rows]).min() > NEAR


def test_a_text_is_cut_where_the_reference_cuts_it_or_refused(checkpoint, opened):
    encoder, long = opened(context_tokens=12), " ".join(tiny.WORDS)
    theirs = np.array([s.mean(axis=0) for s in tiny.states(checkpoint, [long], limit=12)])
    assert tiny.cosines(embed(encoder, [long, long * 200], truncate=True), theirs).min() > NEAR
    error = ask(encoder, inputs=["a", long])
    assert error["code"] == "context_length_exceeded" and error["param"] == "input[1]" and "takes 12" in error["message"]
    assert "21000 characters; m takes 12 tokens" in ask(encoder, inputs=[long * 200])["message"]


def test_tokens_are_those_of_the_reference_and_can_be_embedded(opened):
    encoder = opened()
    ids = encoder.tokenize("Restarting, how?", add_special=True, parse_special=False)
    words = [encoder.label(token).replace("\N{LOWER ONE EIGHTH BLOCK}", "") for token in ids]
    assert [tiny.VOCABULARY[t] for t in ids] == ["[CLS]", "restart", "##ing", ",", "how", "?", "[SEP]"] and words[0] == "[CLS]"
    assert np.array_equal(embed(encoder, [ids]), embed(encoder, ["Restarting, how?"]))
    odd = ["", "\ud800", "\0", "\N{PILE OF POO}" * 9, "[SEP][PAD]"]
    assert np.isfinite(embed(encoder, odd)).all()


def test_what_is_no_embedding_model_is_told_apart(model, tmp_path):
    generator = LlamaModel(model("tiny-bpe-f32"))
    assert not generator.makes_embeddings
    with pytest.raises(ModelFileError, match="is not an embedding model"):
        LlamaEncoder(generator, name="m", threads=1)
    generator.close()
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(ModelFileError, match="is not a GGUF file"):
        LlamaModel(tmp_path / "text.gguf")
    with pytest.raises(ModelFileMissing):
        LlamaEncoder(LlamaModel(tmp_path / "gone.gguf"), name="m", threads=1)


def test_a_vocabulary_that_would_abort_llama_cpp_is_refused(tmp_path):
    path = tiny_model.write_encoder(tmp_path / "encoder.gguf")
    model = LlamaModel(path)
    assert model.makes_embeddings
    with pytest.raises(ModelFileError, match="lacks the token that separates texts"):
        LlamaEncoder(model, name="m", threads=1)


def test_a_reranker_is_refused_in_words(checkpoint, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", checkpoint, gguf.PoolingType.RANK)
    with pytest.raises(ModelFileError, match="reranker"):
        LlamaEncoder(LlamaModel(path), name="m", threads=1)


def test_a_child_serves_a_gguf_embedder(checkpoint, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", checkpoint, gguf.PoolingType.MEAN)
    child = Child(
        WorkerSettings(engine="llama", name="m", path=str(path), context_tokens=0, sequences=1, kv_tokens=0, threads=1, cpus=(),
                       batch_tokens=64, stall_s=0.2, store_bytes=0), {})  # fmt: skip
    try:
        while isinstance(message := child.channel.receive(60.0), Booting):
            pass
        assert isinstance(message, Ready) and message.info["task"] == "embed" and message.info["backend"] == "llama.cpp"
        child.channel.send(Ask("q", "embed", {"inputs": ["the disk"]}))
        while not isinstance(message := child.channel.receive(60.0), Answer):
            pass
        assert message.result["dim"] == 64 and message.result["tokens"] == [4]
        child.channel.send(Stop())
        with pytest.raises(ChannelClosed):
            while True:
                child.channel.receive(60.0)
    finally:
        code = child.bury()
    assert code == 0

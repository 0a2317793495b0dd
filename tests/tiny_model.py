"""GGUF models that the tests write themselves: under 1 MB, llama architecture, seeded, good for llama.cpp.

`write_random` makes two layers of random weights: its answers are noise, but every token depends on all before it, so
a mistake in the KV cache changes the text. `write_parrot` makes a model that says what it is told to: its layers add
nothing and its output matrix leads from each token to the next one of a given text.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

LAYERS, HIDDEN, HEADS, KV_HEADS, FFN, CONTEXT = 2, 64, 2, 1, 128, 256
LOGIT_SIGMA = 3.0
"""A trained model's logits spread about so far; much less, and rounding decides which token is the largest."""
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LETTERS = "etaoinshrdlucmfwygpbvkxqjz"


@dataclass(frozen=True)
class Vocabulary:
    """Tokens with their types; scores for a SentencePiece vocabulary, merges for a byte-level one."""

    model: str
    tokens: list[str]
    types: list[int]
    bos: int
    eos: int
    scores: list[float] | None = None
    merges: list[str] | None = None


def byte_alphabet() -> list[str]:
    """One printable character for each byte: GPT-2's mapping, which GGUF's byte-level vocabularies use."""
    kept = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(0x100, 0x200))
    return [chr(byte if byte in kept else next(moved)) for byte in range(256)]


def byte_level() -> Vocabulary:
    """"bpe": every byte is a token, with a few merges."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = byte_alphabet()
    space = alphabet[0x20]
    merges = [(space, letter) for letter in LETTERS[:20]] + [("t", "h"), ("th", "e"), (space + "t", "he"), ("i", "n")]
    tokens = special + alphabet + [a + b for a, b in merges]
    types = [CONTROL] * len(special) + [NORMAL] * (len(tokens) - len(special))
    return Vocabulary("gpt2", tokens, types, 0, 2, merges=[f"{a} {b}" for a, b in merges])


def sentence_piece(with_bytes: bool) -> Vocabulary:
    """"spm" and, without byte tokens, "letters": what is not in its alphabet has no token at all."""
    special = ["<unk>", "<s>", "</s>"]
    raw = [f"<0x{byte:02X}>" for byte in range(256)] if with_bytes else ["\n"]
    words = ["▁", *LETTERS, *LETTERS.upper(), *".,!?'", "▁t", "he", "▁the", "▁a", "in", "▁in", "on", "é"]
    tokens = special + raw + words
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE if with_bytes else NORMAL] * len(raw) + [NORMAL] * len(words)
    scores = [0.0] * (len(special) + len(raw)) + [-float(10 + 40 // len(word)) for word in words]
    return Vocabulary("llama", tokens, types, 1, 2, scores=scores)


VOCABULARIES = {
    "bpe": byte_level,
    "spm": lambda: sentence_piece(True),
    "letters": lambda: sentence_piece(False),
}


def write_random(
    path: Path, *, kind: str = "f32", vocabulary: str = "bpe", context: int = CONTEXT, seed: int = 7
) -> Path:
    """A model with random weights of a type, "trained" for `context` tokens; about 450 KB as f32."""
    words = VOCABULARIES[vocabulary]()
    size, kv = len(words.tokens), HIDDEN // HEADS * KV_HEADS

    def draw(name: str, rows: int, columns: int, sigma: float) -> np.ndarray:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        return (rng.standard_normal((rows, columns)) * sigma).astype(np.float32)

    matrices = {"token_embd.weight": (size, HIDDEN), "output.weight": (size, HIDDEN)}
    for layer in range(LAYERS):
        blk = f"blk.{layer}."
        matrices |= {
            blk + "attn_q.weight": (HIDDEN, HIDDEN),
            blk + "attn_k.weight": (kv, HIDDEN),
            blk + "attn_v.weight": (kv, HIDDEN),
            blk + "attn_output.weight": (HIDDEN, HIDDEN),
            blk + "ffn_gate.weight": (FFN, HIDDEN),
            blk + "ffn_up.weight": (FFN, HIDDEN),
            blk + "ffn_down.weight": (HIDDEN, FFN),
        }
    # Twice the usual size, so that attention prefers some tokens to others and what is far back matters.
    tensors = {n: draw(n, rows, columns, 2 * columns**-0.5) for n, (rows, columns) in matrices.items()}
    tensors["output.weight"] *= LOGIT_SIGMA / 2
    # Control and other nameless tokens would end the answers; and noise should at least be printable.
    dull = [t for t, (text, type_) in enumerate(zip(words.tokens, words.types, strict=True))
            if type_ != NORMAL or not text.replace("Ġ", "").replace("▁", "").isascii()]  # fmt: skip
    tensors["output.weight"][dull] *= 0.01
    return _write(path, words, tensors, kind, context)


def write_parrot(path: Path, said: str) -> Path:
    """A model that says `said` after a line end (so also where its chat template lets the answer begin), and then ends.

    No byte may occur twice in `said`: the next token depends on the last one only.
    """
    words = sentence_piece(True)
    script = [3 + byte for byte in b"\n" + said.encode()] + [words.eos]
    assert len(set(script)) == len(script), "a byte occurs twice"
    size, kv = len(words.tokens), HIDDEN // HEADS * KV_HEADS
    rng = np.random.default_rng(1)
    embedding = rng.standard_normal((size, HIDDEN)).astype(np.float32)
    embedding *= HIDDEN**0.5 / np.linalg.norm(embedding, axis=1, keepdims=True)
    output = np.zeros_like(embedding)
    for token, following in zip(script, script[1:], strict=False):
        output[following] = embedding[token]
    tensors = {"token_embd.weight": embedding, "output.weight": output}
    for layer in range(LAYERS):
        blk = f"blk.{layer}."
        tensors |= {
            blk + "attn_q.weight": np.zeros((HIDDEN, HIDDEN), np.float32),
            blk + "attn_k.weight": np.zeros((kv, HIDDEN), np.float32),
            blk + "attn_v.weight": np.zeros((kv, HIDDEN), np.float32),
            blk + "attn_output.weight": np.zeros((HIDDEN, HIDDEN), np.float32),
            blk + "ffn_gate.weight": np.zeros((FFN, HIDDEN), np.float32),
            blk + "ffn_up.weight": np.zeros((FFN, HIDDEN), np.float32),
            blk + "ffn_down.weight": np.zeros((HIDDEN, FFN), np.float32),
        }
    return _write(path, words, tensors, "f32", CONTEXT)


def _write(path: Path, words: Vocabulary, tensors: dict[str, np.ndarray], kind: str, context: int) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"tiny {words.model} {kind}")
    writer.add_block_count(LAYERS)
    writer.add_context_length(context)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(words.tokens))
    _write_vocabulary(writer, words)
    writer.add_chat_template(CHATML)
    for name, values in tensors.items():
        raw = TYPES[kind]
        writer.add_tensor(name, values if kind == "f32" else gguf.quants.quantize(values, raw), raw_dtype=raw)
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(HIDDEN, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    _finish(writer)
    return path


def _write_vocabulary(writer: gguf.GGUFWriter, words: Vocabulary) -> None:
    writer.add_tokenizer_model(words.model)
    if words.merges is not None:
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges(words.merges)
    if words.scores is not None:
        writer.add_token_scores(words.scores)
        writer.add_unk_token_id(0)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_bos_token_id(words.bos)
    writer.add_eos_token_id(words.eos)
    writer.add_add_bos_token(words.model == "llama")


def write_encoder(path: Path) -> Path:
    """A model that can only embed (BERT): it loads, but no text comes out of it."""
    words = Vocabulary("bert", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"▁{c}" for c in LETTERS), *LETTERS],
                       [CONTROL, UNKNOWN, CONTROL, CONTROL] + [NORMAL] * 52, 2, 3, scores=[0.0] * 56)  # fmt: skip
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_block_count(1)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_token_type_count(2)
    _write_vocabulary(writer, words)
    rng = np.random.default_rng(3)

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(f"{name}.weight", rng.standard_normal((rows, columns)).astype(np.float32))

    def vector(name: str, size: int) -> None:
        writer.add_tensor(name, np.ones(size, np.float32))

    matrix("token_embd", len(words.tokens), HIDDEN)
    matrix("token_types", 2, HIDDEN)
    matrix("position_embd", CONTEXT, HIDDEN)
    for norm in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        vector(f"{norm}.weight", HIDDEN)
        vector(f"{norm}.bias", HIDDEN)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        matrix(f"blk.0.{name}", HIDDEN, HIDDEN)
        vector(f"blk.0.{name}.bias", HIDDEN)
    matrix("blk.0.ffn_up", FFN, HIDDEN)
    vector("blk.0.ffn_up.bias", FFN)
    matrix("blk.0.ffn_down", HIDDEN, FFN)
    vector("blk.0.ffn_down.bias", HIDDEN)
    _finish(writer)
    return path


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

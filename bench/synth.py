"""Makes GGUF models of real shapes with random weights, for measuring speed.

    python -m bench.synth --shape qwen2.5-0.5b --type q4_0 [--vocab FILE.gguf] -o OUT.gguf

The time of a step depends on shapes and types, not on values, so such a file measures a real
model's speed without being one. Its answers are word salad that never ends by itself: the rows
of end-of-generation, special and non-word tokens are damped, so generations run to max_tokens.
The token embedding, which is also the output matrix (tied), gets the type llama-quantize gives it:
Q4_0 files have Q6_K there, or Q8_0 where the hidden size is no multiple of 256 (as Qwen2.5-0.5B's 896).
Llama 3.2's rope_freqs tensor (64 numbers, no effect on speed) is left out.
"""

import argparse
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from bench import blocks, vocab

SEED = 20240607
DAMPING = 1 / 64  # of the rows that must not be generated
LOGIT_SIGMA = 3.0  # a trained model's logits spread about so far
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """What of a model decides its speed."""

    arch: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    context: int
    rope_theta: float
    qkv_bias: bool

    @property
    def head_dim(self) -> int:
        """Weights per attention head."""
        return self.hidden // self.heads


SHAPES = {
    "qwen2.5-0.5b": Shape("qwen2", 24, 896, 14, 2, 4864, 151936, 32768, 1e6, True),
    "llama-3.2-1b": Shape("llama", 16, 2048, 32, 8, 8192, 128256, 131072, 5e5, False),
    "tiny": Shape("llama", 4, 128, 4, 2, 384, 2048, 512, 1e4, False),
}
TYPES = {  # name -> (GGUF tensor type, llama.cpp's file type number)
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q6_k": (gguf.GGMLQuantizationType.Q6_K, gguf.LlamaFileType.MOSTLY_Q6_K),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
}


@dataclass(frozen=True)
class Tensor:
    """One tensor to write: `kind` is a key of TYPES, or "f32" for norms and biases."""

    name: str
    rows: int  # 0 for a vector
    cols: int
    kind: str
    sigma: float  # standard deviation
    mean: float = 0.0  # only for f32


def embedding_type(kind: str, hidden: int) -> str:
    """The type llama-quantize gives a tied token embedding in a file of type `kind`."""
    if kind != "q4_0":
        return kind
    return "q6_k" if hidden % 256 == 0 else "q8_0"


def plan_tensors(shape: Shape, tokens: int, kind: str, embedding: str) -> list[Tensor]:
    """All tensors in file order; sigmas give every matrix an output of about its input's size.

    The layers are not scaled down to the embedding (as a trainer would at the start): with tied weights the
    embedding's share of the last state votes for the same token again, and answers would be one word.
    """
    hidden, kv = shape.hidden, shape.kv_heads * shape.head_dim
    unit = hidden**-0.5
    plan = [Tensor("token_embd.weight", tokens, hidden, embedding, unit)]
    for layer in range(shape.layers):
        def add(name, *rest, prefix=f"blk.{layer}."):
            plan.append(Tensor(prefix + name, *rest))
        add("attn_norm.weight", 0, hidden, "f32", 0, 1)
        for name, rows in (("attn_q", hidden), ("attn_k", kv), ("attn_v", kv)):
            add(name + ".weight", rows, hidden, kind, unit)
            if shape.qkv_bias:
                # A value's bias is the one thing attention does not average away: a large one would
                # pull every answer to the same word.
                add(name + ".bias", 0, rows, "f32", 0.001 if name == "attn_v" else 0.1)
        add("attn_output.weight", hidden, hidden, kind, unit)
        add("ffn_norm.weight", 0, hidden, "f32", 0, 1)
        add("ffn_gate.weight", shape.ffn, hidden, kind, unit)
        add("ffn_up.weight", shape.ffn, hidden, kind, unit)
        add("ffn_down.weight", hidden, shape.ffn, kind, shape.ffn**-0.5)
    # The logits' spread is set here and not in the tied embedding: a large embedding would make
    # every token's best successor itself.
    plan.append(Tensor("output_norm.weight", 0, hidden, "f32", 0, LOGIT_SIGMA))
    return plan


def fill(tensor: Tensor, quiet_rows: np.ndarray, seed: int) -> np.ndarray:
    """The tensor's data; seeded by its name, so one tensor does not depend on the others' order."""
    rng = np.random.Generator(np.random.SFC64([seed, zlib.crc32(tensor.name.encode())]))
    if tensor.kind == "f32":
        noise = rng.standard_normal(tensor.cols, dtype=np.float32)
        return noise * np.float32(tensor.sigma) + np.float32(tensor.mean)
    data = blocks.MAKERS[tensor.kind](rng, tensor.rows, tensor.cols, tensor.sigma)
    if tensor.name == "token_embd.weight":
        blocks.damp_rows(data, tensor.kind, quiet_rows, DAMPING)
    return data


def add_metadata(writer: gguf.GGUFWriter, name: str, shape: Shape, words: vocab.Vocab, kind: str) -> None:
    """Everything but tensors: shape, vocabulary, chat template."""
    writer.add_name(f"synthetic {name} {kind} (random weights)")
    writer.add_file_type(TYPES[kind][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(words.tokens))
    if shape.arch == "llama":
        writer.add_rope_dimension_count(shape.head_dim)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_token_merges(words.merges)
    writer.add_bos_token_id(words.bos)
    writer.add_eos_token_id(words.eos)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)


def write_model(path: Path, name: str, kind: str, words: vocab.Vocab, embedding: str, seed: int) -> int:
    """Writes the file tensor by tensor (memory: the largest tensor) and returns the parameter count."""
    shape = SHAPES[name]
    plan = plan_tensors(shape, len(words.tokens), kind, embedding)
    writer = gguf.GGUFWriter(path, shape.arch)
    add_metadata(writer, name, shape, words, kind)
    for tensor in plan:
        dims = (tensor.rows, tensor.cols) if tensor.rows else (tensor.cols,)
        raw = gguf.GGMLQuantizationType.F32 if tensor.kind == "f32" else TYPES[tensor.kind][0]
        block, size = gguf.GGML_QUANT_SIZES[raw]
        nbytes = int(np.prod(dims, dtype=np.int64)) // block * size
        writer.add_tensor_info(tensor.name, dims, np.dtype(np.float32), nbytes, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    quiet = ~np.array(words.plain())
    for tensor in plan:
        writer.write_tensor_data(fill(tensor, quiet, seed))
    writer.close()
    return sum(max(tensor.rows, 1) * tensor.cols for tensor in plan)


def main() -> int:
    """Command line: make one file and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", required=True, choices=SHAPES)
    parser.add_argument("--type", default="q4_0", choices=("q4_0", "q8_0", "f16"))
    parser.add_argument("--vocab", type=Path, help="GGUF with the vocabulary to use (default: made up)")
    parser.add_argument("--embedding-type", choices=("auto", *TYPES), default="auto",
                        help="type of the tied embedding (auto: as llama-quantize)")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    started = time.monotonic()
    shape = SHAPES[args.shape]
    embedding = args.embedding_type
    if embedding == "auto":
        embedding = embedding_type(args.type, shape.hidden)
    if embedding == "q6_k" and shape.hidden % 256:
        parser.error(f"q6_k needs a hidden size that is a multiple of 256, not {shape.hidden}")
    words = vocab.read_vocab(args.vocab, shape.vocab) if args.vocab else vocab.make_vocab(shape.vocab)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    # A rename at the end, so that nobody who waits for the file reads half of it.
    part = args.output.with_name(args.output.name + ".part")
    params = write_model(part, args.shape, args.type, words, embedding, args.seed)
    part.rename(args.output)
    print(f"{args.output}: {args.shape} {args.type}, embedding {embedding}, {params / 1e6:.1f} M parameters, "
          f"{args.output.stat().st_size / 1e6:.1f} MB, vocabulary {words.source}, "
          f"{time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A GGUF file as a decoder for ONNX Runtime, without torch: `appliance models convert FILE.gguf FOLDER --to onnx`.

Weights in Q4_0 or Q8_0 blocks stay what they are (`gguf_weights`); the graph is `decoder_graph`'s. Names of tensors and of
metadata are GGUF's, what they mean is read in llama.cpp's src/models/*.cpp and ggml's rope.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from appliance.errors import ModelFileError
from appliance.factory import gguf_words
from appliance.factory.certify import sha256
from appliance.factory.convert_onnx import MODEL, whole_folder
from appliance.factory.decoder_graph import DATA, DecoderShape, Graph
from appliance.factory.gguf_weights import Blocks, check_numbers, join, read
from appliance.forms import SOURCE_FILE
from appliance.gguf_header import read_header

NEIGHBOURS_ROTATED = {"llama"}
"""Architectures whose GGUF files rotate numbers 2i and 2i + 1 of a head against each other; the others i and i + half."""
HEAD_NORMS = {"qwen3"}
HEAD_MULTIPLE = 16
ARCHITECTURES = {"llama", "qwen2", "qwen3"}
OUTPUT_BITS = 8
"""Of the output and the embedding when weights are rounded anew: they decide between all words, 4 bits cost too much there."""
LONGEST_CONTEXT = 131_072
"""The table of rotations is made for so many positions at most: it stands in the file."""
Tell = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class _Rotation:
    """Rotary positions. factors: what the frequencies are divided by, as the file has them for long contexts."""

    base: float
    size: int
    kind: str
    scale: float
    trained_context: int
    attention_factor: float
    beta: tuple[float, float]
    factors: np.ndarray | None

    def tables(self, context: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines, float32 [context, size / 2] each (ggml's rope_yarn; linear scaling is its first line)."""
        pairs = np.arange(self.size // 2, dtype=np.float64)
        rates = self.base ** (-2 * pairs / self.size)
        if self.factors is not None:
            rates = rates / self.factors
        scaled, strength = rates / self.scale, 1.0
        if self.kind == "yarn":
            low, high = self._bounds()
            kept = 1 - np.clip((pairs - low) / max(0.001, high - low), 0, 1)
            scaled, strength = scaled * (1 - kept) + rates * kept, self.attention_factor * (1 + 0.1 * math.log(self.scale))
        angles = np.outer(np.arange(context, dtype=np.float64), scaled)
        return (np.cos(angles) * strength).astype(np.float32), (np.sin(angles) * strength).astype(np.float32)

    def _bounds(self) -> tuple[float, float]:
        fast, slow = self.beta

        def turns(count: float) -> float:
            return self.size * math.log(self.trained_context / (count * 2 * math.pi)) / (2 * math.log(self.base))

        return max(0.0, math.floor(turns(fast))), min(self.size - 1.0, math.ceil(turns(slow)))


def convert(
    source: Path,
    target: Path,
    *,
    block: int | None = None,
    bits: int = 4,
    accuracy: int = 4,
    stands_for: Path | None = None,
    tell: Tell = lambda words, share: None,
) -> None:
    """Write the model in the GGUF file `source` to the folder `target`, whole or not at all.

    block: round the weights of an f16 or f32 file to `bits` (4 or 8) in blocks of so many. accuracy: 4 multiplies with 8-bit
    activations, 1 with float32. stands_for: another GGUF of the same model that this one may be served for. Raises ModelFileError for what has no equal in ONNX, InvalidRequest and StorageFailed.
    """
    header = read_header(source)
    reader = gguf.GGUFReader(source)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    about = {name: _value(field) for name, field in reader.fields.items() if "tokenizer" not in name}
    arch = header.architecture
    _check(arch, about, tensors)
    shape = _shape(about, tensors, accuracy)
    context = header.context_tokens or 2048
    needed = 2 * sum(tensor.n_bytes for tensor in reader.tensors) + (1 << 26)
    with whole_folder(target, needed) as part:
        tell("reading the vocabulary", 0.0)
        gguf_words.write(source, part, reader)
        with (part / DATA).open("wb") as data:
            graph = Graph(shape, data)
            _build(graph, _Weights(tensors, shape, arch, block, bits), _rotation(about, tensors, shape, context), min(context, LONGEST_CONTEXT), tell)
        graph.save(part / MODEL, "appliance")
        config = _config(about, shape, context)
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tell("hashing the source", 1.0)
        write_source(part, [source, *([stands_for] if stands_for else [])])


def write_source(folder: Path, files: Sequence[Path]) -> None:
    """Write down which GGUF files an ONNX model is another form of: `serve` takes it for no other (forms.SOURCE_FILE)."""
    (folder / SOURCE_FILE).write_text(json.dumps({"sha256": [sha256(file) for file in files], "files": [file.name for file in files]}, indent=2) + "\n")


class _Weights:
    """The tensors of the file as the graph wants them."""

    def __init__(self, tensors: Mapping[str, gguf.ReaderTensor], shape: DecoderShape, arch: str, block: int | None, bits: int) -> None:
        self._tensors, self._shape, self._arch, self._block, self._bits = tensors, shape, arch, block, bits

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def vector(self, name: str) -> np.ndarray:
        """float32 [size]."""
        values = np.ascontiguousarray(self._tensors[name].data, dtype=np.float32)
        check_numbers(values, name)
        return values

    def bias(self, name: str) -> np.ndarray | None:
        """float32 [size], None where the model has none there."""
        return self.vector(f"{name}.bias") if f"{name}.bias" in self else None

    def matrix(self, name: str, bits: int | None = None) -> Blocks | np.ndarray:
        """[out, in]. bits: of what is rounded, where not as the other weights."""
        return read(self._tensors[f"{name}.weight"], self._block, bits or self._bits)

    def heads(self, layer: str, part: str) -> tuple[Blocks | np.ndarray, np.ndarray | None]:
        """The matrix that makes queries, keys or values, and its bias; halves of a head rotate against each other."""
        matrix, bias = self.matrix(f"{layer}.attn_{part}"), self.bias(f"{layer}.attn_{part}")
        if part == "v" or self._arch not in NEIGHBOURS_ROTATED:
            return matrix, bias
        size, rows = self._shape.head_size, (self._shape.heads if part == "q" else self._shape.kv_heads) * self._shape.head_size
        order = np.arange(rows).reshape(-1, size // 2, 2).swapaxes(1, 2).reshape(-1)
        return (matrix[order] if isinstance(matrix, np.ndarray) else matrix.take(order)), (bias[order] if bias is not None else None)


def _build(graph: Graph, weights: _Weights, rotation: _Rotation, context: int, tell: Tell) -> None:
    layers = graph.shape.layers

    def product(x: str, name: str, part: str) -> str:
        return graph.product(x, name, weights.matrix(part), weights.bias(part))

    tables = [graph.weight(name, values) for name, values in zip(("cosines", "sines"), rotation.tables(context), strict=True)]
    states = graph.embedding(weights.matrix("token_embd", OUTPUT_BITS))
    normed = graph.norm(states, "layer.0.norm", weights.vector("blk.0.attn_norm.weight"))
    for number in range(layers):
        tell("writing the weights", number / layers)
        layer, name = f"blk.{number}", f"layer.{number}"
        attended = graph.attention(number, _qkv(graph, weights, layer, name, normed), tables)
        out = product(attended, f"{name}.out", f"{layer}.attn_output")
        normed, states = graph.add_norm(states, out, f"{name}.mlp_norm", weights.vector(f"{layer}.ffn_norm.weight"))
        gate, up = (product(normed, f"{name}.{part}", f"{layer}.ffn_{part}") for part in ("gate", "up"))
        active = graph.node("QuickGelu", [gate], f"{name}.silu", "com.microsoft", alpha=1.0)
        down = product(graph.node("Mul", [active, up], f"{name}.product"), f"{name}.down", f"{layer}.ffn_down")
        last = number + 1 == layers
        following = weights.vector("output_norm.weight" if last else f"blk.{number + 1}.attn_norm.weight")
        normed, states = graph.add_norm(states, down, "final_norm" if last else f"layer.{number + 1}.norm", following)
    tell("writing the weights", 1.0)
    graph.output(normed, weights.matrix("output", OUTPUT_BITS) if "output.weight" in weights else None)


def _qkv(graph: Graph, weights: _Weights, layer: str, name: str, x: str) -> list[str]:
    """One product for queries, keys and values where their weights are of one kind and nothing is done to one alone, else three."""
    matrices, biases = zip(*(weights.heads(layer, part) for part in "qkv"), strict=True)
    norms = {part: f"{layer}.attn_{part}_norm.weight" for part in "qk" if f"{layer}.attn_{part}_norm.weight" in weights}
    joined = None if norms else join(matrices)
    if joined is not None and len({bias is None for bias in biases}) == 1:
        return [graph.product(x, f"{name}.qkv", joined, None if biases[0] is None else np.concatenate(biases))]
    apart = {part: graph.product(x, f"{name}.{part}", m, b) for part, m, b in zip("qkv", matrices, biases, strict=True)}
    return [graph.head_norm(apart[part], f"{name}.{part}_norm", weights.vector(norms[part])) if part in norms else apart[part] for part in "qkv"]


def _check(arch: str, about: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    if arch not in ARCHITECTURES:
        raise ModelFileError(
            f"The architecture {arch or 'that the file does not name'} cannot be converted to ONNX.",
            remedy=f"Those that can: {', '.join(sorted(ARCHITECTURES))}. llama.cpp serves the GGUF file itself.",
        )
    layers = int(about.get(f"{arch}.block_count", 0))
    known = {"token_embd.weight", "output_norm.weight", "output.weight", "rope_freqs.weight"}
    parts = {"attn_norm.weight", "ffn_norm.weight", "attn_output.weight", "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"}
    parts |= {f"attn_{p}.weight" for p in "qkv"}
    optional = {part.replace(".weight", ".bias") for part in parts if "norm" not in part} | ({"attn_q_norm.weight", "attn_k_norm.weight"} if arch in HEAD_NORMS else set())
    wanted = {f"blk.{n}.{part}" for n in range(layers) for part in parts} | {"token_embd.weight", "output_norm.weight"}
    if lost := sorted(wanted - tensors.keys()):
        raise ModelFileError(f"The file lacks tensors that every {arch} has: {', '.join(lost[:4])}.", remedy="Download it again.")
    allowed = known | wanted | {f"blk.{n}.{part}" for n in range(layers) for part in optional}
    if left := sorted(tensors.keys() - allowed):
        raise ModelFileError(
            f"The model has parts that are not converted to ONNX: {', '.join(left[:4])}.", remedy="llama.cpp serves the GGUF file itself."
        )


def _shape(about: Mapping[str, Any], tensors: Mapping[str, gguf.ReaderTensor], accuracy: int) -> DecoderShape:
    arch = about["general.architecture"]

    def number(key: str, default: Any = None) -> Any:
        value = about.get(f"{arch}.{key}", default)
        if not isinstance(value, (int, float)):
            raise ModelFileError(f"The file's {arch}.{key} is missing or differs from layer to layer.", remedy="It cannot be converted to ONNX.")
        return value

    hidden, heads = int(number("embedding_length")), int(number("attention.head_count"))
    size = int(number("attention.key_length", hidden // heads))
    if number("attention.value_length", size) != size or number("rope.dimension_count", size) != size:
        raise ModelFileError(
            "Keys and values of different sizes, or positions in a part of them, are not converted to ONNX.", remedy="llama.cpp serves the file."
        )
    if size % HEAD_MULTIPLE:
        raise ModelFileError(
            f"Heads of {size} numbers are not computed by ONNX Runtime, only multiples of {HEAD_MULTIPLE}.", remedy="llama.cpp serves the GGUF file itself."
        )
    return DecoderShape(
        vocabulary=int(tensors["token_embd.weight"].shape[1]),
        hidden=hidden,
        layers=int(number("block_count")),
        heads=heads,
        kv_heads=int(number("attention.head_count_kv", heads)),
        head_size=size,
        norm_eps=float(number("attention.layer_norm_rms_epsilon")),
        accuracy=accuracy,
    )


def _rotation(about: Mapping[str, Any], tensors: Mapping[str, gguf.ReaderTensor], shape: DecoderShape, context: int) -> _Rotation:
    prefix = f"{about['general.architecture']}.rope."
    kind = str(about.get(f"{prefix}scaling.type", "none"))
    if kind not in ("none", "linear", "yarn"):
        raise ModelFileError(f"Positions scaled by {kind!r} are not converted to ONNX.", remedy="llama.cpp serves the GGUF file itself.")
    factors = tensors.get("rope_freqs.weight")
    return _Rotation(
        base=float(about.get(f"{prefix}freq_base", 10_000.0)),
        size=shape.head_size,
        kind=kind,
        scale=1.0 if kind == "none" else float(about.get(f"{prefix}scaling.factor", about.get(f"{prefix}scale_linear", 1.0))) or 1.0,
        trained_context=int(about.get(f"{prefix}scaling.original_context_length", context)),
        attention_factor=float(about.get(f"{prefix}scaling.yarn_attn_factor", about.get(f"{prefix}scaling.attn_factor", 1.0))),
        beta=(float(about.get(f"{prefix}scaling.yarn_beta_fast", 32.0)), float(about.get(f"{prefix}scaling.yarn_beta_slow", 1.0))),
        factors=None if factors is None else np.asarray(factors.data, dtype=np.float64),
    )


def _config(about: Mapping[str, Any], shape: DecoderShape, context: int) -> dict[str, Any]:
    """config.json by Hugging Face's names, so that other tools can read what the model is."""
    arch = about["general.architecture"]
    names = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
    return {
        "architectures": [names[arch]], "model_type": arch, "vocab_size": shape.vocabulary, "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size, "max_position_embeddings": min(context, LONGEST_CONTEXT), "rms_norm_eps": shape.norm_eps,
        "rope_theta": float(about.get(f"{arch}.rope.freq_base", 10_000.0)), "hidden_act": "silu",
    }  # fmt: skip


def _value(field: gguf.ReaderField) -> Any:
    try:
        return field.contents()
    except (ValueError, TypeError, IndexError, UnicodeDecodeError):
        return None

"""What a Hugging Face config.json says of a model, in GGUF's terms: its sizes, its tensors, its metadata.

Everything that changes the computation is either written or refused; nothing is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np

from appliance.errors import ModelFileError

Tell = Callable[[str, float], None]
"""What is being done or should be known, and the share of the work that is done."""
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "GPT2LMHeadModel": "gpt2",
    "BertModel": "bert",
    "BertForMaskedLM": "bert",
    "BertForPreTraining": "bert",
}
"""What config.json calls an architecture, to what llama.cpp calls it."""
GELU = {"gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast"}
ACTIVATIONS = {
    "llama": {"silu"}, "qwen2": {"silu"}, "qwen3": {"silu"},
    "gpt2": GELU, "bert": GELU,
}  # fmt: skip
"""llama.cpp's GELU is the one by tanh; the exact one differs by at most 5e-4."""
MOST_LAYERS = 512
"""llama.cpp's LLAMA_MAX_LAYERS."""
GPT2_KEYS = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
             "intermediate_size": "n_inner", "max_position_embeddings": "n_positions"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """What config.json says of the model, by the same names for every architecture. Sizes are in numbers, not bytes.

    biased: the matrices of a layer that have a bias, by their GGUF names, where not all have one.
    """

    arch: str
    vocabulary: int
    context: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    ffn: int
    norm_eps: float
    tied: bool
    token_types: int
    biased: frozenset[str]


def read_shape(config: Mapping[str, Any]) -> Shape:
    """The model's shape. Raises ModelFileError for an architecture or a feature that is not converted."""
    listed = config.get("architectures")
    named = str(listed[0]) if isinstance(listed, list) and listed else "that config.json does not name"
    arch = ARCHITECTURES.get(named)
    if arch is None:
        raise ModelFileError(
            f"The architecture {named} cannot be converted.", remedy=f"Those that can: {', '.join(ARCHITECTURES)}."
        )
    if arch == "gpt2":
        config = {new: config.get(old) for new, old in GPT2_KEYS.items()} | dict(config)
    hidden, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    head_size = _number(config, "head_dim", 128 if arch == "qwen3" else hidden // heads)
    shape = Shape(
        arch=arch,
        vocabulary=_number(config, "vocab_size"),
        context=_number(config, "max_position_embeddings"),
        hidden=hidden,
        layers=_number(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=_number(config, "num_key_value_heads", heads),
        head_size=head_size,
        ffn=_number(config, "intermediate_size", 4 * hidden if arch == "gpt2" else None),
        norm_eps=_norm_eps(config, arch),
        tied=bool(config.get("tie_word_embeddings", arch in ("gpt2", "bert"))),
        token_types=_number(config, "type_vocab_size", 2) if arch == "bert" else 0,
        biased=_biased(config, arch),
    )
    if shape.heads % shape.kv_heads or (arch not in ("llama", "qwen3") and head_size * heads != hidden):
        raise refused(f"{heads} heads of {head_size} with {shape.kv_heads} key-value heads and a width of {hidden}")
    if head_size % 2 and arch not in ("gpt2", "bert"):
        raise refused(f"rotary positions need pairs, and its heads are {head_size} wide")
    if shape.layers > MOST_LAYERS:
        raise refused(f"it has {shape.layers} layers")
    _no_surprises(config, arch)
    return shape


def refused(what: str) -> ModelFileError:
    """The error for a model that llama.cpp would compute differently. what: the feature it does not know."""
    return ModelFileError(f"llama.cpp cannot compute this model: {what}.", remedy="Take another model.")


def _number(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
        raise ModelFileError(f"config.json has {key}={value!r}, not a positive number.", remedy="Download it again.")
    return value


def _real(config: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
        raise ModelFileError(f"config.json has {key}={value!r}, not a positive number.", remedy="Download it again.")
    return float(value)


def _norm_eps(config: Mapping[str, Any], arch: str) -> float:
    key, default = {"gpt2": ("layer_norm_epsilon", 1e-5), "bert": ("layer_norm_eps", 1e-12)}.get(arch, ("rms_norm_eps", 1e-6))
    return _real(config, key, default)


def _no_surprises(config: Mapping[str, Any], arch: str) -> None:
    """Refuse settings that change the computation and that llama.cpp does not know."""
    activation = config.get("activation_function" if arch == "gpt2" else "hidden_act")
    if activation is not None and activation not in ACTIVATIONS[arch]:
        raise refused(f"its activation is {activation!r}")
    usual = {"position_embedding_type": "absolute", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
             "partial_rotary_factor": 1.0, "add_cross_attention": False}  # fmt: skip
    usual |= {"bert": {"is_decoder": False}, "qwen3": {"attention_bias": False}}.get(arch, {})
    for key, value in usual.items():
        if config.get(key, value) not in (value, None):
            raise refused(f"config.json has {key}={config[key]!r}")
    if config.get("quantization_config"):
        raise ModelFileError(
            "The weights are quantized already.", remedy="Take the original model, with bf16, f16 or f32 weights."
        )


def _biased(config: Mapping[str, Any], arch: str) -> frozenset[str]:
    if arch == "qwen2":
        return frozenset(("attn_q", "attn_k", "attn_v"))
    found = {"attn_q", "attn_k", "attn_v", "attn_output"} if config.get("attention_bias") else set()
    return frozenset(found | ({"ffn_gate", "ffn_up", "ffn_down"} if config.get("mlp_bias") else set()))


def expected(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Every tensor the GGUF file must have (rope_freqs apart), and its shape, the longest stride first."""
    h, f = shape.hidden, shape.ffn
    q, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (shape.vocabulary, h)}
    if shape.arch == "bert":
        norms, matrices = ("attn_output_norm", "layer_output_norm"), {"attn_q": (q, h), "attn_k": (kv, h), "attn_v": (kv, h)}
        found |= {"token_types.weight": (shape.token_types, h), "token_embd_norm.weight": (h,), "token_embd_norm.bias": (h,)}
    elif shape.arch == "gpt2":
        norms, matrices = ("attn_norm", "ffn_norm"), {"attn_qkv": (3 * h, h)}
        found["output_norm.bias"] = (h,)
    else:
        norms, matrices = ("attn_norm", "ffn_norm"), {"attn_q": (q, h), "attn_k": (kv, h), "attn_v": (kv, h), "ffn_gate": (f, h)}
    matrices |= {"attn_output": (h, q), "ffn_up": (f, h), "ffn_down": (h, f)}
    plain = shape.arch in ("gpt2", "bert")
    if plain:
        found["position_embd.weight"] = (shape.context, h)
    if shape.arch != "bert":
        found["output_norm.weight"] = (h,)
        if not shape.tied:
            found["output.weight"] = (shape.vocabulary, h)
    for number in range(shape.layers):
        block = f"blk.{number}."
        for norm in norms:
            found |= {f"{block}{norm}.{kind}": (h,) for kind in (("weight", "bias") if plain else ("weight",))}
        for matrix, size in matrices.items():
            found[f"{block}{matrix}.weight"] = size
            if plain or matrix in shape.biased:
                found[f"{block}{matrix}.bias"] = size[:1]
        if shape.arch == "qwen3":
            found |= {f"{block}attn_{part}_norm.weight": (shape.head_size,) for part in "qk"}
    return found


def describe(writer: gguf.GGUFWriter, config: Mapping[str, Any], shape: Shape, tell: Tell) -> np.ndarray | None:
    """The architecture's metadata. The factors of the rotary frequencies where the model scales each by its own."""
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    if shape.arch in ("gpt2", "bert"):
        writer.add_context_length(shape.context)
        writer.add_layer_norm_eps(shape.norm_eps)
        if shape.arch == "bert":
            writer.add_causal_attention(False)
            writer.add_token_type_count(shape.token_types)
        return None
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_rope_dimension_count(shape.head_size)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ModelFileError(f"config.json has rope_scaling={rope!r}, not a table.", remedy="Download it again.")
    base = _real(rope, "rope_theta", _real(config, "rope_theta", 10000.0))
    writer.add_rope_freq_base(base)
    context, frequencies = _rope(writer, rope, shape, base)
    window = config.get("sliding_window") if config.get("use_sliding_window", shape.arch == "llama") else None
    if isinstance(window, int) and 0 < window < context:
        tell(f"This model looks back {window} tokens only, which llama.cpp does not do; its context ends there.", 0.0)
        context = window
    writer.add_context_length(context)
    return frequencies


def _rope(writer: gguf.GGUFWriter, rope: Mapping[str, Any], shape: Shape, base: float) -> tuple[int, np.ndarray | None]:
    """Write how rotary positions are scaled; the context and the frequencies' factors.

    transformers' modeling_rope_utils.py has the formulas; Llama 3's is the one of its reference code.
    """
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return shape.context, None
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(_real(rope, "factor"))
        return shape.context, None
    if kind == "yarn" and rope.get("truncate", True):
        factor, original = _real(rope, "factor"), _number(rope, "original_max_position_embeddings", shape.context)
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_yarn_beta_fast(_real(rope, "beta_fast", 32.0))
        writer.add_rope_scaling_yarn_beta_slow(_real(rope, "beta_slow", 1.0))
        usual = _attention_scale(factor, 1.0)  # llama.cpp multiplies by it
        scale = _real(rope, "attention_factor", usual)
        if rope.get("attention_factor") is None and rope.get("mscale") and rope.get("mscale_all_dim"):
            scale = _attention_scale(factor, _real(rope, "mscale")) / _attention_scale(factor, _real(rope, "mscale_all_dim"))
        writer.add_rope_scaling_attn_factors(scale / usual)
        return max(shape.context, int(original * factor)), None
    if kind == "llama3" and shape.arch == "llama":
        return shape.context, _llama3_factors(rope, shape.head_size, base)
    raise refused(f"its rotary positions are scaled by the rule {kind!r}")


def _attention_scale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _llama3_factors(rope: Mapping[str, Any], head_size: int, base: float) -> np.ndarray:
    """By what llama.cpp divides each rotary frequency; [head_size / 2]."""
    factor, original = _real(rope, "factor"), _number(rope, "original_max_position_embeddings")
    low, high = _real(rope, "low_freq_factor"), _real(rope, "high_freq_factor")
    if high <= low:
        raise ModelFileError(f"config.json has high_freq_factor={high:g}, not above low_freq_factor={low:g}.")
    turns = original / (2 * np.pi * base ** (np.arange(0, head_size, 2) / head_size))  # within the original context
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)

"""A student as a Hugging Face folder (LlamaForCausalLM), from which the ONNX exporter and other tools go on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from appliance.factory import words
from appliance.factory.student import Student

BLOCK = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
BLOCK |= {part: f"self_attn.{part}_proj" for part in "qkvo"} | {part: f"mlp.{part}_proj" for part in ("gate", "up", "down")}


def export(student: Student, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json, model.safetensors (f32), tokenizer.json and tokenizer_config.json into a new folder."""
    folder.mkdir(parents=True)
    shape, end = student.shape, tokenizer.token_to_id(words.END)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32", "hidden_act": "silu",
        "vocab_size": shape.vocabulary, "hidden_size": shape.hidden, "intermediate_size": shape.ffn, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "max_position_embeddings": shape.context,
        "rope_theta": shape.rope_base, "rms_norm_eps": shape.norm_eps, "tie_word_embeddings": True,
        "bos_token_id": None, "eos_token_id": end, "pad_token_id": tokenizer.token_to_id(words.PAD),
    }  # fmt: skip
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {"eos_token_id": end, "pad_token_id": config["pad_token_id"], "do_sample": False})
    _write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": words.END, "pad_token": words.PAD, "chat_template": words.CHAT_TEMPLATE,
         "model_max_length": shape.context, "clean_up_tokenization_spaces": False},
    )  # fmt: skip
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = {}
    for key, tensor in student.state_dict().items():
        values = tensor.float().cpu().numpy()
        if key.endswith((".q.weight", ".k.weight")):
            values = _halves(values, shape.hidden // shape.heads)
        weights[_name(key)] = np.ascontiguousarray(values)
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})


def _halves(weight: np.ndarray, head: int) -> np.ndarray:
    """Rows from neighbouring rotary pairs (2i, 2i+1) to transformers' order (i, i + head/2), head by head."""
    rows, columns = weight.shape
    return weight.reshape(rows // head, head // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _name(key: str) -> str:
    if key == "embedding.weight":
        return "model.embed_tokens.weight"
    if key == "norm.weight":
        return "model.norm.weight"
    _, number, part, _ = key.split(".")
    return f"model.layers.{number}.{BLOCK[part]}.weight"


def _write(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")

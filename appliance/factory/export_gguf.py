"""A student as a GGUF file with its vocabulary and chat template."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from appliance.factory import words
from appliance.factory.student import Student

NORMAL, CONTROL = 1, 3
BLOCK = {"attn_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "ffn_norm": "ffn_norm"}
BLOCK |= {"gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}


def export(
    student: Student, tokenizer: Tokenizer, target: Path, name: str, licence: str, weights: type = np.float16, times: int = 1, more: Sequence[str] = ()
) -> None:
    """Write weights of the numpy type `weights` (norms always f32) to `target`, whole or not at all. times: see words.chat_template.
    more: the texts of the student's tokens behind the tokenizer's, which no text is ever made of; behind
    them an answer ends with PAD, because END is in the prompts."""
    shape = student.shape
    part = target.with_name(f".{target.name}.part")
    writer = gguf.GGUFWriter(str(part), "llama")
    writer.add_name(name)
    writer.add_license(licence)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if weights is np.float32 else gguf.LlamaFileType.MOSTLY_F16)
    _vocabulary(writer, tokenizer, shape.vocabulary, more)
    writer.add_chat_template(words.chat_template(times))
    for key, tensor in student.state_dict().items():
        values = tensor.float().cpu().numpy()
        writer.add_tensor(_gguf_name(key), values.astype(np.float32 if values.ndim == 1 else weights))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _gguf_name(key: str) -> str:
    if key == "embedding.weight":
        return "token_embd.weight"
    if key == "norm.weight":
        return "output_norm.weight"
    _, number, part, _ = key.split(".")
    return f"blk.{number}.{BLOCK[part]}.weight"


def _vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer, size: int, more: Sequence[str]) -> None:
    model = json.loads(tokenizer.to_str())["model"]
    by_id = {number: text for text, number in model["vocab"].items()}
    spell = ByteLevel(add_prefix_space=False, use_regex=False)
    by_id |= {size - len(more) + place: spell.pre_tokenize_str(text)[0][0] for place, text in enumerate(more)}
    tokens = [by_id.get(number, f"<|extra_{number}|>") for number in range(size)]
    types = [CONTROL if t in words.SPECIAL or number not in by_id else NORMAL for number, t in enumerate(tokens)]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokenizer.token_to_id(words.PAD if more else words.END))
    writer.add_pad_token_id(tokenizer.token_to_id(words.PAD))
    writer.add_add_bos_token(False)

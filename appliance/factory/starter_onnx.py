"""The starter as ONNX: exported, its weights rounded to 8 bits in blocks, and asked the same questions."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from appliance.factory import convert_onnx, export_checkpoint, quantize_onnx, words
from appliance.factory.student import Student

AT_ONCE = 32


def make(student: Student, tokenizer: Tokenizer, target: Path) -> None:
    """Write the folder `target`, whole or not at all. See convert_onnx.convert and quantize_onnx.quantize for errors."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        steps = Path(scratch)
        export_checkpoint.export(student, tokenizer, steps / "checkpoint")
        convert_onnx.convert(steps / "checkpoint", steps / "float32", task="text-generation-with-past")
        quantize_onnx.quantize(steps / "float32", target, "int8-block")


def ask(folder: Path, questions: Sequence[str], longest: int) -> list[str]:
    """Greedy answers, `AT_ONCE` questions in one batch, in the order of the questions."""
    from optimum.onnxruntime import ORTModelForCausalLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", local_files_only=True)
    model = ORTModelForCausalLM.from_pretrained(folder, local_files_only=True)
    order = sorted(range(len(questions)), key=lambda at: len(questions[at]))  # alike in length: little padding
    answers = [""] * len(questions)
    for start in range(0, len(order), AT_ONCE):
        part = order[start : start + AT_ONCE]
        batch = tokenizer([words.prompt_text(questions[at]) for at in part], padding=True, return_tensors="pt", return_token_type_ids=False)
        found = model.generate(**batch, max_new_tokens=longest, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        texts = tokenizer.batch_decode(found[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for at, text in zip(part, texts, strict=True):
            answers[at] = text
    return answers

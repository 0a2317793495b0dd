"""An encoder student whose answers are labels: a small BERT with a classification head, trained with torch, served as ONNX.

Its vocabulary is the student's byte-level one; START stands in front of every text and its output is what the head sees.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from appliance.errors import InvalidRequest
from appliance.factory import questions, words
from appliance.factory.prompts import normalise
from appliance.factory.student import Recipe, Shape, Tell, fit
from appliance.factory.teacher import Pair

MOST_LABELS, LONGEST_LABEL = 1000, 100
MOST_WRONG = 20


def labels_of(pairs: Sequence[Pair]) -> dict[str, str]:
    """Each normalised answer with its most frequent spelling, sorted. Raises InvalidRequest when these are no labels."""
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for pair in pairs:
        spellings[normalise(pair.answer)][pair.answer] += 1
    longest = max((pair.answer for pair in pairs), key=len, default="")
    if not 2 <= len(spellings) <= min(MOST_LABELS, len(pairs) // 2) or len(longest) > LONGEST_LABEL:
        raise InvalidRequest(
            f"The {len(pairs)} answers are no labels: {len(spellings)} are different, and the longest has {len(longest)} characters.",
            param="kind",
            remedy="Ask the teacher for one of a few words, or distil answers instead of labels.",
        )
    return {key: spellings[key].most_common(1)[0][0] for key in sorted(spellings)}


def tokenizer_of(path: Path) -> Tokenizer:
    """The vocabulary in a tokenizer.json, with START put in front of every text."""
    tokenizer = words.load(path)
    tokenizer.post_processor = TemplateProcessing(single=f"{words.START} $A", special_tokens=[(words.START, tokenizer.token_to_id(words.START))])
    return tokenizer


def train(run: Path, pairs: Sequence[Pair], shape: Shape, recipe: Recipe, noise: bool, tell: Tell) -> Path:
    """Train, going on from run/checkpoint.pt, and save the checkpoint folder run/bert, which is whole when it is there.

    The examples of a step depend on the seed and the step alone. Raises InvalidRequest when the loss is no number.
    """
    target = run / "bert"
    if target.is_dir():
        return target
    from transformers import BertConfig, BertForSequenceClassification

    labels = labels_of(pairs)
    keys = list(labels)
    tokenizer = tokenizer_of(run / "tokenizer.json")
    torch.manual_seed(recipe.seed)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=shape.vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
            intermediate_size=shape.ffn, max_position_embeddings=shape.context, hidden_dropout_prob=recipe.dropout,
            attention_probs_dropout_prob=recipe.dropout, pad_token_id=tokenizer.token_to_id(words.PAD),
            id2label=dict(enumerate(labels.values())), label2id={label: at for at, label in enumerate(labels.values())},
        )
    )  # fmt: skip

    def loss(rng: random.Random) -> torch.Tensor:
        chosen = [rng.choice(pairs) for _ in range(recipe.batch)]
        texts = [questions.disturb(pair.prompt.question, rng) if noise else pair.prompt.question for pair in chosen]
        ids, mask = batch(texts, tokenizer, shape.context)
        targets = torch.tensor([keys.index(normalise(pair.answer)) for pair in chosen])
        return model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), labels=targets).loss

    fit(model, loss, recipe, run / "checkpoint.pt", asdict(shape), tell)
    part = run / "bert.part"
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    tokenizer.save(str(part / "tokenizer.json"))
    os.rename(part, target)
    return target


def batch(texts: Sequence[str], tokenizer: Tokenizer, context: int) -> tuple[np.ndarray, np.ndarray]:
    """(token ids, attention mask), int64 [texts, longest]; what is longer than the context is cut off."""
    found = [encoding.ids[:context] for encoding in tokenizer.encode_batch(list(texts))]
    ids = np.full((len(found), max(map(len, found))), tokenizer.token_to_id(words.PAD), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(found):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    return ids, mask


def answers(folder: Path, texts: Sequence[str], threads: int = 0) -> tuple[list[str], float]:
    """(labels of the texts by the ONNX model in `folder`, texts a second, one at a time). threads: 0 for all."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    config = json.loads((folder / "config.json").read_text("utf-8"))
    tokenizer = words.load(folder / "tokenizer.json")
    known = {each.name for each in session.get_inputs()}
    found, began = [], time.perf_counter()
    for text in texts:
        ids, mask = batch([text], tokenizer, config["max_position_embeddings"])
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        [logits] = session.run(["logits"], {name: values for name, values in given.items() if name in known})
        found.append(config["id2label"][str(int(logits[0].argmax()))])
    return found, len(texts) / max(1e-9, time.perf_counter() - began)


def judge(folder: Path, held_out: Sequence[Pair], trained: Sequence[Pair], threads: int = 0) -> dict[str, Any]:
    """match: share of held-out texts with the teacher's label; trained_match: of some trained ones; texts_per_s; by_label;
    majority: what always answering the most frequent label would reach."""
    given, speed = answers(folder, [pair.prompt.question for pair in held_out], threads)
    right = [normalise(label) == normalise(pair.answer) for label, pair in zip(given, held_out, strict=True)]
    again, _ = answers(folder, [pair.prompt.question for pair in trained[:100]], threads)
    total = Counter(normalise(pair.answer) for pair in held_out)
    hits = Counter(normalise(pair.answer) for pair, good in zip(held_out, right, strict=True) if good)
    return {
        "questions": len(held_out),
        "match": sum(right) / len(held_out),
        "majority": max(total.values()) / len(held_out),
        "trained_match": sum(normalise(a) == normalise(p.answer) for a, p in zip(again, trained[:100], strict=True)) / len(again),
        "by_label": {label: hits[label] / count for label, count in sorted(total.items())},
        "wrong": [
            {"question": pair.prompt.question, "teacher": pair.answer, "student": label}
            for pair, label, good in zip(held_out, given, right, strict=True)
            if not good
        ][:MOST_WRONG],
        "texts_per_s": speed,
        "size_bytes": sum(path.stat().st_size for path in folder.iterdir()),
    }

"""Small random encoders of transformers, exported by the factory, and what transformers says to the same texts.

Everything of torch runs on threads of its own: on CPUs with AMX, torch and onnxruntime in turn on one thread leave each
other's tile registers in a state in which both compute nonsense.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = "the a box answers question server disk is full empty slow fast how do i restart model add remove key user".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
VOCABULARY = list(dict.fromkeys([*SPECIAL, *".,?'", *LETTERS, *WORDS, *(f"##{letter}" for letter in LETTERS), "##er", "##ing"]))
LINES = [" ".join(np.random.default_rng(seed).choice(WORDS, size=1 + seed * 5 % 19)) + "?" * (seed % 2) for seed in range(40)]
POSITIONS = 48
SHAPE = {"vocab_size": len(VOCABULARY), "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
         "max_position_embeddings": POSITIONS, "initializer_range": 0.3}  # fmt: skip
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "embed": ("BertModel", {}),
    "rerank": ("BertForSequenceClassification", {"num_labels": 1}),
    "classify": ("BertForSequenceClassification", {"id2label": {0: "calm", 1: "angry", 2: "sad"}, "label2id": {"calm": 0, "angry": 1, "sad": 2}}),
    "multi": ("BertForSequenceClassification", {"num_labels": 3, "problem_type": "multi_label_classification"}),
    "nli": ("BertForSequenceClassification", {"id2label": {0: "contradiction", 1: "neutral", 2: "entailment"}, "label2id": {"contradiction": 0, "neutral": 1, "entailment": 2}}),
    "tokens": ("BertForTokenClassification", {"id2label": {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"},
                                              "label2id": {"O": 0, "B-PER": 1, "I-PER": 2, "B-LOC": 3, "I-LOC": 4}}),
}  # fmt: skip
"""Class and configuration by kind."""


def on_a_thread(work: Callable[[], Any]) -> Any:
    """Do some work on a thread of its own, without the warnings of the libraries; its result or its exception."""
    kept: list[Any] = []

    def run() -> None:
        try:
            kept.append((work(), None))
        except BaseException as error:
            kept.append((None, error))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    result, error = kept[0]
    if error:
        raise error
    return result


def write_tokenizer(folder: Path) -> None:
    """A small WordPiece vocabulary as BERT has it."""
    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{name.lower()[1:-1]}_token": name for name in SPECIAL}
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": POSITIONS, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_checkpoint(folder: Path, kind: str) -> None:
    """A random model of a kind (see HEADS)."""

    def write() -> None:
        import torch
        import transformers

        torch.manual_seed(11)
        name, settings = HEADS[kind]
        getattr(transformers, name)(transformers.BertConfig(**SHAPE, **settings)).eval().save_pretrained(folder)

    on_a_thread(write)
    write_tokenizer(folder)


def write_json(path: Path, values: Any) -> None:
    """A file of a model's folder."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values))


def states(folder: Path, texts: Sequence[str], limit: int = POSITIONS) -> list[np.ndarray]:
    """transformers' last hidden states [tokens, width] of each text, computed alone."""

    def compute() -> list[np.ndarray]:
        import torch
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModel.from_pretrained(folder).eval()
        with torch.no_grad():
            feeds = [tokenizer(text, return_tensors="pt", truncation=True, max_length=limit) for text in texts]
            return [model(**feed).last_hidden_state[0].numpy() for feed in feeds]

    return on_a_thread(compute)


def logits(folder: Path, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """transformers' logits [pairs, labels] of pairs of texts, each cut to the model's length and computed alone."""

    def compute() -> np.ndarray:
        import torch
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
        with torch.no_grad():
            feeds = [tokenizer(*([part] for part in pair), return_tensors="pt", truncation=True, max_length=POSITIONS) for pair in pairs]
            return np.concatenate([model(**feed).logits.numpy() for feed in feeds])

    return on_a_thread(compute)


def pipeline(folder: Path, task: str, *args: Any, **how: Any) -> Any:
    """What transformers' own pipeline for a task answers."""

    def compute() -> Any:
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        kind = "TokenClassification" if task == "token-classification" else "SequenceClassification"
        model = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(folder)
        settings = {key: how.pop(key) for key in ("aggregation_strategy",) if key in how}
        return transformers.pipeline(task, model=model, tokenizer=tokenizer, device="cpu", **settings)(*args, **how)

    return on_a_thread(compute)


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Of each row."""
    return (ours * theirs).sum(axis=-1) / np.linalg.norm(ours, axis=-1) / np.linalg.norm(theirs, axis=-1)

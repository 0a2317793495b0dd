"""How much an ONNX encoder loses and gains against its float32 original, measured side by side in one run; `evaluate` is for
models that write text.

Encoders: cosine of each sentence's two embeddings; Spearman's rank correlation of the similarities of sentence pairs.
Classifiers: accuracy on labelled lines, and how often both name the same class. Speeds are taken in turns, batch by
batch, so that what else the machine does falls on both; each is the median of the turns, and the ratio that of the pairs.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from appliance.errors import InvalidRequest, ModelFileError, ModelFileMissing
from appliance.factory.convert_onnx import MODEL, TOKENIZER, read_config

LONGEST_TOKENS = 512
SPEED_TURNS = 15


@dataclass(frozen=True, slots=True)
class Speed:
    """Sentences a second, median of the turns, and the candidate's gain: the median of the turns' ratios."""

    batch: int
    reference: float
    candidate: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Costs:
    """Sizes of the model files in bytes, times to open them in seconds. size_ratio: candidate as a share of the reference."""

    reference_bytes: int
    candidate_bytes: int
    size_ratio: float
    reference_load_s: float
    candidate_load_s: float


@dataclass(frozen=True, slots=True)
class EncoderScore:
    """What an embedder keeps. batched: mean cosine of a sentence alone and in a batch of 8, both by the candidate."""

    sentences: int
    mean_cosine: float
    min_cosine: float
    spearman: float
    batched_mean_cosine: float
    batched_min_cosine: float
    costs: Costs
    speed: tuple[Speed, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ClassifierScore:
    """What a classifier keeps. Accuracies are shares of all lines; agreement: both name the same class."""

    lines: int
    accuracy: float
    reference_accuracy: float
    agreement: float
    costs: Costs
    speed: tuple[Speed, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Runner:
    """A converted model with its tokenizer. threads: 0 for onnxruntime's choice. Raises ModelFileMissing or ModelFileError."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        for name in (MODEL, TOKENIZER):
            if not (folder / name).is_file():
                raise ModelFileMissing(f"There is no {folder / name}.", remedy="Give a folder that convert has made.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        began = time.perf_counter()
        try:
            self.session = onnxruntime.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
            self.load_s = time.perf_counter() - began
            self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # both libraries raise classes of their own making
            raise ModelFileError(f"{folder} cannot be opened: {str(error).splitlines()[0][:300]}") from error
        self.size_bytes = sum(path.stat().st_size for path in folder.glob(f"{MODEL}*"))
        self.inputs = {wanted.name for wanted in self.session.get_inputs()}
        self.config = read_config(folder)
        self.pooling = pooling_of(folder)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(longest_of(folder, self.config))

    def run(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """(first output of the model, attention mask [texts, tokens]) for sentences or pairs of them."""
        rows = self.tokenizer.encode_batch(list(texts))
        shape = (len(rows), max(len(row.ids) for row in rows))
        feed = {name: np.zeros(shape, np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
        for at, row in enumerate(rows):
            feed["input_ids"][at, : len(row.ids)] = row.ids
            feed["attention_mask"][at, : len(row.ids)] = 1
            feed["token_type_ids"][at, : len(row.ids)] = row.type_ids
        [first] = self.session.run([self.session.get_outputs()[0].name], {k: v for k, v in feed.items() if k in self.inputs})
        return first, feed["attention_mask"]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Pooled embeddings of length one, float32 [texts, width]."""
        states, mask = self.run(texts)
        if self.pooling == "cls":
            vectors = states[:, 0]
        else:
            vectors = (states * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def classify(self, texts: Sequence[Any]) -> np.ndarray:
        """The class of each text (or pair of texts), int [texts]; with a single output, whether it is above 0."""
        scores, _ = self.run(texts)
        return scores.argmax(axis=1) if scores.shape[1] > 1 else (scores[:, 0] > 0).astype(np.int64)

def pooling_of(folder: Path) -> str:
    """"mean" or "cls", as 1_Pooling/config.json says; "mean" without it. Raises ModelFileError for other ways."""
    path = folder / "1_Pooling" / "config.json"
    try:
        found = json.loads(path.read_text("utf-8"))
        ways = {key.removeprefix("pooling_mode_") for key, value in found.items() if key.startswith("pooling_mode_") and value}
    except FileNotFoundError:
        return "mean"
    except (OSError, ValueError, AttributeError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}.") from None
    if ways == {"mean_tokens"}:
        return "mean"
    if ways == {"cls_token"}:
        return "cls"
    raise ModelFileError(f"{path} asks for the pooling {', '.join(sorted(ways)) or 'none'}.", remedy="Only mean_tokens and cls_token are supported.")


def longest_of(folder: Path, config: dict[str, Any]) -> int:
    """Tokens of the longest text a model takes: sentence_bert_config.json's max_seq_length, else its positions, at most 512."""
    try:
        return int(json.loads((folder / "sentence_bert_config.json").read_text("utf-8"))["max_seq_length"])
    except (OSError, ValueError, KeyError, TypeError):
        return min(LONGEST_TOKENS, int(config.get("max_position_embeddings") or LONGEST_TOKENS))


def encoder(reference: Path, candidate: Path, sentences: Sequence[str], *, threads: int = 0) -> EncoderScore:
    """Compare two embedders on at least two sentences, each embedded alone, as questions come. Raises ModelFileError."""
    _enough(sentences)
    first, second = Runner(reference, threads), Runner(candidate, threads)
    ours, theirs = (np.concatenate([model.embed([text]) for text in sentences]) for model in (second, first))
    cosines = (ours * theirs).sum(axis=1)
    upper = np.triu_indices(len(sentences), 1)
    batched = np.concatenate([second.embed(sentences[at : at + 8]) for at in range(0, len(sentences), 8)])
    moved = (batched * ours).sum(axis=1)
    return EncoderScore(
        sentences=len(sentences),
        mean_cosine=float(cosines.mean()),
        min_cosine=float(cosines.min()),
        spearman=spearman((ours @ ours.T)[upper], (theirs @ theirs.T)[upper]),
        batched_mean_cosine=float(moved.mean()),
        batched_min_cosine=float(moved.min()),
        costs=_costs(first, second),
        speed=tuple(_speed(first.embed, second.embed, sentences, batch) for batch in (1, 8)),
    )


def classifier(reference: Path, candidate: Path, lines: Sequence[tuple[Any, int]], *, threads: int = 0) -> ClassifierScore:
    """Compare two classifiers on (text or pair of texts, number of the class). Raises ModelFileError."""
    _enough(lines)
    first, second = Runner(reference, threads), Runner(candidate, threads)
    texts, right = [text for text, _ in lines], np.array([label for _, label in lines])
    theirs, ours = (np.concatenate([model.classify([text]) for text in texts]) for model in (first, second))
    return ClassifierScore(
        lines=len(lines),
        accuracy=float((ours == right).mean()),
        reference_accuracy=float((theirs == right).mean()),
        agreement=float((ours == theirs).mean()),
        costs=_costs(first, second),
        speed=tuple(_speed(first.classify, second.classify, texts, batch) for batch in (1, 8)),
    )


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two rows of numbers without many ties."""
    ranks = [np.argsort(np.argsort(row)).astype(np.float64) for row in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def _enough(rows: Sequence[Any]) -> None:
    if len(rows) < 2:
        raise InvalidRequest(f"{len(rows)} texts are too few to compare models on.", remedy="Give at least two.")


def _costs(first: Runner, second: Runner) -> Costs:
    return Costs(first.size_bytes, second.size_bytes, second.size_bytes / first.size_bytes, first.load_s, second.load_s)


def _speed(first: Callable[[Any], Any], second: Callable[[Any], Any], texts: Sequence[Any], batch: int) -> Speed:
    """In turns; a turn is 8 batches, the same for both, each batch by one and then by the other."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(SPEED_TURNS):
        spent = [0.0, 0.0]
        for number in range(8):
            at = (turn * 8 + number) * batch % len(texts)
            part = [texts[(at + offset) % len(texts)] for offset in range(batch)]
            for which, run in enumerate((first, second)):
                began = time.perf_counter()
                run(part)
                spent[which] += time.perf_counter() - began
        for kept, value in zip(seconds, spent, strict=True):
            kept.append(value)
    rates = [8 * batch / statistics.median(kept) for kept in seconds]
    return Speed(batch, rates[0], rates[1], statistics.median(a / b for a, b in zip(*seconds, strict=True)))
